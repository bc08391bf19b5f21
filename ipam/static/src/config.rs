//! From the config, the runtime's wishes and `CNI_ARGS` to the addresses of the container.

use std::net::IpAddr;

use cni::args::{self, Args};
use cni::{AddResult, Call, Cidr, Dns, Error, IpConfig, Route, Version, parse_ip};
use serde::Deserialize;

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    ipam: Option<Ipam>,
    runtime_config: Wishes,
    args: ConfigArgs,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Ipam {
    addresses: Vec<Address>,
    routes: Vec<Route>,
    dns: Dns,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Address {
    /// Read later: another source may replace it, and then it need not be right.
    address: String,
    #[serde(deserialize_with = "cni::cidr::optional_ip")]
    gateway: Option<IpAddr>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ConfigArgs {
    cni: Wishes,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Wishes {
    ips: Vec<String>,
}

/// What ADD answers: checked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// In the order of the result.
    pub(crate) ips: Vec<IpConfig>,
    routes: Vec<Route>,
    dns: Dns,
}

impl Plan {
    /// Reads and checks everything. Errors: code 999.
    pub(crate) fn new(call: &Call) -> Result<Self, Error> {
        let Config { ipam, runtime_config, args } = call.config()?;
        let Ipam { addresses, routes, dns } = ipam.ok_or_else(|| Error::internal("IPAM config missing 'ipam' key"))?;
        let from_environment = environment(&args::parse(&call.env.args, &["IP", "GATEWAY"])?)?;
        let from_args = wished(&args.cni.ips)?;
        let from_runtime = wished(&runtime_config.ips)?;
        // The environment adds to the config; who asks by name for addresses gets these only.
        let ips = if !from_runtime.is_empty() {
            from_runtime
        } else if !from_args.is_empty() {
            from_args
        } else {
            let mut ips = configured(&addresses)?;
            ips.extend(from_environment);
            ips
        };
        one_per_family(&ips, call.version)?;
        Ok(Self { ips, routes, dns })
    }

    pub(crate) fn into_result(self) -> AddResult {
        AddResult { interfaces: Vec::new(), ips: self.ips, routes: self.routes, dns: self.dns }
    }
}

/// `ipam.addresses`.
fn configured(addresses: &[Address]) -> Result<Vec<IpConfig>, Error> {
    let read = |Address { address: text, gateway }: &Address| {
        let address: Cidr = text.parse().map_err(|_| {
            Error::internal(format!("the 'address' field is expected to be in CIDR notation, got: '{text}'"))
        })?;
        if let Some(gateway) = gateway.filter(|gateway| gateway.is_ipv4() != address.is_ipv4()) {
            return Err(Error::internal(format!(
                "the gateway {gateway} is of another family than its address {address}"
            )));
        }
        Ok(IpConfig { interface: None, address, gateway: *gateway })
    };
    addresses.iter().map(read).collect()
}

/// `IP` and `GATEWAY` of `CNI_ARGS`: lists with commas. A gateway is that of each of these addresses whose subnet it
/// is in; the config's addresses have their own.
fn environment(args: &Args) -> Result<Vec<IpConfig>, Error> {
    let mut ips = Vec::new();
    for text in list(args.get("IP")) {
        let address = text.parse().map_err(|_| {
            Error::internal(format!("the 'ip' field is expected to be in CIDR notation, got: '{text}'"))
        })?;
        ips.push(IpConfig { interface: None, address, gateway: None });
    }
    for text in list(args.get("GATEWAY")) {
        let gateway = parse_ip(text).map_err(|_| Error::internal(format!("invalid gateway address: {text}")))?;
        for ip in ips.iter_mut().filter(|ip| ip.address.contains(gateway)) {
            ip.gateway = Some(gateway);
        }
    }
    Ok(ips)
}

fn list(text: Option<&str>) -> impl Iterator<Item = &str> {
    text.filter(|text| !text.is_empty()).into_iter().flat_map(|text| text.split(',')).map(str::trim)
}

/// `runtimeConfig.ips` and `args.cni.ips`.
fn wished(texts: &[String]) -> Result<Vec<IpConfig>, Error> {
    let read = |text: &String| {
        let address = text.parse().map_err(|_| {
            Error::internal(format!("an entry in the 'ips' field is NOT in CIDR notation, got: '{text}'"))
        })?;
        Ok(IpConfig { interface: None, address, gateway: None })
    };
    texts.iter().map(read).collect()
}

/// Old results have room for one IPv4 and one IPv6 address.
fn one_per_family(ips: &[IpConfig], version: Version) -> Result<(), Error> {
    let v4 = ips.iter().filter(|ip| ip.address.is_ipv4()).count();
    if version < Version::V0_3_0 && (v4 > 1 || ips.len() - v4 > 1) {
        let texts: Vec<_> = ips.iter().map(|ip| ip.address.to_string()).collect();
        return Err(Error::internal(format!("CNI version {version} does not support more than 1 address per family"))
            .with_details(format!("the addresses are {}", texts.join(", "))));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use cni::Env;

    use super::*;

    fn read(version: &str, members: &str, args: &str) -> Result<Plan, Error> {
        let json = format!("{{\"cniVersion\":\"{version}\",\"name\":\"n\"{members}}}");
        Plan::new(&Call::new(Env { args: args.into(), ..Env::default() }, json.into_bytes()).unwrap())
    }

    /// Addresses, with the gateway after a `>`.
    fn ips(members: &str, args: &str) -> Vec<String> {
        let text =
            |ip: &IpConfig| ip.gateway.map_or(ip.address.to_string(), |gateway| format!("{}>{gateway}", ip.address));
        read("1.1.0", members, args).unwrap().ips.iter().map(text).collect()
    }

    fn refused(members: &str, args: &str) -> String {
        let error = read("1.1.0", members, args).unwrap_err();
        assert_eq!(error.code, 999);
        error.msg
    }

    const CONFIGURED: &str =
        r#","ipam":{"addresses":[{"address":"10.1.2.3/24","gateway":"10.1.2.1"},{"address":"fd00::5/64"}]}"#;

    #[test]
    fn sources_and_their_precedence() {
        assert_eq!(ips(CONFIGURED, ""), ["10.1.2.3/24>10.1.2.1", "fd00::5/64"]);
        assert_eq!(ips(CONFIGURED, "IP=10.9.0.1/8"), ["10.1.2.3/24>10.1.2.1", "fd00::5/64", "10.9.0.1/8"]);
        let args = format!(r#"{CONFIGURED},"args":{{"cni":{{"ips":["10.2.0.1/8"]}}}}"#);
        assert_eq!(ips(&args, "IP=10.9.0.1/8"), ["10.2.0.1/8"]);
        let both = format!(r#"{args},"runtimeConfig":{{"ips":["10.3.0.1/8","fd03::1/64"]}}"#);
        assert_eq!(ips(&both, "IP=10.9.0.1/8"), ["10.3.0.1/8", "fd03::1/64"]);
        let empty = format!(r#"{args},"runtimeConfig":{{"ips":[]}}"#);
        assert_eq!(ips(&empty, ""), ["10.2.0.1/8"]);
        // What is replaced need not be right.
        let replaced = r#","ipam":{"addresses":[{"address":"bad"}]},"args":{"cni":{"ips":["10.2.0.1/8"]}}"#;
        assert_eq!(ips(replaced, ""), ["10.2.0.1/8"]);
        assert!(ips(r#","ipam":{}"#, "").is_empty());
    }

    #[test]
    fn environment_variables() {
        let ipam = r#","ipam":{}"#;
        let args = "IP=10.1.2.3/24, 10.1.3.3/24,fd00::5/64;GATEWAY=10.1.2.1,10.1.3.1, 10.1.3.2,fd00::1;IgnoreUnknown=1;K8S_POD_UID=7";
        assert_eq!(ips(ipam, args), ["10.1.2.3/24>10.1.2.1", "10.1.3.3/24>10.1.3.2", "fd00::5/64>fd00::1"]);
        // Neither an address outside all subnets, nor the config's addresses get a gateway from here.
        assert_eq!(ips(CONFIGURED, "IP=10.9.0.1/16;GATEWAY=fd00::9")[1..], ["fd00::5/64", "10.9.0.1/16"]);
        assert!(ips(ipam, "IP=;GATEWAY=").is_empty());
        for (args, expected) in [
            ("IP=10.1.2.3", "the 'ip' field is expected to be in CIDR notation, got: '10.1.2.3'"),
            ("IP=10.1.2.3/24,", "the 'ip' field is expected to be in CIDR notation, got: ''"),
            ("IP=10.1.2.3/24;GATEWAY=x", "invalid gateway address: x"),
            ("GATEWAY=10.1.2.1,", "invalid gateway address: "),
            ("FOO=1", "ARGS: unknown args [\"FOO=1\"]"),
            ("IP=10.1.2.3/24;", "ARGS: invalid pair \"\""),
        ] {
            assert_eq!(refused(ipam, args), expected);
        }
    }

    #[test]
    fn configs_that_cannot_work() {
        for (members, expected) in [
            ("", "IPAM config missing 'ipam' key"),
            (r#","ipam":null"#, "IPAM config missing 'ipam' key"),
            (
                r#","ipam":{"addresses":[{"address":"10.1.2.3"}]}"#,
                "the 'address' field is expected to be in CIDR notation, got: '10.1.2.3'",
            ),
            (r#","ipam":{"addresses":[{}]}"#, "the 'address' field is expected to be in CIDR notation, got: ''"),
            (
                r#","ipam":{"addresses":[{"address":"10.1.2.3/24","gateway":"x"}]}"#,
                "failed to load netconf: ipam.addresses[0].gateway: invalid IP address: x",
            ),
            (
                r#","ipam":{"addresses":[{"address":"10.1.2.3/24","gateway":"fd00::1"}]}"#,
                "the gateway fd00::1 is of another family than its address 10.1.2.3/24",
            ),
            (
                r#","ipam":{},"args":{"cni":{"ips":["10.1.2.x"]}},"runtimeConfig":{"ips":["10.1.2.3/24"]}"#,
                "an entry in the 'ips' field is NOT in CIDR notation, got: '10.1.2.x'",
            ),
            (
                r#","ipam":{},"runtimeConfig":{"ips":["10.1.2.3"]}"#,
                "an entry in the 'ips' field is NOT in CIDR notation, got: '10.1.2.3'",
            ),
            (r#","ipam":{"routes":[{}]}"#, "failed to load netconf: ipam.routes[0].dst: required, but missing"),
            (r#","ipam":{"routes":{}}"#, "failed to load netconf: ipam.routes: expected an array, found an object"),
        ] {
            assert_eq!(refused(members, ""), expected);
        }
    }

    #[test]
    fn old_versions_have_one_address_per_family() {
        let two = r#","ipam":{"addresses":[{"address":"10.1.2.3/24"},{"address":"10.1.2.4/24"}]}"#;
        for version in Version::ALL {
            assert!(read(&version.to_string(), CONFIGURED, "").is_ok());
            let answer = read(&version.to_string(), two, "").map_err(|e| e.msg);
            let expected = format!("CNI version {version} does not support more than 1 address per family");
            if *version < Version::V0_3_0 {
                assert_eq!(answer, Err(expected));
            } else {
                assert!(answer.is_ok());
            }
        }
    }

    #[test]
    fn the_rest_of_the_result() {
        let members =
            r#","ipam":{"routes":[{"dst":"0.0.0.0/0","gw":"10.1.2.1","mtu":1400,"table":0}],"DNS":{"domain":"d"}}"#;
        let result = read("1.1.0", members, "").unwrap().into_result();
        assert_eq!(result.routes.len(), 1);
        assert_eq!((result.routes[0].mtu, result.routes[0].table), (1400, Some(0)));
        assert_eq!(result.dns.domain, "d");
    }
}
