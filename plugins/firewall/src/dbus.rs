//! The system's D-Bus, by the crate zbus, as a caller who waits: one method after the other, and for all of them
//! together at most as long as the caller has patience.
//!
//! zbus is asynchronous. Its futures run on the caller's thread; `async-io` has one more, which there is only once a bus
//! has taken the connection. Ours is the connecting: zbus does it without a deadline, and a bus that hangs takes none.

use std::future::Future;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures_lite::future::or;
use nix::errno::Errno;
use nix::sys::socket::sockopt::SendTimeout;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket};
use nix::sys::time::TimeVal;
use serde::{Serialize, de::DeserializeOwned};
use zbus::proxy::{Builder, CacheProperties, MethodFlags};
use zbus::zvariant::{DynamicType, Type};
use zbus::{Connection, Proxy};

/// Where the bus listens: the first is the specification's, by way of a link the second.
const SOCKETS: [&str; 2] = ["/var/run/dbus/system_bus_socket", "/run/dbus/system_bus_socket"];
/// What the bus says of a name that no program has.
const NO_OWNER: &str = "org.freedesktop.DBus.Error.NameHasNoOwner";

/// Why a call was not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// There is no bus.
    #[error("there is no system bus at {}", .0.display())]
    NoBus(PathBuf),
    /// `DBUS_SYSTEM_BUS_ADDRESS` is none that can be used.
    #[error("DBUS_SYSTEM_BUS_ADDRESS \"{0}\" has no unix:path= or unix:abstract=")]
    Address(String),
    /// The socket failed.
    #[error("the system bus: {0}")]
    Io(#[from] io::Error),
    /// No answer in time.
    #[error("no answer by the system bus to {what} within {}s", patience.as_secs())]
    Timeout {
        /// What was waited for in vain.
        what: &'static str,
        /// How long this and what was waited for before it may take together.
        patience: Duration,
    },
    /// The answer is an error.
    #[error("{text} ({name})")]
    Refused {
        /// The error's name, e.g. `org.freedesktop.DBus.Error.NameHasNoOwner`.
        name: String,
        /// What it says.
        text: String,
    },
    /// The bus does not let this process in, ends, or sends what was not asked for.
    #[error("the system bus: {0}")]
    Bus(zbus::Error),
}

impl Error {
    /// Whether it is certain that the program which was called does not run.
    pub(crate) fn says_nobody_runs(&self) -> bool {
        matches!(self, Self::NoBus(_)) || matches!(self, Self::Refused { name, .. } if name == NO_OWNER)
    }
}

impl From<zbus::Error> for Error {
    fn from(error: zbus::Error) -> Self {
        match error {
            zbus::Error::MethodError(name, text, _) => {
                Self::Refused { name: name.to_string(), text: text.unwrap_or_default() }
            }
            other => Self::Bus(other),
        }
    }
}

/// An object of a program on the bus, by one of its interfaces.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Object {
    /// Name on the bus of the program that has it.
    pub(crate) destination: &'static str,
    /// Its path.
    pub(crate) path: &'static str,
    /// The interface.
    pub(crate) interface: &'static str,
}

/// A connection to the system's bus.
#[derive(Debug)]
pub(crate) struct Bus {
    connection: Connection,
    clock: Clock,
}

impl Bus {
    /// Connects. `patience` is what this and all calls by it may wait together; what is done between does not count.
    pub(crate) fn connect(patience: Duration) -> Result<Self, Error> {
        let mut clock = Clock { patience, left: patience };
        let stream = clock.connect()?;
        let builder = zbus::connection::Builder::async_io_unix_stream(stream).internal_executor(false);
        let connection = clock.wait("the introduction", builder.build())?;
        Ok(Self { connection, clock })
    }

    /// Calls a method and waits for its answer. Nobody is started in order to answer.
    pub(crate) fn call<T>(
        &mut self,
        object: Object,
        method: &'static str,
        arguments: &(impl Serialize + DynamicType),
    ) -> Result<T, Error>
    where
        T: DeserializeOwned + Type,
    {
        let Object { destination, path, interface } = object;
        let connection = &self.connection;
        let call = async {
            let proxy: Proxy<'_> = Builder::new(connection)
                .destination(destination)?
                .path(path)?
                .interface(interface)?
                .cache_properties(CacheProperties::No)
                .build()
                .await?;
            let answer = proxy.call_with_flags(method, MethodFlags::NoAutoStart.into(), arguments).await?;
            answer.ok_or(zbus::Error::InvalidReply)
        };
        let drive = async {
            loop {
                connection.executor().tick().await;
            }
        };
        self.clock.wait(method, or(call, drive))
    }
}

/// Counts how long was waited.
#[derive(Debug)]
struct Clock {
    patience: Duration,
    left: Duration,
}

impl Clock {
    fn wait<T>(&mut self, what: &'static str, future: impl Future<Output = zbus::Result<T>>) -> Result<T, Error> {
        let (start, left) = (Instant::now(), self.left);
        let answer = async { Some(future.await) };
        let result = async_io::block_on(or(answer, async {
            async_io::Timer::after(left).await;
            None
        }));
        self.left = left.saturating_sub(start.elapsed());
        Ok(result.ok_or(Error::Timeout { what, patience: self.patience })??)
    }

    fn connect(&mut self) -> Result<UnixStream, Error> {
        let (address, path) = address()?;
        let start = Instant::now();
        let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).map_err(io_error)?;
        // A bus whose queue is full would let connect(2) wait for ever.
        let seconds = i64::try_from(self.left.as_secs()).unwrap_or(i64::MAX);
        setsockopt(&socket, SendTimeout, &TimeVal::new(seconds.max(1), 0)).map_err(io_error)?;
        let result = connect(socket.as_raw_fd(), &address);
        self.left = self.left.saturating_sub(start.elapsed());
        match result {
            Ok(()) => Ok(socket.into()),
            Err(Errno::ENOENT) => Err(Error::NoBus(path)),
            Err(Errno::EAGAIN) => Err(Error::Timeout { what: "connect", patience: self.patience }),
            Err(errno) => Err(Error::Io(io::Error::new(
                io::Error::from(errno).kind(),
                format!("connecting to {}: {}", path.display(), errno.desc()),
            ))),
        }
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

/// `unix:path=/run/bus,guid=…` -> (`path`, `/run/bus`). zbus's parser leaves `%2f` as it is (5.19).
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
