//! Telling the operator what a runtime would drop: runtimes show a plugin's stderr only when it fails, if at all.

use std::fmt::Display;
use std::io::Write;
use std::os::unix::net::UnixDatagram;

/// Facility "daemon" (3), severity "notice" (5): RFC 3164, section 4.1.1.
const DAEMON_NOTICE: u8 = 3 << 3 | 5;

/// Writes one line to stderr. Unlike `eprintln!` it does not panic where nobody reads it (a closed pipe), which would
/// end an undoing half-way.
pub fn warn(program: &str, text: impl Display) {
    let _ = std::io::stderr().write_all(format!("{program}: {}\n", one_line(&text.to_string())).as_bytes());
}

/// Writes one line to stderr and to the system's log; without a log (`/dev/log`) to stderr alone.
pub fn notice(program: &str, text: &str) {
    warn(program, text);
    let send = || -> std::io::Result<()> {
        let socket = UnixDatagram::unbound()?;
        // A log that is not being read must not hold up a pod.
        socket.set_nonblocking(true)?;
        socket.connect("/dev/log")?;
        socket.send(format!("<{DAEMON_NOTICE}>{program}[{}]: {}", std::process::id(), one_line(text)).as_bytes())?;
        Ok(())
    };
    // Nobody listens: stderr has it.
    let _ = send();
}

/// Without control characters: a name must neither begin a line of its own in a log nor move the cursor of whoever reads
/// it.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_one_line_of_what_can_be_seen() {
        assert_eq!(one_line("eth\u{1b}[2J\r\nroot: \"ä\"\u{9b}\u{7f}"), "eth\\u{1b}[2J\\r\\nroot: \"ä\"\\u{9b}\\u{7f}");
    }
}
