//! GC: what belongs to attachments of this network that the runtime no longer knows.
//!
//! What the reference made cannot be told from what it made for a pod that is alive: it stays.

use std::collections::BTreeSet;

use cni::{Call, Error};
use netlink::nft::{Family, Nft};
use netlink::{Protocol, Socket, link};
use plugin::gc::Valid;
use ruleset::TABLE;

use crate::remove::{self, Gone, Scope};
use crate::{iptables, pods};

/// Digits of an identity that are in the name of the host's end.
const IN_NAME: usize = 8;

pub(crate) fn gc(call: &Call) -> Result<(), Error> {
    // Without a list nothing is known to be stale; an empty one says that everything is.
    let Some(valid) = Valid::of(call)? else { return Ok(()) };
    let is_stale = |comment: &str| valid.is_stale(comment);
    tell(&is_stale);
    remove::remove(&Gone {
        is_gone: &is_stale,
        of_reference: &[],
        zone: "",
        asks_firewalld: false,
        scope: Scope::Everywhere,
    })
    .map(drop)
}

/// An interface that still is up may mean that two runtimes share a network and one does not know the other's pods.
fn tell(is_stale: &dyn Fn(&str) -> bool) {
    let (Ok(mut nft), Ok(mut host)) = (Nft::open(), Socket::open(Protocol::Route)) else { return };
    let mut owners: BTreeSet<String> = BTreeSet::new();
    for family in [Family::Ip, Family::Ip6] {
        let elements = nft.elements(family, TABLE, pods::PODS).unwrap_or_default();
        owners.extend(elements.into_iter().filter_map(|element| element.comment));
    }
    owners.extend(iptables::owners(&mut nft).unwrap_or_default());
    for owner in owners.iter().filter(|owner| is_stale(owner)) {
        let name = format!("veth{}", owner.get(..IN_NAME).unwrap_or_default());
        if let Ok(Some(link)) = link::by_name(&mut host, &name)
            && link.is_operational
        {
            host::syslog::notice(
                "firewall",
                &format!("GC removes the rules of {owner}, whose interface {name} is still up"),
            );
        }
    }
}
