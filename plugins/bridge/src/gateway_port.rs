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
    /// VLANs in which its port is as well: the bridge's default, and others of untagged frames.
    also_in: Vec<VlanRange>,
    /// Its port does not say whose it is.
    unnamed: bool,
    /// Its MTU is larger than the pods'.
    too_large: bool,
}

/// The gateway of a VLAN that a pod needs.
pub(crate) struct Wanted<'w> {
    pub(crate) plan: &'w Plan,
    pub(crate) bridge: &'w Bridge,
    pub(crate) vlan: u16,
    /// Of the pod's link, in bytes, if one was asked for.
    pub(crate) mtu: Option<u32>,
}

impl Wanted<'_> {
    /// The gateway's link if it is as the plan wants it. Nothing is changed.
    pub(crate) fn ready(&self, socket: &mut Socket) -> Result<Option<GatewayLink>, Error> {
        let Some(found) = find(socket, self.bridge.index, &self.bridge.name, self.vlan)? else { return Ok(None) };
        let amiss = self.amiss(socket, &found)?;
        let is_deaf = found.maker == Maker::SomebodyElse || found.gateway.accept_ra.unwrap_or(0) == 0;
        let is_ready = amiss == Amiss::default() && is_deaf;
        Ok(is_ready.then(|| self.describe(&found)))
    }

    /// Makes sure that the host takes part in the VLAN by a link that can have the gateway's addresses. The caller holds
    /// the lock alone.
    pub(crate) fn ensure(&self, socket: &mut Socket, undo: &mut Undo<'_>) -> Result<GatewayLink, Error> {
        match find(socket, self.bridge.index, &self.bridge.name, self.vlan)? {
            Some(found) => {
                self.reconcile(socket, &found)?;
                Ok(self.describe(&found))
            }
            None => self.make(socket, undo),
        }
    }

    /// What [`reconcile`](Self::reconcile) has to mend.
    fn amiss(&self, socket: &mut Socket, found: &Found) -> Result<Amiss, Error> {
        let &Self { plan, bridge, vlan, mtu } = self;
        let mut amiss = Amiss { down: !found.gateway.is_up(), ..Amiss::default() };
        let asked = found.port.as_ref().map_or(bridge.index, |port| port.index);
        let vlans = netlink::bridge::vlans(socket, asked).map_err(|e| failed(&found.gateway.name, &e))?;
        let Some(port) = &found.port else {
            amiss.not_in_vlan = !is_tagged(&vlans, vlan);
            return Ok(amiss);
        };
        amiss.down |= !port.is_up();
        amiss.off_bridge = port.master != Some(bridge.index);
        amiss.not_in_vlan = !vlans.contains(&VlanRange::access(vlan));
        if found.maker == Maker::SomebodyElse {
            // The rest is theirs to decide.
            return Ok(amiss);
        }
        amiss.too_large = mtu.is_some_and(|mtu| found.gateway.mtu > mtu);
        amiss.unnamed = found.maker == Maker::Us && !is_marked(port);
        let default = bridge.default_vlan;
        if amiss.not_in_vlan {
            // What took the place of its own.
            amiss.also_in.extend(vlans.iter().filter(|range| range.untagged && !range.contains(default)));
        }
        if !plan.vlans.keep_default && default != vlan && vlans.iter().any(|range| range.contains(default)) {
            amiss.also_in.push(VlanRange::access(default));
        }
        Ok(amiss)
    }

    /// Mends a gateway that is there; one of somebody else's is refused where it differs, and only set up.
    fn reconcile(&self, socket: &mut Socket, found: &Found) -> Result<(), Error> {
        let &Self { plan, bridge, vlan, mtu } = self;
        let (gateway, name) = (&found.gateway, &found.gateway.name);
        let amiss = self.amiss(socket, found)?;
        if found.maker == Maker::SomebodyElse && (amiss.off_bridge || amiss.not_in_vlan) {
            return Err(self.refused(found));
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
            let mut leave = amiss.also_in;
            // A port that comes to a bridge starts in its default VLAN.
            if amiss.off_bridge && !plan.vlans.keep_default && ![0, vlan].contains(&bridge.default_vlan) {
                leave.push(VlanRange::access(bridge.default_vlan));
            }
            let join = Some(VlanRange::access(vlan)).filter(|_| amiss.off_bridge || amiss.not_in_vlan);
            push_vlans(&mut request, port.index, &leave, join.as_slice());
            if amiss.unnamed {
                push_name(&mut request, port.index, bridge);
            }
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

    fn make(&self, socket: &mut Socket, undo: &mut Undo<'_>) -> Result<GatewayLink, Error> {
        let &Self { plan, bridge, vlan, mtu } = self;
        let name = gateway_port(&bridge.name, vlan);
        let port = identity(&bridge.name, vlan);
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
        let undone = name.clone();
        undo.push("removing the gateway port", move || remove(&undone, gateway_mac, vlan));
        created.map_err(|e| failed(&name, &e))?;
        let gone = || failed(&name, &Errno::ENODEV.into());
        let gateway = link::by_name(socket, &name).map_err(|e| failed(&name, &e))?.ok_or_else(gone)?;
        let index = gateway.peer.ok_or_else(gone)?;
        // Before it is up: a router is not listened to, and the link-local address, by which the host asks for its first
        // pods, is there at once.
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
        push_name(&mut request, index, bridge);
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

    /// Says what to do about a gateway of somebody else's that does not lead into the VLAN.
    fn refused(&self, found: &Found) -> Error {
        let (name, bridge, vlan) = (&found.gateway.name, &self.bridge.name, self.vlan);
        let text = format!(
            "gateway port \"{name}\": a link of this name exists, which does not lead into VLAN {vlan} of \"{bridge}\", and \
             it was not made by this plugin"
        );
        match found.port {
            Some(_) => Error::internal(text).with_details(
                "the gateway of a VLAN needs this name: rename that link, or put its other end into the VLAN",
            ),
            None => Error::internal(format!("{text}: the bridge itself is not in the VLAN"))
                .with_details(format!("bridge vlan add dev {bridge} vid {vlan} self")),
        }
    }

    fn describe(&self, found: &Found) -> GatewayLink {
        GatewayLink {
            index: found.gateway.index,
            name: found.gateway.name.clone(),
            mac: found.gateway.mac,
            is_ours: found.maker == Maker::Us,
            bridge: self.bridge.index,
            vlan: Some(self.vlan),
            port: found.port.as_ref().map(|port| (port.index, port.name.clone())),
        }
    }
}

/// Says what CHECK finds amiss with the gateway of a VLAN: what is found, and what is expected.
pub(crate) fn check(socket: &mut Socket, bridge: &Link, vlan: u16) -> Result<Link, (String, String)> {
    let name = gateway_port(&bridge.name, vlan);
    let asked = |error: Error| (error.to_string(), format!("the gateway of VLAN {vlan}"));
    let Some(found) = find(socket, bridge.index, &bridge.name, vlan).map_err(asked)? else {
        return Err(("no such link".to_owned(), format!("the gateway of VLAN {vlan}")));
    };
    if !found.gateway.is_up() {
        return Err((format!("\"{name}\" down"), "it up".to_owned()));
    }
    let Some(port) = &found.port else {
        let own = netlink::bridge::vlans(socket, bridge.index).map_err(|e| asked(failed(&name, &e)))?;
        return match is_tagged(&own, vlan) {
            true => Ok(found.gateway),
            false => Err((format!("\"{}\" itself not tagged in VLAN {vlan}", bridge.name), format!("VLAN {vlan}"))),
        };
    };
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

/// Whether no port of the bridge but the gateway's own is in the VLAN. The bridge is that on which the gateway is now.
pub(crate) fn is_unused(socket: &mut Socket, vlan: u16, gateway: u32) -> netlink::Result<bool> {
    let Some(lower) = link::by_index(socket, gateway)?.and_then(|link| link.peer) else { return Ok(true) };
    let Some(lower) = link::by_index(socket, lower)? else { return Ok(true) };
    let bridge = if lower.is("bridge") { Some(lower.index) } else { lower.master };
    Ok(match bridge {
        Some(bridge) => is_alone(&port_vlans(socket)?, bridge, lower.index, vlan),
        None => true,
    })
}

/// Whether no other port of the bridge is in the VLAN.
fn is_alone(all: &[PortVlans], bridge: u32, port: u32, vlan: u16) -> bool {
    !all.iter().any(|p| p.is_port() && p.bridge == bridge && p.port != port && p.has(vlan))
}

/// Removes the gateway ports of a bridge in whose VLANs nothing else is any more: ours, and the reference's.
pub(crate) fn remove_unused(socket: &mut Socket, bridge: &Link) -> Result<(), Error> {
    // Without VLAN filtering there is none; it is one dump of all ports less.
    if !bridge.bridge.unwrap_or_default().vlan_filtering || unused(socket, bridge)?.is_empty() {
        return Ok(());
    }
    let _lock = lock::bridges()?;
    let unused = unused(socket, bridge)?;
    delete_all(socket, &unused)
}

/// The same on every bridge, and on those that are gone; goes on past errors.
pub(crate) fn remove_unused_everywhere(socket: &mut Socket) -> Result<(), Error> {
    let bridges = link::list_of(socket, "bridge").map_err(|e| looking(&e))?;
    let mut errors: Vec<_> = bridges.iter().filter_map(|bridge| remove_unused(socket, bridge).err()).collect();
    errors.extend(remove_stranded(socket).err());
    Error::first_of(errors)
}

/// Removes our gateway ports whose bridge was deleted.
fn remove_stranded(socket: &mut Socket) -> Result<(), Error> {
    if stranded(socket)?.is_empty() {
        return Ok(());
    }
    // An ADD may be about to put it on its bridge again.
    let _lock = lock::bridges()?;
    let stranded = stranded(socket)?;
    delete_all(socket, &stranded)
}

fn stranded(socket: &mut Socket) -> Result<Vec<Link>, Error> {
    let mut links = link::list_of(socket, "veth").map_err(|e| looking(&e))?;
    links.retain(|link| is_marked(link) && link.master.is_none());
    Ok(links)
}

fn delete_all(socket: &mut Socket, ports: &[Link]) -> Result<(), Error> {
    let failed = |port: &Link, e| Error::internal(format!("failed to delete the gateway port \"{}\": {e}", port.name));
    let deleted = ports.iter().map(|port| link::delete(socket, port.index).map_err(|e| failed(port, e)));
    Error::first_of(deleted.filter_map(Result::err).collect())
}

fn unused(socket: &mut Socket, bridge: &Link) -> Result<Vec<Link>, Error> {
    let candidates = gateway_ports(socket, bridge)?;
    if candidates.is_empty() {
        return Ok(Vec::new());
    }
    let all = port_vlans(socket).map_err(|e| looking(&e))?;
    let is_unused = |port: &Link, vlan| is_alone(&all, bridge.index, port.index, vlan);
    // One of the reference's is in its VLAN from the beginning.
    let is_in = |port: &Link, vlan| all.iter().any(|p| p.port == port.index && p.has(vlan));
    Ok(candidates
        .into_iter()
        .filter(|(port, vlan, maker)| is_unused(port, *vlan) && (*maker == Maker::Us || is_in(port, *vlan)))
        .map(|(port, ..)| port)
        .collect())
}

/// The ports of a bridge that lead to the gateway of a VLAN, but for somebody else's, and those which somebody has given
/// another task by putting the gateway into a VRF or on a bridge.
fn gateway_ports(socket: &mut Socket, bridge: &Link) -> Result<Vec<(Link, u16, Maker)>, Error> {
    let ports = link::ports(socket, bridge.index).map_err(|e| looking(&e))?;
    let mut found = Vec::new();
    // The other ends of pods' ports are in their namespaces.
    for port in ports.into_iter().filter(|port| port.is("veth") && !port.peer_is_elsewhere) {
        let Some(peer) = port.peer else { continue };
        let Some(gateway) = link::by_index(socket, peer).map_err(|e| looking(&e))? else { continue };
        let Some(vlan) = vlan_of(&gateway.name, &bridge.name).filter(|_| gateway.master.is_none()) else { continue };
        let maker = maker(&port, &bridge.name, vlan);
        if maker != Maker::SomebodyElse {
            found.push((port, vlan, maker));
        }
    }
    Ok(found)
}

/// The VLAN whose gateway has this name on a bridge.
fn vlan_of(gateway: &str, bridge: &str) -> Option<u16> {
    let vlan = gateway.strip_prefix(bridge)?.strip_prefix('.')?.parse().ok()?;
    (gateway_port(bridge, vlan) == gateway).then_some(vlan)
}

/// Who made the port of a VLAN's gateway. Name and address tell of ours whose maker was killed before it could say so.
fn maker(port: &Link, bridge: &str, vlan: u16) -> Maker {
    let own = identity(bridge, vlan);
    match () {
        () if is_marked(port) => Maker::Us,
        () if port.name == own.host_ifname(0) && port.mac == Some(own.host_mac()) => Maker::Us,
        () if is_the_references(port) => Maker::Reference,
        () => Maker::SomebodyElse,
    }
}

/// Of bridge and VLAN, so that whoever looks for the port finds it.
fn identity(bridge: &str, vlan: u16) -> Attachment {
    let (container_id, ifname) = ("gateway".to_owned(), gateway_port(bridge, vlan));
    Attachment { network: bridge.to_owned(), container_id, ifname }
}

fn is_marked(port: &Link) -> bool {
    port.alias.as_deref().is_some_and(|alias| alias.starts_with(GATEWAY_PORT_MARK))
}

/// The reference names its ports `veth` and eight digits at random, and says no more of them.
fn is_the_references(port: &Link) -> bool {
    let digits = port.name.strip_prefix("veth").unwrap_or_default();
    port.alias.is_none() && digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Whether frames of the VLAN come with its tag.
fn is_tagged(vlans: &[VlanRange], vlan: u16) -> bool {
    vlans.iter().any(|range| range.contains(vlan) && !range.untagged)
}

/// Errors: the name is that of a link that is no gateway of the VLAN.
fn find(socket: &mut Socket, bridge: u32, bridge_name: &str, vlan: u16) -> Result<Option<Found>, Error> {
    let name = &gateway_port(bridge_name, vlan);
    let Some(gateway) = link::by_name(socket, name).map_err(|e| failed(name, &e))? else { return Ok(None) };
    let lower = gateway.peer.filter(|_| !gateway.peer_is_elsewhere);
    if gateway.vlan == Some(vlan) && lower == Some(bridge) {
        return Ok(Some(Found { gateway, port: None, maker: Maker::SomebodyElse }));
    }
    let port = match lower.filter(|_| gateway.is("veth")) {
        Some(peer) => link::by_index(socket, peer).map_err(|e| failed(name, &e))?,
        None => None,
    };
    let Some(port) = port else {
        let kind = gateway.kind.as_deref().unwrap_or("physical");
        return Err(Error::internal(format!(
            "gateway port \"{name}\": a link of this name exists, which does not lead into VLAN {vlan} of the bridge (it \
             is a {kind} link)"
        ))
        .with_details("the gateway of a VLAN needs this name: rename that link, or name another bridge"));
    };
    let maker = maker(&port, bridge_name, vlan);
    Ok(Some(Found { gateway, port: Some(port), maker }))
}

/// Appends the request that says whose a port is.
fn push_name(request: &mut Request, port: u32, bridge: &Bridge) {
    link::push_alias(request, port, &format!("{GATEWAY_PORT_MARK} of {}", bridge.name));
}

/// Takes back a gateway port that this call made (its random address tells), unless another pod of the VLAN relies on it
/// by now.
fn remove(name: &str, mac: link::Mac, vlan: u16) -> Result<(), Error> {
    let _lock = lock::bridges()?;
    let mut socket = Socket::open(Protocol::Route).map_err(|e| failed(name, &e))?;
    let made = link::by_name(&mut socket, name).map_err(|e| failed(name, &e))?.filter(|link| link.mac == Some(mac));
    match made {
        Some(link) if is_unused(&mut socket, vlan, link.index).map_err(|e| failed(name, &e))? => {
            link::delete(&mut socket, link.index).map_err(|e| failed(name, &e))
        }
        _ => Ok(()),
    }
}

fn failed(name: &str, error: &netlink::Error) -> Error {
    Error::internal(format!("gateway port \"{name}\": {error}"))
}

fn looking(error: &netlink::Error) -> Error {
    Error::internal(format!("failed to look for gateway ports that nobody needs: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_alone_until_another_of_its_bridge_is_in_its_vlan() {
        let port = |port, bridge, vlans: &[VlanRange]| PortVlans { port, bridge, vlans: vlans.to_vec() };
        let gateway = port(7, 3, &[VlanRange::access(100)]);
        let alone = |other: PortVlans| is_alone(&[gateway.clone(), other], 3, 7, 100);
        assert!(alone(port(8, 3, &[VlanRange::access(200), VlanRange::tagged(101, 300)])));
        assert!(alone(port(8, 4, &[VlanRange::access(100)])), "of another bridge");
        assert!(alone(port(3, 3, &[VlanRange::tagged(100, 100)])), "the bridge itself");
        assert!(!alone(port(8, 3, &[VlanRange::access(100)])));
        assert!(!alone(port(8, 3, &[VlanRange::access(1), VlanRange::tagged(2, 4094)])));
    }

    #[test]
    fn the_vlan_of_a_gateway_is_in_its_name() {
        assert_eq!(vlan_of("br0.100", "br0"), Some(100));
        for other in ["br0.0100", "br0.+100", "br0.x", "br01.100", "br0.100.1", "br0"] {
            assert_eq!(vlan_of(other, "br0"), None, "{other}");
        }
    }

    #[test]
    fn a_half_made_port_is_known_by_name_and_address() {
        let own = identity("br0", 100);
        let half = Link { name: own.host_ifname(0), mac: Some(own.host_mac()), ..Link::default() };
        assert_eq!(maker(&half, "br0", 100), Maker::Us);
        assert_eq!(maker(&half, "br0", 101), Maker::Reference, "by its name alone");
        assert_eq!(maker(&Link { mac: None, ..half }, "br0", 100), Maker::Reference);
    }
}
