//! `macspoofchk`: which source addresses may come in by which port of a bridge.
//!
//! The `bridge` plugin makes the sets and the rule that looks into them; who changes a pod's address changes its element.

use netlink::link::Mac;
use netlink::nft::joined;

use crate::name_key;

/// Set of the names of the ports that are checked, in our table of family `bridge`.
pub const PORTS: &str = "macspoof-ports";
/// Set of the pairs of a port's name and an address that may come in by it.
pub const ALLOWED: &str = "macspoof-allowed";

/// The key of a pair in [`ALLOWED`].
pub fn allowed(port: &str, mac: Mac) -> Vec<u8> {
    joined(&[&name_key(port), &mac])
}
