//! Running another program with a deadline.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{AccessFlags, access};

/// Why a program could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not there, or cannot be started.
    #[error("cannot run {program}: {source}")]
    Start {
        /// Its name.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// It did not end in time and was killed.
    #[error("{program} did not end within {patience:?} and was killed{}", said(stderr))]
    Timeout {
        /// Its name.
        program: String,
        /// How long it was waited for.
        patience: Duration,
        /// What it said until then.
        stderr: String,
    },
    /// It ended with a failure.
    #[error("{program}: {status}{}", said(stderr))]
    Failed {
        /// Its name.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        stderr: String,
    },
}

impl Error {
    /// Whether there is no such program. That one cannot be started for another reason says nothing of the kind.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Start { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

fn said(stderr: &str) -> String {
    if stderr.trim().is_empty() { String::new() } else { format!(": {}", stderr.trim()) }
}

/// Where the C libraries look without a `PATH`.
const DEFAULT_PATH: &str = "/usr/local/bin:/bin:/usr/bin";

/// The file that [`run`] would start for this name; `None` if there is no such program. Nothing is started to find out.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    let is_program = |path: &PathBuf| path.is_file() && access(path, AccessFlags::X_OK).is_ok();
    let folders = std::env::split_paths(&folders).filter(|folder| !folder.as_os_str().is_empty());
    folders.map(|folder| folder.join(program)).find(is_program)
}

/// Runs a program of `PATH` with `input` on its stdin and returns its stdout.
///
/// All three streams are files in memory: there is no pipe that could fill up while nobody reads. The program ends with
/// this process: nothing goes on working at what its caller's caller takes for ended.
pub fn run(program: &str, args: &[&str], input: &[u8], patience: Duration) -> Result<String, Error> {
    let start = |source| Error::Start { program: program.to_owned(), source };
    let (mut stdin, mut stdout, mut stderr) =
        (memory(c"stdin").map_err(start)?, memory(c"stdout").map_err(start)?, memory(c"stderr").map_err(start)?);
    stdin.write_all(input).and_then(|()| stdin.rewind()).map_err(start)?;
    let mut command = Command::new(program);
    command
        .args(args)
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::from(stdout.try_clone().map_err(start)?))
        .stderr(Stdio::from(stderr.try_clone().map_err(start)?));
    end_with_parent(&mut command);
    let mut child = command.spawn().map_err(start)?;
    let ended = wait(&mut child, patience).map_err(|error| {
        // Nor may it go on working at what the caller takes for failed, and undoes.
        let _ = child.kill().and_then(|()| child.wait());
        start(error)
    })?;
    let stderr = read(&mut stderr).map_err(start)?;
    match ended {
        None => Err(Error::Timeout { program: program.to_owned(), patience, stderr }),
        Some(status) if !status.success() => Err(Error::Failed { program: program.to_owned(), status, stderr }),
        Some(_) => read(&mut stdout).map_err(start),
    }
}

/// SIGKILL for the program when the thread that starts it ends, which waits for it here.
fn end_with_parent(command: &mut Command) {
    let parent = libc::pid_t::try_from(std::process::id()).unwrap_or_default();
    // SAFETY: between fork and exec it makes two system calls, without memory or locks of anyone's.
    unsafe {
        command.pre_exec(move || {
            Errno::result(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
            // The parent may have died before that: then nobody would send the signal any more.
            if libc::getppid() == parent { Ok(()) } else { Err(Errno::ESRCH.into()) }
        });
    }
}

fn memory(name: &std::ffi::CStr) -> io::Result<File> {
    Ok(File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?))
}

fn read(file: &mut File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// `None`: it was killed, because its time was over.
fn wait(child: &mut Child, patience: Duration) -> io::Result<Option<ExitStatus>> {
    let handle = pidfd(child)?;
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(handle.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
            Ok(_) => return child.wait().map(Some),
        }
    }
}

/// A descriptor that becomes readable when the child ends (Linux 5.3).
fn pidfd(child: &Child) -> io::Result<OwnedFd> {
    // SAFETY: a plain system call; the child is not waited for yet, so its number is still its own.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) })?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just opened it for us, nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_without_starting_it() {
        assert!(find("sh").unwrap().is_absolute());
        assert_eq!(find("no-such-program"), None);
        // No program, whatever folder it is in.
        assert_eq!(find("../etc/passwd"), None);
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn input_goes_in_and_output_comes_out() {
        let input = "x".repeat(300_000);
        assert_eq!(run("cat", &[], input.as_bytes(), LONG).unwrap(), input);
    }

    #[test]
    fn failures_say_what_the_program_said() {
        let error = run("sh", &["-c", "echo no room >&2; exit 3"], b"", LONG).unwrap_err();
        assert!(error.to_string().contains("exit status: 3: no room"), "{error}");
        assert!(run("/nonexistent/program", &[], b"", LONG).is_err_and(|e| e.is_absent()));
        let no_program = run("/dev/null", &[], b"", LONG).unwrap_err();
        assert!(matches!(no_program, Error::Start { .. }) && !no_program.is_absent(), "{no_program}");
    }

    /// As after SIGKILL: a thread ends like a process does, and the signal is about the thread.
    #[test]
    fn a_program_ends_with_who_started_it() {
        let mut command = Command::new("sleep");
        command.arg("60");
        end_with_parent(&mut command);
        let mut child = std::thread::spawn(move || command.spawn().unwrap()).join().unwrap();
        let status = wait(&mut child, LONG).unwrap().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGKILL));
    }

    #[test]
    fn a_program_that_hangs_is_ended() {
        let error = run("sh", &["-c", "exec sleep 60"], b"", Duration::from_millis(50)).unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }), "{error}");
    }
}
