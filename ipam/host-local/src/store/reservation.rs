//! A reservation: the file `<dataDir>/<network>/<ip>` that says who has the address.
//!
//! Its form is the reference's, byte for byte, because both suites may run on one node: `<container id>\r\n<ifname>`,
//! or the container id alone as early releases wrote it.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::libc;
use serde::{Deserialize, Serialize};

/// Who has an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) container_id: String,
    /// `None` in a file of the old format.
    pub(crate) ifname: Option<String>,
}

/// What tells one file of a name from the next: others may free an address and reserve it anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileStamp {
    pub(crate) inode: u64,
    /// Time of the last change of its contents: seconds and nanoseconds.
    pub(crate) mtime: (i64, i64),
}

/// What a reservation file was found to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    Owner(Owner),
    /// Empty or cut off: someone died while writing it. Under the lock it is nobody's.
    Torn,
    /// Not a file that a plugin makes (a folder, a symbolic link …): kept, whoever's it is.
    Foreign(String),
    /// The system could not read it, for this reason: kept, whoever's it is.
    Unreadable(String),
}

/// A reservation file, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reservation {
    pub(crate) stamp: FileStamp,
    pub(crate) content: Content,
}

/// What is longer is no reservation, and is not made one.
const MAX_LENGTH: u64 = 4096;
const MAX_IFNAME: usize = 15;

impl Owner {
    pub(crate) fn new(container_id: &str, ifname: &str) -> Self {
        Self { container_id: container_id.to_owned(), ifname: Some(ifname.to_owned()) }
    }

    /// The file's contents, and what the index knows the owner by.
    pub(crate) fn content(&self) -> String {
        match &self.ifname {
            Some(ifname) => format!("{}\r\n{ifname}", self.container_id),
            None => self.container_id.clone(),
        }
    }

    /// Whether its file could be read back.
    pub(crate) fn is_too_long(&self) -> bool {
        self.content().len() as u64 > MAX_LENGTH
    }

    /// The same container as a file of the old format names it.
    pub(crate) fn old_format(&self) -> Self {
        Self { container_id: self.container_id.clone(), ifname: None }
    }

    /// White space around the contents counts for nothing, as with the reference.
    fn parse(contents: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(contents).ok()?.trim();
        let (id, ifname) = match text.split_once("\r\n") {
            Some((id, ifname)) => (id, Some(ifname)),
            None => (text, None),
        };
        let valid = is_container_id(id) && ifname.is_none_or(is_ifname);
        valid.then(|| Self { container_id: id.to_owned(), ifname: ifname.map(str::to_owned) })
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.ifname {
            Some(ifname) => write!(f, "{} {ifname}", self.container_id),
            None => f.write_str(&self.container_id),
        }
    }
}

impl FileStamp {
    pub(crate) fn of(meta: &std::fs::Metadata) -> Self {
        Self { inode: meta.ino(), mtime: (meta.mtime(), meta.mtime_nsec()) }
    }
}

/// Reads the file; `None`: there is none.
pub(crate) fn read(path: &Path) -> io::Result<Option<Reservation>> {
    // Neither through a link out of the store, nor waiting for the writer of a FIFO.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        // EXDEV, ELOOP, EACCES, EIO: something is there.
        Err(error) => {
            let meta = match std::fs::symlink_metadata(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                other => other?,
            };
            let content = if meta.is_file() { Content::Unreadable } else { Content::Foreign };
            return Ok(Some(Reservation { stamp: FileStamp::of(&meta), content: content(error.to_string()) }));
        }
    };
    let meta = file.metadata()?;
    let stamp = FileStamp::of(&meta);
    if !meta.is_file() {
        return Ok(Some(Reservation { stamp, content: Content::Foreign("not a plain file".to_owned()) }));
    }
    if meta.len() > MAX_LENGTH {
        return Ok(Some(Reservation { stamp, content: Content::Foreign(format!("{} bytes long", meta.len())) }));
    }
    let mut contents = Vec::with_capacity(128);
    let content = match file.take(MAX_LENGTH).read_to_end(&mut contents) {
        Ok(_) => Owner::parse(&contents).map_or(Content::Torn, Content::Owner),
        Err(error) => Content::Unreadable(error.to_string()),
    };
    Ok(Some(Reservation { stamp, content }))
}

/// The address that a file of this name reserves; `None` for every other file, and for a spelling that no plugin writes.
pub(crate) fn address_of(name: &std::ffi::OsStr) -> Option<IpAddr> {
    let name = name.to_str()?;
    // Everything else in the folder ("lock", "last_reserved_ip.0") and most of the work ends here.
    if !name.starts_with(|c: char| c.is_ascii_hexdigit() || c == ':') {
        return None;
    }
    let ip: IpAddr = name.parse().ok()?;
    // Go, and with it every suite, writes an IPv4-mapped address as the IPv4 address it is.
    (ip.to_canonical().to_string() == name).then_some(ip)
}

/// CNI spec 1.1.0: a letter or digit, then letters, digits, `_`, `.`, `-`.
fn is_container_id(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn is_ifname(text: &str) -> bool {
    (1..=MAX_IFNAME).contains(&text.len())
        && !matches!(text, "." | "..")
        && !text.contains(|c: char| matches!(c, '/' | ':' | '\0') || c.is_whitespace())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn contents() {
        let owner = |id: &str, ifname: Option<&str>| {
            Some(Owner { container_id: id.to_owned(), ifname: ifname.map(str::to_owned) })
        };
        let cases: [(&[u8], Option<Owner>); 13] = [
            (b"c1\r\neth0", owner("c1", Some("eth0"))),
            (b" c1\r\neth0\n", owner("c1", Some("eth0"))),
            (b"c1", owner("c1", None)),
            (b"c1\n", owner("c1", None)),
            (b"c1\r\n", owner("c1", None)),
            (b"", None),
            (b" \n", None),
            (b"-c1\r\neth0", None),
            (b"c1\neth0", None),
            (b"c1\r\neth0\r\nx", None),
            (b"c1\r\na-name-too-long0", None),
            (b"c1\r\ne/0", None),
            (b"c\xff\r\neth0", None),
        ];
        for (bytes, expected) in cases {
            assert_eq!(Owner::parse(bytes), expected, "{}", bytes.escape_ascii());
        }
        assert_eq!(Owner::new("c1", "eth0").content().as_bytes(), b"c1\r\neth0");
    }

    #[test]
    fn only_canonical_names_are_addresses() {
        let ip = |name: &str| address_of(std::ffi::OsStr::new(name)).map(|ip| ip.to_string());
        for name in ["10.0.0.1", "fd00::1", "::"] {
            assert_eq!(ip(name).as_deref(), Some(name));
        }
        for name in [
            "lock",
            "last_reserved_ip.0",
            "10.0.0.01",
            "fd00:0::1",
            "FD00::1",
            "10.0.0.1.tmp",
            "",
            "fe80::1%eth0",
            "::ffff:10.0.0.1",
        ] {
            assert_eq!(ip(name), None, "{name}");
        }
    }

    #[test]
    fn what_is_no_plain_file_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("real"), "c1\r\neth0").unwrap();
        symlink(path("real"), path("link")).unwrap();
        fs::create_dir(path("folder")).unwrap();
        fs::write(path("long"), vec![b'a'; 5000]).unwrap();
        fs::write(path("empty"), "").unwrap();
        for name in ["link", "folder", "long"] {
            let read = read(&path(name)).unwrap().unwrap();
            assert!(matches!(read.content, Content::Foreign(_)), "{name}: {read:?}");
        }
        assert_eq!(read(&path("empty")).unwrap().unwrap().content, Content::Torn);
        assert_eq!(read(&path("none")).unwrap(), None);
        let real = read(&path("real")).unwrap().unwrap();
        assert_eq!(real.stamp, FileStamp::of(&fs::metadata(path("real")).unwrap()));
    }
}
