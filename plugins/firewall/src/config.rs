//! From what the config says to what is to be done: [`Config`] is the JSON, [`Plan`] has nothing left to check.

use std::net::IpAddr;

use cni::{AddResult, Call, Error};
use netlink::nft::Family;
use serde::Deserialize;

/// The chain that is the administrator's, unless the config names another.
pub(crate) const ADMIN_CHAIN: &str = "CNI-ADMIN";
/// The zone of firewalld that pods are put into, unless the config names another.
pub(crate) const ZONE: &str = "trusted";
/// Longest name of a chain that iptables takes, in bytes (`XT_EXTENSION_MAXNAMELEN` without the NUL).
const MAX_CHAIN: usize = 28;
/// What `IFNAMSIZ` leaves for a name, in bytes.
const MAX_IFNAME: usize = 15;

/// The config's own keys; unknown ones are other plugins'.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    backend: String,
    iptables_admin_chain_name: String,
    firewalld_zone: String,
    ingress_policy: String,
}

/// Where pods are let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    /// Where the host needs it.
    Auto,
    /// Our own tables.
    Nftables,
    /// The reference's chains, by `iptables-restore`.
    Iptables,
    /// A zone of firewalld.
    Firewalld,
}

/// Who may send to a bridge's pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    /// Everyone.
    Open,
    /// Not the pods of other bridges that have a policy.
    SameBridge,
    /// Not these, and not the pods of the same bridge.
    Isolated,
}

/// What the config asks for: each value is one that can work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) backend: Backend,
    pub(crate) admin_chain: String,
    pub(crate) zone: String,
    pub(crate) policy: Policy,
}

/// What is to be done for an attachment: checked, nothing contradicts.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) settings: Settings,
    /// What the plugins before have made; this one's result too.
    pub(crate) previous: AddResult,
    /// The pod's addresses, each once.
    pub(crate) addresses: Vec<IpAddr>,
    /// The pod's bridge, if there is a policy.
    pub(crate) bridge: Option<String>,
}

impl Settings {
    /// Errors (code 999, as with the reference): the value that cannot be.
    pub(crate) fn new(call: &Call) -> Result<Self, Error> {
        let config: Config = call.config()?;
        let or = |text: String, default: &str| if text.is_empty() { default.to_owned() } else { text };
        let admin_chain = or(config.iptables_admin_chain_name, ADMIN_CHAIN);
        if let Some(reason) = unfit_chain(&admin_chain) {
            return Err(invalid(format!("iptablesAdminChainName \"{admin_chain}\" {reason}")));
        }
        let policy = match config.ingress_policy.as_str() {
            "" | "open" => Policy::Open,
            "same-bridge" => Policy::SameBridge,
            "isolated" => Policy::Isolated,
            other => {
                let known = "open, same-bridge and isolated";
                return Err(invalid(format!("unknown ingressPolicy \"{other}\": there are {known}")));
            }
        };
        Ok(Self { backend: backend(&config.backend), admin_chain, zone: or(config.firewalld_zone, ZONE), policy })
    }
}

impl Plan {
    /// Errors: see [`Settings::new`]; 999 if there is no prevResult, or none that can be used.
    pub(crate) fn new(call: &Call) -> Result<Self, Error> {
        let settings = Settings::new(call)?;
        let previous = call.prev_result()?.ok_or_else(|| Error::internal("missing prevResult from earlier plugin"))?;
        let bridge = match settings.policy {
            Policy::Open => None,
            _ => Some(bridge_of(&previous)?),
        };
        Ok(Self { settings, addresses: addresses(&previous), previous, bridge })
    }

    /// The families that the pod has addresses of.
    pub(crate) fn families(&self) -> impl Iterator<Item = Family> {
        [Family::Ip, Family::Ip6].into_iter().filter(|family| self.addresses_of(*family).next().is_some())
    }

    /// The pod's addresses of a family.
    pub(crate) fn addresses_of(&self, family: Family) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().copied().filter(move |address| Family::of(*address) == family)
    }
}

/// The addresses in a result, each once.
pub(crate) fn addresses(result: &AddResult) -> Vec<IpAddr> {
    let mut all = Vec::new();
    for ip in &result.ips {
        if !all.contains(&ip.address.addr()) {
            all.push(ip.address.addr());
        }
    }
    all
}

/// Any text that is no backend means what no text means, with the reference too.
fn backend(text: &str) -> Backend {
    match text {
        "nftables" => Backend::Nftables,
        "iptables" => Backend::Iptables,
        "firewalld" => Backend::Firewalld,
        other => {
            if !other.is_empty() {
                let known = "nftables, iptables and firewalld";
                host::syslog::warn(
                    "firewall",
                    format_args!("unknown backend \"{other}\" (there are {known}): taken as unset"),
                );
            }
            Backend::Auto
        }
    }
}

/// The bridge is the first interface of the result, as the plugin `bridge` puts it there.
fn bridge_of(previous: &AddResult) -> Result<String, Error> {
    let first = previous.interfaces.first().map(|interface| interface.name.as_str()).unwrap_or_default();
    if first.is_empty() || first.len() > MAX_IFNAME {
        return Err(Error::internal("ingressPolicy: prevResult names no bridge").with_details(
            "its first interface has to be the pod's bridge, as plugin bridge gives it from cniVersion 0.3.0 on",
        ));
    }
    Ok(first.to_owned())
}

/// Why iptables would not take this as the name of the administrator's chain.
fn unfit_chain(name: &str) -> Option<&'static str> {
    let built_in = ["INPUT", "FORWARD", "OUTPUT", "PREROUTING", "POSTROUTING"];
    let verdicts = ["ACCEPT", "DROP", "QUEUE", "RETURN", "REJECT"];
    if name.len() > MAX_CHAIN {
        Some("is longer than the 28 bytes that iptables allows")
    } else if name.starts_with(['-', '!']) || !name.chars().all(|c| c.is_ascii_graphic() && !"\"'\\#".contains(c)) {
        Some("has characters that no chain's name can have")
    } else if name == crate::iptables::CHAIN || built_in.contains(&name) || verdicts.contains(&name) {
        Some("is the name of something else")
    } else {
        None
    }
}

fn invalid(text: String) -> Error {
    Error::internal(text)
}

#[cfg(test)]
mod tests {
    use cni::Env;

    use super::*;

    fn plan(members: &str) -> Result<Plan, Error> {
        let json = format!(
            "{{\"cniVersion\":\"1.0.0\",\"name\":\"n\",{members}\"prevResult\":{{\"interfaces\":[{{\"name\":\"br0\"}}],\
             \"ips\":[{{\"address\":\"10.0.0.2/24\"}},{{\"address\":\"fd00::2/64\"}},{{\"address\":\"10.0.0.2/8\"}}]}}}}"
        );
        Plan::new(&Call::new(Env::default(), json.into_bytes()).unwrap())
    }

    #[test]
    fn nothing_said_means_the_defaults() {
        let plan = plan("").unwrap();
        let expected = Settings {
            backend: Backend::Auto,
            admin_chain: "CNI-ADMIN".to_owned(),
            zone: "trusted".to_owned(),
            policy: Policy::Open,
        };
        assert_eq!(plan.settings, expected);
        assert_eq!(plan.addresses, ["10.0.0.2".parse::<IpAddr>().unwrap(), "fd00::2".parse().unwrap()]);
        assert_eq!(plan.families().collect::<Vec<_>>(), [Family::Ip, Family::Ip6]);
        assert_eq!(plan.bridge, None);
        assert_eq!(super::backend("ipvs"), Backend::Auto);
    }

    #[test]
    fn values_that_cannot_be_are_refused() {
        for (members, fragment) in [
            (r#""ingressPolicy":"closed","#, "open, same-bridge and isolated"),
            (r#""iptablesAdminChainName":"a-name-that-is-longer-than-28-bytes","#, "28 bytes"),
            (r#""iptablesAdminChainName":"A B","#, "characters"),
            (r#""iptablesAdminChainName":"-A","#, "characters"),
            (r#""iptablesAdminChainName":"FORWARD","#, "something else"),
            (r#""iptablesAdminChainName":"CNI-FORWARD","#, "something else"),
        ] {
            let error = plan(members).unwrap_err();
            assert!(error.code == 999 && error.msg.contains(fragment), "{error}");
        }
        assert_eq!(plan(r#""ingressPolicy":"isolated","#).unwrap().bridge.as_deref(), Some("br0"));
    }
}
