//! A port that is taken: whose it is, and whether that one is certainly gone.

use std::collections::HashMap;

use cni::Error;
use netlink::nft::{Batch, Family, Nft};
use netlink::{Result, Socket};
use ruleset::TABLE;

use super::layout::{self, OWNERS, Wanted};
use super::owner::{self, Owner};
use super::{FAMILIES, Found, Request};

/// What was found in the way, and is removed by the transaction.
pub(super) struct Cleared {
    /// Families in which everything is published already.
    pub(super) published: Vec<Family>,
    /// For the log, once it is done.
    pub(super) notices: Vec<String>,
}

/// Adds to a transaction what removes the attachment's own stale elements and those of attachments that are certainly
/// gone and have a port that is wanted. The inner error: a port is taken.
pub(super) fn clear(
    nft: &mut Nft,
    route: &mut Socket,
    request: &Request<'_>,
    batch: &mut Batch,
) -> Result<std::result::Result<Cleared, Error>> {
    let mut cleared = Cleared { published: Vec::new(), notices: Vec::new() };
    // Once and for all families: whoever is gone loses everything.
    let mut gone: HashMap<[u8; 16], String> = HashMap::new();
    let mut found = Vec::new();
    for family in FAMILIES {
        found.extend(super::all(nft, family)?);
    }
    for target in request.targets {
        for wanted in layout::elements(target) {
            let Some(holder) = holder(&found, target.family(), &wanted, request) else { continue };
            let identity = holder.element.comment.as_deref().and_then(owner::identity);
            if identity.is_some_and(|id| gone.contains_key(&id)) {
                continue;
            }
            match verdict(nft, route, holder, identity)? {
                Ok((identity, why)) => {
                    cleared.notices.push(format!(
                        "host port {} is taken over from {}, which is gone: {why}",
                        wanted.mapping,
                        name(holder)
                    ));
                    gone.insert(identity, why);
                }
                Err(why) => return Ok(Err(refusal(&wanted, holder, &why))),
            }
        }
    }
    for family in FAMILIES {
        clear_family(nft, batch, family, request, &gone, &found, &mut cleared)?;
    }
    Ok(Ok(cleared))
}

fn clear_family(
    nft: &mut Nft,
    batch: &mut Batch,
    family: Family,
    request: &Request<'_>,
    gone: &HashMap<[u8; 16], String>,
    found: &[Found],
    cleared: &mut Cleared,
) -> Result<()> {
    let own: Vec<&Found> =
        found.iter().filter(|f| f.family == family && ruleset::is_owned(&f.element, request.attachment)).collect();
    let identity = request.attachment.identity();
    let own_owner = nft.element(family, TABLE, OWNERS, &identity)?;
    let target = request.targets.iter().find(|t| t.family() == family);
    let wanted = target.map(layout::elements).unwrap_or_default();
    let is_there =
        |w: &Wanted| own.iter().any(|f| f.set == w.set && f.element.key == w.key && f.element.value == w.value);
    let owner = request.owner.with_elements(wanted.len()).comment();
    let is_published = own.len() == wanted.len()
        && wanted.iter().all(is_there)
        && own_owner.as_ref().and_then(|o| o.comment.as_ref()) == Some(&owner);
    if is_published && target.is_some() {
        cleared.published.push(family);
    } else {
        for f in &own {
            batch.delete_element(family, TABLE, &f.set, &f.element.key);
        }
        if own_owner.is_some() {
            batch.delete_element(family, TABLE, OWNERS, &identity);
        }
    }
    let is_gone = |f: &&Found| {
        let identity = f.element.comment.as_deref().and_then(owner::identity);
        f.family == family && identity.is_some_and(|id| gone.contains_key(&id))
    };
    for f in found.iter().filter(is_gone) {
        batch.delete_element(family, TABLE, &f.set, &f.element.key);
    }
    for identity in gone.keys() {
        if nft.element(family, TABLE, OWNERS, identity)?.is_some() {
            batch.delete_element(family, TABLE, OWNERS, identity);
        }
    }
    Ok(())
}

/// Another attachment's element with the wanted key.
fn holder<'f>(found: &'f [Found], family: Family, wanted: &Wanted, request: &Request<'_>) -> Option<&'f Found> {
    found.iter().find(|f| {
        f.family == family
            && f.set == wanted.set
            && f.element.key == wanted.key
            && !ruleset::is_owned(&f.element, request.attachment)
    })
}

/// Why the holder is gone, or why it must be taken for alive.
fn verdict(
    nft: &mut Nft,
    route: &mut Socket,
    holder: &Found,
    identity: Option<[u8; 16]>,
) -> Result<std::result::Result<([u8; 16], String), String>> {
    let Some(identity) = identity else { return Ok(Err("no attachment is named in its comment".to_owned())) };
    let element = nft.element(holder.family, TABLE, OWNERS, &identity)?;
    let Some(comment) = element.and_then(|e| e.comment) else {
        return Ok(Err("nothing tells where it lives, so it may be alive".to_owned()));
    };
    Ok(match Owner::parse(&comment).is_gone(route, &identity) {
        Ok(Some(why)) => Ok((identity, why)),
        Ok(None) => Err("it may be alive".to_owned()),
        Err(why) => Err(why),
    })
}

fn refusal(wanted: &Wanted, holder: &Found, why: &str) -> Error {
    Error::internal(format!("host port {} is already published by {}", wanted.mapping, name(holder))).with_details(format!(
        "{why}; a container that is gone gives its ports back by DEL or GC of its network; see `nft list set {} {TABLE} {OWNERS}`",
        holder.family
    ))
}

/// Whose the element is, for people.
fn name(found: &Found) -> String {
    let comment = found.element.comment.as_deref().unwrap_or_default();
    match comment.split(' ').collect::<Vec<_>>()[..] {
        [_, network, container, ifname] => {
            format!("container {container} (network {network}, interface {ifname})")
        }
        [_, network, container] => format!("container {container}… (network {network})"),
        _ => format!("an unknown owner (comment \"{comment}\")"),
    }
}
