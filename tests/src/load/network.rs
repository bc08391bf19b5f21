//! The networks of a host under load, and one attachment of them.

use std::{
    net::IpAddr,
    sync::{Arc, RwLock},
};

use serde_json::{Value, json};

use super::random::Random;
use crate::{
    Call, Host, Pod, chained,
    chained::Suite,
    config::{self, with},
    settings,
};

/// Host ports are taken from so many, so that some are wanted twice.
const PORTS: usize = 400;
const FIRST_PORT: usize = 20_000;

/// A network with a chain of plugins.
pub(super) struct OfHost {
    /// Its name.
    pub(super) name: &'static str,
    /// Addresses that it can give.
    pub(super) capacity: usize,
    plugins: Vec<Value>,
    /// Read: ADD and DEL. Written: GC, beside which the spec forbids both.
    pub(super) turn: RwLock<()>,
}

impl OfHost {
    /// All plugins, dual stack, room for everyone.
    pub(super) fn large() -> Self {
        let tuning = with(&chained::tuning(), json!({ "mac": null }));
        let plugins = vec![chained::bridge(), chained::portmap(), chained::firewall(), tuning, chained::bandwidth()];
        Self { name: "net", capacity: 253, plugins, turn: RwLock::default() }
    }

    /// On a bridge of its own, with fewer addresses than there are pods now and then.
    pub(super) fn small() -> Self {
        let own = json!({ "name": "small", "bridge": "br1", "ipMasq": true,
                          "ipam": config::host_local(&["10.23.0.0/27"]) });
        let portmap = with(&chained::portmap(), json!({ "name": "small" }));
        Self {
            name: "small",
            capacity: 29,
            plugins: vec![with(&config::bridge(), own), portmap],
            turn: RwLock::default(),
        }
    }

    /// The config of each plugin, for GC and STATUS.
    pub(super) fn plugins(&self) -> &[Value] {
        &self.plugins
    }
}

/// What an attachment has been through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// ADD succeeded, and nothing has come since.
    Attached,
    /// Its namespace was destroyed.
    Vanished,
    /// ADD or DEL failed, or was killed.
    Unfinished,
}

/// An attachment.
pub(super) struct Attachment {
    /// Who.
    pub(super) pod: Arc<Pod>,
    /// Whether its namespace has a name.
    pub(super) is_named: bool,
    /// By which suite, for each plugin.
    pub(super) by: Vec<Suite>,
    /// Whether IPAM is the other suite's than `bridge`.
    pub(super) other_ipam: bool,
    /// Its plugins' configs.
    pub(super) plugins: Vec<Value>,
    /// Of ADD.
    pub(super) result: Value,
    /// Addresses that it was given, also if ADD failed later.
    pub(super) given: Vec<IpAddr>,
    /// How far it has got.
    pub(super) state: State,
}

impl Attachment {
    /// Of a new pod, by plugins as chance has it.
    pub(super) fn new(host: &Host, network: &OfHost, random: &mut Random) -> Self {
        let is_named = random.chance(50);
        let pod = Arc::new(if is_named { host.named_pod() } else { host.pod() });
        let mut plugins = network.plugins.clone();
        for plugin in plugins.iter_mut().filter(|p| p["type"] == "portmap") {
            plugin["runtimeConfig"] = json!({ "portMappings": mappings(random) });
        }
        let by = match random.below(100) {
            0..80 => vec![Suite::Tested; plugins.len()],
            80..90 => vec![Suite::Reference; plugins.len()],
            _ => plugins.iter().map(|_| either(random)).collect(),
        };
        Self {
            pod,
            is_named,
            by,
            other_ipam: random.chance(5),
            plugins,
            result: Value::Null,
            given: Vec::new(),
            state: State::Unfinished,
        }
    }

    /// Whether all that was made is ours.
    pub(super) fn is_ours(&self) -> bool {
        self.by.iter().all(|by| *by == Suite::Tested) && !self.other_ipam
    }

    /// A call of the plugin with this number by this suite; the verb and the result are still missing.
    pub(super) fn call<'h>(&self, host: &'h Host, number: usize, by: Suite) -> Call<'h> {
        let name = self.plugins[number]["type"].as_str().unwrap();
        let call = call(host, name, by).pod(&self.pod);
        if number == 0 && self.other_ipam && by == Suite::Tested {
            let folder = settings::reference_dir().unwrap();
            return call.env("CNI_PATH", folder.to_str().unwrap());
        }
        call
    }
}

/// A call of a plugin of this suite.
pub(super) fn call<'h>(host: &'h Host, plugin: &str, by: Suite) -> Call<'h> {
    match by {
        Suite::Tested => host.plugin(plugin),
        Suite::Reference => host.reference(plugin),
    }
}

/// One of the two.
pub(super) fn either(random: &mut Random) -> Suite {
    if random.chance(50) { Suite::Tested } else { Suite::Reference }
}

/// A few ports, or none.
fn mappings(random: &mut Random) -> Vec<Value> {
    let one = |random: &mut Random| {
        let protocol = ["tcp", "udp"][random.below(2)];
        json!({ "hostPort": FIRST_PORT + random.below(PORTS), "containerPort": 80, "protocol": protocol })
    };
    let count = random.below(4);
    let mut all: Vec<Value> = (0..count).map(|_| one(random)).collect();
    // Nobody may ask for the same port twice.
    all.sort_by_key(ToString::to_string);
    all.dedup();
    all
}
