//! CHECK: the limits are those of the config.

use std::time::Duration;

use cni::{Call, Error};
use netlink::Socket;
use netlink::link::Link;
use netlink::tc::{self, Tbf};

use crate::add::previous;
use crate::config::{Limit, Plan};
use crate::{host_end, ifb, shaping};

pub(crate) fn check(call: &Call) -> Result<(), Error> {
    let plan = Plan::new(call)?;
    let previous = previous(call)?;
    let mut socket = plugin::open(netlink::Protocol::Route)?;
    if plan.is_unlimited() {
        let earlier = shaping::earlier(&mut socket, &call.attachment())?;
        return earlier.describe().map_or(Ok(()), |found| Err(unexpected(&found)));
    }
    let end = host_end::find(&mut socket, call, &previous)?;
    if let Some(limit) = plan.ingress {
        check_tbf(&mut socket, &end, &limit)?;
    } else if tc::root(&mut socket, end.index).map_err(|e| asking(&end.name, &e))?.is_some_and(|r| r.is_our_tbf()) {
        return Err(unexpected(&shaping::describe_tbf(&end)));
    }
    let attachment = call.attachment();
    let ifbs = shaping::own_ifbs(&mut socket, &end, &attachment).map_err(|e| asking("the ifb", &e))?;
    let Some(limit) = plan.egress else {
        return ifbs.first().map_or(Ok(()), |ifb| Err(unexpected(&shaping::describe_ifb(ifb))));
    };
    let Some(ifb) = ifbs.first() else {
        let expected = format!("\"{}\", or \"{}\"", ifb::names(&attachment)[0], ifb::names(&attachment)[1]);
        return Err(differs(&format!("ifb of \"{}\"", attachment.ifname), "no such link", &expected));
    };
    if !ifb.is_up() {
        return Err(differs(&format!("ifb \"{}\"", ifb.name), "down", "up"));
    }
    check_redirection(&mut socket, &end, ifb)?;
    check_tbf(&mut socket, ifb, &limit)
}

fn check_redirection(socket: &mut Socket, end: &Link, ifb: &Link) -> Result<(), Error> {
    let what = format!("what \"{}\" receives", end.name);
    let filters = tc::filters(socket, end.index).map_err(|e| asking(&what, &e))?;
    // The reference asks for each twice. What comes behind ours is never asked; what comes before may let packets pass.
    let is_first = filters.first().is_some_and(|f| f.redirects.contains(&ifb.index));
    let stray = filters.iter().flat_map(|f| &f.redirects).find(|t| **t != ifb.index);
    let found = match (stray, filters.first()) {
        (None, _) if is_first => return Ok(()),
        (Some(index), _) => format!("sent to the link with index {index}"),
        (None, None) => "no filter".to_owned(),
        (None, Some(first)) => format!("another program's filter ({}) before ours", first.kind),
    };
    Err(differs(&what, &found, &format!("sent to \"{}\" (index {})", ifb.name, ifb.index)))
}

fn check_tbf(socket: &mut Socket, link: &Link, expected: &Limit) -> Result<(), Error> {
    let what = format!("queueing discipline of \"{}\"", link.name);
    let root = tc::root(socket, link.index).map_err(|e| asking(&what, &e))?;
    let Some(found) = root.as_ref().and_then(|r| r.tbf) else {
        return Err(differs(&what, root.as_ref().map_or("none", |r| &r.kind), "tbf"));
    };
    let tbf = &expected.tbf;
    if found.rate != tbf.rate {
        return Err(differs(
            &what,
            &format!("rate {} bit/s", found.rate.saturating_mul(8)),
            &format!("{} bit/s", tbf.rate.saturating_mul(8)),
        ));
    }
    let is_close = |ticks: u32| {
        let off = found.burst_ticks.wrapping_sub(ticks);
        off.min(off.wrapping_neg()) <= tbf.burst_ticks_tolerance()
    };
    if !is_close(tbf.burst_ticks()) && !is_close(expected.reference_burst_ticks()) {
        return Err(differs(&what, &burst(found.burst_ticks, tbf), &format!("burst {} bytes", tbf.burst)));
    }
    if found.limit != tbf.limit && found.limit != expected.reference_limit {
        return Err(differs(&what, &format!("a queue of {} bytes", found.limit), &format!("{} bytes", tbf.limit)));
    }
    Ok(())
}

/// What the kernel says of a bucket: in bytes, where the time that it tells cannot have been cut to 32 bits.
fn burst(ticks: u32, expected: &Tbf) -> String {
    let time = Duration::from_nanos(u64::from(ticks) * 64);
    if expected.is_burst_told_in_full() {
        format!("burst {} bytes", time.as_nanos() * u128::from(expected.rate) / 1_000_000_000)
    } else {
        format!("burst of {time:?} (or 274 s more, once or often)")
    }
}

/// A limit that is there and should not be.
fn unexpected(found: &str) -> Error {
    Error::internal(format!("found {found}, expected none: the config has no such limit (any more)"))
}

/// A finding: what is there, and what should be.
fn differs(what: &str, found: &str, expected: &str) -> Error {
    Error::internal(format!("{what}: found {found}, expected {expected}"))
}

fn asking(what: &str, error: &netlink::Error) -> Error {
    Error::internal(format!("failed to read {what}: {error}"))
}
