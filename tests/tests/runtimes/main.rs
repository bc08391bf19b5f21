//! The suite under the programs that call it on real nodes: containerd, podman.
//!
//! Each is Debian's own build, unpacked and not installed, and runs in namespaces of its own with folders of its own:
//! `make runtimes` fetches them; a test whose runtime is not there is skipped.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod containerd;
mod documents;
mod podman;
