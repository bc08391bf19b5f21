//! `ipMasqBackend: "iptables"`: masquerading in chains of the reference's layout, and the removal of such chains.
//!
//! Chains are made by one `iptables-restore --noflush` for each family. They are removed without a program where
//! iptables keeps its rules in nf_tables; where it keeps them in x_tables, by one `iptables-restore` again.

use std::collections::BTreeSet;
use std::net::IpAddr;

use cni::attachment::sha512_hex;
use cni::{Attachment, Cidr, Error};
use host::undo::Undo;
use netlink::nft::{Batch, Expression, Family, Nft, Rule, Verdict};
use plugin::gc::Valid;
use ruleset::iptables::{self, save, uses_xtables};

const TABLE: &str = "nat";

/// The reference's chain: shared by all interfaces that a container has in a network.
pub(crate) fn chain(attachment: &Attachment) -> String {
    chain_of(&attachment.network, &attachment.container_id)
}

fn chain_of(network: &str, container_id: &str) -> String {
    format!("CNI-{}", sha512_hex(&format!("{network}{container_id}"), 24))
}

/// Masquerades what the addresses send out of their subnets.
pub(crate) fn install(attachment: &Attachment, addresses: &[Cidr], undo: &mut Undo<'_>) -> Result<(), Error> {
    for family in [Family::Ip, Family::Ip6] {
        let of_family: Vec<Cidr> = addresses.iter().copied().filter(|a| Family::of(a.addr()) == family).collect();
        if of_family.is_empty() {
            continue;
        }
        let is_there = has_chain(family, attachment)?;
        let owner = attachment.clone();
        let ips: Vec<IpAddr> = of_family.iter().map(Cidr::addr).collect();
        // Before it is done: a program whose end could not be waited for may have done it.
        undo.push("removing the iptables rules", move || remove(&owner, &ips));
        restore_rules(family, &addition(attachment, &of_family, is_there))?;
    }
    Ok(())
}

/// Whether the masquerading of this address is in place.
pub(crate) fn is_installed(attachment: &Attachment, address: Cidr) -> Result<bool, Error> {
    let (family, chain) = (Family::of(address.addr()), chain(attachment));
    if uses_xtables(family, TABLE) {
        let saved = save(family, TABLE)?.unwrap_or_default();
        let has = |begin: &str, target: &str| {
            saved.lines().any(|l| l.starts_with(begin) && l.ends_with(&format!("-j {target}")))
        };
        return Ok(has(&format!("-A POSTROUTING -s {}/", address.addr()), &chain)
            && has(&format!("-A {chain} -d {} ", address.network()), "ACCEPT")
            && has(&format!("-A {chain} "), "MASQUERADE"));
    }
    let look = || -> netlink::Result<bool> {
        let mut nft = Nft::open()?;
        let rules = nft.rules(family, TABLE, None)?;
        let source = ruleset::bytes(address.addr());
        Ok(rules.iter().any(|r| {
            r.chain == "POSTROUTING" && r.target().as_deref() == Some(&chain) && r.compared_values().contains(&source)
        }) && rules.iter().any(|r| r.chain == chain && is_exception(r, address))
            && rules.iter().any(|r| r.chain == chain && is_masquerade(r)))
    };
    look().map_err(|e| Error::internal(format!("failed to read the iptables rules: {e}")))
}

/// Whether a rule accepts what goes to the subnet of an address. Of a prefix of whole bytes only these are compared.
fn is_exception(rule: &Rule, address: Cidr) -> bool {
    let subnet = ruleset::bytes(address.network().addr());
    matches!(rule.steps().last(), Some(Expression::Verdict(Verdict::Accept)))
        && rule.compared_values().iter().any(|value| !value.is_empty() && subnet.starts_with(value))
}

/// Whether a rule ends in masquerading: by the target of x_tables, as iptables makes it, or by nf_tables' own, as nft does
/// of it. (It makes nothing of the target for IPv6 but its counter.)
fn is_masquerade(rule: &Rule) -> bool {
    matches!(rule.steps().last(), Some(Expression::Other(name)) if ["target", "masq"].contains(&name.as_str()))
}

/// Removes the attachment's rules: those of these addresses, or all of the container's in the network if none is known.
pub(crate) fn remove(attachment: &Attachment, addresses: &[IpAddr]) -> Result<(), Error> {
    ruleset::remove(
        &mut Nft::open().map_err(|e| Error::internal(e.to_string()))?,
        |_| Ok(Vec::new()),
        |_| false,
        |nft, batch| push_removal(nft, batch, attachment, addresses),
    )?;
    remove_from_xtables(attachment, addresses)
}

/// Adds to a transaction what removes the attachment's chains from nf_tables.
pub(crate) fn push_removal(
    nft: &mut Nft,
    batch: &mut Batch,
    attachment: &Attachment,
    addresses: &[IpAddr],
) -> netlink::Result<()> {
    let chain = chain(attachment);
    for family in [Family::Ip, Family::Ip6] {
        if !nft.has_chain(family, TABLE, &chain)? {
            continue;
        }
        let mut is_used_by_others = false;
        for rule in nft.rules(family, TABLE, Some("POSTROUTING"))? {
            if rule.target().as_deref() != Some(&chain) {
                continue;
            }
            let compared = rule.compared_values();
            if addresses.is_empty() || addresses.iter().any(|a| compared.contains(&ruleset::bytes(*a))) {
                batch.delete_rule(family, TABLE, "POSTROUTING", rule.handle);
            } else {
                is_used_by_others = true;
            }
        }
        if !is_used_by_others {
            batch.delete_chain(family, TABLE, &chain);
        }
    }
    Ok(())
}

/// Removes the attachment's chains from x_tables, on hosts whose iptables keeps its rules there.
pub(crate) fn remove_from_xtables(attachment: &Attachment, addresses: &[IpAddr]) -> Result<(), Error> {
    for family in [Family::Ip, Family::Ip6] {
        if !uses_xtables(family, TABLE) {
            continue;
        }
        // Without the programs on this host nobody of it (the reference, this plugin) can have made any.
        let Some(saved) = save(family, TABLE)? else { continue };
        if let Some(script) = removal(&saved, &chain(attachment), addresses) {
            iptables::restore_xtables(family, &script)?;
        }
    }
    Ok(())
}

/// Adds to a transaction what removes the chains of containers of which no attachment is alive, and returns these.
pub(crate) fn push_stale_removal(nft: &mut Nft, batch: &mut Batch, valid: &Valid) -> netlink::Result<BTreeSet<String>> {
    let mut containers = BTreeSet::new();
    for family in [Family::Ip, Family::Ip6] {
        let mut chains = BTreeSet::new();
        for rule in nft.rules(family, TABLE, Some("POSTROUTING"))? {
            let text = String::from_utf8_lossy(&rule.expressions);
            let chain = rule.target().unwrap_or_default();
            if let Some(container) = stale_container(&text, &chain, valid) {
                batch.delete_rule(family, TABLE, "POSTROUTING", rule.handle);
                chains.insert(chain);
                containers.insert(container);
            }
        }
        for chain in chains {
            batch.delete_chain(family, TABLE, &chain);
        }
    }
    Ok(containers)
}

/// The same on hosts whose iptables keeps its rules in x_tables.
pub(crate) fn remove_stale_from_xtables(valid: &Valid) -> Result<(), Error> {
    for family in [Family::Ip, Family::Ip6] {
        if !uses_xtables(family, TABLE) {
            continue;
        }
        let Some(saved) = save(family, TABLE)? else { continue };
        let (script, containers) = stale_removal(&saved, valid);
        if !containers.is_empty() {
            iptables::restore_xtables(family, &script)?;
            tell(&containers);
        }
    }
    Ok(())
}

fn stale_removal(saved: &str, valid: &Valid) -> (String, BTreeSet<String>) {
    let (mut containers, mut chains, mut lines) = (BTreeSet::new(), BTreeSet::new(), vec![format!("*{TABLE}")]);
    for line in saved.lines().filter(|l| l.starts_with("-A POSTROUTING ")) {
        let chain = line.rsplit_once(" -j ").map(|(_, chain)| chain).unwrap_or_default();
        if let Some(container) = stale_container(line, chain, valid) {
            lines.push(line.replacen("-A ", "-D ", 1));
            chains.insert(chain);
            containers.insert(container);
        }
    }
    lines.extend(chains.into_iter().flat_map(|chain| [format!("-F {chain}"), format!("-X {chain}")]));
    lines.push("COMMIT\n".to_owned());
    (lines.join("\n"), containers)
}

/// The container whose masquerading a rule leads to, if no attachment of it to this network is alive. Comment and name of
/// the chain have to say the same.
fn stale_container(rule: &str, chain: &str, valid: &Valid) -> Option<String> {
    let (network, id, _) = iptables::owner(rule, "name: ")?;
    let is_stale = network == valid.network() && chain == chain_of(network, id) && !valid.has_container(id);
    is_stale.then(|| id.to_owned())
}

/// Whether an interface was still up cannot be known: nothing but the rules may be left.
pub(crate) fn tell(containers: &BTreeSet<String>) {
    for container in containers {
        host::syslog::warn(
            "bridge",
            format_args!("GC removes the iptables rules that masquerade container {container}"),
        );
    }
}

/// Whether the programs that the iptables backend needs are there. Errors: code 50.
pub(crate) fn ensure_installed(family: Family) -> Result<(), Error> {
    let error =
        |e: Error| e.context("ipMasqBackend \"iptables\"").with_details("install iptables, or leave ipMasqBackend out");
    iptables::ensure_installed(family).map_err(error)
}

fn restore_rules(family: Family, script: &str) -> Result<(), Error> {
    iptables::restore(family, script)
        .map_err(|e| e.with_details("ipMasqBackend \"nftables\" (the default) needs no program"))
}

fn has_chain(family: Family, attachment: &Attachment) -> Result<bool, Error> {
    let chain = chain(attachment);
    if uses_xtables(family, TABLE) {
        return Ok(save(family, TABLE)?.unwrap_or_default().lines().any(|l| l.starts_with(&format!(":{chain} "))));
    }
    let look = || Nft::open()?.has_chain(family, TABLE, &chain);
    match look() {
        Err(error) if ruleset::is_unsupported(&error) => Ok(false),
        result => result.map_err(|e| Error::internal(format!("failed to look for iptables chain {chain}: {e}"))),
    }
}

fn addition(attachment: &Attachment, addresses: &[Cidr], chain_exists: bool) -> String {
    let chain = chain(attachment);
    let comment =
        format!(r#"-m comment --comment "name: \"{}\" id: \"{}\"""#, attachment.network, attachment.container_id);
    let multicast = if addresses.iter().all(Cidr::is_ipv4) { "224.0.0.0/4" } else { "ff00::/8" };
    let mut lines = vec![format!("*{TABLE}")];
    if !chain_exists {
        lines.push(format!(":{chain} - [0:0]"));
        lines.push(format!("-A {chain} ! -d {multicast} {comment} -j MASQUERADE"));
    }
    for address in addresses {
        // In front of MASQUERADE: behind it the second subnet's exception would never be reached.
        lines.push(format!("-I {chain} 1 -d {} {comment} -j ACCEPT", address.network()));
    }
    for address in addresses {
        let host = if address.is_ipv4() { 32 } else { 128 };
        lines.push(format!("-A POSTROUTING -s {}/{host} {comment} -j {chain}", address.addr()));
    }
    lines.push("COMMIT\n".to_owned());
    lines.join("\n")
}

/// What `iptables-restore` is to be told, if there is anything of this chain in what `iptables-save` said.
fn removal(saved: &str, chain: &str, addresses: &[IpAddr]) -> Option<String> {
    if !saved.lines().any(|l| l.starts_with(&format!(":{chain} "))) {
        return None;
    }
    let jumps: Vec<&str> =
        saved.lines().filter(|l| l.starts_with("-A POSTROUTING ") && l.ends_with(&format!("-j {chain}"))).collect();
    let is_ours = |line: &str| addresses.is_empty() || addresses.iter().any(|a| line.contains(&format!(" -s {a}/")));
    let mut lines = vec![format!("*{TABLE}")];
    lines.extend(jumps.iter().filter(|l| is_ours(l)).map(|l| l.replacen("-A ", "-D ", 1)));
    if jumps.iter().all(|l| is_ours(l)) {
        lines.push(format!("-F {chain}"));
        lines.push(format!("-X {chain}"));
    }
    lines.push("COMMIT\n".to_owned());
    Some(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment() -> Attachment {
        Attachment { network: "tn".to_owned(), container_id: "c1".to_owned(), ifname: "eth0".to_owned() }
    }

    #[test]
    fn chains_are_named_as_the_reference_names_them() {
        assert_eq!(chain(&attachment()), "CNI-5a0e4b11e4ca823ae73b9333");
    }

    #[test]
    fn every_subnet_is_exempt_before_anything_is_masqueraded() {
        let script =
            addition(&attachment(), &["10.88.0.2/24".parse().unwrap(), "10.99.0.2/24".parse().unwrap()], false);
        assert_eq!(
            script,
            r#"*nat
:CNI-5a0e4b11e4ca823ae73b9333 - [0:0]
-A CNI-5a0e4b11e4ca823ae73b9333 ! -d 224.0.0.0/4 -m comment --comment "name: \"tn\" id: \"c1\"" -j MASQUERADE
-I CNI-5a0e4b11e4ca823ae73b9333 1 -d 10.88.0.0/24 -m comment --comment "name: \"tn\" id: \"c1\"" -j ACCEPT
-I CNI-5a0e4b11e4ca823ae73b9333 1 -d 10.99.0.0/24 -m comment --comment "name: \"tn\" id: \"c1\"" -j ACCEPT
-A POSTROUTING -s 10.88.0.2/32 -m comment --comment "name: \"tn\" id: \"c1\"" -j CNI-5a0e4b11e4ca823ae73b9333
-A POSTROUTING -s 10.99.0.2/32 -m comment --comment "name: \"tn\" id: \"c1\"" -j CNI-5a0e4b11e4ca823ae73b9333
COMMIT
"#
        );
    }

    #[test]
    fn a_chain_that_another_interface_uses_stays() {
        let saved = ":CNI-x - [0:0]\n-A POSTROUTING -s 10.0.0.2/32 -j CNI-x\n-A POSTROUTING -s 10.0.0.3/32 -j CNI-x\n-A CNI-x -j MASQUERADE\n";
        let one = removal(saved, "CNI-x", &["10.0.0.2".parse().unwrap()]).unwrap();
        assert_eq!(one, "*nat\n-D POSTROUTING -s 10.0.0.2/32 -j CNI-x\nCOMMIT\n");
        let all = removal(saved, "CNI-x", &[]).unwrap();
        assert!(all.ends_with("-F CNI-x\n-X CNI-x\nCOMMIT\n"), "{all}");
        assert_eq!(removal(saved, "CNI-y", &[]), None);
    }
}
