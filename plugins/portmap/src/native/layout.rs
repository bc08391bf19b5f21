//! The tables of published ports: names, keys, rules.
//!
//! ```text
//! table ip oxbridge {
//!     map ports-at { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service }
//!     map ports-any { type inet_proto . inet_service : ipv4_addr . inet_service
//!         elements = { tcp . 8080 comment "…" : 10.88.0.2 . 80 } }
//!     set ports-snat { type inet_proto . ipv4_addr . inet_service; elements = { tcp . 10.88.0.2 . 80 comment "…" } }
//!     set ports-hosts { type ipv4_addr; flags dynamic; elements = { 192.0.2.1 } }
//!     set ports-first { type inet_proto . inet_service }                          (ports-first-at: with the address)
//!     chain ports {
//!         ip daddr != 127.0.0.0/8 add @ports-hosts { ip daddr }
//!         jump ports-at-if
//!         dnat ip to ip daddr . meta l4proto . th dport map @ports-at
//!         jump ports-at-by
//!         jump ports-if
//!         dnat ip to meta l4proto . th dport map @ports-any
//!         jump ports-by }                                                         (what pods have by further interfaces)
//!     chain ports-in {
//!         fib daddr . iif type local jump ports                                   (ports-out: 127.0.0.0/8)
//!         fib daddr type local ip daddr @ports-hosts jump ports                   (ports-out the same)
//!         fib daddr type local ip daddr 192.0.2.0/24 jump ports }                 (no dummies; ports-out the same)
//!     chain ports-first-prerouting { type nat hook prerouting priority -101       (ports-first-output: ports-out)
//!         meta l4proto . th dport @ports-first jump ports-in
//!         ip daddr . meta l4proto . th dport @ports-first-at jump ports-in }
//!     chain ports-last-prerouting { type nat hook prerouting priority -99
//!         jump ports-in }                                                         (ports-last-output: ports-out)
//!     chain ports-postrouting { type nat hook postrouting priority srcnat
//!         ct status dnat ip saddr 127.0.0.0/8 meta l4proto . ip daddr . th dport @ports-snat masquerade
//!         ct status dnat ct original ip daddr @ports-hosts ip saddr 10.88.0.0/24 ip daddr 10.88.0.0/24
//!             meta l4proto . ip daddr . th dport @ports-snat masquerade }
//!     chain ports-guard { type filter hook prerouting priority raw
//!         iifname != "lo" ip daddr 127.0.0.0/8 drop }                             (ip saddr the same)
//! }
//! ```
//!
//! A mapping is an element; a packet costs the same with one as with thousands. They come after what others have for the
//! same port at nft's `dstnat` (-100), because what is left of a dead pod here must not win over a rule that came later
//! (the reference's, whose DEL knows nothing of these tables). Where such a rule was there at the ADD, and may be left of
//! a dead pod itself, the port is in `ports-first`, which comes before it. So whoever came last has the port.
//!
//! `ports-hosts` holds the
//! host's addresses, and learns those that come later: by it our connections are told from those that others (kube-proxy) send from addresses of
//! their own to the same pods, which must not be masqueraded. It needs no mark in the packet. The port that the
//! connection's first packet was for is no part of a key: nft 1.0.6 prints `ct original proto-dst` in a way that it does
//! not read back.

use std::collections::HashSet;
use std::net::IpAddr;

use cni::Cidr;
use netlink::nft::{Batch, Comparison, Family, Field, Hook, Offset, Part, Rule, RuleBody, SetType, Verdict, joined};
use ruleset::{TABLE, bytes, mask, name_key};

use crate::condition::{Condition, Conditions, Name, What};
use crate::config::{Mapping, Protocol, Target};
use crate::native::addresses::Host;

/// Maps from a port, on any address of the host, to the pod's address and port.
const ANY: &str = "ports-any";
/// Maps from an address of the host and a port.
const AT: &str = "ports-at";
/// What is masqueraded when it comes from the host's loopback addresses or from the pod's subnet.
const SNAT: &str = "ports-snat";
/// What is masqueraded wherever it comes from.
const SNAT_ALL: &str = "ports-snat-all";
/// Ports, on any address of the host, that come before what others have for them.
const FIRST: &str = "ports-first";
/// The same for one address.
const FIRST_AT: &str = "ports-first-at";
/// Addresses of the host.
pub(crate) const HOSTS: &str = "ports-hosts";
/// Who has elements, by identity.
pub(crate) const OWNERS: &str = "ports-owners";
/// What the names of conditional maps begin with; an id follows.
const ANY_IF: &str = "ports-if-";
const AT_IF: &str = "ports-at-if-";
/// The same of maps of a pod's further interfaces.
const ANY_BY: &str = "ports-by-";
const AT_BY: &str = "ports-at-by-";

/// What the comments of their rules begin with.
const LOOKS_INTO: &str = "looks into ";

const CHAIN: &str = "ports";
const AT_IF_CHAIN: &str = "ports-at-if";
const ANY_IF_CHAIN: &str = "ports-if";
const AT_BY_CHAIN: &str = "ports-at-by";
const ANY_BY_CHAIN: &str = "ports-by";
/// Which packets are meant: of those that come in, and of those that the host sends.
const IN: &str = "ports-in";
const OUT: &str = "ports-out";
const LAST_PREROUTING: &str = "ports-last-prerouting";
const LAST_OUTPUT: &str = "ports-last-output";
const FIRST_PREROUTING: &str = "ports-first-prerouting";
const FIRST_OUTPUT: &str = "ports-first-output";
const POSTROUTING: &str = "ports-postrouting";
/// The chain that keeps 127.0.0.0/8 to the host itself.
pub(crate) const GUARD: &str = "ports-guard";
/// Base chains that earlier builds made. A chain cannot get another priority, so one that needs it gets another name.
const RETIRED: [&str; 2] = ["ports-prerouting", "ports-output"];
const CHAINS: [(&str, Option<Hook>); 13] = [
    (AT_IF_CHAIN, None),
    (ANY_IF_CHAIN, None),
    (AT_BY_CHAIN, None),
    (ANY_BY_CHAIN, None),
    (CHAIN, None),
    (IN, None),
    (OUT, None),
    (FIRST_PREROUTING, Some(Hook::DESTINATION_NAT_FIRST)),
    (FIRST_OUTPUT, Some(Hook::OUTPUT_NAT_FIRST)),
    (LAST_PREROUTING, Some(Hook::DESTINATION_NAT)),
    (LAST_OUTPUT, Some(Hook::OUTPUT_NAT)),
    (POSTROUTING, Some(Hook::SOURCE_NAT)),
    (GUARD, Some(Hook::INPUT_RAW)),
];

/// Enough for every address of a host.
const MAX_HOSTS: u32 = 65_535;
const LOOPBACK: [u8; 4] = [127, 0, 0, 0];
const LOOPBACK_MASK: [u8; 4] = [255, 0, 0, 0];

/// An element that a target needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) set: String,
    pub(crate) key: Vec<u8>,
    /// Of a map.
    pub(crate) value: Option<Vec<u8>>,
    /// The mapping that it is for.
    pub(crate) mapping: Mapping,
}

/// The elements of a target, each once. `first`: the mappings that come before what others have.
pub(crate) fn elements(target: &Target<'_>, first: &[(Family, Mapping)]) -> Vec<Wanted> {
    let mut all: Vec<Wanted> = Vec::new();
    // Two ports of the host may lead to one of the pod.
    let mut masqueraded = HashSet::new();
    let pod = target.pod.addr();
    for mapping in target.mappings() {
        let (set, key) = entry(mapping, target.conditions());
        let value = joined(&[&bytes(pod), &mapping.container_port.to_be_bytes()]);
        all.push(Wanted { set, key, value: Some(value), mapping: *mapping });
        if first.contains(&(target.family(), *mapping)) {
            let (set, key) = first_entry(mapping);
            all.push(Wanted { set: set.to_owned(), key, value: None, mapping: *mapping });
        }
        let sets = masquerade_sets(target.plan.snat, target.plan.masq_all);
        let key = masquerade_key(mapping.protocol, pod, mapping.container_port);
        if masqueraded.insert(key.clone()) {
            for set in sets {
                all.push(Wanted { set: (*set).to_owned(), key: key.clone(), value: None, mapping: *mapping });
            }
        }
    }
    all
}

/// The map and key of a mapping.
pub(crate) fn entry(mapping: &Mapping, conditions: Option<&Conditions>) -> (String, Vec<u8>) {
    let has_address = mapping.address().is_some();
    let map = match conditions {
        None => plain(has_address).to_owned(),
        Some(conditions) => {
            let prefix = match (has_address, conditions.ifname.is_some()) {
                (false, false) => ANY_IF,
                (true, false) => AT_IF,
                (false, true) => ANY_BY,
                (true, true) => AT_BY,
            };
            format!("{prefix}{}", conditions.id())
        }
    };
    (map, key(mapping))
}

/// The map of what has no conditions.
fn plain(has_address: bool) -> &'static str {
    if has_address { AT } else { ANY }
}

/// The set and key by which a mapping comes before what others have.
pub(crate) fn first_entry(mapping: &Mapping) -> (&'static str, Vec<u8>) {
    (if mapping.address().is_some() { FIRST_AT } else { FIRST }, key(mapping))
}

fn key(mapping: &Mapping) -> Vec<u8> {
    let (protocol, port) = ([mapping.protocol.number()], mapping.host_port.to_be_bytes());
    match mapping.address() {
        None => joined(&[&protocol, &port]),
        Some(ip) => joined(&[&bytes(ip), &protocol, &port]),
    }
}

/// The sets that say what is masqueraded.
pub(crate) fn masquerade_sets(snat: bool, all: bool) -> &'static [&'static str] {
    match (snat, all) {
        (false, _) => &[],
        (true, false) => &[SNAT],
        (true, true) => &[SNAT, SNAT_ALL],
    }
}

/// The key in them.
pub(crate) fn masquerade_key(protocol: Protocol, pod: IpAddr, port: u16) -> Vec<u8> {
    joined(&[&[protocol.number()], &bytes(pod), &port.to_be_bytes()])
}

/// Whether the set holds elements of attachments.
pub(crate) fn is_ours(set: &str) -> bool {
    [ANY, AT, SNAT, SNAT_ALL, FIRST, FIRST_AT].contains(&set) || is_conditional(set)
}

/// Whether the map is there for the sake of its elements only.
pub(crate) fn is_conditional(set: &str) -> bool {
    conditional_prefix(set).is_some()
}

fn conditional_prefix(set: &str) -> Option<&'static str> {
    [ANY_IF, AT_IF, ANY_BY, AT_BY].into_iter().find(|prefix| set.starts_with(prefix))
}

/// The id of the conditions of what is in the map; `None`: it has none.
pub(crate) fn conditions_of(set: &str) -> Option<&str> {
    match conditional_prefix(set)? {
        prefix @ (ANY_IF | AT_IF) => set.strip_prefix(prefix),
        prefix => Some(set.strip_prefix(prefix)?.split_once('-')?.1),
    }
}

/// Whether the keys of the map have an address.
fn has_address(set: &str) -> bool {
    set == AT || matches!(conditional_prefix(set), Some(AT_IF | AT_BY))
}

/// Whether the set only says what is masqueraded.
pub(crate) fn is_masquerade(set: &str) -> bool {
    [SNAT, SNAT_ALL].contains(&set)
}

/// Whether the set only says what comes before what others have.
pub(crate) fn is_first(set: &str) -> bool {
    [FIRST, FIRST_AT].contains(&set)
}

/// Whether both maps are for the same kind of key: a port, or an address and a port.
pub(crate) fn is_same_kind(a: &str, b: &str) -> bool {
    let kind = |set: &str| ([ANY, AT].contains(&set) || is_conditional(set)).then(|| has_address(set));
    kind(a).is_some() && kind(a) == kind(b)
}

/// The maps that these rules look into, in which the port may be somebody's as well: those of `set`'s kind but itself.
pub(crate) fn rivals(rules: &[Rule], set: &str) -> Vec<String> {
    let conditional = rules.iter().filter_map(|r| r.comment.as_deref()?.strip_prefix(LOOKS_INTO)).map(str::to_owned);
    let all = [ANY, AT].into_iter().map(str::to_owned).chain(conditional);
    all.filter(|other| other != set && is_same_kind(other, set)).collect()
}

/// The maps that these rules look into for what a set lets come before what others have.
pub(crate) fn maps_of_first(rules: &[Rule], set: &str) -> Vec<String> {
    let plain = plain(set == FIRST_AT);
    let mut maps = rivals(rules, plain);
    maps.push(plain.to_owned());
    maps
}

/// What an element of a map says: protocol, port of the host, address of the host if one was named.
pub(crate) fn read_entry(set: &str, key: &[u8]) -> Option<(Protocol, u16, Option<IpAddr>)> {
    let (ip, rest) = match (has_address(set), key.len()) {
        (false, 8) => (None, key),
        (true, 12) => (Some(IpAddr::from(<[u8; 4]>::try_from(&key[..4]).ok()?)), &key[4..]),
        (true, 24) => (Some(IpAddr::from(<[u8; 16]>::try_from(&key[..16]).ok()?)), &key[16..]),
        _ => return None,
    };
    if is_masquerade(set) || is_first(set) {
        return None;
    }
    Some((Protocol::from_number(rest[0])?, u16::from_be_bytes([rest[4], rest[5]]), ip))
}

/// The pod's address and port, as the value of a map.
pub(crate) fn read_value(value: &[u8]) -> Option<(IpAddr, u16)> {
    let (ip, port): (IpAddr, _) = match value.len() {
        8 => (<[u8; 4]>::try_from(&value[..4]).ok()?.into(), &value[4..6]),
        20 => (<[u8; 16]>::try_from(&value[..16]).ok()?.into(), &value[16..18]),
        _ => return None,
    };
    Some((ip, u16::from_be_bytes([port[0], port[1]])))
}

/// A rule that is the same for all attachments, or for all of a subnet: it is known by its comment.
struct Fixed {
    chain: &'static str,
    comment: String,
    body: Box<dyn Fn(&mut RuleBody<'_, '_>)>,
}

/// All rules that a family needs, but those of conditions.
fn fixed(family: Family) -> Vec<Fixed> {
    let fields = Fields::of(family);
    let is_v4 = family == Family::Ip;
    let mut rules = Vec::new();
    let mut rule = |chain, comment: &str, body: Box<dyn Fn(&mut RuleBody<'_, '_>)>| {
        rules.push(Fixed { chain, comment: comment.to_owned(), body });
    };
    let Fields { destination, .. } = fields;
    let jump = |chain: &str| Verdict::Jump(chain.to_owned());
    rule(
        CHAIN,
        "the host's addresses",
        Box::new(move |r| {
            if is_v4 {
                r.masked(destination, &LOOPBACK_MASK, Comparison::NotEqual, &LOOPBACK);
            }
            r.learn(&[Part::Packet(destination)], HOSTS);
        }),
    );
    rule(CHAIN, "one address, conditions", Box::new(move |r| _ = r.verdict(&jump(AT_IF_CHAIN))));
    rule(CHAIN, "one address", Box::new(move |r| _ = r.send_to_entry(family, &fields.at(), AT)));
    rule(CHAIN, "one address, further interfaces", Box::new(move |r| _ = r.verdict(&jump(AT_BY_CHAIN))));
    rule(CHAIN, "any address, conditions", Box::new(move |r| _ = r.verdict(&jump(ANY_IF_CHAIN))));
    rule(CHAIN, "any address", Box::new(move |r| _ = r.send_to_entry(family, &fields.any(), ANY)));
    // The network that has the port first keeps it: by it is the way back, as a rule.
    rule(CHAIN, "any address, further interfaces", Box::new(move |r| _ = r.verdict(&jump(ANY_BY_CHAIN))));
    let ports = || Verdict::Jump(CHAIN.to_owned());
    rule(IN, "to the link it came in by", Box::new(move |r| _ = r.to_input_address().verdict(&ports())));
    for chain in [IN, OUT] {
        // An address that has moved to another machine is no longer meant.
        rule(
            chain,
            "to the host, not to a service",
            Box::new(move |r| _ = r.to_local().in_set(&[Part::Packet(destination)], HOSTS).verdict(&ports())),
        );
    }
    if is_v4 {
        rule(
            OUT,
            "to the loopback",
            Box::new(move |r| {
                r.masked(destination, &LOOPBACK_MASK, Comparison::Equal, &LOOPBACK).verdict(&ports());
            }),
        );
    }
    for (chain, meant) in [(FIRST_PREROUTING, IN), (FIRST_OUTPUT, OUT)] {
        rule(chain, "any address", Box::new(move |r| _ = r.in_set(&fields.any(), FIRST).verdict(&jump(meant))));
        rule(chain, "one address", Box::new(move |r| _ = r.in_set(&fields.at(), FIRST_AT).verdict(&jump(meant))));
    }
    for (chain, meant) in [(LAST_PREROUTING, IN), (LAST_OUTPUT, OUT)] {
        rule(chain, "what nobody else has taken", Box::new(move |r| _ = r.verdict(&jump(meant))));
    }
    if is_v4 {
        rule(
            POSTROUTING,
            "from the loopback",
            Box::new(move |r| {
                r.is_destination_rewritten().masked(fields.source, &LOOPBACK_MASK, Comparison::Equal, &LOOPBACK);
                r.in_set(&fields.pod_port(), SNAT).masquerade();
            }),
        );
    }
    rule(
        POSTROUTING,
        "masqAll",
        Box::new(move |r| {
            r.is_destination_rewritten().in_set(&[fields.original], HOSTS);
            r.in_set(&fields.pod_port(), SNAT_ALL).masquerade();
        }),
    );
    if is_v4 {
        rules.extend(guard());
    }
    rules
}

/// Those of the guard.
fn guard() -> Vec<Fixed> {
    let rule = |(part, what)| Fixed {
        chain: GUARD,
        comment: format!("what is {what} the loopback never comes by another link"),
        body: Box::new(move |r: &mut RuleBody<'_, '_>| {
            r.differs(Part::InputName, &name_key("lo"));
            r.masked(part, &LOOPBACK_MASK, Comparison::Equal, &LOOPBACK).verdict(&Verdict::Drop);
        }),
    };
    [(Offset::IP_SOURCE, "from"), (Offset::IP_DESTINATION, "to")].map(rule).into()
}

/// The rules of addresses that the host gets later in subnets that it has a part in: nothing of Services is there as
/// long as no link is known to hold any.
fn later_addresses(family: Family, host: &Host) -> Vec<Fixed> {
    let destination = Fields::of(family).destination;
    let subnets = host.subnets.iter().filter(|s| Family::of(s.addr()) == family);
    let rule = |chain, subnet: Cidr| Fixed {
        chain,
        comment: format!("to the host in {subnet}"),
        body: Box::new(move |r| {
            in_subnet(r.to_local(), destination, subnet, false);
            r.verdict(&Verdict::Jump(CHAIN.to_owned()));
        }),
    };
    subnets.flat_map(|subnet| [IN, OUT].map(|chain| rule(chain, *subnet))).collect()
}

/// The rule of the pods of a subnet that reach each other, or themselves, by a port of the host.
fn subnet_rule(subnet: Cidr) -> Fixed {
    let fields = Fields::of(Family::of(subnet.addr()));
    Fixed {
        chain: POSTROUTING,
        comment: format!("inside {subnet}"),
        body: Box::new(move |r| {
            r.is_destination_rewritten().in_set(&[fields.original], HOSTS);
            in_subnet(r, fields.source, subnet, false);
            in_subnet(r, fields.destination, subnet, false);
            r.in_set(&fields.pod_port(), SNAT).masquerade();
        }),
    }
}

fn in_subnet(rule: &mut RuleBody<'_, '_>, part: Offset, subnet: Cidr, negated: bool) {
    let is_whole = subnet.prefix() == if subnet.is_ipv4() { 32 } else { 128 };
    let network = bytes(subnet.addr());
    match (is_whole, negated) {
        // A mask of ones alone would not be printed as an address.
        (true, false) => rule.equals(Part::Packet(part), &network),
        (true, true) => rule.differs(Part::Packet(part), &network),
        (false, false) => rule.masked(part, &mask(subnet), Comparison::Equal, &network),
        (false, true) => rule.masked(part, &mask(subnet), Comparison::NotEqual, &network),
    };
}

/// Where things are in the packets of a family.
#[derive(Debug, Clone, Copy)]
struct Fields {
    source: Offset,
    destination: Offset,
    original: Part,
}

impl Fields {
    fn of(family: Family) -> Self {
        if family == Family::Ip {
            Self {
                source: Offset::IP_SOURCE,
                destination: Offset::IP_DESTINATION,
                original: Part::OriginalDestination4,
            }
        } else {
            Self {
                source: Offset::IP6_SOURCE,
                destination: Offset::IP6_DESTINATION,
                original: Part::OriginalDestination6,
            }
        }
    }

    fn any(self) -> [Part; 2] {
        [Part::Protocol, Part::Packet(Offset::DESTINATION_PORT)]
    }

    fn at(self) -> [Part; 3] {
        let [protocol, port] = self.any();
        [Part::Packet(self.destination), protocol, port]
    }

    fn pod_port(self) -> [Part; 3] {
        let [protocol, port] = self.any();
        [protocol, Part::Packet(self.destination), port]
    }
}

/// The first rule of the skeleton that is not among these, as chain and comment.
pub(crate) fn first_missing(rules: &[Rule], target: &Target<'_>) -> Option<String> {
    let mut all = fixed(target.family());
    all.push(subnet_rule(target.pod.network()));
    let gone = first_gone(rules, all);
    let conditional = || target.conditions().and_then(|c| first_missing_of(rules, target, c));
    gone.or_else(conditional)
}

/// The same of the guard.
pub(crate) fn first_missing_of_guard(rules: &[Rule]) -> Option<String> {
    first_gone(rules, guard())
}

fn first_gone(rules: &[Rule], all: Vec<Fixed>) -> Option<String> {
    let gone = all.into_iter().find(|fixed| !ruleset::has(rules, fixed.chain, &fixed.comment));
    gone.map(|fixed| format!("rule \"{}\" of chain {}", fixed.comment, fixed.chain))
}

/// Whether nothing is missing of the rules, and none is there that is of another time.
pub(crate) fn is_up_to_date(rules: &[Rule], target: &Target<'_>, host: &Host) -> bool {
    let later = later_addresses(target.family(), host);
    first_missing(rules, target).is_none()
        && later.iter().all(|f| ruleset::has(rules, f.chain, &f.comment))
        && old(rules, target.family(), &later).next().is_none()
        && retired(rules).is_empty()
}

/// The rules that tell which addresses are meant in a way that is not right any more.
fn old<'r>(rules: &'r [Rule], family: Family, later: &[Fixed]) -> impl Iterator<Item = &'r Rule> {
    let expected: HashSet<(&str, String)> =
        fixed(family).iter().chain(later).map(|f| (f.chain, f.comment.clone())).collect();
    rules.iter().filter(move |r| {
        let is_expected = |comment: &String| expected.contains(&(r.chain.as_str(), comment.clone()));
        [IN, OUT].contains(&r.chain.as_str()) && !r.comment.as_ref().is_some_and(is_expected)
    })
}

/// The chains of earlier builds that hold any of these rules; an empty one does nothing.
fn retired(rules: &[Rule]) -> Vec<&'static str> {
    RETIRED.into_iter().filter(|chain| rules.iter().any(|r| r.chain == *chain)).collect()
}

fn first_missing_of(rules: &[Rule], target: &Target<'_>, conditions: &Conditions) -> Option<String> {
    let sets = target.mappings().map(|m| entry(m, Some(conditions)).0);
    let gone = |set: &String| !ruleset::has(rules, conditional_chain(set), &conditional_comment(set));
    let mut missing = sets.filter(gone);
    missing.next().map(|set| format!("the rule of map {set}, of the conditions \"{}\"", conditions.text()))
}

/// Adds to a transaction what is missing of the target's rules, its sets and chains.
pub(crate) fn push_skeleton(batch: &mut Batch, rules: &[Rule], target: &Target<'_>, host: &Host) {
    let family = target.family();
    for chain in retired(rules) {
        batch.delete_chain(family, TABLE, chain);
    }
    let later = later_addresses(family, host);
    for rule in old(rules, family, &later) {
        batch.delete_rule(family, TABLE, &rule.chain, rule.handle);
    }
    let mut all = fixed(family);
    all.extend(later);
    let of_subnet = subnet_rule(target.pod.network());
    let has = |f: &Fixed| ruleset::has(rules, f.chain, &f.comment);
    let is_whole = all.iter().all(has);
    if !is_whole || !has(&of_subnet) {
        batch.add_table(family, TABLE, ruleset::TABLE_COMMENT);
        push_sets(batch, family);
        for (chain, hook) in CHAINS {
            if family == Family::Ip || chain != GUARD {
                batch.add_chain(family, TABLE, chain, hook);
            }
        }
    }
    // The order of the rules matters in one chain only, which is written anew if any of its rules is missing.
    let rewrite = !all.iter().filter(|f| f.chain == CHAIN).all(has);
    for rule in rules.iter().filter(|r| rewrite && r.chain == CHAIN) {
        batch.delete_rule(family, TABLE, &rule.chain, rule.handle);
    }
    for rule in &all {
        if !has(rule) || rewrite && rule.chain == CHAIN {
            push(batch, family, rule);
        }
    }
    if !has(&of_subnet) {
        push(batch, family, &of_subnet);
    }
    if let Some(conditions) = target.conditions() {
        push_conditions(batch, rules, target, conditions);
    }
}

/// Adds to a transaction what is missing of the guard alone.
pub(crate) fn push_guard(batch: &mut Batch, rules: &[Rule]) {
    let missing: Vec<_> = guard().into_iter().filter(|f| !ruleset::has(rules, f.chain, &f.comment)).collect();
    if !missing.is_empty() {
        batch.add_table(Family::Ip, TABLE, ruleset::TABLE_COMMENT);
        batch.add_chain(Family::Ip, TABLE, GUARD, Some(Hook::INPUT_RAW));
    }
    missing.iter().for_each(|rule| push(batch, Family::Ip, rule));
}

fn push(batch: &mut Batch, family: Family, rule: &Fixed) {
    batch.add_rule(family, TABLE, rule.chain, &rule.comment, |body| (rule.body)(body));
}

fn push_sets(batch: &mut Batch, family: Family) {
    const V4: (SetType, SetType, SetType, SetType) = (
        SetType::IPV4,
        SetType::of(&[Field::Ipv4, Field::Protocol, Field::Port]),
        SetType::of(&[Field::Ipv4, Field::Port]),
        SetType::of(&[Field::Protocol, Field::Ipv4, Field::Port]),
    );
    const V6: (SetType, SetType, SetType, SetType) = (
        SetType::IPV6,
        SetType::of(&[Field::Ipv6, Field::Protocol, Field::Port]),
        SetType::of(&[Field::Ipv6, Field::Port]),
        SetType::of(&[Field::Protocol, Field::Ipv6, Field::Port]),
    );
    let (address, at, pod, snat) = if family == Family::Ip { V4 } else { V6 };
    batch.add_map(family, TABLE, AT, at, pod);
    const PORT: SetType = SetType::of(&[Field::Protocol, Field::Port]);
    batch.add_map(family, TABLE, ANY, PORT, pod);
    batch.add_set(family, TABLE, FIRST, PORT);
    batch.add_set(family, TABLE, FIRST_AT, at);
    for set in [SNAT, SNAT_ALL] {
        batch.add_set(family, TABLE, set, snat);
    }
    batch.add_learning_set(family, TABLE, HOSTS, address, MAX_HOSTS);
    batch.add_set(family, TABLE, OWNERS, SetType::IPV6);
}

fn push_conditions(batch: &mut Batch, rules: &[Rule], target: &Target<'_>, conditions: &Conditions) {
    let family = target.family();
    let mut sets: Vec<String> = target.mappings().map(|m| entry(m, Some(conditions)).0).collect();
    sets.sort();
    sets.dedup();
    for set in sets {
        let chain = conditional_chain(&set);
        let comment = conditional_comment(&set);
        if ruleset::has(rules, chain, &comment) {
            continue;
        }
        let fields = Fields::of(family);
        let has_address = has_address(&set);
        let parts = if has_address { fields.at().to_vec() } else { fields.any().to_vec() };
        const ANY_KEY: SetType = SetType::of(&[Field::Protocol, Field::Port]);
        const AT4: SetType = SetType::of(&[Field::Ipv4, Field::Protocol, Field::Port]);
        const AT6: SetType = SetType::of(&[Field::Ipv6, Field::Protocol, Field::Port]);
        const POD4: SetType = SetType::of(&[Field::Ipv4, Field::Port]);
        const POD6: SetType = SetType::of(&[Field::Ipv6, Field::Port]);
        let (at, pod) = if family == Family::Ip { (AT4, POD4) } else { (AT6, POD6) };
        batch.add_map(family, TABLE, &set, if has_address { at } else { ANY_KEY }, pod);
        batch.add_rule(family, TABLE, chain, &comment, |rule| {
            for condition in &conditions.all {
                push_condition(rule, fields, condition);
            }
            rule.send_to_entry(family, &parts, &set);
        });
    }
}

fn push_condition(rule: &mut RuleBody<'_, '_>, fields: Fields, condition: &Condition) {
    let name = |rule: &mut RuleBody<'_, '_>, part, name: &Name| {
        // A shorter value compares with what the name begins with.
        let key = if name.is_prefix { name.text.as_bytes().to_vec() } else { name_key(&name.text) };
        if condition.negated {
            rule.differs(part, &key)
        } else {
            rule.equals(part, &key)
        };
    };
    match &condition.what {
        What::Source(cidr) => in_subnet(rule, fields.source, *cidr, condition.negated),
        What::Destination(cidr) => in_subnet(rule, fields.destination, *cidr, condition.negated),
        What::Input(link) => name(rule, Part::InputName, link),
        What::Output(link) => name(rule, Part::OutputName, link),
    }
}

fn conditional_chain(set: &str) -> &'static str {
    match conditional_prefix(set) {
        Some(AT_IF) => AT_IF_CHAIN,
        Some(AT_BY) => AT_BY_CHAIN,
        Some(ANY_BY) => ANY_BY_CHAIN,
        _ => ANY_IF_CHAIN,
    }
}

fn conditional_comment(set: &str) -> String {
    format!("{LOOKS_INTO}{set}")
}

/// Adds to a transaction what removes a map of conditions, empty by then, with its rule.
pub(crate) fn push_conditional_removal(batch: &mut Batch, family: Family, rules: &[Rule], set: &str) {
    let (chain, comment) = (conditional_chain(set), conditional_comment(set));
    for rule in rules.iter().filter(|r| r.chain == chain && r.comment.as_ref() == Some(&comment)) {
        batch.delete_rule(family, TABLE, chain, rule.handle);
    }
    batch.delete_set(family, TABLE, set);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{plan, with_ports};

    #[test]
    fn elements_are_read_back() {
        let plan = with_ports(
            r#"{"hostPort":8080,"containerPort":80,"protocol":"tcp"},
               {"hostPort":53,"containerPort":5353,"protocol":"udp","hostIP":"192.0.2.1"},
               {"hostPort":54,"containerPort":5353,"protocol":"udp","hostIP":"2001:db8::1"}"#,
        )
        .unwrap();
        for (pod, at) in [("10.0.0.2/24", "192.0.2.1"), ("fd00::2/64", "2001:db8::1")] {
            let target = Target::new(&plan, pod.parse().unwrap());
            let all = elements(&target, &[]);
            let entries: Vec<_> = all.iter().filter_map(|w| read_entry(&w.set, &w.key)).collect();
            let port = if target.family() == Family::Ip { 53 } else { 54 };
            assert_eq!(entries, [(Protocol::Tcp, 8080, None), (Protocol::Udp, port, Some(at.parse().unwrap()))]);
            let values: Vec<_> = all.iter().filter_map(|w| read_value(w.value.as_deref()?)).collect();
            assert_eq!(values, [(target.pod.addr(), 80), (target.pod.addr(), 5353)]);
            assert_eq!(all.iter().filter(|w| w.set == SNAT).count(), 2);
            assert!(all.iter().all(|w| is_ours(&w.set) && !is_conditional(&w.set)));
        }
        assert_eq!(read_entry(ANY, &[6, 0, 0]), None);
        assert_eq!(read_entry(ANY, &[7, 0, 0, 0, 0, 80, 0, 0]), None);
        assert_eq!(read_value(&[1, 2]), None);
    }

    #[test]
    fn a_port_of_the_pod_is_masqueraded_once_and_not_without_snat() {
        let ports = r#""runtimeConfig":{"portMappings":[
            {"hostPort":1,"containerPort":80,"protocol":"tcp"},{"hostPort":2,"containerPort":80,"protocol":"tcp"}]}"#;
        for (members, sets) in [("", &[SNAT][..]), (",\"snat\":false", &[]), (",\"masqAll\":true", &[SNAT, SNAT_ALL])] {
            let plan = plan(&format!("{ports}{members}")).unwrap();
            let all = elements(&Target::new(&plan, "10.0.0.2/24".parse().unwrap()), &[]);
            let of: Vec<_> = all.iter().filter(|w| w.value.is_none()).map(|w| w.set.as_str()).collect();
            assert_eq!(of, sets);
        }
    }

    #[test]
    fn maps_of_further_interfaces_are_known_and_have_no_conditions() {
        let plan = with_ports(
            r#"{"hostPort":1,"containerPort":1,"protocol":"tcp"},
               {"hostPort":1,"containerPort":1,"protocol":"tcp","hostIP":"192.0.2.1"}"#,
        )
        .unwrap();
        let beside = Target::new(&plan, "10.0.0.2/24".parse().unwrap()).by_interface("eth1");
        let all = elements(&beside, &[]);
        for (wanted, (plain, chain)) in
            all.iter().filter(|w| w.value.is_some()).zip([(ANY, ANY_BY_CHAIN), (AT, AT_BY_CHAIN)])
        {
            let set = &wanted.set;
            assert!(is_ours(set) && is_conditional(set) && is_same_kind(set, plain), "{set}");
            assert_eq!((conditions_of(set), conditional_chain(set)), (None, chain));
            assert!(read_entry(set, &wanted.key).is_some());
        }
    }

    #[test]
    fn names_and_comments_fit_into_what_the_kernel_and_nft_take() {
        let plan = plan(r#""conditionsV6":["-s","fd00::/8"]"#).unwrap();
        let mapping =
            with_ports(r#"{"hostPort":1,"containerPort":1,"protocol":"tcp","hostIP":"::1"}"#).unwrap().mappings[0];
        let (set, _) = entry(&mapping, plan.conditions(Family::Ip6));
        assert!(
            set.starts_with(AT_IF) && set.len() < 32 && conditional_comment(&set).len() <= netlink::nft::MAX_COMMENT
        );
        let beside = Target::new(&plan, "fd00::2/64".parse().unwrap()).by_interface("eth1");
        let (by, _) = entry(&mapping, beside.conditions());
        assert!(by.starts_with(AT_BY) && by.len() < 32 && conditions_of(&by) == conditions_of(&set), "{by}");
        let longest = subnet_rule("fd00:1111:2222:3333:4444:5555:6666:7777/128".parse().unwrap());
        assert!(longest.comment.len() <= netlink::nft::MAX_COMMENT);
    }
}
