//! DEL: whatever of the attachment is left goes, and nothing of anyone else's.
//!
//! What is ours is found by its owner's identity, so neither the result of ADD nor a config that is still valid is
//! needed. They only help to find what the reference made, which says of nothing whose it is; where the result is missing,
//! the pod's interface or its reservations tell.

use cni::{Call, Error};

use crate::config::{self, ZONE};
use crate::forgotten;
use crate::remove::{self, Gone, Scope};

pub(crate) fn del(call: &Call) -> Result<(), Error> {
    let attachment = call.attachment();
    // Garbage here is no reason to leave anything behind.
    let previous = call.prev_result().ok().flatten().unwrap_or_default();
    let mut addresses = config::addresses(&previous);
    if addresses.is_empty() {
        addresses = forgotten::addresses(call);
    }
    let zone = call.text(&["firewalldZone"]).filter(|zone| !zone.is_empty()).unwrap_or_else(|| ZONE.to_owned());
    let backend = call.text(&["backend"]).unwrap_or_default();
    remove::remove(&Gone {
        is_gone: &|comment| ruleset::is_owner(comment, &attachment),
        of_reference: &addresses,
        zone: &zone,
        asks_firewalld: !matches!(backend.as_str(), "nftables" | "iptables"),
        scope: Scope::Everywhere,
    })
    .map(drop)
}
