//! The host's end of a veth pair that our `bridge` made: name, address and alias follow from the attachment, so that
//! nobody has to look into the pod.

use cni::Attachment;
use cni::attachment::MAX_HOST_IFNAME_ATTEMPTS;
use netlink::Socket;
use netlink::link::{self, Link};

/// The host's end of an attachment: the link has one of the names that follow from its identity, and the MAC address
/// given at its creation or the alias say the same. `None` for a pair that another suite made.
///
/// # Errors
/// The kernel's.
pub fn find(socket: &mut Socket, attachment: &Attachment) -> netlink::Result<Option<Link>> {
    for attempt in 0..MAX_HOST_IFNAME_ATTEMPTS {
        let link = link::by_name(socket, &attachment.host_ifname(attempt))?;
        if let Some(link) = link.filter(|l| is_of(l, attachment)) {
            return Ok(Some(link));
        }
    }
    Ok(None)
}

/// Whether a link, whatever its name is by now, is the host's end of this attachment.
#[must_use]
pub fn is_of(link: &Link, attachment: &Attachment) -> bool {
    link.is("veth") && (link.mac == Some(attachment.host_mac()) || link.alias.as_deref() == Some(&attachment.alias()))
}
