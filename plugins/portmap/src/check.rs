//! CHECK: everything that ADD made is there, or what the reference made for its pods.

use cni::{Attachment, Call, Error};
use netlink::Protocol;
use netlink::link::Link;
use netlink::nft::Nft;
use plugin::host_end;

use crate::add::{failed, open};
use crate::config::{Backend, Plan, Target};
use crate::{guard, hairpin, iptables, localnet, native, reference};

pub(crate) fn check(call: &Call) -> Result<(), Error> {
    let plan = Plan::new(call)?;
    let previous = call.prev_result()?.ok_or_else(|| Error::internal("Required prevResult missing"))?;
    let targets = plan.targets(&previous, &call.env.ifname);
    if targets.is_empty() {
        return Ok(());
    }
    let attachment = call.attachment();
    let mut route = open(Protocol::Route)?;
    let mut has_way = false;
    let mut is_ours = plan.backend == Backend::Nftables;
    for target in &targets {
        match look(&attachment, target)? {
            Found::Whole => {}
            Found::References => is_ours = false,
            Found::Lacks(what) => {
                return Err(Error::internal(format!(
                    "the ports of {} are not published as at ADD: {what}",
                    target.pod
                )));
            }
        }
        if target.plan.snat
            && let Some(link) =
                localnet::closed(&mut route, target).map_err(|e| failed("look at route_localnet", &e))?
        {
            return Err(Error::internal(format!("net.ipv4.conf.{link}.route_localnet is not 1, expected 1")));
        }
        has_way |= target.plan.snat
            && localnet::has_link(&mut route, target).map_err(|e| failed("look for the route to the pod", &e))?;
    }
    let link = host_end::find(&mut route, &attachment).map_err(|e| failed("look for the pod's host link", &e))?;
    if plan.backend == Backend::Iptables
        && has_way
        && let Some(what) = guard::missing(link.is_some())?
    {
        return Err(Error::internal(format!("127.0.0.0/8 is not guarded as at ADD: {what}")));
    }
    match link.as_ref().filter(|link| hairpin::is_off(link)) {
        Some(link) => check_hairpin(link, &attachment, &targets, is_ours),
        None => Ok(()),
    }
}

/// Whether ADD had turned on what is off now: bridges may have begun to show their packets to the IP rules since, by which
/// nothing has changed that it made. Only our own tables say what it did; the reference leaves that to the config of
/// bridge.
fn check_hairpin(link: &Link, attachment: &Attachment, targets: &[Target<'_>], is_ours: bool) -> Result<(), Error> {
    let why = format!("hairpin mode of \"{}\" is off", link.name);
    if is_ours {
        let mut nft = Nft::open().map_err(|e| failed("open nf_tables", &e))?;
        if native::is_hairpin(&mut nft, attachment, targets).map_err(|e| failed("read the rules", &e))? {
            let why = format!("{why}, expected on: by bridge-nf-call-iptables the pod does not reach itself without");
            return Err(Error::internal(why));
        }
    }
    if hairpin::is_needed(link, targets) {
        host::syslog::warn(
            "portmap",
            format_args!("{why}; the pod does not reach itself until another ADD turns it on"),
        );
    }
    Ok(())
}

/// How a target is published.
enum Found {
    Whole,
    /// By the reference, as a pod that is older than this plugin on its host.
    References,
    /// Not, or not whole: what is missing.
    Lacks(String),
}

impl From<Option<String>> for Found {
    fn from(missing: Option<String>) -> Self {
        missing.map_or(Self::Whole, Self::Lacks)
    }
}

fn look(attachment: &Attachment, target: &Target<'_>) -> Result<Found, Error> {
    let in_iptables = || -> Result<Option<String>, Error> {
        Ok(iptables::missing(attachment, target)?.map(|rule| format!("{rule} is missing in iptables")))
    };
    if target.plan.backend == Backend::Iptables {
        return in_iptables().map(Found::from);
    }
    let mut nft = Nft::open().map_err(|e| failed("open nf_tables", &e))?;
    let reading = |e| failed("read the rules", &e);
    let Some(mut missing) = native::missing(&mut nft, attachment, target).map_err(reading)? else {
        return Ok(Found::Whole);
    };
    match native::missing_beside(&mut nft, attachment, target).map_err(reading)? {
        Some(None) => return Ok(Found::Whole),
        Some(Some(what)) => missing = what,
        None => {}
    }
    let count = target.mappings().count();
    if reference::has_nft_rules(&mut nft, attachment, target.pod.addr(), count).map_err(reading)? {
        return Ok(Found::References);
    }
    let may_be = reference::has_iptables_chain(&mut nft, attachment, target.family()).map_err(reading)?;
    // Without the program the reference cannot have made anything.
    if may_be && matches!(in_iptables(), Ok(None)) {
        return Ok(Found::References);
    }
    Ok(Found::Lacks(missing))
}
