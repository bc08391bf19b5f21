//! GC: what belongs to attachments of this network that the runtime no longer knows.

use cni::{Call, Error, delegate};
use netlink::link::{self, Link};
use netlink::nft::{Element, Nft};
use netlink::{Protocol, Socket};
use plugin::gc::Valid;

use crate::rules;

pub(crate) fn gc(call: &Call) -> Result<(), Error> {
    let mut errors = Vec::new();
    // Without a list nothing is known to be stale; an empty one says that everything is.
    if let Some(valid) = Valid::of(call)? {
        // The links first: a pod without its rules must not go on sending.
        errors
            .extend(remove_links(&valid).err().map(|e| Error::internal(format!("failed to remove stale links: {e}"))));
        errors.extend(remove_rules(&valid).err());
    }
    // The addresses last: none is free while a pod can still use it.
    if let Some(ipam) = call.text(&["ipam", "type"]).filter(|t| !t.is_empty()) {
        errors.extend(delegate::run(call, &ipam, "GC", &[]).err());
    }
    Error::first_of(errors)
}

fn remove_rules(valid: &Valid) -> Result<(), Error> {
    let mut nft = match Nft::open() {
        Err(error) if ruleset::is_unsupported(&error) => return Ok(()),
        nft => nft.map_err(|e| Error::internal(format!("failed to open nf_tables: {e}")))?,
    };
    let is_stale = |element: &Element| element.comment.as_deref().is_some_and(|c| valid.is_stale(c));
    ruleset::remove(&mut nft, rules::sets, is_stale, |_, _| Ok(())).map(drop)
}

fn remove_links(valid: &Valid) -> netlink::Result<()> {
    let mut host = Socket::open(Protocol::Route)?;
    let mut result = Ok(());
    for link in link::list_of(&mut host, "veth")? {
        let owner = link.alias.as_deref().and_then(|a| a.strip_prefix("oxbridge "));
        if !owner.is_some_and(|o| valid.is_stale(o)) {
            continue;
        }
        tell(&link);
        if let Err(error) = link::delete(&mut host, link.index) {
            result = Err(error);
        }
    }
    result
}

/// An interface that still was up may mean that two runtimes share a network and one does not know the other's pods.
fn tell(link: &Link) {
    let state = if link.is_operational { "whose interface was still up" } else { "whose interface was down" };
    let owner = link.alias.as_deref().unwrap_or_default();
    host::syslog::notice("bridge", &format!("GC removes {} ({owner}), {state}", link.name));
}
