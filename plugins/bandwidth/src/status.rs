//! STATUS: whether an ADD could work now, as far as that can be known without making anything.

use cni::{Call, Error, code};
use netlink::{link, tc};

use crate::config::Plan;

/// Index of the loopback link, which every namespace has.
const LOOPBACK: u32 = 1;

pub(crate) fn status(call: &Call) -> Result<(), Error> {
    let asking = |e: netlink::Error| Error::new(code::NOT_AVAILABLE, format!("failed to ask the kernel: {e}"));
    let plan = Plan::new(call).map_err(plugin::unavailable)?;
    // Pods without limits need nothing.
    if plan.is_unlimited() {
        return Ok(());
    }
    let mut socket = plugin::open(netlink::Protocol::Route).map_err(plugin::unavailable)?;
    if !tc::has_tbf(&mut socket, LOOPBACK).map_err(asking)? {
        return Err(missing("token bucket filter", "sch_tbf"));
    }
    if plan.egress.is_some() && !link::has_ifb(&mut socket).map_err(asking)? {
        return Err(missing("ifb link", "ifb"));
    }
    Ok(())
}

fn missing(what: &str, module: &str) -> Error {
    Error::new(code::NOT_AVAILABLE, format!("this kernel has no {what}, which limiting bandwidth needs"))
        .with_details(format!("load the module: modprobe {module}"))
}
