//! Network namespaces without names: they end with this process, whatever happens.

use nix::sched::{CloneFlags, setns, unshare};
use std::{fs::File, io, os::fd::AsRawFd, process, thread};

/// A network namespace, kept alive by the open file.
pub(crate) struct NetNs {
    file: File,
}

impl NetNs {
    /// Makes an empty one. The calling thread stays where it is.
    pub(crate) fn new() -> io::Result<Self> {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        });
        let file = made.join().map_err(|_| io::Error::other("the thread that makes a namespace panicked"))??;
        Ok(Self { file })
    }

    /// Makes `count` of them.
    pub(crate) fn many(count: usize) -> io::Result<Vec<Self>> {
        (0..count).map(|_| Self::new()).collect()
    }

    /// A path by which children find it (as `CNI_NETNS`).
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", process::id(), self.file.as_raw_fd())
    }

    /// Moves the calling thread, and so the programs it starts from now on, into it.
    pub(crate) fn enter(&self) -> io::Result<()> {
        Ok(setns(&self.file, CloneFlags::CLONE_NEWNET)?)
    }
}
