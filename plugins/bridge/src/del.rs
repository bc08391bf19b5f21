//! DEL: whatever of the attachment is left goes, and nothing of anyone else's.
//!
//! Traffic stops first and the address is released last: no address is free while a pod can still use it. Nothing
//! here needs the pod's namespace, a valid config or the result of ADD; they only help to find what the reference made.

use std::net::IpAddr;

use cni::{AddResult, Attachment, Call, Error, delegate};
use host::netns::NetNs;
use netlink::link::{self, Link};
use netlink::nft::Nft;
use netlink::{Protocol, Socket, addr};
use plugin::host_end;

use crate::add::MADE_BY;
use crate::config::DEFAULT_BRIDGE;
use crate::{gateway_port, iptables, reference, rules};

pub(crate) fn del(call: &Call) -> Result<(), Error> {
    let attachment = call.attachment();
    let bridge = call.text(&["bridge"]).filter(|b| !b.is_empty()).unwrap_or_else(|| DEFAULT_BRIDGE.to_owned());
    // Garbage here is no reason to leave anything behind.
    let previous = call.prev_result().ok().flatten();
    let mut errors = Vec::new();

    let mut host =
        Socket::open(Protocol::Route).map_err(|e| Error::internal(format!("failed to open a netlink socket: {e}")))?;
    let found = match find(&mut host, call, &attachment, &bridge, previous.as_ref()) {
        Ok(found) => found,
        Err(error) => {
            errors.push(Error::internal(format!(
                "failed to look for the host link of \"{}\": {error}",
                attachment.ifname
            )));
            Found::default()
        }
    };
    if let Some(link) = found.link.as_ref().filter(|l| l.master.is_some())
        && let Err(error) = link::clear_master(&mut host, link.index)
    {
        // Deleting the link will do it, too.
        host::syslog::warn("bridge", format_args!("failed to take \"{}\" off its bridge: {error}", link.name));
    }
    let addresses = known_addresses(&attachment, previous.as_ref(), found.addresses);
    // Kept open: closing it waits for a grace period, which then runs beside that of the link's deletion.
    let nft = remove_rules(&attachment, &addresses, &mut errors);
    let on_bridge = found.link.as_ref().and_then(|link| link.master);
    if let Some(link) = found.link
        && let Err(error) = link::delete(&mut host, link.index)
    {
        errors.push(Error::internal(format!("failed to delete \"{}\": {error}", link.name)));
    }
    drop(nft);
    remove_gateway_port(&mut host, on_bridge, &bridge);
    if let Err(error) = iptables::remove_from_xtables(&attachment, &addresses) {
        errors.push(error);
    }
    if let Some(ipam) = call.text(&["ipam", "type"]).filter(|t| !t.is_empty())
        && let Err(error) = delegate::run(call, &ipam, "DEL", &[MADE_BY])
    {
        // The delegate's own error is what the reference passes on.
        errors.insert(0, error);
    }
    Error::first_of(errors)
}

/// Removes what only this pod needed of its VLAN: it is nothing of the attachment's, and no reason to fail.
fn remove_gateway_port(host: &mut Socket, bridge: Option<u32>, name: &str) {
    let link = match bridge {
        Some(index) => link::by_index(host, index),
        None => link::by_name(host, name),
    };
    let removed = link.map_err(|e| Error::internal(e.to_string())).and_then(|link| match link {
        Some(bridge) => gateway_port::remove_unused(host, &bridge),
        None => Ok(()),
    });
    if let Err(error) = removed {
        host::syslog::warn("bridge", format_args!("removing the gateway of a VLAN without pods: {error}"));
    }
}

/// What is left of the attachment's link.
#[derive(Default)]
struct Found {
    link: Option<Link>,
    /// Of the pod's end, as far as it can be asked.
    addresses: Vec<IpAddr>,
}

/// Finds the host end: by the attachment's identity if we made it, through the pod's namespace if the reference did.
fn find(
    host: &mut Socket,
    call: &Call,
    attachment: &Attachment,
    bridge: &str,
    previous: Option<&AddResult>,
) -> netlink::Result<Found> {
    let pod_end = pod_end(call);
    if let Some(link) = host_end::find(host, attachment)? {
        let addresses = pod_end.filter(|(peer, _)| link.peer == Some(peer.index)).map(|(_, addresses)| addresses);
        return Ok(Found { link: Some(link), addresses: addresses.unwrap_or_default() });
    }
    let bridge = link::by_name(host, bridge)?.filter(|l| l.is("bridge")).map(|l| l.index);
    // Somebody gave it another name, or took it off the bridge: its address or alias still tell.
    if let Some(link) = link::list_of(host, "veth")?.into_iter().find(|l| host_end::is_of(l, attachment)) {
        return Ok(Found { link: Some(link), addresses: Vec::new() });
    }
    let named = previous.and_then(|p| host_entry(p, &attachment.ifname));
    if let Some((peer, addresses)) = pod_end {
        let by_peer = match peer.peer {
            Some(index) => link::by_index(host, index)?,
            None => None,
        };
        // Indices are unique in one namespace only: both ends must name each other.
        let is_pair = |l: &Link| l.is("veth") && l.peer == Some(peer.index);
        let is_expected = |l: &Link| match named {
            Some(entry) => entry.name == l.name,
            None => bridge.is_some() && l.master == bridge,
        };
        if let Some(link) = by_peer.filter(|l| is_pair(l) && is_expected(l) && !is_another_of_ours(l)) {
            return Ok(Found { link: Some(link), addresses });
        }
    }
    // The pod's end was renamed, or its namespace cannot be reached: the result still names the host's.
    let Some(entry) = named else { return Ok(Found::default()) };
    let is_it = |l: &Link| {
        l.is("veth")
            && bridge.is_some()
            && l.master == bridge
            && l.mac.map(host::mac::format).is_some_and(|mac| mac.eq_ignore_ascii_case(&entry.mac))
            && !is_another_of_ours(l)
    };
    Ok(Found { link: link::by_name(host, &entry.name)?.filter(is_it), addresses: Vec::new() })
}

/// The pod's end and its addresses, if the namespace can be entered and is not the host's own: paths are reused.
fn pod_end(call: &Call) -> Option<(Link, Vec<IpAddr>)> {
    let netns = NetNs::open(&call.env.netns).ok()?;
    if netns.is(&NetNs::current().ok()?) {
        return None;
    }
    let mut pod = netns.enter(|| Socket::open(Protocol::Route)).ok()?.ok()?;
    let link = link::by_name(&mut pod, &call.env.ifname).ok()??;
    if !link.is("veth") {
        return None;
    }
    let addresses = addr::list(&mut pod, link.index).unwrap_or_default().iter().map(|a| a.ip).collect();
    Some((link, addresses))
}

/// The entry of a result that is the host's end of this interface: the last one on the host before the pod's.
fn host_entry<'a>(result: &'a AddResult, ifname: &str) -> Option<&'a cni::Interface> {
    let pod = result.interfaces.iter().position(|i| i.name == ifname && !i.sandbox.is_empty())?;
    result.interfaces[..pod].iter().rev().find(|i| i.sandbox.is_empty() && i.name.starts_with("veth"))
}

/// Whether a link says of itself that it belongs to an attachment: then not to this one, which was looked for already.
fn is_another_of_ours(link: &Link) -> bool {
    link.alias.as_deref().is_some_and(|a| a.starts_with("oxbridge "))
}

/// The addresses that are known to be the attachment's; none if nobody says.
fn known_addresses(attachment: &Attachment, previous: Option<&AddResult>, of_link: Vec<IpAddr>) -> Vec<IpAddr> {
    let mut all = of_link;
    if let Some(previous) = previous {
        let pod = previous.interfaces.iter().position(|i| i.name == attachment.ifname && !i.sandbox.is_empty());
        let is_ours = |index: Option<i64>| index.is_none() || index.and_then(|i| usize::try_from(i).ok()) == pod;
        all.extend(previous.ips.iter().filter(|ip| is_ours(ip.interface)).map(|ip| ip.address.addr()));
    }
    all
}

fn remove_rules(attachment: &Attachment, addresses: &[IpAddr], errors: &mut Vec<Error>) -> Option<Nft> {
    let mut nft = match ruleset::open() {
        Ok(nft) => nft?,
        Err(error) => {
            errors.push(error);
            return None;
        }
    };
    let removed = ruleset::remove(
        &mut nft,
        rules::sets,
        |element| ruleset::is_owned(element, attachment),
        |nft, batch| reference::push_removal(nft, batch, attachment, addresses),
    );
    errors.extend(removed.err());
    Some(nft)
}
