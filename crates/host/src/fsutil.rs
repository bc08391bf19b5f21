//! Small file-system operations that std lacks.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use nix::libc;
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};

/// Makes a new file `path` with `mode` (less the umask) holding `contents`, and returns it still open.
///
/// A file of that name is removed first, never written into: it may be a leftover that has another name by now.
/// Nothing stays behind when the contents cannot be written.
pub fn write_new(path: &Path, contents: &[u8], mode: u32) -> io::Result<File> {
    let create = || OpenOptions::new().read(true).write(true).create_new(true).mode(mode).open(path);
    let mut file = match create() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            create()?
        }
        other => other?,
    };
    if let Err(error) = file.write_all(contents) {
        let _ = fs::remove_file(path);
        return Err(error);
    }
    Ok(file)
}

/// Replaces `path` whole: a reader sees the old contents or the new, never a part. `temporary` is a name on the same
/// file system that nobody else uses meanwhile; it is gone afterwards.
pub fn replace(path: &Path, temporary: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    write_new(temporary, contents, mode)?;
    fs::rename(temporary, path).inspect_err(|_| {
        let _ = fs::remove_file(temporary);
    })
}

/// Whether the error of a look at a file says that nothing is there, nor can be: a part of the path is missing, is no
/// folder, is longer than names can be, leads round in a circle, or has a NUL in it.
pub fn is_missing(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidFilename, InvalidInput, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory | InvalidFilename | InvalidInput)
        || error.raw_os_error() == Some(libc::ELOOP)
}

/// No file that somebody else writes for us comes near it, in bytes.
const MAX_LENGTH: u64 = 1 << 20;

/// The contents of a small file that somebody else writes, where a symbolic link leads to it as well. What is no plain
/// file (a FIFO would make us wait) or longer than 1 MiB is an error.
pub fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a plain file"));
    }
    let mut contents = Vec::with_capacity(512);
    file.take(MAX_LENGTH + 1).read_to_end(&mut contents)?;
    if contents.len() as u64 > MAX_LENGTH {
        return Err(io::Error::other("it is longer than 1 MiB"));
    }
    Ok(contents)
}

/// Opens a plain file and nothing else: neither what a symbolic link leads to, nor a FIFO, which would make us wait.
/// `options` say what for.
pub fn open_plain(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let file = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
    match file {
        Ok(file) if file.metadata()?.is_file() => Ok(file),
        Err(error) if fs::symlink_metadata(path).map_or(true, |meta| meta.is_file()) => Err(error),
        _ => Err(io::Error::other("it is not a plain file")),
    }
}

/// Removes a file; one that is already gone, or can never have been, is a success. Returns whether it was there.
pub fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        // A read-only file system refuses before it looks.
        Err(_) if fs::symlink_metadata(path).is_err_and(|error| is_missing(&error)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes a folder and its parents, all with `mode` (less the umask).
pub fn make_dirs(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(path)
}

/// Why no file could be made in a folder.
#[derive(Debug)]
pub struct Unwritable {
    /// What is wrong, and where.
    pub reason: String,
    /// What an operator can do, as in "remount it".
    pub remedy: &'static str,
}

/// Whether files could be made in the folder, or, where it does not exist, in the nearest of its parents that does.
/// Nothing is made to find out.
pub fn writable(folder: &Path) -> Result<(), Unwritable> {
    let there = folder.ancestors().find(|path| fs::symlink_metadata(path).is_ok()).unwrap_or_else(|| Path::new("."));
    let shown = there.display();
    let problem = |reason, remedy| Err(Unwritable { reason, remedy });
    if !there.is_dir() {
        return problem(format!("{shown} is not a folder"), "remove it");
    }
    if let Err(errno) = access(there, AccessFlags::W_OK | AccessFlags::X_OK) {
        return problem(format!("{shown} is not writable: {}", errno.desc()), "remount it");
    }
    match statvfs(there) {
        Ok(fs) if fs.blocks_available() == 0 && fs.blocks() > 0 => {
            problem(format!("the file system of {shown} is full"), "free some space")
        }
        Ok(fs) if fs.files_available() == 0 && fs.files() > 0 => {
            problem(format!("the file system of {shown} has no inodes left"), "remove files from it")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leftover_with_a_second_name_is_not_written_into() {
        let dir = tempfile::tempdir().unwrap();
        let (new, linked) = (dir.path().join("new"), dir.path().join("linked"));
        write_new(&new, b"first", 0o600).unwrap();
        fs::hard_link(&new, &linked).unwrap();
        write_new(&new, b"second", 0o600).unwrap();
        assert_eq!((fs::read(&new).unwrap(), fs::read(&linked).unwrap()), (b"second".to_vec(), b"first".to_vec()));
    }

    #[test]
    fn only_plain_files_are_opened_as_such() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("file"), "").unwrap();
        std::os::unix::fs::symlink(path("file"), path("link")).unwrap();
        std::os::unix::fs::symlink(path("none"), path("dangling")).unwrap();
        nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs::create_dir(path("folder")).unwrap();
        for create in [false, true] {
            let open = |name: &str| {
                open_plain(&path(name), OpenOptions::new().read(true).write(create).create(create)).map(drop)
            };
            open("file").unwrap();
            for name in ["link", "dangling", "fifo", "folder"] {
                assert!(open(name).unwrap_err().to_string().contains("not a plain file"), "{name}");
            }
            assert_eq!(open("new").is_ok(), create);
        }
        assert!(!path("none").exists());
    }

    #[test]
    fn what_is_read_is_a_small_plain_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("file"), "text").unwrap();
        std::os::unix::fs::symlink("file", path("link")).unwrap();
        assert_eq!(read_small(&path("link")).unwrap(), b"text");
        File::create(path("long")).unwrap().set_len(MAX_LENGTH + 1).unwrap();
        nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        for (name, expected) in [("long", "1 MiB"), ("fifo", "plain file"), ("", "plain file")] {
            assert!(read_small(&path(name)).unwrap_err().to_string().contains(expected), "{name}");
        }
        assert_eq!(read_small(&path("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn replace_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let (path, new) = (dir.path().join("f"), dir.path().join("new"));
        fs::write(&path, b"old").unwrap();
        replace(&path, &new, b"text", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"text");
        assert!(!new.exists());
        fs::create_dir(dir.path().join("d")).unwrap();
        assert!(replace(&dir.path().join("d"), &new, b"text", 0o600).is_err());
        assert!(!new.exists());
        assert!(remove(&path).unwrap());
        assert!(!remove(&path).unwrap());
        fs::write(&path, "").unwrap();
        for never in [path.join("x"), dir.path().join("n".repeat(300)), dir.path().join("x\0y")] {
            assert!(!remove(&never).unwrap(), "{never:?}");
        }
        assert!(remove(&dir.path().join("d")).is_err());
    }
}
