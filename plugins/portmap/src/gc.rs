//! GC: ports of attachments of this network that the runtime no longer knows.

use std::cell::RefCell;
use std::collections::BTreeSet;

use cni::attachment::read_identity;
use cni::{Call, Error};
use netlink::nft::Nft;
use netlink::{Protocol, Socket};
use plugin::gc::Valid;
use plugin::host_end;
use ruleset::Found;

use crate::native::UdpPorts;
use crate::{flows, native, reference};

pub(crate) fn gc(call: &Call) -> Result<(), Error> {
    // Without a list nothing is known to be stale; an empty one says that everything is.
    let Some(valid) = Valid::of(call)? else { return Ok(()) };
    // What says nothing of its interface may be that of any of the container's.
    let is_gone = |container: &str, ifname: Option<&str>| match ifname {
        None => !valid.has_container(container),
        Some(ifname) => !valid.has(container, ifname),
    };
    let mut errors = Vec::new();
    let mut nft = ruleset::open().unwrap_or_else(|error| {
        errors.push(error);
        None
    });
    let mut ports = UdpPorts::new();
    if let Some(nft) = &mut nft {
        let is_stale = |comment: &str| valid.is_stale(comment);
        let of_reference = RefCell::default();
        let more = |nft: &mut Nft, batch: &mut _| {
            reference::push_stale_removal(nft, batch, &call.network, is_gone, &of_reference)
        };
        match native::remove_stale(nft, is_stale, |_| false, more) {
            Ok(removed) => {
                tell(&removed);
                ports = native::udp_ports(&removed);
            }
            Err(error) => errors.push(error),
        }
        ports.extend(of_reference.into_inner());
    }
    match reference::remove_stale_from_xtables(&call.network, is_gone) {
        Ok(removed) => ports.extend(removed),
        Err(error) => errors.push(error),
    }
    let flows = flows::forget_of_pods(&ports);
    drop((flows, nft));
    Error::first_of(errors)
}

/// An interface that still was up may mean that two runtimes share a network and one does not know the other's pods.
fn tell(removed: &[Found]) {
    let Ok(mut route) = Socket::open(Protocol::Route) else { return };
    let comments: BTreeSet<&str> = removed.iter().filter_map(|found| found.element.comment.as_deref()).collect();
    for comment in comments {
        let Some(identity) = read_identity(comment) else { continue };
        let is_up =
            host_end::find_by_identity(&mut route, &identity).ok().flatten().is_some_and(|link| link.is_operational);
        if is_up {
            let text = format!("GC removes the ports of {comment}, whose interface was still up");
            host::syslog::notice("portmap", &text);
        }
    }
}
