//! Which of the host's addresses a port is published on.
//!
//! All of them, whenever they come: the kernel is asked for each packet (`fib daddr type local`). But kube-proxy in its
//! IPVS mode puts the addresses of Services on a dummy device, where the kernel takes them for the host's: a published
//! port 443 would catch the API server (containernetworking/plugins#222). Where there is such a device, a port is
//! published on the addresses of the link that a packet comes in by, and on those that are listed.

use std::net::IpAddr;

use netlink::{Result, Socket, addr, link};

/// Where kube-proxy puts the addresses of Services.
const IPVS: &str = "kube-ipvs0";

/// The addresses that are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Addresses {
    /// Whatever the kernel takes for its own.
    All,
    /// Those known at the last ADD, and those of the link that a packet comes in by.
    Listed,
}

/// The host as it is at this call.
#[derive(Debug)]
pub(crate) struct Host {
    /// Those on which ports are published.
    pub(crate) addresses: Addresses,
    /// Those of them that are known now.
    pub(crate) published: Vec<IpAddr>,
    /// All that its links have.
    pub(crate) local: Vec<IpAddr>,
}

impl Host {
    /// Looks at its addresses, and the links that have any.
    pub(crate) fn look(route: &mut Socket) -> Result<Self> {
        let all = addr::list_all(route)?;
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
        let is_meant = |ip: IpAddr| !ip.is_loopback() && !is_link_local(ip);
        let mut published: Vec<IpAddr> =
            all.iter().filter(|a| !services.contains(&a.link) && is_meant(a.ip)).map(|a| a.ip).collect();
        published.sort_unstable();
        published.dedup();
        // It may be there before the first Service is.
        let is_plain = services.is_empty() && link::by_name(route, IPVS)?.is_none();
        let addresses = if is_plain { Addresses::All } else { Addresses::Listed };
        Ok(Self { addresses, published, local })
    }
}

/// Every link may have one, and it is no way to a service.
fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}
