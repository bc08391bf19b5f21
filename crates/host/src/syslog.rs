//! Telling the operator what a runtime would drop: runtimes show a plugin's stderr only when it fails, if at all.

use std::os::unix::net::UnixDatagram;

/// Facility "daemon" (3), severity "notice" (5): RFC 3164, section 4.1.1.
const DAEMON_NOTICE: u8 = 3 << 3 | 5;

/// Writes one line to stderr and to the system's log; without a log (`/dev/log`) to stderr alone.
pub fn notice(program: &str, text: &str) {
    eprintln!("{program}: {text}");
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
