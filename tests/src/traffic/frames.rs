//! Frames as they are on a link, also such as no honest sender sends.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    ptr,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    libc,
    net::if_::if_nametoindex,
    sys::{
        socket::{MsgFlags, recv, send, setsockopt, sockopt::ReceiveTimeout},
        time::TimeVal,
    },
};

use crate::Place;

/// A link layer address.
pub type Mac = [u8; 6];
/// Everyone on the bridge.
pub const BROADCAST: Mac = [0xff; 6];
/// EtherTypes: ARP, IPv4, IPv6, and one that is free for experiments (IEEE 802).
pub const ARP: u16 = 0x0806;
/// See [`ARP`].
pub const IPV4: u16 = 0x0800;
/// See [`ARP`].
pub const IPV6: u16 = 0x86dd;
/// See [`ARP`].
pub const EXPERIMENT: u16 = 0x88b5;

/// Kinds of VLAN tags: IEEE 802.1Q, and 802.1ad, the provider's.
pub const DOT1Q: u16 = 0x8100;
/// See [`DOT1Q`].
pub const DOT1AD: u16 = 0x88a8;

/// `PACKET_IGNORE_OUTGOING`: what the link itself sends is not shown (Linux 4.20).
const IGNORE_OUTGOING: libc::c_int = 23;
/// How long one look at the socket waits.
const LOOK: i64 = 20_000;

/// A link, for whoever may send and see any frame on it.
pub struct Wire(OwnedFd);

impl Wire {
    /// A link of this place. Frames are seen from now on.
    pub fn of(place: &impl Place, link: &str) -> Self {
        place.enter(|| {
            // SAFETY: a plain system call.
            let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
            Errno::result(fd).unwrap();
            // SAFETY: it was opened just now, and nobody else knows it.
            let socket = unsafe { OwnedFd::from_raw_fd(fd) };
            setsockopt(&socket, ReceiveTimeout, &TimeVal::new(0, LOOK)).unwrap();
            let on: libc::c_int = 1;
            // SAFETY: the kernel reads four bytes of a living c_int.
            let set = unsafe {
                let option = (&raw const on).cast();
                libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, IGNORE_OUTGOING, option, 4)
            };
            Errno::result(set).unwrap();
            bind(&socket, if_nametoindex(link).unwrap());
            Self(socket)
        })
    }

    /// Sends a frame. A full queue or a link that is gone loses it, as on any wire.
    pub fn send(&self, frame: &[u8]) {
        _ = send(self.0.as_raw_fd(), frame, MsgFlags::MSG_DONTWAIT);
    }

    /// Waits for a frame of which `wanted` holds.
    pub fn wait_for(&self, within: Duration, wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            let frame = self.next();
            if frame.as_ref().is_some_and(|frame| wanted(frame)) {
                return frame;
            }
        }
        None
    }

    /// How many such frames come in this time.
    pub fn count(&self, within: Duration, wanted: impl Fn(&[u8]) -> bool) -> usize {
        let deadline = Instant::now() + within;
        let mut count = 0;
        while Instant::now() < deadline {
            count += usize::from(self.next().is_some_and(|frame| wanted(&frame)));
        }
        count
    }

    /// All frames that come in this time.
    pub fn all(&self, within: Duration) -> Vec<Vec<u8>> {
        let deadline = Instant::now() + within;
        let mut all = Vec::new();
        while Instant::now() < deadline {
            all.extend(self.next());
        }
        all
    }

    fn next(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 2048];
        let length = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()).ok()?;
        buffer.truncate(length);
        Some(buffer)
    }
}

fn bind(socket: &OwnedFd, link: u32) {
    // SAFETY: all zeros is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET.try_into().unwrap();
    address.sll_protocol = u16::try_from(libc::ETH_P_ALL).unwrap().to_be();
    address.sll_ifindex = link.try_into().unwrap();
    let length = size_of::<libc::sockaddr_ll>().try_into().unwrap();
    // SAFETY: the kernel reads one living sockaddr_ll of the given length.
    let result = unsafe { libc::bind(socket.as_raw_fd(), ptr::from_ref(&address).cast(), length) };
    Errno::result(result).unwrap();
}

/// The address in a text of six parts.
pub fn mac(text: &str) -> Mac {
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

/// A frame.
pub fn frame(to: Mac, from: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from[..], &kind.to_be_bytes()[..], payload].concat()
}

/// The frame with VLAN tags, the outermost first: each the kind of the tag, and the VLAN.
pub fn tagged(frame: &[u8], tags: &[(u16, u16)]) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(12);
    let tags = tags.iter().flat_map(|(kind, vlan)| [kind.to_be_bytes(), vlan.to_be_bytes()].concat());
    [addresses, &tags.collect::<Vec<_>>(), rest].concat()
}

/// An ARP reply to everyone that nobody asked for: `ip` is at `at` (RFC 5227, section 3).
pub fn gratuitous_arp(ip: Ipv4Addr, at: Mac) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, 2];
    [&head[..], &at[..], &ip.octets()[..], &at[..], &ip.octets()[..]].concat()
}

/// An IPv4 packet that asks for an echo.
pub fn echo_request(from: Ipv4Addr, to: Ipv4Addr, ident: u16) -> Vec<u8> {
    let mut icmp = vec![8, 0, 0, 0];
    icmp.extend(ident.to_be_bytes());
    icmp.extend([0, 1]);
    let sum = checksum(&icmp);
    icmp[2..4].copy_from_slice(&sum);
    let mut header = vec![0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 1, 0, 0];
    header.extend(from.octets());
    header.extend(to.octets());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum);
    [header, icmp].concat()
}

/// An IPv6 packet that makes its sender a router for everything, and the prefix (64 bits) one to take an address from
/// (RFC 4861, section 4.2).
pub fn router_advertisement(from: Ipv6Addr, at: Mac, prefix: Ipv6Addr) -> Vec<u8> {
    let everyone: Ipv6Addr = "ff02::1".parse().unwrap();
    // Type, code, checksum, hop limit, flags, router's life time (1,800 s), two timers.
    let mut icmp = vec![134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
    icmp.extend([1, 1]);
    icmp.extend(at);
    // Prefix option: on-link and autonomous, both life times an hour.
    icmp.extend([3, 4, 64, 0xc0, 0, 0, 14, 16, 0, 0, 14, 16, 0, 0, 0, 0]);
    icmp.extend(prefix.octets());
    let length = u16::try_from(icmp.len()).unwrap().to_be_bytes();
    let pseudo = [&from.octets()[..], &everyone.octets()[..], &[0, 0], &length, &[0, 0, 0, 58], &icmp].concat();
    let sum = checksum(&pseudo);
    icmp[2..4].copy_from_slice(&sum);
    let head = [&[0x60, 0, 0, 0][..], &length, &[58, 255]].concat();
    [&head[..], &from.octets(), &everyone.octets(), &icmp].concat()
}

/// The internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap()).to_be_bytes()
}
