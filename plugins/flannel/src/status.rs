//! STATUS: whether an ADD could work now: flanneld has a lease, configs can be kept, and the delegate agrees.

use cni::{Call, Error};
use host::fsutil::{self, Unwritable};

use crate::config::Config;
use crate::plan::{self, Delegate};

pub(crate) fn status(call: &Call) -> Result<(), Error> {
    let delegate = delegate(call).map_err(plugin::unavailable)?;
    delegate.run_if_known(call, "STATUS")
}

/// All that ADD does before it acts.
fn delegate(call: &Call) -> Result<Delegate, Error> {
    let config = Config::strict(call)?;
    let lease = plan::lease(&config.subnet_file())?;
    let delegate = Delegate::new(call, &config, Some(&lease))?;
    delegate.find(call)?;
    let folder = config.data_dir();
    fsutil::writable(&folder).map_err(|Unwritable { reason, remedy }| {
        Error::internal(format!("no delegate's config can be saved in {}: {reason}", folder.display()))
            .with_details(format!("{remedy}, or set another dataDir in flannel's config"))
    })?;
    Ok(delegate)
}
