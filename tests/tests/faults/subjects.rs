//! Who is faulted, and beside whom.

use serde_json::{Value, json};
use tests::{
    Host, Place, chained,
    config::{self, with},
};

/// One plugin, in the place in which it is faulted.
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    /// The plugins whose ADD has been done when a row begins.
    pub(crate) before: Vec<Value>,
    /// Those whose ADD and DEL are done in each row.
    pub(crate) plugins: Vec<Value>,
    /// Which of `plugins` is faulted.
    pub(crate) target: usize,
    /// The delegate of it that is faulted in its place.
    pub(crate) delegate: Option<&'static str>,
    /// Whether the plugin is a subject by itself as well: then it is only killed here.
    pub(crate) is_known: bool,
    /// Each ADD is the first on its host: bridge, tables and folders are not there yet.
    pub(crate) is_first: bool,
    /// It is killed alone, and has to heal by itself: no DEL comes, another pod's ADD does, or its own again.
    pub(crate) heals: bool,
    /// What the host needs.
    pub(crate) prepare: fn(&Host),
}

impl Subject {
    /// A plugin by itself.
    fn alone(name: &'static str, plugin: Value) -> Self {
        Self {
            name,
            before: Vec::new(),
            plugins: vec![plugin],
            target: 0,
            delegate: None,
            is_known: false,
            is_first: false,
            heals: false,
            prepare: |_| (),
        }
    }

    /// A plugin behind a bridge that is there.
    fn behind_bridge(name: &'static str, plugin: Value) -> Self {
        Self { before: vec![with(&chained::bridge(), json!({ "ipMasq": false }))], ..Self::alone(name, plugin) }
    }

    /// One of a whole chain, all of which is made and removed each time.
    fn in_chain(name: &'static str, target: usize) -> Self {
        Self { plugins: chained::everything(), target, is_known: true, ..Self::alone(name, Value::Null) }
    }
}

pub(crate) fn bridge() -> Subject {
    Subject::alone("bridge", config::everything())
}

/// bridge on a new node.
pub(crate) fn bridge_first() -> Subject {
    Subject { name: "bridge, first pod", is_first: true, ..bridge() }
}

/// host-local, and what bridge makes of its failures.
pub(crate) fn bridge_host_local() -> Subject {
    Subject { name: "bridge > host-local", delegate: Some("host-local"), ..bridge() }
}

pub(crate) fn bridge_iptables() -> Subject {
    let config = with(&config::dual_stack(), json!({ "ipMasq": true, "ipMasqBackend": "iptables" }));
    Subject::alone("bridge, iptables", config)
}

pub(crate) fn host_local() -> Subject {
    Subject::alone("host-local", with(&config::dual_stack(), json!({ "type": "host-local" })))
}

/// host-local with one address in each range set, as bridge calls it.
pub(crate) fn host_local_heals() -> Subject {
    let range = |subnet, ip| json!([{ "subnet": subnet, "rangeStart": ip, "rangeEnd": ip }]);
    let ranges = json!([range("10.22.0.0/24", "10.22.0.2"), range("fd00:22::/64", "fd00:22::2")]);
    let plugin = with(&config::bridge(), json!({ "type": "host-local", "ipam": { "ranges": ranges } }));
    // The folder of the pods' namespaces.
    let prepare = |host: &Host| _ = host.run("mkdir /run/netns");
    Subject { is_known: true, heals: true, prepare, ..Subject::alone("host-local, healing", plugin) }
}

pub(crate) fn fixed() -> Subject {
    let config = config::fixed(&[("10.22.0.50/24", config::GATEWAY4), ("fd00:22::50/64", config::GATEWAY6)]);
    Subject::alone("static", with(&config, json!({ "type": "static" })))
}

pub(crate) fn loopback() -> Subject {
    Subject::alone("loopback", json!({ "cniVersion": "1.0.0", "name": "lo", "type": "loopback" }))
}

pub(crate) fn portmap() -> Subject {
    Subject::behind_bridge("portmap", chained::portmap())
}

pub(crate) fn portmap_iptables() -> Subject {
    Subject::behind_bridge("portmap, iptables", with(&chained::portmap(), json!({ "backend": "iptables" })))
}

pub(crate) fn firewall() -> Subject {
    Subject::behind_bridge("firewall", chained::firewall())
}

pub(crate) fn firewall_same_bridge() -> Subject {
    let config = with(&chained::firewall(), json!({ "ingressPolicy": "same-bridge" }));
    Subject::behind_bridge("firewall, same-bridge", config)
}

pub(crate) fn firewall_isolated() -> Subject {
    Subject::behind_bridge("firewall, isolated", with(&chained::firewall(), json!({ "ingressPolicy": "isolated" })))
}

pub(crate) fn firewall_iptables() -> Subject {
    Subject::behind_bridge("firewall, iptables", with(&chained::firewall(), json!({ "backend": "iptables" })))
}

pub(crate) fn tuning() -> Subject {
    Subject::behind_bridge("tuning", chained::tuning())
}

pub(crate) fn bandwidth() -> Subject {
    Subject::behind_bridge("bandwidth", chained::bandwidth())
}

pub(crate) fn flannel() -> Subject {
    let config = json!({ "cniVersion": "1.0.0", "name": "cbr0", "type": "flannel",
                         "delegate": { "hairpinMode": true, "isDefaultGateway": true } });
    const LEASE: &str = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.3.1/24\n\
                 FLANNEL_IPV6_NETWORK=fd01::/48\nFLANNEL_IPV6_SUBNET=fd01:0:0:3::1/64\nFLANNEL_MTU=1450\n\
                 FLANNEL_IPMASQ=true\n";
    Subject { prepare: |host| host.write("/run/flannel/subnet.env", LEASE), ..Subject::alone("flannel", config) }
}

/// bridge, and what flannel makes of its failures.
pub(crate) fn flannel_bridge() -> Subject {
    Subject { name: "flannel > bridge", delegate: Some("bridge"), ..flannel() }
}

pub(crate) fn chain_bridge() -> Subject {
    Subject::in_chain("chain: bridge", 0)
}

pub(crate) fn chain_portmap() -> Subject {
    Subject::in_chain("chain: portmap", 1)
}

pub(crate) fn chain_firewall() -> Subject {
    Subject::in_chain("chain: firewall", 2)
}

pub(crate) fn chain_tuning() -> Subject {
    Subject::in_chain("chain: tuning", 3)
}

pub(crate) fn chain_bandwidth() -> Subject {
    Subject::in_chain("chain: bandwidth", 4)
}
