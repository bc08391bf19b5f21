//! Which process has a socket: for a message, never for a decision.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Looking through `/proc` ends after this long: with thousands of processes it is not worth a pod's waiting.
const PATIENCE: Duration = Duration::from_millis(200);

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its number.
    pub pid: u32,
    /// Its name, as `ps -o comm` shows it.
    pub name: String,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

/// The first process found that has the socket of this inode open; `None` if none was found in time, it may not be
/// looked into, or is not in sight of `/proc`.
#[must_use]
pub fn of(inode: u32) -> Option<Holder> {
    let (wanted, deadline) = (format!("socket:[{inode}]"), Instant::now() + PATIENCE);
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes
        .take_while(|_| Instant::now() < deadline)
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
        .find(|(_, path)| has_open(path, &wanted, deadline))
        .map(|(pid, path)| Holder { pid, name: name(&path) })
}

fn has_open(process: &Path, wanted: &str, deadline: Instant) -> bool {
    let Ok(files) = fs::read_dir(process.join("fd")) else { return false };
    files
        .flatten()
        .take_while(|_| Instant::now() < deadline)
        .any(|file| fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == wanted))
}

fn name(process: &Path) -> String {
    fs::read_to_string(process.join("comm")).map_or_else(|_| "?".to_owned(), |text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::{AsRawFd, OwnedFd};

    use super::*;

    #[test]
    fn the_process_of_a_socket_is_found_by_its_inode() {
        let socket = OwnedFd::from(UdpSocket::bind("127.0.0.1:0").unwrap());
        let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        let inode = link.to_str().unwrap().trim_start_matches("socket:[").trim_end_matches(']').parse().unwrap();
        let holder = of(inode).unwrap();
        assert_eq!(holder.pid, std::process::id());
        assert!(holder.to_string().contains(&format!("(pid {})", holder.pid)));
        drop(socket);
        assert_eq!(of(inode), None);
    }
}
