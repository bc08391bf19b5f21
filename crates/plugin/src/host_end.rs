//! The host's end of a veth pair that our `bridge` made: name, address and alias follow from the attachment, so that
//! nobody has to look into the pod.

use cni::Attachment;
use cni::attachment::{MAX_HOST_IFNAME_ATTEMPTS, host_ifname, host_mac, read_identity};
use netlink::Socket;
use netlink::link::{self, Link};

/// The host's end of an attachment: the link has one of the names that follow from its identity, and the MAC address
/// given at its creation or the alias say the same. `None` for a pair that another suite made.
///
/// # Errors
/// The kernel's.
pub fn find(socket: &mut Socket, attachment: &Attachment) -> netlink::Result<Option<Link>> {
    find_by_identity(socket, &attachment.identity())
}

/// The same where only the identity is known.
///
/// # Errors
/// The kernel's.
pub fn find_by_identity(socket: &mut Socket, identity: &[u8; 16]) -> netlink::Result<Option<Link>> {
    for attempt in 0..MAX_HOST_IFNAME_ATTEMPTS {
        let link = link::by_name(socket, &host_ifname(identity, attempt))?;
        if let Some(link) = link.filter(|l| is_of_identity(l, identity)) {
            return Ok(Some(link));
        }
    }
    Ok(None)
}

/// Whether a link, whatever its name is by now, is the host's end of this attachment.
#[must_use]
pub fn is_of(link: &Link, attachment: &Attachment) -> bool {
    is_of_identity(link, &attachment.identity())
}

/// What a host end's alias begins with; the identity follows.
const MARK: &str = "oxbridge ";

/// The same where only the identity is known.
#[must_use]
pub fn is_of_identity(link: &Link, identity: &[u8; 16]) -> bool {
    let alias = || read_identity(link.alias.as_deref()?.strip_prefix(MARK)?);
    link.is("veth") && (link.mac == Some(host_mac(identity)) || alias() == Some(*identity))
}
