//! The gateway addresses on the bridge or in a VLAN, and forwarding.

use cni::{AddResult, Cidr, Error};
use host::undo::Undo;
use netlink::addr::{self, Address, Dad};
use netlink::link::{self, Mac};
use netlink::{Errno, Protocol, Socket, netconf};

use crate::bridge::{self, Bridge};
use crate::config::Plan;
use crate::{gateway_port, lock};

/// The link that has the gateways' addresses: the bridge, or that of a VLAN.
#[derive(Debug, Clone)]
pub(crate) struct GatewayLink {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mac: Option<Mac>,
    /// Made by this plugin (by this call or an earlier one).
    pub(crate) is_ours: bool,
    /// Index of the bridge.
    pub(crate) bridge: u32,
    /// `None`: it is the bridge.
    pub(crate) vlan: Option<u16>,
    /// Index and name of the port by which it takes part in the VLAN.
    pub(crate) port: Option<(u32, String)>,
}

impl GatewayLink {
    /// The bridge itself.
    pub(crate) fn of(bridge: &Bridge) -> Self {
        let Bridge { index, ref name, mac, is_ours, .. } = *bridge;
        Self { index, name: name.clone(), mac, is_ours, bridge: index, vlan: None, port: None }
    }

    /// Whether no pod uses it.
    fn is_unused(&self, socket: &mut Socket) -> netlink::Result<bool> {
        match self.vlan {
            None => bridge::is_unused(socket, self.bridge),
            Some(vlan) => gateway_port::is_unused(socket, vlan, self.index),
        }
    }
}

/// The gateways of a result as they stand on the bridge, with their subnets' prefixes.
pub(crate) fn addresses(result: &AddResult) -> Vec<Cidr> {
    let mut all: Vec<Cidr> = Vec::new();
    for ip in &result.ips {
        if let Some(gateway) = ip.gateway {
            let cidr = Cidr::new(gateway, ip.address.prefix());
            if let Some(cidr) = cidr.filter(|c| !all.contains(c)) {
                all.push(cidr);
            }
        }
    }
    all
}

/// Puts the gateways on their link. The caller holds the lock alone.
pub(crate) fn ensure(
    socket: &mut Socket,
    plan: &Plan,
    link: &GatewayLink,
    wanted: &[Cidr],
    undo: &mut Undo<'_>,
) -> Result<(), Error> {
    let present = present(socket, link)?;
    let missing = missing(&present, wanted);
    let obstacles = obstacles(&present, &missing, wanted);
    for obstacle in &obstacles {
        make_way(socket, plan, link, *obstacle, &missing, undo)?;
    }
    for cidr in &missing {
        add(socket, link, *cidr, !obstacles.is_empty(), undo)?;
    }
    // A bridge that we did not make may follow its ports' addresses; with a gateway on it it must not, or every pod
    // loses its gateway whenever a port comes or goes. Setting the present address pins it.
    if let (false, false, None, Some(mac)) = (missing.is_empty(), link.is_ours, link.vlan, link.mac) {
        link::set_mac(socket, link.index, mac)
            .map_err(|e| Error::internal(format!("failed to set bridge addr: could not set bridge's mac: {e}")))?;
    }
    Ok(())
}

/// Whether the link has all of these gateways. Nothing is changed.
pub(crate) fn are_there(socket: &mut Socket, link: &GatewayLink, wanted: &[Cidr]) -> Result<bool, Error> {
    if wanted.is_empty() {
        return Ok(true);
    }
    Ok(missing(&present(socket, link)?, wanted).is_empty())
}

fn present(socket: &mut Socket, link: &GatewayLink) -> Result<Vec<Address>, Error> {
    addr::list(socket, link.index)
        .map_err(|e| Error::internal(format!("failed to list the addresses of \"{}\": {e}", link.name)))
}

fn missing(present: &[Address], wanted: &[Cidr]) -> Vec<Cidr> {
    wanted.iter().copied().filter(|w| !present.iter().any(|p| is_same(p, *w))).collect()
}

fn is_same(present: &Address, wanted: Cidr) -> bool {
    present.ip == wanted.addr() && present.prefix == wanted.prefix()
}

/// Addresses that are no gateway of this config and stand in the way of one that is missing: any IPv4 address, and
/// IPv6 addresses whose subnet overlaps.
fn obstacles(present: &[Address], missing: &[Cidr], wanted: &[Cidr]) -> Vec<Address> {
    let is_in_the_way = |p: &Address, m: &Cidr| {
        p.ip.is_ipv4() == m.is_ipv4()
            && (p.ip.is_ipv4() || m.contains(p.ip) || Cidr::new(p.ip, p.prefix).is_some_and(|c| c.contains(m.addr())))
    };
    present
        .iter()
        .copied()
        .filter(|p| !wanted.iter().any(|w| is_same(p, *w)) && missing.iter().any(|m| is_in_the_way(p, m)))
        .collect()
}

fn make_way(
    socket: &mut Socket,
    plan: &Plan,
    link: &GatewayLink,
    obstacle: Address,
    missing: &[Cidr],
    undo: &mut Undo<'_>,
) -> Result<(), Error> {
    let failed = |e: netlink::Error| Error::internal(format!("failed to set bridge addr: {e}"));
    let (index, name) = (link.index, &link.name);
    // Nobody is behind the old address of a bridge without ports, and if it is ours nobody else put it there.
    let is_free = link.is_ours && link.is_unused(socket).map_err(failed)?;
    if !plan.force_address && !is_free {
        let wanted: Vec<_> =
            missing.iter().filter(|m| m.is_ipv4() == obstacle.ip.is_ipv4()).map(ToString::to_string).collect();
        return Err(Error::internal(format!(
            "failed to set bridge addr: \"{name}\" already has an IP address different from {}: {}/{}",
            wanted.join(", "),
            obstacle.ip,
            obstacle.prefix
        ))
        .with_details(format!(
            "pods of the old subnet still use it; remove them and the bridge takes the new address by itself (if this \
             plugin made it), or: ip address delete {}/{} dev {name}, or set forceAddress to replace it now",
            obstacle.ip, obstacle.prefix
        )));
    }
    host::syslog::notice(
        "bridge",
        &format!("{name}: address {}/{} gives way to the gateway of the config", obstacle.ip, obstacle.prefix),
    );
    match addr::delete(socket, index, obstacle.ip, obstacle.prefix) {
        Err(error) if error.is(Errno::EADDRNOTAVAIL) => return Ok(()),
        result => result.map_err(failed)?,
    }
    let Address { ip, prefix, .. } = obstacle;
    undo.push("giving the bridge its address back", move || {
        match addr::add(&mut Socket::open(Protocol::Route)?, index, ip, prefix, Dad::Skip) {
            Err(error) if !error.is(Errno::EEXIST) && !error.is(Errno::ENODEV) => Err(error),
            _ => Ok(()),
        }
    });
    Ok(())
}

fn add(socket: &mut Socket, link: &GatewayLink, cidr: Cidr, replaced: bool, undo: &mut Undo<'_>) -> Result<(), Error> {
    let (index, name) = (link.index, &link.name);
    let added = addr::add(socket, index, cidr.addr(), cidr.prefix(), Dad::Skip);
    if added.as_ref().is_err_and(|error| error.is(Errno::EEXIST)) {
        return Ok(());
    }
    // Also where it was not certainly refused: an answer that gets lost says nothing.
    let link = link.clone();
    undo.push("removing the gateway address", move || -> Result<(), Error> {
        let failed = |e: netlink::Error| Error::internal(e.to_string());
        let _lock = lock::bridges()?;
        let mut socket = Socket::open(Protocol::Route).map_err(failed)?;
        // Another pod may rely on it by now; then it is part of the bridge. Not one that this call replaced by force:
        // its pods were there before.
        if !link.is_unused(&mut socket).map_err(failed)? && !replaced {
            return Ok(());
        }
        match addr::delete(&mut socket, index, cidr.addr(), cidr.prefix()) {
            Err(error) if !error.is(Errno::EADDRNOTAVAIL) && !error.is(Errno::ENODEV) => Err(failed(error)),
            _ => Ok(()),
        }
    });
    added.map_err(|error| Error::internal(format!("failed to set bridge addr: {cidr} on \"{name}\": {error}")))
}

/// Which setting lets the host forward packets of a family.
pub(crate) fn forwarding(v6: bool) -> &'static str {
    if v6 { "net/ipv6/conf/all/forwarding" } else { "net/ipv4/ip_forward" }
}

/// Lets the host forward what goes by these gateways. Where that may not be set, a pod that goes no further than its
/// gateway does without.
pub(crate) fn forward(socket: &mut Socket, plan: &Plan, gateways: &[Cidr], result: &AddResult) -> Result<(), Error> {
    for v6 in [false, true] {
        let concerns = gateways.iter().any(|g| g.is_ipv4() != v6);
        if !concerns || netconf::is_forwarding(socket, v6) == Ok(true) {
            continue;
        }
        if let Err(error) = host::sysctl::set(forwarding(v6), "1") {
            if leads_on(plan, result, v6) {
                return Err(Error::internal(format!("failed to enable forwarding: {error}")).with_details(
                    "without it pods would not reach what is behind their gateway: whoever makes this network namespace \
                     has to set it, or give the plugins a /proc/sys that they may write",
                ));
            }
            let text = format!("{error}; the pod has no route that would need it");
            host::syslog::notice("bridge", &text);
        }
    }
    Ok(())
}

/// Whether pods use their gateway of this family to go further.
pub(crate) fn leads_on(plan: &Plan, result: &AddResult, v6: bool) -> bool {
    let masquerades = |ip: &cni::IpConfig| plan.masquerade.is_some_and(|(families, _)| families.has(ip.address.addr()));
    result.routes.iter().any(|route| route.dst.is_ipv4() != v6)
        || result.ips.iter().any(|ip| ip.address.is_ipv4() != v6 && masquerades(ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn present(text: &str) -> Address {
        let cidr: Cidr = text.parse().unwrap();
        Address { link: 1, ip: cidr.addr(), prefix: cidr.prefix(), flags: 0 }
    }

    fn cidrs(texts: &[&str]) -> Vec<Cidr> {
        texts.iter().map(|t| t.parse().unwrap()).collect()
    }

    #[test]
    fn gateways_of_two_ranges_do_not_stand_in_each_others_way() {
        let wanted = cidrs(&["10.1.0.1/24", "10.2.0.1/24"]);
        let present = [present("10.1.0.1/24")];
        let missing = missing(&present, &wanted);
        assert_eq!(missing, cidrs(&["10.2.0.1/24"]));
        assert_eq!(obstacles(&present, &missing, &wanted), []);
    }

    #[test]
    fn any_other_v4_address_and_overlapping_v6_ones_are_obstacles() {
        let wanted = cidrs(&["10.1.0.1/24", "fd00::1/64"]);
        let present = [present("192.0.2.1/24"), present("fe80::1/64"), present("fd00::9/48"), present("fd01::1/64")];
        assert_eq!(obstacles(&present, &wanted, &wanted), [present[0], present[2]]);
        // Without anything missing nothing has to give way.
        assert_eq!(obstacles(&present, &[], &wanted), []);
    }
}
