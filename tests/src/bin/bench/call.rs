//! One call of a plugin, and what it cost: time, memory, further programs.

use nix::{
    sys::{
        ptrace,
        signal::Signal,
        wait::{WaitStatus, waitpid},
    },
    unistd::Pid,
};
use std::{
    error::Error,
    ffi::OsStr,
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// A folder of plugins.
pub(crate) struct Suite {
    folder: PathBuf,
}

/// What a runtime tells a plugin.
#[derive(Clone)]
pub(crate) struct Call<'a> {
    pub(crate) plugin: &'a str,
    pub(crate) command: &'a str,
    pub(crate) container_id: &'a str,
    pub(crate) netns: &'a str,
    pub(crate) config: &'a str,
}

impl Suite {
    pub(crate) fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    pub(crate) fn binary(&self, plugin: &str) -> PathBuf {
        self.folder.join(plugin)
    }

    /// Runs the call; from just before the program is started until it has ended.
    pub(crate) fn time(&self, call: &Call<'_>) -> Result<Duration, Box<dyn Error>> {
        Ok(self.run(call)?.0)
    }

    /// The same, with what the plugin answers.
    ///
    /// The standard library starts programs by `posix_spawn` here, whose cost does not grow
    /// with the memory of this process.
    pub(crate) fn run(&self, call: &Call<'_>) -> Result<(Duration, String), Box<dyn Error>> {
        let mut command = self.command(&self.binary(call.plugin), call);
        let start = Instant::now();
        let mut child = command.spawn()?;
        feed(&mut child, call.config)?;
        let mut answer = String::new();
        if let Some(stdout) = &mut child.stdout {
            stdout.read_to_string(&mut answer)?;
        }
        let status = child.wait()?;
        let elapsed = start.elapsed();
        if status.success() { Ok((elapsed, answer)) } else { Err(self.failure(call, &answer)) }
    }

    /// Runs the call and returns the most memory that the plugin had resident, in bytes
    /// (`VmHWM`; `getrusage` would also count what this process had when it forked).
    pub(crate) fn peak_memory(&self, call: &Call<'_>) -> Result<u64, Box<dyn Error>> {
        let mut child = self.command(&self.binary(call.plugin), call).spawn()?;
        let pid = Pid::from_raw(child.id().try_into()?);
        // It waits for its standard input, so that nothing is missed.
        ptrace::seize(pid, ptrace::Options::PTRACE_O_TRACEEXIT)?;
        feed(&mut child, call.config)?;
        let mut peak = 0;
        loop {
            match waitpid(pid, None)? {
                WaitStatus::PtraceEvent(..) => {
                    peak = resident_peak(pid)?.unwrap_or(peak);
                    ptrace::cont(pid, None)?;
                }
                WaitStatus::Stopped(_, Signal::SIGTRAP) => ptrace::cont(pid, None)?,
                WaitStatus::Stopped(_, signal) => ptrace::cont(pid, signal)?,
                WaitStatus::Exited(_, 0) => return Ok(peak),
                WaitStatus::Exited(..) | WaitStatus::Signaled(..) => {
                    let mut answer = String::new();
                    if let Some(stdout) = &mut child.stdout {
                        stdout.read_to_string(&mut answer)?;
                    }
                    return Err(self.failure(call, &answer));
                }
                _ => {}
            }
        }
    }

    /// Runs the call and counts the programs started by it, itself excluded.
    pub(crate) fn programs(&self, call: &Call<'_>) -> Result<usize, Box<dyn Error>> {
        let trace = "/run/bench.strace";
        let mut command = self.command(Path::new("strace"), call);
        command.args(["-f", "-qq", "-e", "trace=execve", "-e", "signal=none", "-o", trace]);
        command.arg(self.binary(call.plugin));
        let mut child = command.spawn()?;
        feed(&mut child, call.config)?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            return Err(self.failure(call, &String::from_utf8_lossy(&output.stdout)));
        }
        let started = fs::read_to_string(trace)?.lines().filter(|line| line.ends_with(" = 0")).count();
        Ok(started.saturating_sub(1))
    }

    fn command(&self, program: &(impl AsRef<OsStr> + ?Sized), call: &Call<'_>) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("CNI_COMMAND", call.command)
            .env("CNI_CONTAINERID", call.container_id)
            .env("CNI_NETNS", call.netns)
            .env("CNI_IFNAME", if call.plugin == "loopback" { "lo" } else { "eth0" })
            .env("CNI_PATH", &self.folder)
            // The reference runs iptables.
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        command
    }

    fn failure(&self, call: &Call<'_>, answer: &str) -> Box<dyn Error> {
        let answer = answer.split_whitespace().collect::<Vec<_>>().join(" ");
        format!("{} {} failed: {answer}", self.binary(call.plugin).display(), call.command).into()
    }
}

/// Hands over the config. A plugin may answer without reading it.
fn feed(child: &mut Child, config: &str) -> io::Result<()> {
    match child.stdin.take().map(|mut stdin| stdin.write_all(config.as_bytes())) {
        Some(Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// The peak of a process's resident memory so far, in bytes.
fn resident_peak(pid: Pid) -> Result<Option<u64>, Box<dyn Error>> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let Some(line) = status.lines().find_map(|line| line.strip_prefix("VmHWM:")) else { return Ok(None) };
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(Some(kilobytes * 1024))
}
