//! Whose an element or a rule is: its comment begins with the identity of an attachment.

use std::collections::HashSet;

use cni::Attachment;
use netlink::nft::Element;

/// Whether an element is this attachment's.
pub fn is_owned(element: &Element, attachment: &Attachment) -> bool {
    element.comment.as_deref().is_some_and(|comment| is_owner(comment, attachment))
}

/// Whether a comment is this attachment's.
pub fn is_owner(comment: &str, attachment: &Attachment) -> bool {
    comment.split(' ').next() == Some(&attachment.identity_hex())
}

/// Whether a text that begins with identity and network (a comment, an alias without its first word) is that of an
/// attachment of this network whose identity is not among those `alive`.
pub fn is_stale(owner: &str, network: &str, alive: &HashSet<String>) -> bool {
    let mut words = owner.split(' ');
    // A name that does not fit is cut, and nothing follows it: it may be that of another network, so it stays.
    let (Some(identity), Some(of_network), Some(_)) = (words.next(), words.next(), words.next()) else { return false };
    identity.len() == 32 && of_network == network && !alive.contains(identity)
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
        assert!(!is_stale(&format!("{b} other c1 eth0"), "net", &alive));
        assert!(!is_stale("bridge cni0", "net", &alive));
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
