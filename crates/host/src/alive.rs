//! Whether a process that was there is still there.

use std::fs;
use std::os::unix::fs::MetadataExt;

/// A process, told from later ones of its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Its number in its namespace.
    pub pid: u32,
    /// When it began, in the kernel's ticks since the boot (`proc(5)`).
    pub start: u64,
    /// Inode number of the namespace that its number is of.
    pub namespace: u64,
}

impl Process {
    /// The process of this number; `None` if there is none, or `/proc` does not tell.
    #[must_use]
    pub fn look(pid: u32) -> Option<Self> {
        Some(Self { pid, start: start_of(pid)?, namespace: namespace()? })
    }

    /// Whether it is still there. `None`: it cannot be told, as its number is another namespace's.
    #[must_use]
    pub fn is_alive(&self) -> Option<bool> {
        let is_visible = namespace()? == self.namespace;
        is_visible.then(|| start_of(self.pid) == Some(self.start))
    }
}

fn namespace() -> Option<u64> {
    fs::metadata("/proc/self/ns/pid").ok().map(|meta| meta.ino())
}

/// One that has ended and is not yet waited for counts as gone.
fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may have any characters; the state follows it, and the 22nd field of all is wanted.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") { None } else { fields.nth(18)?.parse().ok() }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, id};

    use super::*;

    #[test]
    fn a_process_is_there_until_it_has_ended() {
        assert_eq!(Process::look(id()).unwrap().is_alive(), Some(true));
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::look(child.id()).unwrap();
        assert_eq!(process.is_alive(), Some(true));
        assert_eq!(
            Process { start: process.start + 1, ..process }.is_alive(),
            Some(false),
            "its number is another's by now"
        );
        assert_eq!(Process { namespace: 1, ..process }.is_alive(), None);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(process.is_alive(), Some(false));
        assert_eq!(Process::look(process.pid), None);
    }
}
