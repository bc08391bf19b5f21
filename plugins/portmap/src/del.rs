//! DEL: whatever of the attachment is left goes, and nothing of anyone else's.
//!
//! Nothing here needs the pod's namespace, a valid config or the result of ADD; they help to find things sooner, and to
//! tell apart what the reference made for several interfaces of a container.

use std::cell::RefCell;
use std::net::IpAddr;

use cni::{Call, Error};
use netlink::nft::Nft;

use crate::config::{self, Plan, Protocol};
use crate::native::UdpPorts;
use crate::pod::Pod;
use crate::{flows, native, reference};

pub(crate) fn del(call: &Call) -> Result<(), Error> {
    let attachment = call.attachment();
    // Garbage in either is no reason to leave anything behind.
    let plan = Plan::new(call).ok();
    let previous = call.prev_result().ok().flatten();
    let told = previous.iter().flat_map(|p| config::addresses(p, &attachment.ifname)).map(|a| a.addr()).collect();
    let pod = Pod::new(call, &attachment, told);
    let mut errors = Vec::new();

    // Kept open to the end: closing it waits for what was removed.
    let mut nft = ruleset::open()?;
    let mut ports = UdpPorts::new();
    if let Some(nft) = &mut nft {
        let of_reference = RefCell::default();
        let more = |nft: &mut Nft, batch: &mut _| reference::push_removal(nft, batch, &pod, &of_reference);
        match native::remove(nft, &attachment, plan.as_ref(), more) {
            Ok(removed) => ports = removed,
            Err(error) => errors.push(error),
        }
        ports.extend(of_reference.into_inner());
    }
    match reference::remove_from_xtables(&pod) {
        Ok(removed) => ports.extend(removed),
        Err(error) => errors.push(error),
    }
    ports.extend(planned(plan.as_ref(), pod.addresses()));
    let flows = flows::forget_of_pods(&ports);
    drop((flows, nft));
    Error::first_of(errors)
}

/// The UDP ports that the config says were published, where the rules are gone already.
fn planned(plan: Option<&Plan>, addresses: &[IpAddr]) -> UdpPorts {
    let udp = plan.into_iter().flat_map(|p| &p.mappings).filter(|m| m.protocol == Protocol::Udp);
    udp.flat_map(|m| addresses.iter().map(|ip| (*ip, m.host_port))).collect()
}
