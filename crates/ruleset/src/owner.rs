//! Whose an element or a rule is: its comment begins with the identity of an attachment.

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
