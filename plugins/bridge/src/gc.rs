//! GC: what belongs to attachments of this network that the runtime no longer knows.

use std::cell::RefCell;

use cni::{Call, Error, delegate};
use netlink::link::{self, Link};
use netlink::nft::Element;
use netlink::{Protocol, Socket};
use plugin::gc::Valid;

use crate::{gateway_port, iptables, reference, rules};

pub(crate) fn gc(call: &Call) -> Result<(), Error> {
    let mut errors = Vec::new();
    // Without a list nothing is known to be stale; an empty one says that everything is.
    if let Some(valid) = Valid::of(call)? {
        // The links first: a pod without its rules must not go on sending.
        errors.extend(remove_links(&valid));
        errors.extend(remove_rules(&valid).err());
        errors.extend(iptables::remove_stale_from_xtables(&valid).err());
    }
    // The addresses last: none is free while a pod can still use it.
    if let Some(ipam) = call.text(&["ipam", "type"]).filter(|t| !t.is_empty()) {
        errors.extend(delegate::if_known(delegate::run(call, &ipam, "GC", &[])).err());
    }
    Error::first_of(errors)
}

fn remove_rules(valid: &Valid) -> Result<(), Error> {
    let Some(mut nft) = ruleset::open()? else { return Ok(()) };
    let is_stale = |element: &Element| element.comment.as_deref().is_some_and(|c| valid.is_stale(c));
    let containers = RefCell::default();
    ruleset::remove(&mut nft, rules::sets, is_stale, |nft, batch| {
        containers.replace(iptables::push_stale_removal(nft, batch, valid)?);
        reference::push_stale_removal(nft, batch, valid)
    })?;
    iptables::tell(&containers.into_inner());
    Ok(())
}

/// Goes on past errors: one link that cannot be deleted must not keep the others.
fn remove_links(valid: &Valid) -> Vec<Error> {
    let found = Socket::open(Protocol::Route).and_then(|mut host| Ok((link::list_of(&mut host, "veth")?, host)));
    let (links, mut host) = match found {
        Ok(found) => found,
        Err(error) => return vec![Error::internal(format!("failed to look for stale links: {error}"))],
    };
    let mut errors = Vec::new();
    for link in links {
        let owner = link.alias.as_deref().and_then(|a| a.strip_prefix("oxbridge "));
        if owner.is_some_and(|o| valid.is_stale(o)) {
            tell(&link);
            let deleted = link::delete(&mut host, link.index);
            errors.extend(deleted.err().map(|e| Error::internal(format!("failed to delete \"{}\": {e}", link.name))));
        }
    }
    errors.extend(gateway_port::remove_unused_everywhere(&mut host).err());
    errors
}

/// An interface that still was up may mean that two runtimes share a network and one does not know the other's pods.
fn tell(link: &Link) {
    let state = if link.is_operational { "whose interface was still up" } else { "whose interface was down" };
    let owner = link.alias.as_deref().unwrap_or_default();
    host::syslog::notice("bridge", &format!("GC removes {} ({owner}), {state}", link.name));
}
