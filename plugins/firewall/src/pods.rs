//! Our own tables: which addresses belong to which attachment.
//!
//! ```text
//! table ip oxbridge {
//!     set fw-pods      { type ipv4_addr; elements = { 10.22.0.5 comment "<owner>" } }
//!     map fw-firewalld { type ipv4_addr : ifname; elements = { 10.22.0.5 comment "<owner>" : "trusted" } }
//!     chain fw-forward { type filter hook forward priority filter; policy accept;
//!         ip daddr @fw-pods ct state established,related accept
//!         ip daddr @fw-pods ct status dnat accept
//!         ip saddr @fw-pods accept }
//! }
//! ```
//!
//! Whatever the backend: the kernel remembers the addresses, so that DEL and GC need nobody else's memory. `fw-firewalld`
//! holds those that a call has made sources of a zone of firewalld, with the zone. A rule for each pod there is none.

use std::net::IpAddr;

use netlink::nft::{Batch, Family, Field, Hook, Offset, Part, Rule, SetType, Verdict};
use ruleset::{NewElement, Skeleton, TABLE, bytes, has};

/// The set of the pods' addresses.
pub(crate) const PODS: &str = "fw-pods";
/// The map of those that firewalld has as sources, to their zone.
pub(crate) const SOURCES: &str = "fw-firewalld";
/// Longest text of an `ifname`, in bytes.
const ZONE_LEN: usize = 15;
/// The chain that pods pass.
pub(crate) const CHAIN: &str = "fw-forward";
const REPLIES: &str = "what belongs to a pod's connections";
const PUBLISHED: &str = "what a published port sends to a pod";
const OUT: &str = "what a pod sends";

/// The element of an address in one of the sets.
pub(crate) fn element(set: &str, address: IpAddr) -> NewElement {
    NewElement { family: Family::of(address), set: set.to_owned(), key: bytes(address), value: None }
}

/// The element of an address that is made a source of this zone.
pub(crate) fn source(address: IpAddr, zone: &str) -> NewElement {
    NewElement { value: Some(zone_value(zone)), ..element(SOURCES, address) }
}

/// A zone in the map's values: as much of its name as an `ifname` of nft's holds (15 bytes; firewalld allows 17).
pub(crate) fn zone_value(zone: &str) -> Vec<u8> {
    let mut value = zone.as_bytes().to_vec();
    value.truncate(ZONE_LEN);
    value.resize(ZONE_LEN + 1, 0);
    value
}

/// The address of a key of these sets.
pub(crate) fn address(key: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(key).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(key).map(IpAddr::from)).ok()
}

/// The chain, rules and sets of a family.
pub(crate) struct Forward(pub(crate) Family);

impl Skeleton for Forward {
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
        &[REPLIES, PUBLISHED, OUT]
    }

    fn push(&self, batch: &mut Batch) {
        let family = self.0;
        let (keys, source, destination) = if family == Family::Ip {
            (SetType::IPV4, Part::Packet(Offset::IP_SOURCE), Part::Packet(Offset::IP_DESTINATION))
        } else {
            (SetType::IPV6, Part::Packet(Offset::IP6_SOURCE), Part::Packet(Offset::IP6_DESTINATION))
        };
        batch.add_set(family, TABLE, PODS, keys);
        batch.add_map(family, TABLE, SOURCES, keys, SetType::of(&[Field::InterfaceName]));
        batch.add_chain(family, TABLE, CHAIN, Some(Hook::FORWARD));
        batch.add_rule(family, TABLE, CHAIN, REPLIES, |rule| {
            rule.in_set(&[destination], PODS).is_established_or_related().verdict(&Verdict::Accept);
        });
        batch.add_rule(family, TABLE, CHAIN, PUBLISHED, |rule| {
            rule.in_set(&[destination], PODS).is_destination_rewritten().verdict(&Verdict::Accept);
        });
        batch.add_rule(family, TABLE, CHAIN, OUT, |rule| {
            rule.in_set(&[source], PODS).verdict(&Verdict::Accept);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_addresses() {
        for text in ["10.0.0.2", "fd00::2"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(address(&element(PODS, ip).key), Some(ip));
        }
        assert_eq!(address(&[1, 2, 3]), None);
    }

    #[test]
    fn a_zone_is_known_by_its_beginning() {
        assert_eq!(zone_value("trusted"), b"trusted\0\0\0\0\0\0\0\0\0");
        assert_eq!(zone_value("FedoraWorkstation"), b"FedoraWorkstati\0");
    }
}
