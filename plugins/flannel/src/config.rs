//! The config: what flannel itself reads of it, and what the delegate gets.

use std::path::PathBuf;

use cni::decode::Node;
use cni::{Call, Error, Route, decode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// A JSON object.
pub(crate) type Object = Map<String, Value>;

const DEFAULT_SUBNET_FILE: &str = "/run/flannel/subnet.env";
const DEFAULT_DATA_DIR: &str = "/var/lib/cni/flannel";

/// What the JSON says.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Config {
    subnet_file: String,
    data_dir: String,
    /// The delegate's config, as far as it is not flannel that decides.
    pub(crate) delegate: Option<Object>,
    /// What the delegate's `ipam` is made of.
    pub(crate) ipam: Option<Object>,
    /// For the delegate, as it is.
    pub(crate) runtime_config: Option<Object>,
    /// As the config states it; not stated, the delegate's config states none either.
    pub(crate) cni_version: String,
}

impl Config {
    /// Reads and checks it. Errors (code 999): wrong types, what flannel decides itself, routes that are none.
    pub(crate) fn strict(call: &Call) -> Result<Self, Error> {
        let config: Self = call.config()?;
        config.check()?;
        Ok(config)
    }

    /// What can be read of a config that may have become invalid: each key for itself.
    pub(crate) fn lenient(call: &Call) -> Self {
        let Ok(document) = decode::parse(&call.stdin) else { return Self::default() };
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Delegate {
            delegate: Option<Object>,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Ipam {
            ipam: Option<Object>,
        }
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        struct RuntimeConfig {
            runtime_config: Option<Object>,
        }
        let text = |key| document.text(&[key]).unwrap_or_default().to_owned();
        let mut config = Self {
            subnet_file: text("subnetFile"),
            data_dir: text("dataDir"),
            delegate: part::<Delegate>(&document).delegate,
            ipam: part::<Ipam>(&document).ipam,
            runtime_config: part::<RuntimeConfig>(&document).runtime_config,
            cni_version: text("cniVersion"),
        };
        if config.routes().is_err() {
            config.ipam.iter_mut().for_each(|ipam| ipam.retain(|key, _| !key.eq_ignore_ascii_case("routes")));
        }
        if config.delegate_type().is_err() {
            config.delegate.iter_mut().for_each(|delegate| delegate.retain(|key, _| !key.eq_ignore_ascii_case("type")));
        }
        config
    }

    /// Where flanneld says what it leased.
    pub(crate) fn subnet_file(&self) -> PathBuf {
        PathBuf::from(if self.subnet_file.is_empty() { DEFAULT_SUBNET_FILE } else { &self.subnet_file })
    }

    /// Where delegates' configs are kept while their pods live.
    pub(crate) fn data_dir(&self) -> PathBuf {
        PathBuf::from(if self.data_dir.is_empty() { DEFAULT_DATA_DIR } else { &self.data_dir })
    }

    /// The delegate's plugin. Error: code 999 if it is none.
    pub(crate) fn delegate_type(&self) -> Result<&str, Error> {
        match self.delegate.as_ref().and_then(|delegate| get(delegate, "type")) {
            None => Ok("bridge"),
            Some(Value::String(name)) if name == "flannel" => {
                Err(Error::internal("'delegate' has type \"flannel\": flannel cannot delegate to itself"))
            }
            Some(Value::String(name)) => Ok(name),
            Some(_) => Err(Error::internal("'delegate' dictionary, if present, must have (string) 'type' field")),
        }
    }

    /// The routes of `ipam`. Error: code 999 if they are none.
    pub(crate) fn routes(&self) -> Result<Vec<Value>, Error> {
        let Some(routes) = self.ipam.as_ref().and_then(|ipam| get(ipam, "routes")) else { return Ok(Vec::new()) };
        // The delegate would refuse them, in words that say nothing of flannel's config.
        serde_json::to_vec(routes)
            .map_err(|e| e.to_string())
            .and_then(|json| decode::from_slice::<Option<Vec<Route>>>(&json).map_err(|e| e.to_string()))
            .map_err(|e| Error::internal(format!("failed to read IPAM routes: ipam.routes: {e}")))?;
        Ok(routes.as_array().cloned().unwrap_or_default())
    }

    fn check(&self) -> Result<(), Error> {
        for key in ["name", "ipam"] {
            if self.delegate.as_ref().is_some_and(|delegate| get(delegate, key).is_some()) {
                return Err(Error::internal(format!(
                    "'delegate' dictionary must not have '{key}' field, it'll be set by flannel"
                )));
            }
        }
        self.delegate_type()?;
        self.routes().map(drop)
    }
}

/// The value of a key, whatever its case: that is how the delegate will read it.
pub(crate) fn get<'a>(object: &'a Object, key: &str) -> Option<&'a Value> {
    object.iter().rfind(|(k, _)| k.eq_ignore_ascii_case(key)).map(|(_, value)| value)
}

/// One member of the call's config as it is, whatever the rest of it says.
pub(crate) fn raw(call: &Call, key: &str) -> Option<Value> {
    let object = decode::from_slice::<Object>(&call.stdin).ok()?;
    get(&object, key).filter(|value| !value.is_null()).cloned()
}

fn part<T: Default + DeserializeOwned>(document: &Node) -> T {
    document.decode().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(members: &str) -> Call {
        Call::new(cni::Env::default(), format!("{{\"name\":\"n\"{members}}}").into_bytes()).unwrap()
    }

    #[test]
    fn defaults() {
        let config = Config::strict(&call("")).unwrap();
        assert_eq!(config.subnet_file().to_str(), Some("/run/flannel/subnet.env"));
        assert_eq!(config.data_dir().to_str(), Some("/var/lib/cni/flannel"));
        assert_eq!(config.delegate_type().unwrap(), "bridge");
        assert!(config.routes().unwrap().is_empty());
    }

    #[test]
    fn what_is_refused() {
        for (members, expected) in [
            (
                r#","delegate":{"name":"x"}"#,
                "'delegate' dictionary must not have 'name' field, it'll be set by flannel",
            ),
            (r#","delegate":{"IPAM":{}}"#, "'delegate' dictionary must not have 'ipam' field, it'll be set by flannel"),
            (r#","delegate":{"type":1}"#, "'delegate' dictionary, if present, must have (string) 'type' field"),
            (r#","delegate":{"type":null}"#, "'delegate' dictionary, if present, must have (string) 'type' field"),
            (r#","delegate":{"type":"flannel"}"#, "'delegate' has type \"flannel\": flannel cannot delegate to itself"),
            (r#","delegate":[]"#, "failed to load netconf: delegate: expected an object, found an array"),
            (r#","subnetFile":1"#, "failed to load netconf: subnetFile: expected a string, found a number (1)"),
            (
                r#","ipam":{"routes":[{"dst":"x"}]}"#,
                "failed to read IPAM routes: ipam.routes: [0].dst: invalid CIDR address: x",
            ),
        ] {
            let error = Config::strict(&call(members)).unwrap_err();
            assert_eq!((error.code, error.msg.as_str()), (999, expected));
        }
    }

    #[test]
    fn an_invalid_config_still_says_what_it_can() {
        let config = Config::lenient(&call(
            r#","dataDir":"/d","subnetFile":5,"delegate":{"type":7,"bridge":"b"},"ipam":{"dataDir":"/s","routes":5},"runtimeConfig":1,"prevResult":[]"#,
        ));
        assert_eq!(config.data_dir().to_str(), Some("/d"));
        assert_eq!(config.subnet_file().to_str(), Some(DEFAULT_SUBNET_FILE));
        assert_eq!(config.delegate_type().unwrap(), "bridge");
        assert_eq!(config.delegate.unwrap()["bridge"], "b");
        assert_eq!(config.ipam.unwrap()["dataDir"], "/s");
        assert!(config.runtime_config.is_none());
        assert!(Config::lenient(&call(r#","delegate":5"#)).delegate.is_none());
    }

    #[test]
    fn members_as_they_are() {
        let call = call(r#","prevResult":{"a":[1,{}]},"x":null"#);
        assert_eq!(raw(&call, "prevresult").unwrap().to_string(), r#"{"a":[1,{}]}"#);
        assert_eq!((raw(&call, "x"), raw(&call, "y")), (None, None));
    }
}
