//! Network namespaces: opening them by path, telling them apart, working inside one.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::statfs::{FsType, NSFS_MAGIC, PROC_SUPER_MAGIC, fstatfs};

/// Since Linux 5.14.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// Why a path does not lead into a network namespace.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nothing at the path.
    #[error("failed to open netns \"{}\": path does not exist", .0.display())]
    NotFound(PathBuf),
    /// There is a file, but it is no namespace (any more).
    #[error("failed to open netns \"{}\": {reason}", path.display())]
    NotANamespace {
        /// The path.
        path: PathBuf,
        /// What is there instead.
        reason: String,
    },
    /// There is one, but it may not be entered.
    #[error(
        "failed to enter netns \"{}\": operation not permitted (EPERM): it takes CAP_SYS_ADMIN, in the user namespace of \
         this process and in the one that the network namespace belongs to",
        path.display()
    )]
    NotAllowed {
        /// The path.
        path: PathBuf,
    },
    /// The system would not let us look.
    #[error("failed to {action} netns \"{}\": {source}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl Error {
    /// Whether there is no namespace at the path (any more). Otherwise there may be one, which could not be looked at.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::NotFound(_) | Self::NotANamespace { .. })
    }
}

/// An open network namespace, which lives at least as long as this value.
#[derive(Debug)]
pub struct NetNs {
    file: File,
    path: PathBuf,
}

impl NetNs {
    /// Opens the namespace at `path` (a bind mount, or a file below `/proc/<pid>`).
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref().to_owned();
        // A path that was a namespace may have become a FIFO (`/proc/<pid>/fd/<n>`), which must not be waited for.
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        let file = match File::options().read(true).custom_flags(flags).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Error::NotFound(path)),
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {
                return Err(Error::NotANamespace { path, reason: "the file is a socket or a device".to_owned() });
            }
            Err(source) => return Err(Error::Io { action: "open", path, source }),
        };
        let kind = match fstatfs(&file) {
            Ok(stat) => stat.filesystem_type(),
            Err(errno) => return Err(Error::Io { action: "inspect", path, source: errno.into() }),
        };
        // Kernels before 3.19 showed namespaces as files of procfs.
        if kind != NSFS_MAGIC && kind != PROC_SUPER_MAGIC {
            let FsType(magic) = kind;
            return Err(Error::NotANamespace {
                reason: format!(
                    "unknown FS magic on \"{}\": {magic:x}; the file is there, but no namespace is mounted on it \
                     (in this mount namespace)",
                    path.display()
                ),
                path,
            });
        }
        Ok(Self { file, path })
    }

    /// The calling thread's own namespace.
    pub fn current() -> Result<Self, Error> {
        Self::open("/proc/thread-self/ns/net")
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether both are the same namespace.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        match (self.file.metadata(), other.file.metadata()) {
            (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
            _ => false,
        }
    }

    /// Whether it is the calling thread's own.
    ///
    /// # Errors
    /// That it cannot be told: whoever would act on other namespaces alone has to leave this one.
    pub fn is_own(&self) -> Result<bool, Error> {
        let own = Self::current()?;
        let identity = |ns: &Self| match ns.file.metadata() {
            Ok(meta) => Ok((meta.dev(), meta.ino())),
            Err(source) => Err(Error::Io { action: "inspect", path: ns.path.clone(), source }),
        };
        Ok(identity(&own)? == identity(self)?)
    }

    /// The kernel's number of the namespace, never given twice in one boot (an inode number is); `None` where the
    /// kernel has none (before 5.14) or the namespace may not be entered.
    #[must_use]
    pub fn cookie(&self) -> Option<u64> {
        self.enter(own_cookie).ok().flatten()
    }

    /// Works inside the namespace: sockets opened by `work` belong to it, and so does `/proc/sys/net`.
    ///
    /// The thread is back in its own namespace afterwards, also if `work` panics. A thread that could not return
    /// must do nothing more in the wrong namespace, so the process ends then.
    pub fn enter<T>(&self, work: impl FnOnce() -> T) -> Result<T, Error> {
        let failed = |action, source: Errno| Error::Io { action, path: self.path.clone(), source: source.into() };
        let home = Self::current()?;
        setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(|errno| match errno {
            Errno::EPERM => Error::NotAllowed { path: self.path.clone() },
            Errno::EINVAL => {
                Error::NotANamespace { path: self.path.clone(), reason: "the file is no network namespace".to_owned() }
            }
            errno => failed("enter", errno),
        })?;
        let _return = Return(home);
        Ok(work())
    }
}

/// [`NetNs::cookie`] of the calling thread's own namespace.
#[must_use]
pub fn own_cookie() -> Option<u64> {
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).ok()?;
    let mut cookie = 0u64;
    let mut len = 8 as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, the size of the living u64 behind the pointer.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, (&raw mut cookie).cast(), &raw mut len)
    };
    (result == 0).then_some(cookie)
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Brings the thread home when dropped.
struct Return(NetNs);

impl Drop for Return {
    fn drop(&mut self) {
        if let Err(errno) = setns(&self.0.file, CloneFlags::CLONE_NEWNET) {
            crate::syslog::warn("fatal", format_args!("cannot return to the host's network namespace: {errno}"));
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_path_and_a_plain_file_are_told_apart() {
        assert!(matches!(NetNs::open("/nonexistent/netns"), Err(Error::NotFound(_))));
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = NetNs::open(file.path()).unwrap_err();
        assert!(matches!(error, Error::NotANamespace { .. }), "{error}");
        assert!(error.to_string().contains("unknown FS magic on"), "{error}");
    }

    #[test]
    fn a_descriptor_that_became_something_else_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
        let socket = PathBuf::from(format!("/proc/self/fd/{}", socket.as_raw_fd()));
        for path in [fifo, socket] {
            let error = NetNs::open(&path).unwrap_err();
            assert!(matches!(error, Error::NotANamespace { .. }), "{error}");
        }
    }

    #[test]
    fn a_file_of_proc_that_is_no_namespace_is_refused_on_entering() {
        let ns = NetNs::open("/proc/self/status").unwrap();
        assert!(ns.enter(|| ()).is_err());
    }

    #[test]
    fn the_own_namespace_is_itself() {
        let (a, b) = (NetNs::current().unwrap(), NetNs::open("/proc/self/ns/net").unwrap());
        assert!(a.is(&b));
        assert!(!a.is(&NetNs::open("/proc/self/ns/mnt").unwrap()));
    }
}
