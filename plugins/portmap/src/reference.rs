//! What the reference's `portmap`, or our iptables backend, leaves in the ruleset for a pod: our DEL removes it, whatever
//! backend is configured by then.
//!
//! iptables' chains are removed without a program where iptables keeps its rules in nf_tables; where it keeps them in
//! x_tables, by one `iptables-restore`.

use std::cell::RefCell;
use std::net::IpAddr;

use cni::{Attachment, Error};
use netlink::Result;
use netlink::nft::{Batch, Family, Nft, Rule, Translation};

use ruleset::iptables::uses_xtables;

use crate::config::Protocol;
use crate::iptables::{self, ENTRIES, TABLE};
use crate::native::UdpPorts;
use crate::pod::Pod;

const FAMILIES: [Family; 2] = [Family::Ip, Family::Ip6];
const SOURCE_ENTRIES: &str = "CNI-HOSTPORT-SNAT";
const NFT_TABLE: &str = "cni_hostport";
const NFT_CHAINS: [&str; 3] = ["hostports", "hostip_hostports", "masquerading"];

/// Adds to a transaction what removes all rules of the attachment from nf_tables; `removed` is set to the UDP ports that
/// these lead to.
pub(crate) fn push_removal(nft: &mut Nft, batch: &mut Batch, pod: &Pod<'_>, removed: &RefCell<UdpPorts>) -> Result<()> {
    removed.borrow_mut().clear();
    for family in FAMILIES {
        for rule in own_nft_rules(nft, family, pod)? {
            removed.borrow_mut().extend(rule.translation(family).as_ref().and_then(udp_port));
            batch.delete_rule(family, NFT_TABLE, &rule.chain, rule.handle);
        }
        for chain in chains(pod) {
            push_chain_removal(nft, batch, family, &chain, pod, removed)?;
        }
    }
    Ok(())
}

/// Whether the reference's nftables backend has published this many ports of the attachment.
pub(crate) fn has_nft_rules(nft: &mut Nft, attachment: &Attachment, pod: IpAddr, count: usize) -> Result<bool> {
    let rules = nft_rules(nft, Family::of(pod), NFT_CHAINS[0], attachment)?;
    Ok(rules.iter().filter(|rule| mentions(rule, pod)).count() >= count)
}

/// Whether there is a chain of the attachment in iptables' table.
pub(crate) fn has_iptables_chain(nft: &mut Nft, attachment: &Attachment, family: Family) -> Result<bool> {
    Ok(uses_xtables(family, TABLE) || nft.has_chain(family, TABLE, &iptables::reference_chain(attachment))?)
}

/// A chain to be removed.
struct Chain {
    name: String,
    /// Where the rules that lead into it are.
    entries: &'static str,
    /// Other interfaces of the container may have it as well.
    is_shared: bool,
}

fn chains(pod: &Pod<'_>) -> Vec<Chain> {
    let attachment = pod.attachment;
    let chain = |entries, name, is_shared| Chain { name, entries, is_shared };
    let mut chains = Vec::new();
    if !iptables::is_first(attachment) {
        chains.push(chain(ENTRIES, iptables::chain(attachment), false));
    }
    if pod.may_share() {
        chains.push(chain(ENTRIES, iptables::reference_chain(attachment), true));
        chains.push(chain(SOURCE_ENTRIES, iptables::source_chain(attachment), true));
    }
    chains
}

/// The rules of one of the reference's nftables chains that are the container's, in whatever network.
fn nft_rules(nft: &mut Nft, family: Family, chain: &str, attachment: &Attachment) -> Result<Vec<Rule>> {
    let mut rules = nft.rules(family, NFT_TABLE, Some(chain))?;
    rules.retain(|rule| rule.comment.as_ref() == Some(&attachment.container_id));
    Ok(rules)
}

/// Those of them that are the attachment's, by where they lead.
fn own_nft_rules(nft: &mut Nft, family: Family, pod: &Pod<'_>) -> Result<Vec<Rule>> {
    let mut rules = Vec::new();
    for chain in NFT_CHAINS {
        rules.extend(nft_rules(nft, family, chain, pod.attachment)?);
    }
    if rules.is_empty() {
        return Ok(rules);
    }
    let mut addresses = pod.addresses().to_vec();
    if addresses.is_empty() {
        addresses = rules.iter().filter_map(|rule| leads_to(rule, family)).collect();
        addresses.sort_unstable();
        addresses.dedup();
        if addresses.len() > 1 {
            let id = &pod.attachment.container_id;
            host::syslog::warn(
                "portmap",
                format_args!(
                    "rules of table {family} {NFT_TABLE} for container {id} stay: they lead to {addresses:?}, and nothing \
                     tells which address was that of network {}",
                    pod.attachment.network
                ),
            );
            return Ok(Vec::new());
        }
    }
    rules.retain(|rule| addresses.iter().any(|ip| mentions(rule, *ip)));
    Ok(rules)
}

/// The pod's address in a rule of the reference's nftables chains: the new destination, or the one that is masqueraded.
fn leads_to(rule: &Rule, family: Family) -> Option<IpAddr> {
    if let Some(translation) = rule.translation(family) {
        return Some(translation.to);
    }
    let address = |value: &Vec<u8>| match family {
        Family::Ip => <[u8; 4]>::try_from(value.as_slice()).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(value.as_slice()).ok().map(IpAddr::from),
    };
    rule.compared_values().iter().filter_map(address).rfind(|ip| !ip.is_loopback())
}

fn udp_port(translation: &Translation) -> Option<(IpAddr, u16)> {
    let port = translation.port?;
    (translation.protocol == Some(Protocol::Udp.number())).then_some((translation.to, port))
}

fn push_chain_removal(
    nft: &mut Nft,
    batch: &mut Batch,
    family: Family,
    chain: &Chain,
    pod: &Pod<'_>,
    removed: &RefCell<UdpPorts>,
) -> Result<()> {
    let Chain { name, entries, is_shared } = chain;
    if !nft.has_chain(family, TABLE, name)? {
        return Ok(());
    }
    let rules = nft.rules(family, TABLE, Some(name))?;
    let (others, own): (Vec<_>, Vec<_>) = rules
        .iter()
        .filter_map(|rule| Some((rule, rule.translation(family)?)))
        .partition(|(_, translation)| *is_shared && pod.spares(translation.to));
    removed.borrow_mut().extend(own.iter().filter_map(|(_, translation)| udp_port(translation)));
    if others.is_empty() {
        for rule in nft.rules(family, TABLE, Some(entries))? {
            if rule.target().as_ref() == Some(name) {
                batch.delete_rule(family, TABLE, entries, rule.handle);
            }
        }
        batch.delete_chain(family, TABLE, name);
    } else {
        // Another interface of the container has it as well.
        for (rule, _) in own {
            batch.delete_rule(family, TABLE, name, rule.handle);
        }
    }
    Ok(())
}

/// Whether the address stands somewhere in the rule.
fn mentions(rule: &Rule, ip: IpAddr) -> bool {
    let bytes = ruleset::bytes(ip);
    rule.expressions.windows(bytes.len()).any(|window| window == bytes)
}

/// Adds to a transaction what removes the iptables chains of the network's attachments for which `is_gone` holds
/// (container id, and the interface's name where the rule tells). `removed` is set to the UDP ports that they lead to.
pub(crate) fn push_stale_removal(
    nft: &mut Nft,
    batch: &mut Batch,
    network: &str,
    is_gone: impl Fn(&str, Option<&str>) -> bool,
    removed: &RefCell<UdpPorts>,
) -> Result<()> {
    removed.borrow_mut().clear();
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
            let rules = nft.rules(family, TABLE, Some(&chain))?;
            let translations = rules.iter().filter_map(|rule| rule.translation(family));
            removed.borrow_mut().extend(translations.filter_map(|t| udp_port(&t)));
            batch.delete_chain(family, TABLE, &chain);
        }
    }
    Ok(())
}

/// The container id in the comment of an entry rule of this network, and the interface's name, if it is there.
fn owner_of<'t>(text: &'t str, network: &str) -> Option<(&'t str, Option<&'t str>)> {
    owner(text).filter(|(name, ..)| *name == network).map(|(_, id, ifname)| (id, ifname))
}

/// Network, container id, and the interface's name if it is there, in the comment of an entry rule.
pub(crate) fn owner(text: &str) -> Option<(&str, &str, Option<&str>)> {
    ruleset::iptables::owner(text, "dnat name: ")
}

/// Removes the attachment's chains from x_tables, on hosts whose iptables keeps its rules there; the UDP ports that they
/// led to.
pub(crate) fn remove_from_xtables(pod: &Pod<'_>) -> std::result::Result<UdpPorts, Error> {
    change_xtables(|saved| {
        let mut change = Change::default();
        for chain in chains(pod) {
            change.remove(saved, &chain.name, |ip| chain.is_shared && pod.spares(ip));
        }
        change
    })
}

/// The same for the network's attachments for which `is_gone` holds.
pub(crate) fn remove_stale_from_xtables(
    network: &str,
    is_gone: impl Fn(&str, Option<&str>) -> bool,
) -> std::result::Result<UdpPorts, Error> {
    change_xtables(|saved| {
        let entry = format!("-A {ENTRIES} ");
        let is_stale = |line: &&str| {
            line.starts_with(&entry) && owner_of(line, network).is_some_and(|(id, ifname)| is_gone(id, ifname))
        };
        let mut chains: Vec<&str> =
            saved.lines().filter(is_stale).filter_map(|l| l.rsplit_once(" -j ")).map(|(_, chain)| chain).collect();
        chains.sort_unstable();
        chains.dedup();
        let mut change = Change::default();
        for chain in chains.into_iter().filter(|c| c.starts_with("CNI-DN-")) {
            change.remove(saved, chain, |_| false);
        }
        change
    })
}

/// What is to be changed in a table of x_tables.
#[derive(Debug, Default)]
struct Change {
    /// In the words of `iptables-restore`.
    lines: Vec<String>,
    /// That are no longer led to.
    udp: UdpPorts,
}

fn change_xtables(change: impl Fn(&str) -> Change) -> std::result::Result<UdpPorts, Error> {
    let mut ports = UdpPorts::new();
    for family in FAMILIES {
        if !uses_xtables(family, TABLE) {
            continue;
        }
        // Without the programs on this host nobody of it (the reference, this plugin) can have made any.
        let Some(saved) = ruleset::iptables::save(family, TABLE)? else { continue };
        let Change { lines, udp } = change(&saved);
        if !lines.is_empty() {
            let script = format!("*{TABLE}\n{}\nCOMMIT\n", lines.join("\n"));
            ruleset::iptables::restore_xtables(family, &script)?;
        }
        ports.extend(udp);
    }
    Ok(ports)
}

impl Change {
    /// Removes a chain with what leads to it, or, if it has addresses that are spared, what leads to the others.
    fn remove(&mut self, saved: &str, chain: &str, spares: impl Fn(IpAddr) -> bool) {
        let head = format!(":{chain} ");
        if !saved.lines().any(|l| l.starts_with(&head)) {
            return;
        }
        let start = format!("-A {chain} ");
        let (others, own): (Vec<_>, Vec<_>) = saved
            .lines()
            .filter(|l| l.starts_with(&start))
            .filter_map(|l| Some((l, iptables::translation(l)?)))
            .partition(|(_, translation)| spares(translation.to));
        self.udp.extend(own.iter().filter_map(|(_, translation)| udp_port(translation)));
        let delete = |line: &str| line.replacen("-A ", "-D ", 1);
        if !others.is_empty() {
            self.lines.extend(own.into_iter().map(|(line, _)| delete(line)));
            return;
        }
        let jump = format!(" -j {chain}");
        self.lines.extend(saved.lines().filter(|l| l.ends_with(&jump)).map(delete));
        self.lines.extend([format!("-F {chain}"), format!("-X {chain}")]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = "*nat\n:CNI-DN-x - [0:0]\n\
        -A CNI-HOSTPORT-DNAT -p tcp -m comment --comment \"dnat name: \\\"tn\\\" id: \\\"c1\\\"\" -m multiport --dports 80 -j CNI-DN-x\n\
        -A CNI-DN-x -s 10.0.0.0/24 -p tcp -m tcp --dport 80 -j CNI-HOSTPORT-SETMARK\n\
        -A CNI-DN-x -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.2:80\n\
        -A CNI-DN-x -p udp -m udp --dport 81 -j DNAT --to-destination 10.0.0.20:80\n";

    fn removal(chain: &str, spared: &[&str]) -> Change {
        let mut change = Change::default();
        change.remove(SAVED, chain, |ip| spared.contains(&ip.to_string().as_str()));
        change
    }

    #[test]
    fn a_chain_of_two_interfaces_loses_the_rules_of_one() {
        let one = removal("CNI-DN-x", &["10.0.0.20"]);
        assert_eq!(one.lines, ["-D CNI-DN-x -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.2:80"]);
        assert_eq!(one.udp, []);
        let all = removal("CNI-DN-x", &[]);
        assert!(all.lines[0].starts_with("-D CNI-HOSTPORT-DNAT -p tcp"), "{all:?}");
        assert_eq!(all.lines[1..], ["-F CNI-DN-x", "-X CNI-DN-x"]);
        assert_eq!(all.udp, [("10.0.0.20".parse().unwrap(), 81)]);
        assert!(removal("CNI-DN-y", &[]).lines.is_empty());
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
