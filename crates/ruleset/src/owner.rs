//! Whose an element or a rule is: its comment begins with the identity of an attachment.

use std::collections::{BTreeMap, HashSet};

use cni::Attachment;
use cni::attachment::{LINK_MARK, hex, read_identity};
use netlink::nft::Element;

use crate::Found;

/// Whether an element is this attachment's.
pub fn is_owned(element: &Element, attachment: &Attachment) -> bool {
    element.comment.as_deref().is_some_and(|comment| is_owner(comment, attachment))
}

/// Whether a comment is this attachment's.
pub fn is_owner(comment: &str, attachment: &Attachment) -> bool {
    read_identity(comment) == Some(attachment.identity())
}

/// The identity of an attachment that was seen to have a host link by our bridge plugin, by its comment.
pub fn marked_identity(comment: &str) -> Option<[u8; 16]> {
    read_identity(comment).filter(|_| comment.split(' ').next().is_some_and(|owner| owner.ends_with(LINK_MARK)))
}

/// Whose it is by its comment, for people.
pub fn describe(comment: &str) -> String {
    match comment.split(' ').collect::<Vec<_>>()[..] {
        [_, network, container, ifname] => format!("container {container} (network {network}, interface {ifname})"),
        [_, network, container] => format!("container {container}… (network {network})"),
        _ => format!("an unknown owner (comment \"{comment}\")"),
    }
}

/// Tells, once for each attachment, what was removed because its host link is gone.
pub fn tell_of_orphans(plugin: &str, removed: &[Found]) {
    let mut left: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for found in removed {
        let sets = left.entry(found.element.comment.as_deref().unwrap_or_default()).or_default();
        if !sets.contains(&found.set.as_str()) {
            sets.push(&found.set);
        }
    }
    for (comment, sets) in left {
        let (owner, sets) = (describe(comment), sets.join(", "));
        let text = format!("removed what {owner} had in {sets}: its host link is gone, and no DEL came");
        host::syslog::notice(plugin, &text);
    }
}

/// Whether a text that begins with identity and network (a comment, an alias without its first word) is that of an
/// attachment of this network whose identity is not among those `alive`.
pub fn is_stale(owner: &str, network: &str, alive: &HashSet<String>) -> bool {
    let mut words = owner.split(' ');
    // A name that does not fit is cut, and nothing follows it: it may be that of another network, so it stays.
    let (Some(_), Some(of_network), Some(_)) = (words.next(), words.next(), words.next()) else { return false };
    let is_alive = |identity: [u8; 16]| alive.contains(&hex(&identity));
    of_network == network && read_identity(owner).is_some_and(|identity| !is_alive(identity))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_attachments_of_the_network_that_are_not_listed_are_stale() {
        let (a, b) = ("a".repeat(32), "b".repeat(32));
        let alive = HashSet::from([a.clone()]);
        assert!(!is_stale(&format!("{a} net c1 eth0"), "net", &alive));
        assert!(is_stale(&format!("{b} net c1 eth0"), "net", &alive));
        assert!(!is_stale(&format!("{a}:veth net c1 eth0"), "net", &alive));
        assert!(is_stale(&format!("{b}:veth net c1 eth0"), "net", &alive));
        assert!(!is_stale(&format!("{b} other c1 eth0"), "net", &alive));
        assert!(!is_stale("bridge cni0", "net", &alive));
    }

    #[test]
    fn the_mark_is_no_part_of_the_owner() {
        let attachment = Attachment { network: "n".into(), container_id: "c".into(), ifname: "eth0".into() };
        let (plain, marked) = (attachment.comment(), attachment.marked_comment());
        assert!(is_owner(&plain, &attachment) && is_owner(&marked, &attachment));
        assert_eq!(marked_identity(&marked), Some(attachment.identity()));
        assert_eq!(marked_identity(&plain), None);
        assert_eq!(describe(&plain), describe(&marked));
        assert_eq!(describe(&plain), "container c (network n, interface eth0)");
    }

    #[test]
    fn a_name_that_may_be_cut_is_not_that_of_a_shorter_network() {
        let comment = |network: &str| {
            let (container_id, ifname) = ("c1".to_owned(), "eth0".to_owned());
            Attachment { network: network.to_owned(), container_id, ifname }.comment()
        };
        let long = "n".repeat(200);
        for shorter in 80..=120 {
            assert!(!is_stale(&comment(&long), &long[..shorter], &HashSet::new()), "{shorter}");
        }
        // A container's id that is cut says enough.
        let fits = &long[..93];
        assert!(is_stale(&comment(fits), fits, &HashSet::new()));
    }
}
