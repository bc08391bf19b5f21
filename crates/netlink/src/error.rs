//! A refusal by the kernel.

use std::fmt;

use nix::errno::Errno;

/// What the kernel answered instead of doing it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The error number of the refusal.
    pub errno: Errno,
    /// The kernel's own words (extended acknowledgement), where it gave any.
    pub text: Option<String>,
    /// Which of the requests of one [`crate::wire::Request`] was refused, counted from 0.
    pub request: usize,
}

impl Error {
    /// Whether the kernel answered with this error number.
    #[must_use]
    pub fn is(&self, errno: Errno) -> bool {
        self.errno == errno
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:?})", self.errno.desc().to_lowercase(), self.errno)?;
        match &self.text {
            Some(text) => write!(f, ", the kernel says: {text}"),
            None if self.is(Errno::EPERM) => f.write_str(
                ": has this process CAP_NET_ADMIN in the user namespace that the network namespace belongs to?",
            ),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        Self { errno, text: None, request: 0 }
    }
}
