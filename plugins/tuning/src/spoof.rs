//! The bridge plugin's spoof filter (`macspoofchk`) lets a pod send by one address only: by which, follows here.

use cni::Attachment;
use cni::attachment::MAX_HOST_IFNAME_ATTEMPTS;
use netlink::Errno;
use netlink::link::Mac;
use netlink::nft::{Batch, Element, Family, Nft};

const TABLE: &str = "oxbridge";
const ALLOWED: &str = "macspoof-allowed";

/// Allows the attachment's port the address `to` in the place of `from`, in one transaction. Where `from` is not
/// allowed to it in the first place, nothing filters the pod, or somebody else's rules do: nothing is changed.
pub(crate) fn follow(attachment: &Attachment, from: Mac, to: Mac) -> Result<(), String> {
    let run = || -> netlink::Result<()> {
        let mut nft = Nft::open()?;
        let generation = nft.generation()?;
        let Some((port, element)) = find(&mut nft, attachment, from)? else { return Ok(()) };
        let mut batch = Batch::if_generation(generation);
        batch.delete_element(Family::Bridge, TABLE, ALLOWED, &element.key);
        let key = key(&port, to);
        if nft.element(Family::Bridge, TABLE, ALLOWED, &key)?.is_none() {
            batch.add_element(Family::Bridge, TABLE, ALLOWED, &key, &attachment.comment());
        }
        nft.commit(batch)
    };
    match run() {
        Err(error) if error.is(Errno::EOPNOTSUPP) => Ok(()),
        result => result.map_err(|e| e.to_string()),
    }
}

/// The port of the attachment that may send by this address, and the element that says so.
fn find(nft: &mut Nft, attachment: &Attachment, mac: Mac) -> netlink::Result<Option<(String, Element)>> {
    for port in (0..MAX_HOST_IFNAME_ATTEMPTS).map(|n| attachment.host_ifname(n)) {
        let element = nft.element(Family::Bridge, TABLE, ALLOWED, &key(&port, mac))?;
        let is_owned = |e: &Element| e.comment.as_deref().is_some_and(|c| c.starts_with(&attachment.identity_hex()));
        if let Some(element) = element.filter(is_owned) {
            return Ok(Some((port, element)));
        }
    }
    Ok(None)
}

fn key(port: &str, mac: Mac) -> Vec<u8> {
    let mut key = port.as_bytes().to_vec();
    key.resize(16, 0);
    key.extend_from_slice(&mac);
    key.resize(24, 0);
    key
}
