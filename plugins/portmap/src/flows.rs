//! UDP flows that are under way: where the first packet went, all that follow go.
//!
//! Without forgetting them a steady sender would stay with a pod that is gone (containernetworking/plugins#1190), or
//! with the host's own socket. A failure here fails no call.

use std::net::IpAddr;

use netlink::conntrack::{self, Filter, Flow};
use netlink::nft::Family;
use netlink::{Protocol, Result, Socket};

use crate::config::{Protocol as Transport, Target};
use crate::native::UdpPorts;

/// Forgets what was sent to the published ports of the host before they led to the pod. `local`: the host's addresses.
pub(crate) fn forget_of_host(targets: &[Target<'_>], local: &[IpAddr]) {
    for target in targets {
        let udp = || target.mappings().filter(|m| m.protocol == Transport::Udp);
        let mut ports: Vec<u16> = udp().map(|m| m.host_port).collect();
        ports.sort_unstable();
        ports.dedup();
        if ports.is_empty() {
            continue;
        }
        let is_meant = |flow: &Flow| {
            let is_local = flow.destination.is_loopback() || local.contains(&flow.destination);
            udp()
                .filter(|m| m.host_port == flow.port)
                .any(|m| m.address().map_or(is_local, |ip| ip == flow.destination))
        };
        let filter = Filter { family: target.family(), ports: &ports, answers_from: None };
        tell(open().and_then(|mut socket| conntrack::delete_udp(&mut socket, &filter, is_meant)));
    }
}

/// Forgets what goes to pods by ports that no longer lead there. The socket is returned, to be closed last: closing it
/// waits for what was removed from nf_tables.
pub(crate) fn forget_of_pods(ports: &UdpPorts) -> Option<Socket> {
    let mut pods: Vec<IpAddr> = ports.iter().map(|(pod, _)| *pod).collect();
    pods.sort_unstable();
    pods.dedup();
    if pods.is_empty() {
        return None;
    }
    let mut socket = open().map_err(|e| tell(Err(e))).ok()?;
    for pod in pods {
        let ports: Vec<u16> = ports.iter().filter(|(of, _)| *of == pod).map(|(_, port)| *port).collect();
        let filter = Filter { family: Family::of(pod), ports: &ports, answers_from: Some(pod) };
        tell(conntrack::delete_udp(&mut socket, &filter, |_| true));
    }
    Some(socket)
}

fn open() -> Result<Socket> {
    Socket::open(Protocol::Netfilter)
}

fn tell(result: Result<usize>) {
    match result {
        Err(error) if !conntrack::is_unsupported(&error) => {
            host::syslog::warn("portmap", format_args!("failed to forget UDP flows: {error}"));
        }
        _ => {}
    }
}
