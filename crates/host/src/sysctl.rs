//! Kernel settings below `/proc/sys`, of the calling thread's network namespace where they have one.

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
        if self.get(name).is_ok_and(|present| present == value) {
            return Ok(());
        }
        self.overwrite(name, value)
    }

    /// Sets a value without looking: one system call less where it is known to differ.
    pub fn overwrite(&self, name: &str, value: &str) -> io::Result<()> {
        let write = || -> io::Result<()> { self.file(name, OFlag::O_WRONLY)?.write_all(value.as_bytes()) };
        write().map_err(|e| failed(self.path, name, e))
    }

    /// The present value, without the newline.
    pub fn get(&self, name: &str) -> io::Result<String> {
        let mut text = String::new();
        self.file(name, OFlag::O_RDONLY)?.read_to_string(&mut text).map_err(|e| failed(self.path, name, e))?;
        Ok(text.trim_end().to_owned())
    }

    fn file(&self, name: &str, mode: OFlag) -> io::Result<File> {
        let file: Result<OwnedFd, Errno> = openat(&self.fd, name, mode | OFlag::O_CLOEXEC, Mode::empty());
        Ok(File::from(file?))
    }
}

/// Sets a value unless it is set already. `path` is relative to `/proc/sys`, with slashes.
pub fn set(path: &str, value: &str) -> io::Result<()> {
    if get(path).is_ok_and(|present| present == value) {
        return Ok(());
    }
    overwrite(path, value)
}

/// Sets a value even if it is set already: some settings pass it on to all links each time they are written.
pub fn overwrite(path: &str, value: &str) -> io::Result<()> {
    std::fs::write(full(path), value).map_err(|e| failed(path, "", e))
}

/// The present value, without the newline.
pub fn get(path: &str) -> io::Result<String> {
    Ok(std::fs::read_to_string(full(path))?.trim_end().to_owned())
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
