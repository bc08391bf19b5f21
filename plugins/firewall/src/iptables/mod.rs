//! Pods let in by iptables: the reference's chains in table `filter`.
//!
//! ```text
//! -A FORWARD -m comment --comment "CNI firewall plugin rules" -j CNI-FORWARD
//! -A CNI-FORWARD -m comment --comment "CNI firewall plugin admin overrides" -j CNI-ADMIN
//! -A CNI-FORWARD -d 10.22.0.5/32 -m comment --comment "<owner>" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
//! -A CNI-FORWARD -d 10.22.0.5/32 -m comment --comment "<owner>" -m conntrack --ctstate DNAT -j ACCEPT
//! -A CNI-FORWARD -s 10.22.0.5/32 -m comment --comment "<owner>" -j ACCEPT
//! ```
//!
//! `CNI-ADMIN` is the administrator's: what is in it comes first, and nothing here ever touches it. The rules are
//! the reference's, with the owner in their comment, and one more for what a published port has sent to the pod.

mod program;
mod table;

use std::net::IpAddr;

use cni::{Attachment, Error};
use host::process;
use netlink::nft::{Batch, Family, Nft};

pub(crate) use program::ensure_installed;
use table::{Entry, Handle, Table};
pub(crate) use table::{FORWARD, Place, TABLE};

use crate::lock::Turn;

/// The chain of the rules for pods.
pub(crate) const CHAIN: &str = "CNI-FORWARD";
/// The reference's chain of ingress policies.
const STAGE: &str = "CNI-ISOLATION-STAGE-1";
const JUMP: &str = "CNI firewall plugin rules";
const ADMIN_JUMP: &str = "CNI firewall plugin admin overrides";
/// How many rules an address has.
const RULES: usize = 3;
/// How many of them the reference makes.
const REFERENCE_RULES: usize = 2;
/// How often rules are added that were not as they had just been read.
const TRIES: usize = 3;

/// The pod's part in the rules of one family.
#[derive(Debug)]
pub(crate) struct Pod<'a> {
    pub(crate) attachment: &'a Attachment,
    pub(crate) family: Family,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) admin_chain: &'a str,
}

/// Where the rules of a host that drops nothing are to be: where its administrator's program has them.
pub(crate) fn usual_place(nft: &mut Nft, family: Family) -> Place {
    let in_nf_tables = nft.has_chain(family, TABLE, FORWARD).unwrap_or(false);
    match (in_nf_tables, program::has_xtables(family)) {
        (true, false) => Place::NfTables,
        (false, true) => Place::Xtables,
        _ if program::prefers_xtables(family) => Place::Xtables,
        _ => Place::NfTables,
    }
}

/// Whether x_tables drops what its chain FORWARD does not decide; `None`: it is in use, but without its program nobody
/// can know.
pub(crate) fn xtables_drop(family: Family) -> Result<Option<bool>, Error> {
    if !program::has_xtables(family) {
        return Ok(Some(false));
    }
    let saved = ruleset::iptables::save(family, TABLE)?;
    Ok(saved.map(|saved| saved.lines().any(|line| line.starts_with(":FORWARD DROP"))))
}

/// Lets the pod in.
pub(crate) fn install(nft: &mut Nft, place: Place, pod: &Pod<'_>, turn: &Turn) -> Result<(), Error> {
    let mut last = None;
    for _ in 0..TRIES {
        let table = Table::read(nft, pod.family, place, &[FORWARD, CHAIN, pod.admin_chain])?;
        let Some(script) = addition(&table, pod) else { return Ok(()) };
        match (program::restore(pod.family, place, &script, turn), last) {
            (Ok(()), _) => return Ok(()),
            // Somebody else may have made a chain meanwhile; with nothing changed the refusal is about something else.
            (Err(process::Error::Failed { .. }), last) if last.as_ref() != Some(&script) => {}
            (Err(error), _) => return Err(program::failed(pod.family, &error)),
        }
        last = Some(script);
    }
    Err(Error::new(cni::code::TRY_AGAIN, format!("the rules of {} {TABLE} change all the time", pod.family)))
}

/// What is missing for the pod in either place; `None` if one of them has it all.
pub(crate) fn missing_anywhere(nft: &mut Nft, pod: &Pod<'_>) -> Result<Option<String>, Error> {
    let mut first = None;
    for place in places(pod.family) {
        let Some(missing) = missing(nft, place, pod)? else { return Ok(None) };
        first.get_or_insert(missing);
    }
    Ok(first)
}

/// What is missing for the pod; `None` if nothing is.
pub(crate) fn missing(nft: &mut Nft, place: Place, pod: &Pod<'_>) -> Result<Option<String>, Error> {
    let table = Table::read(nft, pod.family, place, &[FORWARD, CHAIN, pod.admin_chain])?;
    let family = pod.family;
    if !table.jumps(FORWARD, CHAIN) {
        return Ok(Some(format!("chain FORWARD of {family} {TABLE} has no jump to {CHAIN}")));
    }
    if !table.jumps(CHAIN, pod.admin_chain) {
        return Ok(Some(format!("chain {CHAIN} of {family} {TABLE} has no jump to {}", pod.admin_chain)));
    }
    let lacking = pod
        .addresses
        .iter()
        .find(|address| own(&table, pod, **address) < RULES && anonymous(&table, **address) < REFERENCE_RULES);
    Ok(lacking.map(|address| {
        let found = own(&table, pod, *address);
        format!("chain {CHAIN} of {family} {TABLE} has {found} of the {RULES} rules for {address}")
    }))
}

/// Whether the reference's rules let this address in, in whichever place.
pub(crate) fn has_anonymous(nft: &mut Nft, address: IpAddr) -> Result<bool, Error> {
    for place in places(Family::of(address)) {
        let table = Table::read(nft, Family::of(address), place, &[CHAIN])?;
        if anonymous(&table, address) >= REFERENCE_RULES {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the reference's rules of an ingress policy hold for this bridge.
pub(crate) fn has_reference_policy(nft: &mut Nft, bridge: &str) -> Result<bool, Error> {
    for family in [Family::Ip, Family::Ip6] {
        for place in places(family) {
            let table = Table::read(nft, family, place, &[FORWARD, STAGE])?;
            if table.jumps(FORWARD, STAGE) && table.rules(STAGE).any(|entry| entry.is_about_link(bridge)) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Whose rules there are, as the comments of their attachments.
pub(crate) fn owners(nft: &mut Nft) -> Result<Vec<String>, Error> {
    let mut all = Vec::new();
    for family in [Family::Ip, Family::Ip6] {
        for place in places(family) {
            let table = Table::read(nft, family, place, &[CHAIN])?;
            all.extend(table.rules(CHAIN).filter_map(|entry| entry.owner.clone()));
        }
    }
    Ok(all)
}

/// Which rules for pods go.
pub(crate) struct Removal<'a> {
    /// By the comment of their owner.
    pub(crate) is_gone: &'a dyn Fn(&str) -> bool,
    /// By their address, where they are the reference's.
    pub(crate) of_reference: &'a [IpAddr],
}

impl Removal<'_> {
    fn of<'t>(&self, table: &'t Table) -> Vec<&'t Entry> {
        let is_own = |entry: &&Entry| entry.owner.as_deref().is_some_and(self.is_gone);
        let own: Vec<_> = table.rules(CHAIN).filter(is_own).collect();
        if !own.is_empty() {
            // We have let it in: the reference's rules are for another pod, which has the address now.
            return own;
        }
        let is_references =
            |entry: &&Entry| entry.anonymous.is_some_and(|address| self.of_reference.contains(&address));
        table.rules(CHAIN).filter(is_references).collect()
    }
}

/// Adds the removal to a transaction, where the rules are in nf_tables.
pub(crate) fn push_removal(nft: &mut Nft, batch: &mut Batch, removal: &Removal<'_>) -> netlink::Result<()> {
    for family in [Family::Ip, Family::Ip6] {
        if !nft.has_chain(family, TABLE, CHAIN)? {
            continue;
        }
        let table = Table::of_nf_tables(nft, family, &[CHAIN])?;
        for entry in removal.of(&table) {
            if let Handle::Number(number) = entry.handle {
                batch.delete_rule(family, TABLE, CHAIN, number);
            }
        }
    }
    Ok(())
}

/// Whether nf_tables may have rules for pods.
pub(crate) fn is_in_nf_tables(nft: &mut Nft) -> bool {
    [Family::Ip, Family::Ip6].into_iter().any(|family| nft.has_chain(family, TABLE, CHAIN).unwrap_or(false))
}

/// Whether x_tables may have rules.
pub(crate) fn is_in_xtables() -> bool {
    [Family::Ip, Family::Ip6].into_iter().any(program::has_xtables)
}

/// Removes the rules where they are in x_tables.
pub(crate) fn remove_from_xtables(removal: &Removal<'_>, turn: &Turn) -> Result<(), Error> {
    for family in [Family::Ip, Family::Ip6] {
        if !program::has_xtables(family) {
            continue;
        }
        let Some(saved) = ruleset::iptables::save(family, TABLE)? else {
            // Most likely nobody (the reference, this plugin) has made any here without the programs.
            host::syslog::notice(
                "firewall",
                &format!("x_tables has a table {family} {TABLE}, but no iptables-legacy-save is there to look into it"),
            );
            continue;
        };
        let table = Table::of_text(&saved);
        let deletions: Vec<String> = removal
            .of(&table)
            .into_iter()
            .filter_map(|entry| match &entry.handle {
                Handle::Line(line) => Some(line.replacen("-A ", "-D ", 1)),
                Handle::Number(_) => None,
            })
            .collect();
        if !deletions.is_empty() {
            program::restore(family, Place::Xtables, &script(&deletions), turn)
                .map_err(|e| program::failed(family, &e))?;
        }
    }
    Ok(())
}

fn places(family: Family) -> impl Iterator<Item = Place> {
    [Place::NfTables, Place::Xtables].into_iter().filter(move |p| *p == Place::NfTables || program::has_xtables(family))
}

fn own(table: &Table, pod: &Pod<'_>, address: IpAddr) -> usize {
    let is_own = |entry: &&Entry| {
        entry.is_about(address) && entry.owner.as_deref().is_some_and(|owner| ruleset::is_owner(owner, pod.attachment))
    };
    table.rules(CHAIN).filter(is_own).count()
}

fn anonymous(table: &Table, address: IpAddr) -> usize {
    table.rules(CHAIN).filter(|entry| entry.anonymous == Some(address)).count()
}

/// What `iptables-restore` is to be told; `None` if nothing is missing.
fn addition(table: &Table, pod: &Pod<'_>) -> Option<String> {
    let mut lines = Vec::new();
    for chain in [CHAIN, pod.admin_chain] {
        if !table.has(chain) {
            // Not as `:CHAIN -`, which would empty a chain that somebody has made meanwhile.
            lines.push(format!("-N {chain}"));
        }
    }
    if !table.jumps(FORWARD, CHAIN) {
        lines.push(format!("-I {FORWARD} 1 -m comment --comment \"{JUMP}\" -j {CHAIN}"));
    }
    if !table.jumps(CHAIN, pod.admin_chain) {
        lines.push(format!("-I {CHAIN} 1 -m comment --comment \"{ADMIN_JUMP}\" -j {}", pod.admin_chain));
    }
    let comment = format!("-m comment --comment \"{}\"", pod.attachment.comment());
    for address in pod.addresses.iter().filter(|address| own(table, pod, **address) < RULES) {
        let host = format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 });
        for state in ["RELATED,ESTABLISHED", "DNAT"] {
            lines.push(format!("-A {CHAIN} -d {host} {comment} -m conntrack --ctstate {state} -j ACCEPT"));
        }
        lines.push(format!("-A {CHAIN} -s {host} {comment} -j ACCEPT"));
    }
    if lines.is_empty() { None } else { Some(script(&lines)) }
}

fn script(lines: &[String]) -> String {
    format!("*{TABLE}\n{}\nCOMMIT\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment() -> Attachment {
        Attachment { network: "n".to_owned(), container_id: "c".to_owned(), ifname: "eth0".to_owned() }
    }

    fn pod(attachment: &Attachment) -> Pod<'_> {
        let addresses = vec!["10.0.0.2".parse().unwrap()];
        Pod { attachment, family: Family::Ip, addresses, admin_chain: "CNI-ADMIN" }
    }

    #[test]
    fn only_what_is_missing_is_added() {
        let attachment = attachment();
        let owner = attachment.comment();
        let rules = format!(
            "-A CNI-FORWARD -d 10.0.0.2/32 -m comment --comment \"{owner}\" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
             -A CNI-FORWARD -d 10.0.0.2/32 -m comment --comment \"{owner}\" -m conntrack --ctstate DNAT -j ACCEPT\n\
             -A CNI-FORWARD -s 10.0.0.2/32 -m comment --comment \"{owner}\" -j ACCEPT\n"
        );
        let chains = "-N CNI-FORWARD\n-N CNI-ADMIN\n\
            -I FORWARD 1 -m comment --comment \"CNI firewall plugin rules\" -j CNI-FORWARD\n\
            -I CNI-FORWARD 1 -m comment --comment \"CNI firewall plugin admin overrides\" -j CNI-ADMIN\n";
        let saved = chains
            .replace("-N ", ":")
            .replace("-I CNI-FORWARD 1", "-A CNI-FORWARD")
            .replace("-I FORWARD 1", "-A FORWARD");
        let script = |lines: &str| Some(format!("*filter\n{lines}COMMIT\n"));
        assert_eq!(addition(&Table::default(), &pod(&attachment)), script(&format!("{chains}{rules}")));
        assert_eq!(addition(&Table::of_text(&saved), &pod(&attachment)), script(&rules));
        assert_eq!(addition(&Table::of_text(&format!("{saved}{rules}")), &pod(&attachment)), None);
        let other = rules.replace(&attachment.identity_hex(), &"0".repeat(32));
        assert_eq!(addition(&Table::of_text(&format!("{saved}{other}")), &pod(&attachment)), script(&rules));
    }
}
