//! GC: the ifbs of attachments of this network that the runtime no longer knows.
//!
//! Only ours say whose they are. The reference's have nothing but a hash of network and container, and it cannot be told
//! for which network a hash stands whose container nobody knows: they stay until their DEL.

use std::collections::HashSet;

use cni::{Attachment, Call, Error};
use netlink::link::{self, Link};

use crate::host_end;
use crate::ifb::MARK;

pub(crate) fn gc(call: &Call) -> Result<(), Error> {
    // Without a list nothing is known to be stale; an empty one says that everything is.
    let Some(valid) = call.valid_attachments()? else { return Ok(()) };
    let network = &call.network;
    let of = |container_id: &str, ifname: &str| Attachment {
        network: network.clone(),
        container_id: container_id.to_owned(),
        ifname: ifname.to_owned(),
    };
    let alive: HashSet<String> = valid.iter().map(|v| of(&v.container_id, &v.ifname).identity_hex()).collect();
    let failed = |e: netlink::Error| Error::internal(format!("failed to remove stale ifbs: {e}"));
    let mut socket = plugin::open(netlink::Protocol::Route)?;
    let mut result = Ok(());
    for link in link::list(&mut socket).map_err(failed)? {
        let Some(owner) = stale_owner(&link, network, &alive) else { continue };
        let is_connected = host_end_of(owner, of)
            .is_some_and(|a| host_end::ours(&mut socket, &a).ok().flatten().is_some_and(|l| l.is_operational));
        let state = if is_connected { "whose interface was still up" } else { "whose interface was down or gone" };
        host::syslog::notice("bandwidth", &format!("GC removes {} ({owner}), {state}", link.name));
        if let Err(error) = link::delete(&mut socket, link.index) {
            result = Err(failed(error));
        }
    }
    result
}

/// The owner that an ifb of ours names, if it is an attachment of this network that is not alive.
fn stale_owner<'a>(link: &'a Link, network: &str, alive: &HashSet<String>) -> Option<&'a str> {
    let owner = link.alias.as_deref().filter(|_| link.is("ifb"))?.strip_prefix(MARK)?;
    let mut words = owner.split(' ');
    let (identity, of_network) = (words.next()?, words.next()?);
    // A name that does not fit is cut; then the identity alone cannot tell networks apart, so it stays.
    (identity.len() == 32 && of_network == network && !alive.contains(identity)).then_some(owner)
}

/// The attachment that an owner spells out.
fn host_end_of(owner: &str, of: impl Fn(&str, &str) -> Attachment) -> Option<Attachment> {
    let words: Vec<&str> = owner.split(' ').collect();
    let [identity, _, container_id, ifname] = words[..] else { return None };
    Some(of(container_id, ifname)).filter(|a| a.identity_hex() == identity)
}
