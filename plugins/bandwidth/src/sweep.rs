//! The ifbs of pods that went without a DEL: nobody else would ever remove them, for they do not go with the pair.
//!
//! An ifb goes if it carries our mark, the host's end that it serves is gone (the kernel gives no index twice in a
//! namespace), and no link has a name that the attachment's next one could have. All others stay, those of the reference
//! among them: whom they serve is not written down.

use cni::Error;
use cni::attachment::read_identity;
use host::syslog;
use netlink::{Protocol, Socket, link};
use plugin::liveness::{HostLink, host_link};
use plugin::orphans;

use crate::ifb::Mark;

/// So many at once: each costs some 20 ms, and a runtime waits for the end of this call.
const MOST: usize = 16;

/// Removes what is left of others, once a minute; for the end of an ADD that has answered. What fails is told and tried
/// again by the next.
pub(crate) fn sweep() {
    orphans::sweep("bandwidth", || remove_abandoned().map_err(|e| Error::internal(format!("ifbs: {e}"))));
}

fn remove_abandoned() -> netlink::Result<()> {
    let mut socket = Socket::open(Protocol::Route)?;
    let mut removed = 0;
    for ifb in link::list_of(&mut socket, "ifb")? {
        if removed == MOST || host::signal::pending().is_some() {
            break;
        }
        let Some(mark) = Mark::of(&ifb) else { continue };
        let (Some(end), Some(identity)) = (mark.end, read_identity(mark.text)) else { continue };
        if link::by_index(&mut socket, end)?.is_some() || host_link(&identity) != HostLink::Missing {
            continue;
        }
        link::delete(&mut socket, ifb.index)?;
        removed += 1;
        let text = format!("reclaimed {} ({}), because its host end, link {end}, is gone", ifb.name, mark.text);
        syslog::notice("bandwidth", &text);
    }
    Ok(())
}
