//! A client of the system's D-Bus that calls one method after the other, and waits for each answer at most until its
//! deadline.
//!
//! Own code because there is little of it: the crates that speak D-Bus without C are async (zbus), or wait without an
//! end while they introduce themselves to a bus that hangs (rustbus 0.19).

mod message;

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::sockopt::SendTimeout;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket};
use nix::sys::time::TimeVal;

use message::Incoming;
pub(crate) use message::{Method, Value};

/// Where the bus listens: the first is the specification's, by way of a link the second.
const SOCKETS: [&str; 2] = ["/var/run/dbus/system_bus_socket", "/run/dbus/system_bus_socket"];
/// Longest line of the introduction, in bytes.
const MAX_LINE: usize = 16 * 1024;

/// Why a call was not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// There is no bus.
    #[error("there is no system bus at {}", path.display())]
    NoBus {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// `DBUS_SYSTEM_BUS_ADDRESS` is none that can be used.
    #[error("DBUS_SYSTEM_BUS_ADDRESS \"{0}\" has no unix:path= or unix:abstract=")]
    Address(String),
    /// The socket failed.
    #[error("the system bus: {0}")]
    Io(#[from] io::Error),
    /// The bus knows this process by no name that it lets in.
    #[error("the system bus refuses this process: {0}")]
    Unwelcome(String),
    /// No answer in time.
    #[error("no answer by D-Bus within {}s", .0.as_secs())]
    Timeout(Duration),
    /// What came is not D-Bus.
    #[error("the system bus sends what is no D-Bus message")]
    Malformed,
    /// The answer is an error.
    #[error("{text} ({name})")]
    Refused {
        /// The error's name, e.g. `org.freedesktop.DBus.Error.NameHasNoOwner`.
        name: String,
        /// What it says.
        text: String,
    },
}

/// A connection to the system's bus.
#[derive(Debug)]
pub(crate) struct Bus {
    stream: UnixStream,
    received: Vec<u8>,
    serial: u32,
    patience: Duration,
    deadline: Instant,
}

impl Bus {
    /// Connects. `patience` is what this and all calls by it may take together.
    pub(crate) fn connect(patience: Duration) -> Result<Self, Error> {
        let (address, path) = address()?;
        let deadline = Instant::now() + patience;
        let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).map_err(io_error)?;
        let seconds = i64::try_from(patience.as_secs()).unwrap_or(i64::MAX);
        // A bus whose queue is full would let connect(2) wait for ever.
        setsockopt(&socket, SendTimeout, &TimeVal::new(seconds.max(1), 0)).map_err(io_error)?;
        match connect(socket.as_raw_fd(), &address) {
            Ok(()) => {}
            Err(Errno::ENOENT | Errno::ECONNREFUSED) => return Err(Error::NoBus { path }),
            Err(errno) => return Err(Error::Io(errno.into())),
        }
        let mut bus = Self { stream: socket.into(), received: Vec::new(), serial: 0, patience, deadline };
        bus.introduce()?;
        bus.call(
            Method {
                destination: "org.freedesktop.DBus",
                path: "/org/freedesktop/DBus",
                interface: "org.freedesktop.DBus",
                member: "Hello",
            },
            &[],
        )?;
        Ok(bus)
    }

    /// Calls a method and waits for its answer.
    pub(crate) fn call(&mut self, method: Method, arguments: &[&str]) -> Result<Value, Error> {
        self.serial += 1;
        self.write(&message::call(self.serial, method, arguments))?;
        loop {
            match message::parse(&self.next_message()?)? {
                Incoming::Return(serial, value) if serial == self.serial => return Ok(value),
                Incoming::Refusal(serial, name, text) if serial == self.serial => {
                    return Err(Error::Refused { name, text });
                }
                _ => {}
            }
        }
    }

    /// Says who this is; the kernel confirms it to the bus.
    fn introduce(&mut self) -> Result<(), Error> {
        let uid: String = nix::unistd::geteuid().to_string().bytes().map(|digit| format!("{digit:02x}")).collect();
        self.write(format!("\0AUTH EXTERNAL {uid}\r\n").as_bytes())?;
        let end = loop {
            if let Some(end) = self.received.windows(2).position(|pair| pair == b"\r\n") {
                break end;
            }
            if self.received.len() > MAX_LINE {
                return Err(Error::Malformed);
            }
            self.receive()?;
        };
        let line: Vec<u8> = self.received.drain(..end + 2).collect();
        if !line.starts_with(b"OK ") {
            return Err(Error::Unwelcome(String::from_utf8_lossy(&line).trim().to_owned()));
        }
        self.write(b"BEGIN\r\n")
    }

    fn next_message(&mut self) -> Result<Vec<u8>, Error> {
        loop {
            if let Some(length) = message::length(&self.received)?
                && self.received.len() >= length
            {
                return Ok(self.received.drain(..length).collect());
            }
            self.receive()?;
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write_all(bytes).map_err(|e| self.explain(e))
    }

    fn receive(&mut self) -> Result<(), Error> {
        let mut bytes = [0; 4096];
        self.stream.set_read_timeout(Some(self.left()?))?;
        match self.stream.read(&mut bytes) {
            Ok(0) => Err(Error::Io(io::ErrorKind::UnexpectedEof.into())),
            Ok(len) => {
                self.received.extend(bytes.iter().take(len));
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(self.explain(error)),
        }
    }

    /// What is left until the deadline.
    fn left(&self) -> Result<Duration, Error> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(Error::Timeout(self.patience)) } else { Ok(left) }
    }

    fn explain(&self, error: io::Error) -> Error {
        if error.kind() == io::ErrorKind::WouldBlock { Error::Timeout(self.patience) } else { Error::Io(error) }
    }
}

fn io_error(errno: Errno) -> Error {
    Error::Io(errno.into())
}

/// Address of the bus, and how to name it to people.
fn address() -> Result<(UnixAddr, PathBuf), Error> {
    let Some(text) = std::env::var("DBUS_SYSTEM_BUS_ADDRESS").ok().filter(|text| !text.is_empty()) else {
        let path = PathBuf::from(if std::fs::exists(SOCKETS[1]).unwrap_or(false) { SOCKETS[1] } else { SOCKETS[0] });
        return Ok((UnixAddr::new(&path).map_err(io_error)?, path));
    };
    let bad = || Error::Address(text.clone());
    let (kind, value) = text.split(';').find_map(socket_of).ok_or_else(bad)?;
    let address = if kind == "path" { UnixAddr::new(value.as_str()) } else { UnixAddr::new_abstract(value.as_bytes()) };
    Ok((address.map_err(|_| bad())?, PathBuf::from(value)))
}

/// `unix:path=/run/bus,guid=…` -> (`path`, `/run/bus`).
fn socket_of(address: &str) -> Option<(&str, String)> {
    let pairs = address.strip_prefix("unix:")?.split(',').filter_map(|pair| pair.split_once('='));
    let (kind, value) = pairs.into_iter().find(|(key, _)| matches!(*key, "path" | "abstract"))?;
    Some((kind, unescaped(value)?))
}

/// `%2f` -> `/`.
fn unescaped(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend(part.get(2..)?.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_a_bus() {
        assert_eq!(socket_of("unix:path=/run/bus,guid=a"), Some(("path", "/run/bus".to_owned())));
        assert_eq!(socket_of("unix:guid=a,abstract=bus"), Some(("abstract", "bus".to_owned())));
        assert_eq!(socket_of("unix:path=/run/a%20b%2fc"), Some(("path", "/run/a b/c".to_owned())));
        for none in ["tcp:host=localhost", "unix:dir=/tmp", "unix:path=%", "unix:path=%zz", ""] {
            assert_eq!(socket_of(none), None, "{none}");
        }
    }
}
