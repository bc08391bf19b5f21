//! Ports that somebody has by other means: the reference's plugin, or our iptables backend.
//!
//! What is theirs comes before our chains, so what a dead pod left there would win: a mapping for such a port comes before
//! theirs. But a live one's port would be taken from it. Whose host link our `bridge` made and is there, is alive:
//! refused. Of any other nothing can be told: it is named in the log.

use std::collections::HashSet;
use std::net::IpAddr;

use cni::{Attachment, Error};
use netlink::nft::{Batch, Family, Nft, Rule};
use netlink::{Result, Socket};
use plugin::host_end;

use super::{FAMILIES, Request};
use crate::config::{Mapping, Target};
use crate::holders;
use crate::iptables::{self, ENTRIES, FIRST_INTERFACE, TABLE};

/// The table of the reference's nftables backend, and its chains of mappings for any address and for one.
const NFT_TABLE: &str = "cni_hostport";
const NFT_ANY: &str = "hostports";
const NFT_AT: &str = "hostip_hostports";

/// What was found of others.
#[derive(Default)]
pub(super) struct Foreign {
    /// Chains that our iptables backend made for this very attachment.
    pub(super) own_chains: Vec<(Family, String)>,
    /// The mappings for whose port there is some rule, whoever's, that would win over ours.
    pub(super) first: Vec<(Family, Mapping)>,
    /// For the log, once all is done.
    pub(super) notices: Vec<String>,
}

impl Foreign {
    /// Adds to a transaction what removes the attachment's own.
    pub(super) fn push_removal(&self, nft: &mut Nft, batch: &mut Batch) -> Result<()> {
        for (family, chain) in &self.own_chains {
            push_chain_removal(nft, batch, *family, chain)?;
        }
        Ok(())
    }
}

/// Looks who has the ports. The inner error: somebody who is alive.
pub(super) fn look(
    nft: &mut Nft,
    route: &mut Socket,
    request: &Request<'_>,
    in_xtables: &InXtables,
) -> Result<std::result::Result<Foreign, Error>> {
    let mut found =
        Foreign { first: in_xtables.first.clone(), notices: in_xtables.notices.clone(), ..Foreign::default() };
    for family in FAMILIES {
        let target = request.targets.iter().find(|t| t.family() == family);
        let mut holders = Vec::new();
        if nft.has_chain(family, TABLE, ENTRIES)? {
            let chain = iptables::chain(request.attachment);
            if nft.has_chain(family, TABLE, &chain)? {
                found.own_chains.push((family, chain));
            }
            if let Some(target) = target {
                holders = in_iptables(nft, route, request.attachment, target, &mut found.first)?;
            }
        }
        if let Some(target) = target {
            holders.extend(in_nftables(nft, request.attachment, target, &mut found.first)?);
        }
        for (mapping, holder) in holders {
            if let Some(link) = holder.link(route)? {
                return Ok(Err(Error::internal(format!("host port {mapping} is already published by {holder}"))
                    .with_details(format!("its interface {link} is there, so it is alive"))));
            }
            let notice = notice(&mapping, &holder);
            if !found.notices.contains(&notice) {
                found.notices.push(notice);
            }
        }
    }
    Ok(Ok(found))
}

fn notice(mapping: &Mapping, holder: &dyn std::fmt::Display) -> String {
    format!(
        "host port {mapping} is published by {holder} too, which may be alive: it leads to the new pod from now on; \
         DEL of that container, or GC of its network, removes what is left of it"
    )
}

/// What was found in x_tables.
#[derive(Default)]
pub(super) struct InXtables {
    first: Vec<(Family, Mapping)>,
    notices: Vec<String>,
}

/// Looks who has the ports in x_tables, where that holds any rules: it takes a program.
pub(super) fn look_in_xtables(route: &mut Socket, request: &Request<'_>) -> InXtables {
    let mut found = InXtables::default();
    let own = iptables::chain(request.attachment);
    for target in request.targets {
        let family = target.family();
        if !ruleset::iptables::uses_xtables(family, TABLE) {
            continue;
        }
        let saved = match ruleset::iptables::save(family, TABLE) {
            Ok(saved) => saved.unwrap_or_default(),
            Err(error) => {
                // Whatever is there, this way it does not win.
                found.first.extend(target.mappings().map(|m| (family, *m)));
                host::syslog::warn("portmap", format_args!("looking for published ports in x_tables: {}", error.msg));
                continue;
            }
        };
        for mapping in target.mappings() {
            let mut holders: Vec<_> = holders::of_some(&saved, mapping).collect();
            holders.retain(|holder| {
                holder.chain == own || !holders::is_same_pod(route, &holder.comment, request.attachment)
            });
            if !holders.is_empty() {
                found.first.push((family, *mapping));
            }
            let others = holders.iter().filter(|holder| holder.chain != own);
            let place =
                |holder: &holders::Holder| format!("{} in chain {} of iptables-legacy", holder.name, holder.chain);
            found.notices.extend(others.map(|holder| notice(mapping, &place(holder))));
        }
    }
    found.notices.sort_unstable();
    found.notices.dedup();
    found
}

/// Adds to a transaction what removes the chains that our iptables backend made for the attachment.
pub(super) fn push_own_removal(nft: &mut Nft, batch: &mut Batch, attachment: &Attachment) -> Result<()> {
    let chain = iptables::chain(attachment);
    for family in FAMILIES {
        if nft.has_chain(family, TABLE, &chain)? {
            push_chain_removal(nft, batch, family, &chain)?;
        }
    }
    Ok(())
}

fn push_chain_removal(nft: &mut Nft, batch: &mut Batch, family: Family, chain: &str) -> Result<()> {
    for rule in nft.rules(family, TABLE, Some(ENTRIES))? {
        if rule.target().as_deref() == Some(chain) {
            batch.delete_rule(family, TABLE, ENTRIES, rule.handle);
        }
    }
    batch.delete_chain(family, TABLE, chain);
    Ok(())
}

/// Who has a port, as far as its rule tells.
struct Holder {
    container: String,
    /// The reference's nftables backend does not tell.
    network: Option<String>,
    ifname: Option<String>,
    /// Where its rules are.
    place: String,
}

impl Holder {
    /// Its host link, if our bridge plugin made it.
    fn link(&self, route: &mut Socket) -> Result<Option<String>> {
        let Some(network) = &self.network else { return Ok(None) };
        let attachment = Attachment {
            network: network.clone(),
            container_id: self.container.clone(),
            ifname: self.ifname.clone().unwrap_or_else(|| FIRST_INTERFACE.to_owned()),
        };
        Ok(host_end::find(route, &attachment)?.map(|link| link.name))
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "container {}", self.container)?;
        if let Some(network) = &self.network {
            write!(f, " (network {network})")?;
        }
        write!(f, " in {}", self.place)
    }
}

type Holders = Vec<(Mapping, Holder)>;

/// Those that have chains of the reference's layout. `first`: gets the mappings of whose port some rule takes a part.
fn in_iptables(
    nft: &mut Nft,
    route: &mut Socket,
    attachment: &Attachment,
    target: &Target<'_>,
    first: &mut Vec<(Family, Mapping)>,
) -> Result<Holders> {
    let family = target.family();
    let own = [iptables::chain(attachment), iptables::reference_chain(attachment)];
    let mut holders = Vec::new();
    for entry in nft.rules(family, TABLE, Some(ENTRIES))? {
        // What our iptables backend made for the attachment goes.
        let Some(chain) = entry.target().filter(|chain| *chain != own[0]) else { continue };
        let ports = multiport(&entry);
        let is_meant = |m: &&Mapping| ports.contains(&m.host_port) && is_of_protocol(&entry, m);
        let mut meant = target.mappings().filter(is_meant).peekable();
        if meant.peek().is_none() {
            continue;
        }
        // Both lead to one pod, by different interfaces.
        let text = String::from_utf8_lossy(&entry.expressions);
        if !own.contains(&chain) && holders::is_same_pod(route, &text, attachment) {
            continue;
        }
        let mut rules = nft.rules(family, TABLE, Some(&chain))?;
        rules.retain(|rule| has(rule, b"DNAT"));
        for mapping in meant {
            let of_port = || rules.iter().filter(|rule| is_of_port(rule, mapping));
            if of_port().any(|rule| overlaps(rule, mapping)) {
                first.push((family, *mapping));
            }
            let is_holders = |rule: &Rule| is_of_address(rule, mapping) && !leads_to(rule, target.pod.addr());
            if !own.contains(&chain) && of_port().any(is_holders) {
                holders.push((*mapping, holder(&text, format!("chain {chain} of iptables"))));
            }
        }
    }
    Ok(holders)
}

/// Those of the reference's nftables backend. `first`: as above.
fn in_nftables(
    nft: &mut Nft,
    attachment: &Attachment,
    target: &Target<'_>,
    first: &mut Vec<(Family, Mapping)>,
) -> Result<Holders> {
    let family = target.family();
    let mut holders = Vec::new();
    for chain in [NFT_ANY, NFT_AT] {
        for rule in nft.rules(family, NFT_TABLE, Some(chain))? {
            let container = rule.comment.clone().unwrap_or_default();
            let port = |m: &&Mapping| rule.compared_values().contains(&m.host_port.to_be_bytes().to_vec());
            let mappings = || target.mappings().filter(port).filter(|m| is_of_protocol(&rule, m));
            first.extend(mappings().filter(|m| overlaps(&rule, m)).map(|m| (family, *m)));
            if container == attachment.container_id || leads_to(&rule, target.pod.addr()) {
                continue;
            }
            for mapping in mappings().filter(|m| is_of_address(&rule, m)) {
                let place = format!("table {family} {NFT_TABLE}");
                holders.push((*mapping, Holder { container: container.clone(), network: None, ifname: None, place }));
            }
        }
    }
    Ok(holders)
}

/// The destination ports of the rule (`struct xt_multiport_v1`: flags, number of ports, fifteen ports).
fn multiport(rule: &Rule) -> HashSet<u16> {
    let Some(info) = rule.match_info("multiport") else { return HashSet::new() };
    let count = info.get(1).copied().unwrap_or_default().min(15);
    let ports = info.get(2..).unwrap_or_default().chunks_exact(2).take(usize::from(count));
    ports.map(|port| u16::from_ne_bytes([port[0], port[1]])).collect()
}

fn is_of_protocol(rule: &Rule, mapping: &Mapping) -> bool {
    rule.compared_values().contains(&vec![mapping.protocol.number()])
}

/// Whether the rule is for the port: by a comparison of ours, or (`struct xt_tcp`, `xt_udp`) by ranges of the source's
/// and the destination's.
fn is_of_port(rule: &Rule, mapping: &Mapping) -> bool {
    match rule.match_info(mapping.protocol.name()) {
        Some(info) => info.get(4..6) == Some(&mapping.host_port.to_ne_bytes()),
        None => rule.compared_values().contains(&mapping.host_port.to_be_bytes().to_vec()),
    }
}

/// Whether the rule is for the mapping's address, or as the mapping for any.
fn is_of_address(rule: &Rule, mapping: &Mapping) -> bool {
    let values = rule.compared_values();
    match mapping.address() {
        Some(ip) => values.contains(&ruleset::bytes(ip)),
        // Those of four bytes may be marks, too: conditions.
        None => !values.iter().any(|v| v.len() == 4 || v.len() == 16),
    }
}

/// Whether the rule takes some of what the mapping is for.
fn overlaps(rule: &Rule, mapping: &Mapping) -> bool {
    let values = rule.compared_values();
    let is_for_one = values.iter().any(|v| v.len() == 4 || v.len() == 16);
    mapping.address().is_none_or(|ip| !is_for_one || values.contains(&ruleset::bytes(ip)))
}

/// Whether the rule sends packets to this address: whoever had it before is gone.
fn leads_to(rule: &Rule, pod: IpAddr) -> bool {
    has(rule, &ruleset::bytes(pod))
}

fn has(rule: &Rule, text: &[u8]) -> bool {
    rule.expressions.windows(text.len()).any(|window| window == text)
}

/// Reads `dnat name: "…" id: "…" if: "…"`.
fn holder(text: &str, place: String) -> Holder {
    let word = |key: &str| {
        let (_, rest) = text.split_once(&format!("{key}: \""))?;
        Some(rest.split_once('"')?.0.to_owned())
    };
    let container = word(" id").unwrap_or_else(|| "of an unknown name".to_owned());
    Holder { container, network: word("dnat name"), ifname: word(" if"), place }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Parts of the lines and comments that are looked for.
    const WORDS: [&str; 22] = [
        "dnat name: ",
        "\"n\"",
        "\\\"",
        " id: ",
        " if: ",
        "\"",
        "\\",
        " ",
        "\0",
        "\n",
        "-A ",
        "-j ",
        "-p tcp ",
        "--dport 80 ",
        "--to-destination ",
        "10.0.0.2:80 ",
        "[fd00::2]:80",
        "1f bridge 4 ",
        "/run/netns/a",
        "CNI-DN-x",
        "é",
        "0123456789abcdef0123456789abcdef ",
    ];

    #[test]
    fn holders_are_named_by_the_comment() {
        let text = |text: &str| {
            let Holder { container, network, ifname, .. } = holder(text, String::new());
            (container, network.unwrap_or_default(), ifname.unwrap_or_default())
        };
        let of = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
        assert_eq!(text("\0dnat name: \"n\" id: \"c1\"\0"), of("c1", "n", ""));
        assert_eq!(text("dnat name: \"n\" id: \"c1\" if: \"net1\""), of("c1", "n", "net1"));
        assert_eq!(text("x").1, "");
    }

    proptest! {
        /// The fuzz target `nftables` reads the rules themselves; here is what only this plugin looks for in them.
        #[test]
        fn anything_can_stand_in_others_rules(
            expressions in prop::collection::vec(any::<u8>(), 0..200),
            words in prop::collection::vec(prop::sample::select(WORDS.to_vec()), 0..30),
            bytes in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let rule = Rule { chain: String::new(), handle: 0, comment: None, expressions };
            prop_assert!(multiport(&rule).len() <= 15);
            let protocol = crate::config::Protocol::Tcp;
            let mapping = Mapping { protocol, host_port: 8080, container_port: 80, host_ip: None };
            let _ = (is_of_protocol(&rule, &mapping), is_of_port(&rule, &mapping), is_of_address(&rule, &mapping));
            let _ = leads_to(&rule, IpAddr::from([10, 0, 0, 2]));
            let text = format!("{}{}", words.concat(), String::from_utf8_lossy(&bytes));
            let _ = (holder(&text, String::new()).to_string(), crate::reference::owner(&text), iptables::translation(&text));
            let _ = crate::native::owner::Owner::parse(&text).comment();
        }
    }
}
