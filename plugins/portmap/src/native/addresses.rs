//! Which of the host's addresses a port is published on.
//!
//! Not simply on what the kernel takes for the host's own: kube-proxy in its IPVS mode puts the addresses of Services on
//! a dummy device, and a published port 443 would catch the API server (containernetworking/plugins#222). That device
//! may come at any time after the ADD. So a port is published on the addresses of the link that a packet comes in by,
//! on those that are listed by each ADD, and, as long as there is no such device, on whatever the host gets in the
//! subnets of its links.

use std::net::IpAddr;

use cni::Cidr;
use netlink::nft::Family;
use netlink::{Result, Socket, addr, link};

use crate::config::{Mapping, Target};

/// Where kube-proxy puts the addresses of Services.
const IPVS: &str = "kube-ipvs0";
/// Each is a rule; a host with more of them waits for the next ADD with addresses that it gets later.
const MAX_SUBNETS: usize = 64;

/// The host as it is at this call.
#[derive(Debug, Default)]
pub(crate) struct Host {
    /// Whether a link may hold addresses of Services.
    pub(crate) has_services: bool,
    /// Those on which ports are published.
    pub(crate) published: Vec<IpAddr>,
    /// The subnets in which later ones are, too.
    pub(crate) subnets: Vec<Cidr>,
    /// All that its links have.
    pub(crate) local: Vec<IpAddr>,
}

impl Host {
    /// Looks at its addresses of the targets' families, and the links that have any.
    pub(crate) fn look(route: &mut Socket, targets: &[Target<'_>]) -> Result<Self> {
        let mut all = Vec::new();
        for family in [Family::Ip, Family::Ip6] {
            // The kernel goes through all links for it.
            if targets.iter().any(|target| target.family() == family) {
                all.extend(addr::list_all_of(route, family == Family::Ip6)?);
            }
        }
        let local = all.iter().map(|a| a.ip).collect();
        let mut links: Vec<u32> = all.iter().filter(|a| !is_link_local(a.ip)).map(|a| a.link).collect();
        links.sort_unstable();
        links.dedup();
        let mut services = Vec::new();
        for index in links {
            // One that is gone in the meantime has no addresses any more.
            if link::by_index(route, index)?.is_some_and(|l| l.is("dummy") || l.name == IPVS) {
                services.push(index);
            }
        }
        let mut meant = all;
        meant.retain(|a| !services.contains(&a.link) && !a.ip.is_loopback() && !is_link_local(a.ip));
        let mut published: Vec<IpAddr> = meant.iter().map(|a| a.ip).collect();
        published.sort_unstable();
        published.dedup();
        // It may be there before the first Service is.
        let has_services = !services.is_empty() || link::by_name(route, IPVS)?.is_some();
        let mut subnets = Vec::new();
        if !has_services {
            subnets =
                meant.iter().filter_map(|a| Cidr::new(a.ip, a.prefix)).filter(has_room).map(|c| c.network()).collect();
            subnets.sort_unstable();
            subnets.dedup();
            subnets.truncate(MAX_SUBNETS);
        }
        Ok(Self { has_services, published, subnets, local })
    }

    /// Logs which ports nobody can reach, at least for now.
    pub(crate) fn tell_of_unreachable(&self, targets: &[Target<'_>]) {
        for (target, mapping) in targets.iter().flat_map(|t| t.mappings().map(move |m| (t, m))) {
            if let Some(why) = self.why_unreachable(mapping, target.family()) {
                host::syslog::notice("portmap", &format!("host port {mapping} is not reached: {why}"));
            }
        }
    }

    fn why_unreachable(&self, mapping: &Mapping, family: Family) -> Option<&'static str> {
        let ip = mapping.address().filter(|ip| Family::of(*ip) == family)?;
        match (ip.is_loopback(), ip.is_ipv6()) {
            (true, true) => Some("packets from [::1] have no way out of the host"),
            (true, false) => None,
            (false, _) => (!self.local.contains(&ip)).then_some("no link of the host has this address now"),
        }
    }
}

/// Whether another address fits in.
fn has_room(subnet: &Cidr) -> bool {
    (1..if subnet.is_ipv4() { 32 } else { 128 }).contains(&subnet.prefix())
}

/// Every link may have one, and it is no way to a service.
fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}
