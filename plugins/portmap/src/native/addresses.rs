//! Which of the host's addresses a port is published on.
//!
//! All of them, whenever they come: the kernel is asked for each packet (`fib daddr type local`). But kube-proxy in its
//! IPVS mode puts the addresses of Services on a dummy device, where the kernel takes them for the host's: a published
//! port 443 would catch the API server (containernetworking/plugins#222). Where there is such a device, a port is
//! published on the addresses of the link that a packet comes in by, and on those that are listed.

use std::net::IpAddr;

use netlink::nft::Family;
use netlink::{Result, Socket, addr, link};

/// The addresses that are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Addresses {
    /// Whatever the kernel takes for its own.
    All,
    /// These, as they were at the ADD, and those of the link that a packet comes in by.
    Listed(Vec<IpAddr>),
}

/// The host as it is at this call.
#[derive(Debug)]
pub(crate) struct Host {
    /// Those on which ports are published.
    pub(crate) addresses: Addresses,
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
            if link::by_index(route, index)?.is_some_and(|l| l.is("dummy") || l.name == "kube-ipvs0") {
                services.push(index);
            }
        }
        if services.is_empty() {
            return Ok(Self { addresses: Addresses::All, local });
        }
        let is_listed = |ip: IpAddr| !ip.is_loopback() && !is_link_local(ip);
        let mut listed: Vec<IpAddr> =
            all.iter().filter(|a| !services.contains(&a.link) && is_listed(a.ip)).map(|a| a.ip).collect();
        listed.sort_unstable();
        listed.dedup();
        Ok(Self { addresses: Addresses::Listed(listed), local })
    }
}

impl Addresses {
    /// Those of one family that are listed.
    pub(crate) fn listed(&self, family: Family) -> Option<impl Iterator<Item = IpAddr>> {
        match self {
            Self::All => None,
            Self::Listed(all) => Some(all.iter().copied().filter(move |ip| Family::of(*ip) == family)),
        }
    }
}

/// Every link may have one, and it is no way to a service.
fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}
