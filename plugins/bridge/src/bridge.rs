//! The bridge itself: made if it is missing, repaired if it is ours, looked at closely if it is not.

use std::io;

use cni::Error;
use host::sysctl::Dir;
use host::undo::Undo;
use netlink::link::{self, Link, Mac, NewBridge};
use netlink::wire::Request;
use netlink::{Errno, Protocol, Socket, addr, route};

use crate::config::{Mtu, Plan};

/// How the alias of a bridge begins that we made: only such a one is changed without being asked.
const MARK: &str = "oxbridge bridge";
/// How the alias of a VLAN's gateway port begins.
pub(crate) const GATEWAY_PORT_MARK: &str = "oxbridge gateway port";
/// Settings of links, for IPv6.
pub(crate) const V6_CONF: &str = "net/ipv6/conf";
const ACCEPT_RA: &str = "accept_ra";

/// A bridge that is as the plan wants it.
#[derive(Debug, Clone)]
pub(crate) struct Bridge {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mac: Option<Mac>,
    /// In bytes.
    pub(crate) mtu: u32,
    /// Made by this plugin (by this call or an earlier one).
    pub(crate) is_ours: bool,
    /// In which VLAN its ports start, 0 for none.
    pub(crate) default_vlan: u16,
    /// Whether the spanning tree protocol decides when its ports forward.
    pub(crate) stp: bool,
}

/// The MTU that was asked for, in bytes; `None` for the kernel's default.
pub(crate) fn wanted_mtu(socket: &mut Socket, mtu: Mtu) -> Result<Option<u32>, Error> {
    match mtu {
        Mtu::Default => Ok(None),
        Mtu::Bytes(bytes) => Ok(Some(bytes)),
        Mtu::Auto => {
            let index = route::default_link(socket).map_err(|e| Error::internal(format!("mtu \"auto\": {e}")))?;
            let link = match index {
                Some(index) => link::by_index(socket, index).ok().flatten(),
                None => None,
            };
            let link = link.ok_or_else(|| {
                Error::internal("mtu \"auto\": the host has no default route whose link would tell the MTU")
                    .with_details("give a number of bytes, or add the default route before pods start")
            })?;
            Ok(Some(link.mtu))
        }
    }
}

/// Makes sure that the bridge is there and as the plan wants it. The caller holds the lock.
pub(crate) fn ensure(socket: &mut Socket, plan: &Plan, mtu: Option<u32>, undo: &mut Undo<'_>) -> Result<Bridge, Error> {
    match get(socket, &plan.bridge)? {
        Some(link) => reconcile(socket, plan, mtu, &link, undo),
        None => create(socket, plan, mtu, undo),
    }
}

/// The bridge if it is as the plan wants it. Nothing is changed.
pub(crate) fn ready(socket: &mut Socket, plan: &Plan, mtu: Option<u32>) -> Result<Option<Bridge>, Error> {
    let Some(link) = get(socket, &plan.bridge)? else { return Ok(None) };
    refuse_foreign(plan, mtu, &link)?;
    let is_ready = link.is_up()
        && (!plan.vlans.filtering || link.bridge.unwrap_or_default().vlan_filtering)
        && mtu.is_none_or(|mtu| mtu == link.mtu)
        && (!plan.promiscuous || link.is_promiscuous())
        && refuses_advertisements(&link);
    Ok(is_ready.then(|| describe(plan, &link)))
}

/// The bridge as it is; an error if a link of another kind has its name.
pub(crate) fn get(socket: &mut Socket, name: &str) -> Result<Option<Link>, Error> {
    let link = link::by_name(socket, name).map_err(|e| failed(name, &e))?;
    match link {
        Some(link) if !link.is("bridge") => {
            let kind = link.kind.as_deref().unwrap_or("physical");
            Err(Error::internal(format!(
                "failed to create bridge \"{name}\": \"{name}\" already exists but is not a bridge (it is a {kind} link)"
            ))
            .with_details("name another bridge in the config, or rename that link"))
        }
        link => Ok(link),
    }
}

/// Whether the alias says that we made it.
pub(crate) fn is_ours(link: &Link) -> bool {
    link.alias.as_deref().is_some_and(|a| a.starts_with(MARK))
}

fn create(socket: &mut Socket, plan: &Plan, mtu: Option<u32>, undo: &mut Undo<'_>) -> Result<Bridge, Error> {
    let name = &plan.bridge;
    // Given at creation, the address stays; one that the kernel derives follows the ports, and every change of it
    // cuts the pods' connections until their neighbour entries age.
    let mac = host::mac::random().map_err(|e| Error::internal(format!("failed to create bridge \"{name}\": {e}")))?;
    let new = NewBridge { name, mac, mtu, vlan_filtering: plan.vlans.filtering };
    let created = link::create_bridge(socket, &new);
    match &created {
        // Another program was quicker.
        Err(error) if error.is(Errno::EEXIST) => {
            let link = get(socket, name)?.ok_or_else(|| failed(name, error))?;
            return reconcile(socket, plan, mtu, &link, undo);
        }
        Err(error) if plan.vlans.filtering && error.is(Errno::EOPNOTSUPP) => return Err(no_filtering(name)),
        // Also where it was not certainly refused: an answer that gets lost says nothing.
        _ => {}
    }
    let undone = name.clone();
    undo.push("removing the bridge", move || remove(&undone, mac));
    created.map_err(|e| failed(name, &e))?;
    let made = get(socket, name)?.ok_or_else(|| failed(name, &Errno::ENODEV.into()))?;
    let mut request = Request::new();
    link::push_alias(&mut request, made.index, &format!("{MARK} {name}"));
    socket.transact(&request, |_| ()).map_err(|e| failed(name, &e))?;
    if plan.vlans.filtering && !made.bridge.unwrap_or_default().vlan_filtering {
        return Err(no_filtering(name));
    }
    if let Ok(settings) = Dir::open(V6_CONF) {
        // Whoever may not write it hears of it below.
        let _ = settings.overwrite(&format!("{name}/{ACCEPT_RA}"), "0");
        // It is still down: without duplicate address detection it has its link-local address at once, by which the host
        // asks for its first pods.
        if let Some(refused) = settings.attempt(&format!("{name}/accept_dad"), "0") {
            let text = format!("{refused}, so the host finds its first pods' IPv6 addresses a second or two later");
            host::syslog::notice("bridge", &text);
        }
    }
    let link = get(socket, name)?.ok_or_else(|| failed(name, &Errno::ENODEV.into()))?;
    reconcile(socket, plan, mtu, &link, undo)
}

/// Refuses a kernel that does not filter VLANs where the plan needs it, as far as that can be known without making a
/// bridge: every one that is there tells.
pub(crate) fn refuse_kernel(socket: &mut Socket, plan: &Plan) -> Result<(), Error> {
    if !plan.vlans.filtering {
        return Ok(());
    }
    let any = link::list_of(socket, "bridge").map_err(|e| failed(&plan.bridge, &e))?.into_iter().find_map(|l| l.bridge);
    match any {
        Some(state) if !state.can_filter_vlans => Err(no_filtering(&plan.bridge)),
        _ => Ok(()),
    }
}

/// Refuses a bridge of somebody else's that is not as the plan wants it. Nothing is changed.
pub(crate) fn refuse_foreign(plan: &Plan, mtu: Option<u32>, link: &Link) -> Result<(), Error> {
    let name = &plan.bridge;
    if is_ours(link) {
        return Ok(());
    }
    if plan.vlans.filtering && !link.bridge.unwrap_or_default().vlan_filtering {
        return Err(Error::internal(format!(
            "bridge \"{name}\" does not filter VLANs, and it was not made by this plugin"
        ))
        .with_details(format!(
            "its other ports could be cut off; if that is right: ip link set {name} type bridge vlan_filtering 1"
        )));
    }
    match mtu {
        Some(mtu) if mtu != link.mtu => Err(Error::internal(format!(
            "bridge \"{name}\" has an MTU of {} bytes, the config says {mtu}, and the bridge was not made by this plugin",
            link.mtu
        ))
        .with_details(format!("change the config, or: ip link set {name} mtu {mtu}"))),
        _ => Ok(()),
    }
}

fn reconcile(
    socket: &mut Socket,
    plan: &Plan,
    mtu: Option<u32>,
    link: &Link,
    undo: &mut Undo<'_>,
) -> Result<Bridge, Error> {
    let name = &plan.bridge;
    refuse_foreign(plan, mtu, link)?;
    let state = link.bridge.unwrap_or_default();
    if plan.vlans.filtering && !state.vlan_filtering {
        match link::set_vlan_filtering(socket, name) {
            Err(error) if error.is(Errno::EOPNOTSUPP) => return Err(no_filtering(name)),
            result => result.map_err(|e| failed(name, &e))?,
        }
        let state = get(socket, name)?.and_then(|l| l.bridge).unwrap_or_default();
        if !state.vlan_filtering {
            return Err(no_filtering(name));
        }
    }
    if let Some(mtu) = mtu {
        // What the host sends must fit through every port: with pods of a smaller MTU on it the bridge stays small.
        if mtu < link.mtu || mtu > link.mtu && !link::has_ports(socket, link.index).map_err(|e| failed(name, &e))? {
            link::set_mtu(socket, link.index, mtu).map_err(|e| failed(name, &e))?;
        } else if mtu > link.mtu {
            let text = format!("\"{name}\" keeps its MTU of {} while pods are on it; the pod gets {mtu}", link.mtu);
            host::syslog::warn("bridge", text);
        }
    }
    protect_host(socket, link, undo)?;
    if plan.promiscuous && !link.is_promiscuous() {
        link::set_promiscuous(socket, link.index, true).map_err(|e| failed(name, &e))?;
    }
    if !link.is_up() {
        link::set_up(socket, link.index).map_err(|e| failed(name, &e))?;
    }
    Ok(describe(plan, link))
}

fn describe(plan: &Plan, link: &Link) -> Bridge {
    let state = link.bridge.unwrap_or_default();
    Bridge {
        index: link.index,
        name: plan.bridge.clone(),
        mac: link.mac,
        mtu: link.mtu,
        is_ours: is_ours(link),
        default_vlan: state.default_vlan,
        stp: state.stp,
    }
}

/// The host must not take addresses or routes from what a pod announces on this link of ours. Whether anything was
/// changed.
pub(crate) fn refuse_advertisements(link: &Link) -> bool {
    if refuses_advertisements(link) {
        return false;
    }
    let Ok(settings) = Dir::open(V6_CONF) else { return false };
    let refused = settings.attempt(&format!("{}/{ACCEPT_RA}", link.name), "0");
    if let Some(refused) = &refused {
        // In a container, mostly: there the host is one itself.
        let text = format!("{refused}, so any pod could be the host's IPv6 router");
        host::syslog::notice("bridge", &text);
    }
    refused.is_none()
}

/// Whether the host takes nothing from them, or has no IPv6 there at all.
fn refuses_advertisements(link: &Link) -> bool {
    link.accept_ra.unwrap_or(0) == 0
}

/// The same for a bridge, whoever made it. One of somebody else's by which the host has its own router, most likely that
/// of the uplink, is left alone: without it the host would lose its IPv6.
fn protect_host(socket: &mut Socket, link: &Link, undo: &mut Undo<'_>) -> Result<(), Error> {
    let (name, accepted) = (&link.name, link.accept_ra.unwrap_or(0));
    if refuses_advertisements(link) {
        return Ok(());
    }
    if !is_ours(link) && has_learned(socket, link.index).map_err(|e| failed(name, &e))? {
        let text = format!(
            "{name}: {ACCEPT_RA} stays {accepted}, as the host has routes or addresses by router advertisements there, \
             but any pod on it can be the host's IPv6 router; give the host static ones, and: \
             sysctl -w {V6_CONF}/{name}/{ACCEPT_RA}=0"
        );
        host::syslog::notice("bridge", &text);
        return Ok(());
    }
    if refuse_advertisements(link) {
        let text =
            format!("{name}: {ACCEPT_RA} was {accepted} and is 0 now, or any pod could be the host's IPv6 router");
        host::syslog::notice("bridge", &text);
        if !is_ours(link) {
            let name = name.clone();
            undo.push("setting accept_ra back", move || accept_again(&name, accepted));
        }
    }
    Ok(())
}

/// Gives an operator's bridge its setting back, after an ADD that failed; unless another pod of ours is on it by now.
fn accept_again(name: &str, accepted: u32) -> Result<(), Error> {
    // Who has found the setting as it should be joins the bridge before this.
    let _lock = crate::lock::bridges()?;
    if has_pods(name)? {
        return Ok(());
    }
    let (path, setting) = (format!("{V6_CONF}/{name}/{ACCEPT_RA}"), format!("{name}/{ACCEPT_RA}"));
    let writing = |e: io::Error| Error::internal(format!("failed to write {path}: {e}"));
    let all = Dir::open(V6_CONF).map_err(writing)?;
    // Gone, or set by somebody since.
    if all.get(&setting).is_ok_and(|now| now == "0") {
        all.overwrite(&setting, &accepted.to_string()).map_err(writing)?;
        host::syslog::notice("bridge", &format!("{name}: {ACCEPT_RA} is {accepted} again, as ADD failed"));
    }
    Ok(())
}

/// Whether the bridge of this name has a port of ours, which the one of the ADD that is undone is no more.
fn has_pods(name: &str) -> Result<bool, Error> {
    let mut socket = plugin::open(Protocol::Route)?;
    let Some(bridge) = get(&mut socket, name)? else { return Ok(false) };
    let is_pods = |alias: &str| alias.starts_with("oxbridge ") && !alias.starts_with(GATEWAY_PORT_MARK);
    let ports = link::ports(&mut socket, bridge.index).map_err(|e| failed(name, &e))?;
    Ok(ports.iter().filter_map(|port| port.alias.as_deref()).any(is_pods))
}

/// Whether the host has something by this link that a router advertised.
fn has_learned(socket: &mut Socket, link: u32) -> netlink::Result<bool> {
    Ok(route::is_advertised(socket, link)? || addr::list_v6(socket, link)?.iter().any(addr::Address::is_autoconfigured))
}

/// Takes back a bridge that this call made (its random address tells), unless another pod is on it already.
fn remove(name: &str, mac: Mac) -> Result<(), Error> {
    let _lock = crate::lock::bridges()?;
    let mut socket = Socket::open(Protocol::Route).map_err(|e| failed(name, &e))?;
    match get(&mut socket, name)? {
        Some(link) if link.mac == Some(mac) && is_unused(&mut socket, link.index).map_err(|e| failed(name, &e))? => {
            link::delete(&mut socket, link.index).map_err(|e| failed(name, &e))
        }
        _ => Ok(()),
    }
}

/// Whether no pod is on the bridge; the gateway ports of its VLANs are none.
pub(crate) fn is_unused(socket: &mut Socket, bridge: u32) -> netlink::Result<bool> {
    let is_pod = |l: &Link| !l.alias.as_deref().is_some_and(|a| a.starts_with(GATEWAY_PORT_MARK));
    Ok(!link::ports(socket, bridge)?.iter().any(is_pod))
}

fn no_filtering(name: &str) -> Error {
    Error::internal(format!("failed to create bridge \"{name}\": this kernel has no VLAN filtering on bridges"))
        .with_details("vlan and vlanTrunk need a kernel with CONFIG_BRIDGE_VLAN_FILTERING")
}

fn failed(name: &str, error: &netlink::Error) -> Error {
    Error::internal(format!("failed to create bridge \"{name}\": {error}"))
}
