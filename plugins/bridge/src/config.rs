//! From what the config says to what is to be done: [`Config`] is the JSON, [`Plan`] has nothing left to check.

use cni::{Call, Error, args};
use netlink::link::Mac;
use serde::Deserialize;

use crate::dns::DnsConfig;
use crate::vlan::{TrunkItem, Vlans};

/// Name of the bridge if the config gives none.
pub(crate) const DEFAULT_BRIDGE: &str = "cni0";
/// What `IFNAMSIZ` leaves for a name, in bytes.
const MAX_NAME: usize = 15;
/// What an Ethernet link can be set to, in bytes (`ETH_MIN_MTU`, `ETH_MAX_MTU`).
const MTU_RANGE: std::ops::RangeInclusive<i64> = 68..=65535;

/// The config's own keys; unknown ones are other plugins'.
#[derive(Debug, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    bridge: String,
    is_gateway: bool,
    is_default_gateway: bool,
    force_address: bool,
    ip_masq: IpMasq,
    ip_masq_backend: Option<String>,
    mtu: MtuConfig,
    hairpin_mode: bool,
    promisc_mode: bool,
    vlan: i64,
    vlan_trunk: Option<Vec<TrunkItem>>,
    preserve_default_vlan: bool,
    macspoofchk: bool,
    enabledad: bool,
    disable_container_interface: bool,
    port_isolation: bool,
    announce: bool,
    dns: DnsConfig,
    ipam: Ipam,
    args: ArgsConfig,
    runtime_config: MacConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            bridge: DEFAULT_BRIDGE.to_owned(),
            is_gateway: false,
            is_default_gateway: false,
            force_address: false,
            ip_masq: IpMasq::Both(false),
            ip_masq_backend: None,
            mtu: MtuConfig::Bytes(0),
            hairpin_mode: false,
            promisc_mode: false,
            vlan: 0,
            vlan_trunk: None,
            preserve_default_vlan: false,
            macspoofchk: false,
            enabledad: false,
            disable_container_interface: false,
            port_isolation: false,
            announce: true,
            dns: DnsConfig::default(),
            ipam: Ipam::default(),
            args: ArgsConfig::default(),
            runtime_config: MacConfig::default(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "ipMasq: expected true, false, \"ipv4\" or \"ipv6\"")]
enum IpMasq {
    Both(bool),
    Family(String),
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "mtu: expected a number of bytes or \"auto\"")]
enum MtuConfig {
    Bytes(i64),
    Word(String),
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Ipam {
    r#type: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ArgsConfig {
    cni: MacConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct MacConfig {
    mac: String,
}

/// MTU of the pod's link, and of the bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mtu {
    /// What the kernel takes.
    Default,
    /// In bytes.
    Bytes(u32),
    /// That of the link behind the default route.
    Auto,
}

/// Which addresses are masqueraded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Families {
    pub(crate) v4: bool,
    pub(crate) v6: bool,
}

impl Families {
    /// Whether it holds the family of this address.
    pub(crate) fn has(self, ip: std::net::IpAddr) -> bool {
        if ip.is_ipv4() { self.v4 } else { self.v6 }
    }
}

/// By what means pods are masqueraded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MasqueradeBackend {
    /// Our own tables.
    Nftables,
    /// Chains of the reference's layout, by `iptables-restore`.
    Iptables,
}

/// What an attachment is to be: checked, nothing contradicts.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) bridge: String,
    /// Whether the bridge has the gateway addresses.
    pub(crate) gateway: bool,
    /// Whether the pod's default routes go by them.
    pub(crate) default_gateway: bool,
    pub(crate) force_address: bool,
    /// `None`: nothing is masqueraded.
    pub(crate) masquerade: Option<(Families, MasqueradeBackend)>,
    pub(crate) mtu: Mtu,
    pub(crate) hairpin: bool,
    pub(crate) promiscuous: bool,
    pub(crate) vlans: Vlans,
    pub(crate) check_mac: bool,
    pub(crate) detect_duplicates: bool,
    /// Whether the pod's end stays down.
    pub(crate) leave_down: bool,
    pub(crate) isolated: bool,
    /// Whether neighbours are told of the pod's addresses.
    pub(crate) announce: bool,
    pub(crate) dns: DnsConfig,
    /// IPAM plugin; `None`: the pod has no addresses of ours (layer 2).
    pub(crate) ipam: Option<String>,
    /// MAC address that was asked for.
    pub(crate) mac: Option<Mac>,
}

impl Plan {
    /// Reads and checks the config and `CNI_ARGS`. Errors: code 999, with the key and its value.
    pub(crate) fn new(call: &Call) -> Result<Self, Error> {
        let config: Config = call.config()?;
        let arguments = args::parse(&call.env.args, &["MAC"])?;
        // The runtime knows the pod best, then the config's args, then the environment.
        let mac = [config.runtime_config.mac.as_str(), &config.args.cni.mac, arguments.get("MAC").unwrap_or_default()]
            .into_iter()
            .find(|mac| !mac.is_empty())
            .map(parse_mac)
            .transpose()?;
        let vlans = Vlans::new(config.vlan, config.vlan_trunk.as_deref(), config.preserve_default_vlan)
            .map_err(Error::internal)?;
        let ipam = Some(config.ipam.r#type.clone()).filter(|t| !t.is_empty());
        if ipam.is_some() && config.disable_container_interface {
            return Err(Error::internal(
                "cannot use IPAM when disableContainerInterface is set: a link that stays down has no use for addresses",
            ));
        }
        if config.hairpin_mode && config.promisc_mode {
            return Err(Error::internal("cannot set hairpinMode and promiscMode at the same time"));
        }
        if call.env.ifname.contains('%') {
            return Err(Error::internal(format!(
                "CNI_IFNAME \"{}\" contains a %, of which the kernel makes a number",
                call.env.ifname
            )));
        }
        let gateway = config.is_gateway || config.is_default_gateway;
        let bridge = bridge_name(&config.bridge)?;
        if let (true, Some(vlan)) = (gateway, vlans.access) {
            let port = gateway_port(&bridge, vlan);
            if port.len() > MAX_NAME {
                return Err(Error::internal(format!(
                    "the gateway of VLAN {vlan} would be \"{port}\", which is longer than {MAX_NAME} bytes: shorten the bridge's name"
                )));
            }
        }
        let backend = backend(config.ip_masq_backend.as_deref())?;
        let families = families(&config.ip_masq)?;
        Ok(Self {
            bridge,
            gateway,
            default_gateway: config.is_default_gateway,
            force_address: config.force_address,
            masquerade: (ipam.is_some() && (families.v4 || families.v6)).then_some((families, backend)),
            mtu: mtu(&config.mtu)?,
            hairpin: config.hairpin_mode,
            promiscuous: config.promisc_mode,
            vlans,
            check_mac: config.macspoofchk,
            detect_duplicates: config.enabledad,
            leave_down: config.disable_container_interface,
            isolated: config.port_isolation,
            announce: config.announce,
            dns: config.dns,
            ipam,
            mac,
        })
    }

    /// The bridge, if its pods' gateway is that of a VLAN.
    pub(crate) fn bridge_of_vlan_gateway(&self) -> Option<&str> {
        (self.gateway && self.vlans.access.is_some()).then_some(&*self.bridge)
    }
}

/// Name of the link that has the gateway's addresses in a VLAN of the bridge.
pub(crate) fn gateway_port(bridge: &str, vlan: u16) -> String {
    format!("{bridge}.{vlan}")
}

/// The name, or the default for an empty one.
pub(crate) fn bridge_name(name: &str) -> Result<String, Error> {
    let name = if name.is_empty() { DEFAULT_BRIDGE } else { name };
    let reason = if name.len() > MAX_NAME {
        "the name is longer than 15 bytes"
    } else if name.contains('%') {
        // The kernel makes a number of it.
        "the name contains a %"
    } else if name == "." || name == ".." || name.contains(['/', ':']) || name.contains(char::is_whitespace) {
        "no link can have this name"
    } else {
        return Ok(name.to_owned());
    };
    Err(Error::internal(format!("failed to create bridge \"{name}\": {reason}")))
}

fn parse_mac(text: &str) -> Result<Mac, Error> {
    host::mac::parse(text).ok_or_else(|| {
        Error::internal(format!("failed to make veth pair: address {text}: invalid MAC address"))
            .with_details("expected six bytes as in 0a:58:0a:16:00:05, not a multicast address and not all zeros")
    })
}

fn backend(name: Option<&str>) -> Result<MasqueradeBackend, Error> {
    match name {
        None | Some("" | "nftables") => Ok(MasqueradeBackend::Nftables),
        Some("iptables") => Ok(MasqueradeBackend::Iptables),
        Some(other) => Err(Error::internal(format!(
            "unknown ipmasq backend \"{other}\": ipMasqBackend is \"nftables\" or \"iptables\""
        ))),
    }
}

fn families(ip_masq: &IpMasq) -> Result<Families, Error> {
    match ip_masq {
        IpMasq::Both(on) => Ok(Families { v4: *on, v6: *on }),
        IpMasq::Family(name) => match name.as_str() {
            "ipv4" => Ok(Families { v4: true, v6: false }),
            "ipv6" => Ok(Families { v4: false, v6: true }),
            other => Err(Error::internal(format!(
                "failed to load netconf: ipMasq: expected true, false, \"ipv4\" or \"ipv6\", found \"{other}\""
            ))),
        },
    }
}

fn mtu(mtu: &MtuConfig) -> Result<Mtu, Error> {
    match mtu {
        MtuConfig::Bytes(0) => Ok(Mtu::Default),
        MtuConfig::Bytes(bytes) if MTU_RANGE.contains(bytes) => {
            Ok(u32::try_from(*bytes).map_or(Mtu::Default, Mtu::Bytes))
        }
        MtuConfig::Bytes(bytes) => Err(Error::internal(format!(
            "invalid MTU {bytes} (must be 0 for the kernel's default, or between {} and {})",
            MTU_RANGE.start(),
            MTU_RANGE.end()
        ))),
        MtuConfig::Word(word) if word == "auto" => Ok(Mtu::Auto),
        MtuConfig::Word(word) => Err(Error::internal(format!(
            "failed to load netconf: mtu: expected a number of bytes or \"auto\", found \"{word}\""
        ))),
    }
}
