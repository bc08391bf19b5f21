//! ADD: one transaction. Whatever fails after something was made takes back what this call made, and nothing else.

use std::net::IpAddr;

use cni::{Attachment, Call, Error};
use host::undo::Undo;
use netlink::Protocol;
use netlink::nft::{Batch, Element, Family, Nft};
use plugin::host_end;
use ruleset::{NewElement, Skeleton, TABLE};

use crate::config::{Backend, Plan};
use crate::firewalld::{Added, Firewalld};
use crate::forward::{self, Needs};
use crate::lock::Turn;
use crate::remove::{self, Gone, Scope};
use crate::{bridge, ingress, iptables, pods};

pub(crate) fn add(call: &Call) -> Result<(), Error> {
    let plan = Plan::new(call)?;
    let attachment = call.attachment();
    let policy = match &plan.bridge {
        Some(bridge) => {
            let ports = bridge::ports(plan.settings.policy, bridge, &plan.previous)?;
            ingress::elements(plan.settings.policy, bridge, &plan.addresses, &ports)
        }
        None => Vec::new(),
    };
    let mut nft = open()?;
    let mut needs = forward::needs(&mut nft, &plan.settings, plan.families())?;
    for warning in &needs.warnings {
        host::syslog::notice("firewall", warning);
    }
    plugin::step()?;

    let places = needs.places(&mut nft);
    let is_shared = needs.firewalld.is_some() || !places.is_empty();
    let turn = if is_shared { Some(Turn::wait()?) } else { None };
    // Dropped before the turn, and so within it.
    let mut undo = Undo::new();
    let sources = foresee_sources(&mut nft, &mut needs, &plan)?;
    let is_again = has_elements(&mut nft, &attachment, &plan)?;
    if !is_again {
        // Before anything is done: what is not certain to have failed may have happened.
        let (owner, zone) = (attachment.clone(), plan.settings.zone.clone());
        let scope = turn.as_ref().map_or(Scope::OwnTables, Scope::Within);
        undo.push("letting the pod in", move || {
            remove::remove(&Gone {
                is_gone: &|comment| ruleset::is_owner(comment, &owner),
                of_reference: &[],
                zone: &zone,
                asks_firewalld: false,
                scope,
            })
            .map(drop)
        });
    }
    install_elements(&mut nft, &attachment, &plan, policy, &sources, is_again)?;
    plugin::step()?;
    if let Some(turn) = &turn {
        for (family, place) in places {
            iptables::install(&mut nft, place, &pod_of(&plan, &attachment, family), turn)?;
        }
    }
    if let Some(firewalld) = &mut needs.firewalld {
        for source in sources {
            add_source(firewalld, &plan.settings.zone, source)?;
        }
    }
    plugin::step()?;
    call.reply(&plan.previous)?;
    undo.disarm();
    Ok(())
}

/// The pod's part in iptables' rules of a family.
pub(crate) fn pod_of<'a>(plan: &'a Plan, attachment: &'a Attachment, family: Family) -> iptables::Pod<'a> {
    iptables::Pod {
        attachment,
        family,
        addresses: plan.addresses_of(family).collect(),
        admin_chain: &plan.settings.admin_chain,
    }
}

/// Opens nf_tables.
pub(crate) fn open() -> Result<Nft, Error> {
    Nft::open().map_err(|e| Error::internal(format!("failed to open nf_tables: {e}")))
}

/// Whose the elements are: of an attachment with a host link by our bridge plugin, it says that there was one.
fn comment(attachment: &Attachment) -> Result<String, Error> {
    let mut host = plugin::open(Protocol::Route)?;
    let link = host_end::find(&mut host, attachment)
        .map_err(|e| Error::internal(format!("failed to look for the pod's host link: {e}")))?;
    Ok(if link.is_some() { attachment.marked_comment() } else { attachment.comment() })
}

/// The addresses that this call will make sources of our zone: all but those that somebody else has put there, or into
/// another.
fn foresee_sources(nft: &mut Nft, needs: &mut Needs, plan: &Plan) -> Result<Vec<IpAddr>, Error> {
    let Some(firewalld) = &mut needs.firewalld else { return Ok(Vec::new()) };
    let mut sources = Vec::new();
    for address in &plan.addresses {
        match firewalld.zone_of(*address)? {
            Some(zone) if zone != plan.settings.zone => tell_elsewhere(*address, &zone),
            Some(_) if !is_pods_source(nft, *address)? => {}
            _ => sources.push(*address),
        }
    }
    Ok(sources)
}

/// Whether an earlier ADD, of this pod or of one that had the address before, has made it a source.
fn is_pods_source(nft: &mut Nft, address: IpAddr) -> Result<bool, Error> {
    let element = pods::element(pods::SOURCES, address);
    match nft.element(element.family, TABLE, &element.set, &element.key) {
        Err(error) if ruleset::is_unsupported(&error) => Ok(false),
        found => Ok(found
            .map_err(|e| Error::internal(format!("failed to read {} of nf_tables: {e}", element.set)))?
            .is_some()),
    }
}

fn add_source(firewalld: &mut Firewalld, zone: &str, source: IpAddr) -> Result<(), Error> {
    if let Added::ElsewhereAlready(other) = firewalld.add(zone, source)? {
        tell_elsewhere(source, &other);
    }
    Ok(())
}

fn tell_elsewhere(address: IpAddr, zone: &str) {
    host::syslog::notice(
        "firewall",
        &format!("firewalld has {address} in its zone \"{zone}\" already, where it stays"),
    );
}

/// Whether an earlier ADD of the attachment has made something, which this one's failure must not take away.
fn has_elements(nft: &mut Nft, attachment: &Attachment, plan: &Plan) -> Result<bool, Error> {
    for address in &plan.addresses {
        let element = pods::element(pods::PODS, *address);
        match nft.element(element.family, TABLE, &element.set, &element.key) {
            Ok(Some(found)) if ruleset::is_owned(&found, attachment) => return Ok(true),
            Err(error) if !ruleset::is_unsupported(&error) => {
                return Err(Error::internal(format!("failed to read {} of nf_tables: {error}", element.set)));
            }
            _ => {}
        }
    }
    Ok(false)
}

/// Whether pods of this plan get no elements: iptables and firewalld have worked on kernels without nf_tables before.
/// Only DEL then needs the result of ADD.
pub(crate) fn goes_without(nft: &mut Nft, plan: &Plan) -> bool {
    let is_impossible =
        |family| ruleset::is_possible(nft, family, false).is_err_and(|error| ruleset::is_unsupported(&error));
    plan.settings.backend != Backend::Nftables && plan.families().any(is_impossible)
}

/// The pod's elements in our own tables, and the chains they are looked up by. What an earlier ADD of it has made and
/// this one does not ask for goes.
fn install_elements(
    nft: &mut Nft,
    attachment: &Attachment,
    plan: &Plan,
    policy: Vec<NewElement>,
    sources: &[IpAddr],
    is_again: bool,
) -> Result<(), Error> {
    if policy.is_empty() && goes_without(nft, plan) {
        return Ok(());
    }
    let mut skeletons: Vec<Box<dyn Skeleton>> = Vec::new();
    for family in plan.families() {
        skeletons.push(Box::new(pods::Forward(family)));
    }
    skeletons.extend(ingress::skeletons(&policy));
    skeletons.sort_by_key(|skeleton| skeleton.family());
    let mut elements: Vec<NewElement> = plan.addresses.iter().map(|a| pods::element(pods::PODS, *a)).collect();
    elements.extend(sources.iter().map(|a| pods::source(*a, &plan.settings.zone)));
    let has_policy = |family: &Family| policy.iter().any(|element| element.family == *family);
    let families: Vec<Family> =
        [Family::Ip, Family::Ip6].into_iter().filter(|family| is_again || has_policy(family)).collect();
    elements.extend(policy);
    if elements.is_empty() {
        return Ok(());
    }
    ruleset::install(nft, &comment(attachment)?, &skeletons, &elements)?;
    if families.is_empty() {
        return Ok(());
    }
    let is_outdated = |family: Family, set: &str, element: &Element| {
        let is_new = |new: &NewElement| new.family == family && new.set == set && new.key == element.key;
        is_again && ruleset::is_owned(element, attachment) && !elements.iter().any(is_new)
    };
    // After the pod's own elements, so that whoever removes a bridge's last pod meanwhile sees this one.
    ruleset::transaction("telling nf_tables which bridges have a policy", || {
        let mut batch = Batch::if_generation(nft.generation()?);
        if is_again {
            for (family, set) in remove::owned_sets() {
                for element in nft.elements(family, TABLE, &set)?.iter().filter(|e| is_outdated(family, &set, e)) {
                    batch.delete_element(family, TABLE, &set, &element.key);
                }
            }
        }
        for family in &families {
            ingress::push_bridges(nft, &mut batch, *family, |set, element| is_outdated(*family, set, element))?;
        }
        nft.commit(batch)
    })
}
