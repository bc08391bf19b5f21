//! Single steps on the file system that the store is made of.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use host::fsutil;
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

use super::index::{Index, Time};
use super::reservation::FileStamp;
use super::{Error, io_error, stop};

/// Puts a time on the folder that nobody else will, and the same into the index.
///
/// The index first: should we die in between, the two differ.
pub(super) fn stamp(folder: &Path, index: &mut Index) -> io::Result<()> {
    // The present second keeps `ls -l` meaningful.
    let (seconds, _) = mtime(folder)?;
    let chosen = (seconds, i64::from(random() % 1_000_000_000));
    index.set_stamp(Some(chosen))?;
    stop::point("stamped");
    let time = TimeSpec::new(chosen.0, chosen.1);
    utimensat(AT_FDCWD, folder, &TimeSpec::UTIME_OMIT, &time, UtimensatFlags::FollowSymlink)?;
    // A file system with a coarser clock would hide others' changes.
    if mtime(folder)? != chosen {
        index.set_stamp(None)?;
    }
    Ok(())
}

/// When the folder was changed last.
pub(super) fn mtime(folder: &Path) -> io::Result<Time> {
    fs::metadata(folder).map(|meta| FileStamp::of(&meta).mtime)
}

/// Whether an address must be reserved the reference's way: our folder is on another file system, or this one has no
/// hard links.
pub(super) fn cannot_link(error: &io::Error) -> bool {
    use io::ErrorKind::{CrossesDevices, PermissionDenied, TooManyLinks, Unsupported};
    matches!(error.kind(), CrossesDevices | PermissionDenied | TooManyLinks | Unsupported)
}

/// The reference's way; `None` where the file is there already.
pub(super) fn write_exclusively(path: &Path, content: &str) -> Result<Option<FileStamp>, Error> {
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
        Err(error) => return Err(io_error("make", path, error)),
    };
    let written = file.write_all(content.as_bytes()).and_then(|()| file.metadata());
    let meta = written.map_err(|error| {
        let _ = fs::remove_file(path);
        io_error("write", path, error)
    })?;
    Ok(Some(FileStamp::of(&meta)))
}

/// Overwrites a small file without cutting it to nothing first: ext4 answers that with a flush when it is closed.
pub(super) fn write_in_place(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let file = fsutil::open_plain(path, options.write(true).create(true).truncate(false).mode(0o600))?;
    file.write_all_at(contents, 0)?;
    if file.metadata()?.len() != contents.len() as u64 {
        file.set_len(contents.len() as u64)?;
    }
    Ok(())
}

/// A number that nobody can expect: std's hash keys come from the kernel's random numbers.
fn random() -> u32 {
    use std::hash::{BuildHasher, Hasher};
    let bits = std::hash::RandomState::new().build_hasher().finish();
    u32::try_from(bits >> 32).unwrap_or_default()
}
