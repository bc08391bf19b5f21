//! DEL: whatever of the attachment is left goes, and nothing of anyone else's.
//!
//! Nothing here needs the pod's namespace, a valid config or the result of ADD; they help to find things sooner, and to
//! tell apart what the reference made for several interfaces of a container.

use std::net::IpAddr;

use cni::{AddResult, Attachment, Call, Error};
use netlink::nft::Nft;

use crate::add::failed;
use crate::config::{Plan, Protocol};
use crate::native::UdpPorts;
use crate::{flows, native, reference};

pub(crate) fn del(call: &Call) -> Result<(), Error> {
    let attachment = call.attachment();
    // Garbage in either is no reason to leave anything behind.
    let plan = Plan::new(call).ok();
    let previous = call.prev_result().ok().flatten();
    let addresses = addresses(previous.as_ref(), &attachment);
    let mut errors = Vec::new();

    // Kept open to the end: closing it waits for what was removed.
    let mut nft = match Nft::open() {
        Ok(nft) => Some(nft),
        // A kernel without nf_tables holds nothing of ours.
        Err(error) if ruleset::is_unsupported(&error) => None,
        Err(error) => return Err(failed("open nf_tables", &error)),
    };
    let mut ports = UdpPorts::new();
    if let Some(nft) = &mut nft {
        let more = |nft: &mut Nft, batch: &mut _| reference::push_removal(nft, batch, &attachment, &addresses);
        match native::remove(nft, &attachment, plan.as_ref(), more) {
            Ok(removed) => ports = removed,
            Err(error) => errors.push(error),
        }
    }
    errors.extend(reference::remove_from_xtables(&attachment, &addresses).err());
    ports.extend(planned(plan.as_ref(), &addresses));
    let flows = flows::forget_of_pods(&ports);
    drop((flows, nft));
    first(errors)
}

/// The addresses of the pod's interface, as far as the result of ADD tells.
fn addresses(previous: Option<&AddResult>, attachment: &Attachment) -> Vec<IpAddr> {
    let Some(previous) = previous else { return Vec::new() };
    let is_pods = |interface: Option<i64>| {
        let interface = interface.and_then(|i| usize::try_from(i).ok()).and_then(|i| previous.interfaces.get(i));
        interface.is_none_or(|i| i.name == attachment.ifname && !i.sandbox.is_empty())
    };
    previous.ips.iter().filter(|ip| is_pods(ip.interface)).map(|ip| ip.address.addr()).collect()
}

/// The UDP ports that the config says were published, for rules that tell nothing of themselves.
fn planned(plan: Option<&Plan>, addresses: &[IpAddr]) -> UdpPorts {
    let udp = plan.into_iter().flat_map(|p| &p.mappings).filter(|m| m.protocol == Protocol::Udp);
    udp.flat_map(|m| addresses.iter().map(|ip| (*ip, m.host_port))).collect()
}

/// The first error, with the others in its details.
pub(crate) fn first(errors: Vec<Error>) -> Result<(), Error> {
    let mut errors = errors.into_iter();
    let Some(first) = errors.next() else { return Ok(()) };
    let others: Vec<String> = errors.map(|e| e.to_string()).collect();
    if others.is_empty() {
        return Err(first);
    }
    let details = [vec![first.details.clone()], others].concat();
    Err(first.with_details(details.into_iter().filter(|d| !d.is_empty()).collect::<Vec<_>>().join("; ")))
}
