//! The ifb through which the pod's packets go on their way out: only what a link sends can be queued, so what the host's
//! end receives is sent by this one.

use cni::attachment::sha512_hex;
use cni::{AddResult, Attachment, Error};
use netlink::Socket;
use netlink::link::{self, Link, Mac};

/// What the reference's names begin with, and ours.
const PREFIX: &str = "bwp";
/// Hex digits in a name: what `IFNAMSIZ` leaves beside the prefix.
const DIGITS: usize = 12;
/// What aliases of links of ours begin with.
pub(crate) const MARK: &str = "oxbridge ";

/// Whose an ifb is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The attachment's.
    Own,
    /// It has the name that the reference gives to all attachments of the container to the network, and no mark.
    Unmarked,
    /// Somebody else's.
    Foreign,
}

/// The names an attachment's ifb may have, best first. The reference's own, so that its DEL and CHECK find it should a
/// node go back to it; and, for a container's second attachment to the network, one that follows from the identity.
pub(crate) fn names(attachment: &Attachment) -> [String; 2] {
    let shared = sha512_hex(&format!("{}{}", attachment.network, attachment.container_id), DIGITS);
    let own = attachment.identity_hex();
    [format!("{PREFIX}{shared}"), format!("{PREFIX}{}", &own[..DIGITS])]
}

/// The address that marks an attachment's ifb from its first moment on. Not that of the host's end of the pair, though
/// nobody would notice: no frame ever carries it.
pub(crate) fn mac(attachment: &Attachment) -> Mac {
    let mut mac = attachment.host_mac();
    mac[5] ^= 1;
    mac
}

/// Whose a link with one of the attachment's names is.
pub(crate) fn owner(link: &Link, attachment: &Attachment) -> Owner {
    match link.alias.as_deref() {
        _ if !link.is("ifb") => Owner::Foreign,
        Some(alias) if alias == attachment.alias() => Owner::Own,
        Some(alias) if alias.starts_with(MARK) => Owner::Foreign,
        _ if link.mac == Some(mac(attachment)) => Owner::Own,
        _ => Owner::Unmarked,
    }
}

/// The links that have the attachment's names, with their owners.
pub(crate) fn candidates(socket: &mut Socket, attachment: &Attachment) -> netlink::Result<Vec<(Link, Owner)>> {
    let mut found = Vec::new();
    for name in names(attachment) {
        if let Some(link) = link::by_name(socket, &name)? {
            let owner = owner(&link, attachment);
            found.push((link, owner));
        }
    }
    Ok(found)
}

/// Whether a result names the link.
pub(crate) fn is_listed(link: &Link, previous: &AddResult) -> bool {
    previous.interfaces.iter().any(|i| i.name == link.name)
}

/// Deletes ifbs; each costs the kernel two grace periods, some 20 ms.
pub(crate) fn delete(socket: &mut Socket, ifbs: Vec<Link>) -> Result<(), Error> {
    for ifb in ifbs {
        link::delete(socket, ifb.index)
            .map_err(|e| Error::internal(format!("failed to delete \"{}\": {e}", ifb.name)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(ifname: &str) -> Attachment {
        Attachment { network: "tn".to_owned(), container_id: "c1".to_owned(), ifname: ifname.to_owned() }
    }

    #[test]
    fn the_first_name_is_the_references_and_the_second_the_attachments_own() {
        let (a, b) = (names(&attachment("net1")), names(&attachment("net2")));
        assert_eq!((a[0].as_str(), b[0].as_str()), ("bwp5a0e4b11e4ca", "bwp5a0e4b11e4ca"));
        assert!(a[1] != b[1] && a[1].len() == 15 && a[1] != a[0]);
    }
}
