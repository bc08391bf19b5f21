//! The backups of pods that went without a DEL: nobody would ever ask for them.
//!
//! One goes if our record of it says that its attachment is [certainly gone](plugin::liveness). All others stay, those of
//! the reference among them: nothing is known about them.

use cni::attachment::sha512_hex;
use cni::{Call, Error};
use host::netns::own_cookie;
use host::syslog;
use plugin::liveness::{Present, Verdict};
use plugin::orphans;

use crate::backup::Store;
use crate::config::Plan;

/// Removes what is left of others, once a minute for each folder of backups; for the end of an ADD that has answered.
/// What fails is told and tried again by the next.
pub(crate) fn sweep(call: &Call, plan: &Plan) {
    let store = Store::new(plan.data_dir.clone());
    if !store.keeps_records() {
        return;
    }
    let folder = store.folder().to_string_lossy();
    orphans::sweep_place("tuning", &format!("tuning-{}", sha512_hex(&folder, 8)), || {
        remove_abandoned(call, &store).map_err(|e| Error::internal(format!("backups in {folder}: {e}")))
    });
}

fn remove_abandoned(call: &Call, store: &Store) -> std::io::Result<()> {
    let (present, here) = (Present::look(&call.env.netns), own_cookie());
    for record in store.records()? {
        if host::signal::pending().is_some() {
            break;
        }
        let attachment = record.attachment();
        if let Verdict::Gone(why) = present.judge(&record.trace(here), &attachment)
            && store.remove_if_unchanged(&record)?
        {
            let (network, container_id, ifname) = (attachment.network, attachment.container_id, attachment.ifname);
            let text = format!("reclaimed the backup of {network} {container_id} {ifname}, because {why}");
            syslog::notice("tuning", &text);
        }
    }
    store.remove_abandoned()
}
