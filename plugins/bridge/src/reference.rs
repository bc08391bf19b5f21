//! What the reference's `bridge` leaves in the ruleset for its pods: after an upgrade in place our DEL removes it.

use std::collections::HashSet;
use std::net::IpAddr;

use cni::Attachment;
use cni::attachment::sha512_hex;
use netlink::Result;
use netlink::nft::{Batch, Family, Nft};
use plugin::gc::Valid;

use crate::iptables;

const MASQUERADE_TABLE: &str = "cni_plugins_masquerade";
const MASQUERADE_CHAIN: &str = "masq_checks";
const SPOOF_TABLE: &str = "nat";
const SPOOF_BASE: &str = "PREROUTING";

/// Adds to a transaction what removes all rules that the reference made for this attachment. `addresses`: those it
/// is known to have; they tell its iptables rules from those of the same container's other interfaces.
pub(crate) fn push_removal(
    nft: &mut Nft,
    batch: &mut Batch,
    attachment: &Attachment,
    addresses: &[IpAddr],
) -> Result<()> {
    for rule in masquerade_rules(nft, attachment)? {
        batch.delete_rule(Family::Inet, MASQUERADE_TABLE, MASQUERADE_CHAIN, rule);
    }
    push_spoof_removal(nft, batch, attachment)?;
    iptables::push_removal(nft, batch, attachment, addresses)
}

/// Adds to a transaction what removes the nftables rules by which the reference masquerades stale attachments. Its spoof
/// filters do not say of which network they are, and stay.
pub(crate) fn push_stale_removal(nft: &mut Nft, batch: &mut Batch, valid: &Valid) -> Result<()> {
    let of_network = format!("{}-", sha512_hex(valid.network(), 16));
    let alive: HashSet<String> = valid.list().iter().map(masquerade_id).collect();
    for rule in nft.rules(Family::Inet, MASQUERADE_TABLE, Some(MASQUERADE_CHAIN))? {
        let id = rule.comment.as_deref().and_then(|comment| comment.split(',').next());
        if id.is_some_and(|id| id.starts_with(&of_network) && !alive.contains(id)) {
            batch.delete_rule(Family::Inet, MASQUERADE_TABLE, MASQUERADE_CHAIN, rule.handle);
        }
    }
    Ok(())
}

/// Whether the reference's nftables rules masquerade this attachment.
pub(crate) fn is_masqueraded(nft: &mut Nft, attachment: &Attachment) -> Result<bool> {
    Ok(!masquerade_rules(nft, attachment)?.is_empty())
}

/// Whether the reference's rules check this attachment's MAC address.
pub(crate) fn is_mac_checked(nft: &mut Nft, attachment: &Attachment) -> Result<bool> {
    Ok(!spoof_rules(nft, attachment)?.is_empty()
        && nft.has_chain(Family::Bridge, SPOOF_TABLE, &spoof_chain(attachment))?)
}

/// Handles of the attachment's masquerading rules.
fn masquerade_rules(nft: &mut Nft, attachment: &Attachment) -> Result<Vec<u64>> {
    let id = masquerade_id(attachment);
    let rules = nft.rules(Family::Inet, MASQUERADE_TABLE, Some(MASQUERADE_CHAIN))?;
    let is_ours = |comment: &str| comment.split(',').next() == Some(&id);
    Ok(rules.iter().filter(|r| r.comment.as_deref().is_some_and(is_ours)).map(|r| r.handle).collect())
}

fn push_spoof_removal(nft: &mut Nft, batch: &mut Batch, attachment: &Attachment) -> Result<()> {
    for rule in spoof_rules(nft, attachment)? {
        batch.delete_rule(Family::Bridge, SPOOF_TABLE, SPOOF_BASE, rule);
    }
    let outer = spoof_chain(attachment);
    let inner = format!("{outer}-mac");
    // The outer one first: it jumps to the inner.
    for chain in [outer, inner] {
        if nft.has_chain(Family::Bridge, SPOOF_TABLE, &chain)? {
            batch.delete_chain(Family::Bridge, SPOOF_TABLE, &chain);
        }
    }
    Ok(())
}

/// Handles of the rules that lead into the attachment's spoof filter.
fn spoof_rules(nft: &mut Nft, attachment: &Attachment) -> Result<Vec<u64>> {
    let comment = format!("macspoofchk-{}-{}", attachment.container_id, attachment.ifname);
    let rules = nft.rules(Family::Bridge, SPOOF_TABLE, Some(SPOOF_BASE))?;
    Ok(rules.iter().filter(|r| r.comment.as_deref() == Some(&comment)).map(|r| r.handle).collect())
}

fn spoof_chain(attachment: &Attachment) -> String {
    format!("cni-br-iface-{}-{}", attachment.container_id, attachment.ifname)
}

fn masquerade_id(attachment: &Attachment) -> String {
    let instance = format!("{}:{}", attachment.ifname, attachment.container_id);
    format!("{}-{}", sha512_hex(&attachment.network, 16), sha512_hex(&instance, 16))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_found_by_the_references_own_id() {
        let attachment =
            Attachment { network: "tn".to_owned(), container_id: "c1".to_owned(), ifname: "eth0".to_owned() };
        assert_eq!(masquerade_id(&attachment), "bcc05d298e683559-f4d01f2ef4b92245");
    }
}
