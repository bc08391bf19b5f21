//! What the caller says about the run, by environment variables.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The plugins under test: `CNI_BIN_DIR`, by default `bin/` of the workspace.
pub fn bin_dir() -> PathBuf {
    folder("CNI_BIN_DIR", "bin")
}

/// The CNI project's `cnitool`: `CNITOOL`, by default where `make prerequisites` puts it.
pub fn cnitool() -> PathBuf {
    folder("CNITOOL", ".build/bin/cnitool")
}

/// The reference's plugins, for tests in which both suites take turns: `CNI_REFERENCE_DIR`, by default where
/// `make prerequisites` puts them. `None` when there is no `bridge` in it.
pub fn reference_dir() -> Option<PathBuf> {
    Some(folder("CNI_REFERENCE_DIR", ".build/reference")).filter(|dir| dir.join("bridge").is_file())
}

/// A static `busybox`, of which images are made: `BUSYBOX`, by default where `scripts/prerequisites busybox` puts it.
pub fn busybox() -> PathBuf {
    folder("BUSYBOX", ".build/busybox/bin/busybox")
}

/// Debian's podman with what it needs: `PODMAN`, by default where `scripts/prerequisites podman` unpacks it.
pub fn podman() -> PathBuf {
    folder("PODMAN", ".build/podman")
}

/// Whether the plugins under test are the reference's (`OXBRIDGE_PEER=reference`): then
/// [`expected`](crate::expected) failures count as such.
pub fn is_reference() -> bool {
    env::var_os("OXBRIDGE_PEER").is_some_and(|peer| peer == "reference")
}

/// How much longer than usual things may take, where the machine is an emulated one: `OXBRIDGE_SLOW`, by default 1.
pub fn slowness() -> u32 {
    env::var("OXBRIDGE_SLOW").map_or(1, |factor| factor.parse().expect("OXBRIDGE_SLOW is a whole number"))
}

/// The CNI versions that the plugins under test must speak: Debian's build of the reference is older than 1.1.0.
pub fn versions() -> &'static [&'static str] {
    const ALL: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
    if is_reference() { &ALL[..6] } else { &ALL }
}

/// Whether the plugins under test have one of this name. Ours have to; the reference's may not.
pub fn has(plugin: &str) -> bool {
    !is_reference() || bin_dir().join(plugin).exists()
}

/// Ends the running test as skipped if the plugins under test are the reference's, and none has this name.
pub fn require(plugin: &str) {
    if !has(plugin) {
        crate::skip(format!("the reference suite has no plugin {plugin:?}"));
    }
}

/// Ends the running test as skipped if the plugins under test are the reference's: it is about what only ours do.
pub fn not_for_reference(why: &str) {
    if is_reference() {
        crate::skip(format!("not for the reference: {why}"));
    }
}

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn folder(variable: &str, default: &str) -> PathBuf {
    let path = env::var_os(variable).map_or_else(|| workspace().join(default), PathBuf::from);
    // Commands run with another working directory.
    path.canonicalize().unwrap_or(path)
}
