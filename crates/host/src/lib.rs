//! What a plugin needs of Linux beside netlink: namespaces, sysctls, locks with deadlines, undo, signals, syslog.
//!
//! Nothing here knows CNI; `netlink` is the only crate of the workspace below this one.

pub mod alive;
pub mod announce;
pub mod boot;
pub mod fsutil;
pub mod lock;
pub mod mac;
pub mod memory;
pub mod netns;
pub mod process;
mod run;
pub mod signal;
pub mod socket_holder;
pub mod stdio;
pub mod sweep;
pub mod sysctl;
pub mod syslog;
pub mod undo;
