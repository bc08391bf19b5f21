//! The delegate: which plugin, and the config it gets.

use std::io::ErrorKind;
use std::path::Path;

use cni::{Call, Error, ValidAttachment, code, delegate};
use host::fsutil;
use serde_json::{Value, json};

use crate::config::{Config, Object, get, raw};
use crate::subnet::{Problem, SubnetEnv};

/// The list of what is alive, under both its names.
const LISTS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

/// A plugin and its config.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Delegate {
    config: Object,
}

impl Delegate {
    /// The delegate as config and lease have it. Without a lease it has no ranges: enough to take things back.
    ///
    /// Error (code 999): the config has no usable delegate.
    pub(crate) fn new(call: &Call, config: &Config, lease: Option<&SubnetEnv>) -> Result<Self, Error> {
        let mut delegate = config.delegate.clone().unwrap_or_default();
        let plugin = config.delegate_type()?.to_owned();
        if let Some(runtime_config) = &config.runtime_config {
            set(&mut delegate, "runtimeConfig", json!(runtime_config));
        }
        set(&mut delegate, "name", json!(call.network));
        if plugin == "bridge" {
            set_default(&mut delegate, "isGateway", json!(true));
        }
        set(&mut delegate, "type", json!(plugin));
        if let Some(lease) = lease {
            // One of the two must do it.
            set_default(&mut delegate, "ipMasq", json!(!lease.masquerades));
            set_default(&mut delegate, "mtu", json!(lease.mtu));
        }
        if !config.cni_version.is_empty() {
            set(&mut delegate, "cniVersion", json!(config.cni_version));
        }
        set(&mut delegate, "ipam", ipam(config, lease)?);
        Ok(Self { config: delegate })
    }

    /// One that was kept as JSON. `None` if it is no config of this network, or cut off.
    pub(crate) fn from_json(json: &[u8], network: &str) -> Option<Self> {
        let config: Object = cni::decode::from_slice(json).ok()?;
        let delegate = Self { config };
        (get(&delegate.config, "name")?.as_str()? == network && !delegate.plugin().is_empty()).then_some(delegate)
    }

    /// Compact, its keys sorted.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        // Keys are strings and a Vec takes everything: it cannot fail.
        serde_json::to_vec(&self.config).unwrap_or_default()
    }

    /// Name of the plugin.
    pub(crate) fn plugin(&self) -> &str {
        get(&self.config, "type").and_then(Value::as_str).unwrap_or_default()
    }

    /// Whether the plugin is there. Error: code 999 if not.
    pub(crate) fn find(&self, call: &Call) -> Result<(), Error> {
        delegate::find(self.plugin(), &call.env.path).map(drop)
    }

    /// The same with members of the present call, which has a version of its own.
    #[must_use]
    pub(crate) fn with(mut self, call: &Call, keys: &[&str]) -> Self {
        for key in keys.iter().chain(&["cniVersion"]) {
            if let Some(value) = raw(call, key) {
                set(&mut self.config, key, value);
            }
        }
        self
    }

    /// The same with the list of the attachments that are alive, where the call has one: `null` is an empty one.
    #[must_use]
    pub(crate) fn with_valid(self, call: &Call, valid: Option<&[ValidAttachment]>) -> Self {
        let mut delegate = self.with(call, &LISTS);
        if valid.is_some_and(<[_]>::is_empty) {
            set(&mut delegate.config, LISTS[0], json!([]));
        }
        delegate
    }

    /// Runs it for a verb that prints nothing; `env` replaces variables of the call. Error: the delegate's own.
    pub(crate) fn run(&self, call: &Call, verb: &str, env: &[(&str, &str)]) -> Result<(), Error> {
        delegate::run_with(call, self.plugin(), verb, env, &self.to_json())
    }

    /// The same for a verb that not all plugins have.
    pub(crate) fn run_if_known(&self, call: &Call, verb: &str) -> Result<(), Error> {
        delegate::if_known(self.run(call, verb, &[]))
    }
}

/// `ranges` are flannel's, whatever the config says; its routes come before the networks'.
fn ipam(config: &Config, lease: Option<&SubnetEnv>) -> Result<Value, Error> {
    let mut ipam = config.ipam.clone().unwrap_or_default();
    set_default(&mut ipam, "type", json!("host-local"));
    if let Some(lease) = lease {
        let ranges: Vec<_> = lease.subnets.iter().map(|subnet| json!([{ "subnet": subnet.to_string() }])).collect();
        let mut routes = config.routes()?;
        routes.extend(lease.networks.iter().map(|network| json!({ "dst": network.to_string() })));
        set(&mut ipam, "ranges", json!(ranges));
        set(&mut ipam, "routes", json!(routes));
    }
    Ok(Value::Object(ipam))
}

/// Sets a key in the place of any that differs in case only.
fn set(object: &mut Object, key: &str, value: Value) {
    object.retain(|k, _| !k.eq_ignore_ascii_case(key));
    object.insert(key.to_owned(), value);
}

fn set_default(object: &mut Object, key: &str, value: Value) {
    if get(object, key).is_none() {
        object.insert(key.to_owned(), value);
    }
}

/// What flanneld leased. Errors: code 11 if the file is not there yet or not finished, 999 if it is wrong.
pub(crate) fn lease(file: &Path) -> Result<SubnetEnv, Error> {
    let failed = |code, what: String| {
        Error::new(
            code,
            format!("failed to load flannel 'subnet.env' file: {what}. Check the flannel pod log for this node."),
        )
    };
    let path = file.display();
    let contents = fsutil::read_small(file).map_err(|e| {
        let missing = e.kind() == ErrorKind::NotFound;
        failed(if missing { code::TRY_AGAIN } else { code::INTERNAL }, format!("open {path}: {}", plain(&e)))
            .with_details(if missing { NOT_THERE } else { "flannel must be able to read the file" })
    })?;
    SubnetEnv::parse(&contents).map_err(|problem| match problem {
        Problem::Unfinished(what) => failed(code::TRY_AGAIN, format!("{path} {what}")).with_details(UNFINISHED),
        Problem::Invalid(what) => failed(code::INTERNAL, format!("{path}: {what}")).with_details(INVALID),
    })
}

const NOT_THERE: &str = "flanneld writes the file once it has a subnet for this node: is its pod running here \
                         (kubectl -n kube-flannel get pods -o wide), and does the node have a podCIDR?";
const UNFINISHED: &str = "it may be written at this moment: try again; flanneld itself writes it whole";
const INVALID: &str = "flanneld writes the file anew when it is restarted";

/// As Go and the C library say it, without Rust's number.
fn plain(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "no such file or directory".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(members: &str) -> Call {
        Call::new(cni::Env::default(), format!("{{\"name\":\"cbr0\"{members}}}").into_bytes()).unwrap()
    }

    fn lease(masquerades: bool, v6: bool) -> SubnetEnv {
        let mut text = format!(
            "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.3.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ={masquerades}\n"
        );
        if v6 {
            text += "FLANNEL_IPV6_NETWORK=fd01::/48\nFLANNEL_IPV6_SUBNET=fd01:0:0:3::1/64\n";
        }
        SubnetEnv::parse(text.as_bytes()).unwrap()
    }

    fn json(members: &str, lease: Option<&SubnetEnv>) -> String {
        let call = call(members);
        let config = Config::strict(&call).unwrap();
        String::from_utf8(Delegate::new(&call, &config, lease).unwrap().to_json()).unwrap()
    }

    /// The bytes that the reference saves and hands on.
    #[test]
    fn config_of_the_reference() {
        assert_eq!(
            json(
                r#","cniVersion":"1.0.0","type":"flannel","ipam":{"dataDir":"/s"},"delegate":{"hairpinMode":true,"isDefaultGateway":true}"#,
                Some(&lease(true, true))
            ),
            concat!(
                r#"{"cniVersion":"1.0.0","hairpinMode":true,"ipMasq":false,"ipam":{"dataDir":"/s","#,
                r#""ranges":[[{"subnet":"10.244.3.0/24"}],[{"subnet":"fd01:0:0:3::/64"}]],"#,
                r#""routes":[{"dst":"10.244.0.0/16"},{"dst":"fd01::/48"}],"type":"host-local"},"#,
                r#""isDefaultGateway":true,"isGateway":true,"mtu":1450,"name":"cbr0","type":"bridge"}"#
            )
        );
    }

    #[test]
    fn what_the_config_says_comes_first_but_for_the_ranges() {
        assert_eq!(
            json(
                concat!(
                    r#","delegate":{"type":"macvlan","MTU":9000,"ipMasq":null,"Master":"eth1"},"runtimeConfig":{"mac":"x"},"#,
                    r#""ipam":{"type":"other","ranges":[1],"routes":[{"dst":"1.0.0.0/8","gw":"1.1.1.1"}]},"prevResult":{}"#
                ),
                Some(&lease(false, false))
            ),
            concat!(
                r#"{"MTU":9000,"Master":"eth1","ipMasq":null,"ipam":{"ranges":[[{"subnet":"10.244.3.0/24"}]],"#,
                r#""routes":[{"dst":"1.0.0.0/8","gw":"1.1.1.1"},{"dst":"10.244.0.0/16"}],"type":"other"},"#,
                r#""name":"cbr0","runtimeConfig":{"mac":"x"},"type":"macvlan"}"#
            )
        );
    }

    #[test]
    fn without_a_lease_there_is_enough_to_take_things_back() {
        assert_eq!(
            json(r#","cniVersion":"0.3.1""#, None),
            r#"{"cniVersion":"0.3.1","ipam":{"type":"host-local"},"isGateway":true,"name":"cbr0","type":"bridge"}"#
        );
    }

    #[test]
    fn kept_configs_must_be_of_the_network() {
        let kept = |json: &str| Delegate::from_json(json.as_bytes(), "cbr0").map(|d| d.plugin().to_owned());
        assert_eq!(kept(r#"{"name":"cbr0","type":"ptp"}"#).as_deref(), Some("ptp"));
        for bad in ["", "{", "[]", r#"{"name":"other","type":"ptp"}"#, r#"{"name":"cbr0"}"#, r#"{"type":"ptp"}"#] {
            assert_eq!(kept(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_later_call_adds_its_own() {
        let kept = Delegate::from_json(br#"{"cniVersion":"0.3.1","name":"cbr0","type":"bridge"}"#, "cbr0").unwrap();
        let call = call(r#","cniVersion":"1.0.0","prevResult":{"ips":[]},"x":1"#);
        assert_eq!(
            String::from_utf8(kept.with(&call, &["prevResult", "y"]).to_json()).unwrap(),
            r#"{"cniVersion":"1.0.0","name":"cbr0","prevResult":{"ips":[]},"type":"bridge"}"#
        );
    }

    #[test]
    fn a_file_that_cannot_be_used_says_where_to_look() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("subnet.env");
        let error = |contents: Option<&str>| {
            contents.into_iter().for_each(|contents| std::fs::write(&file, contents).unwrap());
            super::lease(&file).unwrap_err()
        };
        let shown = file.display();
        let missing = error(None);
        assert_eq!(
            (missing.code, missing.msg),
            (
                11,
                format!(
                    "failed to load flannel 'subnet.env' file: open {shown}: no such file or directory. Check the flannel pod log for this node."
                )
            )
        );
        assert!(missing.details.contains("kubectl -n kube-flannel"));
        let torn = error(Some("FLANNEL_NETWORK=10.0.0.0/8\nFLANNEL_SUBNET=10.0"));
        assert_eq!(torn.code, 11);
        assert!(torn.msg.contains("FLANNEL_SUBNET=10.0") && torn.details.contains("try again"), "{torn}");
        let wrong = error(Some("FLANNEL_MTU=x\n"));
        assert_eq!(wrong.code, 999);
        assert!(wrong.msg.contains("FLANNEL_MTU=x"), "{wrong}");
    }
}
