//! One call of a plugin, as a runtime makes it.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    io::{self, Read, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sched::{CloneFlags, unshare},
    sys::signal::{Signal, kill, killpg},
    unistd::{Pid, chdir, chroot},
};
use serde_json::Value;

use crate::{Host, Place, Pod, host::Lost, settings};

/// A plugin that takes longer is stuck: it is killed, and its test fails.
const STUCK: Duration = Duration::from_secs(25);

/// A call that is being put together. Starts as: every variable that ADD needs is set, no config.
pub struct Call<'h> {
    host: &'h Host,
    program: PathBuf,
    wrapper: Vec<String>,
    env: BTreeMap<String, String>,
    stdin: Vec<u8>,
    stdout: Option<Stdio>,
    root: Option<PathBuf>,
    signal: Option<(Signal, Box<dyn Fn() -> bool + Send + 'h>)>,
    limit: Duration,
}

impl<'h> Call<'h> {
    /// The plugin of this name in the folder, which is its `CNI_PATH` too.
    pub fn new(host: &'h Host, folder: &Path, name: &str) -> Self {
        let variables = [
            ("CNI_CONTAINERID", "pod"),
            ("CNI_NETNS", "/run/netns/pod"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", folder.to_str().unwrap()),
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ];
        Self {
            host,
            program: folder.join(name),
            wrapper: Vec::new(),
            env: variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            stdin: Vec::new(),
            stdout: None,
            root: None,
            signal: None,
            limit: STUCK * settings::slowness(),
        }
    }

    /// `CNI_COMMAND`.
    pub fn verb(self, verb: &str) -> Self {
        self.env("CNI_COMMAND", verb)
    }

    /// Who is to be attached, and where.
    pub fn pod(self, pod: &Pod) -> Self {
        self.id(&pod.id).netns(&pod.path).ifname(&pod.ifname)
    }

    /// Who was attached, and is gone.
    pub fn lost(self, pod: &Lost) -> Self {
        self.id(&pod.id).netns(&pod.path).ifname(&pod.ifname)
    }

    /// `CNI_CONTAINERID`.
    pub fn id(self, id: &str) -> Self {
        self.env("CNI_CONTAINERID", id)
    }

    /// `CNI_NETNS`.
    pub fn netns(self, path: &str) -> Self {
        self.env("CNI_NETNS", path)
    }

    /// `CNI_IFNAME`.
    pub fn ifname(self, name: &str) -> Self {
        self.env("CNI_IFNAME", name)
    }

    /// `CNI_ARGS`.
    pub fn args(self, args: &str) -> Self {
        self.env("CNI_ARGS", args)
    }

    /// Sets a variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Unsets a variable.
    pub fn without(mut self, name: &str) -> Self {
        self.env.remove(name);
        self
    }

    /// The config, as a document.
    pub fn config(self, config: &Value) -> Self {
        self.stdin(config.to_string())
    }

    /// The config with the result of ADD in it, as later verbs get it.
    pub fn config_with(self, config: &Value, result: &Value) -> Self {
        self.config(&crate::config::with(config, serde_json::json!({ "prevResult": result })))
    }

    /// Standard input, as bytes.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Where standard output goes, instead of into the [`Reply`].
    pub fn stdout(mut self, file: impl Into<Stdio>) -> Self {
        self.stdout = Some(file.into());
        self
    }

    /// Another file is the plugin (a path as the plugin's process sees it).
    pub fn program(mut self, path: impl Into<PathBuf>) -> Self {
        self.program = path.into();
        self
    }

    /// Runs it by another program, as `strace …`.
    pub fn under(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// Runs it with this folder (of the host) as its root.
    pub fn chroot(mut self, root: impl Into<PathBuf>) -> Self {
        self.root = Some(root.into());
        self
    }

    /// How long it may take, where that is more than usual.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Sends it a signal once the condition holds.
    pub fn signal(mut self, signal: Signal, when: impl Fn() -> bool + Send + 'h) -> Self {
        self.signal = Some((signal, Box::new(when)));
        self
    }

    /// ADD.
    pub fn add(self) -> Reply {
        self.verb("ADD").run()
    }

    /// DEL.
    pub fn del(self) -> Reply {
        self.verb("DEL").run()
    }

    /// CHECK.
    pub fn check(self) -> Reply {
        self.verb("CHECK").run()
    }

    /// Makes the call and waits for its end.
    pub fn run(mut self) -> Reply {
        let wrapper = [self.host.wrapper(), self.wrapper].concat();
        let mut argv = wrapper.iter().map(Path::new).chain([self.program.as_path()]);
        let mut command = Command::new(argv.next().unwrap());
        command.args(argv).env_clear().envs(&self.env);
        command.stdin(Stdio::piped()).stderr(Stdio::piped()).stdout(self.stdout.take().unwrap_or_else(Stdio::piped));
        let (host, root, stdin, signal, limit) = (self.host, self.root, self.stdin, self.signal, self.limit);
        host.enter(move || {
            if let Some(root) = root {
                unshare(CloneFlags::CLONE_FS).unwrap();
                chroot(&root).unwrap();
                chdir("/").unwrap();
            }
            converse(command, &stdin, signal, limit)
        })
    }
}

type When<'h> = (Signal, Box<dyn Fn() -> bool + Send + 'h>);

/// Starts the program, feeds it, and collects what it says.
fn converse(mut command: Command, stdin: &[u8], signal: Option<When<'_>>, limit: Duration) -> Reply {
    let start = Instant::now();
    let mut child =
        command.process_group(0).spawn().unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program()));
    let pid = Pid::from_raw(child.id().try_into().unwrap());
    let (done, ended) = mpsc::channel::<()>();
    thread::scope(|s| {
        s.spawn(move || {
            if let Some((signal, when)) = signal {
                let is_over = || ended.try_recv() != Err(mpsc::TryRecvError::Empty);
                while !when() && !is_over() && start.elapsed() < limit {
                    thread::sleep(Duration::from_millis(2));
                }
                // The id of a process that has ended may be another's.
                if is_over() {
                    return;
                }
                _ = kill(pid, signal);
            }
            if ended.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
                // With what it has started.
                _ = killpg(pid, Signal::SIGKILL);
            }
        });
        let stderr = child.stderr.take().unwrap();
        let stderr = s.spawn(move || text(stderr));
        match child.stdin.take().unwrap().write_all(stdin) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => panic!("feeding the config: {error}"),
            // A plugin may answer without reading.
            _ => {}
        }
        let stdout = child.stdout.take().map(text).unwrap_or_default();
        let status = child.wait().unwrap();
        let time = start.elapsed();
        drop(done);
        Reply { status, stdout, stderr: stderr.join().unwrap(), time, group: pid }
    })
}

fn text(mut from: impl Read) -> String {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `/dev/full`: every write fails for want of space.
pub fn full() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

/// The writing end of a pipe that nobody reads.
pub fn unread() -> Stdio {
    let (_, writer) = io::pipe().unwrap();
    writer.into()
}

/// What a plugin (or `cnitool`) answered.
#[derive(Debug)]
pub struct Reply {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// From before its start to its end.
    pub time: Duration,
    /// Of the process and what it has started.
    group: Pid,
}

impl Reply {
    /// Waits until what it has started has ended as well: a delegate outlives its killed caller, if not for long.
    ///
    /// # Panics
    /// When that does not end.
    pub fn wait_for_orphans(&self) {
        let deadline = Instant::now() + STUCK * settings::slowness();
        while killpg(self.group, None).is_ok() {
            assert!(Instant::now() < deadline, "what it has started is still there: {self}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// # Panics
    /// When the call failed.
    pub fn ok(&self) -> &Self {
        assert!(self.status.success(), "the call failed: {self}");
        self
    }

    /// The result of a successful ADD (or `null` for other verbs, which print nothing).
    pub fn result(&self) -> Value {
        self.ok();
        if self.stdout.is_empty() { Value::Null } else { self.json() }
    }

    /// The error of a failed call, which has to be one JSON document.
    pub fn failure(&self) -> Failure {
        assert_eq!(self.status.code(), Some(1), "the call should have failed: {self}");
        let json = self.json();
        Failure {
            code: json["code"].as_u64().unwrap_or_else(|| panic!("an error without a code: {self}")),
            msg: json["msg"].as_str().unwrap_or_default().to_owned(),
            details: json["details"].as_str().unwrap_or_default().to_owned(),
            json,
        }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("stdout is no JSON ({error}): {self}"))
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} after {:?}\nstdout: {}\nstderr: {}", self.status, self.time, self.stdout, self.stderr)
    }
}

/// A plugin's error.
#[derive(Debug)]
pub struct Failure {
    /// The spec's or the plugin's code.
    pub code: u64,
    /// One line for people.
    pub msg: String,
    /// More of them; empty if there are none.
    pub details: String,
    /// The whole document.
    pub json: Value,
}

impl Failure {
    /// # Panics
    /// When the code differs, or one of the fragments (split at `|`) is neither in the message nor in the details;
    /// upper and lower case are the same.
    pub fn is(&self, code: u64, fragments: &str) -> &Self {
        let text = format!("{} {}", self.msg, self.details).to_lowercase();
        let missing: Vec<_> = fragments.split('|').filter(|f| !text.contains(&f.to_lowercase())).collect();
        assert!(self.code == code && missing.is_empty(), "expected code {code} and {missing:?} in {self:?}");
        self
    }
}
