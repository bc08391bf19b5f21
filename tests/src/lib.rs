//! What the end-to-end tests play with: a node ([`Host`]), its [`Pod`]s, the runtime's side of the protocol
//! ([`plugin::Call`], [`cnitool::Network`]), traffic, and the state of a host before and after ([`Snapshot`]).
//!
//! Nothing here knows how a plugin works: everything goes through built binaries, and what they did is read
//! by others (`ip -j`, `nft -j`, packets). Every host and pod is a namespace without a name, kept alive by an
//! open file: when a test ends, however it ends, nothing of it is left.
//!
//! Helpers panic when the machine does not do what they ask: in a test that is the message wanted.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

pub mod case;
pub mod chained;
pub mod cnitool;
pub mod config;
pub mod docs;
pub mod expected;
pub mod host;
pub mod image;
pub mod kernel;
pub mod load;
pub mod machine;
pub mod netns;
pub mod plugin;
pub mod pod;
pub mod published;
pub mod report;
pub mod settings;
pub mod snapshot;
pub mod syslog;
pub mod traffic;
pub mod userns;

pub use case::{case, case_without, reported, skip};
pub use cnitool::Network;
pub use host::Host;
pub use machine::Machine;
pub use netns::{NetNs, Place};
pub use plugin::{Call, Failure, Reply};
pub use pod::Pod;
pub use snapshot::Snapshot;
