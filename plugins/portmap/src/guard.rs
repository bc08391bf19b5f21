//! 127.0.0.0/8 belongs to the host itself: what comes from or for it by another link than `lo` is dropped.
//!
//! `route_localnet` lets such packets pass, in both directions: without the guard a neighbour reaches what listens at
//! 127.0.0.1 (kubernetes/kubernetes#90259). Our own tables have it among their rules (`native/layout.rs`); here it is
//! made for the iptables backend: the same chain, or, in a kernel without nf_tables, two rules of iptables' `raw`.

use cni::Error;
use netlink::nft::{Batch, Family};
use ruleset::TABLE;

use crate::add::failed;
use crate::native::layout::{self, GUARD};

const RAW: &str = "raw";
/// In the words in which `iptables-save` shows them.
const RAW_RULES: [&str; 2] = [
    "-A PREROUTING -s 127.0.0.0/8 ! -i lo -m comment --comment \"oxbridge: from the loopback\" -j DROP",
    "-A PREROUTING -d 127.0.0.0/8 ! -i lo -m comment --comment \"oxbridge: to the loopback\" -j DROP",
];

/// Makes what is missing of it. It stays: a pod that needs it may come any time.
pub(crate) fn close() -> Result<(), Error> {
    let Some(mut nft) = ruleset::open()? else { return close_in_iptables() };
    let mut refused = false;
    ruleset::transaction("guarding 127.0.0.0/8 in nf_tables", || {
        let generation = nft.generation()?;
        let rules = nft.rules(Family::Ip, TABLE, Some(GUARD))?;
        let mut batch = Batch::if_generation(generation);
        layout::push_guard(&mut batch, &rules);
        let result = nft.commit(batch);
        // A kernel may have nf_tables of other families than IP.
        refused = rules.is_empty() && result.as_ref().is_err_and(ruleset::is_unsupported);
        if refused { Ok(()) } else { result }
    })?;
    if refused { close_in_iptables() } else { Ok(()) }
}

/// What is missing of it, if anything of the host was made by us: `is_our_pods` says that of the pod. The reference
/// knows no guard, and its pods' rules pass.
pub(crate) fn missing(is_our_pods: bool) -> Result<Option<String>, Error> {
    let reading = |e| failed("read the rules", &e);
    let Some(mut nft) = ruleset::open()? else { return missing_of_iptables(is_our_pods) };
    let rules = nft.rules(Family::Ip, TABLE, Some(GUARD)).map_err(reading)?;
    if rules.is_empty() && ruleset::is_possible(&mut nft, Family::Ip, false).is_err_and(|e| ruleset::is_unsupported(&e))
    {
        return missing_of_iptables(is_our_pods);
    }
    let is_expected = is_our_pods || nft.has_chain(Family::Ip, TABLE, GUARD).map_err(reading)?;
    let gone = layout::first_missing_of_guard(&rules).filter(|_| is_expected);
    Ok(gone.map(|rule| format!("{rule} of table ip {TABLE} is missing")))
}

fn missing_of_iptables(is_our_pods: bool) -> Result<Option<String>, Error> {
    let saved = ruleset::iptables::read(Family::Ip, RAW)?;
    let gone = missing_in_iptables(&saved);
    let is_expected = is_our_pods || gone.len() < RAW_RULES.len();
    Ok(gone.first().filter(|_| is_expected).map(|rule| format!("{rule} is missing in iptables")))
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
