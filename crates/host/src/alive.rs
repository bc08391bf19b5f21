//! Whether a process that was there is still there.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process;

/// A process, told from later ones of its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Its number in its namespace.
    pub pid: u32,
    /// When it began, in the kernel's ticks since the boot (`proc(5)`).
    pub start: u64,
    /// Inode number of the namespace that its number is of; 0, which none has, where that one's `/proc` is not at hand.
    pub namespace: u64,
}

impl Process {
    /// The process of this number; `None` if there is none. Where `/proc` does not tell, it is one of which nobody can
    /// ever tell whether it is still there.
    #[must_use]
    pub fn look(pid: u32) -> Option<Self> {
        match namespace() {
            Some(namespace) => Some(Self { pid, start: start_of(pid)?, namespace }),
            None => Some(Self { pid, start: 0, namespace: 0 }),
        }
    }

    /// Whether it is still there. `None`: it cannot be told, as its number is another namespace's than ours or
    /// `/proc`'s.
    #[must_use]
    pub fn is_alive(&self) -> Option<bool> {
        let is_visible = namespace()? == self.namespace;
        is_visible.then(|| start_of(self.pid) == Some(self.start))
    }
}

/// Our namespace, if `/proc` shows its numbers. In a container that was given the host's mounts it shows the host's, and
/// our numbers are those of other processes there.
fn namespace() -> Option<u64> {
    if fs::read_link("/proc/self").ok()? != Path::new(&process::id().to_string()) {
        return None;
    }
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
    use std::env;
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

    /// Runs itself as process 1 of a new namespace, with the `/proc` of this one.
    #[test]
    fn a_proc_of_another_namespace_tells_nothing() {
        const INSIDE: &str = "OXBRIDGE_TEST_INSIDE";
        if env::var_os(INSIDE).is_some() {
            let own = Process::look(id()).unwrap();
            assert_eq!(own, Process { pid: 1, start: 0, namespace: 0 });
            assert_eq!(own.is_alive(), None);
            let namespace = fs::metadata("/proc/self/ns/pid").unwrap().ino();
            assert_eq!(Process { namespace, ..own }.is_alive(), None, "recorded where /proc was the right one");
            return;
        }
        let unshare = || {
            let mut command = Command::new("unshare");
            command.args(["--pid", "--fork"]);
            command
        };
        if env::var_os("OXBRIDGE_EMULATOR").is_some()
            || !unshare().arg("true").output().is_ok_and(|o| o.status.success())
        {
            println!("skipped: making PID namespaces needs root and the real kernel");
            return;
        }
        let test = "alive::tests::a_proc_of_another_namespace_tells_nothing";
        let inside =
            unshare().arg(env::current_exe().unwrap()).args(["--exact", test]).env(INSIDE, "1").output().unwrap();
        let said = String::from_utf8_lossy(&inside.stdout);
        assert!(inside.status.success() && said.contains("1 passed"), "{said}");
    }
}
