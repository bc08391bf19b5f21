//! One call at a time changes iptables' rules or firewalld's sources in a network namespace.
//!
//! Neither has transactions that would notice what came in between a look and a change: without the lock sixteen calls
//! at once would put sixteen jumps into FORWARD. Our own tables need none.

use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cni::Error;
use host::lock::Lock;

/// How long other calls may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Only root may look into it: a lock that anyone can open, anyone can hold.
const FOLDER: &str = "/run/oxbridge";
const NAMESPACE: &str = "/proc/thread-self/ns/net";

/// Waits for the lock. Errors: code 11, naming who holds it.
pub(crate) fn firewall() -> Result<Lock, Error> {
    // Without a /run of its own (a chroot) the namespace's file serves: it is there for all who share the namespace.
    let path = file().unwrap_or_else(|| PathBuf::from(NAMESPACE));
    Lock::exclusive(&path, 0o600, PATIENCE).map_err(|e| {
        Error::new(cni::code::TRY_AGAIN, format!("waiting for another plugin call to finish with the firewall: {e}"))
    })
}

/// Named after the namespace, which may be one of several that share a /run.
fn file() -> Option<PathBuf> {
    let namespace = std::fs::metadata(NAMESPACE).ok()?.ino();
    let folder = Path::new(FOLDER);
    if !folder.is_dir() {
        std::fs::DirBuilder::new().mode(0o700).create(folder).ok().or_else(|| folder.is_dir().then_some(()))?;
    }
    let path = folder.join(format!("firewall-{namespace}"));
    let writable = path.exists() || std::fs::OpenOptions::new().create(true).append(true).open(&path).is_ok();
    writable.then_some(path)
}
