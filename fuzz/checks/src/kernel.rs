//! Answers of a kernel that says anything: the other end of the plugin's socket is in our hands.
//!
//! An input is a byte that chooses what is asked, and the datagrams that answer: each its length (two bytes, the lower
//! first) and that many bytes, or all that is left.

use std::fmt::Debug;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;

use netlink::nft::{Family, Nft, Rule};
use netlink::sock_diag::{self, Transport};
use netlink::{Socket, addr, bridge, conntrack, link, netconf, route, tc};

/// Links, addresses, routes, queueing, connections, sockets: whatever the answer, a value or an error.
pub fn netlink(input: &[u8]) {
    let Some((choice, _kernel, mut socket)) = conversation(input) else { return };
    let socket = &mut socket;
    match choice % 16 {
        0 => told(link::by_name(socket, "eth0")),
        1 => told(
            link::list_of(socket, "ifb")
                .inspect(|links| links.iter().for_each(|l| told(Ok((l.is_up(), l.is("veth")))))),
        ),
        2 => told(link::ports(socket, 7)),
        3 => told(addr::list(socket, 7)),
        4 => told(addr::list_v6(socket, 7)),
        5 => told(route::list(socket, false)),
        6 => told(route::list(socket, true)),
        7 => told(route::default_link(socket)),
        8 => told(route::link_of_neighbour(socket, IpAddr::from([10, 0, 0, 2]))),
        9 => told(tc::root(socket, 7)),
        10 => told(tc::ingress(socket, 7)),
        11 => told(tc::filters(socket, 7)),
        12 => told(bridge::vlans(socket, 7)),
        13 => told(netconf::is_forwarding(socket, true)),
        14 => told(sock_diag::listeners_by(socket, Transport::Tcp, 8080)),
        _ => {
            let filter = conntrack::Filter { family: Family::Ip, ports: &[53], answers_from: None };
            told(conntrack::delete_udp(socket, &filter, |flow| flow.port == 53));
        }
    }
}

/// nf_tables: its tables, chains, rules, sets and elements, and what is read in the rules of others.
pub fn nftables(input: &[u8]) {
    let Some((choice, _kernel, socket)) = conversation(input) else { return };
    let mut nft = Nft::from(socket);
    match choice % 8 {
        0 => told(nft.generation()),
        1 => told(nft.has_chain(Family::Ip, "nat", "POSTROUTING")),
        2 => told(nft.base_chains(&[Family::Ip, Family::Inet])),
        3 => told(nft.sets(Family::Ip, "oxbridge")),
        4 => told(nft.elements(Family::Ip, "oxbridge", "set")),
        5 => told(nft.element(Family::Ip, "oxbridge", "set", &[10, 0, 0, 2])),
        _ => {
            let rules = nft.rules(Family::Ip, "nat", None).unwrap_or_default();
            rules.iter().for_each(reading);
        }
    }
}

/// All that any plugin asks a rule for. Nothing is larger than the rule itself.
fn reading(rule: &Rule) {
    let whole = rule.expressions.len();
    assert!(rule.steps().len() <= whole / 4);
    assert!(rule.compared_values().iter().map(Vec::len).sum::<usize>() <= whole);
    for extension in ["comment", "multiport", "tcp", "udp", "sctp", "conntrack"] {
        assert!(rule.match_info(extension).is_none_or(|info| info.len() <= whole));
    }
    for family in [Family::Ip, Family::Ip6] {
        if let Some(translation) = rule.translation(family) {
            assert_eq!(translation.to.is_ipv4(), family == Family::Ip);
        }
    }
    // A replaced byte of invalid UTF-8 takes three.
    assert!(rule.target().is_none_or(|chain| chain.len() <= whole * 3));
}

/// An answer can be shown, a refusal too.
fn told(answer: netlink::Result<impl Debug>) {
    match answer {
        Ok(value) => drop(format!("{value:?}")),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// What is asked, and a socket in which the answers wait already. The other end must live as long.
fn conversation(input: &[u8]) -> Option<(u8, UnixDatagram, Socket)> {
    let (choice, mut rest) = input.split_first()?;
    let (kernel, plugin) = UnixDatagram::pair().unwrap();
    // Who fills a queue that nobody reads is told so instead of waiting.
    kernel.set_nonblocking(true).unwrap();
    plugin.set_nonblocking(true).unwrap();
    while let [low, high, more @ ..] = rest {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(more.len());
        if kernel.send(&more[..length]).is_err() {
            break;
        }
        rest = &more[length..];
    }
    Some((*choice, kernel, Socket::from(OwnedFd::from(plugin))))
}
