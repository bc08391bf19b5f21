//! CHECK: everything that ADD made is there, or what the reference made for its pods.

use cni::{Attachment, Call, Error};
use netlink::Protocol;
use netlink::nft::Nft;

use crate::add::{failed, open};
use crate::config::{Backend, Plan, Target};
use crate::native::addresses::Host;
use crate::native::owner;
use crate::{hairpin, iptables, localnet, native, reference};

pub(crate) fn check(call: &Call) -> Result<(), Error> {
    let plan = Plan::new(call)?;
    let previous = call.prev_result()?.ok_or_else(|| Error::internal("Required prevResult missing"))?;
    let targets = plan.targets(&previous, &call.env.ifname);
    if targets.is_empty() {
        return Ok(());
    }
    let attachment = call.attachment();
    let mut route = open(Protocol::Route)?;
    let host = Host::look(&mut route).map_err(|e| failed("list the host's addresses", &e))?;
    for target in &targets {
        if let Some(missing) = missing(&attachment, target, &host)? {
            return Err(Error::internal(format!("the ports of {} are not published as at ADD: {missing}", target.pod)));
        }
        if target.plan.snat
            && let Some(link) =
                localnet::closed(&mut route, target).map_err(|e| failed("look at route_localnet", &e))?
        {
            return Err(Error::internal(format!("net.ipv4.conf.{link}.route_localnet is not 1, expected 1")));
        }
    }
    let link = owner::host_link(&mut route, &attachment).map_err(|e| failed("look for the pod's host link", &e))?;
    match hairpin::missing(link.as_ref(), &targets) {
        Some(port) => Err(Error::internal(format!(
            "hairpin mode of \"{port}\" is off, expected on: by bridge-nf-call-iptables the pod does not reach itself without"
        ))),
        None => Ok(()),
    }
}

fn missing(attachment: &Attachment, target: &Target<'_>, host: &Host) -> Result<Option<String>, Error> {
    if target.plan.backend == Backend::Iptables {
        return iptables::missing(attachment, target).map(|rule| rule.map(|r| format!("{r} is missing in iptables")));
    }
    let look = |nft: &mut Nft| -> netlink::Result<(Option<String>, bool, bool)> {
        let missing = native::missing(nft, attachment, target, host)?;
        if missing.is_none() {
            return Ok((None, false, false));
        }
        let count = target.mappings().count();
        Ok((
            missing,
            reference::has_nft_rules(nft, attachment, target.pod.addr(), count)?,
            reference::has_iptables_chain(nft, attachment, target.family())?,
        ))
    };
    let mut nft = Nft::open().map_err(|e| failed("open nf_tables", &e))?;
    match look(&mut nft).map_err(|e| failed("read the rules", &e))? {
        (missing @ None, ..) | (missing @ Some(_), false, false) => Ok(missing),
        (Some(_), true, _) => Ok(None),
        // A pod of the reference is published as well.
        (missing @ Some(_), false, true) => match iptables::missing(attachment, target) {
            Ok(None) => Ok(None),
            _ => Ok(missing),
        },
    }
}
