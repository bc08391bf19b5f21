//! STATUS: whether an ADD could work, found out without leaving anything behind.
//!
//! A full pool is no failure: a node with all its pods running would be emptied for it.

use std::fs::File;
use std::path::Path;

use cni::{Call, Error, code};
use host::fsutil::{self, Unwritable};

use crate::config::Plan;
use crate::resolvconf;
use crate::store::Store;

pub(crate) fn status(call: &Call) -> Result<(), Error> {
    let not_available = |msg: String| Error::new(code::NOT_AVAILABLE, msg);
    let plan = Plan::new(call).map_err(|e| not_available(e.msg).with_details(e.details))?;
    if let Some(path) = &plan.resolv_conf {
        resolvconf::read(path).map_err(plugin::unavailable)?;
    }
    let store = Store::new(&plan.data_dir, &call.network).map_err(|e| not_available(e.to_string()))?;
    probe(&store).map_err(|(msg, advice)| not_available(msg).with_details(advice))
}

/// An error is what is wrong, and what the operator can do.
fn probe(store: &Store) -> Result<(), (String, String)> {
    for folder in [store.folder(), store.own_folder()] {
        writable(folder)?;
    }
    store.has_own().map_err(|e| (e.to_string(), "remove it".to_owned()))?;
    let lock = store.lock_path();
    match fsutil::open_plain(&lock, File::options().read(true)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err((
            format!("cannot open the lock {}: {error}", lock.display()),
            "check its type and its permissions".to_owned(),
        )),
        _ => Ok(()),
    }
}

fn writable(folder: &Path) -> Result<(), (String, String)> {
    fsutil::writable(folder).map_err(|Unwritable { reason, remedy }| {
        let what = format!("no address can be reserved in {}: {reason}", folder.display());
        (what, format!("{remedy}, or set another ipam.dataDir"))
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_probe_makes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(&dir.path().join("a/b"), "n").unwrap();
        probe(&store).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        drop(store.lock().unwrap());
        probe(&store).unwrap();
    }

    #[test]
    fn what_is_in_the_way_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        let (msg, _) = probe(&Store::new(&dir.path().join("file"), "n").unwrap()).unwrap_err();
        assert!(msg.contains("file is not a folder"), "{msg}");
        let (msg, _) = probe(&Store::new(Path::new("/proc/self"), "n").unwrap()).unwrap_err();
        assert!(msg.contains("/proc/self"), "{msg}");
    }
}
