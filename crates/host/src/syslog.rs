//! Telling the operator what a runtime would drop: runtimes show a plugin's stderr only when it fails, if at all.

use std::fmt::Display;
use std::io::Write;
use std::os::unix::net::UnixDatagram;

/// Facility "daemon" (3), severity "notice" (5): RFC 3164, section 4.1.1.
const DAEMON_NOTICE: u8 = 3 << 3 | 5;

/// Writes one line to stderr. Unlike `eprintln!` it does not panic where nobody reads it (a closed pipe), which would
/// end an undoing half-way.
pub fn warn(program: &str, text: impl Display) {
    let _ = std::io::stderr().write_all(format!("{program}: {text}\n").as_bytes());
}

/// Writes one line to stderr and to the system's log; without a log (`/dev/log`) to stderr alone.
pub fn notice(program: &str, text: &str) {
    warn(program, text);
    let send = || -> std::io::Result<()> {
        let socket = UnixDatagram::unbound()?;
        // A log that is not being read must not hold up a pod.
        socket.set_nonblocking(true)?;
        socket.connect("/dev/log")?;
        socket.send(format!("<{DAEMON_NOTICE}>{program}[{}]: {text}", std::process::id()).as_bytes())?;
        Ok(())
    };
    // Nobody listens: stderr has it.
    let _ = send();
}
