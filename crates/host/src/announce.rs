//! Telling the neighbours of a link which link layer address its IP addresses have.

use netlink::wire::Request;
use netlink::{Socket, link};

use crate::sysctl::{Dir, Refused};

/// Sets a link's address, its present one or another, and lets the link announce all its IP addresses by it (gratuitous
/// ARP, unsolicited neighbour advertisements): whoever knew an earlier owner learns of the new one at once, instead of
/// after 10-40 s.
///
/// `settings` are IPv6's of the links (`net/ipv6/conf`) of the socket's namespace, if IPv6 is to be announced, too.
///
/// The kernel sends them itself when a link is given an address, even the same again. A packet socket could do it too,
/// but closing one waits for a grace period of several milliseconds. The link's settings for this (`arp_notify`,
/// `ndisc_notify`) stay on. `Some`: IPv6 is not announced, as this may not be switched on.
pub fn set_mac(
    socket: &mut Socket,
    settings: Option<&Dir>,
    index: u32,
    name: &str,
    mac: link::Mac,
) -> netlink::Result<Option<Refused>> {
    let refused = settings.and_then(|settings| settings.attempt(&format!("{name}/ndisc_notify"), "1"));
    let mut request = Request::new();
    link::push_arp_notify(&mut request, index);
    link::push_mac(&mut request, index, mac);
    socket.transact(&request, |_| ())?;
    Ok(refused)
}
