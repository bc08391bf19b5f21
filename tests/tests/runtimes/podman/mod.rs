//! podman with crun and the network backend "cni".
//!
//! Not here: networks of the driver `macvlan` (the suite has no such plugin), and `--opt vlan=`, which needs a kernel with
//! bridge VLAN filtering.

mod life;
mod networks;
pub(crate) mod node;
mod ports;
