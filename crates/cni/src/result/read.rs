//! From each version's shape.

use std::net::IpAddr;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{AddResult, Dns, Interface, IpConfig, Route};
use crate::cidr::{Cidr, optional_ip};
use crate::decode::Node;
use crate::{Error, Version};

/// A result in the shape of the version that it states, or else of `default`.
pub(crate) fn from_stated(document: &Node, default: Version) -> Result<AddResult, Error> {
    let version = match stated(document)?.as_str() {
        "" => default,
        text => text.parse().map_err(|_| Error::internal(format!("unsupported CNI result version \"{text}\"")))?,
    };
    in_shape(document, version)
}

/// A `prevResult`: the config's version gives the shape, and another one is an error.
pub(crate) fn from_previous(document: &Node, config: Version) -> Result<AddResult, Error> {
    let text = stated(document)?;
    if !text.is_empty() && !config.family().iter().any(|v| v.as_str() == text) {
        let family: Vec<_> = config.family().iter().map(ToString::to_string).collect();
        return Err(Error::internal(format!(
            "result type supports [{}] but unmarshalled CNIVersion is \"{text}\"",
            family.join(" ")
        )));
    }
    in_shape(document, config)
}

fn stated(document: &Node) -> Result<String, Error> {
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Head {
        cni_version: String,
    }
    decode::<Head>(document).map(|head| head.cni_version)
}

fn in_shape(document: &Node, version: Version) -> Result<AddResult, Error> {
    match version {
        Version::V0_1_0 | Version::V0_2_0 => decode::<Pair>(document).map(Pair::into_result),
        Version::V0_3_0 | Version::V0_3_1 | Version::V0_4_0 => {
            let mut result = decode::<Lists>(document)?.into_result();
            for interface in &mut result.interfaces {
                interface.mtu = None;
                interface.socket_path.clear();
                interface.pci_id.clear();
            }
            Ok(result)
        }
        Version::V1_0_0 | Version::V1_1_0 => decode::<Lists>(document).map(Lists::into_result),
    }
}

fn decode<T: DeserializeOwned>(document: &Node) -> Result<T, Error> {
    document.decode().map_err(|e| Error::internal(e.to_string()))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Lists {
    interfaces: Vec<Interface>,
    ips: Vec<IpConfig>,
    routes: Vec<Route>,
    dns: Dns,
}

impl Lists {
    fn into_result(self) -> AddResult {
        let Self { interfaces, ips, routes, dns } = self;
        AddResult { interfaces, ips, routes, dns }
    }
}

/// 0.1.0 and 0.2.0.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Pair {
    ip4: Option<Single>,
    ip6: Option<Single>,
    dns: Dns,
}

#[derive(Deserialize)]
struct Single {
    ip: Cidr,
    #[serde(default, deserialize_with = "optional_ip")]
    gateway: Option<IpAddr>,
    #[serde(default)]
    routes: Vec<Route>,
}

impl Pair {
    fn into_result(self) -> AddResult {
        let mut result = AddResult { dns: self.dns, ..AddResult::default() };
        for Single { ip, gateway, routes } in [self.ip4, self.ip6].into_iter().flatten() {
            result.ips.push(IpConfig { interface: None, address: ip, gateway });
            result.routes.extend(routes.into_iter().map(|route| Route::new(route.dst, route.gw)));
        }
        result
    }
}
