//! STATUS: whether an ADD could work now: flanneld has a lease, configs can be kept, and the delegate agrees.

use std::fs;
use std::path::Path;

use cni::{Call, Error, code};
use nix::unistd::{AccessFlags, access};

use crate::config::Config;
use crate::plan::{self, Delegate};

pub(crate) fn status(call: &Call) -> Result<(), Error> {
    let delegate = delegate(call).map_err(|e| Error::new(code::NOT_AVAILABLE, e.msg).with_details(e.details))?;
    delegate.run(call, "STATUS", &[])
}

/// All that ADD does before it acts.
fn delegate(call: &Call) -> Result<Delegate, Error> {
    let config = Config::strict(call)?;
    let lease = plan::lease(&config.subnet_file())?;
    let delegate = Delegate::new(call, &config, Some(&lease))?;
    delegate.find(call)?;
    writable(&config.data_dir())?;
    Ok(delegate)
}

/// Whether files can be made in the folder, or, where it does not exist, in the nearest of its parents that does.
fn writable(folder: &Path) -> Result<(), Error> {
    let there = folder.ancestors().find(|path| fs::symlink_metadata(path).is_ok()).unwrap_or_else(|| Path::new("."));
    let problem = if there.is_dir() {
        access(there, AccessFlags::W_OK | AccessFlags::X_OK).err().map(|errno| errno.desc())
    } else {
        Some("not a folder")
    };
    problem.map_or(Ok(()), |problem| {
        Err(Error::internal(format!(
            "no delegate's config can be saved in {}: {}: {problem}",
            folder.display(),
            there.display()
        ))
        .with_details("dataDir of flannel's config names another folder"))
    })
}
