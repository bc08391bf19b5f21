//! The CNI protocol as a plugin speaks it: environment and stdin of a call, versions, configs, results and their
//! conversions, errors, delegation to other plugins.
//!
//! Nothing here knows of links, addresses or namespaces; all that it asks of the system is a pipe and a process.
//! Configs, results, texts and codes are those of the reference implementation (containernetworking/cni), because
//! runtimes and users have come to depend on them; where it is known to be wrong, the difference is documented.
//!
//! A plugin implements [`Plugin`] and its `main` is one line:
//!
//! ```no_run
//! struct Noop;
//!
//! impl cni::Plugin for Noop {
//!     const NAME: &'static str = "noop";
//!     fn add(&self, call: &cni::Call) -> Result<(), cni::Error> {
//!         call.reply(&call.prev_result()?.unwrap_or_default())
//!     }
//!     fn del(&self, _: &cni::Call) -> Result<(), cni::Error> {
//!         Ok(())
//!     }
//!     fn check(&self, _: &cni::Call) -> Result<(), cni::Error> {
//!         Ok(())
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     cni::main(Noop)
//! }
//! ```

#![forbid(unsafe_code)]

pub mod args;
pub mod attachment;
pub mod call;
pub mod cidr;
pub mod decode;
pub mod delegate;
pub mod error;
mod gate;
mod output;
pub mod result;
pub mod run;
mod text;
pub mod version;

pub use attachment::Attachment;
pub use call::{Call, Env, ValidAttachment};
pub use cidr::{Cidr, parse_ip};
pub use error::{Error, code};
pub use result::{AddResult, Dns, Interface, IpConfig, Route};
pub use run::{Plugin, main};
pub use version::Version;
