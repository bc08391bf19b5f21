//! `ingressPolicy`: which pods may send to which.
//!
//! ```text
//! table ip oxbridge {
//!     set fw-same-bridge { type ifname . ipv4_addr; elements = { "br0" . 10.22.0.5 comment "<owner>" } }
//!     set fw-isolated    { type ifname . ipv4_addr; elements = { "br1" . 10.23.0.7 comment "<owner>" } }
//!     set fw-bridges     { type ifname; elements = { "br0", "br1" } }
//!     set fw-siblings    { type ifname . ifname; elements = { "br0" . "br0" } }
//!     chain fw-ingress { type filter hook forward priority -1;
//!         iifname . oifname @fw-siblings return
//!         iifname @fw-bridges oifname @fw-bridges counter drop }
//! }
//! table bridge oxbridge {
//!     set fw-isolated-ports { type ifname; elements = { "veth1a2b3c4d" comment "<owner>" } }
//!     chain fw-isolation { type filter hook forward priority filter;
//!         iifname @fw-isolated-ports oifname @fw-isolated-ports counter drop
//!         iifname @fw-isolated-ports oifname "veth*" counter drop
//!         iifname "veth*" oifname @fw-isolated-ports counter drop }
//! }
//! ```
//!
//! A drop in a base chain of ours is final, whatever others accept, so this is the same for all backends. The first
//! two sets hold attachments and no rule looks into them: they tell which bridges have any left. What is between the
//! ports of one bridge never comes by the hook of IP, unless br_netfilter sends it there; hence the second table. It
//! knows other pods of the bridge by the names of their ports: those without a policy have told nobody about them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netlink::Result;
use netlink::nft::{Batch, Element, Family, Field, Hook, Nft, Part, Rule, SetType, Verdict};
use ruleset::{NewElement, Skeleton, TABLE, bytes, has, name_key};

use crate::config::Policy;

/// Attachments with policy `same-bridge`.
const SAME_BRIDGE: &str = "fw-same-bridge";
/// Attachments with policy `isolated`.
const ISOLATED: &str = "fw-isolated";
/// Bridges that have attachments with a policy.
const BRIDGES: &str = "fw-bridges";
/// Those of them whose pods may send to each other, paired with themselves.
const SIBLINGS: &str = "fw-siblings";
/// Host ends of isolated pods.
const PORTS: &str = "fw-isolated-ports";
const CHAIN: &str = "fw-ingress";
const BRIDGE_CHAIN: &str = "fw-isolation";
const WITHIN: &str = "pods of one bridge may send to each other";
const ACROSS: &str = "pods of different bridges may not, nor isolated ones";
const PORT_TO_PORT: &str = "isolated pods of one bridge may not send to each other";
const PORT_TO_OTHERS: &str = "nor to pods of their bridge that are not isolated";
const OTHERS_TO_PORT: &str = "nor these to them";
/// How the names of pods' ports begin, whoever has made them: this suite, the reference, Docker.
const VETH: &[u8] = b"veth";
/// Length of an interface name in a key.
const NAME: usize = 16;
/// One step before the other chains of the hook, so that what is dropped anyway is dropped first.
const HOOK: Hook = Hook { kind: "filter", number: Hook::FORWARD.number, priority: -1 };

/// Sets whose elements are attachments'.
pub(crate) fn owned_sets() -> Vec<(Family, String)> {
    let mut all = vec![(Family::Bridge, PORTS.to_owned())];
    for family in [Family::Ip, Family::Ip6] {
        all.extend([SAME_BRIDGE, ISOLATED].map(|set| (family, set.to_owned())));
    }
    all
}

/// An attachment's elements.
pub(crate) fn elements(policy: Policy, bridge: &str, addresses: &[IpAddr], ports: &[String]) -> Vec<NewElement> {
    let set = match policy {
        Policy::Open => return Vec::new(),
        Policy::SameBridge => SAME_BRIDGE,
        Policy::Isolated => ISOLATED,
    };
    let member = |address: &IpAddr| {
        let mut key = name_key(bridge);
        key.extend(bytes(*address));
        NewElement { family: Family::of(*address), set: set.to_owned(), key, value: None }
    };
    let mut all: Vec<NewElement> = addresses.iter().map(member).collect();
    if policy == Policy::Isolated {
        all.extend(ports.iter().map(|port| NewElement {
            family: Family::Bridge,
            set: PORTS.to_owned(),
            key: name_key(port),
            value: None,
        }));
    }
    all
}

/// The chains that these elements need.
pub(crate) fn skeletons(elements: &[NewElement]) -> Vec<Box<dyn Skeleton>> {
    let is_of = |family: &Family| elements.iter().any(|element| element.family == *family);
    let mut all: Vec<Box<dyn Skeleton>> = Vec::new();
    for family in [Family::Ip, Family::Ip6].into_iter().filter(is_of) {
        all.push(Box::new(Bridges(family)));
    }
    if is_of(&Family::Bridge) {
        all.push(Box::new(Ports));
    }
    all
}

/// Adds to a transaction what makes the sets of bridges say what the attachments in the family do, less those for
/// which `is_gone` holds, in the set of that name.
pub(crate) fn push_bridges(
    nft: &mut Nft,
    batch: &mut Batch,
    family: Family,
    is_gone: impl Fn(&str, &Element) -> bool,
) -> Result<()> {
    let wanted = wanted(nft, family, is_gone)?;
    let pairs = wanted.iter().filter(|(_, policy)| **policy == Policy::SameBridge).map(|(name, _)| siblings(name));
    push_difference(nft, batch, family, SIBLINGS, &pairs.collect::<Vec<_>>())?;
    push_difference(nft, batch, family, BRIDGES, &wanted.keys().cloned().collect::<Vec<_>>())
}

/// The policies of the bridges by their attachments in the family, less those for which `is_gone` holds.
fn wanted(
    nft: &mut Nft,
    family: Family,
    is_gone: impl Fn(&str, &Element) -> bool,
) -> Result<BTreeMap<Vec<u8>, Policy>> {
    let mut wanted = BTreeMap::new();
    for (set, policy) in [(SAME_BRIDGE, Policy::SameBridge), (ISOLATED, Policy::Isolated)] {
        for element in nft.elements(family, TABLE, set)?.iter().filter(|element| !is_gone(set, element)) {
            // The stricter one, where a bridge has pods of both: it comes later here.
            wanted.insert(element.key.get(..NAME).unwrap_or_default().to_vec(), policy);
        }
    }
    Ok(wanted)
}

/// The key of a bridge whose pods may send to each other.
fn siblings(name: &[u8]) -> Vec<u8> {
    [name, name].concat()
}

fn push_difference(nft: &mut Nft, batch: &mut Batch, family: Family, set: &str, wanted: &[Vec<u8>]) -> Result<()> {
    let found: Vec<Vec<u8>> = nft.elements(family, TABLE, set)?.into_iter().map(|element| element.key).collect();
    for key in found.iter().filter(|key| !wanted.contains(key)) {
        batch.delete_element(family, TABLE, set, key);
    }
    for key in wanted.iter().filter(|key| !found.contains(key)) {
        batch.add_element(family, TABLE, set, key, "has attachments");
    }
    Ok(())
}

/// What of the policy is not in force for the bridge in the family; `None` if all is.
pub(crate) fn missing(nft: &mut Nft, family: Family, bridge: &str) -> Result<Option<String>> {
    let name = name_key(bridge);
    if nft.element(family, TABLE, BRIDGES, &name)?.is_none() {
        return Ok(Some(format!("set {family} {TABLE} {BRIDGES} has no element \"{bridge}\"")));
    }
    let may_send = nft.element(family, TABLE, SIBLINGS, &siblings(&name))?.is_some();
    let found = match (wanted(nft, family, |_, _| false)?.get(&name), may_send) {
        (Some(Policy::SameBridge), false) => "no",
        (Some(Policy::Isolated), true) => "an",
        _ => return Ok(None),
    };
    Ok(Some(format!("set {family} {TABLE} {SIBLINGS} has {found} element \"{bridge}\" . \"{bridge}\"")))
}

/// The chain of one family of IP.
struct Bridges(Family);

impl Skeleton for Bridges {
    fn family(&self) -> Family {
        self.0
    }

    fn name(&self) -> String {
        CHAIN.to_owned()
    }

    fn is_whole(&self, rules: &[Rule]) -> bool {
        self.comments().iter().all(|comment| has(rules, CHAIN, comment))
    }

    fn comments(&self) -> &[&str] {
        &[WITHIN, ACROSS]
    }

    fn push(&self, batch: &mut Batch) {
        const MEMBER4: SetType = SetType::of(&[Field::InterfaceName, Field::Ipv4]);
        const MEMBER6: SetType = SetType::of(&[Field::InterfaceName, Field::Ipv6]);
        let family = self.0;
        let member = if family == Family::Ip { MEMBER4 } else { MEMBER6 };
        batch.add_set(family, TABLE, SAME_BRIDGE, member);
        batch.add_set(family, TABLE, ISOLATED, member);
        batch.add_set(family, TABLE, BRIDGES, SetType::INTERFACE_NAME);
        batch.add_set(family, TABLE, SIBLINGS, SetType::of(&[Field::InterfaceName, Field::InterfaceName]));
        batch.add_chain(family, TABLE, CHAIN, Some(HOOK));
        batch.insert_rule(family, TABLE, CHAIN, WITHIN, |rule| {
            rule.in_set(&[Part::InputName, Part::OutputName], SIBLINGS).verdict(&Verdict::Return);
        });
        batch.add_rule(family, TABLE, CHAIN, ACROSS, |rule| {
            rule.in_set(&[Part::InputName], BRIDGES).in_set(&[Part::OutputName], BRIDGES);
            rule.counter().verdict(&Verdict::Drop);
        });
    }
}

/// The chain of frames from port to port.
struct Ports;

impl Skeleton for Ports {
    fn family(&self) -> Family {
        Family::Bridge
    }

    fn name(&self) -> String {
        BRIDGE_CHAIN.to_owned()
    }

    fn is_whole(&self, rules: &[Rule]) -> bool {
        self.comments().iter().all(|comment| has(rules, BRIDGE_CHAIN, comment))
    }

    fn comments(&self) -> &[&str] {
        &[PORT_TO_PORT, PORT_TO_OTHERS, OTHERS_TO_PORT]
    }

    fn push(&self, batch: &mut Batch) {
        batch.add_set(Family::Bridge, TABLE, PORTS, SetType::INTERFACE_NAME);
        batch.add_chain(Family::Bridge, TABLE, BRIDGE_CHAIN, Some(Hook::BRIDGE_FORWARD));
        batch.add_rule(Family::Bridge, TABLE, BRIDGE_CHAIN, PORT_TO_PORT, |rule| {
            rule.in_set(&[Part::InputName], PORTS).in_set(&[Part::OutputName], PORTS);
            rule.counter().verdict(&Verdict::Drop);
        });
        batch.add_rule(Family::Bridge, TABLE, BRIDGE_CHAIN, PORT_TO_OTHERS, |rule| {
            rule.in_set(&[Part::InputName], PORTS).equals(Part::OutputName, VETH);
            rule.counter().verdict(&Verdict::Drop);
        });
        batch.add_rule(Family::Bridge, TABLE, BRIDGE_CHAIN, OTHERS_TO_PORT, |rule| {
            rule.equals(Part::InputName, VETH).in_set(&[Part::OutputName], PORTS);
            rule.counter().verdict(&Verdict::Drop);
        });
    }
}
