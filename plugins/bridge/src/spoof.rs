//! `macspoofchk`: frames that come in by a pod's port carry the pod's own MAC address.
//!
//! ```text
//! table bridge oxbridge {
//!     set macspoof-ports   { type ifname; elements = { "veth1a2b3c4d" comment "…" } }
//!     set macspoof-allowed { type ifname . ether_addr; elements = { "veth1a2b3c4d" . 0a:58:… comment "…" } }
//!     chain macspoof { type filter hook prerouting priority dstnat;
//!         iifname @macspoof-ports iifname . ether saddr != @macspoof-allowed counter drop }
//! }
//! ```
//!
//! The source address of the Ethernet header is checked, not the addresses inside ARP.

use netlink::link::Mac;
use netlink::nft::{Batch, Family, Field, Hook, Offset, Part, Rule, SetType, Verdict};

use ruleset::spoof::{self, ALLOWED, PORTS};
use ruleset::{NewElement, Skeleton, TABLE, has, name_key};

const CHAIN: &str = "macspoof";
const COMMENT: &str = "frames with another source address than the pod's";

/// The elements for a pod behind this port.
pub(crate) fn elements(port: &str, mac: Mac) -> [NewElement; 2] {
    let element = |set: &str, key| NewElement { family: Family::Bridge, set: set.to_owned(), key, value: None };
    [element(PORTS, name_key(port)), element(ALLOWED, spoof::allowed(port, mac))]
}

/// The chain and rule that they need.
pub(crate) struct Filter;

impl Skeleton for Filter {
    fn family(&self) -> Family {
        Family::Bridge
    }

    fn name(&self) -> String {
        CHAIN.to_owned()
    }

    fn is_whole(&self, rules: &[Rule]) -> bool {
        has(rules, CHAIN, COMMENT)
    }

    fn push(&self, batch: &mut Batch) {
        batch.add_set(Family::Bridge, TABLE, PORTS, SetType::INTERFACE_NAME);
        batch.add_set(Family::Bridge, TABLE, ALLOWED, SetType::of(&[Field::InterfaceName, Field::EtherAddress]));
        batch.add_chain(Family::Bridge, TABLE, CHAIN, Some(Hook::BRIDGE_INPUT));
        batch.add_rule(Family::Bridge, TABLE, CHAIN, COMMENT, |rule| {
            rule.in_set(&[Part::InputName], PORTS)
                .not_in_set(&[Part::InputName, Part::Packet(Offset::ETHER_SOURCE)], ALLOWED)
                .counter()
                .verdict(&Verdict::Drop);
        });
    }
}
