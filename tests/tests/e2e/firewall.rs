//! What the firewall's tests share: pods attached by `bridge` and then `firewall`, as a runtime chains them.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tests::{
    Call, Host, Place, Pod,
    config::{self, with},
    traffic::outside::{HOST4, HOST6},
};

/// The default chains of the reference, which are the iptables backend's too.
pub(crate) const CHAIN: &str = "CNI-FORWARD";

/// `firewall` behind [`config::dual_stack`]'s bridge.
pub(crate) fn config() -> Value {
    json!({ "cniVersion": "1.0.0", "name": "net", "type": "firewall" })
}

/// A pod's network, and the firewall behind it.
pub(crate) struct Chain<'h> {
    pub(crate) host: &'h Host,
    pub(crate) network: Value,
    pub(crate) firewall: Value,
}

impl<'h> Chain<'h> {
    /// Masqueraded pods of both families, and a firewall with these keys.
    pub(crate) fn new(host: &'h Host, keys: Value) -> Self {
        let network = with(&config::dual_stack(), json!({ "ipMasq": true }));
        Self { host, network, firewall: with(&config(), keys) }
    }

    /// The same with another network's name, bridge and subnets.
    pub(crate) fn other(&self, name: &str, number: u8) -> Self {
        let subnets = [format!("10.{number}.0.0/24"), format!("fd00:{number}::/64")];
        let ipam = config::host_local(&[&subnets[0], &subnets[1]]);
        let keys = json!({ "name": name, "bridge": format!("br{number}"), "ipam": ipam });
        Self {
            host: self.host,
            network: with(&self.network, keys),
            firewall: with(&self.firewall, json!({ "name": name })),
        }
    }

    /// With these keys of the firewall changed.
    pub(crate) fn with(&self, keys: Value) -> Self {
        Self { host: self.host, network: self.network.clone(), firewall: with(&self.firewall, keys) }
    }

    /// The pod is attached to the network; the result.
    pub(crate) fn connect(&self, pod: &Pod) -> Value {
        self.host.plugin("bridge").pod(pod).config(&self.network).add().result()
    }

    /// A call of the firewall with the result before it.
    pub(crate) fn call(&self, pod: &Pod, result: &Value) -> Call<'h> {
        self.host.plugin("firewall").pod(pod).config_with(&self.firewall, result)
    }

    /// A call of the firewall without any result.
    pub(crate) fn bare(&self, pod: &Pod) -> Call<'h> {
        self.host.plugin("firewall").pod(pod).config(&self.firewall)
    }

    /// Both ADDs; the result.
    pub(crate) fn add(&self, pod: &Pod) -> Value {
        let result = self.connect(pod);
        assert_eq!(self.call(pod, &result).add().result(), result, "the result passes through");
        result
    }

    /// Both DELs.
    pub(crate) fn del(&self, pod: &Pod, result: &Value) {
        self.call(pod, result).del().ok();
        self.host.plugin("bridge").pod(pod).config_with(&self.network, result).del().ok();
    }

    /// A pod that has come and gone, after which what stays for good is there.
    pub(crate) fn warm_up(&self) {
        let pod = self.host.pod();
        let result = self.add(&pod);
        self.del(&pod, &result);
    }
}

/// The outside knows the way to pods of this subnet number.
pub(crate) fn route_to_pods(host: &Host, number: u8) {
    host.outside().run(&format!("ip route add 10.{number}.0.0/24 via {HOST4}"));
    host.outside().run(&format!("ip -6 route add fd00:{number}::/64 via {HOST6}"));
}

/// The rules of iptables' chain, of one family (`iptables` or `ip6tables`).
pub(crate) fn rules(host: &Host, program: &str, chain: &str) -> Vec<String> {
    let listed = host.try_run(&format!("{program} -S {chain}")).unwrap_or_default();
    listed.lines().filter(|line| line.starts_with("-A")).map(str::to_owned).collect()
}

/// Elements of a set in our own table, as `nft` names their keys.
pub(crate) fn elements(host: &Host, family: &str, set: &str) -> Vec<String> {
    let list = |kind| host.try_run(&format!("nft -j list {kind} {family} oxbridge {set}"));
    let Ok(text) = list("set").or_else(|_| list("map")) else { return Vec::new() };
    let json: Value = serde_json::from_str(&text).unwrap();
    let mut objects = json["nftables"].as_array().unwrap().iter();
    let set = objects.find_map(|object| object.get("set").or(object.get("map"))).unwrap();
    let key = |element: &Value| {
        // In a map: the key and its value.
        let element = element.get(0).unwrap_or(element);
        let value = element.get("elem").map_or(element, |element| &element["val"]);
        match value.get("concat").and_then(Value::as_array) {
            Some(parts) => parts.iter().map(|part| part.as_str().unwrap()).collect::<Vec<_>>().join(" . "),
            None => value.as_str().unwrap().to_owned(),
        }
    };
    set["elem"].as_array().map_or(&[][..], Vec::as_slice).iter().map(key).collect()
}

/// What the host publishes, done as a plugin for ports would: connections to its port of both families go to the pod.
pub(crate) fn publish(host: &Host, port: u16, pod: &Pod, pod_port: u16) {
    for address in pod.addresses() {
        let address = address.split('/').next().unwrap().to_owned();
        let (family, target) = if address.contains(':') {
            ("ip6", format!("[{address}]:{pod_port}"))
        } else {
            ("ip", format!("{address}:{pod_port}"))
        };
        host.run(&format!("nft add table {family} published"));
        host.run(&format!("nft add chain {family} published in {{ type nat hook prerouting priority -100 ; }}"));
        host.run(&format!("nft add rule {family} published in fib daddr type local tcp dport {port} dnat to {target}"));
    }
}

/// Whether a connection to the address and port comes about in this time, with a server on its own port in a pod.
pub(crate) fn connects(from: &impl Place, address: &str, port: u16, server: (&Pod, u16), within: Duration) -> bool {
    let any = if address.contains(':') { "[::]" } else { "0.0.0.0" };
    // Connections to an earlier listener may take a moment to be gone.
    let listen = || TcpListener::bind(format!("{any}:{}", server.1)).ok();
    let _listener = server.0.enter(|| {
        (0..500)
            .find_map(|_| {
                listen().or_else(|| {
                    thread::sleep(Duration::from_millis(10));
                    None
                })
            })
            .unwrap()
    });
    let target = SocketAddr::new(address.parse().unwrap(), port);
    let start = Instant::now();
    // Anew, instead of waiting for TCP's own retransmissions, which take seconds.
    from.enter(|| {
        loop {
            if TcpStream::connect_timeout(&target, Duration::from_millis(250)).is_ok() {
                return true;
            }
            if start.elapsed() >= within {
                return false;
            }
        }
    })
}

/// The pod's first address of a family in a result.
pub(crate) fn address(result: &Value, family: u8) -> String {
    let is_of = |address: &&str| address.contains(':') == (family == 6);
    let addresses = result["ips"].as_array().unwrap().iter().map(|ip| ip["address"].as_str().unwrap());
    addresses.filter(is_of).map(|address| address.split('/').next().unwrap().to_owned()).next().unwrap()
}
