//! Settings of the network that the kernel also tells by netlink (`RTM_GETNETCONF`).
//!
//! Source: `inet_netconf_get_devconf` in `net/ipv4/devinet.c`. Asking here costs the same with a thousand network
//! namespaces as with one; looking for the file below `/proc/sys/net` does not.

use nix::errno::Errno;
use nix::libc;

use crate::wire::{ACK, Attrs, Request, u32_ne};
use crate::{Result, Socket};

const NETCONFMSG_LEN: usize = 4;
const NETCONFA_IFINDEX: u16 = 1;
const NETCONFA_FORWARDING: u16 = 2;
const NETCONFA_IFINDEX_ALL: i32 = -1;

/// Whether the host forwards packets of a family between its links.
pub fn is_forwarding(socket: &mut Socket, v6: bool) -> Result<bool> {
    let family = u8::try_from(if v6 { libc::AF_INET6 } else { libc::AF_INET }).unwrap_or(0);
    let mut request = Request::new();
    request.message(libc::RTM_GETNETCONF, ACK, |w| {
        w.header(&[family]).u32(NETCONFA_IFINDEX, NETCONFA_IFINDEX_ALL.cast_unsigned());
    });
    let answer = socket.get(
        &request,
        |_| false,
        |m| {
            (m.kind == libc::RTM_NEWNETCONF)
                .then(|| Attrs::behind(m.body, NETCONFMSG_LEN).find(NETCONFA_FORWARDING).and_then(u32_ne))
                .flatten()
        },
    )?;
    Ok(answer.ok_or(Errno::ENODATA)? != 0)
}
