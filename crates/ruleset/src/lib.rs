//! Our own nf_tables tables: rules that never change, and one element for each attachment.
//!
//! What a pod needs is an element in a set whose comment begins with the identity of its attachment. The rules
//! are the same for a thousand pods as for one, the kernel finds an element by hash, and adding one needs no look at
//! the others. Everything of one call is one transaction.
//!
//! Whoever asks for the iptables backend gets the reference's chains instead: [`iptables`].

pub mod iptables;
mod owner;
pub mod spoof;
mod value;

pub use owner::{describe, is_owned, is_owner, marked_identity, tell_of_orphans};
pub use value::{bytes, mask, name_key};

use std::time::{Duration, Instant};

use cni::Error;
use host::lock::Lock;
use netlink::monitor::Monitor;
use netlink::nft::{Batch, Element, Family, Hook, Nft, Rule};
use netlink::{Errno, Result};

/// Name of our table, in each family that needs one.
pub const TABLE: &str = "oxbridge";
/// Name of a table that is never made.
const PROBE: &str = "oxbridge-probe";
/// What `nft list ruleset` says of the table.
pub const TABLE_COMMENT: &str = "pod networking by the oxbridge CNI plugins";
/// Another writer's commit makes ours start anew; a node that commits all the time must not hold us for ever.
const PATIENCE: Duration = Duration::from_secs(9);
/// Its name is waited for as long: it comes with its next change.
const NAMING: Duration = Duration::from_millis(300);
/// The lock of those who try again.
const TURN: &str = "nftables-turn";
/// How often a transaction may be refused for what others did between a look and the commit.
const REFUSALS: u32 = 5;

/// An element to be added.
#[derive(Debug)]
pub struct NewElement {
    /// Of the table.
    pub family: Family,
    /// Name of the set or map.
    pub set: String,
    /// As the kernel keeps it.
    pub key: Vec<u8>,
    /// What the key leads to, in a map.
    pub value: Option<Vec<u8>>,
}

/// An element where it is.
#[derive(Debug, Clone)]
pub struct Found {
    /// Of the table.
    pub family: Family,
    /// Name of the set or map.
    pub set: String,
    /// The element.
    pub element: Element,
}

/// A part of the ruleset that a plugin keeps: chains, rules that are the same for all pods, and the sets that they
/// look into.
pub trait Skeleton {
    /// Its family.
    fn family(&self) -> Family;
    /// Its name: two skeletons of one family and name are the same.
    fn name(&self) -> String;
    /// Whether these rules of the table hold it whole.
    fn is_whole(&self, rules: &[Rule]) -> bool;
    /// Makes it; what is there of it stays.
    fn push(&self, batch: &mut Batch);
    /// The comments of its rules in the chain of its name, which go before it is made anew; none if it makes its rules
    /// only where they are missing.
    fn comments(&self) -> &[&str] {
        &[]
    }
}

/// Puts the elements of an attachment into the ruleset, and before them what they need. `comment`: that says whose they
/// are ([`Attachment::comment`](cni::Attachment::comment)).
pub fn install(
    nft: &mut Nft,
    comment: &str,
    skeletons: &[Box<dyn Skeleton>],
    elements: &[NewElement],
) -> std::result::Result<(), Error> {
    let mut replace = false;
    transaction("adding the pod's rules to nf_tables", || {
        let generation = nft.generation()?;
        let missing = missing(nft, skeletons)?;
        // Without anything to decide on what was read, others' commits do not matter.
        let mut batch = if missing.is_empty() && !replace { Batch::new() } else { Batch::if_generation(generation) };
        for (skeleton, rests) in missing {
            batch.add_table(skeleton.family(), TABLE, TABLE_COMMENT);
            for rule in rests {
                batch.delete_rule(skeleton.family(), TABLE, &rule.chain, rule.handle);
            }
            skeleton.push(&mut batch);
        }
        for element in elements {
            let NewElement { family, set, key, value } = element;
            if replace && nft.element(*family, TABLE, set, key)?.is_some() {
                // Adding over an element keeps its old comment, and with it its old owner.
                batch.delete_element(*family, TABLE, set, key);
            }
            match value {
                Some(value) => batch.add_entry(*family, TABLE, set, key, value, comment),
                None => batch.add_element(*family, TABLE, set, key, comment),
            };
        }
        let result = nft.commit(batch);
        // Somebody's left-over has our address: by next try it is known to be there.
        replace |= result.as_ref().is_err_and(|e| e.is(Errno::EEXIST));
        result
    })
}

/// Those of these skeletons that are not there, or not whole, each once, and what is left of its rules.
fn missing<'s>(nft: &mut Nft, skeletons: &'s [Box<dyn Skeleton>]) -> Result<Vec<(&'s dyn Skeleton, Vec<Rule>)>> {
    let mut missing = Vec::new();
    let mut last: Option<(Family, Vec<Rule>)> = None;
    for (position, skeleton) in skeletons.iter().enumerate() {
        let family = skeleton.family();
        // Two addresses of a subnet need it once.
        if skeletons[..position].iter().any(|s| s.family() == family && s.name() == skeleton.name()) {
            continue;
        }
        let rules = match last.take() {
            Some((of, rules)) if of == family => rules,
            _ => nft.rules(family, TABLE, None)?,
        };
        if !skeleton.is_whole(&rules) {
            missing.push((skeleton.as_ref(), rests(skeleton.as_ref(), &rules)));
        }
        last = Some((family, rules));
    }
    Ok(missing)
}

fn rests(skeleton: &dyn Skeleton, rules: &[Rule]) -> Vec<Rule> {
    let name = skeleton.name();
    let is_of_it = |rule: &&Rule| {
        rule.chain == name && rule.comment.as_deref().is_some_and(|comment| skeleton.comments().contains(&comment))
    };
    rules.iter().filter(is_of_it).cloned().collect()
}

/// nf_tables, if the kernel has it.
///
/// # Errors
/// Why it cannot be told.
pub fn open() -> std::result::Result<Option<Nft>, Error> {
    let opened = Nft::open().and_then(|mut nft| nft.generation().map(|_| nft));
    match opened {
        Ok(nft) => Ok(Some(nft)),
        Err(error) if is_unsupported(&error) => Ok(None),
        Err(error) => Err(Error::internal(format!("failed to open nf_tables: {error}"))),
    }
}

/// All elements of these sets; none of a set that is not there.
pub fn elements(nft: &mut Nft, sets: impl IntoIterator<Item = (Family, String)>) -> Result<Vec<Found>> {
    let mut all = Vec::new();
    for (family, set) in sets {
        let found = nft.elements(family, TABLE, &set)?;
        all.extend(found.into_iter().map(|element| Found { family, set: set.clone(), element }));
    }
    Ok(all)
}

/// Removes the elements of these sets for which `is_gone` holds, and in the same transaction what `more` adds to it.
/// Returned is what was removed of the sets. `is_gone` is asked after the elements were read, and what it says is
/// acted upon only if nobody has changed anything since.
pub fn remove(
    nft: &mut Nft,
    sets: impl Fn(&mut Nft) -> Result<Vec<(Family, String)>>,
    is_gone: impl Fn(&Element) -> bool,
    more: impl Fn(&mut Nft, &mut Batch) -> Result<()>,
) -> std::result::Result<Vec<Found>, Error> {
    let mut removed = Vec::new();
    transaction("removing the pod's rules from nf_tables", || {
        removed.clear();
        let generation = match nft.generation() {
            // A kernel without nf_tables holds nothing of ours.
            Err(error) if is_unsupported(&error) => return Ok(()),
            generation => generation?,
        };
        let mut batch = Batch::if_generation(generation);
        let sets = sets(nft)?;
        removed = elements(nft, sets)?;
        removed.retain(|found| is_gone(&found.element));
        for Found { family, set, element } in &removed {
            batch.delete_element(*family, TABLE, set, &element.key);
        }
        more(nft, &mut batch)?;
        nft.commit(batch)
    })?;
    Ok(removed)
}

/// Whether the kernel can hold a table of ours in this family; `nat`: with the translation of addresses.
///
/// # Errors
/// What it refuses: it may have no nf_tables, or those of other families.
pub fn is_possible(nft: &mut Nft, family: Family, nat: bool) -> Result<()> {
    nft.generation()?;
    // What is there already is possible, and taking back what is tried costs a grace period.
    let there = nft.rules(family, TABLE, None)?;
    if !there.is_empty() {
        return Ok(());
    }
    let mut batch = Batch::new();
    batch.add_table(family, PROBE, TABLE_COMMENT).add_chain(family, PROBE, PROBE, Some(Hook::FORWARD));
    if nat {
        batch.add_chain(family, PROBE, "nat", Some(Hook::SOURCE_NAT));
        batch.add_rule(family, PROBE, "nat", "", |rule| _ = rule.masquerade());
    }
    nft.try_out(batch)
}

/// Whether a chain has a rule with this comment.
pub fn has(rules: &[Rule], chain: &str, comment: &str) -> bool {
    rules.iter().any(|r| r.chain == chain && r.comment.as_deref() == Some(comment))
}

/// Whether the kernel (or its loaded modules) cannot do nf_tables.
pub fn is_unsupported(error: &netlink::Error) -> bool {
    [Errno::EOPNOTSUPP, Errno::EPROTONOSUPPORT, Errno::EINVAL, Errno::EAFNOSUPPORT].iter().any(|e| error.is(*e))
}

/// What may help against a refusal.
fn hint(error: &netlink::Error) -> &'static str {
    if error.is(Errno::EINVAL) {
        "a set or chain of our tables has another type than it should (`nft list ruleset` shows table oxbridge; without \
         it the next ADD makes it anew), or the kernel lacks a part of nf_tables: load nf_tables, nft_chain_nat, nft_masq, \
         or set ipMasqBackend (bridge) and backend (portmap, firewall) to \"iptables\""
    } else if error.is(Errno::EOPNOTSUPP) || error.is(Errno::EEXIST) {
        // A chain cannot be given another type or priority: the kernel says the first, older ones the second.
        "another version of the plugins may have made table oxbridge otherwise (`nft list ruleset` shows it; once no pod \
         needs it, `nft list tables | awk '$3 == \"oxbridge\" { print \"delete \" $0 }' | nft -f -` removes it, and the \
         next ADD makes it anew), or the kernel lacks a part of nf_tables: load nf_tables, nft_chain_nat, nft_masq, or \
         set ipMasqBackend (bridge) and backend (portmap, firewall) to \"iptables\""
    } else if is_unsupported(error) {
        "the kernel has no nf_tables, or lacks its nat or bridge part: load nf_tables, nft_chain_nat, nft_masq, or set \
         ipMasqBackend (bridge) and backend (portmap, firewall) to \"iptables\""
    } else {
        "see `nft list ruleset`"
    }
}

/// Who it is that changes the ruleset all the time.
fn busy() -> String {
    let writer = Monitor::ruleset().and_then(|mut monitor| monitor.next_writer(Instant::now() + NAMING));
    match writer {
        Ok(Some(writer)) => format!("another program keeps changing the ruleset: {writer} did just now"),
        _ => "another program keeps changing the ruleset (`nft monitor` shows which)".to_owned(),
    }
}

/// Runs a transaction until nobody came in between: `attempt` reads what it needs and commits.
///
/// # Errors
/// What the kernel refuses for another reason, with `what` in front; code 11 if others keep changing the ruleset for
/// nine seconds, and who does where that can be seen.
pub fn transaction(what: &str, attempt: impl FnMut() -> Result<()>) -> std::result::Result<(), Error> {
    // Without the lock it goes on, too: whoever holds it for so long may never give it back.
    transaction_within(PATIENCE, what, |wait| Lock::turn_in_namespace(TURN, wait), attempt)
}

/// `turn`: waits so long at most until nobody else tries again.
fn transaction_within<T>(
    patience: Duration,
    what: &str,
    turn: impl Fn(Duration) -> Option<T>,
    mut attempt: impl FnMut() -> Result<()>,
) -> std::result::Result<(), Error> {
    let deadline = Instant::now() + patience;
    let mut refusals = 0;
    let mut held = None;
    loop {
        match attempt() {
            Ok(()) => return Ok(()),
            Err(error) => {
                // Somebody else committed in between.
                let is_late = [Errno::ERESTART, Errno::EINTR, Errno::EAGAIN].iter().any(|e| error.is(*e));
                // ENOENT, EBUSY: somebody took away what was just seen, or uses what is to go. EEXIST: somebody has
                // the key, the next try replaces it. Seen again and again they are not about others.
                let is_refusal = [Errno::ENOENT, Errno::EBUSY, Errno::EEXIST].iter().any(|e| error.is(*e));
                refusals += u32::from(is_refusal);
                let is_race = is_late || is_refusal && refusals <= REFUSALS;
                if !is_race {
                    return Err(Error::internal(format!("{what}: {error}")).with_details(hint(&error)));
                }
                if Instant::now() >= deadline {
                    return Err(Error::new(cni::code::TRY_AGAIN, format!("{what}: {error}, for {patience:?}"))
                        .with_details(busy()));
                }
                // Calls that look at much would take turns in making each other's look worthless.
                if held.is_none() {
                    held = turn(deadline.saturating_duration_since(Instant::now()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_chain_that_is_refused_may_be_of_another_version() {
        for errno in [Errno::EOPNOTSUPP, Errno::EEXIST] {
            let hint = hint(&errno.into());
            assert!(hint.contains("another version") && hint.contains("| nft -f -"), "{hint}");
        }
    }

    #[test]
    fn others_are_waited_for_until_the_deadline_and_refusals_are_not() {
        let patience = Duration::from_millis(20);
        let turns = Cell::new(0);
        let turn = |_| {
            turns.set(turns.get() + 1);
            Some(())
        };
        let error = transaction_within(patience, "adding", turn, || Err(Errno::ERESTART.into())).unwrap_err();
        assert_eq!(turns.take(), 1, "taken once, and kept");
        assert_eq!(error.code, cni::code::TRY_AGAIN);
        assert!(error.msg.starts_with("adding: ") && error.msg.ends_with(", for 20ms"), "{error}");
        assert!(error.details.starts_with("another program keeps changing the ruleset"), "{error}");
        let mut tries = 0;
        let error = transaction_within(Duration::from_secs(60), "adding", turn, || {
            tries += 1;
            Err(Errno::ENOENT.into())
        });
        assert_eq!((error.unwrap_err().code, tries), (cni::code::INTERNAL, REFUSALS + 1));
    }
}
