//! Small files that live as long as the machine runs, one for each network namespace.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Only root may look into it: a lock that anyone can open, anyone can hold.
const FOLDER: &str = "/run/oxbridge";
/// The namespace of the calling thread.
pub(crate) const NAMESPACE: &str = "/proc/thread-self/ns/net";

/// Where the file of this name belongs, for the calling thread's namespace: several namespaces may share a `/run`.
/// `None` without a `/run` (a chroot) or a `/proc`.
pub(crate) fn path(name: &str) -> Option<PathBuf> {
    let namespace = fs::metadata(NAMESPACE).ok()?.ino();
    let folder = Path::new(FOLDER);
    if !folder.is_dir() {
        fs::DirBuilder::new().mode(0o700).create(folder).ok().or_else(|| folder.is_dir().then_some(()))?;
    }
    Some(folder.join(format!("{name}-{namespace}")))
}
