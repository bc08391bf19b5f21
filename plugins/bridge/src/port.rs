//! The host end as a port of the bridge: what it may do, and when it forwards.

use std::time::Duration;

use cni::{Attachment, Error};
use netlink::Socket;
use netlink::bridge::{VlanRange, push_port, push_vlans};
use netlink::link;
use netlink::monitor::Monitor;
use netlink::wire::Request;

use crate::bridge::Bridge;
use crate::config::Plan;
use crate::veth::Veth;
use crate::wait;

/// The kernel needs microseconds; the reference waits for 2.55 s in all.
const PATIENCE: Duration = Duration::from_secs(5);

/// Marks the port as this attachment's and puts it under the plan's restraints, while the pod's end is still down.
pub(crate) fn restrain(
    socket: &mut Socket,
    plan: &Plan,
    attachment: &Attachment,
    bridge: &Bridge,
    veth: &Veth,
) -> Result<(), Error> {
    let mut request = Request::new();
    let mut steps = vec!["set the alias"];
    link::push_alias(&mut request, veth.host, &attachment.alias());
    if plan.hairpin || plan.isolated {
        steps.push("set hairpin mode and isolation");
        push_port(&mut request, veth.host, plan.hairpin, plan.isolated);
    }
    let default = VlanRange::access(bridge.default_vlan);
    let leave = Some(default).filter(|_| plan.vlans.leaves_default() && bridge.default_vlan != 0);
    let before = request.messages();
    push_vlans(&mut request, veth.host, leave.as_slice(), &plan.vlans.wanted());
    steps.extend((before..request.messages()).map(|_| "set the VLANs"));
    // What comes in by a port goes to the bridge: an address of the port itself is never reached, but costs routes,
    // memberships and duplicate address detection. Without one it takes no router's word either, so that accept_ra,
    // which the reference sets to 0 here, need not be looked for: with 500 pods that took half a millisecond. A link
    // without IPv6 (none in the kernel, a tiny MTU) refuses.
    let mut no_address = Request::new();
    link::push_no_link_local(&mut no_address, veth.host);
    let _ = socket.transact(&no_address, |_| ());
    socket.transact(&request, |_| ()).map_err(|error| {
        let step = steps.get(error.request).copied().unwrap_or("set up the port");
        Error::internal(format!("failed to {step} of \"{}\" on \"{}\": {error}", veth.host_name, bridge.name))
    })
}

/// Sets the host end up, before the pod's end: that one then gets its carrier while it is set up and sends at once; one
/// that gets it later throws packets away until the kernel has noticed.
pub(crate) fn set_up(socket: &mut Socket, veth: &Veth) -> Result<(), Error> {
    link::set_up(socket, veth.host)
        .map_err(|e| Error::internal(format!("failed to set \"{}\" up: {e}", veth.host_name)))
}

/// Waits until a port, the pod's or the gateway's, carries packets.
pub(crate) fn wait_until_forwarding(
    socket: &mut Socket,
    (index, name): (u32, &str),
    bridge: &Bridge,
) -> Result<(), Error> {
    let failed = |e: netlink::Error| Error::internal(format!("failed to look at \"{name}\": {e}"));
    let mut is_learning = false;
    let is_ready = || -> Result<Option<()>, Error> {
        let link = link::by_index(socket, index).map_err(failed)?;
        let Some(link) = link else {
            return Err(Error::internal(format!("host link \"{name}\" vanished while it was set up")));
        };
        // With the spanning tree protocol a port listens and learns for half a minute first; that is its operator's wish.
        let forwards = bridge.stp || link.port.is_some_and(|p| p.forwarding);
        is_learning = link.port.is_some_and(|p| !p.forwarding);
        Ok((link.is_operational && forwards).then_some(()))
    };
    wait::until(PATIENCE, || Monitor::links().map_err(failed), failed, is_ready)?.ok_or_else(|| {
        Error::new(
            cni::code::TRY_AGAIN,
            format!("bridge port in error state: \"{name}\" does not forward after {PATIENCE:?}"),
        )
        .with_details(format!("see `bridge -d link show dev {name}`: is \"{}\" up?", bridge.name))
    })?;
    if is_learning {
        let text = format!(
            "\"{}\" has the spanning tree protocol on: the pod's packets pass only after twice its forward delay",
            bridge.name
        );
        host::syslog::notice("bridge", &text);
    }
    Ok(())
}
