//! Neighbours (`RTM_*NEIGH`).

use std::net::IpAddr;

use nix::errno::Errno;
use nix::libc;

use crate::{Result, Socket};

const NDMSG_LEN: usize = 12;
const NDA_DST: u16 = 1;

/// Forgets what the host believes to know of an address on a link; no error if it knows nothing.
pub fn forget(socket: &mut Socket, link: u32, ip: IpAddr) -> Result<()> {
    let mut header = [0; NDMSG_LEN];
    let family = if ip.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
    header[0] = u8::try_from(family).unwrap_or(0);
    header[4..8].copy_from_slice(&link.to_ne_bytes());
    let result = socket.request(libc::RTM_DELNEIGH, 0, |w| {
        w.header(&header);
        match ip {
            IpAddr::V4(ip) => w.attr(NDA_DST, &ip.octets()),
            IpAddr::V6(ip) => w.attr(NDA_DST, &ip.octets()),
        };
    });
    match result {
        Err(error) if error.is(Errno::ENOENT) => Ok(()),
        result => result,
    }
}
