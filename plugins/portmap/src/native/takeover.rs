//! A port that is taken: whose it is, and whether that one is certainly gone.

use std::collections::{HashMap, HashSet};

use cni::attachment::read_identity;
use cni::{Attachment, Error};
use netlink::Result;
use netlink::nft::{Batch, Family, Nft};
use ruleset::{Found, TABLE};

use super::layout::{self, OWNERS, Wanted};
use super::owner::Owner;
use super::{FAMILIES, Request};
use crate::config::Target;

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
    let index = Index::new(&found);
    // Entries of others in sets that say what is masqueraded of an address which is this pod's now.
    let mut replaced = HashSet::new();
    for target in request.targets {
        for wanted in layout::elements(target, &request.first) {
            for holder in index.holders(target.family(), &wanted, request) {
                let identity = holder.element.comment.as_deref().and_then(read_identity);
                if identity.is_some_and(|id| gone.contains_key(&id)) {
                    continue;
                }
                if layout::is_first(&wanted.set) || layout::is_masquerade(&wanted.set) {
                    replaced.insert((holder.family, holder.set.as_str(), holder.element.key.as_slice()));
                }
                if layout::is_first(&wanted.set) {
                    // Its mapping tells whether it may stay.
                    continue;
                }
                if layout::is_masquerade(&wanted.set) {
                    cleared.notices.push(format!(
                        "{} had the address {} before, and has left something behind",
                        name(holder),
                        target.pod.addr()
                    ));
                    continue;
                }
                if holder.set != wanted.set && is_same_pod(nft, holder, &request.owner)? {
                    continue;
                }
                match verdict(nft, holder, identity)? {
                    Ok((identity, why)) => {
                        cleared.notices.push(format!(
                            "host port {} is taken over from {}, which is gone: {why}",
                            wanted.mapping,
                            name(holder)
                        ));
                        gone.insert(identity, why);
                    }
                    // Both are served, by conditions of which nobody knows whether they exclude each other.
                    Err(_) if is_both_conditional(&wanted, holder) => cleared.notices.push(format!(
                        "host port {} is published by {} too, under other conditions: what both allow goes to one of them",
                        wanted.mapping,
                        name(holder)
                    )),
                    Err(why) => return Ok(Err(refusal(&wanted, holder, &why))),
                }
            }
        }
    }
    cleared.notices.dedup();
    for family in FAMILIES {
        clear_family(nft, batch, family, request, &gone, &found, &mut cleared)?;
    }
    for (family, set, key) in replaced {
        let of_gone = |f: &Found| {
            let identity = f.element.comment.as_deref().and_then(read_identity);
            identity.is_some_and(|id| gone.contains_key(&id))
        };
        let found = index.get(family, set, key);
        if !cleared.published.contains(&family) && !found.is_some_and(of_gone) {
            batch.delete_element(family, TABLE, set, key);
        }
    }
    Ok(Ok(cleared))
}

/// The targets as they can be published beside what the pod has by other interfaces: runtimes publish the ports of a
/// container by every network that it is in. What it has twice leads to it by either, and by the other when one goes.
pub(super) fn beside<'a>(nft: &mut Nft, request: &Request<'a>) -> Result<Vec<Target<'a>>> {
    let mut targets = Vec::new();
    for target in request.targets {
        let is_twice = has_already(nft, target, request)?;
        targets.push(if is_twice { target.by_interface(&request.attachment.ifname) } else { target.clone() });
    }
    Ok(targets)
}

/// Whether the pod has one of the ports by another interface.
fn has_already(nft: &mut Nft, target: &Target<'_>, request: &Request<'_>) -> Result<bool> {
    let family = target.family();
    for mapping in target.mappings() {
        let (set, key) = layout::entry(mapping, target.conditions());
        let Some(element) = nft.element(family, TABLE, &set, &key)? else { continue };
        let is_others = !ruleset::is_owned(&element, request.attachment);
        if is_others && is_same_pod(nft, &Found { family, set, element }, &request.owner)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether ADD published the target beside what the attachment's pod had by another interface, as far as can be told now.
pub(super) fn is_beside(nft: &mut Nft, target: &Target<'_>, attachment: &Attachment) -> Result<bool> {
    let own = nft.element(target.family(), TABLE, OWNERS, &attachment.identity())?.and_then(|element| element.comment);
    let Some(own) = own else { return Ok(false) };
    let owner = Owner::parse(&own);
    has_already(nft, target, &Request { attachment, targets: &[], owner, first: Vec::new() })
}

/// Whether the element is of another interface of the pod.
fn is_same_pod(nft: &mut Nft, holder: &Found, pod: &Owner) -> Result<bool> {
    let Some(identity) = holder.element.comment.as_deref().and_then(read_identity) else { return Ok(false) };
    let owner = nft.element(holder.family, TABLE, OWNERS, &identity)?.and_then(|element| element.comment);
    Ok(owner.is_some_and(|comment| Owner::parse(&comment).is_same_pod(pod, &identity)))
}

fn is_both_conditional(wanted: &Wanted, holder: &Found) -> bool {
    let conditions = layout::conditions_of(&wanted.set).zip(layout::conditions_of(&holder.set));
    conditions.is_some_and(|(one, another)| one != another)
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
    let wanted = target.map(|t| layout::elements(t, &request.first)).unwrap_or_default();
    let there: HashSet<_> = own.iter().map(|f| (f.set.as_str(), &f.element.key, f.element.value.as_ref())).collect();
    let owner = request.owner.with_elements(&wanted).comment();
    let is_published = own.len() == wanted.len()
        && wanted.iter().all(|w| there.contains(&(w.set.as_str(), &w.key, w.value.as_ref())))
        && own_owner.as_ref().and_then(|o| o.comment.as_ref()) == Some(&owner);
    let is_published = is_published && target.is_some();
    let is_gone = |f: &Found| {
        let identity = f.element.comment.as_deref().and_then(read_identity);
        identity.is_some_and(|id| gone.contains_key(&id))
    };
    let is_going = |f: &&Found| is_gone(f) || !is_published && ruleset::is_owned(&f.element, request.attachment);
    let going: Vec<Found> = found.iter().filter(|f| f.family == family).filter(is_going).cloned().collect();
    super::push_removal(nft, batch, &going, &wanted)?;
    if is_published {
        cleared.published.push(family);
    } else if own_owner.is_some() {
        batch.delete_element(family, TABLE, OWNERS, &identity);
    }
    for identity in gone.keys() {
        if nft.element(family, TABLE, OWNERS, identity)?.is_some() {
            batch.delete_element(family, TABLE, OWNERS, identity);
        }
    }
    Ok(())
}

/// What was found, by key.
struct Index<'f>(HashMap<Family, HashMap<&'f [u8], Vec<&'f Found>>>);

impl<'f> Index<'f> {
    fn new(found: &'f [Found]) -> Self {
        let mut index: HashMap<_, HashMap<_, Vec<_>>> = HashMap::new();
        for f in found {
            index.entry(f.family).or_default().entry(f.element.key.as_slice()).or_default().push(f);
        }
        Self(index)
    }

    fn with_key(&self, family: Family, key: &[u8]) -> &[&'f Found] {
        self.0.get(&family).and_then(|of_family| of_family.get(key)).map(Vec::as_slice).unwrap_or_default()
    }

    fn get(&self, family: Family, set: &str, key: &[u8]) -> Option<&'f Found> {
        self.with_key(family, key).iter().copied().find(|f| f.set == set)
    }

    /// Others' elements with the wanted key, in its set or in one for other conditions.
    fn holders(&self, family: Family, wanted: &Wanted, request: &Request<'_>) -> Vec<&'f Found> {
        let is_in_the_way = |f: &&Found| f.set == wanted.set || layout::is_same_kind(&f.set, &wanted.set);
        let is_others = |f: &&Found| !ruleset::is_owned(&f.element, request.attachment);
        self.with_key(family, &wanted.key).iter().copied().filter(is_in_the_way).filter(is_others).collect()
    }
}

/// Why the holder is gone, or why it must be taken for alive.
fn verdict(
    nft: &mut Nft,
    holder: &Found,
    identity: Option<[u8; 16]>,
) -> Result<std::result::Result<([u8; 16], String), String>> {
    let Some(identity) = identity else { return Ok(Err("no attachment is named in its comment".to_owned())) };
    let element = nft.element(holder.family, TABLE, OWNERS, &identity)?;
    let Some(comment) = element.and_then(|e| e.comment) else {
        return Ok(Err("nothing tells where it lives, so it may be alive".to_owned()));
    };
    Ok(match Owner::parse(&comment).is_gone(&identity) {
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
    ruleset::describe(found.element.comment.as_deref().unwrap_or_default())
}
