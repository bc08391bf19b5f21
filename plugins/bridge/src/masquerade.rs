//! `ipMasq`: what a pod sends out of its subnet carries the node's address.
//!
//! ```text
//! table ip oxbridge {
//!     map masq-pods { type ipv4_addr : verdict; elements = { 10.22.0.5 comment "…" : goto subnet-10.22.0.0/16 } }
//!     chain masq-postrouting { type nat hook postrouting priority srcnat; ip daddr 224.0.0.0/4 return; ip saddr vmap @masq-pods }
//!     chain subnet-10.22.0.0/16 { ip daddr != 10.22.0.0/16 masquerade }
//! }
//! ```

use std::net::IpAddr;

use cni::Cidr;
use netlink::nft::{Batch, Comparison, Family, Hook, Offset, Rule, SetType, Verdict};

use crate::ruleset::{NewElement, Skeleton, TABLE, clear, has};

/// Name of the map from pod address to its subnet's chain.
pub(crate) const MAP: &str = "masq-pods";
/// Not a word of nft's language, like `masquerade`, or `nft -f` could not read its own listing.
const CHAIN: &str = "masq-postrouting";
const MULTICAST_COMMENT: &str = "multicast keeps its source";
const PODS_COMMENT: &str = "pods with ipMasq";
const SUBNET_COMMENT: &str = "what leaves the subnet";

/// A pod's address with the length of its subnet's prefix.
pub(crate) fn element(address: Cidr) -> NewElement {
    NewElement {
        family: Family::of(address.addr()),
        set: MAP,
        key: bytes(address.addr()),
        verdict: Some(Verdict::Goto(subnet_chain(address))),
    }
}

/// The chains and rules that an address needs.
pub(crate) fn skeletons(address: Cidr) -> [Box<dyn Skeleton>; 2] {
    [Box::new(Base(Family::of(address.addr()))), Box::new(Subnet(address.network()))]
}

/// The name of a subnet's chain; nft allows letters, digits and `/ - _ .` in names.
pub(crate) fn subnet_chain(address: Cidr) -> String {
    format!("subnet-{}", address.network()).replace(':', "-")
}

struct Base(Family);

impl Skeleton for Base {
    fn family(&self) -> Family {
        self.0
    }

    fn chain(&self) -> String {
        CHAIN.to_owned()
    }

    fn is_whole(&self, rules: &[Rule]) -> bool {
        has(rules, CHAIN, MULTICAST_COMMENT) && has(rules, CHAIN, PODS_COMMENT)
    }

    fn push(&self, batch: &mut Batch, rules: &[Rule]) {
        let family = self.0;
        let (keys, source, destination, mask, multicast): (_, _, _, &[u8], &[u8]) = if family == Family::Ip {
            (SetType::Ipv4, Offset::IP_SOURCE, Offset::IP_DESTINATION, &[0xf0, 0, 0, 0], &[0xe0, 0, 0, 0])
        } else {
            let ff = const { &[0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] };
            (SetType::Ipv6, Offset::IP6_SOURCE, Offset::IP6_DESTINATION, ff, ff)
        };
        batch.add_verdict_map(family, TABLE, MAP, keys);
        batch.add_chain(family, TABLE, CHAIN, Some(Hook::SOURCE_NAT));
        clear(batch, family, CHAIN, rules);
        batch.add_rule(family, TABLE, CHAIN, MULTICAST_COMMENT, |rule| {
            rule.masked(destination, mask, Comparison::Equal, multicast).verdict(&Verdict::Return);
        });
        batch.add_rule(family, TABLE, CHAIN, PODS_COMMENT, |rule| {
            rule.verdict_map(source, MAP);
        });
    }
}

struct Subnet(Cidr);

impl Skeleton for Subnet {
    fn family(&self) -> Family {
        Family::of(self.0.addr())
    }

    fn chain(&self) -> String {
        subnet_chain(self.0)
    }

    fn is_whole(&self, rules: &[Rule]) -> bool {
        has(rules, &self.chain(), SUBNET_COMMENT)
    }

    fn push(&self, batch: &mut Batch, rules: &[Rule]) {
        let (family, chain) = (self.family(), self.chain());
        let destination = if family == Family::Ip { Offset::IP_DESTINATION } else { Offset::IP6_DESTINATION };
        let mask = mask(self.0);
        batch.add_chain(family, TABLE, &chain, None);
        clear(batch, family, &chain, rules);
        batch.add_rule(family, TABLE, &chain, SUBNET_COMMENT, |rule| {
            rule.masked(destination, &mask, Comparison::NotEqual, &bytes(self.0.addr())).masquerade();
        });
    }
}

/// An address as it stands in a packet.
pub(crate) fn bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn mask(subnet: Cidr) -> Vec<u8> {
    let len = if subnet.is_ipv4() { 4 } else { 16 };
    let prefix = usize::from(subnet.prefix());
    (0..len)
        .map(|byte| u8::try_from(0xff00_u16 >> prefix.saturating_sub(byte * 8).min(8) & 0xff).unwrap_or(0))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn masks_are_as_long_as_the_prefix() {
        assert_eq!(mask(cidr("10.0.0.0/16")), [255, 255, 0, 0]);
        assert_eq!(mask(cidr("10.0.0.0/29")), [255, 255, 255, 248]);
        assert_eq!(mask(cidr("10.0.0.1/32")), [255; 4]);
        assert_eq!(mask(cidr("0.0.0.0/0")), [0; 4]);
        assert_eq!(mask(cidr("fd00::/65"))[7..10], [255, 128, 0]);
    }

    #[test]
    fn chains_are_named_after_subnets() {
        assert_eq!(subnet_chain(cidr("10.22.3.4/16")), "subnet-10.22.0.0/16");
        assert_eq!(subnet_chain(cidr("fd00:88::2/64")), "subnet-fd00-88--/64");
    }
}
