//! The gateway of a VLAN: a veth pair of the host's, one end a port of the bridge in that VLAN, the other, named
//! `<bridge>.<vlan>`, with the gateway's addresses. It goes with the last port of its VLAN.
//!
//! Nobody counts: a gateway port is in use as long as another port of the bridge is in its VLAN, whoever made that. A
//! pod's port joins its VLAN under the lock under which the gateway port was seen, and unused ones are removed under it.

use cni::{Attachment, Error};
use host::sysctl::Dir;
use host::undo::Undo;
use netlink::bridge::{PortVlans, VlanRange, port_vlans, push_vlans};
use netlink::link::{self, Link, NewVeth};
use netlink::wire::Request;
use netlink::{Errno, Protocol, Socket};

use crate::bridge::{Bridge, GATEWAY_PORT_MARK, V6_CONF, refuse_advertisements};
use crate::config::{Plan, gateway_port};
use crate::gateway::GatewayLink;
use crate::lock;

/// What has the name of a VLAN's gateway.
struct Found {
    gateway: Link,
    /// The other end; `None` for a link of the kind `vlan` on top of the bridge.
    port: Option<Link>,
    maker: Maker,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Maker {
    Us,
    Reference,
    /// Looked at, and used as it is.
    SomebodyElse,
}

/// What is amiss with a gateway that is there.
#[derive(Debug, Default, PartialEq, Eq)]
struct Amiss {
    /// One of its ends is down.
    down: bool,
    /// Its port is not on the bridge.
    off_bridge: bool,
    /// Its port is not in the VLAN, untagged.
    not_in_vlan: bool,
    /// Its port is in the bridge's default VLAN as well.
    in_default: bool,
    /// Its MTU is larger than the pods'.
    too_large: bool,
}

/// The gateway's link of a VLAN if it is as the plan wants it. Nothing is changed.
pub(crate) fn ready(
    socket: &mut Socket,
    plan: &Plan,
    bridge: &Bridge,
    vlan: u16,
    mtu: Option<u32>,
) -> Result<Option<GatewayLink>, Error> {
    let name = gateway_port(&bridge.name, vlan);
    let Some(found) = find(socket, bridge.index, &name, vlan)? else { return Ok(None) };
    let amiss = amiss(socket, plan, bridge, vlan, mtu, &found)?;
    let is_deaf = found.maker == Maker::SomebodyElse || found.gateway.accept_ra.unwrap_or(0) == 0;
    let is_ready = amiss == Amiss::default() && is_deaf;
    Ok(is_ready.then(|| describe(bridge, vlan, &found)))
}

/// Makes sure that the host takes part in a VLAN by a link that can have the gateway's addresses. The caller holds the
/// lock alone.
pub(crate) fn ensure(
    socket: &mut Socket,
    plan: &Plan,
    bridge: &Bridge,
    vlan: u16,
    mtu: Option<u32>,
    undo: &mut Undo<'_>,
) -> Result<GatewayLink, Error> {
    let name = gateway_port(&bridge.name, vlan);
    match find(socket, bridge.index, &name, vlan)? {
        Some(found) => {
            reconcile(socket, plan, bridge, vlan, mtu, &found)?;
            Ok(describe(bridge, vlan, &found))
        }
        None => make(socket, plan, bridge, vlan, mtu, undo),
    }
}

/// Says what CHECK finds amiss with the gateway of a VLAN: what is found, and what is expected.
pub(crate) fn check(socket: &mut Socket, bridge: &Link, vlan: u16) -> Result<Link, (String, String)> {
    let name = gateway_port(&bridge.name, vlan);
    let asked = |error: Error| (error.to_string(), format!("the gateway of VLAN {vlan}"));
    let Some(found) = find(socket, bridge.index, &name, vlan).map_err(asked)? else {
        return Err(("no such link".to_owned(), format!("the gateway of VLAN {vlan}")));
    };
    if !found.gateway.is_up() {
        return Err((format!("\"{name}\" down"), "it up".to_owned()));
    }
    let Some(port) = &found.port else { return Ok(found.gateway) };
    if !port.is_up() {
        return Err((format!("its port \"{}\" down", port.name), "it up".to_owned()));
    }
    if port.master != Some(bridge.index) {
        return Err((
            format!("its port \"{}\" not on the bridge", port.name),
            format!("a port of \"{}\"", bridge.name),
        ));
    }
    let vlans = netlink::bridge::vlans(socket, port.index).map_err(|e| asked(failed(&name, &e)))?;
    if !vlans.contains(&VlanRange::access(vlan)) {
        return Err((format!("its port \"{}\" not untagged in VLAN {vlan}", port.name), format!("VLAN {vlan}")));
    }
    Ok(found.gateway)
}

/// Whether no port of the bridge but the gateway's own is in the VLAN.
pub(crate) fn is_unused(socket: &mut Socket, bridge: u32, vlan: u16, gateway: u32) -> netlink::Result<bool> {
    let own = link::by_index(socket, gateway)?.and_then(|link| link.peer);
    let is_other = |p: &PortVlans| p.is_port() && p.bridge == bridge && Some(p.port) != own && p.has(vlan);
    Ok(!port_vlans(socket)?.iter().any(is_other))
}

/// Removes the gateway ports of a bridge in whose VLANs nothing else is any more: ours, and the reference's.
pub(crate) fn remove_unused(socket: &mut Socket, bridge: &Link) -> Result<(), Error> {
    // Without VLAN filtering there is none; it is one dump of all ports less.
    if !bridge.bridge.unwrap_or_default().vlan_filtering || unused(socket, bridge)?.is_empty() {
        return Ok(());
    }
    let _lock = lock::bridges()?;
    for port in unused(socket, bridge)? {
        link::delete(socket, port.index)
            .map_err(|e| Error::internal(format!("failed to delete the gateway port \"{}\": {e}", port.name)))?;
    }
    Ok(())
}

/// The same on every bridge.
pub(crate) fn remove_unused_everywhere(socket: &mut Socket) -> Result<(), Error> {
    let bridges = link::list_of(socket, "bridge").map_err(|e| looking(&e))?;
    bridges.iter().try_for_each(|bridge| remove_unused(socket, bridge))
}

fn unused(socket: &mut Socket, bridge: &Link) -> Result<Vec<Link>, Error> {
    let all = port_vlans(socket).map_err(|e| looking(&e))?;
    let mut found = Vec::new();
    for (index, vlan) in lonely(&all, bridge.index) {
        let Some(port) = link::by_index(socket, index).map_err(|e| looking(&e))? else { continue };
        let peer = match port.peer.filter(|_| port.is("veth") && !port.peer_is_elsewhere) {
            Some(peer) => link::by_index(socket, peer).map_err(|e| looking(&e))?,
            None => None,
        };
        let is_its_gateway = |gateway: &Link| gateway.name == gateway_port(&bridge.name, vlan);
        if is_marked(&port) || is_the_references(&port) && peer.as_ref().is_some_and(is_its_gateway) {
            found.push(port);
        }
    }
    Ok(found)
}

/// The ports of a bridge that are alone in the VLAN of their untagged frames.
fn lonely(all: &[PortVlans], bridge: u32) -> Vec<(u32, u16)> {
    let ports: Vec<_> = all.iter().filter(|p| p.is_port() && p.bridge == bridge).collect();
    let access = |p: &PortVlans| p.vlans.iter().find(|range| range.pvid && range.untagged).map(|range| range.first);
    ports
        .iter()
        .filter_map(|p| Some((p.port, access(p)?)))
        .filter(|(port, vlan)| !ports.iter().any(|p| p.port != *port && p.has(*vlan)))
        .collect()
}

fn is_marked(port: &Link) -> bool {
    port.alias.as_deref().is_some_and(|alias| alias.starts_with(GATEWAY_PORT_MARK))
}

/// The reference names its ports `veth` and eight digits at random, and says no more of them.
fn is_the_references(port: &Link) -> bool {
    let digits = port.name.strip_prefix("veth").unwrap_or_default();
    port.alias.is_none() && digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Errors: the name is that of a link that is no gateway of the VLAN.
fn find(socket: &mut Socket, bridge: u32, name: &str, vlan: u16) -> Result<Option<Found>, Error> {
    let Some(gateway) = link::by_name(socket, name).map_err(|e| failed(name, &e))? else { return Ok(None) };
    if gateway.vlan == Some(vlan) && gateway.peer == Some(bridge) {
        return Ok(Some(Found { gateway, port: None, maker: Maker::SomebodyElse }));
    }
    let port = match gateway.peer.filter(|_| gateway.is("veth") && !gateway.peer_is_elsewhere) {
        Some(peer) => link::by_index(socket, peer).map_err(|e| failed(name, &e))?,
        None => None,
    };
    let Some(port) = port else {
        let kind = gateway.kind.as_deref().unwrap_or("physical");
        return Err(Error::internal(format!(
            "failed to make the gateway port \"{name}\": a link of this name exists, which does not lead into VLAN {vlan} \
             of the bridge (it is a {kind} link)"
        ))
        .with_details("the gateway of a VLAN needs this name: rename that link, or name another bridge"));
    };
    let maker = match () {
        () if is_marked(&port) => Maker::Us,
        () if is_the_references(&port) => Maker::Reference,
        () => Maker::SomebodyElse,
    };
    Ok(Some(Found { gateway, port: Some(port), maker }))
}

fn amiss(
    socket: &mut Socket,
    plan: &Plan,
    bridge: &Bridge,
    vlan: u16,
    mtu: Option<u32>,
    found: &Found,
) -> Result<Amiss, Error> {
    let mut amiss = Amiss { down: !found.gateway.is_up(), ..Amiss::default() };
    let Some(port) = &found.port else { return Ok(amiss) };
    let vlans = netlink::bridge::vlans(socket, port.index).map_err(|e| failed(&found.gateway.name, &e))?;
    let default = bridge.default_vlan;
    amiss.down |= !port.is_up();
    amiss.off_bridge = port.master != Some(bridge.index);
    amiss.not_in_vlan = !vlans.contains(&VlanRange::access(vlan));
    amiss.in_default = !plan.vlans.keep_default
        && default != vlan
        && vlans.iter().any(|range| (range.first..=range.last).contains(&default));
    amiss.too_large = mtu.is_some_and(|mtu| found.gateway.mtu > mtu);
    if found.maker == Maker::SomebodyElse {
        // Theirs to decide.
        (amiss.in_default, amiss.too_large) = (false, false);
    }
    Ok(amiss)
}

/// Mends a gateway that is there; one of somebody else's is refused where it differs, and only set up.
fn reconcile(
    socket: &mut Socket,
    plan: &Plan,
    bridge: &Bridge,
    vlan: u16,
    mtu: Option<u32>,
    found: &Found,
) -> Result<(), Error> {
    let (gateway, name) = (&found.gateway, &found.gateway.name);
    let amiss = amiss(socket, plan, bridge, vlan, mtu, found)?;
    if found.maker == Maker::SomebodyElse && (amiss.off_bridge || amiss.not_in_vlan) {
        return Err(Error::internal(format!(
            "failed to make the gateway port \"{name}\": a link of this name exists, which does not lead into VLAN {vlan} \
             of \"{}\", and it was not made by this plugin",
            bridge.name
        ))
        .with_details("the gateway of a VLAN needs this name: rename that link, or put its other end into the VLAN"));
    }
    // By one of somebody else's the host may have its own router.
    if found.maker != Maker::SomebodyElse {
        refuse_advertisements(gateway);
    }
    let mut request = Request::new();
    if let Some(port) = &found.port {
        if amiss.off_bridge {
            link::push_master(&mut request, port.index, bridge.index);
        }
        // A port that comes to a bridge starts in its default VLAN.
        let leave = amiss.in_default || amiss.off_bridge && !plan.vlans.keep_default && bridge.default_vlan != vlan;
        let leave = Some(VlanRange::access(bridge.default_vlan)).filter(|_| leave && bridge.default_vlan != 0);
        let join = Some(VlanRange::access(vlan)).filter(|_| amiss.off_bridge || amiss.not_in_vlan);
        push_vlans(&mut request, port.index, leave.as_slice(), join.as_slice());
        if let Some(mtu) = mtu.filter(|_| amiss.too_large) {
            link::push_mtu(&mut request, gateway.index, mtu);
            link::push_mtu(&mut request, port.index, mtu);
        }
    }
    if amiss.down {
        link::push_up(&mut request, gateway.index);
        found.port.iter().for_each(|port| link::push_up(&mut request, port.index));
    }
    if request.messages() == 0 {
        return Ok(());
    }
    socket.transact(&request, |_| ()).map_err(|e| failed(name, &e))
}

fn describe(bridge: &Bridge, vlan: u16, found: &Found) -> GatewayLink {
    GatewayLink {
        index: found.gateway.index,
        name: found.gateway.name.clone(),
        mac: found.gateway.mac,
        is_ours: found.maker == Maker::Us,
        bridge: bridge.index,
        vlan: Some(vlan),
        port: found.port.as_ref().map(|port| (port.index, port.name.clone())),
    }
}

fn make(
    socket: &mut Socket,
    plan: &Plan,
    bridge: &Bridge,
    vlan: u16,
    mtu: Option<u32>,
    undo: &mut Undo<'_>,
) -> Result<GatewayLink, Error> {
    let name = gateway_port(&bridge.name, vlan);
    // Named after bridge and VLAN, so that whoever looks for it finds it.
    let port = Attachment { network: bridge.name.clone(), container_id: "gateway".to_owned(), ifname: name.clone() };
    let port_name = port.host_ifname(0);
    let gateway_mac = host::mac::random().map_err(|e| failed(&name, &e.into()))?;
    let new = NewVeth {
        host_name: &port_name,
        host_mac: port.host_mac(),
        master: Some(bridge.index),
        peer_name: &name,
        peer_mac: gateway_mac,
        peer_netns: None,
        // Packets to the pods have to fit through their ports.
        mtu: mtu.or(Some(bridge.mtu)),
    };
    let created = link::create_veth(socket, &new);
    if let Err(error) = &created
        && link::is_taken(error)
    {
        return Err(failed(&name, error));
    }
    let (undone, on) = (name.clone(), bridge.index);
    undo.push("removing the gateway port", move || remove(&undone, gateway_mac, on, vlan));
    created.map_err(|e| failed(&name, &e))?;
    let gone = || failed(&name, &Errno::ENODEV.into());
    let gateway = link::by_name(socket, &name).map_err(|e| failed(&name, &e))?.ok_or_else(gone)?;
    let index = gateway.peer.ok_or_else(gone)?;
    // Before it is up: a router is not listened to, and the link-local address, by which the host asks for its first pods,
    // is there at once.
    refuse_advertisements(&gateway);
    if let Ok(settings) = Dir::open(V6_CONF) {
        let _ = settings.overwrite(&format!("{name}/accept_dad"), "0");
    }
    let mut no_address = Request::new();
    link::push_no_link_local(&mut no_address, index);
    let _ = socket.transact(&no_address, |_| ());
    let leave = !plan.vlans.keep_default && bridge.default_vlan != 0;
    let leave = Some(VlanRange::access(bridge.default_vlan)).filter(|_| leave);
    let mut request = Request::new();
    link::push_alias(&mut request, index, &format!("{GATEWAY_PORT_MARK} of {}", bridge.name));
    push_vlans(&mut request, index, leave.as_slice(), &[VlanRange::access(vlan)]);
    link::push_up(&mut request, gateway.index);
    link::push_up(&mut request, index);
    socket.transact(&request, |_| ()).map_err(|e| failed(&name, &e))?;
    Ok(GatewayLink {
        index: gateway.index,
        name,
        mac: Some(gateway_mac),
        is_ours: true,
        bridge: bridge.index,
        vlan: Some(vlan),
        port: Some((index, port_name)),
    })
}

/// Takes back a gateway port that this call made (its random address tells), unless another pod of the VLAN relies on it
/// by now.
fn remove(name: &str, mac: link::Mac, bridge: u32, vlan: u16) -> Result<(), Error> {
    let _lock = lock::bridges()?;
    let mut socket = Socket::open(Protocol::Route).map_err(|e| failed(name, &e))?;
    let made = link::by_name(&mut socket, name).map_err(|e| failed(name, &e))?.filter(|link| link.mac == Some(mac));
    match made {
        Some(link) if is_unused(&mut socket, bridge, vlan, link.index).map_err(|e| failed(name, &e))? => {
            link::delete(&mut socket, link.index).map_err(|e| failed(name, &e))
        }
        _ => Ok(()),
    }
}

fn failed(name: &str, error: &netlink::Error) -> Error {
    Error::internal(format!("failed to make the gateway port \"{name}\": {error}"))
}

fn looking(error: &netlink::Error) -> Error {
    Error::internal(format!("failed to look for gateway ports that nobody needs: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_lonely_until_another_of_its_bridge_is_in_its_vlan() {
        let port = |port, bridge, vlans: &[VlanRange]| PortVlans { port, bridge, vlans: vlans.to_vec() };
        let gateway = port(7, 3, &[VlanRange::access(100)]);
        let alone = |other: PortVlans| lonely(&[gateway.clone(), other], 3).contains(&(7, 100));
        assert!(alone(port(8, 3, &[VlanRange::access(200), VlanRange::tagged(101, 300)])));
        assert!(alone(port(8, 4, &[VlanRange::access(100)])), "of another bridge");
        assert!(!alone(port(8, 3, &[VlanRange::access(100)])));
        assert!(!alone(port(8, 3, &[VlanRange::access(1), VlanRange::tagged(2, 4094)])));
        assert_eq!(lonely(&[gateway], 4), []);
    }
}
