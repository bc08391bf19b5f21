//! GC: the delegate's, then what was kept of attachments that the runtime no longer knows.

use cni::{Call, Error, ValidAttachment};

use crate::config::Config;
use crate::del::rebuilt;
use crate::scratch::{Kept, Scratch};

pub(crate) fn gc(call: &Call) -> Result<(), Error> {
    let valid = call.valid_attachments()?;
    let config = Config::lenient(call);
    // First, as it tells what was still alive. That it fails, or is no longer installed, keeps nothing else.
    let delegates = rebuilt(call, &config)
        .and_then(|delegate| delegate.with_valid(call, valid.as_deref()).run_if_known(call, "GC"));
    let mut errors: Vec<Error> = delegates.err().into_iter().collect();
    // Without a list nothing is known to be stale; an empty one says that everything is.
    if let Some(valid) = valid {
        errors.extend(collect(call, &Scratch::new(call, config.data_dir()), &valid));
    }
    Error::first_of(errors)
}

fn collect(call: &Call, scratch: &Scratch, valid: &[ValidAttachment]) -> Vec<Error> {
    let is_alive = |id: &str, ifname: &str| valid.iter().any(|v| v.container_id == id && v.ifname == ifname);
    let mut errors = Vec::new();
    for stale in scratch.attachments().filter(|a| !is_alive(&a.container_id, &a.ifname)) {
        // The delegate may be one without GC, or have been given another config then.
        let done = match scratch.read(&stale) {
            Kept::Delegate(delegate) => delegate.with(call, &[]).run(
                call,
                "DEL",
                &[
                    ("CNI_CONTAINERID", &stale.container_id),
                    ("CNI_IFNAME", &stale.ifname),
                    ("CNI_NETNS", ""),
                    ("CNI_ARGS", ""),
                ],
            ),
            Kept::Unreadable(_) | Kept::Nothing => Ok(()),
        };
        errors.extend(done.and_then(|()| scratch.remove(&stale)).err());
    }
    errors.extend(scratch.remove_leftovers(valid));
    errors
}
