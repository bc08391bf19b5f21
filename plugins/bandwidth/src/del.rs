//! DEL: the ifb goes, and what of the limits is left on the host's end. Neither namespace nor valid config is needed.

use cni::{Call, Error};

use crate::add::open;
use crate::ifb::{self, Owner};
use crate::{host_end, shaping};

pub(crate) fn del(call: &Call) -> Result<(), Error> {
    let attachment = call.attachment();
    // Garbage here is no reason to leave anything behind.
    let previous = call.prev_result().ok().flatten();
    let mut socket = open()?;
    let looking = |e: netlink::Error| Error::internal(format!("failed to look for what limits a pod: {e}"));
    let mut ifbs = ifb::candidates(&mut socket, &attachment).map_err(looking)?;
    ifbs.retain(|(link, owner)| match owner {
        Owner::Own => true,
        Owner::Unmarked => ifb::may_be_of(link, previous.as_ref()),
        Owner::Foreign => false,
    });
    let ifbs: Vec<_> = ifbs.into_iter().map(|(link, _)| link).collect();
    // On a pair of another suite the queueing disciplines go with the pair.
    if let Some(end) = host_end::ours(&mut socket, &attachment).map_err(looking)?
        && let Err(error) = shaping::clear(&mut socket, &end, &ifbs)
    {
        host::syslog::warn("bandwidth", format_args!("{error}; it goes with the link"));
    }
    ifb::delete(&mut socket, ifbs)
}
