//! ICMP echo, with the time until the first answer.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd,
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use nix::sys::{
    socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, recv, sendto, setsockopt, socket,
        sockopt::ReceiveTimeout,
    },
    time::TimeVal,
};

use crate::{Place, settings, traffic::PATIENCE};

/// Between two requests, in milliseconds: how exactly the time of the first answer is known.
const INTERVAL: i64 = 2;

/// Whether the address answers.
pub fn reaches(from: &impl Place, to: &str) -> bool {
    ping(from, to.parse().unwrap(), PATIENCE * settings::slowness()).is_some()
}

/// Sends echo requests until the first answer, and returns when that came. `None`: none came in time.
pub fn ping(from: &impl Place, to: IpAddr, within: Duration) -> Option<Duration> {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    let ident = NEXT.fetch_add(1, Ordering::Relaxed);
    from.enter(|| exchange(to, ident, within))
}

fn exchange(to: IpAddr, ident: u16, within: Duration) -> Option<Duration> {
    let (family, protocol, reply, header) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp, 0, 20),
        // The kernel keeps the IPv6 header for itself.
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6, 129, 0),
    };
    let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).unwrap();
    setsockopt(&socket, ReceiveTimeout, &TimeVal::new(0, INTERVAL * 1000)).unwrap();
    let (address, request) = (SockaddrStorage::from(SocketAddr::new(to, 0)), request(to.is_ipv4(), ident));
    let start = Instant::now();
    let mut answer = [0; 256];
    let mut next = Duration::ZERO;
    while start.elapsed() < within {
        if start.elapsed() >= next {
            // Refused while nobody is known to have the address; the next one may pass.
            _ = sendto(socket.as_raw_fd(), &request, &address, MsgFlags::empty());
            next = start.elapsed() + Duration::from_millis(INTERVAL.unsigned_abs());
        }
        if let Ok(length) = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty()) {
            let message = &answer[header.min(length)..length];
            if message.len() >= 8 && message[0] == reply && message[4..6] == ident.to_be_bytes() {
                return Some(start.elapsed());
            }
        }
    }
    None
}

fn request(is_v4: bool, ident: u16) -> [u8; 8] {
    let [high, low] = ident.to_be_bytes();
    if !is_v4 {
        return [128, 0, 0, 0, high, low, 0, 1];
    }
    let sum = 0x0800_u32 + u32::from(ident) + 1;
    let folded = (sum & 0xffff) + (sum >> 16);
    let [c, d] = (!u16::try_from(folded).unwrap()).to_be_bytes();
    [8, 0, c, d, high, low, 0, 1]
}
