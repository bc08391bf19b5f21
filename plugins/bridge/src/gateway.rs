//! The gateway addresses on the bridge, and forwarding.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use cni::{AddResult, Cidr, Error};
use host::lock::Lock;
use host::undo::Undo;
use netlink::addr::{self, Address, Dad};
use netlink::{Errno, Protocol, Socket, link};

use crate::bridge::Bridge;
use crate::config::Plan;

/// How long another call may take with the bridge.
const PATIENCE: Duration = Duration::from_secs(10);

/// Lets one call at a time make or change bridges of this network namespace.
///
/// The lock is on the namespace's own file: it needs no folder, other namespaces do not share it, and it is gone with
/// whoever holds it.
pub(crate) fn lock(bridge: &str) -> Result<Lock, Error> {
    Lock::exclusive(Path::new("/proc/thread-self/ns/net"), 0, PATIENCE).map_err(|e| {
        Error::new(
            cni::code::TRY_AGAIN,
            format!("waiting for another plugin call to finish with bridge \"{bridge}\": {e}"),
        )
    })
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

/// Puts the gateways on a link (the bridge, or the port of its VLAN) and lets the host forward.
pub(crate) fn ensure(
    socket: &mut Socket,
    plan: &Plan,
    bridge: &Bridge,
    link: (u32, &str),
    wanted: &[Cidr],
    undo: &mut Undo<'_>,
) -> Result<(), Error> {
    let (index, name) = link;
    if !missing(&present(socket, index, name)?, wanted).is_empty() {
        let _lock = lock(&bridge.name)?;
        // Another call may have done it meanwhile.
        let present = present(socket, index, name)?;
        let missing = missing(&present, wanted);
        for obstacle in obstacles(&present, &missing, wanted) {
            make_way(socket, plan, bridge, link, obstacle, &missing)?;
        }
        for cidr in missing {
            add(socket, index, name, cidr, undo)?;
        }
    }
    forward(wanted)
}

fn present(socket: &mut Socket, index: u32, name: &str) -> Result<Vec<Address>, Error> {
    addr::list(socket, index).map_err(|e| Error::internal(format!("failed to list the addresses of \"{name}\": {e}")))
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
    bridge: &Bridge,
    (index, name): (u32, &str),
    obstacle: Address,
    missing: &[Cidr],
) -> Result<(), Error> {
    let failed = |e: netlink::Error| Error::internal(format!("failed to set bridge addr: {e}"));
    // Nobody is behind the old address of a bridge without ports, and if it is ours nobody else put it there.
    let is_free = bridge.is_ours && !link::has_ports(socket, bridge.index).map_err(failed)?;
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
        Err(error) if error.is(Errno::EADDRNOTAVAIL) => Ok(()),
        result => result.map_err(failed),
    }
}

fn add(socket: &mut Socket, index: u32, name: &str, cidr: Cidr, undo: &mut Undo<'_>) -> Result<(), Error> {
    match addr::add(socket, index, cidr.addr(), cidr.prefix(), Dad::Skip) {
        Ok(()) => {
            undo.push("removing the gateway address", move || {
                // Another pod may rely on it by now; then it is part of the bridge.
                let mut socket = Socket::open(Protocol::Route)?;
                if link::has_ports(&mut socket, index)? {
                    return Ok(());
                }
                match addr::delete(&mut socket, index, cidr.addr(), cidr.prefix()) {
                    Err(error) if !error.is(Errno::EADDRNOTAVAIL) && !error.is(Errno::ENODEV) => Err(error),
                    _ => Ok(()),
                }
            });
            Ok(())
        }
        Err(error) if error.is(Errno::EEXIST) => Ok(()),
        Err(error) => Err(Error::internal(format!("failed to set bridge addr: {cidr} on \"{name}\": {error}"))),
    }
}

/// Which setting lets the host forward packets of a family.
pub(crate) fn forwarding(v6: bool) -> &'static str {
    if v6 { "net/ipv6/conf/all/forwarding" } else { "net/ipv4/ip_forward" }
}

fn forward(gateways: &[Cidr]) -> Result<(), Error> {
    for v6 in [false, true] {
        if gateways.iter().any(|g| matches!(g.addr(), IpAddr::V6(_)) == v6) {
            host::sysctl::set(forwarding(v6), "1")
                .map_err(|e| Error::internal(format!("failed to enable forwarding: {e}")))?;
        }
    }
    Ok(())
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
