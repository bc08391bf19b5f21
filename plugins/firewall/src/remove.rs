//! Taking back what was made for pods, in all the places where it can be, whatever the config says by now.

use std::net::IpAddr;

use cni::Error;
use netlink::nft::{Element, Family, Nft};
use ruleset::{Found, TABLE};

use crate::firewalld::Firewalld;
use crate::iptables::Removal;
use crate::lock::Turn;
use crate::{ingress, iptables, pods};

/// What is to go.
#[derive(Clone, Copy)]
pub(crate) struct Gone<'a> {
    /// By the comment of its owner.
    pub(crate) is_gone: &'a dyn Fn(&str) -> bool,
    /// By its address, where the reference has made it and nothing tells whose it is.
    pub(crate) of_reference: &'a [IpAddr],
    /// The zone that the reference has put these addresses into.
    pub(crate) zone: &'a str,
    /// Whether firewalld is to be asked for them.
    pub(crate) asks_firewalld: bool,
    /// Where.
    pub(crate) scope: Scope<'a>,
}

/// Where something may be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Scope<'a> {
    /// Anywhere; the turn for what needs one is waited for.
    Everywhere,
    /// Anywhere, in the caller's turn. Nobody who was asked to stop could wait for another.
    Within(&'a Turn),
    /// In our own tables alone.
    OwnTables,
}

/// A call's turn, waited for when it is needed first, and then kept.
struct Waiting<'a> {
    scope: Scope<'a>,
    own: Option<Result<Turn, Error>>,
}

impl Waiting<'_> {
    /// `None`: there is nothing to do that needs a turn. Who has waited in vain once does not wait again.
    fn turn(&mut self) -> Result<Option<&Turn>, Error> {
        match self.scope {
            Scope::OwnTables => Ok(None),
            Scope::Within(turn) => Ok(Some(turn)),
            Scope::Everywhere => match self.own.get_or_insert_with(Turn::wait) {
                Ok(turn) => Ok(Some(turn)),
                Err(error) => Err(Error::new(error.code, error.msg.clone())),
            },
        }
    }
}

/// Removes it all, and returns what was in our own tables. Goes on past errors; what could not be removed is found
/// again by the next call.
pub(crate) fn remove(gone: &Gone<'_>) -> Result<Vec<Found>, Error> {
    let mut errors = Vec::new();
    let mut removed = Vec::new();
    let mut nft = ruleset::open().unwrap_or_else(|error| {
        errors.push(error);
        None
    });
    // Our element says that we have let it in: what the reference made for the address is another pod's.
    let is_ours = |nft: &mut Nft, address: IpAddr| {
        let element = pods::element(pods::PODS, address);
        let found = nft.element(element.family, TABLE, &element.set, &element.key).ok().flatten();
        found.is_some_and(|element| is_gone(&element, gone))
    };
    let mut of_reference = gone.of_reference.to_vec();
    if let Some(nft) = &mut nft {
        of_reference.retain(|address| !is_ours(nft, *address));
    }
    let gone = &Gone { of_reference: &of_reference, ..*gone };
    let mut waiting = Waiting { scope: gone.scope, own: None };
    let sources_are_gone = match remove_sources(nft.as_mut(), gone, &mut waiting) {
        Ok(()) => true,
        Err(error) => {
            errors.push(error);
            false
        }
    };
    if let Some(nft) = &mut nft {
        match remove_rules(nft, gone, sources_are_gone, &mut waiting) {
            Ok(found) => removed = found,
            Err(error) => errors.push(error),
        }
    }
    errors.extend(remove_from_xtables(gone, &mut waiting).err());
    Error::first_of(errors).map(|()| removed)
}

fn is_gone(element: &Element, gone: &Gone<'_>) -> bool {
    element.comment.as_deref().is_some_and(gone.is_gone)
}

/// All sets whose elements are attachments'.
pub(crate) fn all_sets() -> Vec<(Family, String)> {
    let mut sets = owned_sets();
    sets.extend([Family::Ip, Family::Ip6].map(|family| (family, pods::SOURCES.to_owned())));
    sets
}

/// Those of them that need nothing else to be removed.
pub(crate) fn owned_sets() -> Vec<(Family, String)> {
    let mut sets = ingress::owned_sets();
    sets.extend([Family::Ip, Family::Ip6].map(|family| (family, pods::PODS.to_owned())));
    sets
}

fn remove_rules(
    nft: &mut Nft,
    gone: &Gone<'_>,
    with_sources: bool,
    waiting: &mut Waiting<'_>,
) -> Result<Vec<Found>, Error> {
    let sets = if with_sources { all_sets() } else { owned_sets() };
    // Not needed, as this is a transaction, but without it `iptables-restore` of another call would start anew each time.
    if iptables::is_in_nf_tables(nft) {
        // Without one it is tried nevertheless.
        let _ = waiting.turn();
    }
    ruleset::remove(
        nft,
        |_| Ok(sets.clone()),
        |element| is_gone(element, gone),
        |nft, batch| {
            for family in [Family::Ip, Family::Ip6] {
                ingress::push_bridges(nft, batch, family, |_, element| is_gone(element, gone))?;
            }
            match gone.scope {
                Scope::OwnTables => Ok(()),
                _ => iptables::push_removal(nft, batch, &removal(gone)),
            }
        },
    )
}

/// The rules of iptables that go.
fn removal<'a>(gone: &'a Gone<'_>) -> Removal<'a> {
    Removal { is_gone: gone.is_gone, of_reference: gone.of_reference }
}

fn remove_from_xtables(gone: &Gone<'_>, waiting: &mut Waiting<'_>) -> Result<(), Error> {
    if !iptables::is_in_xtables() {
        return Ok(());
    }
    let Some(turn) = waiting.turn()? else { return Ok(()) };
    iptables::remove_from_xtables(&removal(gone), turn)
}

/// Takes the addresses out of firewalld's zones. Before their elements go: without these nobody would find them again.
fn remove_sources(mut nft: Option<&mut Nft>, gone: &Gone<'_>, waiting: &mut Waiting<'_>) -> Result<(), Error> {
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
    let Some(_) = waiting.turn()? else { return Ok(()) };
    // If it does not run, it has forgotten all sources.
    let Some(mut firewalld) = Firewalld::find()? else { return Ok(()) };
    // Read again: while the lock was not held, a new pod may have got the address.
    let mut result = Ok(());
    for (address, zone) in sources(nft, gone)? {
        result = remove_source(&mut firewalld, address, &zone).and(result);
    }
    result
}

/// Takes the address out of the zone that ADD has put it into. Who has moved it since knows why.
fn remove_source(firewalld: &mut Firewalld, address: IpAddr, zone: &[u8]) -> Result<(), Error> {
    match firewalld.zone_of(address)? {
        Some(found) if pods::zone_value(&found) == zone => firewalld.remove_from(&found, address),
        _ => Ok(()),
    }
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

/// The addresses that are sources of firewalld's zones, of who is gone, with the zone's value in the map.
fn sources(nft: &mut Nft, gone: &Gone<'_>) -> Result<Vec<(IpAddr, Vec<u8>)>, Error> {
    let mut all = Vec::new();
    for family in [Family::Ip, Family::Ip6] {
        match nft.elements(family, TABLE, pods::SOURCES) {
            Err(error) if ruleset::is_unsupported(&error) => {}
            elements => {
                let elements =
                    elements.map_err(|e| Error::internal(format!("failed to read {}: {e}", pods::SOURCES)))?;
                let gone = elements.into_iter().filter(|element| is_gone(element, gone));
                all.extend(gone.filter_map(|e| Some((pods::address(&e.key)?, e.value.unwrap_or_default()))));
            }
        }
    }
    Ok(all)
}
