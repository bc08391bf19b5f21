//! `ipMasq`: what a pod sends out of its subnet carries the node's address.
//!
//! ```text
//! table ip oxbridge {
//!     set pods-10.22.0.0/16 { type ipv4_addr; elements = { 10.22.0.5 comment "…" } }
//!     chain masq-postrouting { type nat hook postrouting priority srcnat;
//!         ip daddr 224.0.0.0/4 return
//!         ip saddr @pods-10.22.0.0/16 ip daddr != 10.22.0.0/16 masquerade }
//! }
//! ```
//!
//! Where `bridge-nf-call-iptables` is on, a frame on its way to the gateway of a VLAN, which is a port, passes here before
//! the host has seen it. It must keep its source until the host sends it on, or it is refused as one of the host's own:
//! `iif 0 oifname "br0" return`. Before Linux 5.7 no packet has an input link here, and what the host sends out by the
//! bridge itself keeps its source as well.
//!
//! A rule for each subnet and no map to verdicts: with every new element that jumps, the kernel looks through all the
//! others of its map for loops (`nft_lookup_validate`), so that a pod would cost the more the more there are.

use cni::Cidr;
use netlink::nft::{Batch, Comparison, Family, Hook, Nft, Offset, Part, Rule, SetType, Verdict};

use ruleset::{NewElement, Skeleton, TABLE, bytes, has, mask, name_key};

/// Not a word of nft's language, like `masquerade`, or `nft -f` could not read its own listing.
const CHAIN: &str = "masq-postrouting";
const SET_PREFIX: &str = "pods-";
const MULTICAST_COMMENT: &str = "multicast keeps its source";
/// What the comment of a bridge's rule begins with; its name follows.
const FRAMES_COMMENT: &str = "frames on their way to a gateway on ";
/// What the comment of a subnet's rule begins with; the name of its set follows.
const PODS_COMMENT: &str = "what leaves the subnet of ";

/// The element of a pod's address, which has the length of its subnet's prefix.
pub(crate) fn element(address: Cidr) -> NewElement {
    NewElement { family: Family::of(address.addr()), set: set_name(address), key: bytes(address.addr()), value: None }
}

/// The chain, rules and set that an address needs, in this order. `bridge`: that of a VLAN's gateway.
pub(crate) fn skeletons(address: Cidr, bridge: Option<&str>) -> Vec<Box<dyn Skeleton>> {
    let family = Family::of(address.addr());
    let mut all: Vec<Box<dyn Skeleton>> = vec![Box::new(Base(family)), Box::new(Subnet(address.network()))];
    if let Some(bridge) = bridge {
        all.insert(1, Box::new(Frames(family, bridge.to_owned())));
    }
    all
}

/// The sets that hold pods.
pub(crate) fn sets(nft: &mut Nft, family: Family) -> netlink::Result<Vec<String>> {
    let mut all = nft.sets(family, TABLE)?;
    all.retain(|name| name.starts_with(SET_PREFIX));
    Ok(all)
}

/// The name of a subnet's set; nft allows letters, digits and `/ - _ .` in names.
fn set_name(address: Cidr) -> String {
    format!("{SET_PREFIX}{}", address.network()).replace(':', "-")
}

struct Base(Family);

impl Skeleton for Base {
    fn family(&self) -> Family {
        self.0
    }

    fn name(&self) -> String {
        CHAIN.to_owned()
    }

    fn is_whole(&self, rules: &[Rule]) -> bool {
        has(rules, CHAIN, MULTICAST_COMMENT)
    }

    fn push(&self, batch: &mut Batch) {
        let family = self.0;
        let (destination, mask, multicast): (_, &[u8], &[u8]) = if family == Family::Ip {
            (Offset::IP_DESTINATION, &[0xf0, 0, 0, 0], &[0xe0, 0, 0, 0])
        } else {
            let ff = const { &[0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] };
            (Offset::IP6_DESTINATION, ff, ff)
        };
        batch.add_chain(family, TABLE, CHAIN, Some(Hook::SOURCE_NAT));
        // Before the subnets' rules, should they be there already.
        batch.insert_rule(family, TABLE, CHAIN, MULTICAST_COMMENT, |rule| {
            rule.masked(destination, mask, Comparison::Equal, multicast).verdict(&Verdict::Return);
        });
    }
}

/// Of a bridge: frames that are bridged to the gateway of a VLAN.
struct Frames(Family, String);

impl Skeleton for Frames {
    fn family(&self) -> Family {
        self.0
    }

    fn name(&self) -> String {
        format!("{FRAMES_COMMENT}{}", self.1)
    }

    fn is_whole(&self, rules: &[Rule]) -> bool {
        has(rules, CHAIN, &self.name())
    }

    fn push(&self, batch: &mut Batch) {
        batch.insert_rule(self.0, TABLE, CHAIN, &self.name(), |rule| {
            let no_link = [0; 4];
            rule.equals(Part::Input, &no_link).equals(Part::OutputName, &name_key(&self.1)).verdict(&Verdict::Return);
        });
    }
}

struct Subnet(Cidr);

impl Skeleton for Subnet {
    fn family(&self) -> Family {
        Family::of(self.0.addr())
    }

    fn name(&self) -> String {
        set_name(self.0)
    }

    fn is_whole(&self, rules: &[Rule]) -> bool {
        has(rules, CHAIN, &format!("{PODS_COMMENT}{}", self.name()))
    }

    fn push(&self, batch: &mut Batch) {
        let (family, set) = (self.family(), self.name());
        let (keys, source, destination) = if family == Family::Ip {
            (SetType::IPV4, Offset::IP_SOURCE, Offset::IP_DESTINATION)
        } else {
            (SetType::IPV6, Offset::IP6_SOURCE, Offset::IP6_DESTINATION)
        };
        batch.add_set(family, TABLE, &set, keys);
        batch.add_rule(family, TABLE, CHAIN, &format!("{PODS_COMMENT}{set}"), |rule| {
            rule.in_set(&[Part::Packet(source)], &set)
                .masked(destination, &mask(self.0), Comparison::NotEqual, &bytes(self.0.addr()))
                .masquerade();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn sets_are_named_after_subnets() {
        assert_eq!(set_name(cidr("10.22.3.4/16")), "pods-10.22.0.0/16");
        assert_eq!(set_name(cidr("fd00:88::2/64")), "pods-fd00-88--/64");
        let longest = cidr("fd00:1111:2222:3333:4444:5555:6666:7777/128");
        assert!(format!("{PODS_COMMENT}{}", set_name(longest)).len() <= netlink::nft::MAX_COMMENT);
    }
}
