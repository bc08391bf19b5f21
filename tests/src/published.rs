//! A node with published ports: a pod that serves, and everyone who may want something of it.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use crate::{
    Host, Network, Place, Pod, Reply,
    config::{self, with},
    traffic::{
        Server, Transport,
        outside::{HOST4, HOST6},
    },
};

/// The port that the server in the pod listens on.
pub const CONTAINER_PORT: u16 = 80;
/// In the line of a [`Snapshot`](crate::Snapshot) that is about a port published for any address of IPv4.
pub const PUBLISHED: &str = "nft element ip oxbridge ports-any ";
/// The name by which the server in the pod answers.
pub const NAME: &str = "pod";
/// The address of the first pod of [`bridge()`].
pub const POD4: &str = "10.22.0.2";
/// The IPv6 address of the first pod of [`bridge()`].
pub const POD6: &str = "fd00:22::2";

/// IPv4 or IPv6: the addresses of one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// The host's on the uplink.
    pub host: &'static str,
    /// The host's on the first bridge: the pods' gateway.
    pub gateway: &'static str,
    /// The serving pod's.
    pub pod: &'static str,
    /// Its sibling's.
    pub sibling: &'static str,
    /// The pod's on another bridge.
    pub stranger: &'static str,
    /// The one outside.
    pub outside: &'static str,
}

/// IPv4.
pub const V4: Family = Family {
    host: HOST4,
    gateway: config::GATEWAY4,
    pod: POD4,
    sibling: "10.22.0.3",
    stranger: "10.23.0.2",
    outside: crate::traffic::outside::SERVER4,
};
/// IPv6.
pub const V6: Family = Family {
    host: HOST6,
    gateway: config::GATEWAY6,
    pod: POD6,
    sibling: "fd00:22::3",
    stranger: "fd00:23::2",
    outside: crate::traffic::outside::SERVER6,
};

/// This address and port.
pub fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

/// A mapping of [`CONTAINER_PORT`] for any address of the host.
pub fn mapping(transport: Transport, host_port: u16) -> Value {
    json!({ "hostPort": host_port, "containerPort": CONTAINER_PORT, "protocol": transport.to_string() })
}

/// The same for one address of the host.
pub fn mapping_at(transport: Transport, host_port: u16, host_ip: &str) -> Value {
    with(&mapping(transport, host_port), json!({ "hostIP": host_ip }))
}

/// The config of `bridge` for the first network, dual stack; `patch` is merged into it.
pub fn bridge(patch: &Value) -> Value {
    with(&config::dual_stack(), patch.clone())
}

/// The config of `bridge` for another network, on a bridge of its own.
pub fn other_bridge(patch: &Value) -> Value {
    let own = json!({ "name": "other", "bridge": "br1" });
    let ipam = config::host_local(&["10.23.0.0/24", "fd00:23::/64"]);
    with(&bridge(patch), with(&own, json!({ "ipam": ipam })))
}

/// The config of `portmap`; `patch` is merged into it.
pub fn portmap(patch: &Value) -> Value {
    with(&json!({ "type": "portmap", "capabilities": { "portMappings": true } }), patch.clone())
}

/// A network of these plugins; the first names it.
pub fn chain<'h>(host: &'h Host, plugins: &[Value]) -> Network<'h> {
    let first = &plugins[0];
    Network::of_list(host, &json!({ "cniVersion": first["cniVersion"], "name": first["name"], "plugins": plugins }))
}

/// ADD of a pod with these ports published.
pub fn publish(network: &Network<'_>, pod: &Pod, mappings: &[Value]) -> Reply {
    with_ports(network, "add", pod, mappings)
}

/// DEL of a pod with these ports published.
pub fn withdraw(network: &Network<'_>, pod: &Pod, mappings: &[Value]) -> Reply {
    with_ports(network, "del", pod, mappings)
}

/// CHECK of a pod with these ports published.
pub fn check(network: &Network<'_>, pod: &Pod, mappings: &[Value]) -> Reply {
    with_ports(network, "check", pod, mappings)
}

fn with_ports(network: &Network<'_>, command: &str, pod: &Pod, mappings: &[Value]) -> Reply {
    network.call(command, pod).env("CAP_ARGS", &json!({ "portMappings": mappings }).to_string()).run()
}

/// Whether frames between ports of a bridge pass the rules of the host's IP tables, as Kubernetes wants it.
///
/// Skips the test where the kernel cannot do it.
pub fn set_bridge_nf(host: &Host, on: bool) {
    for name in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
        if host.try_run(&format!("sysctl -q -w net.bridge.{name}={}", u8::from(on))).is_err() && on {
            crate::skip("this kernel has no br_netfilter");
        }
    }
}

/// A host with a published pod, a sibling of it, a pod on another bridge, and the world outside.
pub struct Node {
    /// The host.
    pub host: Host,
    /// The pod that serves, [`NAME`].
    pub pod: Pod,
    /// A pod on the same bridge.
    pub sibling: Pod,
    /// A pod on another bridge.
    pub stranger: Pod,
    mappings: Vec<Value>,
    plugins: Vec<Value>,
    _servers: [Server; 2],
}

impl Node {
    /// With these ports published; `bridge` and `portmap` are merged into the configs.
    pub fn new(mappings: &[Value], bridge_patch: &Value, portmap_patch: &Value) -> Self {
        Self::on(Host::new(), mappings, bridge_patch, &[portmap(portmap_patch)])
    }

    /// The same with these plugins behind `bridge`, on a host on which others have been at work.
    pub fn on(host: Host, mappings: &[Value], bridge_patch: &Value, chained: &[Value]) -> Self {
        host.outside();
        let (pod, sibling, stranger) = (host.pod(), host.pod(), host.pod());
        let plugins: Vec<_> = [bridge(bridge_patch)].into_iter().chain(chained.iter().cloned()).collect();
        publish(&chain(&host, &plugins), &pod, mappings).ok();
        chain(&host, &plugins).add(&sibling).ok();
        let others: Vec<_> = [other_bridge(bridge_patch)].into_iter().chain(chained.iter().cloned()).collect();
        chain(&host, &others).add(&stranger).ok();
        let servers = [V4, V6].map(|f| Server::start(&pod, NAME, at(f.pod, CONTAINER_PORT)));
        Self { host, pod, sibling, stranger, mappings: mappings.to_vec(), plugins, _servers: servers }
    }

    /// CHECK of the pod.
    pub fn check(&self) -> Reply {
        check(&chain(&self.host, &self.plugins), &self.pod, &self.mappings)
    }

    /// DEL of the pod.
    pub fn withdraw(&self) {
        withdraw(&chain(&self.host, &self.plugins), &self.pod, &self.mappings).ok();
    }
}

/// An address, for comparing.
pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Lets the world outside find the way to the pods.
pub fn route_back(host: &Host) {
    let outside = host.outside();
    for (subnets, via) in [(["10.22.0.0/24", "10.23.0.0/24"], HOST4), (["fd00:22::/64", "fd00:23::/64"], HOST6)] {
        for subnet in subnets {
            outside.run(&format!("ip route add {subnet} via {via}"));
        }
    }
}
