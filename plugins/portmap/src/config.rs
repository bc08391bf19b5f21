//! From what the config says to what is to be done: [`Config`] is the JSON, [`Plan`] has nothing left to check.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use cni::{AddResult, Call, Cidr, Error};
use netlink::nft::Family;
use serde::Deserialize;

use crate::condition::{self, Conditions, Syntax};

/// Of the reference: the mark 0x2000.
const DEFAULT_MARK_BIT: u8 = 13;

/// The config's own keys; unknown ones are other plugins'.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    backend: Option<String>,
    snat: Option<bool>,
    masq_all: bool,
    mark_masq_bit: Option<i64>,
    external_set_mark_chain: Option<String>,
    conditions_v4: Option<Vec<String>>,
    conditions_v6: Option<Vec<String>>,
    runtime_config: RuntimeConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RuntimeConfig {
    port_mappings: Option<Vec<PortMapping>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PortMapping {
    host_port: i64,
    container_port: i64,
    protocol: String,
    #[serde(rename = "hostIP")]
    host_ip: String,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// As `iptables` and `nft` know it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// `IPPROTO_*`.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The protocol of this `IPPROTO_*`.
    pub(crate) fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.number() == number)
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.name().eq_ignore_ascii_case(text))
    }
}

/// A port of the host that leads to a port of the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) protocol: Protocol,
    pub(crate) host_port: u16,
    pub(crate) container_port: u16,
    /// `None`: any address of the host; an unspecified address: any of its family.
    pub(crate) host_ip: Option<IpAddr>,
}

impl Mapping {
    /// Whether it is for this family.
    pub(crate) fn is_for(&self, family: Family) -> bool {
        self.host_ip.is_none_or(|ip| Family::of(ip) == family)
    }

    /// The one address of the host that it is for; `None`: any.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.host_ip.filter(|ip| !ip.is_unspecified())
    }

    /// Whether both claim the same port of the same addresses.
    fn collides(&self, other: &Self) -> bool {
        let families = [Family::Ip, Family::Ip6];
        (self.protocol, self.host_port, self.address()) == (other.protocol, other.host_port, other.address())
            && families.iter().any(|f| self.is_for(*f) && other.is_for(*f))
    }
}

impl std::fmt::Display for Mapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.host_ip {
            Some(IpAddr::V6(ip)) => write!(f, "[{ip}]:")?,
            Some(ip) => write!(f, "{ip}:")?,
            None => {}
        }
        write!(f, "{}/{}", self.host_port, self.protocol.name())
    }
}

/// How the masquerading of the iptables backend marks packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Mark {
    /// This bit, in chains of our own.
    Bit(u8),
    /// Whatever another program's chain sets and does.
    Chain(String),
}

/// By what means ports are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    /// Our own tables.
    Nftables,
    /// Chains of the reference's layout, by `iptables-restore`.
    Iptables,
}

/// What is to be published, and how: checked, nothing contradicts.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) backend: Backend,
    /// Without repetitions.
    pub(crate) mappings: Vec<Mapping>,
    /// Whether the host and the pod's siblings are masqueraded where answers would not come back otherwise.
    pub(crate) snat: bool,
    /// Whether everyone is.
    pub(crate) masq_all: bool,
    pub(crate) mark: Mark,
    v4: FamilyConditions,
    v6: FamilyConditions,
}

#[derive(Debug, Default)]
struct FamilyConditions {
    words: Vec<String>,
    parsed: Option<Conditions>,
}

/// What is to be published for one address of the pod.
#[derive(Debug, Clone)]
pub(crate) struct Target<'a> {
    pub(crate) plan: &'a Plan,
    /// The pod's address, with the length of its subnet's prefix.
    pub(crate) pod: Cidr,
    /// Where the pod has one of the ports by another interface already: what both would have apart.
    again: Option<Conditions>,
}

impl<'a> Target<'a> {
    pub(crate) fn new(plan: &'a Plan, pod: Cidr) -> Self {
        Self { plan, pod, again: None }
    }

    /// The same beside what the pod has by other interfaces: published by maps of this interface's own.
    pub(crate) fn by_interface(&self, ifname: &str) -> Self {
        let all = self.plan.conditions(self.family()).map(|c| c.all.clone()).unwrap_or_default();
        let again = Conditions { family: self.family(), all, ifname: Some(ifname.to_owned()) };
        Self { again: Some(again), ..*self }
    }

    pub(crate) fn is_by_interface(&self) -> bool {
        self.again.is_some()
    }

    pub(crate) fn family(&self) -> Family {
        Family::of(self.pod.addr())
    }

    /// The mappings that are for this family.
    pub(crate) fn mappings(&self) -> impl Iterator<Item = &Mapping> {
        self.plan.mappings.iter().filter(|m| m.is_for(self.family()))
    }

    pub(crate) fn conditions(&self) -> Option<&Conditions> {
        self.again.as_ref().or_else(|| self.plan.conditions(self.family()))
    }

    /// Conditions in the words of iptables.
    pub(crate) fn words(&self) -> &[String] {
        if self.family() == Family::Ip { &self.plan.v4.words } else { &self.plan.v6.words }
    }
}

impl Plan {
    /// Reads and checks the config. Errors: code 999, with the key and its value.
    pub(crate) fn new(call: &Call) -> Result<Self, Error> {
        Self::check(call.config()?).map_err(|e| e.context("failed to parse config"))
    }

    fn check(config: Config) -> Result<Self, Error> {
        let mark = mark(&config)?;
        let mappings = mappings(&config.runtime_config.port_mappings.unwrap_or_default())?;
        let (v4, v6) = (config.conditions_v4.unwrap_or_default(), config.conditions_v6.unwrap_or_default());
        let asked = backend(config.backend.as_deref())?;
        if asked == Some(Backend::Nftables)
            && (config.mark_masq_bit.is_some() || config.external_set_mark_chain.is_some())
        {
            return Err(Error::internal(
                "markMasqBit and externalSetMarkChain are options of backend \"iptables\", the backend is \"nftables\", which needs no marks",
            ));
        }
        let read = |family, words: &[String]| match asked {
            Some(Backend::Iptables) => match condition::syntax(words) {
                Some(Syntax::Nft) => Err(Error::internal(format!(
                    "conditions \"{}\" are in nft's syntax, the backend is \"iptables\"",
                    words.join(" ")
                ))),
                _ => Ok(None),
            },
            _ => Conditions::parse(family, words),
        };
        let parsed = read(Family::Ip, &v4).and_then(|v4| Ok((v4, read(Family::Ip6, &v6)?)));
        let is_iptables = [&v4, &v6].into_iter().all(|w| condition::syntax(w) != Some(Syntax::Nft));
        let (backend, (parsed_v4, parsed_v6)) = match (asked, parsed) {
            // What only iptables can do is what it is asked for.
            (None, Err(_)) if is_iptables => (Backend::Iptables, (None, None)),
            (_, Err(error)) => return Err(error),
            (asked, Ok(parsed)) => (asked.unwrap_or(Backend::Nftables), parsed),
        };
        Ok(Self {
            backend,
            mappings,
            snat: config.snat.unwrap_or(true),
            masq_all: config.masq_all,
            mark,
            v4: FamilyConditions { words: v4, parsed: parsed_v4 },
            v6: FamilyConditions { words: v6, parsed: parsed_v6 },
        })
    }

    /// What is to be published of the pod: at most one address of each family, IPv4 first; a family for which there is
    /// no mapping has none.
    pub(crate) fn targets(&self, previous: &AddResult, ifname: &str) -> Vec<Target<'_>> {
        [Family::Ip, Family::Ip6]
            .into_iter()
            .filter_map(|family| address(previous, ifname, family))
            .map(|pod| Target::new(self, pod))
            .filter(|target| target.mappings().next().is_some())
            .collect()
    }

    pub(crate) fn conditions(&self, family: Family) -> Option<&Conditions> {
        if family == Family::Ip { self.v4.parsed.as_ref() } else { self.v6.parsed.as_ref() }
    }
}

/// The first address of the family.
fn address(previous: &AddResult, ifname: &str, family: Family) -> Option<Cidr> {
    addresses(previous, ifname).find(|address| Family::of(address.addr()) == family)
}

/// The addresses that are the pod's interface's, or nobody's in particular.
pub(crate) fn addresses(previous: &AddResult, ifname: &str) -> impl Iterator<Item = Cidr> {
    let is_pods = move |interface: Option<i64>| {
        let Some(index) = interface else { return true };
        let interface = usize::try_from(index).ok().and_then(|i| previous.interfaces.get(i));
        interface.is_none_or(|i| i.name == ifname && !i.sandbox.is_empty())
    };
    previous.ips.iter().filter(move |ip| is_pods(ip.interface)).map(|ip| ip.address)
}

fn mark(config: &Config) -> Result<Mark, Error> {
    match (config.mark_masq_bit, &config.external_set_mark_chain) {
        (Some(_), Some(_)) => Err(Error::internal("Cannot specify externalSetMarkChain and markMasqBit")),
        (None, Some(chain)) if chain.is_empty() || chain.len() > 28 || chain.contains(char::is_whitespace) => {
            Err(Error::internal(format!("externalSetMarkChain \"{chain}\" is no name of an iptables chain")))
        }
        (None, Some(chain)) => Ok(Mark::Chain(chain.clone())),
        (None, None) => Ok(Mark::Bit(DEFAULT_MARK_BIT)),
        (Some(bit), None) => {
            match u8::try_from(bit) {
                Ok(bit @ 0..=31) => Ok(Mark::Bit(bit)),
                _ => Err(Error::internal("MasqMarkBit must be between 0 and 31")
                    .with_details(format!("markMasqBit is {bit}"))),
            }
        }
    }
}

fn backend(name: Option<&str>) -> Result<Option<Backend>, Error> {
    match name {
        None | Some("") => Ok(None),
        Some("nftables") => Ok(Some(Backend::Nftables)),
        Some("iptables") => Ok(Some(Backend::Iptables)),
        Some(other) => {
            Err(Error::internal(format!("unrecognized backend \"{other}\": backend is \"nftables\" or \"iptables\"")))
        }
    }
}

fn mappings(list: &[PortMapping]) -> Result<Vec<Mapping>, Error> {
    let mut all: Vec<Mapping> = Vec::with_capacity(list.len());
    // By protocol, port and address: one that is for both families, or one for each.
    let mut positions: HashMap<(Protocol, u16, Option<IpAddr>), Vec<usize>> = HashMap::with_capacity(list.len());
    for given in list {
        let mapping = mapping(given)?;
        let same = positions.entry((mapping.protocol, mapping.host_port, mapping.address())).or_default();
        let colliding = || same.iter().map(|at| &all[*at]).filter(|other| other.collides(&mapping));
        if let Some(other) = colliding().find(|other| other.container_port != mapping.container_port) {
            return Err(Error::internal(format!(
                "host port {mapping} is mapped twice, to container port {} and to {}",
                other.container_port, mapping.container_port
            )));
        }
        // The same again adds nothing, unless it is for both families and those before are for one.
        match colliding().next() {
            None => {
                same.push(all.len());
                all.push(mapping);
            }
            Some(_) if mapping.host_ip.is_none() => {
                // The first of them becomes the whole; a second one says what it says already.
                all[same[0]] = mapping;
                same.truncate(1);
            }
            Some(_) => {}
        }
    }
    // What another has swallowed.
    let kept: HashSet<usize> = positions.into_values().flatten().collect();
    let mut position = 0..;
    all.retain(|_| position.next().is_some_and(|at| kept.contains(&at)));
    Ok(all)
}

fn mapping(given: &PortMapping) -> Result<Mapping, Error> {
    let port = |what: &str, port: i64| match u16::try_from(port) {
        Ok(port @ 1..) => Ok(port),
        _ => Err(Error::internal(format!("Invalid {what} port number: {port}")).with_details("ports are 1 to 65535")),
    };
    Ok(Mapping {
        container_port: port("container", given.container_port)?,
        host_port: port("host", given.host_port)?,
        protocol: Protocol::parse(&given.protocol).ok_or_else(|| {
            Error::internal(format!(
                "invalid protocol \"{}\" of host port {}: protocols are tcp, udp and sctp",
                given.protocol, given.host_port
            ))
        })?,
        host_ip: match given.host_ip.as_str() {
            "" => None,
            text => Some(cni::cidr::parse_ip(text).map_err(|_| {
                Error::internal(format!(
                    "invalid hostIP \"{text}\" of host port {}: not an IP address",
                    given.host_port
                ))
            })?),
        },
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use cni::{Env, Interface, IpConfig};

    use super::*;

    pub(crate) fn plan(members: &str) -> Result<Plan, Error> {
        let json = format!("{{\"cniVersion\":\"1.1.0\",\"name\":\"tn\",{members}}}");
        Plan::new(&Call::new(Env::default(), json.into_bytes()).unwrap())
    }

    pub(crate) fn with_ports(ports: &str) -> Result<Plan, Error> {
        plan(&format!("\"runtimeConfig\":{{\"portMappings\":[{ports}]}}"))
    }

    fn message(members: &str) -> String {
        let error = plan(members).unwrap_err();
        assert_eq!(error.code, cni::code::INTERNAL);
        error.msg.strip_prefix("failed to parse config: ").unwrap_or_else(|| panic!("{error:?}")).to_owned()
    }

    #[test]
    fn defaults() {
        let plan = plan(r#""runtimeConfig":{"portMappings":null}"#).unwrap();
        assert!(plan.mappings.is_empty() && plan.snat && !plan.masq_all);
        assert_eq!((plan.backend, plan.mark), (Backend::Nftables, Mark::Bit(13)));
    }

    #[test]
    fn what_cannot_work_is_refused() {
        let port = |members: &str| message(&format!("\"runtimeConfig\":{{\"portMappings\":[{{{members}}}]}}"));
        for (members, expected) in [
            (r#""hostPort":0,"containerPort":1,"protocol":"tcp""#, "Invalid host port number: 0"),
            (r#""hostPort":65536,"containerPort":1,"protocol":"tcp""#, "Invalid host port number: 65536"),
            (r#""hostPort":1,"containerPort":-1,"protocol":"tcp""#, "Invalid container port number: -1"),
            (r#""hostPort":1,"protocol":"tcp""#, "Invalid container port number: 0"),
            (r#""hostPort":1,"containerPort":1"#, "invalid protocol \"\" of host port 1"),
            (r#""hostPort":1,"containerPort":1,"protocol":"icmp""#, "invalid protocol \"icmp\""),
            (r#""hostPort":1,"containerPort":1,"protocol":"tcp","hostIP":"x""#, "invalid hostIP \"x\""),
        ] {
            assert!(port(members).starts_with(expected), "{members}: {}", port(members));
        }
        for (members, expected) in [
            (r#""markMasqBit":32"#, "MasqMarkBit must be between 0 and 31"),
            (r#""markMasqBit":-1"#, "MasqMarkBit must be between 0 and 31"),
            (r#""markMasqBit":1,"externalSetMarkChain":"X""#, "Cannot specify externalSetMarkChain and markMasqBit"),
            (r#""externalSetMarkChain":"a b""#, "externalSetMarkChain \"a b\""),
            (r#""backend":"ebpf""#, "unrecognized backend \"ebpf\""),
            (r#""backend":"nftables","markMasqBit":1"#, "markMasqBit and externalSetMarkChain are options of"),
            (r#""backend":"iptables","conditionsV4":["ip","saddr","10.0.0.1"]"#, "conditions \"ip saddr 10.0.0.1\""),
            (r#""backend":"nftables","conditionsV4":["-m","mark"]"#, "conditionsV4: \"-m\" is not understood"),
            (r#""conditionsV4":["tcp","flags"]"#, "conditionsV4: \"tcp\" is not understood"),
        ] {
            assert!(message(members).starts_with(expected), "{members}: {}", message(members));
        }
    }

    #[test]
    fn the_backend_follows_what_the_conditions_need() {
        let backend = |members: &str| plan(members).unwrap().backend;
        assert_eq!(backend(r#""backend":"iptables""#), Backend::Iptables);
        assert_eq!(backend(r#""conditionsV4":["!","-d","192.0.2.0/24"]"#), Backend::Nftables);
        assert_eq!(backend(r#""conditionsV4":["-m","mark","--mark","1"]"#), Backend::Iptables);
        assert_eq!(backend(r#""backend":"nftables","conditionsV6":["-s","fd00::1"]"#), Backend::Nftables);
        // As the reference: the mark is for iptables, and says nothing of which backend is meant.
        assert_eq!(backend(r#""externalSetMarkChain":"KUBE-MARK-MASQ""#), Backend::Nftables);
    }

    #[test]
    fn one_port_of_one_address_is_mapped_once() {
        let map = |host: &str, port: u16| {
            format!("{{\"hostPort\":80,\"containerPort\":{port},\"protocol\":\"TCP\",\"hostIP\":\"{host}\"}}")
        };
        let ports = |list: &[String]| with_ports(&list.join(","));
        assert_eq!(ports(&[map("", 1), map("", 1)]).unwrap().mappings.len(), 1);
        assert_eq!(ports(&[map("", 1), map("0.0.0.0", 1)]).unwrap().mappings.len(), 1);
        assert_eq!(ports(&[map("::", 1), map("0.0.0.0", 1)]).unwrap().mappings.len(), 2);
        let both = ports(&[map("::", 1), map("0.0.0.0", 1), map("", 1), map("::", 1)]).unwrap().mappings;
        assert!(both.len() == 1 && both[0].host_ip.is_none(), "{both:?}");
        assert_eq!(ports(&[map("::", 1), map("0.0.0.0", 2)]).unwrap().mappings.len(), 2);
        assert_eq!(ports(&[map("", 1), map("10.0.0.1", 2)]).unwrap().mappings.len(), 2);
        let error = ports(&[map("", 1), map("0.0.0.0", 2)]).unwrap_err();
        assert!(
            error.msg.contains("host port 0.0.0.0:80/tcp is mapped twice, to container port 1 and to 2"),
            "{error}"
        );
    }

    #[test]
    fn the_pods_first_address_of_each_family_counts() {
        let plan = with_ports(
            r#"{"hostPort":1,"containerPort":1,"protocol":"tcp"},{"hostPort":2,"containerPort":1,"protocol":"tcp","hostIP":"::"}"#,
        )
        .unwrap();
        let interface = |name: &str, sandbox: &str| Interface {
            name: name.to_owned(),
            sandbox: sandbox.to_owned(),
            ..Interface::default()
        };
        let ip = |address: &str, interface| IpConfig { address: address.parse().unwrap(), interface, gateway: None };
        let mut previous = AddResult {
            interfaces: vec![interface("eth0", ""), interface("eth0", "/ns"), interface("net1", "/ns")],
            ips: vec![
                ip("10.0.0.1/8", Some(0)),
                ip("10.0.0.2/8", Some(2)),
                ip("10.0.0.3/8", Some(1)),
                ip("fd00::4/64", Some(9)),
                ip("10.0.0.5/8", None),
            ],
            ..AddResult::default()
        };
        let found = |previous: &AddResult| {
            plan.targets(previous, "eth0").iter().map(|t| (t.pod.to_string(), t.mappings().count())).collect::<Vec<_>>()
        };
        assert_eq!(found(&previous), [("10.0.0.3/8".to_owned(), 1), ("fd00::4/64".to_owned(), 2)]);
        previous.ips.truncate(2);
        assert_eq!(found(&previous), []);
    }
}
