//! One call: what the runtime gave, read and checked.

use std::collections::BTreeMap;
use std::io;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::decode::{self, Node};
use crate::result::from_previous;
use crate::{AddResult, Attachment, Dns, Error, Version, code, output};

pub use crate::gate::Env;

/// One call of a plugin: environment and stdin.
#[derive(Debug, Clone)]
pub struct Call {
    /// The environment's part.
    pub env: Env,
    /// The exact bytes of stdin, for delegates.
    pub stdin: Vec<u8>,
    /// The config's `cniVersion`: results are printed in its shape.
    pub version: Version,
    /// The config's `name`.
    pub network: String,
    document: Node,
    /// Where the result goes: stdout, except in tests of this crate.
    pub(crate) writer: fn(&[u8]) -> io::Result<()>,
}

/// The keys under which GC gets the attachments that are alive.
const GIVEN_AS: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

/// An attachment that is alive, as GC gets to know it.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(default)]
pub struct ValidAttachment {
    /// Id of the container.
    #[serde(rename = "containerID")]
    pub container_id: String,
    /// Name of the interface in the container.
    pub ifname: String,
}

/// The keys of every config that are checked even if the plugin has no use for them.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Common {
    #[serde(rename = "cniVersion")]
    _version: String,
    #[serde(rename = "name")]
    _name: String,
    #[serde(rename = "type")]
    _type: String,
    #[serde(rename = "capabilities")]
    _capabilities: BTreeMap<String, bool>,
    #[serde(rename = "ipam")]
    _ipam: Ipam,
    #[serde(rename = "dns")]
    _dns: Dns,
    #[serde(rename = "prevResult")]
    _previous: Option<BTreeMap<String, Node>>,
    #[serde(rename = "cni.dev/valid-attachments")]
    _attachments: Vec<ValidAttachment>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Ipam {
    #[serde(rename = "type")]
    _type: String,
}

impl Call {
    /// Reads a config as [`main`](crate::main) does, without a version gate of a verb. Errors: code 6 (not JSON, or
    /// `name` or `cniVersion` of another type), 7 (`name` missing or with bad characters), 1 (unknown `cniVersion`).
    ///
    /// For tests of configs, and for a plugin that calls with a config of its own making.
    pub fn new(env: Env, stdin: Vec<u8>) -> Result<Self, Error> {
        let (document, network) = crate::gate::network(&stdin)?;
        let text = crate::gate::stated_version(&document)?;
        let version = crate::gate::supported(&text, Version::ALL)?;
        Ok(Self::from_parts(env, stdin, version, network, document))
    }

    pub(crate) fn from_parts(env: Env, stdin: Vec<u8>, version: Version, network: String, document: Node) -> Self {
        Self { env, stdin, version, network, document, writer: output::write_stdout }
    }

    /// What the call is about. In GC and STATUS only the network is set.
    pub fn attachment(&self) -> Attachment {
        Attachment {
            network: self.network.clone(),
            container_id: self.env.container_id.clone(),
            ifname: self.env.ifname.clone(),
        }
    }

    /// The config as a struct; see [`decode`] for how to write one. The keys that all configs have in common are
    /// checked as well. Errors: code 999, `failed to load netconf: <key path>: …`.
    pub fn config<T: DeserializeOwned>(&self) -> Result<T, Error> {
        self.document.decode::<Common>().and_then(|_| self.document.decode()).map_err(netconf)
    }

    /// One text of the config, e.g. `["ipam", "type"]`, whatever the rest of it says; `None` if it is missing or of
    /// another type. For DEL and GC, which a config that has become invalid must not stop.
    pub fn text(&self, path: &[&str]) -> Option<String> {
        self.document.text(path).map(ToOwned::to_owned)
    }

    /// The result of the plugins before, in ADD, or the final one, in CHECK and DEL. `None` if there is none.
    ///
    /// Errors (code 999): it is no result, or has the shape of another version than the config's.
    pub fn prev_result(&self) -> Result<Option<AddResult>, Error> {
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        struct Previous {
            prev_result: Node,
        }
        match self.document.decode::<Previous>().map_err(netconf)?.prev_result {
            Node::Null => Ok(None),
            document => {
                from_previous(&document, self.version).map(Some).map_err(|e| e.context("could not parse prevResult"))
            }
        }
    }

    /// GC: the attachments that are alive, from `cni.dev/valid-attachments`, or the early misspelling
    /// `cni.dev/attachments`. `None` if the runtime gave no list: then nothing is known to be stale. With an empty
    /// list everything is; that is also what `null` says, for so Go writes a list to which nothing was added. (A caller of
    /// libcni that has no list to give leaves both keys out.)
    ///
    /// Errors: code 999, `failed to load netconf: <key path>: …`.
    pub fn valid_attachments(&self) -> Result<Option<Vec<ValidAttachment>>, Error> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Lists {
            #[serde(rename = "cni.dev/valid-attachments")]
            valid: Option<Vec<ValidAttachment>>,
            #[serde(rename = "cni.dev/attachments")]
            early: Option<Vec<ValidAttachment>>,
        }
        let lists = self.document.decode::<Lists>().map_err(netconf)?;
        let is_given = |key: &str| GIVEN_AS.iter().any(|name| key.eq_ignore_ascii_case(name));
        let any = matches!(&self.document, Node::Object(members) if members.iter().any(|(key, _)| is_given(key)));
        Ok(lists.valid.or(lists.early).or_else(|| any.then(Vec::new)))
    }

    /// Prints the result in the shape of the config's version. The last step of an ADD: whoever cannot print must
    /// undo what was made, as the runtime will not know of it.
    ///
    /// Errors: code 5 if it cannot be written, 999 if the version cannot express it.
    pub fn reply(&self, result: &AddResult) -> Result<(), Error> {
        let json = result.to_json(self.version)?;
        (self.writer)(&json)
            .map_err(|e| Error::new(code::IO_FAILURE, format!("failed to write the result to stdout: {e}")))
    }

    /// Whether [`reply`](Self::reply) takes a result without addresses: not so in 0.1.0 and 0.2.0. To be asked before
    /// anything is made.
    pub fn can_reply_without_ips(&self) -> bool {
        self.version >= Version::V0_3_0
    }
}

fn netconf(error: decode::Error) -> Error {
    Error::internal(format!("failed to load netconf: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(json: &str) -> Call {
        Call::new(Env::default(), json.as_bytes().to_vec()).unwrap()
    }

    fn netconf_error(members: &str) -> String {
        let json = format!("{{\"cniVersion\":\"1.1.0\",\"name\":\"n\",{members}}}");
        let error = call(&json).config::<Node>().unwrap_err();
        assert_eq!(error.code, code::INTERNAL);
        error.msg.strip_prefix("failed to load netconf: ").unwrap().to_owned()
    }

    #[test]
    fn common_keys_have_their_types() {
        for (members, expected) in [
            (r#""type":5"#, "type: expected a string, found a number (5)"),
            (r#""capabilities":{"a":1}"#, "capabilities.a: expected a boolean, found a number (1)"),
            (r#""capabilities":[]"#, "capabilities: expected an object, found an array"),
            (r#""ipam":"static""#, "ipam: expected an object, found a string (\"static\")"),
            (r#""ipam":{"type":true}"#, "ipam.type: expected a string, found a boolean (true)"),
            (r#""dns":[]"#, "dns: expected an object, found an array"),
            (r#""dns":{"search":"x"}"#, "dns.search: expected an array, found a string (\"x\")"),
            (r#""prevResult":[]"#, "prevResult: expected an object, found an array"),
            (
                r#""cni.dev/valid-attachments":[{"containerID":1}]"#,
                "cni.dev/valid-attachments[0].containerID: expected a string, found a number (1)",
            ),
        ] {
            assert_eq!(netconf_error(members), expected);
        }
        let fine = r#"{"name":"n","type":null,"capabilities":null,"ipam":null,"dns":null,"prevResult":null}"#;
        call(fine).config::<Node>().unwrap();
    }

    #[test]
    fn own_keys() {
        #[derive(Deserialize)]
        struct Config {
            bridge: String,
        }
        assert_eq!(call(r#"{"name":"n","BRIDGE":"br0"}"#).config::<Config>().unwrap().bridge, "br0");
        let error = call(r#"{"name":"n","bridge":1}"#).config::<Config>().err().unwrap();
        assert_eq!(error.msg, "failed to load netconf: bridge: expected a string, found a number (1)");
    }

    #[test]
    fn single_texts_are_read_from_configs_that_are_wrong_elsewhere() {
        let call = call(r#"{"name":"n","vlan":"x","IPAM":{"type":"a"},"ipam":{"Type":"b","ranges":5},"bridge":7}"#);
        assert_eq!(call.text(&["ipam", "type"]).as_deref(), Some("b"));
        assert_eq!(call.text(&["bridge"]), None);
        assert_eq!(call.text(&["ipam", "type", "more"]), None);
        assert_eq!(call.text(&["nothing"]), None);
        // Whatever `config` would see, this sees too.
        let call = self::call(r#"{"name":"n","ipam":{"type":"a","x":{}},"IPAM":{"x":1,"type":null},"ipam":null}"#);
        assert_eq!(call.text(&["ipam", "type"]).as_deref(), Some("a"));
        assert_eq!(call.text(&["ipam"]), None);
    }

    #[test]
    fn prev_result_follows_the_config() {
        let read = |version: &str, previous: &str| {
            call(&format!("{{\"cniVersion\":\"{version}\",\"name\":\"n\",\"prevResult\":{previous}}}")).prev_result()
        };
        assert_eq!(read("1.0.0", "null").unwrap(), None);
        assert_eq!(read("1.0.0", "{}").unwrap(), Some(AddResult::default()));
        assert_eq!(call(r#"{"name":"n"}"#).prev_result().unwrap(), None);
        for (config, stated) in [("1.0.0", "1.1.0"), ("1.1.0", "1.0.0"), ("0.3.0", "0.4.0"), ("0.1.0", "0.2.0")] {
            let previous = format!(
                r#"{{"cniVersion":"{stated}","ips":[{{"address":"10.0.0.2/8"}}],"ip4":{{"ip":"10.0.0.2/8"}},"x":1}}"#
            );
            assert_eq!(read(config, &previous).unwrap().unwrap().ips.len(), 1);
        }
        // Without a version of its own, it has the config's.
        assert_eq!(read("0.2.0", r#"{"ip4":{"ip":"10.0.0.2/8"}}"#).unwrap().unwrap().ips.len(), 1);
        for (config, stated, family) in [
            ("1.0.0", "0.4.0", "1.0.0 1.1.0"),
            ("0.4.0", "0.1.0", "0.3.0 0.3.1 0.4.0"),
            ("0.1.0", "1.0.0", "0.1.0 0.2.0"),
            ("1.1.0", "9", "1.0.0 1.1.0"),
        ] {
            let error = read(config, &format!("{{\"cniVersion\":\"{stated}\"}}")).unwrap_err();
            assert_eq!(error.code, code::INTERNAL);
            assert_eq!(
                error.msg,
                format!(
                    "could not parse prevResult: result type supports [{family}] but unmarshalled CNIVersion is \"{stated}\""
                )
            );
        }
        let error = read("1.0.0", r#"{"ips":[{"address":"10.0.0.2"}]}"#).unwrap_err();
        assert_eq!(error.msg, "could not parse prevResult: ips[0].address: invalid CIDR address: 10.0.0.2");
    }

    #[test]
    fn valid_attachments_and_their_early_name() {
        let list = |members: &str| call(&format!("{{\"name\":\"n\"{members}}}")).valid_attachments().unwrap();
        let of = |id: &str| Some(vec![ValidAttachment { container_id: id.into(), ifname: "eth0".into() }]);
        assert_eq!(list(""), None);
        assert_eq!(list(r#","cni.dev/valid-attachments":null"#), Some(vec![]));
        assert_eq!(list(r#","cni.dev/valid-attachments":null,"cni.dev/attachments":null"#), Some(vec![]));
        assert_eq!(
            list(r#","cni.dev/valid-attachments":null,"cni.dev/attachments":[{"containerID":"b","ifname":"eth0"}]"#),
            of("b")
        );
        assert_eq!(list(r#","cni.dev/valid-attachments":[]"#), Some(vec![]));
        assert_eq!(list(r#","cni.dev/valid-attachments":[{"containerid":"a","ifname":"eth0"}]"#), of("a"));
        assert_eq!(list(r#","cni.dev/attachments":[{"containerID":"b","ifname":"eth0"}]"#), of("b"));
        let both = r#","cni.dev/attachments":[],"cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"}]"#;
        assert_eq!(list(both), of("a"));
    }

    #[test]
    fn what_cannot_be_written_is_an_error() {
        let mut call = call(r#"{"name":"n","cniVersion":"1.0.0"}"#);
        assert!(call.can_reply_without_ips());
        call.writer = |_| Err(io::ErrorKind::StorageFull.into());
        let error = call.reply(&AddResult::default()).unwrap_err();
        assert_eq!((error.code, error.msg.as_str()), (5, "failed to write the result to stdout: no storage space"));
        call.version = Version::V0_2_0;
        assert!(!call.can_reply_without_ips());
        assert_eq!(call.reply(&AddResult::default()).unwrap_err().code, code::INTERNAL);
    }
}
