//! GC: backups of attachments of this network that the runtime no longer knows.
//!
//! Only files go: if the interface still exists, the runtime's own DEL has restored it, or nobody will. Backups of the
//! reference do not tell their network, and stay.

use cni::{Attachment, Call, Error};
use host::netns::NetNs;
use plugin::gc::Valid;

use crate::backup::{Record, Store};
use crate::config;
use crate::pod::Pod;

pub(crate) fn gc(call: &Call) -> Result<(), Error> {
    // Without a list nothing is known to be stale; an empty one says that everything is.
    let Some(valid) = Valid::of(call)? else { return Ok(()) };
    let store = Store::new(config::data_dir(call));
    let records = store
        .records()
        .map_err(|e| Error::internal(format!("failed to read the backups in {}: {e}", store.folder().display())))?;
    let mut errors = Vec::new();
    for record in records {
        let attachment = record.attachment();
        if attachment.network != call.network || valid.has(&attachment.container_id, &attachment.ifname) {
            continue;
        }
        if is_up(&record, &attachment) {
            let Attachment { network, container_id, ifname } = &attachment;
            host::syslog::notice(
                "tuning",
                &format!("GC removes the backup of {network} {container_id} {ifname}, whose interface was still up"),
            );
        }
        if let Err(error) = store.remove(&attachment) {
            errors.push(Error::internal(format!("failed to remove the backup {error}")));
        }
    }
    if let Err(error) = store.remove_abandoned() {
        errors.push(Error::internal(format!("failed to remove an unfinished backup {error}")));
    }
    Error::first_of(errors)
}

/// It may mean that two runtimes share a network and one does not know the other's pods.
fn is_up(record: &Record, attachment: &Attachment) -> bool {
    let Ok(netns) = NetNs::open(record.netns()) else { return false };
    let pod = Pod { netns: &netns, attachment, result: None };
    pod.of(record).is_some_and(|link| link.is_up())
}
