//! Programs of the host that listen on a port that is published: from now on they hear nothing new from outside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use host::socket_holder;
use netlink::nft::Family;
use netlink::sock_diag::{self, Transport};

use crate::config::{Mapping, Protocol, Target};

/// Names them on stderr and in the log. That is no error: the operator may want just that, and a runtime may hold the
/// port itself (Docker's proxy does).
pub(crate) fn warn(targets: &[Target<'_>]) {
    let Some(plan) = targets.first().map(|t| t.plan) else { return };
    for mapping in &plan.mappings {
        let families = targets.iter().map(Target::family).filter(|f| mapping.is_for(*f));
        let addresses: Vec<IpAddr> = families.map(|family| mapping.address().unwrap_or(any(family))).collect();
        if let Some(text) = listener(mapping, &addresses) {
            host::syslog::notice("portmap", &text);
        }
    }
}

fn listener(mapping: &Mapping, addresses: &[IpAddr]) -> Option<String> {
    let transport = match mapping.protocol {
        Protocol::Tcp => Transport::Tcp,
        Protocol::Udp => Transport::Udp,
        Protocol::Sctp => Transport::Sctp,
    };
    // A kernel that does not tell is no reason to fail.
    let listeners = sock_diag::listeners(transport, mapping.host_port).ok().flatten()?;
    // What is sent to [::1] stays on the host.
    let mut losing = listeners.iter().filter(|l| l.ip != Ipv6Addr::LOCALHOST);
    let found = losing.find(|l| addresses.iter().any(|ip| l.hears(*ip)))?;
    let holder = socket_holder::of(found.inode).map_or_else(|| "a program".to_owned(), |h| h.to_string());
    Some(format!("{holder} of the host listens on {}:{}, which now leads to the pod", found.ip, mapping_port(mapping)))
}

fn mapping_port(mapping: &Mapping) -> String {
    format!("{}/{}", mapping.host_port, mapping.protocol.name())
}

fn any(family: Family) -> IpAddr {
    if family == Family::Ip { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() }
}
