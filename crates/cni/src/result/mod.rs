//! The result of an ADD: one form here, three shapes outside.
//!
//! | versions | shape |
//! |---|---|
//! | 0.1.0, 0.2.0 | one `ip4` and one `ip6`, each with its routes; no interfaces |
//! | 0.3.0, 0.3.1, 0.4.0 | lists; addresses say their IP version; interfaces have a name, a MAC and a sandbox |
//! | 1.0.0, 1.1.0 | lists; interfaces also have an MTU, a socket path and a PCI id |
//!
//! Within a shape only `cniVersion` differs, as with the reference, which for instance prints a route's MTU in any
//! version that has a list of routes.

mod read;
mod write;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::cidr::{Cidr, optional_ip};
use crate::version::Version;
use crate::{Error, decode};

pub(crate) use read::{from_previous, from_stated};

/// What an ADD made, whatever the version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddResult {
    /// Links that were made or moved, on the host and in the container.
    pub interfaces: Vec<Interface>,
    /// Addresses, in the order of the IPAM plugin.
    pub ips: Vec<IpConfig>,
    /// Routes in the container.
    pub routes: Vec<Route>,
    /// For the container's resolver.
    pub dns: Dns,
}

/// A link.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Interface {
    /// Name of the link in its namespace.
    pub name: String,
    /// As text, in whatever form the plugin uses that made it. May be empty.
    pub mac: String,
    /// MTU in bytes; not in results below 1.0.0.
    pub mtu: Option<u32>,
    /// `CNI_NETNS` verbatim for a link in the container, empty for one on the host.
    pub sandbox: String,
    /// Path of a vhost-user socket; not in results below 1.0.0.
    pub socket_path: String,
    /// PCI address of the device; not in results below 1.0.0.
    #[serde(rename = "pciID")]
    pub pci_id: String,
}

/// An address of the container.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct IpConfig {
    /// Index of its link in the result's interfaces.
    #[serde(default)]
    pub interface: Option<i64>,
    /// The address, with the length of its network's prefix.
    pub address: Cidr,
    /// The way out of the network.
    #[serde(default, deserialize_with = "optional_ip")]
    pub gateway: Option<IpAddr>,
}

/// A route in the container; also as it stands in IPAM configs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destination.
    pub dst: Cidr,
    /// Next hop; `None` means the gateway of the addresses' family, if any.
    #[serde(default, deserialize_with = "optional_ip", skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// MTU in bytes; 0 is unset.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub mtu: i64,
    /// Maximal segment size to advertise, in bytes; 0 is unset.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub advmss: i64,
    /// Metric; 0 is unset.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: i64,
    /// Routing table. Some(0) is not the same as unset, although the kernel means main by both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<i64>,
    /// Scope (`rtm_scope`): 0 universe, 253 link, 254 host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<i64>,
}

impl Route {
    /// A route to this destination and nothing more.
    pub fn new(dst: Cidr, gw: Option<IpAddr>) -> Self {
        Self { dst, gw, mtu: 0, advmss: 0, priority: 0, table: None, scope: None }
    }

    /// The default route of the gateway's family.
    pub fn default_via(gateway: IpAddr) -> Self {
        Self::new(Cidr::whole_family(gateway), Some(gateway))
    }
}

/// For the container's resolver; also as it stands in configs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// Addresses of name servers, as text, best first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Domains to complete short names with.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Options for the resolver (`resolv.conf(5)`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Dns {
    /// Whether it says nothing at all.
    pub fn is_empty(&self) -> bool {
        self.nameservers.is_empty() && self.domain.is_empty() && self.search.is_empty() && self.options.is_empty()
    }
}

impl AddResult {
    /// The document for stdout, in this version's shape. Error (code 999): 0.1.0 and 0.2.0 cannot express a result
    /// without addresses.
    pub fn to_json(&self, version: Version) -> Result<Vec<u8>, Error> {
        write::to_json(self, version)
    }

    /// Reads a result in the shape of the version that it states, or of `config_version` if it states none.
    /// `null` is an empty result. Errors (code 999): not JSON, an unknown version, a value of the wrong type.
    pub fn from_json(bytes: &[u8], config_version: Version) -> Result<Self, Error> {
        from_stated(&decode::parse(bytes).map_err(|e| Error::internal(e.to_string()))?, config_version)
    }
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests;
