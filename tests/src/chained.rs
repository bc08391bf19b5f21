//! Chains of plugins, called one by one as a runtime calls them: each with the result of the one before.

use std::path::Path;

use serde_json::{Value, json};

use crate::{
    Call, Host, Pod, Reply,
    config::{self, with},
};

/// The port that [`portmap`] publishes, for any address of the host.
pub const HOST_PORT: u16 = 8080;
/// The MAC address that [`tuning`] gives.
pub const MAC: &str = "02:00:5e:00:53:01";

/// A dual-stack `bridge` that masquerades, to put others behind.
pub fn bridge() -> Value {
    with(&config::dual_stack(), json!({ "ipMasq": true, "hairpinMode": true }))
}

/// `portmap` with ports of both protocols, one of them for an address of the host alone.
pub fn portmap() -> Value {
    chained(json!({ "type": "portmap", "runtimeConfig": { "portMappings": [
        { "hostPort": HOST_PORT, "containerPort": 80, "protocol": "tcp" },
        { "hostPort": 8053, "containerPort": 53, "protocol": "udp" },
        { "hostPort": 8443, "containerPort": 443, "protocol": "tcp", "hostIP": "127.0.0.1" },
    ] } }))
}

/// `firewall` as conflists have it.
pub fn firewall() -> Value {
    chained(json!({ "type": "firewall" }))
}

/// `tuning` with every attribute and a sysctl.
pub fn tuning() -> Value {
    chained(json!({ "type": "tuning", "mac": MAC, "mtu": 1400, "promisc": true, "allmulti": true, "txQLen": 77,
                    "sysctl": { "net.ipv4.conf.IFNAME.arp_filter": "1" } }))
}

/// `bandwidth` with a limit for each direction: 8 Mbit/s in, 16 Mbit/s out.
pub fn bandwidth() -> Value {
    chained(json!({ "type": "bandwidth", "ingressRate": 8_000_000, "ingressBurst": 800_000,
                    "egressRate": 16_000_000, "egressBurst": 1_600_000 }))
}

/// A plugin of the network of [`bridge`].
fn chained(config: Value) -> Value {
    with(&json!({ "cniVersion": "1.0.0", "name": "net" }), config)
}

/// All of them behind `bridge`.
pub fn everything() -> Vec<Value> {
    vec![bridge(), portmap(), firewall(), tuning(), bandwidth()]
}

/// Whose plugins are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Suite {
    /// Those under test.
    Tested,
    /// The reference's.
    Reference,
}

/// Where plugins are installed on a node.
pub const INSTALLED: &str = "/opt/cni/bin";

/// A chain of plugins on a host.
pub struct Chain<'h> {
    host: &'h Host,
    /// `None`: those that are installed on the node at the time of a call.
    suite: Option<Suite>,
    /// The plugins' configs, in order.
    pub plugins: Vec<Value>,
}

impl<'h> Chain<'h> {
    /// Of the plugins under test.
    pub fn new(host: &'h Host, plugins: Vec<Value>) -> Self {
        Self { host, suite: Some(Suite::Tested), plugins }
    }

    /// The same chain with another suite's plugins.
    #[must_use]
    pub fn by(&self, suite: Suite) -> Self {
        Self { host: self.host, suite: Some(suite), plugins: self.plugins.clone() }
    }

    /// The same chain with the plugins that are installed on the node when they are called.
    #[must_use]
    pub fn installed(&self) -> Self {
        Self { host: self.host, suite: None, plugins: self.plugins.clone() }
    }

    /// The same chain with keys merged into each config.
    #[must_use]
    pub fn with(&self, patch: &Value) -> Self {
        let plugins = self.plugins.iter().map(|plugin| with(plugin, patch.clone())).collect();
        Self { host: self.host, suite: self.suite, plugins }
    }

    /// Where it is.
    pub fn host(&self) -> &'h Host {
        self.host
    }

    /// A call of one of the plugins; the config is still missing.
    pub fn call(&self, plugin: &Value) -> Call<'h> {
        let name = plugin["type"].as_str().unwrap();
        match self.suite {
            Some(Suite::Tested) => self.host.plugin(name),
            Some(Suite::Reference) => self.host.reference(name),
            None => Call::new(self.host, Path::new(INSTALLED), name),
        }
    }

    /// ADD of all; the last one's result.
    ///
    /// # Panics
    /// When one fails.
    pub fn add(&self, pod: &Pod) -> Value {
        self.plugins
            .iter()
            .fold(Value::Null, |result, plugin| self.call(plugin).pod(pod).config_with(plugin, &result).add().result())
    }

    /// CHECK of all, with the last one's result.
    ///
    /// # Panics
    /// When one fails.
    pub fn check(&self, pod: &Pod, result: &Value) {
        for plugin in &self.plugins {
            self.call(plugin).pod(pod).config_with(plugin, result).check().ok();
        }
    }

    /// DEL of all, the last one first, with this result or (`null`) none.
    ///
    /// # Panics
    /// When one fails.
    pub fn del(&self, pod: &Pod, result: &Value) {
        for plugin in self.plugins.iter().rev() {
            self.call(plugin).pod(pod).config_with(plugin, result).del().ok();
        }
    }

    /// DEL of all as runtimes repeat it: what fails is asked once more. What the failed ones said.
    ///
    /// # Panics
    /// When one fails twice.
    pub fn del_until_done(&self, pod: &Pod, result: &Value) -> Vec<String> {
        let del = |plugin| self.call(plugin).pod(pod).config_with(plugin, result).del();
        let mut errors = Vec::new();
        for plugin in self.plugins.iter().rev() {
            let reply = del(plugin);
            if !reply.status.success() {
                errors.push(reply.failure().msg);
                del(plugin).ok();
            }
        }
        errors
    }

    /// GC of all, the last one first. `null`: without a list.
    ///
    /// # Panics
    /// When one fails.
    pub fn gc(&self, valid: &Value) {
        for plugin in self.plugins.iter().rev() {
            gc(self.call(plugin), plugin, valid).ok();
        }
    }

    /// One ADD and DEL, after which what plugins leave for good is there.
    pub fn warm_up(&self) {
        let pod = self.host.pod();
        let result = self.add(&pod);
        self.del(&pod, &result);
    }
}

/// GC of one plugin with this list of what is valid (`null`: without one).
pub fn gc(call: Call<'_>, plugin: &Value, valid: &Value) -> Reply {
    let config = with(plugin, json!({ "cniVersion": "1.1.0", "cni.dev/valid-attachments": valid }));
    call.verb("GC").id("").netns("").ifname("").config(&config).run()
}

/// What a runtime calls an attachment that is alive.
pub fn valid(pods: &[&Pod]) -> Value {
    pods.iter().map(|pod| json!({ "containerID": pod.id, "ifname": pod.ifname })).collect()
}

/// What `tuning` changes in a pod and puts back, as text to compare: all but sysctls.
pub fn attributes(pod: &Pod) -> String {
    let link = pod.interface();
    let of = |key: &str| format!("{key} {}", link[key]);
    let flags = ["PROMISC", "ALLMULTI"].map(|flag| link["flags"].as_array().unwrap().contains(&json!(flag)));
    format!("{}, {}, {}, {flags:?}", of("address"), of("mtu"), of("txqlen"))
}
