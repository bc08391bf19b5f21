//! What attachments have left whose link is gone and for which no DEL came: in our tables, and gateways of VLANs.

use std::collections::HashSet;

use cni::Error;
use cni::attachment::read_identity;
use netlink::nft::{Element, Nft};
use netlink::{Protocol, Socket};
use plugin::orphans::{self, Orphans};

use crate::{gateway_port, rules};

/// Looks for it, once a minute at most, and removes it: whatever is in our sets is of an attachment that had a link.
pub(crate) fn sweep() {
    orphans::sweep("bridge", || {
        Error::first_of([gateways(), elements()].into_iter().filter_map(Result::err).collect())
    });
}

fn gateways() -> Result<(), Error> {
    let socket = Socket::open(Protocol::Route).map_err(|e| Error::internal(format!("failed to ask for links: {e}")));
    gateway_port::remove_unused_everywhere(&mut socket?)
}

fn elements() -> Result<(), Error> {
    let Some(mut nft) = ruleset::open()? else { return Ok(()) };
    let owners = owners(&mut nft).map_err(|e| Error::internal(format!("failed to read nf_tables: {e}")))?;
    let gone = Orphans::among(owners)?;
    if gone.is_empty() {
        return Ok(());
    }
    let is_gone = |element: &Element| identity(element).is_some_and(|identity| gone.has(&identity));
    let removed = ruleset::remove(&mut nft, rules::sets, is_gone, |_, _| Ok(()))?;
    ruleset::tell_of_orphans("bridge", &removed);
    Ok(())
}

fn owners(nft: &mut Nft) -> netlink::Result<HashSet<[u8; 16]>> {
    let sets = rules::sets(nft)?;
    Ok(ruleset::elements(nft, sets)?.iter().filter_map(|found| identity(&found.element)).collect())
}

fn identity(element: &Element) -> Option<[u8; 16]> {
    read_identity(element.comment.as_deref()?)
}
