//! The bridge plugin's spoof filter (`macspoofchk`) lets a pod send by one address only: by which, follows here.

use cni::attachment::MAX_HOST_IFNAME_ATTEMPTS;
use cni::{Attachment, Error};
use netlink::link::Mac;
use netlink::nft::{Batch, Element, Family, Nft};
use ruleset::TABLE;
use ruleset::spoof::{ALLOWED, allowed};

/// Allows the attachment's port the address `to` in the place of `from`, in one transaction. Where `from` is not
/// allowed to it in the first place, nothing filters the pod, or somebody else's rules do: nothing is changed.
pub(crate) fn follow(attachment: &Attachment, from: Mac, to: Mac) -> Result<(), Error> {
    // A kernel without nf_tables filters nothing.
    let Some(mut nft) = ruleset::open()? else { return Ok(()) };
    ruleset::transaction("changing the spoof filter", || {
        let generation = nft.generation()?;
        let Some((port, element)) = find(&mut nft, attachment, from)? else { return Ok(()) };
        let mut batch = Batch::if_generation(generation);
        batch.delete_element(Family::Bridge, TABLE, ALLOWED, &element.key);
        let key = allowed(&port, to);
        if nft.element(Family::Bridge, TABLE, ALLOWED, &key)?.is_none() {
            batch.add_element(Family::Bridge, TABLE, ALLOWED, &key, &attachment.comment());
        }
        nft.commit(batch)
    })
}

/// The port of the attachment that may send by this address, and the element that says so.
fn find(nft: &mut Nft, attachment: &Attachment, mac: Mac) -> netlink::Result<Option<(String, Element)>> {
    for port in (0..MAX_HOST_IFNAME_ATTEMPTS).map(|n| attachment.host_ifname(n)) {
        let element = nft.element(Family::Bridge, TABLE, ALLOWED, &allowed(&port, mac))?;
        if let Some(element) = element.filter(|e| ruleset::is_owned(e, attachment)) {
            return Ok(Some((port, element)));
        }
    }
    Ok(None)
}
