//! Publishing ports by our own tables.

pub(crate) mod addresses;
mod foreign;
pub(crate) mod layout;
pub(crate) mod owner;
mod takeover;

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use cni::attachment::read_identity;
use cni::{Attachment, Error};
use netlink::nft::{Batch, Element, Family, Nft, Rule};
use netlink::{Errno, Result, Socket};
use ruleset::{Found, TABLE};

use crate::config::{Mapping, Plan, Protocol, Target};
use addresses::Host;
use layout::{HOSTS, OWNERS, Wanted};
use owner::Owner;

const FAMILIES: [Family; 2] = [Family::Ip, Family::Ip6];

/// What is to be published, for whom.
pub(crate) struct Request<'a> {
    pub(crate) attachment: &'a Attachment,
    pub(crate) targets: &'a [Target<'a>],
    pub(crate) owner: Owner,
    /// What comes before the rules that others have for the port.
    pub(crate) first: Vec<(Family, Mapping)>,
}

/// Publishes the ports in one transaction, and tells of the host on which that was. `made` tells whether anything of the
/// attachment's may have been made.
///
/// Errors: a port is another attachment's that is not certainly gone; nothing was changed then.
pub(crate) fn install(
    nft: &mut Nft,
    route: &mut Socket,
    request: &Request<'_>,
    made: &Cell<bool>,
) -> std::result::Result<Host, Error> {
    // The kernel answers each element that is there already: more of that than a socket can hold tells nothing.
    let mut is_taken = request.targets.iter().any(|t| t.mappings().count() > MANY);
    let mut outcome = Ok(Vec::new());
    let mut host = Host::default();
    let in_xtables = foreign::look_in_xtables(route, request);
    ruleset::transaction("publishing the ports in nf_tables", || {
        let generation = nft.generation()?;
        // Read after the generation: whoever saw it otherwise and commits makes ours start anew.
        host = Host::look(route, request.targets)?;
        let mut rules = Vec::new();
        for target in request.targets {
            rules.push(nft.rules(target.family(), TABLE, None)?);
            is_taken |= has_rivals(nft, &rules[rules.len() - 1], target, request.attachment)?;
        }
        is_taken |= has_forgotten(nft, request)?;
        let beside = if is_taken { takeover::beside(nft, request)? } else { Vec::new() };
        let targets = if is_taken { &beside[..] } else { request.targets };
        let mut is_complete = true;
        let mut needs = Vec::new();
        for (target, rules) in targets.iter().zip(rules) {
            let is_whole = layout::is_up_to_date(&rules, target, &host);
            let addresses = HostAddresses::look(nft, target, &host)?;
            is_complete &= is_whole && addresses.is_complete() && target.conditions().is_none();
            needs.push((target, rules, is_whole, addresses));
        }
        let foreign = match foreign::look(nft, route, request, &in_xtables)? {
            Ok(mut foreign) => {
                foreign.first = own_first(nft, targets, request.attachment, foreign.first)?;
                foreign
            }
            Err(refusal) => {
                outcome = Err(refusal);
                return Ok(());
            }
        };
        let request = &Request { targets, first: foreign.first.clone(), owner: request.owner.clone(), ..*request };
        is_complete &= foreign.own_chains.is_empty();
        // Without anything to decide on what was read, others' commits do not matter.
        let mut batch = if is_complete && !is_taken { Batch::new() } else { Batch::if_generation(generation) };
        for (target, rules, is_whole, addresses) in &needs {
            if !is_whole {
                layout::push_skeleton(&mut batch, rules, target, &host);
            }
            addresses.push(&mut batch, target.family());
        }
        foreign.push_removal(nft, &mut batch)?;
        let mut notices = foreign.notices;
        let mut done = Vec::new();
        if is_taken {
            match takeover::clear(nft, request, &mut batch)? {
                Ok(cleared) => {
                    done = cleared.published;
                    notices.extend(cleared.notices);
                }
                Err(refusal) => {
                    outcome = Err(refusal);
                    return Ok(());
                }
            }
        }
        outcome = Ok(notices);
        let wanted = request.targets.iter().filter(|t| !done.contains(&t.family()));
        let before = made.get();
        for target in wanted {
            push_elements(&mut batch, target, request);
            // A commit whose answer gets lost has happened.
            made.set(true);
        }
        let result = nft.commit(batch);
        if let Err(error) = &result {
            is_taken |= error.is(Errno::EEXIST);
            if REFUSALS.iter().any(|e| error.is(*e)) {
                made.set(before);
            }
        }
        result
    })?;
    for notice in outcome? {
        host::syslog::notice("portmap", &notice);
    }
    Ok(host)
}

/// With more ports than that what is there is looked at beforehand.
const MANY: usize = 32;

/// Makes way for the ports where the other backend publishes them: what is here may come first.
///
/// Errors: a port is another attachment's that is not certainly gone; nothing was changed then.
pub(crate) fn make_way(nft: &mut Nft, request: &Request<'_>, plan: &Plan) -> std::result::Result<(), Error> {
    let mut outcome = Ok(Vec::new());
    ruleset::transaction("looking for the ports in nf_tables", || {
        let generation = match nft.generation() {
            Err(error) if ruleset::is_unsupported(&error) => return Ok(()),
            generation => generation?,
        };
        let mut batch = Batch::if_generation(generation);
        // What the pod has by other interfaces is in nobody's way.
        let targets = &takeover::beside(nft, request)?[..];
        let request = &Request { targets, owner: request.owner.clone(), first: Vec::new(), ..*request };
        outcome = takeover::clear(nft, request, &mut batch)?.map(|cleared| cleared.notices);
        if outcome.is_ok() { nft.commit(batch) } else { Ok(()) }
    })?;
    for notice in outcome? {
        host::syslog::notice("portmap", &notice);
    }
    remove(nft, request.attachment, Some(plan), |_, _| Ok(())).map(drop)
}

/// The mappings for which the attachment has the element that lets them come first: where the pod has the port by another
/// interface, that one may have it.
fn own_first(
    nft: &mut Nft,
    targets: &[Target<'_>],
    attachment: &Attachment,
    mut first: Vec<(Family, Mapping)>,
) -> Result<Vec<(Family, Mapping)>> {
    for target in targets.iter().filter(|t| t.is_by_interface()) {
        for mapping in target.mappings() {
            let (set, key) = layout::first_entry(mapping);
            let found = nft.element(target.family(), TABLE, set, &key)?;
            if found.is_some_and(|e| !ruleset::is_owned(&e, attachment)) {
                first.retain(|f| *f != (target.family(), *mapping));
            }
        }
    }
    Ok(first)
}

/// What the kernel says where it has done nothing of a commit; other errors may be about its answer.
const REFUSALS: [Errno; 10] = [
    Errno::ERESTART,
    Errno::EEXIST,
    Errno::ENOENT,
    Errno::EBUSY,
    Errno::EINVAL,
    Errno::EOPNOTSUPP,
    Errno::EPROTONOSUPPORT,
    Errno::EAFNOSUPPORT,
    Errno::EPERM,
    Errno::ENFILE,
];

/// Whether somebody has one of the ports under other conditions, or without.
fn has_rivals(nft: &mut Nft, rules: &[Rule], target: &Target<'_>, attachment: &Attachment) -> Result<bool> {
    let mut of_set: HashMap<String, Vec<String>> = HashMap::new();
    for mapping in target.mappings() {
        let (set, key) = layout::entry(mapping, target.conditions());
        let rivals = of_set.entry(set).or_insert_with_key(|set| layout::rivals(rules, set));
        for rival in rivals.iter() {
            let found = nft.element(target.family(), TABLE, rival, &key)?;
            if found.is_some_and(|e| !ruleset::is_owned(&e, attachment)) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Whether the attachment has elements in a family for which nothing is to be published now.
fn has_forgotten(nft: &mut Nft, request: &Request<'_>) -> Result<bool> {
    let identity = request.attachment.identity();
    for family in FAMILIES {
        if request.targets.iter().all(|t| t.family() != family)
            && nft.element(family, TABLE, OWNERS, &identity)?.is_some()
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn push_elements(batch: &mut Batch, target: &Target<'_>, request: &Request<'_>) {
    let (family, comment) = (target.family(), request.attachment.comment());
    let elements = layout::elements(target, &request.first);
    let owner = request.owner.with_elements(&elements).comment();
    for wanted in elements {
        match &wanted.value {
            Some(value) => batch.add_entry(family, TABLE, &wanted.set, &wanted.key, value, &comment),
            None => batch.add_element(family, TABLE, &wanted.set, &wanted.key, &comment),
        };
    }
    batch.add_element(family, TABLE, OWNERS, &request.attachment.identity(), &owner);
}

/// What the comment of an address says that a mapping named; it stays as long as the host has it.
const NAMED: &str = "named by a mapping";

/// How the set of the host's addresses differs from what the host has.
struct HostAddresses {
    missing: Vec<(Vec<u8>, &'static str)>,
    gone: Vec<Vec<u8>>,
}

impl HostAddresses {
    fn look(nft: &mut Nft, target: &Target<'_>, host: &Host) -> Result<Self> {
        let family = target.family();
        let keys = |ips: &[IpAddr]| -> HashSet<Vec<u8>> {
            ips.iter().filter(|ip| Family::of(**ip) == family).map(|ip| ruleset::bytes(*ip)).collect()
        };
        let (published, local) = (keys(&host.published), keys(&host.local));
        // Whoever names an address knows that it is the host's, whatever link it is on.
        let named: Vec<IpAddr> =
            target.mappings().filter_map(Mapping::address).filter(|ip| !ip.is_loopback()).collect();
        let named: HashSet<Vec<u8>> = keys(&named).difference(&published).cloned().collect();
        let mut kept = HashSet::new();
        let mut gone = Vec::new();
        for element in nft.elements(family, TABLE, HOSTS)? {
            let key = &element.key;
            let is_named = element.comment.as_deref() == Some(NAMED);
            // What was learned and is the host's still does no harm, unless it may be a service's.
            let stays = local.contains(key) && (is_named || !host.has_services);
            let is_meant = published.contains(key) || if named.contains(key) { is_named } else { stays };
            if is_meant {
                kept.insert(element.key);
            } else {
                gone.push(element.key);
            }
        }
        let of_host = published.into_iter().map(|key| (key, "the host's"));
        let of_mappings = named.into_iter().map(|key| (key, NAMED));
        Ok(Self { missing: of_host.chain(of_mappings).filter(|(key, _)| !kept.contains(key)).collect(), gone })
    }

    fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.gone.is_empty()
    }

    fn push(&self, batch: &mut Batch, family: Family) {
        for key in &self.gone {
            batch.delete_element(family, TABLE, HOSTS, key);
        }
        for (key, comment) in &self.missing {
            batch.add_element(family, TABLE, HOSTS, key, comment);
        }
    }
}

/// Removes whatever an earlier ADD of the attachment published, by whichever backend.
pub(crate) fn forget(nft: &mut Nft, attachment: &Attachment) -> std::result::Result<UdpPorts, Error> {
    remove(nft, attachment, None, |nft, batch| foreign::push_own_removal(nft, batch, attachment))
}

/// UDP ports that led to a pod's address.
pub(crate) type UdpPorts = Vec<(IpAddr, u16)>;

/// Removes all elements of the attachment, and in the same transaction what `more` adds to it. `plan`: what its config
/// says now, by which they are found without looking at everyone's.
pub(crate) fn remove(
    nft: &mut Nft,
    attachment: &Attachment,
    plan: Option<&Plan>,
    more: impl Fn(&mut Nft, &mut Batch) -> Result<()>,
) -> std::result::Result<UdpPorts, Error> {
    let mut removed = Vec::new();
    ruleset::transaction("removing the ports from nf_tables", || {
        let generation = match nft.generation() {
            // A kernel without nf_tables holds nothing of ours.
            Err(error) if ruleset::is_unsupported(&error) => return Ok(()),
            generation => generation?,
        };
        let mut batch = Batch::if_generation(generation);
        removed.clear();
        for family in FAMILIES {
            removed.extend(push_own_removal(nft, &mut batch, family, attachment, plan)?);
        }
        more(nft, &mut batch)?;
        nft.commit(batch)
    })?;
    Ok(udp_ports(&removed))
}

fn push_own_removal(
    nft: &mut Nft,
    batch: &mut Batch,
    family: Family,
    attachment: &Attachment,
    plan: Option<&Plan>,
) -> Result<Vec<Found>> {
    let identity = attachment.identity();
    let owner = nft.element(family, TABLE, OWNERS, &identity)?;
    let mut found = Vec::new();
    if let Some(plan) = plan {
        found = find_planned(nft, family, attachment, plan)?;
    }
    let is_whole = match &owner {
        // The config is another than at the ADD, or does not say.
        Some(owner) => found.len() >= Owner::parse(owner.comment.as_deref().unwrap_or_default()).elements,
        // Somebody has emptied the set. Where that is not so, either is empty, or has elements of others alone.
        None => found.is_empty() && !nft.elements(family, TABLE, OWNERS)?.is_empty(),
    };
    if !is_whole {
        found = all(nft, family)?.into_iter().filter(|f| ruleset::is_owned(&f.element, attachment)).collect();
    }
    push_removal(nft, batch, &found, &[])?;
    if owner.is_some() {
        batch.delete_element(family, TABLE, OWNERS, &identity);
    }
    Ok(found)
}

/// The attachment's elements of what the config says.
fn find_planned(nft: &mut Nft, family: Family, attachment: &Attachment, plan: &Plan) -> Result<Vec<Found>> {
    let mut found: Vec<Found> = Vec::new();
    let mut seen = HashSet::new();
    let mut look = |nft: &mut Nft, set: &str, key: &[u8]| -> Result<Option<Vec<u8>>> {
        if !seen.insert((set.to_owned(), key.to_vec())) {
            return Ok(None);
        }
        let element = nft.element(family, TABLE, set, key)?.filter(|e| ruleset::is_owned(e, attachment));
        let value = element.as_ref().and_then(|e| e.value.clone());
        found.extend(element.map(|element| Found { family, set: set.to_owned(), element }));
        Ok(value)
    };
    for mapping in plan.mappings.iter().filter(|m| m.is_for(family)) {
        let (set, key) = layout::entry(mapping, plan.conditions(family));
        let Some((pod, port)) = look(nft, &set, &key)?.as_deref().and_then(layout::read_value) else { continue };
        for set in layout::masquerade_sets(plan.snat, plan.masq_all) {
            look(nft, set, &layout::masquerade_key(mapping.protocol, pod, port))?;
        }
        // It may have gone over from another interface of the pod since the elements were counted.
        let (set, key) = layout::first_entry(mapping);
        look(nft, set, &key)?;
    }
    Ok(found)
}

/// All elements of attachments in a family: the cost grows with their number.
pub(crate) fn all(nft: &mut Nft, family: Family) -> Result<Vec<Found>> {
    let sets = nft.sets(family, TABLE)?.into_iter().filter(|set| layout::is_ours(set));
    ruleset::elements(nft, sets.map(|set| (family, set)))
}

/// Removes elements, and maps of conditions that are empty then and not among those that are `wanted` from then on.
fn push_removal(nft: &mut Nft, batch: &mut Batch, found: &[Found], wanted: &[Wanted]) -> Result<()> {
    let mut conditional: HashMap<(Family, &str), usize> = HashMap::new();
    for Found { family, set, element } in found {
        batch.delete_element(*family, TABLE, set, &element.key);
        if layout::is_conditional(set) && !wanted.iter().any(|w| w.set == *set) {
            *conditional.entry((*family, set)).or_default() += 1;
        }
    }
    for first in found.iter().filter(|f| layout::is_first(&f.set)) {
        let Found { family, set, element } = first;
        let is_wanted = wanted.iter().any(|w| w.set == *set && w.key == element.key);
        if !is_wanted && let Some(comment) = heir(nft, first, found)? {
            batch.add_element(*family, TABLE, set, &element.key, &comment);
        }
    }
    for ((family, set), going) in conditional {
        if nft.elements(family, TABLE, set)?.len() == going {
            let rules = nft.rules(family, TABLE, None)?;
            layout::push_conditional_removal(batch, family, &rules, set);
        }
    }
    Ok(())
}

/// The comment of an element of the same port that stays: what lets the port come first goes over to its owner.
fn heir(nft: &mut Nft, first: &Found, going: &[Found]) -> Result<Option<String>> {
    let (family, key) = (first.family, &first.element.key);
    let rules = nft.rules(family, TABLE, None)?;
    for map in layout::maps_of_first(&rules, &first.set) {
        if going.iter().any(|f| f.family == family && f.set == map && f.element.key == *key) {
            continue;
        }
        if let Some(element) = nft.element(family, TABLE, &map, key)? {
            return Ok(element.comment);
        }
    }
    Ok(None)
}

/// The UDP ports that these elements led to pods.
pub(crate) fn udp_ports(found: &[Found]) -> UdpPorts {
    let read = |f: &Found| {
        let (protocol, port, _) = layout::read_entry(&f.set, &f.element.key)?;
        let (pod, _) = layout::read_value(f.element.value.as_deref()?)?;
        (protocol == Protocol::Udp).then_some((pod, port))
    };
    found.iter().filter_map(read).collect()
}

/// Removes all elements whose comment is of an attachment that is not alive, and what tells where it, or whoever
/// `is_gone` names by identity, has lived. Returned are the elements.
pub(crate) fn remove_stale(
    nft: &mut Nft,
    is_stale: impl Fn(&str) -> bool,
    is_gone: impl Fn(&[u8; 16]) -> bool,
    more: impl Fn(&mut Nft, &mut Batch) -> Result<()>,
) -> std::result::Result<Vec<Found>, Error> {
    let mut removed = Vec::new();
    ruleset::transaction("removing stale ports from nf_tables", || {
        removed.clear();
        let generation = match nft.generation() {
            Err(error) if ruleset::is_unsupported(&error) => return Ok(()),
            generation => generation?,
        };
        let mut batch = Batch::if_generation(generation);
        for family in FAMILIES {
            let mut stale = all(nft, family)?;
            stale.retain(|f| f.element.comment.as_deref().is_some_and(&is_stale));
            push_removal(nft, &mut batch, &stale, &[])?;
            let owners: HashSet<_> =
                stale.iter().filter_map(|f| read_identity(f.element.comment.as_deref()?)).collect();
            for (identity, _) in self::owners(nft, family)? {
                if owners.contains(&identity) || is_gone(&identity) {
                    batch.delete_element(family, TABLE, OWNERS, &identity);
                }
            }
            removed.extend(stale);
        }
        more(nft, &mut batch)?;
        nft.commit(batch)
    })?;
    Ok(removed)
}

/// Who has elements, in both families.
pub(crate) fn owners_of_all(nft: &mut Nft) -> Result<Vec<([u8; 16], Owner)>> {
    let mut all = Vec::new();
    for family in FAMILIES {
        all.extend(owners(nft, family)?);
    }
    Ok(all)
}

/// Who has elements in a family.
fn owners(nft: &mut Nft, family: Family) -> Result<Vec<([u8; 16], Owner)>> {
    let read = |element: Element| {
        let owner = Owner::parse(element.comment.as_deref().unwrap_or_default());
        Some((<[u8; 16]>::try_from(element.key.as_slice()).ok()?, owner))
    };
    Ok(nft.elements(family, TABLE, OWNERS)?.into_iter().filter_map(read).collect())
}

/// What is missing of what ADD made for a target, in words; `None`: nothing.
pub(crate) fn missing(nft: &mut Nft, attachment: &Attachment, target: &Target<'_>) -> Result<Option<String>> {
    let family = target.family();
    let rules = nft.rules(family, TABLE, None)?;
    if let Some(rule) = layout::first_missing(&rules, target) {
        return Ok(Some(format!(
            "{rule} of table {family} {TABLE} is missing (the next ADD of a pod with ports makes it anew)"
        )));
    }
    for wanted in layout::elements(target, &[]) {
        let found = nft.element(family, TABLE, &wanted.set, &wanted.key)?;
        let what = format!("element of {} in {} of table {family} {TABLE}", wanted.mapping, wanted.set);
        let Some(found) = found else { return Ok(Some(format!("{what} is missing"))) };
        if !ruleset::is_owned(&found, attachment) {
            let comment = found.comment.unwrap_or_default();
            return Ok(Some(format!("{what} is not this attachment's: its comment is \"{comment}\"")));
        }
        if found.value != wanted.value {
            let read = |v: &Option<Vec<u8>>| v.as_deref().and_then(layout::read_value);
            let show =
                |v| read(v).map_or("nothing".to_owned(), |(ip, port)| std::net::SocketAddr::new(ip, port).to_string());
            return Ok(Some(format!("{what} leads to {}, expected {}", show(&found.value), show(&wanted.value))));
        }
    }
    let Some(owner) = nft.element(family, TABLE, OWNERS, &attachment.identity())? else {
        return Ok(Some(format!("the attachment's element in {OWNERS} of table {family} {TABLE} is missing")));
    };
    // Which of the mappings come before others' rules was found out by ADD; how many these are is written down.
    missing_first(nft, target, Owner::parse(owner.comment.as_deref().unwrap_or_default()).first)
}

/// What is missing of what ADD made for a target beside what the pod has by another interface. The outer `None`: it did
/// not.
pub(crate) fn missing_beside(
    nft: &mut Nft,
    attachment: &Attachment,
    target: &Target<'_>,
) -> Result<Option<Option<String>>> {
    let missing = missing(nft, attachment, &target.by_interface(&attachment.ifname))?;
    let is_beside = missing.is_none() || takeover::is_beside(nft, target, attachment)?;
    Ok(is_beside.then_some(missing))
}

/// Whether the attachment's ADD saw to it that its host link is in hairpin mode.
pub(crate) fn is_hairpin(nft: &mut Nft, attachment: &Attachment, targets: &[Target<'_>]) -> Result<bool> {
    for target in targets {
        let owner = nft.element(target.family(), TABLE, OWNERS, &attachment.identity())?;
        if owner.and_then(|e| e.comment).is_some_and(|comment| Owner::parse(&comment).is_hairpin) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What is missing of the elements by which this many mappings come before others' rules, in words.
fn missing_first(nft: &mut Nft, target: &Target<'_>, count: usize) -> Result<Option<String>> {
    let (family, mut found, mut sets) = (target.family(), 0, HashSet::new());
    for mapping in target.mappings().filter(|_| count > 0) {
        let (set, key) = layout::first_entry(mapping);
        found += usize::from(nft.element(family, TABLE, set, &key)?.is_some());
        sets.insert(set);
    }
    let sets = sets.into_iter().collect::<Vec<_>>().join(" or ");
    Ok((found < count)
        .then(|| format!("an element of the attachment's in {sets} of table {family} {TABLE} is missing")))
}
