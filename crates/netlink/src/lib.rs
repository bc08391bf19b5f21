//! Asking the kernel: links, addresses, routes, neighbours, queueing, nf_tables, conntrack and sockets over one blocking
//! netlink socket.
//!
//! A plugin asks, waits for the answer and goes on, so there is no async runtime here. Requests for links,
//! addresses and routes are built with `rtnetlink`'s message builders; replies are read attribute by attribute,
//! because a plugin wants five of the sixty attributes of a link. What no crate offers (nf_tables, shaping)
//! is written out in [`nft`] and [`tc`] and tested against `nft -j` and `tc -j`.
//!
//! Nothing here knows CNI.

pub mod addr;
pub mod bridge;
pub mod conntrack;
mod error;
pub mod link;
pub mod monitor;
pub mod neigh;
pub mod netconf;
pub mod nft;
pub mod route;
pub mod sock_diag;
mod socket;
pub mod tc;
pub mod wire;

pub use error::Error;
pub use nix::errno::Errno;
pub use socket::{Protocol, Socket};

/// Result of asking the kernel.
pub type Result<T> = std::result::Result<T, Error>;
