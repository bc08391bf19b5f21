//! ADD: the limits are in force when it ends, or nothing is left of it.

use cni::{AddResult, Call, Error, Interface};
use host::undo::Undo;
use netlink::Protocol;
use netlink::link::Link;

use crate::config::Plan;
use crate::{host_end, ifb, shaping, sweep};

pub(crate) fn add(call: &Call) -> Result<(), Error> {
    limit(call)?;
    // The runtime has its answer, and nothing that happens now changes it.
    sweep::sweep();
    Ok(())
}

fn limit(call: &Call) -> Result<(), Error> {
    let plan = Plan::new(call)?;
    let mut result = previous(call)?;
    let attachment = call.attachment();
    let mut socket = plugin::open(Protocol::Route)?;
    if plan.is_unlimited() {
        // Limits that an earlier ADD of this attachment set, and the config no longer has.
        shaping::earlier(&mut socket, &attachment)?.remove(&mut socket)?;
        return call.reply(&result);
    }
    let end = host_end::find(&mut socket, call, &result)?;
    plan.fits(&end.name, end.mtu)?;

    // An earlier ADD of this attachment, which this one replaces.
    let stale = shaping::own_ifbs(&mut socket, &end, &attachment)
        .map_err(|e| Error::internal(format!("failed to look for the ifb of \"{}\": {e}", attachment.ifname)))?;
    shaping::clear(&mut socket, &end, &stale)?;
    ifb::delete(&mut socket, stale)?;

    let mut undo = Undo::new();
    let ifb = shaping::install(&mut socket, &end, &plan, &attachment, &mut undo)?;
    plugin::step()?;
    if let Some(ifb) = ifb {
        push_interface(&mut result, &ifb);
    }
    call.reply(&result)?;
    undo.disarm();
    Ok(())
}

/// The result of the plugins before.
pub(crate) fn previous(call: &Call) -> Result<AddResult, Error> {
    call.prev_result()?.ok_or_else(|| {
        Error::internal("must be called as a chained plugin: prevResult is missing")
            .with_details("put bandwidth into a list, after the plugin that makes the interface")
    })
}

/// The reference names the ifb in its result, too.
fn push_interface(result: &mut AddResult, ifb: &Link) {
    if !result.interfaces.iter().any(|i| i.name == ifb.name && i.sandbox.is_empty()) {
        result.interfaces.push(Interface {
            name: ifb.name.clone(),
            mac: ifb.mac.map(host::mac::format).unwrap_or_default(),
            ..Interface::default()
        });
    }
}
