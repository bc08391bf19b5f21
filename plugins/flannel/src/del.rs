//! DEL: the delegate takes back what it made, by the config that it made it with.
//!
//! That config is forgotten only when the delegate has succeeded, or a retry would find nothing to do.

use cni::{Call, Error};

use crate::config::Config;
use crate::plan::{self, Delegate};
use crate::scratch::{Kept, Scratch};

pub(crate) fn del(call: &Call) -> Result<(), Error> {
    let config = Config::lenient(call);
    let scratch = Scratch::new(call, config.data_dir());
    let attachment = call.attachment();
    match scratch.read(&attachment) {
        Kept::Delegate(delegate) => take_back(call, delegate)?,
        Kept::Unreadable(path) => {
            host::syslog::warn(
                "flannel",
                format_args!("{} is no config of a delegate: using one made of the network's config", path.display()),
            );
            take_back(call, rebuilt(call, &config)?)?;
        }
        // Nothing was made, or it is removed already. But if only the file was lost, this finds what is left. There are
        // delegates whose second DEL fails: not a reason to ask for a third.
        Kept::Nothing => {
            if let Err(error) = rebuilt(call, &config).and_then(|delegate| take_back(call, delegate)) {
                host::syslog::warn(
                    "flannel",
                    format_args!(
                        "nothing is known of {} {}; its delegate says: {error}",
                        call.env.container_id, call.env.ifname
                    ),
                );
            }
        }
    }
    scratch.remove(&attachment)
}

/// The delegate as it would be made now, with or without a lease.
pub(crate) fn rebuilt(call: &Call, config: &Config) -> Result<Delegate, Error> {
    Delegate::new(call, config, plan::lease(&config.subnet_file()).ok().as_ref())
}

fn take_back(call: &Call, delegate: Delegate) -> Result<(), Error> {
    // The reference passes none; the spec wants it, and it tells where to look. Garbage would make the delegate fail.
    let keys: &[&str] = if call.prev_result().is_ok() { &["prevResult"] } else { &[] };
    delegate.with(call, keys).run(call, "DEL", &[])
}
