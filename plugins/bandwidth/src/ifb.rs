//! The ifb through which the pod's packets go on their way out: only what a link sends can be queued, so what the host's
//! end receives is sent by this one.

use cni::attachment::sha512_hex;
use cni::{AddResult, Attachment, Error};
use netlink::Socket;
use netlink::link::{self, Link, Mac};
use netlink::wire::Request;

/// What the reference's names begin with, and ours.
const PREFIX: &str = "bwp";
/// Hex digits in a name: what `IFNAMSIZ` leaves beside the prefix.
const DIGITS: usize = 12;
/// What aliases of links of ours begin with.
const MARK: &str = "oxbridge ";
/// What the last word of an ifb's alias begins with. No name of an interface has a colon.
const END: &str = "host-end:";

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
    match Mark::of(link) {
        _ if !link.is("ifb") => Owner::Foreign,
        Some(mark) if mark.identity == attachment.identity_hex() => Owner::Own,
        Some(_) => Owner::Foreign,
        None if link.mac == Some(mac(attachment)) => Owner::Own,
        None => Owner::Unmarked,
    }
}

/// Appends the request that writes down whose an ifb is, and the index of the host's end whose packets go through it:
/// the kernel gives no index twice.
pub(crate) fn push_mark(request: &mut Request, ifb: &Link, attachment: &Attachment, end: &Link) {
    link::push_alias(request, ifb.index, &attachment.alias_with(&format!("{END}{}", end.index)));
}

/// What the alias of an ifb of ours says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mark<'a> {
    /// Hex digits.
    pub(crate) identity: &'a str,
    /// Identity, network, container id and interface name, as far as they fit.
    pub(crate) text: &'a str,
    /// Index of the host's end; `None` in a mark that does not tell.
    pub(crate) end: Option<u32>,
}

impl<'a> Mark<'a> {
    /// `None`: the link has none.
    pub(crate) fn of(link: &'a Link) -> Option<Self> {
        let text = link.alias.as_deref()?.strip_prefix(MARK)?;
        let (text, end) = match text.rsplit_once(' ') {
            Some((text, last)) if last.starts_with(END) => (text, last[END.len()..].parse().ok()),
            _ => (text, None),
        };
        Some(Self { identity: text.split(' ').next()?, text, end })
    }

    /// The attachment as it was, where none of its names was cut off.
    pub(crate) fn attachment(&self) -> Option<Attachment> {
        let mut words = self.text.split(' ').skip(1).map(ToOwned::to_owned);
        let (network, container_id, ifname) = (words.next()?, words.next()?, words.next()?);
        Some(Attachment { network, container_id, ifname }).filter(|a| a.identity_hex() == self.identity)
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
    use cni::attachment::read_identity;

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

    fn link(alias: &str) -> Link {
        let alias = Some(alias.to_owned());
        Link { kind: Some("ifb".to_owned()), alias, ..Link::default() }
    }

    #[test]
    fn a_mark_tells_whose_an_ifb_is_and_whom_it_serves() {
        let own = attachment("net1");
        let marked = link(&own.alias_with("host-end:12"));
        let mark = Mark::of(&marked).unwrap();
        assert_eq!((mark.end, mark.attachment()), (Some(12), Some(own.clone())));
        assert_eq!(read_identity(mark.text), Some(own.identity()));
        assert_eq!(owner(&marked, &own), Owner::Own);
        assert_eq!(owner(&marked, &attachment("net2")), Owner::Foreign);
        // Names that do not fit.
        let long = Attachment { network: "n".repeat(200), container_id: "c".repeat(64), ifname: "net1".to_owned() };
        let marked = link(&long.alias_with("host-end:4294967295"));
        let mark = Mark::of(&marked).unwrap();
        assert_eq!((mark.end, mark.attachment()), (Some(u32::MAX), None));
        assert_eq!(owner(&marked, &long), Owner::Own);
        // What tells no index, or is no mark.
        for (alias, end) in [(own.alias(), None), (own.alias_with("host-end:x"), None)] {
            assert_eq!(Mark::of(&link(&alias)).unwrap().end, end);
        }
        assert_eq!(Mark::of(&link("an operator's")), None);
    }
}
