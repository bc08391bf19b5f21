//! A published port at 127.0.0.1: packets with a loopback source leave the host only by a link that is told to let them.
//!
//! What this opens is closed again for everyone else by the [`guard`], which is there before. There is no such way for
//! `::1`.

use cni::Error;
use netlink::nft::Family;
use netlink::{Socket, link, route};

use crate::add::failed;
use crate::config::{Backend, Target};
use crate::guard;

/// Lets them pass by the link that the pod is on; it stays so. No such link, or the pod is behind a gateway: nothing is
/// done.
pub(crate) fn open(socket: &mut Socket, target: &Target<'_>) -> Result<(), Error> {
    let pod = target.pod.addr();
    let link = link_of(socket, target).map_err(|e| failed(&format!("look for the route to {pod}"), &e))?;
    let Some(index) = link else { return Ok(()) };
    if target.plan.backend == Backend::Iptables {
        guard::close()?;
    }
    link::route_localnet(socket, index)
        .map_err(|e| failed(&format!("set route_localnet on the link that leads to {pod}"), &e))
}

/// Whether the link that the pod is on lets them pass; its name if not.
pub(crate) fn closed(socket: &mut Socket, target: &Target<'_>) -> netlink::Result<Option<String>> {
    let Some(index) = link_of(socket, target)? else { return Ok(None) };
    // The kernel lets them pass if either says so (`IN_DEV_ROUTE_LOCALNET` in `include/linux/inetdevice.h`).
    if link::routes_localnet(socket, index)? != Some(false) || is_open_for_all() {
        return Ok(None);
    }
    Ok(link::by_index(socket, index)?.map(|link| link.name))
}

fn is_open_for_all() -> bool {
    host::sysctl::get("net/ipv4/conf/all/route_localnet").is_ok_and(|value| value != "0")
}

/// Whether there is a link to be opened, and with it something to be guarded.
pub(crate) fn has_link(socket: &mut Socket, target: &Target<'_>) -> netlink::Result<bool> {
    Ok(link_of(socket, target)?.is_some())
}

fn link_of(socket: &mut Socket, target: &Target<'_>) -> netlink::Result<Option<u32>> {
    if target.family() == Family::Ip { route::link_of_neighbour(socket, target.pod.addr()) } else { Ok(None) }
}
