//! From what the config says to what is to be done: [`Config`] is the JSON, [`Plan`] has nothing left to check.

use std::collections::BTreeMap;
use std::path::PathBuf;

use cni::decode::Node;
use cni::{Call, Error, args};
use netlink::link::Mac;
use serde::Deserialize;

use crate::attributes::Attributes;
use crate::sysctl::{self, Setting};

/// Where the reference keeps its backups.
const DEFAULT_DATA_DIR: &str = "/run/cni/tuning";

/// The config's own keys; unknown ones are other plugins'.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    /// Kept whole, to see keys that are given twice.
    sysctl: Node,
    mac: String,
    mtu: i64,
    promisc: bool,
    allmulti: Option<bool>,
    #[serde(rename = "txQLen")]
    tx_queue_len: Option<i64>,
    data_dir: String,
    args: ArgsConfig,
    runtime_config: RuntimeConfig,
    capabilities: BTreeMap<String, bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ArgsConfig {
    cni: Overrides,
}

/// What is given here, a zero included, stands in the place of the config's.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Overrides {
    /// Key by key.
    sysctl: Node,
    mac: Option<String>,
    mtu: Option<i64>,
    promisc: Option<bool>,
    allmulti: Option<bool>,
    #[serde(rename = "txQLen")]
    tx_queue_len: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RuntimeConfig {
    mac: String,
}

/// What is to be set: checked, nothing contradicts.
#[derive(Debug)]
pub(crate) struct Plan {
    /// In the order of the config.
    pub(crate) sysctls: Vec<Setting>,
    pub(crate) attributes: Attributes,
    /// Folder of the backups.
    pub(crate) data_dir: PathBuf,
    /// Whether a call may come with attributes that are not in the config.
    pub(crate) takes_mac: bool,
}

impl Plan {
    /// Reads and checks the config and `CNI_ARGS`. Errors: code 999, with the key and its value.
    pub(crate) fn new(call: &Call) -> Result<Self, Error> {
        let config: Config = call.config()?;
        let arguments = args::parse(&call.env.args, &["MAC"])?;
        let over = config.args.cni;
        let mac = over.mac.unwrap_or_else(|| {
            let given = [config.runtime_config.mac.as_str(), arguments.get("MAC").unwrap_or_default(), &config.mac];
            given.into_iter().find(|mac| !mac.is_empty()).unwrap_or_default().to_owned()
        });
        let tx_queue_len = over.tx_queue_len.or(config.tx_queue_len);
        Ok(Self {
            sysctls: sysctl::plan(&config.sysctl, &over.sysctl, &call.env.ifname)?,
            attributes: Attributes {
                mac: Some(mac).filter(|mac| !mac.is_empty()).map(|mac| parse_mac(&mac)).transpose()?,
                promiscuous: over.promisc.unwrap_or(config.promisc).then_some(true),
                mtu: Some(number("mtu", over.mtu.unwrap_or(config.mtu))?).filter(|mtu| *mtu != 0),
                all_multicast: over.allmulti.or(config.allmulti),
                tx_queue_len: tx_queue_len.map(|packets| number("txQLen", packets)).transpose()?,
            },
            data_dir: data_dir(call),
            takes_mac: config.capabilities.get("mac").copied().unwrap_or_default(),
        })
    }
}

/// The folder of the backups, whatever the rest of the config says.
pub(crate) fn data_dir(call: &Call) -> PathBuf {
    let given = call.text(&["dataDir"]).filter(|folder| !folder.is_empty());
    given.unwrap_or_else(|| DEFAULT_DATA_DIR.to_owned()).into()
}

/// What the kernel can be told; what a link can have, it knows itself.
fn number(key: &str, value: i64) -> Result<u32, Error> {
    u32::try_from(value)
        .ok()
        .filter(|value| *value <= i32::MAX.cast_unsigned())
        .ok_or_else(|| Error::internal(format!("invalid {key} {value}: expected 0 to {}", i32::MAX)))
}

fn parse_mac(text: &str) -> Result<Mac, Error> {
    host::mac::parse(text).ok_or_else(|| {
        Error::internal(format!("invalid args {text} for MAC addr: invalid MAC address"))
            .with_details("expected six bytes as in 0a:58:0a:16:00:05, not a multicast address and not all zeros")
    })
}

#[cfg(test)]
mod tests {
    use cni::call::Env;

    use super::*;

    fn plan(members: &str, args: &str) -> Result<Plan, Error> {
        let env = Env { ifname: "eth0".to_owned(), args: args.to_owned(), ..Env::default() };
        let json = format!("{{\"cniVersion\":\"1.0.0\",\"name\":\"n\"{members}}}");
        Plan::new(&Call::new(env, json.into_bytes())?)
    }

    #[test]
    fn the_mac_that_is_nearest_to_the_pod_wins() {
        let mac = |members: &str, args: &str| plan(members, args).unwrap().attributes.mac.map(|mac| mac[5]);
        let config = r#","mac":"02:00:00:00:00:01""#;
        let runtime = r#","runtimeConfig":{"mac":"02:00:00:00:00:03"}"#;
        let args = r#","args":{"cni":{"mac":"02:00:00:00:00:04"}}"#;
        let environment = "IgnoreUnknown=1;MAC=02:00:00:00:00:02";
        assert_eq!(mac("", ""), None);
        assert_eq!(mac(config, ""), Some(1));
        assert_eq!(mac(config, environment), Some(2));
        assert_eq!(mac(&format!("{config}{runtime}"), environment), Some(3));
        assert_eq!(mac(&format!("{config}{runtime}{args}"), environment), Some(4));
        // Given, though nothing.
        assert_eq!(mac(&format!(r#"{config},"args":{{"cni":{{"mac":""}}}}"#), environment), None);
        assert_eq!(mac(&format!(r#"{config},"args":{{"cni":{{"mac":null}}}}"#), ""), Some(1));
    }

    #[test]
    fn zero_and_off_leave_alone_or_set() {
        let attributes = |members: &str| plan(members, "").unwrap().attributes;
        assert!(attributes(r#","mtu":0,"promisc":false"#).is_empty());
        let set = attributes(r#","allmulti":false,"txQLen":0,"promisc":true,"mtu":1400"#);
        assert_eq!((set.all_multicast, set.tx_queue_len, set.promiscuous), (Some(false), Some(0), Some(true)));
        let over = r#","mtu":1400,"promisc":true,"allmulti":true,"txQLen":5,
            "args":{"cni":{"mtu":0,"promisc":false,"allmulti":false,"txQLen":6}}"#;
        let set = attributes(over);
        assert_eq!((set.mtu, set.promiscuous, set.all_multicast, set.tx_queue_len), (None, None, Some(false), Some(6)));
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for (members, fragment) in [
            (r#","mtu":-1"#, "invalid mtu -1"),
            (r#","txQLen":-1"#, "invalid txQLen -1"),
            (r#","mtu":3000000000"#, "invalid mtu 3000000000"),
            (r#","mac":"01:00:5e:00:00:01""#, "01:00:5e:00:00:01"),
            (r#","mac":"x""#, "invalid args x for MAC addr"),
            (r#","sysctl":[]"#, "sysctl: expected an object, found an array"),
            (r#","args":{"cni":{"mtu":"x"}}"#, "args.cni.mtu"),
        ] {
            let error = plan(members, "").unwrap_err();
            assert!(error.msg.contains(fragment), "{error:?}");
        }
        assert!(plan("", "MAC=x").is_err());
        assert!(plan("", "FOO=x").is_err());
    }

    #[test]
    fn the_folder_of_backups() {
        assert_eq!(plan("", "").unwrap().data_dir, PathBuf::from("/run/cni/tuning"));
        assert_eq!(plan(r#","dataDir":"""#, "").unwrap().data_dir, PathBuf::from("/run/cni/tuning"));
        assert_eq!(plan(r#","dataDir":"/x""#, "").unwrap().data_dir, PathBuf::from("/x"));
    }
}
