//! DEL: the ifb goes, and what of the limits is left on the host's end. Neither namespace nor valid config is needed.

use cni::{AddResult, Call, Error};
use netlink::Socket;
use netlink::link::{self, Link};

use crate::ifb::{self, Owner};
use crate::{host_end, shaping};

pub(crate) fn del(call: &Call) -> Result<(), Error> {
    // Garbage here is no reason to leave anything behind.
    let previous = call.prev_result().ok().flatten();
    let mut socket = plugin::open(netlink::Protocol::Route)?;
    let attachment = call.attachment();
    let looking = |e: netlink::Error| Error::internal(format!("failed to look for what limits a pod: {e}"));
    let end = plugin::host_end::find(&mut socket, &attachment).map_err(looking)?;
    let candidates = ifb::candidates(&mut socket, &attachment).map_err(looking)?;
    let ifbs = own(&mut socket, call, candidates, previous.as_ref(), end.as_ref()).map_err(looking)?;
    // On a pair of another suite the queueing disciplines go with the pair.
    if let Some(end) = end
        && let Err(error) = shaping::clear(&mut socket, &end, &ifbs)
    {
        host::syslog::warn("bandwidth", format_args!("{error}; it goes with the link"));
    }
    ifb::delete(&mut socket, ifbs)
}

/// The ifbs that are the attachment's; `end` is the host's end if our own plugins made it.
///
/// One without a mark is if the result lists it. Where nobody knows the result, it is unless another attachment of the
/// container turns out to use it: the reference names one ifb for them all.
fn own(
    socket: &mut Socket,
    call: &Call,
    candidates: Vec<(Link, Owner)>,
    previous: Option<&AddResult>,
    end: Option<&Link>,
) -> netlink::Result<Vec<Link>> {
    let has_own = candidates.iter().any(|(_, owner)| *owner == Owner::Own);
    let mut ifbs = Vec::new();
    for (ifb, owner) in candidates {
        let listed = previous.filter(|p| !p.interfaces.is_empty()).map(|p| ifb::is_listed(&ifb, p));
        let is_own = match owner {
            Owner::Own => true,
            Owner::Foreign => false,
            Owner::Unmarked => match listed {
                Some(is_listed) => is_listed,
                None => !has_own && !is_anothers(socket, call, &ifb, end)?,
            },
        };
        if is_own {
            ifbs.push(ifb);
        }
    }
    Ok(ifbs)
}

/// Whether what another link receives goes to the ifb, and nothing that the attachment's own end does. Where that end
/// cannot be known, nobody is said to be another.
fn is_anothers(socket: &mut Socket, call: &Call, ifb: &Link, end: Option<&Link>) -> netlink::Result<bool> {
    let own = match end {
        Some(end) => Some(end.index),
        None => match host_end::by_pod(socket, call) {
            Ok(end) => end.map(|end| end.index),
            Err(_) => return Ok(false),
        },
    };
    let mut users = Vec::new();
    for link in link::list_of(socket, "veth")? {
        if shaping::redirects_to(socket, &link, ifb)? {
            users.push(link.index);
        }
    }
    Ok(!users.is_empty() && !users.iter().any(|user| Some(*user) == own))
}
