//! What the network config, the runtime and CNI_ARGS ask for, and the plan that comes of it.
//!
//! [`Config`] is the JSON; [`Plan`] is checked and complete: steps use the plan only.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use cni::{Call, Cidr, Error, Route, Version, args, parse_ip};
use serde::{Deserialize, Deserializer, de};

use crate::range::{self, RangeSet, RangeText};
use crate::store::record::Pod;

/// Where reservations are kept unless the config says otherwise.
const DEFAULT_DATA_DIR: &str = "/var/lib/cni/networks";

/// What ADD and CHECK work with.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) data_dir: PathBuf,
    /// At least one; no two overlap.
    pub(crate) sets: Vec<RangeSet>,
    /// Every address asked for, once each, in the order CNI_ARGS, `args.cni.ips`, `runtimeConfig.ips`.
    pub(crate) requested: Vec<IpAddr>,
    pub(crate) routes: Vec<Route>,
    pub(crate) resolv_conf: Option<PathBuf>,
}

impl Plan {
    /// Reads and checks everything. Errors are of code 999, with the reference's texts.
    pub(crate) fn new(call: &Call) -> Result<Self, Error> {
        let config: Config = call.config()?;
        let ipam = config.ipam.ok_or_else(|| Error::internal("IPAM config missing 'ipam' key"))?;
        let arg = args::parse(&call.env.args, &["IP"])?;
        let mut requested = Vec::new();
        if let Some(text) = arg.get("IP").filter(|text| !text.is_empty()) {
            requested.push(Requested::parse(text).map_err(|e| Error::internal(format!("ARGS: {e}")))?);
        }
        let runtime = config.runtime_config.unwrap_or_default();
        requested.extend(config.args.and_then(|args| args.cni).and_then(|cni| cni.ips).unwrap_or_default());
        requested.extend(runtime.ips.unwrap_or_default());

        let mut texts = runtime.ip_ranges.unwrap_or_default();
        texts.extend(ipam.single_range().map(|range| Some(vec![range])));
        texts.extend(ipam.ranges.unwrap_or_default());
        Ok(Self {
            data_dir: data_dir(ipam.data_dir.as_deref()),
            requested: addresses(&requested)?,
            sets: range_sets(&texts, call.version)?,
            routes: ipam.routes.unwrap_or_default(),
            resolv_conf: ipam.resolv_conf.filter(|path| !path.is_empty()).map(PathBuf::from),
        })
    }

    /// Which requested address each range set is to give: the first asked for that it has.
    ///
    /// Errors: an address that no set has, or that is a gateway.
    pub(crate) fn assign(&self) -> Result<Vec<Option<IpAddr>>, Error> {
        let mut left = self.requested.clone();
        let mut assigned = Vec::with_capacity(self.sets.len());
        for (n, set) in self.sets.iter().enumerate() {
            let ip = left.iter().position(|ip| set.contains(*ip)).map(|at| left.remove(at));
            if let Some(ip) = ip
                && set.range_of(ip).is_some_and(|range| range.gateway == ip)
            {
                let text = format!("failed to allocate for range {n}: requested ip {ip} is subnet's gateway");
                return Err(Error::internal(text));
            }
            assigned.push(ip);
        }
        if left.is_empty() {
            return Ok(assigned);
        }
        let ips: Vec<String> = left.iter().map(ToString::to_string).collect();
        let sets: Vec<String> = self.sets.iter().map(ToString::to_string).collect();
        Err(Error::internal(format!("failed to allocate all requested IPs: {}", ips.join(" ")))
            .with_details(format!("each range set gives one address, and the sets are: {}", sets.join("; "))))
    }
}

/// Where this network's store is, whatever else the config has. DEL must work with a config that has become invalid.
pub(crate) fn store_root(call: &Call) -> PathBuf {
    let only: Option<DataDirOnly> = cni::decode::from_slice(&call.stdin).ok();
    let named = only.and_then(|config| config.ipam).and_then(|ipam| ipam.data_dir);
    data_dir(named.as_ref().and_then(serde_json::Value::as_str))
}

/// The pod that a Kubernetes runtime names in CNI_ARGS.
pub(crate) fn pod(cni_args: &str) -> Option<Pod> {
    let value = |key: &str| cni_args.split(';').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
    let named = |text: &str| (!text.is_empty() && text.len() <= 253).then(|| text.to_owned());
    Some(Pod { namespace: named(value("K8S_POD_NAMESPACE")?)?, name: named(value("K8S_POD_NAME")?)? })
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    ipam: Option<Ipam>,
    runtime_config: Option<RuntimeConfig>,
    args: Option<Args>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ipam {
    // The form with a single range, from before there were sets; it counts if it has a subnet.
    subnet: Option<Subnet>,
    #[serde(default, deserialize_with = "cni::cidr::optional_ip")]
    range_start: Option<IpAddr>,
    #[serde(default, deserialize_with = "cni::cidr::optional_ip")]
    range_end: Option<IpAddr>,
    #[serde(default, deserialize_with = "cni::cidr::optional_ip")]
    gateway: Option<IpAddr>,
    ranges: Option<Vec<Option<Vec<RangeJson>>>>,
    routes: Option<Vec<Route>>,
    data_dir: Option<String>,
    resolv_conf: Option<String>,
}

impl Ipam {
    fn single_range(&self) -> Option<RangeJson> {
        let Self { range_start, range_end, gateway, .. } = *self;
        Some(RangeJson { subnet: Some(self.subnet?), range_start, range_end, gateway })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RuntimeConfig {
    ips: Option<Vec<Requested>>,
    ip_ranges: Option<Vec<Option<Vec<RangeJson>>>>,
}

#[derive(Debug, Deserialize)]
struct Args {
    cni: Option<CniArgs>,
}

#[derive(Debug, Deserialize)]
struct CniArgs {
    ips: Option<Vec<Requested>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RangeJson {
    subnet: Option<Subnet>,
    #[serde(default, deserialize_with = "cni::cidr::optional_ip")]
    range_start: Option<IpAddr>,
    #[serde(default, deserialize_with = "cni::cidr::optional_ip")]
    range_end: Option<IpAddr>,
    #[serde(default, deserialize_with = "cni::cidr::optional_ip")]
    gateway: Option<IpAddr>,
}

#[derive(Debug, Deserialize)]
struct DataDirOnly {
    ipam: Option<DataDirIpam>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DataDirIpam {
    data_dir: Option<serde_json::Value>,
}

/// A subnet that remembers having been written as an IPv4-mapped IPv6 one.
#[derive(Debug, Clone, Copy)]
struct Subnet {
    cidr: Cidr,
    mapped: bool,
}

impl<'de> Deserialize<'de> for Subnet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let cidr: Cidr = text.parse().map_err(de::Error::custom)?;
        Ok(Self { cidr, mapped: cidr.is_ipv4() && text.contains(':') })
    }
}

/// A requested address; a prefix length is read and forgotten. `None`: an empty text.
#[derive(Debug, Clone, Copy)]
struct Requested(Option<IpAddr>);

impl Requested {
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        let ip = if text.contains('/') { text.parse().ok().map(|cidr: Cidr| cidr.addr()) } else { parse_ip(text).ok() };
        ip.map(|ip| Self(Some(ip))).ok_or_else(|| format!("invalid IP address {text}"))
    }
}

impl<'de> Deserialize<'de> for Requested {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?.unwrap_or_default();
        Self::parse(&text).map_err(de::Error::custom)
    }
}

fn data_dir(named: Option<&str>) -> PathBuf {
    Path::new(named.filter(|dir| !dir.is_empty()).unwrap_or(DEFAULT_DATA_DIR)).to_path_buf()
}

fn addresses(requested: &[Requested]) -> Result<Vec<IpAddr>, Error> {
    let mut ips = Vec::with_capacity(requested.len());
    for Requested(ip) in requested {
        let ip = ip.ok_or_else(|| Error::internal("cannot understand ip: a requested address is empty"))?;
        if !ips.contains(&ip) {
            ips.push(ip);
        }
    }
    Ok(ips)
}

fn range_sets(texts: &[Option<Vec<RangeJson>>], version: Version) -> Result<Vec<RangeSet>, Error> {
    if texts.is_empty() {
        return Err(Error::internal("no IP ranges specified"));
    }
    let mut sets: Vec<RangeSet> = Vec::with_capacity(texts.len());
    for (n, ranges) in texts.iter().enumerate() {
        let invalid = |e: &dyn std::fmt::Display| Error::internal(format!("invalid range set {n}: {e}"));
        let ranges = ranges.as_deref().unwrap_or_default();
        let missing = || invalid(&"IP <nil> not v4 nor v6 (a range has no subnet)");
        let ranges = ranges.iter().map(|range| range_text(range).ok_or_else(missing)).collect::<Result<Vec<_>, _>>()?;
        sets.push(RangeSet::resolve(&ranges).map_err(|e: range::Error| invalid(&e))?);
    }
    let v4 = sets.iter().filter(|set| set.is_ipv4()).count();
    if version < Version::V0_3_0 && v4.max(sets.len() - v4) > 1 {
        return Err(Error::internal(format!("CNI version {version} does not support more than 1 address per family")));
    }
    for (i, a) in sets.iter().enumerate() {
        if let Some(j) = sets[i + 1..].iter().position(|b| a.overlaps(b)) {
            return Err(Error::internal(format!("range set {i} overlaps with {}", i + 1 + j)));
        }
    }
    Ok(sets)
}

fn range_text(range: &RangeJson) -> Option<RangeText> {
    let Subnet { cidr, mapped } = range.subnet?;
    Some(RangeText { subnet: cidr, mapped, start: range.range_start, end: range.range_end, gateway: range.gateway })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sets(config: serde_json::Value, version: Version) -> Result<String, String> {
        let ranges: Vec<Option<Vec<RangeJson>>> = serde_json::from_value(config).map_err(|e| e.to_string())?;
        let sets = range_sets(&ranges, version).map_err(|e| e.msg)?;
        Ok(sets.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    }

    #[test]
    fn range_sets_and_their_errors() {
        let refused = |config, text: &str| assert_eq!(sets(config, Version::V1_1_0).unwrap_err(), text);
        refused(json!([]), "no IP ranges specified");
        refused(json!([[]]), "invalid range set 0: empty range set");
        refused(json!([null]), "invalid range set 0: empty range set");
        refused(json!([[{}]]), "invalid range set 0: IP <nil> not v4 nor v6 (a range has no subnet)");
        refused(
            json!([[{"subnet": "::ffff:10.0.0.0/120"}]]),
            "invalid range set 0: IPNet IP and Mask version mismatch",
        );
        refused(
            json!([[{"subnet": "10.0.0.0/24"}], [{"subnet": "10.0.1.0/31"}]]),
            "invalid range set 1: Network 10.0.1.0/31 too small to allocate from",
        );
        refused(
            json!([[{"subnet": "10.0.0.0/24"}], [{"subnet": "fd00::/64"}], [{"subnet": "10.0.0.0/25"}]]),
            "range set 0 overlaps with 2",
        );
        assert!(
            sets(json!([[{"subnet": "10.0.0.0"}]]), Version::V1_1_0)
                .unwrap_err()
                .contains("invalid CIDR address: 10.0.0.0")
        );
        let two = json!([[{"subnet": "10.0.0.0/24", "gateway": ""}], [{"subnet": "10.0.1.0/24", "rangeEnd": null}]]);
        assert_eq!(sets(two.clone(), Version::V0_3_0).unwrap(), "10.0.0.1-10.0.0.254; 10.0.1.1-10.0.1.254");
        assert_eq!(
            sets(two, Version::V0_2_0).unwrap_err(),
            "CNI version 0.2.0 does not support more than 1 address per family"
        );
        let dual = json!([[{"subnet": "10.0.0.0/24"}], [{"subnet": "fd00::/64"}]]);
        assert!(sets(dual, Version::V0_2_0).is_ok());
    }

    #[test]
    fn the_single_range_form_is_read_beside_the_rest() {
        let ipam: Ipam = serde_json::from_value(json!({
            "type": "host-local", "subnet": "10.0.0.0/24", "rangeStart": "10.0.0.9", "dataDir": "/x",
            "routes": [{"dst": "0.0.0.0/0"}]
        }))
        .unwrap();
        assert_eq!(range_text(&ipam.single_range().unwrap()).unwrap().start, "10.0.0.9".parse().ok());
        assert_eq!((ipam.data_dir.as_deref(), ipam.routes.map(|r| r.len())), (Some("/x"), Some(1)));
        let bare: Ipam = serde_json::from_value(json!({"type": "host-local"})).unwrap();
        assert!(bare.single_range().is_none() && bare.ranges.is_none());
    }

    #[test]
    fn requested_addresses() {
        let plan = |requested: &[&str]| {
            let ranges: Vec<Option<Vec<RangeJson>>> =
                serde_json::from_value(json!([[{"subnet": "10.0.0.0/24"}], [{"subnet": "fd00::/64"}]])).unwrap();
            let requested: Vec<Requested> = requested.iter().map(|text| Requested::parse(text).unwrap()).collect();
            Plan {
                data_dir: PathBuf::new(),
                sets: range_sets(&ranges, Version::V1_1_0).unwrap(),
                requested: addresses(&requested).unwrap(),
                routes: Vec::new(),
                resolv_conf: None,
            }
        };
        let ip = |text: &str| text.parse::<IpAddr>().ok();
        assert_eq!(plan(&["fd00::9/64", "10.0.0.7"]).assign(), Ok(vec![ip("10.0.0.7"), ip("fd00::9")]));
        assert_eq!(plan(&["10.0.0.7/24", "::ffff:10.0.0.7"]).assign(), Ok(vec![ip("10.0.0.7"), None]));
        let error = plan(&["10.0.0.7", "10.0.0.8", "10.9.0.1"]).assign().unwrap_err();
        assert_eq!(error.msg, "failed to allocate all requested IPs: 10.0.0.8 10.9.0.1");
        let error = plan(&["fd00::1"]).assign().unwrap_err();
        assert_eq!(error.msg, "failed to allocate for range 1: requested ip fd00::1 is subnet's gateway");
        assert_eq!(Requested::parse("10.0.0.300").unwrap_err(), "invalid IP address 10.0.0.300");
        assert!(addresses(&[Requested(None)]).unwrap_err().msg.starts_with("cannot understand ip"));
    }

    #[test]
    fn pods() {
        let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=x";
        assert_eq!(pod(args), Some(Pod { namespace: "default".to_owned(), name: "web-0".to_owned() }));
        assert_eq!(pod("IP=10.0.0.1"), None);
    }
}
