//! ADD: one transaction for both families. Whatever fails after it takes back what this call made, and nothing else.

use std::cell::{Cell, RefCell};

use cni::{Attachment, Call, Error};
use host::undo::Undo;
use netlink::link::Link;
use netlink::nft::Nft;
use netlink::{Protocol, Socket};
use plugin::host_end;

use crate::config::{Backend, Plan, Target};
use crate::native::addresses::Host;
use crate::native::owner::Owner;
use crate::pod::Pod;
use crate::{flows, hairpin, holders, iptables, listeners, localnet, native, reference};

pub(crate) fn add(call: &Call) -> Result<(), Error> {
    let plan = Plan::new(call)?;
    let previous = call.prev_result()?.ok_or_else(|| Error::internal("must be called as chained plugin"))?;
    let targets = plan.targets(&previous, &call.env.ifname);
    let attachment = call.attachment();
    if targets.is_empty() {
        // A pod without ports does not depend on anything that has to do with them.
        let sockets = forget(&attachment).map_err(|error| {
            host::syslog::warn("portmap", format_args!("looking for ports of an earlier ADD: {}", error.msg));
        });
        call.reply(&previous)?;
        drop(sockets);
        return Ok(());
    }
    let mut route = open(Protocol::Route)?;
    let link = host_end::find(&mut route, &attachment).map_err(|e| failed("look for the pod's host link", &e))?;
    plugin::step()?;

    // What fails below drops the sockets last: closing one waits for what was removed.
    let mut nft = None;
    let made = Cell::new(false);
    let pod = Pod::new(call, &attachment, targets.iter().map(|t| t.pod.addr()).collect());
    let mut undo = Undo::new();
    let hairpin = link.as_ref().filter(|link| hairpin::is_needed(link, &targets));
    let owner = Owner::new(call, link.as_ref(), hairpin.is_some());
    let request = native::Request { attachment: &attachment, targets: &targets, owner, first: Vec::new() };
    let host;
    match plan.backend {
        Backend::Nftables => {
            let nft = nft.insert(Nft::open().map_err(|e| failed("open nf_tables", &e))?);
            undo_by(&mut undo, &pod, &plan, &made);
            host = native::install(nft, &mut route, &request, &made)?;
        }
        Backend::Iptables => {
            host = Host::look(&mut route, &targets).map_err(|e| failed("list the host's addresses", &e))?;
            nft = ruleset::open()?;
            if let Some(nft) = &mut nft {
                holders::refuse_for_any(nft, &attachment, &targets)?;
                native::make_way(nft, &request, &plan)?;
            }
            undo_by(&mut undo, &pod, &plan, &made);
            for target in &targets {
                plugin::step()?;
                iptables::install(&attachment, target, &made)?;
            }
        }
    }
    plugin::step()?;
    open_ways(&mut route, hairpin, &targets, &mut undo)?;
    flows::forget_of_host(&targets, &host.local);
    listeners::warn(&targets);
    host.tell_of_unreachable(&targets);
    plugin::step()?;
    call.reply(&previous)?;
    undo.disarm();
    drop(nft);
    Ok(())
}

/// Removes what an earlier ADD of the attachment published: there is nothing to publish any more. What is returned is
/// to be closed last.
fn forget(attachment: &Attachment) -> Result<(Option<Nft>, Option<Socket>), Error> {
    let mut nft = ruleset::open()?;
    let ports = match &mut nft {
        Some(nft) => native::forget(nft, attachment)?,
        None => Vec::new(),
    };
    let flows = flows::forget_of_pods(&ports);
    Ok((nft, flows))
}

/// Removes the rules again, if any were made.
fn undo_by<'a>(undo: &mut Undo<'a>, pod: &'a Pod<'a>, plan: &'a Plan, made: &'a Cell<bool>) {
    undo.push("removing the published ports", move || {
        if !made.get() {
            return Ok(());
        }
        let mut nft = Nft::open().map_err(|e| failed("open nf_tables", &e))?;
        native::remove(&mut nft, pod.attachment, Some(plan), |nft, batch| match plan.backend {
            Backend::Nftables => Ok(()),
            Backend::Iptables => reference::push_removal(nft, batch, pod, &RefCell::default()),
        })?;
        match plan.backend {
            Backend::Nftables => Ok(()),
            Backend::Iptables => reference::remove_from_xtables(pod).map(drop),
        }
    });
}

/// What the host's own packets and those of the pod to itself need beside the rules. `hairpin`: the pod's host link, if
/// it needs that mode.
fn open_ways(
    route: &mut Socket,
    hairpin: Option<&Link>,
    targets: &[Target<'_>],
    undo: &mut Undo<'_>,
) -> Result<(), Error> {
    for target in targets.iter().filter(|t| t.plan.snat) {
        localnet::open(route, target)?;
    }
    hairpin.map_or(Ok(()), |link| hairpin::turn_on(route, link, undo))
}

pub(crate) fn open(protocol: Protocol) -> Result<Socket, Error> {
    Socket::open(protocol).map_err(|e| failed("open a netlink socket", &e))
}

pub(crate) fn failed(what: &str, error: &netlink::Error) -> Error {
    Error::internal(format!("failed to {what}: {error}"))
}
