//! One call at a time makes or changes bridges of a network namespace.
//!
//! Held from the look at the bridge until the pod's port is on it: whoever holds it and sees a bridge without ports
//! knows that nobody is about to use it.

use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cni::Error;
use host::lock::Lock;

/// How long other calls may take with their bridges.
const PATIENCE: Duration = Duration::from_secs(10);
/// Only root may look into it: a lock that anyone can open, anyone can hold.
const FOLDER: &str = "/run/oxbridge";
const NAMESPACE: &str = "/proc/thread-self/ns/net";

/// Waits for the lock. Errors: code 11, naming who holds it.
pub(crate) fn bridges() -> Result<Lock, Error> {
    // Without a /run of its own (a chroot) the namespace's file serves: it is there for all who share the namespace.
    let path = file().unwrap_or_else(|| PathBuf::from(NAMESPACE));
    Lock::exclusive(&path, 0o600, PATIENCE).map_err(|e| {
        Error::new(cni::code::TRY_AGAIN, format!("waiting for another plugin call to finish with its bridge: {e}"))
    })
}

/// Named after the namespace, which may be one of several that share a /run.
fn file() -> Option<PathBuf> {
    let namespace = std::fs::metadata(NAMESPACE).ok()?.ino();
    let folder = Path::new(FOLDER);
    if !folder.is_dir() {
        std::fs::DirBuilder::new().mode(0o700).create(folder).ok().or_else(|| folder.is_dir().then_some(()))?;
    }
    let path = folder.join(format!("bridges-{namespace}"));
    // Opened twice, here and by whoever locks it, only where it is missing.
    let writable = path.exists() || std::fs::OpenOptions::new().create(true).append(true).open(&path).is_ok();
    writable.then_some(path)
}
