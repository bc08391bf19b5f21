//! Taking back what was made for pods, in all the places where it can be, whatever the config says by now.

use std::net::IpAddr;

use cni::{Attachment, Error};
use netlink::nft::{Element, Family, Nft};
use ruleset::TABLE;

use crate::firewalld::Firewalld;
use crate::iptables::Entry;
use crate::{ingress, iptables, lock, pods};

/// What is to go.
pub(crate) struct Gone<'a> {
    /// By the comment of its owner.
    pub(crate) is_gone: &'a dyn Fn(&str) -> bool,
    /// By its address, where the reference has made it and nothing tells whose it is.
    pub(crate) of_reference: &'a [IpAddr],
    /// The zone that the reference has put these addresses into.
    pub(crate) zone: &'a str,
    /// Whether firewalld is to be asked for them.
    pub(crate) asks_firewalld: bool,
}

/// Whether a comment is this attachment's.
pub(crate) fn is_owner(comment: &str, attachment: &Attachment) -> bool {
    comment.split(' ').next() == Some(&attachment.identity_hex())
}

/// Removes it all. Goes on past errors; what could not be removed is found again by the next call.
pub(crate) fn remove(gone: &Gone<'_>) -> Result<(), Error> {
    let mut errors = Vec::new();
    let mut nft = match Nft::open() {
        Err(error) if ruleset::is_unsupported(&error) => None,
        nft => Some(nft.map_err(|e| Error::internal(format!("failed to open nf_tables: {e}")))?),
    };
    let sources_are_gone = match remove_sources(nft.as_mut(), gone) {
        Ok(()) => true,
        Err(error) => {
            errors.push(error);
            false
        }
    };
    if let Some(nft) = &mut nft {
        errors.extend(remove_rules(nft, gone, sources_are_gone).err());
    }
    errors.extend(remove_from_xtables(gone).err());
    Error::first_of(errors)
}

fn is_gone(element: &Element, gone: &Gone<'_>) -> bool {
    element.comment.as_deref().is_some_and(gone.is_gone)
}

/// The rules of iptables that go.
fn is_gone_entry(entry: &Entry, gone: &Gone<'_>) -> bool {
    match &entry.owner {
        Some(owner) => (gone.is_gone)(owner),
        None => entry.is_anonymous && gone.of_reference.iter().any(|address| entry.is_about(*address)),
    }
}

fn remove_rules(nft: &mut Nft, gone: &Gone<'_>, with_sources: bool) -> Result<(), Error> {
    let mut sets = ingress::owned_sets();
    for family in [Family::Ip, Family::Ip6] {
        sets.push((family, pods::PODS.to_owned()));
        if with_sources {
            sets.push((family, pods::SOURCES.to_owned()));
        }
    }
    // Not needed, as this is a transaction, but without it `iptables-restore` of another call would start anew each time.
    let _lock = if iptables::is_in_nf_tables(nft) { lock::firewall().ok() } else { None };
    ruleset::remove(
        nft,
        |_| Ok(sets.clone()),
        |element| is_gone(element, gone),
        |nft, batch| {
            for family in [Family::Ip, Family::Ip6] {
                ingress::push_bridges(nft, batch, family, |element| is_gone(element, gone))?;
            }
            iptables::push_removal(nft, batch, |entry| is_gone_entry(entry, gone))
        },
    )
}

fn remove_from_xtables(gone: &Gone<'_>) -> Result<(), Error> {
    if !iptables::is_in_xtables() {
        return Ok(());
    }
    let _lock = lock::firewall()?;
    iptables::remove_from_xtables(|entry| is_gone_entry(entry, gone))
}

/// Takes the addresses out of firewalld's zones. Before their elements go: without these nobody would find them again.
fn remove_sources(mut nft: Option<&mut Nft>, gone: &Gone<'_>) -> Result<(), Error> {
    if gone.asks_firewalld
        && let Err(error) = remove_sources_of_reference(nft.as_deref_mut(), gone)
    {
        // Nobody knows whether there were any.
        host::syslog::warn("firewall", format_args!("looking for what the reference made: {error}"));
    }
    let Some(nft) = nft else { return Ok(()) };
    if sources(nft, gone)?.is_empty() {
        return Ok(());
    }
    let _lock = lock::firewall()?;
    // If it does not run, it has forgotten all sources.
    let Some(mut firewalld) = Firewalld::find()? else { return Ok(()) };
    // Read again: while the lock was not held, a new pod may have got the address.
    let mut result = Ok(());
    for address in sources(nft, gone)? {
        result = firewalld.remove(address).and(result);
    }
    result
}

/// Takes the addresses out of the zone that the reference has put them into.
fn remove_sources_of_reference(nft: Option<&mut Nft>, gone: &Gone<'_>) -> Result<(), Error> {
    let mut addresses = gone.of_reference.to_vec();
    if let Some(nft) = nft {
        // An address in our set is no pod's of the reference, or not any more.
        addresses.retain(|address| {
            let element = pods::element(pods::PODS, *address);
            !matches!(nft.element(element.family, TABLE, &element.set, &element.key), Ok(Some(_)))
        });
    }
    if addresses.is_empty() {
        return Ok(());
    }
    let Some(mut firewalld) = Firewalld::find()? else { return Ok(()) };
    addresses.into_iter().try_for_each(|address| firewalld.remove_from(gone.zone, address))
}

/// The addresses that are sources of firewalld's zones, of who is gone.
fn sources(nft: &mut Nft, gone: &Gone<'_>) -> Result<Vec<IpAddr>, Error> {
    let mut all = Vec::new();
    for family in [Family::Ip, Family::Ip6] {
        match nft.elements(family, TABLE, pods::SOURCES) {
            Err(error) if ruleset::is_unsupported(&error) => {}
            elements => {
                let elements =
                    elements.map_err(|e| Error::internal(format!("failed to read {}: {e}", pods::SOURCES)))?;
                all.extend(elements.iter().filter(|e| is_gone(e, gone)).filter_map(|e| pods::address(&e.key)));
            }
        }
    }
    Ok(all)
}
