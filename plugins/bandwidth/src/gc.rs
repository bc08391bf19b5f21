//! GC: the ifbs of attachments of this network that the runtime no longer knows.
//!
//! Only ours say whose they are. The reference's have nothing but a hash of network and container, and it cannot be told
//! for which network a hash stands whose container nobody knows: they stay until their DEL.

use cni::{Call, Error};
use netlink::Socket;
use netlink::link::{self, Link};
use plugin::gc::Valid;
use plugin::host_end;

use crate::ifb::Mark;

pub(crate) fn gc(call: &Call) -> Result<(), Error> {
    // Without a list nothing is known to be stale; an empty one says that everything is.
    let Some(valid) = Valid::of(call)? else { return Ok(()) };
    let failed = |e: netlink::Error| Error::internal(format!("failed to look for stale ifbs: {e}"));
    let mut socket = plugin::open(netlink::Protocol::Route)?;
    let mut errors = Vec::new();
    for ifb in link::list_of(&mut socket, "ifb").map_err(failed)? {
        let Some(mark) = Mark::of(&ifb).filter(|mark| valid.is_stale(mark.text)) else { continue };
        tell(&mut socket, &ifb, &mark);
        if let Err(error) = link::delete(&mut socket, ifb.index) {
            errors.push(Error::internal(format!("failed to delete \"{}\": {error}", ifb.name)));
        }
    }
    Error::first_of(errors)
}

/// An interface that still was up may mean that two runtimes share a network and one does not know the other's pods.
fn tell(socket: &mut Socket, ifb: &Link, mark: &Mark<'_>) {
    let end = mark.attachment().and_then(|a| host_end::find(socket, &a).ok().flatten());
    let is_up = end.is_some_and(|end| end.is_operational);
    let state = if is_up { "whose interface was still up" } else { "whose interface was down or gone" };
    host::syslog::notice("bandwidth", &format!("GC removes {} ({}), {state}", ifb.name, mark.text));
}
