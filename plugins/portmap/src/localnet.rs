//! A published port at 127.0.0.1: packets with a loopback source leave the host only by a link that is told to let them.
//!
//! What this opens is closed again for everyone else by the guard chain (`native/layout.rs`): with the setting alone a
//! neighbour could reach what listens at 127.0.0.1 (kubernetes/kubernetes#90259). There is no such way for `::1`.

use cni::Error;
use netlink::nft::Family;
use netlink::{Socket, link, route};

use crate::add::failed;
use crate::config::Target;

/// Lets them pass by the link that leads to the pod; it stays so. No such link: nothing is done.
pub(crate) fn open(socket: &mut Socket, target: &Target<'_>) -> Result<(), Error> {
    if target.family() != Family::Ip {
        return Ok(());
    }
    let pod = target.pod.addr();
    let Some(index) = route::link_to(socket, pod).map_err(|e| failed(&format!("look for the route to {pod}"), &e))?
    else {
        return Ok(());
    };
    link::route_localnet(socket, index)
        .map_err(|e| failed(&format!("set route_localnet on the link that leads to {pod}"), &e))
}

/// Whether the link that leads to the pod lets them pass; its name if not.
pub(crate) fn closed(socket: &mut Socket, target: &Target<'_>) -> netlink::Result<Option<String>> {
    if target.family() != Family::Ip {
        return Ok(None);
    }
    let Some(index) = route::link_to(socket, target.pod.addr())? else { return Ok(None) };
    let Some(link) = link::by_index(socket, index)? else { return Ok(None) };
    let value = host::sysctl::get(&format!("net/ipv4/conf/{}/route_localnet", link.name));
    Ok((!value.is_ok_and(|v| v == "1")).then_some(link.name))
}
