//! GC: what belongs to attachments of this network that the runtime no longer knows.

use std::collections::HashSet;

use cni::{Attachment, Call, Error, delegate};
use netlink::link::{self, Link};
use netlink::nft::{Element, Nft};
use netlink::{Protocol, Socket};

use crate::ruleset;

pub(crate) fn gc(call: &Call) -> Result<(), Error> {
    let mut errors = Vec::new();
    // Without a list nothing is known to be stale; an empty one says that everything is.
    if let Some(valid) = call.valid_attachments()? {
        let alive: HashSet<String> = valid
            .into_iter()
            .map(|v| {
                Attachment { network: call.network.clone(), container_id: v.container_id, ifname: v.ifname }
                    .identity_hex()
            })
            .collect();
        // The links first: a pod without its rules must not go on sending.
        errors.extend(
            remove_links(call, &alive).err().map(|e| Error::internal(format!("failed to remove stale links: {e}"))),
        );
        errors.extend(remove_rules(call, &alive).err());
    }
    // The addresses last: none is free while a pod can still use it.
    if let Some(ipam) = call.text(&["ipam", "type"]).filter(|t| !t.is_empty()) {
        errors.extend(delegate::run(call, &ipam, "GC", &[]).err());
    }
    crate::del::first(errors)
}

fn remove_rules(call: &Call, alive: &HashSet<String>) -> Result<(), Error> {
    let mut nft = match Nft::open() {
        Err(error) if ruleset::is_unsupported(&error) => return Ok(()),
        nft => nft.map_err(|e| Error::internal(format!("failed to open nf_tables: {e}")))?,
    };
    let is_stale = |element: &Element| element.comment.as_deref().is_some_and(|c| is_stale(c, &call.network, alive));
    ruleset::remove(&mut nft, is_stale, |_, _| Ok(()))
}

fn remove_links(call: &Call, alive: &HashSet<String>) -> netlink::Result<()> {
    let mut host = Socket::open(Protocol::Route)?;
    let mut result = Ok(());
    for link in link::list(&mut host)? {
        let owner = link.alias.as_deref().and_then(|a| a.strip_prefix("oxbridge "));
        if !link.is("veth") || !owner.is_some_and(|o| is_stale(o, &call.network, alive)) {
            continue;
        }
        tell(&link);
        if let Err(error) = link::delete(&mut host, link.index) {
            result = Err(error);
        }
    }
    result
}

/// Whether a text that begins with identity and network is that of an attachment of this network that is not alive.
fn is_stale(owner: &str, network: &str, alive: &HashSet<String>) -> bool {
    let mut words = owner.split(' ');
    let (Some(identity), Some(of_network)) = (words.next(), words.next()) else { return false };
    // A name that does not fit is cut; then the identity alone cannot tell networks apart, so it stays.
    identity.len() == 32 && of_network == network && !alive.contains(identity)
}

/// An interface that still was up may mean that two runtimes share a network and one does not know the other's pods.
fn tell(link: &Link) {
    let state = if link.is_operational { "whose interface was still up" } else { "whose interface was down" };
    let owner = link.alias.as_deref().unwrap_or_default();
    host::syslog::notice("bridge", &format!("GC removes {} ({owner}), {state}", link.name));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_attachments_of_the_network_that_are_not_listed_are_stale() {
        let (a, b) = ("a".repeat(32), "b".repeat(32));
        let alive = HashSet::from([a.clone()]);
        assert!(!is_stale(&format!("{a} net c1 eth0"), "net", &alive));
        assert!(is_stale(&format!("{b} net c1 eth0"), "net", &alive));
        assert!(!is_stale(&format!("{b} other c1 eth0"), "net", &alive));
        assert!(!is_stale("bridge cni0", "net", &alive));
    }
}
