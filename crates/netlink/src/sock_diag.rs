//! Who listens on a port (`sock_diag`).
//!
//! Source: `net/ipv4/inet_diag.c`, `include/uapi/linux/inet_diag.h`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::errno::Errno;
use nix::libc;

use crate::wire::{Attrs, Message, u32_ne};
use crate::{Error, Result, Socket};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET_DIAG_SKV6ONLY: u16 = 11;
/// Length of `struct inet_diag_req_v2` in bytes.
const REQUEST_LEN: usize = 56;
/// Length of `struct inet_diag_msg` in bytes.
const MESSAGE_LEN: usize = 72;
/// States of `include/net/tcp_states.h`, as bits.
const LISTEN: u32 = 1 << 10;
/// A UDP socket that is bound and connected to nobody.
const CLOSE: u32 = 1 << 7;

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Transport {
    fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    fn states(self) -> u32 {
        match self {
            Self::Tcp | Self::Sctp => LISTEN,
            Self::Udp => CLOSE,
        }
    }
}

/// A socket that waits for whoever calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listener {
    /// The local address; the unspecified one stands for all.
    pub ip: IpAddr,
    /// Number of the socket's inode: `/proc/<pid>/fd` shows it as `socket:[<inode>]`.
    pub inode: u32,
    /// Of an IPv6 socket: whether it leaves IPv4 alone.
    pub is_v6_only: bool,
}

impl Listener {
    /// Whether what is sent to `ip` reaches this socket; the unspecified address of a family stands for any of it.
    #[must_use]
    pub fn hears(&self, ip: IpAddr) -> bool {
        if self.ip.is_unspecified() {
            return self.ip.is_ipv4() == ip.is_ipv4() || self.ip.is_ipv6() && !self.is_v6_only;
        }
        let own = self.ip.to_canonical();
        own == ip || ip.is_unspecified() && own.is_ipv4() == ip.is_ipv4()
    }
}

/// The sockets of the calling thread's network namespace that listen on this port: for TCP and SCTP those that accept
/// connections, for UDP those that are bound and not connected. IPv4 first. `None`: this kernel does not tell.
pub fn listeners(transport: Transport, port: u16) -> Result<Option<Vec<Listener>>> {
    match Socket::open(crate::Protocol::SockDiag).and_then(|mut socket| listeners_by(&mut socket, transport, port)) {
        Err(error) if is_unknown(&error) => Ok(None),
        answer => answer.map(Some),
    }
}

/// The same of the socket's namespace, on a socket of [`crate::Protocol::SockDiag`]; an error where the kernel does not
/// tell.
pub fn listeners_by(socket: &mut Socket, transport: Transport, port: u16) -> Result<Vec<Listener>> {
    let mut all = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        all.extend(list(socket, transport, port, u8::try_from(family).unwrap_or(0))?);
    }
    Ok(all)
}

/// No `sock_diag`, or no module for the protocol.
fn is_unknown(error: &Error) -> bool {
    [Errno::EPROTONOSUPPORT, Errno::EOPNOTSUPP, Errno::ENOENT, Errno::EINVAL].contains(&error.errno)
}

fn list(socket: &mut Socket, transport: Transport, port: u16, family: u8) -> Result<Vec<Listener>> {
    let mut request = [0; REQUEST_LEN];
    request[0] = family;
    request[1] = transport.number();
    request[4..8].copy_from_slice(&transport.states().to_ne_bytes());
    request[8..10].copy_from_slice(&port.to_be_bytes());
    socket.dump(
        SOCK_DIAG_BY_FAMILY,
        |w| {
            w.header(&request);
        },
        // A kernel that ignores a part of the filter says more than was asked for.
        |message| {
            let (listener, local, foreign) = read(&message)?;
            (local == port && foreign == 0).then_some(listener)
        },
    )
}

/// The socket, its port, and the port it is connected to (0: none).
fn read(message: &Message<'_>) -> Option<(Listener, u16, u16)> {
    let body = message.body.get(..MESSAGE_LEN).filter(|_| message.kind == SOCK_DIAG_BY_FAMILY)?;
    let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    let ip = if i32::from(body[0]) == libc::AF_INET {
        IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(&body[8..12]).ok()?))
    } else {
        IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(&body[8..24]).ok()?))
    };
    let is_v6_only = Attrs::behind(message.body, MESSAGE_LEN).find(INET_DIAG_SKV6ONLY).is_some_and(|v| v == [1]);
    Some((Listener { ip, inode: u32_ne(&body[68..])?, is_v6_only }, port(4), port(6)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_hears_its_own_address_and_what_stands_for_it() {
        let hears = |own: &str, is_v6_only, to: &str| {
            Listener { ip: own.parse().unwrap(), inode: 1, is_v6_only }.hears(to.parse().unwrap())
        };
        assert!(hears("0.0.0.0", false, "192.0.2.1") && hears("0.0.0.0", false, "0.0.0.0"));
        assert!(!hears("0.0.0.0", false, "::") && !hears("0.0.0.0", false, "fd00::1"));
        assert!(hears("::", false, "192.0.2.1") && hears("::", false, "fd00::1") && hears("::", false, "::"));
        assert!(!hears("::", true, "192.0.2.1") && !hears("::", true, "0.0.0.0"));
        assert!(hears("192.0.2.1", false, "192.0.2.1") && hears("192.0.2.1", false, "0.0.0.0"));
        assert!(!hears("192.0.2.1", false, "192.0.2.2") && !hears("192.0.2.1", false, "::"));
        assert!(hears("::ffff:192.0.2.1", false, "192.0.2.1") && hears("::ffff:192.0.2.1", false, "0.0.0.0"));
    }
}
