//! What the reference's `portmap`, or our iptables backend, leaves in the ruleset for a pod: our DEL removes it, whatever
//! backend is configured by then.
//!
//! iptables' chains are removed without a program where iptables keeps its rules in nf_tables; where it keeps them in
//! x_tables, by one `iptables-restore`.

use std::net::IpAddr;
use std::time::Duration;

use cni::{Attachment, Error};
use host::process;
use netlink::Result;
use netlink::nft::{Batch, Family, Nft, Rule};

use ruleset::iptables::uses_xtables;

use crate::iptables::{self, ENTRIES, TABLE};

const FAMILIES: [Family; 2] = [Family::Ip, Family::Ip6];
const SOURCE_ENTRIES: &str = "CNI-HOSTPORT-SNAT";
const NFT_TABLE: &str = "cni_hostport";
const NFT_CHAINS: [&str; 3] = ["hostports", "hostip_hostports", "masquerading"];
const PATIENCE: Duration = Duration::from_secs(10);

/// Adds to a transaction what removes all rules of the attachment from nf_tables. `addresses`: those it is known to
/// have; they tell its rules from those of the same container's other interfaces.
pub(crate) fn push_removal(
    nft: &mut Nft,
    batch: &mut Batch,
    attachment: &Attachment,
    addresses: &[IpAddr],
) -> Result<()> {
    for family in FAMILIES {
        for chain in NFT_CHAINS {
            for rule in nft_rules(nft, family, chain, attachment, addresses)? {
                batch.delete_rule(family, NFT_TABLE, chain, rule.handle);
            }
        }
        for (entries, chain, addresses) in chains(attachment, addresses) {
            push_chain_removal(nft, batch, family, entries, &chain, addresses)?;
        }
    }
    Ok(())
}

/// Whether the reference's nftables backend has published this many ports of the attachment.
pub(crate) fn has_nft_rules(nft: &mut Nft, attachment: &Attachment, pod: IpAddr, count: usize) -> Result<bool> {
    Ok(nft_rules(nft, Family::of(pod), NFT_CHAINS[0], attachment, &[pod])?.len() >= count)
}

/// Whether there is a chain of the attachment in iptables' table.
pub(crate) fn has_iptables_chain(nft: &mut Nft, attachment: &Attachment, family: Family) -> Result<bool> {
    Ok(uses_xtables(family, TABLE) || nft.has_chain(family, TABLE, &iptables::reference_chain(attachment))?)
}

/// The chains to be removed: where the rules that lead into each are, its name, and the addresses that are meant by it
/// (none: all).
fn chains<'a>(attachment: &Attachment, addresses: &'a [IpAddr]) -> Vec<(&'static str, String, &'a [IpAddr])> {
    let mut chains = Vec::new();
    if !iptables::is_first(attachment) {
        chains.push((ENTRIES, iptables::chain(attachment), &[][..]));
    }
    // The reference's are the container's: of another interface than the first nothing goes that may be the first's.
    if iptables::is_first(attachment) || !addresses.is_empty() {
        chains.push((ENTRIES, iptables::reference_chain(attachment), addresses));
        chains.push((SOURCE_ENTRIES, iptables::source_chain(attachment), addresses));
    }
    chains
}

/// The comment is the container's id alone: without addresses the interfaces of a container cannot be told apart.
fn nft_rules(
    nft: &mut Nft,
    family: Family,
    chain: &str,
    attachment: &Attachment,
    addresses: &[IpAddr],
) -> Result<Vec<Rule>> {
    let mut rules = nft.rules(family, NFT_TABLE, Some(chain))?;
    rules.retain(|rule| {
        rule.comment.as_ref() == Some(&attachment.container_id)
            && (addresses.is_empty() || addresses.iter().any(|ip| mentions(rule, *ip)))
    });
    Ok(rules)
}

fn push_chain_removal(
    nft: &mut Nft,
    batch: &mut Batch,
    family: Family,
    entries: &str,
    chain: &str,
    addresses: &[IpAddr],
) -> Result<()> {
    if !nft.has_chain(family, TABLE, chain)? {
        return Ok(());
    }
    let rules = nft.rules(family, TABLE, Some(chain))?;
    let is_ours = |rule: &Rule| addresses.iter().any(|ip| mentions(rule, *ip));
    let is_anothers = |rule: &Rule| has_text(rule, b"DNAT") && !is_ours(rule);
    if addresses.is_empty() || !rules.iter().any(is_anothers) {
        for rule in nft.rules(family, TABLE, Some(entries))? {
            if rule.target().as_deref() == Some(chain) {
                batch.delete_rule(family, TABLE, entries, rule.handle);
            }
        }
        batch.delete_chain(family, TABLE, chain);
    } else {
        // Another interface of the container has it as well.
        for rule in rules.iter().filter(|r| is_ours(r)) {
            batch.delete_rule(family, TABLE, chain, rule.handle);
        }
    }
    Ok(())
}

/// Whether the address stands somewhere in the rule.
fn mentions(rule: &Rule, ip: IpAddr) -> bool {
    has_text(rule, &ruleset::bytes(ip))
}

fn has_text(rule: &Rule, text: &[u8]) -> bool {
    rule.expressions.windows(text.len()).any(|window| window == text)
}

/// Adds to a transaction what removes the iptables chains of the network's attachments for which `is_gone` holds
/// (container id, and the interface's name where the rule tells).
pub(crate) fn push_stale_removal(
    nft: &mut Nft,
    batch: &mut Batch,
    network: &str,
    is_gone: impl Fn(&str, Option<&str>) -> bool,
) -> Result<()> {
    for family in FAMILIES {
        let mut chains: Vec<String> = Vec::new();
        for rule in nft.rules(family, TABLE, Some(ENTRIES))? {
            let text = String::from_utf8_lossy(&rule.expressions);
            if owner_of(&text, network).is_some_and(|(id, ifname)| is_gone(id, ifname)) {
                batch.delete_rule(family, TABLE, ENTRIES, rule.handle);
                chains.extend(rule.target().filter(|c| c.starts_with("CNI-DN-") && !chains.contains(c)));
            }
        }
        for chain in chains {
            batch.delete_chain(family, TABLE, &chain);
        }
    }
    Ok(())
}

/// The container id in the comment of an entry rule of this network, and the interface's name, if it is there.
fn owner_of<'t>(text: &'t str, network: &str) -> Option<(&'t str, Option<&'t str>)> {
    // `iptables-save` escapes the quotes, the kernel has them plain.
    let quoted = |text: &'t str| -> Option<(&'t str, &'t str)> {
        let text = text.strip_prefix('\\').unwrap_or(text).strip_prefix('"')?;
        let (word, rest) = text.split_once('"')?;
        Some((word.strip_suffix('\\').unwrap_or(word), rest))
    };
    let (_, rest) = text.split_once("dnat name: ")?;
    let (name, rest) = quoted(rest)?;
    let (id, rest) = quoted(rest.strip_prefix(" id: ")?)?;
    let ifname = rest.strip_prefix(" if: ").and_then(quoted).map(|(ifname, _)| ifname);
    (name == network).then_some((id, ifname))
}

/// Removes the attachment's chains from x_tables, on hosts whose iptables keeps its rules there.
pub(crate) fn remove_from_xtables(attachment: &Attachment, addresses: &[IpAddr]) -> std::result::Result<(), Error> {
    change_xtables(|saved| {
        let mut lines = Vec::new();
        for (_, chain, addresses) in chains(attachment, addresses) {
            lines.extend(removal(saved, &chain, addresses));
        }
        lines
    })
}

/// The same for the network's attachments for which `is_gone` holds.
pub(crate) fn remove_stale_from_xtables(
    network: &str,
    is_gone: impl Fn(&str, Option<&str>) -> bool,
) -> std::result::Result<(), Error> {
    change_xtables(|saved| {
        let entry = format!("-A {ENTRIES} ");
        let is_stale = |line: &&str| {
            line.starts_with(&entry) && owner_of(line, network).is_some_and(|(id, ifname)| is_gone(id, ifname))
        };
        let mut chains: Vec<&str> =
            saved.lines().filter(is_stale).filter_map(|l| l.rsplit_once(" -j ")).map(|(_, chain)| chain).collect();
        chains.sort_unstable();
        chains.dedup();
        chains.into_iter().filter(|c| c.starts_with("CNI-DN-")).flat_map(|chain| removal(saved, chain, &[])).collect()
    })
}

fn change_xtables(lines: impl Fn(&str) -> Vec<String>) -> std::result::Result<(), Error> {
    for family in FAMILIES {
        if !uses_xtables(family, TABLE) {
            continue;
        }
        // Without the programs on this host nobody of it (the reference, this plugin) can have made any.
        let Some(saved) = ruleset::iptables::save(family, TABLE)? else { continue };
        let lines = lines(&saved);
        if !lines.is_empty() {
            let script = format!("*{TABLE}\n{}\nCOMMIT\n", lines.join("\n"));
            restore(family, &script)?;
        }
    }
    Ok(())
}

/// `iptables-restore` may be the one that knows only nf_tables.
fn restore(family: Family, script: &str) -> std::result::Result<(), Error> {
    let legacy = if family == Family::Ip { "iptables-legacy-restore" } else { "ip6tables-legacy-restore" };
    match process::run(legacy, &["--noflush", "--wait", "10"], script.as_bytes(), PATIENCE + PATIENCE / 2) {
        Ok(_) => Ok(()),
        Err(process::Error::Start { .. }) => ruleset::iptables::restore(family, script),
        Err(error) => Err(Error::internal(format!("failed to change the iptables rules: {error}"))),
    }
}

/// The lines that remove a chain with what leads to it, or, if another address has it as well, these addresses' rules.
fn removal(saved: &str, chain: &str, addresses: &[IpAddr]) -> Vec<String> {
    let head = format!(":{chain} ");
    if !saved.lines().any(|l| l.starts_with(&head)) {
        return Vec::new();
    }
    let own = format!("-A {chain} ");
    let is_ours = |line: &str| {
        addresses.iter().any(|ip| {
            line.contains(
                &format!("--to-destination {}", std::net::SocketAddr::new(*ip, 0)).trim_end_matches('0').to_owned(),
            )
        })
    };
    let delete = |line: &str| line.replacen("-A ", "-D ", 1);
    let destinations = || saved.lines().filter(|l| l.starts_with(&own) && l.contains("--to-destination"));
    if !addresses.is_empty() && destinations().any(|l| !is_ours(l)) {
        return destinations().filter(|l| is_ours(l)).map(delete).collect();
    }
    let jump = format!(" -j {chain}");
    let mut lines: Vec<String> = saved.lines().filter(|l| l.ends_with(&jump)).map(delete).collect();
    lines.extend([format!("-F {chain}"), format!("-X {chain}")]);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = "*nat\n:CNI-DN-x - [0:0]\n\
        -A CNI-HOSTPORT-DNAT -p tcp -m comment --comment \"dnat name: \\\"tn\\\" id: \\\"c1\\\"\" -m multiport --dports 80 -j CNI-DN-x\n\
        -A CNI-DN-x -s 10.0.0.0/24 -p tcp -m tcp --dport 80 -j CNI-HOSTPORT-SETMARK\n\
        -A CNI-DN-x -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.2:80\n\
        -A CNI-DN-x -p tcp -m tcp --dport 81 -j DNAT --to-destination 10.0.0.20:80\n";

    #[test]
    fn a_chain_of_two_interfaces_loses_the_rules_of_one() {
        let one = removal(SAVED, "CNI-DN-x", &["10.0.0.2".parse().unwrap()]);
        assert_eq!(one, ["-D CNI-DN-x -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.2:80"]);
        for addresses in [&["10.0.0.2", "10.0.0.20"][..], &[]] {
            let addresses: Vec<IpAddr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
            let all = removal(SAVED, "CNI-DN-x", &addresses);
            assert!(all[0].starts_with("-D CNI-HOSTPORT-DNAT -p tcp"), "{all:?}");
            assert_eq!(all[1..], ["-F CNI-DN-x", "-X CNI-DN-x"]);
        }
        assert!(removal(SAVED, "CNI-DN-y", &[]).is_empty());
    }

    #[test]
    fn containers_are_named_in_comments() {
        let line = SAVED.lines().nth(2).unwrap();
        assert_eq!(owner_of(line, "tn"), Some(("c1", None)));
        assert_eq!(owner_of(line, "t"), None);
        assert_eq!(owner_of("\0dnat name: \"tn\" id: \"c2\"\0\0", "tn"), Some(("c2", None)));
        assert_eq!(owner_of("dnat name: \"tn\" id: \"c2\" if: \"net1\"\0", "tn"), Some(("c2", Some("net1"))));
        let escaped = line.replace("c1\\\"", "c1\\\" if: \\\"net1\\\"");
        assert_eq!(owner_of(&escaped, "tn"), Some(("c1", Some("net1"))), "{escaped}");
        assert_eq!(owner_of("something else", "tn"), None);
    }
}
