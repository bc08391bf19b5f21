//! DEL: the interface becomes what it was, if it still exists, and nothing is kept of it.
//!
//! Sysctls are not restored, as by the reference: they are the namespace's, and end with it.

use cni::{Attachment, Call, Error, Interface};
use host::netns::NetNs;
use netlink::link::{self, Link, Mac};
use netlink::{Protocol, Socket};

use crate::attributes::Attributes;
use crate::backup::{Found, LinkId, Store};
use crate::config;
use crate::pod::Pod;

pub(crate) fn del(call: &Call) -> Result<(), Error> {
    let attachment = call.attachment();
    let store = Store::new(config::data_dir(call));
    let found = store.find(&attachment);
    if found.is_anothers(&attachment) {
        return Ok(());
    }
    for failure in found.undecodable.iter().cloned().chain(restore(call, &attachment, &found)) {
        // No reason to fail: another DEL could not do it either.
        host::syslog::warn("tuning", failure);
    }
    let removed = match found.others_record(&attachment) {
        Some(_) => store.remove_backup(&attachment),
        None => store.remove(&attachment),
    };
    removed.map_err(|e| {
        Error::internal(format!("failed to remove the backup {e}")).with_details("the file system may be read-only")
    })
}

/// Restores the link that the backup is of. Returns what could not be restored.
fn restore(call: &Call, attachment: &Attachment, found: &Found) -> Vec<String> {
    if found.is_nothing() {
        return Vec::new();
    }
    let netns = match NetNs::open(&call.env.netns) {
        Ok(netns) => netns,
        // Gone, or never given.
        Err(error) if error.is_gone() => return Vec::new(),
        Err(error) => return vec![error.to_string()],
    };
    // Paths are reused: the host's own links are nobody's interfaces.
    match netns.is_own() {
        Ok(is_own) if !is_own || call.env.netns_override => {}
        Ok(_) => return Vec::new(),
        Err(error) => return vec![error.to_string()],
    }
    let previous = call.prev_result().ok().flatten();
    let pod = Pod { netns: &netns, attachment, result: previous.as_ref() };
    let (mut socket, link) = match pod.look() {
        Ok((socket, Some(link))) => (socket, link),
        Ok((_, None)) => return Vec::new(),
        Err(error) => return vec![error.msg],
    };
    let id = LinkId::new(&netns, link.index);
    match found.originals(&id) {
        // The reference does not tell which link it has tuned, and the path may be another pod's by now.
        Some(originals) if found.of_earlier_add(&id).is_none() && is_anothers(&pod, &link, originals) => Vec::new(),
        Some(originals) => pod.restore(&mut socket, &link, originals),
        None => Vec::new(),
    }
}

/// Whether the link is not the attachment's: it has another address than the result says, or a host's end that says whose
/// it is.
fn is_anothers(pod: &Pod<'_>, link: &Link, originals: &Attributes) -> bool {
    let is_pods = |i: &&Interface| i.name == link.name && !i.sandbox.is_empty() && !i.mac.is_empty();
    let told = pod.result.and_then(|result| result.interfaces.iter().find(is_pods));
    let is =
        |told: &Interface, mac: Option<Mac>| mac.is_some_and(|m| told.mac.eq_ignore_ascii_case(&host::mac::format(m)));
    // Before it was tuned it may have had another.
    let has_other_address = told.is_some_and(|told| !is(told, link.mac) && !is(told, originals.mac));
    let is_of_another = |alias: String| alias.starts_with("oxbridge ") && alias != pod.attachment.alias();
    has_other_address || host_end(link).and_then(|end| end.alias).is_some_and(is_of_another)
}

/// The other end, if it is on the host: indices are unique in one namespace only, so both must name each other.
fn host_end(link: &Link) -> Option<Link> {
    let index = link.peer.filter(|_| link.is("veth"))?;
    let mut host = Socket::open(Protocol::Route).ok()?;
    link::by_index(&mut host, index).ok()?.filter(|end| end.is("veth") && end.peer == Some(link.index))
}
