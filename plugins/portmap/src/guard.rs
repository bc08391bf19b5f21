//! 127.0.0.0/8 belongs to the host itself: what comes from or for it by another link than `lo` is dropped.
//!
//! `route_localnet` lets such packets pass, in both directions: without the guard a neighbour reaches what listens at
//! 127.0.0.1 (kubernetes/kubernetes#90259). Our own tables have it among their rules (`native/layout.rs`); here it is
//! made for the iptables backend: the same chain, or, in a kernel without nf_tables, two rules of iptables' `raw`.

use cni::Error;
use netlink::nft::{Batch, Comparison, Family, Hook, Nft, Offset, Part, Verdict};
use ruleset::{TABLE, name_key};

use crate::add::failed;

/// As in `native/layout.rs`, like the comments: both make one chain.
const CHAIN: &str = "ports-guard";
const RULES: [(&str, Offset); 2] = [
    ("what is from the loopback never comes by another link", Offset::IP_SOURCE),
    ("what is to the loopback never comes by another link", Offset::IP_DESTINATION),
];
const NETWORK: [u8; 4] = [127, 0, 0, 0];
const MASK: [u8; 4] = [255, 0, 0, 0];

const RAW: &str = "raw";
/// In the words in which `iptables-save` shows them.
const RAW_RULES: [&str; 2] = [
    "-A PREROUTING -s 127.0.0.0/8 ! -i lo -m comment --comment \"oxbridge: from the loopback\" -j DROP",
    "-A PREROUTING -d 127.0.0.0/8 ! -i lo -m comment --comment \"oxbridge: to the loopback\" -j DROP",
];

/// Makes what is missing of it. It stays: a pod that needs it may come any time.
pub(crate) fn close() -> Result<(), Error> {
    match open() {
        Ok(Some(mut nft)) => close_in_nftables(&mut nft),
        Ok(None) => close_in_iptables(),
        Err(error) => Err(failed("open nf_tables", &error)),
    }
}

/// What is missing of it, if anything of the host was made by us: `is_our_pods` says that of the pod. The reference
/// knows no guard, and its pods' rules pass.
pub(crate) fn missing(is_our_pods: bool) -> Result<Option<String>, Error> {
    let reading = |e| failed("read the rules", &e);
    let Some(mut nft) = open().map_err(reading)? else {
        let saved = ruleset::iptables::read(Family::Ip, RAW)?;
        let gone = missing_in_iptables(&saved);
        let is_expected = is_our_pods || gone.len() < RAW_RULES.len();
        return Ok(gone.first().filter(|_| is_expected).map(|rule| format!("{rule} is missing in iptables")));
    };
    let is_expected = is_our_pods || nft.has_chain(Family::Ip, TABLE, CHAIN).map_err(reading)?;
    let rules = nft.rules(Family::Ip, TABLE, Some(CHAIN)).map_err(reading)?;
    let gone = RULES.iter().find(|(comment, _)| !ruleset::has(&rules, CHAIN, comment)).filter(|_| is_expected);
    Ok(gone.map(|(comment, _)| format!("rule \"{comment}\" of chain {CHAIN} of table ip {TABLE} is missing")))
}

/// `None`: the kernel has no nf_tables.
fn open() -> netlink::Result<Option<Nft>> {
    let mut nft = Nft::open()?;
    match nft.generation() {
        Err(error) if ruleset::is_unsupported(&error) => Ok(None),
        generation => generation.map(|_| Some(nft)),
    }
}

fn close_in_nftables(nft: &mut Nft) -> Result<(), Error> {
    ruleset::transaction("guarding 127.0.0.0/8 in nf_tables", || {
        let generation = nft.generation()?;
        let rules = nft.rules(Family::Ip, TABLE, Some(CHAIN))?;
        let mut batch = Batch::if_generation(generation);
        batch.add_table(Family::Ip, TABLE, ruleset::TABLE_COMMENT);
        batch.add_chain(Family::Ip, TABLE, CHAIN, Some(Hook::INPUT_RAW));
        let mut is_whole = true;
        for (comment, part) in RULES.iter().filter(|(comment, _)| !ruleset::has(&rules, CHAIN, comment)) {
            is_whole = false;
            batch.add_rule(Family::Ip, TABLE, CHAIN, comment, |rule| {
                rule.differs(Part::InputName, &name_key("lo"));
                rule.masked(*part, &MASK, Comparison::Equal, &NETWORK).verdict(&Verdict::Drop);
            });
        }
        if is_whole { Ok(()) } else { nft.commit(batch) }
    })
}

fn close_in_iptables() -> Result<(), Error> {
    let saved = ruleset::iptables::read(Family::Ip, RAW)?;
    let gone = missing_in_iptables(&saved);
    if gone.is_empty() {
        return Ok(());
    }
    ruleset::iptables::restore(Family::Ip, &format!("*{RAW}\n{}\nCOMMIT\n", gone.join("\n")))
}

fn missing_in_iptables(saved: &str) -> Vec<&'static str> {
    RAW_RULES.into_iter().filter(|rule| !saved.lines().any(|line| line == *rule)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_iptables_shows_is_not_made_again() {
        let saved = format!("*raw\n:PREROUTING ACCEPT [0:0]\n{}\nCOMMIT\n", RAW_RULES[1]);
        assert_eq!(missing_in_iptables(&saved), [RAW_RULES[0]]);
        assert_eq!(missing_in_iptables(&RAW_RULES.join("\n")), [""; 0]);
    }
}
