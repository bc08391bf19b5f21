//! What the fuzz targets do with an input; also run over their corpus by an ordinary test
//! (`tests/tests/corpus.rs`). Each function panics when the code under test is wrong.
// Parts of binaries are included here, with their unit tests, which belong there.
#![cfg(not(test))]
#![allow(clippy::unwrap_used, reason = "what cannot go on says so by panicking")]

mod kernel;
mod local;

/// The parser of `subnet.env`, as the plugin has it: a binary cannot be linked to.
#[path = "../../../plugins/flannel/src/subnet.rs"]
#[allow(dead_code, reason = "the plugin has more use for it")]
mod subnet;

pub use kernel::{netlink, nftables};
pub use local::{index, store};

use cni::{AddResult, Call, Dns, Env, Error, Plugin, Route, Version, args, run};
use serde_json::Value;
use std::{collections::BTreeMap, ffi::OsString, str};
use subnet::{Problem, SubnetEnv};

/// A plugin that reads all that a config can say, and does nothing.
struct Reader;

/// Keys of every shape: numbers, lists, objects, values that are parsed further.
#[derive(Default, serde::Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    _bridge: String,
    _is_gateway: bool,
    _mtu: i64,
    _args: BTreeMap<String, BTreeMap<String, String>>,
    _dns: Option<Dns>,
    _routes: Vec<Route>,
}

impl Plugin for Reader {
    const NAME: &'static str = "reader";

    fn add(&self, call: &Call) -> Result<(), Error> {
        let _: Config = call.config()?;
        call.valid_attachments()?;
        call.reply(&call.prev_result()?.unwrap_or_default())
    }

    fn del(&self, call: &Call) -> Result<(), Error> {
        self.add(call)
    }

    fn check(&self, call: &Call) -> Result<(), Error> {
        self.add(call)
    }

    fn gc(&self, call: &Call) -> Result<(), Error> {
        self.add(call)
    }

    fn status(&self, call: &Call) -> Result<(), Error> {
        self.add(call)
    }
}

/// A whole call of every verb with this standard input: whatever it is, the answer is nothing or
/// an error object, never a panic.
pub fn stdin(input: &[u8]) {
    for command in ["ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION"] {
        let var = |name: &str| {
            let value = match name {
                "CNI_COMMAND" => command,
                "CNI_CONTAINERID" => "container",
                "CNI_IFNAME" => "eth0",
                "CNI_NETNS" => "/no/such/namespace",
                "CNI_PATH" => "/no/such/folder",
                _ => return None,
            };
            Some(OsString::from(value))
        };
        let outcome = run::respond(&Reader, var, || Ok(input.to_vec()), |_| Ok(()));
        if outcome.exit == 0 {
            continue;
        }
        let error: Value = serde_json::from_slice(&outcome.stdout).expect("a failure is reported as JSON");
        assert!(error["code"].as_u64().is_some_and(|code| code > 0), "no code: {error}");
        let msg = error["msg"].as_str().expect("an error says what is wrong");
        assert!(!msg.contains("panicked"), "{command}: {msg}");
    }
    // Further than the gates of the verbs let it come.
    if let Ok(call) = Call::new(Env::default(), input.to_vec()) {
        let _ = call.config::<Config>().is_ok();
        let _ = call.prev_result().is_ok();
        let _ = call.valid_attachments().is_ok();
    }
}

/// A result, as prevResult or from a delegate: what was read can be written in each version's
/// shape that can express it, and is read back as the same.
pub fn prev_result(input: &[u8]) {
    for &config_version in Version::ALL {
        let Ok(result) = AddResult::from_json(input, config_version) else { continue };
        for &version in Version::ALL {
            let Ok(written) = result.to_json(version) else { continue };
            let read = AddResult::from_json(&written, version).expect("what was written can be read");
            let again = read.to_json(version).expect("and written again");
            assert_eq!(written, again, "{version}: {}", String::from_utf8_lossy(&written));
        }
    }
}

/// `CNI_ARGS`: only known keys come out, with the value that stands in the text.
pub fn cni_args(input: &[u8]) {
    const KNOWN: [&str; 3] = ["IP", "GATEWAY", "MAC"];
    let Ok(text) = str::from_utf8(input) else { return };
    let Ok(args) = args::parse(text, &KNOWN) else { return };
    for key in KNOWN {
        let expected = text.split(';').rev().find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
        assert_eq!(args.get(key), expected, "{key} of {text:?}");
    }
    assert_eq!(args.get("IgnoreUnknown"), None);
}

/// `subnet.env`: a lease is whole, and what says that it is not says why.
pub fn subnet_env(input: &[u8]) {
    let lease = match SubnetEnv::parse(input) {
        Ok(lease) => lease,
        Err(problem @ (Problem::Unfinished(_) | Problem::Invalid(_))) => {
            assert!(!problem.to_string().is_empty());
            return;
        }
    };
    assert!(!lease.networks.is_empty() && (1..=2).contains(&lease.subnets.len()), "{lease:?}");
    for cidr in lease.networks.iter().chain(&lease.subnets) {
        assert_eq!(cidr.network(), *cidr, "host bits in {lease:?}");
    }
    let mut more = input.to_vec();
    more.extend_from_slice(b"\nOTHER=1\n");
    let again = SubnetEnv::parse(&more).expect("another key changes nothing");
    assert_eq!((again.mtu, again.masquerades), (lease.mtu, lease.masquerades));
    assert_eq!(again, lease);
}
