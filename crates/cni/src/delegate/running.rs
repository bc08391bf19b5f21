//! A delegate at work: its three pipes and its end, under one deadline and without threads.
//!
//! Only what `poll` calls ready is read or written, and never more than `PIPE_BUF` bytes are written at once, so that
//! no call blocks although the pipes are in blocking mode.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::failure;
use crate::result::from_stated;
use crate::{AddResult, Call, Error, code, decode, output, text};

/// What a pipe with room takes without blocking (`pipe(7)`), in bytes.
const PIPE_BUF: usize = 4096;
/// No result is larger, in bytes.
const MAX_STDOUT: usize = 16 << 20;
/// How much of stderr is kept for an error's text, in bytes; all of it is passed on.
const MAX_STDERR: usize = 64 << 10;
/// How long a process usually takes from closing its files to its end, generously.
const USUAL_END: Duration = Duration::from_micros(200);
/// How long a delegate may take to obey SIGTERM: to undo what it did.
const TERM_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the kernel may take to obey SIGKILL.
const KILL_TIMEOUT: Duration = Duration::from_secs(1);

/// A delegate that was started; its stdin has been fed as far as the pipe holds it, which is 64 KiB.
///
/// Dropped without [`wait`](Self::wait), it is waited for all the same: a delegate still at work would make what
/// nobody undoes.
#[derive(Debug)]
pub struct Running {
    child: Child,
    /// Plugin and verb, for errors.
    what: String,
    deadline: Instant,
    stdin: Option<ChildStdin>,
    /// What stdin still has to get.
    to_send: Vec<u8>,
    stdout: Option<ChildStdout>,
    received: Vec<u8>,
    stderr: Option<ChildStderr>,
    said: Vec<u8>,
    /// Whether it has ended, or was given up.
    done: bool,
    /// Whether it has succeeded all the same, when it was given up.
    succeeded_late: bool,
}

/// Why [`Running::pump`] returned.
enum End {
    Exited(ExitStatus),
    Deadline,
    TooMuch,
}

impl Running {
    pub(super) fn new(mut child: Child, what: String, stdin: &[u8], deadline: Instant) -> Self {
        let (input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let mut running = Self {
            child,
            what,
            deadline,
            stdin: input,
            to_send: stdin.to_vec(),
            stdout: output,
            received: Vec::new(),
            stderr: errors,
            said: Vec::new(),
            done: false,
            succeeded_late: false,
        };
        // It can begin with its work while the caller does something else. Errors show again in `wait`.
        while running.stdin.is_some() && running.transfer(Duration::ZERO).is_ok_and(|ready| ready) {}
        running
    }

    /// Waits for the end. Returns what was printed on stdout.
    ///
    /// Errors: the delegate's own; code 11 if it was not done by its deadline, and had to be ended; 999 if it died
    /// without a word, or printed more than 16 MiB.
    pub fn wait(mut self) -> Result<Vec<u8>, Error> {
        self.collect()
    }

    fn collect(&mut self) -> Result<Vec<u8>, Error> {
        let status = self.finish()?;
        let stdout = std::mem::take(&mut self.received);
        if status.success() {
            return Ok(stdout);
        }
        Err(failure::describe(&self.what, status, &stdout, &self.said))
    }

    /// Waits for the result of an ADD, in whatever version it states; without one it has the config's.
    ///
    /// Errors: those of [`wait`](Self::wait); code 999 if it printed no result.
    pub fn wait_result(self, call: &Call) -> Result<AddResult, Error> {
        self.wait_then(call, || ())
    }

    /// [`wait_result`](Self::wait_result) that says when the delegate has succeeded, before its answer is looked at:
    /// from then on there is something to undo, readable or not, and even where its answer came too late.
    pub fn wait_then(mut self, call: &Call, succeeded: impl FnOnce()) -> Result<AddResult, Error> {
        let what = self.what.clone();
        let answer = self.collect();
        if answer.is_ok() || self.succeeded_late {
            succeeded();
        }
        let stdout = answer?;
        if stdout.iter().all(u8::is_ascii_whitespace) {
            return Err(Error::internal(format!("{what} printed no result")));
        }
        decode::parse(&stdout)
            .map_err(|e| Error::internal(e.to_string()))
            .and_then(|document| from_stated(&document, call.version))
            .map_err(|e| {
                e.context(&format!("{what} printed an invalid result"))
                    .with_details(text::cut(&String::from_utf8_lossy(&stdout), 2048))
            })
    }

    #[cfg(test)]
    pub(super) fn set_timeout(&mut self, timeout: Duration) {
        self.deadline = Instant::now() + timeout;
    }

    fn finish(&mut self) -> Result<ExitStatus, Error> {
        self.done = true;
        let end = self.pump(self.deadline);
        if let Ok(End::Exited(status)) = end {
            return Ok(status);
        }
        self.end_by_force();
        let what = &self.what;
        Err(match end {
            Ok(End::TooMuch) => Error::internal(format!("{what} printed more than {MAX_STDOUT} bytes, and was ended")),
            Ok(_) => Error::new(code::TRY_AGAIN, format!("{what} was not done in time, and was ended"))
                .with_details(format!("{} is the time in seconds, 90 if unset", super::TIMEOUT_VARIABLE)),
            Err(e) => Error::internal(format!("{what} could not be waited for, and was ended: {e}")),
        })
    }

    /// SIGTERM lets it undo what it did; SIGKILL does not ask. A grandchild may live on.
    fn end_by_force(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // It may have ended by itself meanwhile; it is not yet reaped, so that the id is still its own.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        self.received.clear();
        if let Ok(End::Exited(status)) = self.pump(Instant::now() + TERM_TIMEOUT) {
            self.succeeded_late = status.success();
            return;
        }
        let _ = self.child.kill();
        (self.stdin, self.stdout, self.stderr) = (None, None, None);
        let _ = self.pump(Instant::now() + KILL_TIMEOUT);
    }

    /// Feeds and reads until the delegate has ended.
    ///
    /// Usually its end shows as the end of both its outputs. A grandchild may hold them open though; so it is looked
    /// for now and then as well, less and less often.
    fn pump(&mut self, deadline: Instant) -> io::Result<End> {
        let mut patience = Duration::from_millis(10);
        while self.stdout.is_some() || self.stderr.is_some() {
            if self.received.len() > MAX_STDOUT {
                return Ok(End::TooMuch);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if self.transfer(patience.min(left))? {
                continue;
            }
            if let Some(status) = self.child.try_wait()? {
                // What it had printed before it ended is in the pipes.
                while self.transfer(Duration::ZERO)? && self.received.len() <= MAX_STDOUT {}
                return Ok(End::Exited(status));
            }
            if left.is_zero() {
                return Ok(End::Deadline);
            }
            patience = (patience * 2).min(Duration::from_millis(250));
        }
        self.stdin = None;
        self.reap(deadline)
    }

    /// Both outputs are closed: the process is gone within microseconds, or has closed them on purpose. Without a
    /// descriptor for a process (std has none to offer yet) its end must be asked for; a sleep takes longer than the
    /// usual end, so that only the processor is offered at first.
    fn reap(&mut self, deadline: Instant) -> io::Result<End> {
        let soon = Instant::now() + USUAL_END;
        let mut pause = Duration::from_micros(50);
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(End::Exited(status));
            }
            let now = Instant::now();
            if now >= deadline {
                return Ok(End::Deadline);
            }
            if now < soon {
                thread::yield_now();
            } else {
                thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(100));
            }
        }
    }

    /// Waits until a pipe is ready, and moves what it takes or has. Returns whether one was.
    fn transfer(&mut self, patience: Duration) -> io::Result<bool> {
        let (mut writable, mut readable, mut heard) = (false, false, false);
        {
            let pipes = [
                (self.stdin.as_ref().map(AsFd::as_fd), PollFlags::POLLOUT, &mut writable),
                (self.stdout.as_ref().map(AsFd::as_fd), PollFlags::POLLIN, &mut readable),
                (self.stderr.as_ref().map(AsFd::as_fd), PollFlags::POLLIN, &mut heard),
            ];
            let (mut fds, flags): (Vec<_>, Vec<_>) =
                pipes.into_iter().filter_map(|(fd, events, ready)| Some((PollFd::new(fd?, events), ready))).unzip();
            // Rounded up, or the last millisecond would be spent turning in circles.
            let millis = patience.as_micros().div_ceil(1000);
            match poll(&mut fds, PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)) {
                // A signal of ours: what follows from it is decided by the caller, after the delegate.
                Ok(0) | Err(Errno::EINTR) => return Ok(false),
                Ok(_) => {}
                Err(errno) => return Err(errno.into()),
            }
            for (fd, ready) in fds.iter().zip(flags) {
                // Errors and hang-ups too: the read or write that follows will say so.
                *ready = fd.any().unwrap_or(true);
            }
        }
        if writable {
            self.send();
        }
        if readable {
            receive(&mut self.stdout, |bytes| self.received.extend_from_slice(bytes));
        }
        if heard {
            let said = &mut self.said;
            receive(&mut self.stderr, |bytes| {
                let _ = io::stderr().write_all(bytes);
                let room = MAX_STDERR.saturating_sub(said.len());
                said.extend_from_slice(&bytes[..bytes.len().min(room)]);
            });
        }
        Ok(writable || readable || heard)
    }

    fn send(&mut self) {
        let Some(pipe) = &mut self.stdin else { return };
        let piece = &self.to_send[..self.to_send.len().min(PIPE_BUF)];
        match pipe.write(piece) {
            Ok(sent) => {
                self.to_send.drain(..sent);
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
            // It does not want to know: fine if it succeeds nevertheless.
            Err(_) => self.to_send.clear(),
        }
        if self.to_send.is_empty() {
            self.stdin = None;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.done
            && let Err(error) = self.finish()
        {
            output::log(&format!("{error}\n"));
        }
    }
}

/// Reads once; the pipe is gone when it has ended.
fn receive<R: Read>(pipe: &mut Option<R>, mut take: impl FnMut(&[u8])) {
    let Some(reader) = pipe else { return };
    let mut buffer = [0; 8192];
    match reader.read(&mut buffer) {
        Ok(0) => *pipe = None,
        Ok(length) => take(&buffer[..length]),
        Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
        Err(_) => *pipe = None,
    }
}
