//! DEL: the interface becomes what it was, if it still exists, and nothing is kept of it.
//!
//! Sysctls are not restored, as by the reference: they are the namespace's, and end with it.

use cni::{Attachment, Call, Error};
use host::netns::NetNs;

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
    match found.originals(&LinkId::new(&netns, link.index)) {
        Some(originals) => pod.restore(&mut socket, &link, originals),
        None => Vec::new(),
    }
}
