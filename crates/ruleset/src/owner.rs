//! Whose an element or a rule is: its comment begins with the identity of an attachment.

use std::collections::BTreeMap;

use cni::Attachment;
use cni::attachment::{LINK_MARK, read_identity};
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
