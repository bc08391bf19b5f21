//! Into each version's shape, keys in the reference's order.

use std::net::IpAddr;

use serde::Serialize;

use super::{AddResult, Dns, Interface, IpConfig, Route};
use crate::cidr::Cidr;
use crate::{Error, Version, output};

pub(super) fn to_json(result: &AddResult, version: Version) -> Result<Vec<u8>, Error> {
    Ok(match version {
        Version::V0_1_0 | Version::V0_2_0 => output::pretty(&Pair::new(result, version)?),
        Version::V0_3_0 | Version::V0_3_1 | Version::V0_4_0 => output::pretty(&ListsOf03::new(result, version)),
        Version::V1_0_0 | Version::V1_1_0 => output::pretty(&ListsOf1::new(result, version)),
    })
}

fn empty(text: &&str) -> bool {
    text.is_empty()
}

/// 0.1.0 and 0.2.0.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Pair<'a> {
    cni_version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip4: Option<Single>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip6: Option<Single>,
    dns: &'a Dns,
}

#[derive(Serialize)]
struct Single {
    ip: Cidr,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<Route>,
}

impl<'a> Pair<'a> {
    fn new(result: &'a AddResult, version: Version) -> Result<Self, Error> {
        let (ip4, ip6) = (Single::first_of(result, true), Single::first_of(result, false));
        if ip4.is_none() && ip6.is_none() {
            return Err(Error::internal("cannot convert: no valid IP addresses")
                .with_details(format!("a result of cniVersion {version} has at least one IP address")));
        }
        Ok(Self { cni_version: version.as_str(), ip4, ip6, dns: &result.dns })
    }
}

impl Single {
    /// The family's first address, with all routes of the family.
    fn first_of(result: &AddResult, v4: bool) -> Option<Self> {
        let ip = result.ips.iter().find(|ip| ip.address.is_ipv4() == v4)?;
        let routes = result.routes.iter().filter(|route| route.dst.is_ipv4() == v4);
        Some(Self {
            ip: ip.address,
            gateway: ip.gateway,
            routes: routes.map(|route| Route::new(route.dst, route.gw)).collect(),
        })
    }
}

/// 0.3.0, 0.3.1 and 0.4.0.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ListsOf03<'a> {
    cni_version: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    interfaces: Vec<InterfaceOf03<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ips: Vec<IpOf03>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    routes: &'a [Route],
    dns: &'a Dns,
}

#[derive(Serialize)]
struct InterfaceOf03<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "empty")]
    mac: &'a str,
    #[serde(skip_serializing_if = "empty")]
    sandbox: &'a str,
}

#[derive(Serialize)]
struct IpOf03 {
    version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<i64>,
    address: Cidr,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
}

impl<'a> ListsOf03<'a> {
    fn new(result: &'a AddResult, version: Version) -> Self {
        let interface = |i: &'a Interface| InterfaceOf03 { name: &i.name, mac: &i.mac, sandbox: &i.sandbox };
        let ip = |ip: &IpConfig| IpOf03 {
            version: if ip.address.is_ipv4() { "4" } else { "6" },
            interface: ip.interface,
            address: ip.address,
            gateway: ip.gateway,
        };
        Self {
            cni_version: version.as_str(),
            interfaces: result.interfaces.iter().map(interface).collect(),
            ips: result.ips.iter().map(ip).collect(),
            routes: &result.routes,
            dns: &result.dns,
        }
    }
}

/// 1.0.0 and 1.1.0: every object's keys in alphabetical order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ListsOf1<'a> {
    cni_version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    dns: Option<DnsOf1<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    interfaces: Vec<InterfaceOf1<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ips: Vec<IpOf1>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<RouteOf1>,
}

#[derive(Serialize)]
struct DnsOf1<'a> {
    #[serde(skip_serializing_if = "empty")]
    domain: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    nameservers: &'a [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    options: &'a [String],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    search: &'a [String],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct InterfaceOf1<'a> {
    #[serde(skip_serializing_if = "empty")]
    mac: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
    name: &'a str,
    #[serde(rename = "pciID", skip_serializing_if = "empty")]
    pci_id: &'a str,
    #[serde(skip_serializing_if = "empty")]
    sandbox: &'a str,
    #[serde(skip_serializing_if = "empty")]
    socket_path: &'a str,
}

#[derive(Serialize)]
struct IpOf1 {
    address: Cidr,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<i64>,
}

#[derive(Serialize)]
struct RouteOf1 {
    #[serde(skip_serializing_if = "super::is_zero")]
    advmss: i64,
    dst: Cidr,
    #[serde(skip_serializing_if = "Option::is_none")]
    gw: Option<IpAddr>,
    #[serde(skip_serializing_if = "super::is_zero")]
    mtu: i64,
    #[serde(skip_serializing_if = "super::is_zero")]
    priority: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<i64>,
}

impl<'a> ListsOf1<'a> {
    fn new(result: &'a AddResult, version: Version) -> Self {
        let Dns { nameservers, domain, search, options } = &result.dns;
        let interface = |i: &'a Interface| InterfaceOf1 {
            mac: &i.mac,
            mtu: i.mtu.filter(|mtu| *mtu != 0),
            name: &i.name,
            pci_id: &i.pci_id,
            sandbox: &i.sandbox,
            socket_path: &i.socket_path,
        };
        let ip = |ip: &IpConfig| IpOf1 { address: ip.address, gateway: ip.gateway, interface: ip.interface };
        let route = |r: &Route| RouteOf1 {
            advmss: r.advmss,
            dst: r.dst,
            gw: r.gw,
            mtu: r.mtu,
            priority: r.priority,
            scope: r.scope,
            table: r.table,
        };
        Self {
            cni_version: version.as_str(),
            dns: (!result.dns.is_empty()).then_some(DnsOf1 { domain, nameservers, options, search }),
            interfaces: result.interfaces.iter().map(interface).collect(),
            ips: result.ips.iter().map(ip).collect(),
            routes: result.routes.iter().map(route).collect(),
        }
    }
}
