//! SCTP's first two packets (RFC 9260, INIT and INIT ACK) over raw sockets: kernels without SCTP translate them, too.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

use nix::{
    libc,
    sys::{
        socket::{MsgFlags, SockaddrStorage, recvfrom, sendto, setsockopt, sockopt::ReceiveTimeout},
        time::TimeVal,
    },
};

use crate::{Place, settings, traffic::PATIENCE};

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const TAG: [u8; 4] = [1, 2, 3, 4];
const CLIENT_PORT: u16 = 40_000;

/// Sends INIT to `to`, lets the server at `server` in another place answer it, and returns the client's address that
/// the server sees. `None`: one of the two packets does not arrive, or not as it has to be.
pub fn associate(from: &impl Place, to: SocketAddr, server: &impl Place, at: SocketAddr) -> Option<IpAddr> {
    let (client, server) = (from.enter(|| raw(to.ip()).unwrap()), server.enter(|| raw(at.ip()).unwrap()));
    let deadline = Instant::now() + PATIENCE * settings::slowness();
    while Instant::now() < deadline {
        _ = send(&client, to.ip(), &packet(INIT, CLIENT_PORT, to.port(), [0; 4]));
        let Some((peer, init)) = receive(&server, INIT, at.port()) else { continue };
        let source = u16::from_be_bytes([init[0], init[1]]);
        _ = send(&server, peer, &packet(INIT_ACK, at.port(), source, TAG));
        if let Some((peer_of_client, ack)) = receive(&client, INIT_ACK, CLIENT_PORT) {
            let answered_from = u16::from_be_bytes([ack[0], ack[1]]);
            return ((peer_of_client, answered_from) == (to.ip(), to.port())).then_some(peer);
        }
    }
    None
}

fn raw(family_of: IpAddr) -> io::Result<OwnedFd> {
    let family = if family_of.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: a plain system call.
    let fd = unsafe { libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_SCTP) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was opened just now, and nobody else knows it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    setsockopt(&socket, ReceiveTimeout, &TimeVal::new(0, 20_000)).unwrap();
    Ok(socket)
}

fn send(socket: &OwnedFd, to: IpAddr, packet: &[u8]) -> nix::Result<usize> {
    sendto(socket.as_raw_fd(), packet, &SockaddrStorage::from(SocketAddr::new(to, 0)), MsgFlags::empty())
}

/// The packet with this chunk for this port, and who sent it; `None`: none came, or its checksum is wrong.
fn receive(socket: &OwnedFd, chunk: u8, port: u16) -> Option<(IpAddr, Vec<u8>)> {
    let end = Instant::now() + Duration::from_millis(200);
    while Instant::now() < end {
        let mut buffer = [0; 256];
        let Ok((length, Some(peer))) = recvfrom::<SockaddrStorage>(socket.as_raw_fd(), &mut buffer) else { continue };
        let v4 = peer.as_sockaddr_in().map(|peer| IpAddr::V4(peer.ip()));
        let v6 = peer.as_sockaddr_in6().map(|peer| IpAddr::V6(peer.ip()));
        // The kernel keeps the IPv6 header for itself.
        let packet = &buffer[if v4.is_some() { 20 } else { 0 }..length];
        if packet.len() >= 32 && packet[12] == chunk && packet[2..4] == port.to_be_bytes() {
            return (checksum(packet) == packet[8..12]).then(|| (v4.or(v6).unwrap(), packet.to_vec()));
        }
    }
    None
}

fn packet(chunk: u8, source: u16, destination: u16, tag: [u8; 4]) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend(source.to_be_bytes());
    packet.extend(destination.to_be_bytes());
    packet.extend(tag);
    packet.extend([0; 4]);
    // Chunk, flags, length; initiate tag, window, streams in both directions, first sequence number.
    packet.extend([chunk, 0, 0, 20]);
    packet.extend(TAG);
    packet.extend([0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    let sum = checksum(&packet);
    packet[8..12].copy_from_slice(&sum);
    packet
}

/// CRC32c over the packet with a checksum of 0, as it is sent.
fn checksum(packet: &[u8]) -> [u8; 4] {
    let mut crc = u32::MAX;
    for (n, byte) in packet.iter().enumerate() {
        crc ^= u32::from(if (8..12).contains(&n) { 0 } else { *byte });
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    (!crc).to_le_bytes()
}
