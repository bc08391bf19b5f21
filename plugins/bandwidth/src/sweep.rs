//! The ifbs of pods that went without a DEL: nobody else would ever remove them, for they do not go with the pair.
//!
//! An ifb goes if it carries our mark, the host's end that it serves is gone (the kernel gives no index twice in a
//! namespace), and the attachment has no other. All others stay, those of the reference among them: whom they serve is not
//! written down.

use std::collections::HashSet;

use cni::Error;
use cni::attachment::read_identity;
use host::syslog;
use netlink::{Protocol, Socket, link};
use plugin::orphans::{self, Orphans};

use crate::ifb::Mark;

/// So many at once: each costs some 20 ms, and a runtime waits for the end of this call.
const MOST: usize = 16;

/// Removes what is left of others, once a minute; for the end of an ADD that has answered. What fails is told and tried
/// again by the next.
pub(crate) fn sweep() {
    orphans::sweep("bandwidth", remove_abandoned);
}

fn remove_abandoned() -> Result<(), Error> {
    let failed = |e: netlink::Error| Error::internal(format!("ifbs: {e}"));
    let mut socket = Socket::open(Protocol::Route).map_err(failed)?;
    let mut abandoned = Vec::new();
    for ifb in link::list_of(&mut socket, "ifb").map_err(failed)? {
        let Some(mark) = Mark::of(&ifb) else { continue };
        let (Some(end), Some(identity)) = (mark.end, read_identity(mark.text)) else { continue };
        if link::by_index(&mut socket, end).map_err(failed)?.is_none() {
            let text = format!("reclaimed {} ({}), because its host end, link {end}, is gone", ifb.name, mark.text);
            abandoned.push((identity, ifb.index, text));
        }
    }
    let gone = Orphans::among(abandoned.iter().map(|(identity, ..)| *identity).collect::<HashSet<_>>())?;
    for (_, index, text) in abandoned.iter().filter(|(identity, ..)| gone.has(identity)).take(MOST) {
        link::delete(&mut socket, *index).map_err(failed)?;
        syslog::notice("bandwidth", text);
    }
    Ok(())
}
