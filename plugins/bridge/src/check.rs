//! CHECK: all that ADD made is there, as it was made.
//!
//! Compared is what ADD set and what a pod needs. What others may do without harm is no failure: a capture that puts
//! the bridge into promiscuous mode, a route that was added, another MAC address of a bridge.

use std::net::IpAddr;

use cni::{AddResult, Attachment, Call, Cidr, Error, Interface, IpConfig, delegate};
use host::netns::NetNs;
use netlink::link::{self, Link};
use netlink::nft::{Family, Nft, Rule};
use netlink::route::{self, MAIN_TABLE, Route};
use netlink::{Protocol, Socket, addr, bridge as ports, netconf};

use crate::config::{self, MasqueradeBackend, Mtu, Plan};
use crate::{bridge, gateway, gateway_port, iptables, masquerade, pod, reference, spoof};
use ruleset::{NewElement, Skeleton, TABLE};

/// `RT_SCOPE_LINK`.
const LINK_SCOPE: u8 = 253;

pub(crate) fn check(call: &Call) -> Result<(), Error> {
    let plan = Plan::new(call)?;
    let netns = NetNs::open(&call.env.netns).map_err(|e| Error::internal(e.to_string()))?;
    if let Some(ipam) = &plan.ipam {
        delegate::run(call, ipam, "CHECK", &[])?;
    }
    let previous = call
        .prev_result()?
        .ok_or_else(|| Error::internal("Required prevResult missing: CHECK compares with what ADD answered"))?;
    let attachment = call.attachment();
    let mut host = Socket::open(Protocol::Route).map_err(|e| asking("the host's links", &e))?;
    let mut pod = netns
        .enter(|| Socket::open(Protocol::Route))
        .map_err(|e| Error::internal(e.to_string()))?
        .map_err(|e| asking("the container's links", &e))?;

    let bridge = check_bridge(&mut host, &plan, &previous)?;
    let pod_entry = pod_entry(&previous, call, &netns)?;
    let pod_link = check_pod_link(&mut pod, &plan, pod_entry)?;
    let port = check_port(&mut host, &plan, &bridge, &pod_link, &attachment.ifname)?;
    check_mtu(&mut host, &plan, &port, &pod_link)?;
    let ips = ips_of(&previous, call, &netns);
    check_addresses(&mut pod, &pod_link, &ips)?;
    if plan.ipam.is_some() {
        check_routes(&mut pod, &pod_link, &previous)?;
    }
    if plan.gateway {
        check_gateways(&mut host, &plan, &bridge, &AddResult { ips: ips.clone(), ..previous })?;
    }
    check_rules(&plan, &attachment, &port, &pod_link, &ips)
}

fn check_bridge(host: &mut Socket, plan: &Plan, previous: &AddResult) -> Result<Link, Error> {
    let name = &plan.bridge;
    let Some(entry) = previous.interfaces.iter().find(|i| i.name == *name && i.sandbox.is_empty()) else {
        return Err(differs("prevResult", "no bridge", &format!("bridge \"{name}\"")));
    };
    let link =
        bridge::get(host, name)?.ok_or_else(|| differs(&format!("bridge \"{name}\""), "no such link", "the bridge"))?;
    let mac = link.mac.map(host::mac::format).unwrap_or_default();
    if !entry.mac.is_empty() && !mac.eq_ignore_ascii_case(&entry.mac) {
        let text = format!("CHECK: the MAC address of \"{name}\" is {mac}, after ADD it was {}", entry.mac);
        host::syslog::warn("bridge", text);
    }
    if !link.is_up() {
        return Err(differs(&format!("bridge \"{name}\""), "down", "up"));
    }
    if plan.promiscuous && !link.is_promiscuous() {
        return Err(differs(&format!("bridge \"{name}\""), "promiscuous mode off", "on (promiscMode)"));
    }
    if plan.vlans.filtering && !link.bridge.unwrap_or_default().vlan_filtering {
        return Err(differs(&format!("bridge \"{name}\""), "VLAN filtering off", "on"));
    }
    Ok(link)
}

/// The result's entry for the pod's end; sandboxes are compared as namespaces where their texts differ.
fn pod_entry<'a>(previous: &'a AddResult, call: &Call, netns: &NetNs) -> Result<&'a Interface, Error> {
    previous.interfaces.iter().find(|i| is_pod_end(i, call, netns)).ok_or_else(|| {
        differs(
            "prevResult",
            "no such interface",
            &format!("\"{}\" in sandbox \"{}\"", call.env.ifname, call.env.netns),
        )
    })
}

fn is_pod_end(interface: &Interface, call: &Call, netns: &NetNs) -> bool {
    interface.name == call.env.ifname
        && !interface.sandbox.is_empty()
        && (interface.sandbox == call.env.netns || NetNs::open(&interface.sandbox).is_ok_and(|ns| ns.is(netns)))
}

fn check_pod_link(pod: &mut Socket, plan: &Plan, entry: &Interface) -> Result<Link, Error> {
    let what = format!("container interface \"{}\"", entry.name);
    let link = link::by_name(pod, &entry.name)
        .map_err(|e| asking(&what, &e))?
        .ok_or_else(|| differs(&what, "no such link", "a veth"))?;
    if !link.is("veth") {
        return Err(differs(&what, link.kind.as_deref().unwrap_or("a physical link"), "a veth"));
    }
    let mac = link.mac.map(host::mac::format).unwrap_or_default();
    if !entry.mac.is_empty() && !mac.eq_ignore_ascii_case(&entry.mac) {
        return Err(differs(&what, &format!("MAC address {mac}"), &entry.mac));
    }
    if !plan.leave_down && !link.is_up() {
        return Err(differs(&what, "down", "up"));
    }
    Ok(link)
}

fn check_port(host: &mut Socket, plan: &Plan, bridge: &Link, pod: &Link, ifname: &str) -> Result<Link, Error> {
    let what = format!("host end of \"{ifname}\"");
    let link = match pod.peer {
        Some(index) => link::by_index(host, index).map_err(|e| asking(&what, &e))?,
        None => None,
    };
    let link = link
        .filter(|l| l.is("veth") && l.peer == Some(pod.index))
        .ok_or_else(|| differs(&what, "none in the host's namespace", "a veth"))?;
    let what = format!("host link \"{}\"", link.name);
    if link.master != Some(bridge.index) {
        return Err(differs(&what, "not on the bridge", &format!("a port of \"{}\"", bridge.name)));
    }
    if !link.is_up() {
        return Err(differs(&what, "down", "up"));
    }
    let port = link.port.unwrap_or_default();
    let on = |on: bool| if on { "on" } else { "off" };
    // Who publishes the pod's ports may have turned it on.
    if plan.hairpin && !port.hairpin {
        return Err(differs(&what, &format!("hairpin mode {}", on(port.hairpin)), on(plan.hairpin)));
    }
    if port.isolated != plan.isolated {
        return Err(differs(&what, &format!("isolation {}", on(port.isolated)), on(plan.isolated)));
    }
    if !plan.vlans.wanted().is_empty() {
        check_vlans(host, &link, bridge, plan)?;
    }
    Ok(link)
}

/// The port is in the VLANs of the config, as that says, and in no other.
fn check_vlans(host: &mut Socket, port: &Link, bridge: &Link, plan: &Plan) -> Result<(), Error> {
    let what = format!("VLANs of \"{}\"", port.name);
    let found = ports::vlans(host, port.index).map_err(|e| asking(&what, &e))?;
    let default = bridge.bridge.unwrap_or_default().default_vlan;
    // The reference before its 1.8 knows no other way.
    let may_keep_default =
        plan.vlans.keep_default || !port.alias.as_deref().is_some_and(|a| a.starts_with("oxbridge "));
    match plan.vlans.difference(&found, Some(default).filter(|_| may_keep_default)) {
        Some((found, expected)) => Err(differs(&what, &found, &expected)),
        None => Ok(()),
    }
}

fn check_mtu(host: &mut Socket, plan: &Plan, port: &Link, pod: &Link) -> Result<(), Error> {
    // "auto" is compared with nothing: the default route may lead elsewhere by now, and the pod still works.
    let Mtu::Bytes(mtu) = plan.mtu else { return Ok(()) };
    let bridge = bridge::get(host, &plan.bridge)?;
    if port.mtu != mtu {
        return Err(differs(&format!("\"{}\"", port.name), &format!("MTU {}", port.mtu), &mtu.to_string()));
    }
    // A later plugin of the chain (tuning) may have made it smaller, with which the pod still works.
    if pod.mtu > mtu {
        return Err(differs(&format!("\"{}\"", pod.name), &format!("MTU {}", pod.mtu), &format!("{mtu} at most")));
    }
    match bridge {
        // Smaller is right while pods with a smaller MTU are on it; larger, and what the host sends gets lost.
        Some(bridge) if bridge.mtu > mtu => {
            Err(differs(&format!("\"{}\"", bridge.name), &format!("MTU {}", bridge.mtu), &format!("{mtu} at most")))
        }
        _ => Ok(()),
    }
}

/// The result's addresses that are the pod's end's.
fn ips_of(previous: &AddResult, call: &Call, netns: &NetNs) -> Vec<IpConfig> {
    let is_ours = |ip: &&IpConfig| match ip.interface {
        None => true,
        Some(index) => usize::try_from(index)
            .ok()
            .and_then(|i| previous.interfaces.get(i))
            .is_some_and(|i| is_pod_end(i, call, netns)),
    };
    previous.ips.iter().filter(is_ours).cloned().collect()
}

fn check_addresses(pod: &mut Socket, link: &Link, ips: &[IpConfig]) -> Result<(), Error> {
    let what = format!("addresses of \"{}\"", link.name);
    let found = addr::list(pod, link.index).map_err(|e| asking(&what, &e))?;
    for ip in ips {
        let (addr, prefix) = (ip.address.addr(), ip.address.prefix());
        let Some(present) = found.iter().find(|f| f.ip == addr && f.prefix == prefix) else {
            let list: Vec<_> = found.iter().map(|f| format!("{}/{}", f.ip, f.prefix)).collect();
            return Err(differs(&what, &list.join(", "), &ip.address.to_string()));
        };
        if present.is_duplicate() {
            return Err(differs(&what, &format!("{} used by another host (DADFAILED)", ip.address), "it usable"));
        }
        // A later plugin may leave the pod its gateway as its only neighbour, or take another prefix.
        let gateway = ip.gateway.filter(|gateway| ip.address.contains(*gateway));
        check_subnet(pod, link, ip.address, |route| {
            is_on_link(route)
                && match gateway {
                    Some(gateway) => leads_to(route, gateway),
                    None => leads_to(route, addr) && route.prefix <= prefix,
                }
        })?;
    }
    Ok(())
}

/// The kernel's own route to the subnet of an address, in whichever table (a VRF's, one by source): without it the
/// address is there and nobody of its subnet is reached. Or another route of the link that does instead.
fn check_subnet(
    socket: &mut Socket,
    link: &Link,
    address: Cidr,
    does_instead: impl Fn(&Route) -> bool,
) -> Result<(), Error> {
    let subnet = address.network();
    let bits = if address.is_ipv4() { 32 } else { 128 };
    if subnet.prefix() == bits {
        return Ok(());
    }
    let what = format!("routes of \"{}\"", link.name);
    let found = route::list_of_link(socket, !address.is_ipv4(), link.index).map_err(|e| asking(&what, &e))?;
    if found.iter().any(|r| r.dst == subnet.addr() && r.prefix == subnet.prefix() || does_instead(r)) {
        return Ok(());
    }
    Err(differs(&what, &format!("none to {subnet}"), &format!("that of the address {address}")))
}

/// Whether what the route leads to is a neighbour: not behind a gateway, of which IPv4 alone tells by the scope, too
/// (the gateway may be an IPv6 one).
fn is_on_link(route: &Route) -> bool {
    route.gateway.is_none() && (route.dst.is_ipv6() || route.scope.is_some_and(|scope| scope >= LINK_SCOPE))
}

/// Whether the address is among the route's destinations.
fn leads_to(route: &Route, ip: IpAddr) -> bool {
    Cidr::new(route.dst, route.prefix).is_some_and(|destinations| destinations.contains(ip))
}

/// Every route of the result, as it is stated there: one that a later plugin of the chain led by another link, gateway or
/// table without saying so in its result is amiss.
fn check_routes(pod: &mut Socket, link: &Link, previous: &AddResult) -> Result<(), Error> {
    let mut found: Vec<Route> = Vec::new();
    for v6 in [false, true] {
        if previous.routes.iter().any(|r| r.dst.is_ipv4() != v6) {
            found.extend(route::list(pod, v6).map_err(|e| asking("the container's routes", &e))?);
        }
    }
    for wanted in &previous.routes {
        let mut expected = pod::planned_route(wanted, previous, link.index)?;
        // The result may name a network by any address in it.
        expected.dst = wanted.dst.network().addr();
        if !found.iter().any(|f| is_route(f, &expected)) {
            return Err(differs("container routes", &format!("none to {}", wanted.dst), &pod::describe(&expected)));
        }
    }
    Ok(())
}

/// Whether a route is the expected one in all that was stated.
fn is_route(found: &Route, expected: &Route) -> bool {
    let stated = |found: Option<u32>, expected: Option<u32>| expected.is_none() || found == expected;
    found.dst == expected.dst
        && found.prefix == expected.prefix
        && found.link == expected.link
        && (expected.gateway.is_none() || found.gateway == expected.gateway)
        && found.table == Some(expected.table.filter(|t| *t != 0).unwrap_or(MAIN_TABLE))
        && stated(found.priority, expected.priority)
        && stated(found.mtu, expected.mtu)
        && stated(found.advmss, expected.advmss)
}

fn check_gateways(host: &mut Socket, plan: &Plan, bridge: &Link, result: &AddResult) -> Result<(), Error> {
    let wanted = gateway::addresses(result);
    if wanted.is_empty() {
        return Ok(());
    }
    let link = match plan.vlans.access {
        None => bridge.clone(),
        Some(vlan) => gateway_port::check(host, bridge, vlan).map_err(|(found, expected)| {
            let name = config::gateway_port(&bridge.name, vlan);
            differs(&format!("gateway port \"{name}\""), &found, &expected)
        })?,
    };
    let what = format!("addresses of \"{}\"", link.name);
    let found = addr::list(host, link.index).map_err(|e| asking(&what, &e))?;
    for gateway in wanted {
        if !found.iter().any(|f| f.ip == gateway.addr() && f.prefix == gateway.prefix()) {
            let list: Vec<_> = found.iter().map(|f| format!("{}/{}", f.ip, f.prefix)).collect();
            return Err(differs(&what, &list.join(", "), &gateway.to_string()));
        }
        check_subnet(host, &link, gateway, |_| false)?;
        // Not by its file: what that costs grows with the number of namespaces.
        let v6 = !gateway.is_ipv4();
        if gateway::leads_on(plan, result, v6) && netconf::is_forwarding(host, v6) == Ok(false) {
            return Err(differs(gateway::forwarding(v6), "0", "1 (isGateway)"));
        }
    }
    Ok(())
}

fn check_rules(plan: &Plan, attachment: &Attachment, port: &Link, pod: &Link, ips: &[IpConfig]) -> Result<(), Error> {
    if plan.masquerade.is_none() && !plan.check_mac {
        return Ok(());
    }
    let asked = |e: netlink::Error| asking("nf_tables", &e);
    let mut nft = Nft::open().map_err(asked)?;
    if let Some((families, backend)) = plan.masquerade {
        for address in ips.iter().map(|ip| ip.address).filter(|a| families.has(a.addr())) {
            check_masquerade(&mut nft, attachment, address, backend)?;
        }
    }
    if !plan.check_mac {
        return Ok(());
    }
    let elements = spoof::elements(&port.name, pod.mac.unwrap_or_default());
    let skeleton: Box<dyn Skeleton> = Box::new(spoof::Filter);
    let missing = first_missing(&mut nft, attachment, &[skeleton], &elements).map_err(asked)?;
    match missing {
        // Pods of the reference have its rules.
        Some(_) if reference::is_mac_checked(&mut nft, attachment).map_err(asked)? => Ok(()),
        Some(missing) => Err(differs("macspoofchk", "nothing", &missing)),
        None => Ok(()),
    }
}

fn check_masquerade(
    nft: &mut Nft,
    attachment: &Attachment,
    address: Cidr,
    backend: MasqueradeBackend,
) -> Result<(), Error> {
    if backend == MasqueradeBackend::Iptables && iptables::is_installed(attachment, address)? {
        return Ok(());
    }
    let asked = |e: netlink::Error| asking("nf_tables", &e);
    let what = format!("masquerade of {}", address.addr());
    let element = masquerade::element(address);
    let missing = first_missing(nft, attachment, &masquerade::skeletons(address), &[element]).map_err(asked)?;
    let Some(missing) = missing else { return Ok(()) };
    // Made by the other backend before the config was changed, or by the reference: it masquerades all the same.
    if reference::is_masqueraded(nft, attachment).map_err(asked)? || iptables::is_installed(attachment, address)? {
        return Ok(());
    }
    Err(match backend {
        MasqueradeBackend::Nftables => differs(&what, "nothing", &missing),
        MasqueradeBackend::Iptables => {
            let family = if Family::of(address.addr()) == Family::Ip { "iptables" } else { "ip6tables" };
            let chain = iptables::chain(attachment);
            differs(&what, "nothing", &format!("{family} chain {chain} with its jump in POSTROUTING of table nat"))
        }
    })
}

/// Names the first thing that is not there.
fn first_missing(
    nft: &mut Nft,
    attachment: &Attachment,
    skeletons: &[Box<dyn Skeleton>],
    elements: &[NewElement],
) -> netlink::Result<Option<String>> {
    for skeleton in skeletons {
        let rules: Vec<Rule> = nft.rules(skeleton.family(), TABLE, None)?;
        if !skeleton.is_whole(&rules) {
            return Ok(Some(format!("the rules of {} in table {} {TABLE}", skeleton.name(), skeleton.family())));
        }
    }
    for element in elements {
        let found = nft.element(element.family, TABLE, &element.set, &element.key)?;
        if !found.is_some_and(|f| ruleset::is_owned(&f, attachment)) {
            return Ok(Some(format!(
                "the element of \"{}\" in set {} of table {} {TABLE}",
                attachment.container_id, element.set, element.family
            )));
        }
    }
    Ok(None)
}

/// A finding: what is there, and what should be.
fn differs(what: &str, found: &str, expected: &str) -> Error {
    let found = if found.is_empty() { "none" } else { found };
    Error::internal(format!("{what}: found {found}, expected {expected}"))
}

fn asking(what: &str, error: &netlink::Error) -> Error {
    Error::internal(format!("failed to read {what}: {error}"))
}
