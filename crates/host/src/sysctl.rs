//! Kernel settings below `/proc/sys`, of the calling thread's network namespace where they have one.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;

/// A folder of settings, of the namespace in which it was opened, wherever the thread is later.
///
/// Opening one costs the more the more network namespaces there are (the kernel keeps the folders of all of them under
/// one name and looks through them); the settings in it cost the same always.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: &'static str,
}

impl Dir {
    /// Opens a folder, e.g. `net/ipv6/conf`. Not found: this kernel has no such settings.
    pub fn open(path: &'static str) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = open(full(path).as_str(), flags, Mode::empty()).map_err(|e| failed(path, "", e.into()))?;
        Ok(Self { fd, path })
    }

    /// Sets a value unless it is set already: reading first spares a read-only `/proc/sys` (containers, rootless) that
    /// says the right thing as it is.
    pub fn set(&self, name: &str, value: &str) -> io::Result<()> {
        match self.get(name) {
            Ok(present) if present == value => Ok(()),
            present => self.write(name, value).map_err(|e| failed(self.path, name, unlike(present, value, &e))),
        }
    }

    /// Sets a value without looking: one system call less where it is known to differ.
    pub fn overwrite(&self, name: &str, value: &str) -> io::Result<()> {
        self.write(name, value).map_err(|e| failed(self.path, name, e))
    }

    /// Sets a value that can be done without: `None` if it is so now, or if this kernel has no such setting.
    #[must_use = "somebody has to be told"]
    pub fn attempt(&self, name: &str, value: &str) -> Option<Refused> {
        let reason = self.write(name, value).err().filter(|e| e.kind() != io::ErrorKind::NotFound)?;
        let present = self.get(name).ok();
        let path = format!("{}/{name}", self.path);
        (present.as_deref() != Some(value)).then(|| Refused { path, present, wanted: value.to_owned(), reason })
    }

    /// The present value, without the newline.
    pub fn get(&self, name: &str) -> io::Result<String> {
        let mut text = String::new();
        self.file(name, OFlag::O_RDONLY)?.read_to_string(&mut text).map_err(|e| failed(self.path, name, e))?;
        Ok(text.trim_end().to_owned())
    }

    fn write(&self, name: &str, value: &str) -> io::Result<()> {
        self.file(name, OFlag::O_WRONLY)?.write_all(value.as_bytes())
    }

    fn file(&self, name: &str, mode: OFlag) -> io::Result<File> {
        let file: Result<OwnedFd, Errno> = openat(&self.fd, name, mode | OFlag::O_CLOEXEC, Mode::empty());
        Ok(File::from(file?))
    }
}

/// A setting that stays as it is, as it may not be written: `/proc/sys` is read-only in many containers, and some settings
/// belong to the machine.
#[derive(Debug)]
pub struct Refused {
    path: String,
    present: Option<String>,
    wanted: String,
    reason: io::Error,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, present, wanted, reason } = self;
        let present = present.as_deref().unwrap_or("as it is");
        write!(f, "{} stays {present} and should be {wanted}: {reason}", full(path))
    }
}

/// Sets a value unless it is set already. `path` is relative to `/proc/sys`, with slashes.
pub fn set(path: &str, value: &str) -> io::Result<()> {
    match get(path) {
        Ok(present) if present == value => Ok(()),
        present => std::fs::write(full(path), value).map_err(|e| failed(path, "", unlike(present, value, &e))),
    }
}

/// Sets a value even if it is set already: some settings pass it on to all links each time they are written.
pub fn overwrite(path: &str, value: &str) -> io::Result<()> {
    std::fs::write(full(path), value).map_err(|e| failed(path, "", e))
}

/// The present value, without the newline.
pub fn get(path: &str) -> io::Result<String> {
    Ok(std::fs::read_to_string(full(path))?.trim_end().to_owned())
}

/// The error of a value that should be another.
fn unlike(present: io::Result<String>, wanted: &str, error: &io::Error) -> io::Error {
    match present {
        Ok(present) => io::Error::new(error.kind(), format!("cannot set {present} to {wanted}: {error}")),
        Err(error) => error,
    }
}

fn failed(path: &str, name: &str, error: io::Error) -> io::Error {
    let separator = if name.is_empty() { "" } else { "/" };
    io::Error::new(error.kind(), format!("{}{separator}{name}: {error}", full(path)))
}

fn full(path: &str) -> String {
    format!("/proc/sys/{path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_is_named_with_both_values() {
        // Nobody may write it, root neither.
        let (dir, name) = (Dir::open("net/ipv4").unwrap(), "tcp_available_congestion_control");
        let present = dir.get(name).unwrap();
        assert_eq!(
            dir.attempt(name, "none").unwrap().to_string(),
            format!("/proc/sys/net/ipv4/{name} stays {present} and should be none: Permission denied (os error 13)")
        );
        assert!(dir.attempt(name, &present).is_none());
        assert!(dir.attempt("nothing", "1").is_none());
    }

    #[test]
    fn what_a_folder_says_is_what_the_file_says() {
        let dir = Dir::open("net/ipv4/conf").unwrap();
        assert_eq!(dir.get("all/rp_filter").unwrap(), get("net/ipv4/conf/all/rp_filter").unwrap());
        // Already so: nothing is written, which this test may not.
        dir.set("all/rp_filter", &dir.get("all/rp_filter").unwrap()).unwrap();
        let error = dir.overwrite("nothing/rp_filter", "0").unwrap_err();
        assert!(error.to_string().starts_with("/proc/sys/net/ipv4/conf/nothing/rp_filter: "), "{error}");
        assert!(Dir::open("net/nothing").unwrap_err().kind() == io::ErrorKind::NotFound);
    }
}
