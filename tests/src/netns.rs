//! Network namespaces without names, and how to do things in one.

use std::{
    fs::File,
    io::Read,
    os::fd::AsRawFd,
    panic,
    process::{self, Child, Command, Stdio},
    thread,
};

use nix::{
    sched::{CloneFlags, setns, unshare},
    sys::stat::fstat,
};
use serde_json::Value;

use crate::Host;

/// Where things can be done: a pod's namespace, or the host's with its mounts.
pub trait Place: Sync {
    /// Moves the calling thread there. It is of no use for anything else then.
    fn move_thread(&self);

    /// The words before a command, if it is not to be run by the machine's own root.
    fn wrapper(&self) -> Vec<String> {
        Vec::new()
    }

    /// Runs `f` there, on a thread of its own; the processes it starts are there as well.
    fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            self.move_thread();
            f()
        };
        thread::scope(|s| s.spawn(inside).join()).unwrap_or_else(|cause| panic::resume_unwind(cause))
    }

    /// Runs a command there, given as words, and returns what it prints.
    ///
    /// # Panics
    /// When it fails.
    fn run(&self, line: &str) -> String {
        self.try_run(line).unwrap_or_else(|error| panic!("`{line}`: {error}"))
    }

    /// Runs a command there, given as words. Error: what it prints to stderr.
    fn try_run(&self, line: &str) -> Result<String, String> {
        let wrapper = self.wrapper();
        let mut words = wrapper.iter().map(String::as_str).chain(line.split_whitespace());
        let mut command = Command::new(words.next().unwrap());
        command.args(words);
        self.enter(|| {
            let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
        })
    }

    /// Gives a link another name, down for the moment where kernels want that (before 6.2).
    fn rename(&self, link: &str, name: &str) {
        if self.try_run(&format!("ip link set dev {link} name {name}")).is_err() {
            self.run(&format!("ip link set dev {link} down"));
            self.run(&format!("ip link set dev {link} name {name}"));
            self.run(&format!("ip link set dev {name} up"));
        }
    }

    /// Runs a command there that prints JSON; `[]` where it prints nothing.
    fn json(&self, line: &str) -> Value {
        let text = self.run(line);
        if text.trim().is_empty() { Value::Array(Vec::new()) } else { serde_json::from_str(&text).unwrap() }
    }

    /// The file's text there, without white space around it; `None` if it cannot be read.
    fn read(&self, path: &str) -> Option<String> {
        self.enter(|| {
            let mut text = String::new();
            File::open(path).and_then(|mut file| file.read_to_string(&mut text)).ok()?;
            Some(text.trim().to_owned())
        })
    }

    /// What `ip -d -j address` says of a link there; `None` if there is no such link.
    fn link(&self, name: &str) -> Option<Value> {
        let text = self.try_run(&format!("ip -d -j address show dev {name}")).ok()?;
        serde_json::from_str::<Value>(&text).unwrap().get(0).cloned()
    }
}

/// A network namespace; it ends with this value, or with the last process in it.
pub struct NetNs {
    file: File,
}

impl NetNs {
    /// A new one, with `lo` down and nothing else.
    #[allow(clippy::new_without_default, reason = "it asks the kernel for something")]
    pub fn new() -> Self {
        let file = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("making a network namespace needs root");
            Self::current()
        });
        file.join().unwrap_or_else(|cause| panic::resume_unwind(cause))
    }

    /// The calling thread's.
    pub fn current() -> Self {
        Self::of(File::open("/proc/thread-self/ns/net").unwrap())
    }

    /// That of an open file.
    pub fn of(file: File) -> Self {
        Self { file }
    }

    /// The one that has this path, where the calling thread is.
    pub fn open(path: &str) -> Self {
        Self { file: File::open(path).unwrap_or_else(|error| panic!("{path}: {error}")) }
    }

    /// A path by which every process of the machine can open it while this value lives.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", process::id(), self.file.as_raw_fd())
    }

    /// The inode by which it is told from others that exist at the same time.
    pub fn inode(&self) -> u64 {
        fstat(&self.file).unwrap().st_ino
    }
}

/// A process with a network namespace of its own, as a container's first one; it ends with this value.
pub struct Process(Child);

impl Process {
    /// Started on this host, by its root; with these other namespaces of its own (`--user`).
    pub fn with_netns(host: &Host, others: &[&str]) -> Self {
        let wrapper = host.wrapper();
        let unshare = [&["unshare", "--net"], others, &["sh", "-c", "echo; read _"]].concat();
        let mut words = wrapper.iter().map(String::as_str).chain(unshare);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = host.enter(|| command.spawn().unwrap());
        // Says that it is there.
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        Self(child)
    }

    /// The path of its namespace while it lives.
    pub fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }

    /// Its namespace.
    pub fn netns(&self) -> NetNs {
        NetNs::of(File::open(self.path()).unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It reads to the end.
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

impl Place for NetNs {
    fn move_thread(&self) {
        setns(&self.file, CloneFlags::CLONE_NEWNET).unwrap();
    }
}
