//! Configs to start from.

use serde_json::{Value, json};

/// The bridge of these configs.
pub const BRIDGE: &str = "br0";
/// The gateway of [`bridge`]'s IPv4 subnet, on the bridge.
pub const GATEWAY4: &str = "10.22.0.1";
/// The gateway of [`dual_stack`]'s IPv6 subnet, on the bridge.
pub const GATEWAY6: &str = "fd00:22::1";
/// The default `dataDir` of host-local with the network of these configs.
pub const STORE: &str = "/var/lib/cni/networks/net";

/// A network with a gateway and IPv4 addresses: 10.22.0.0/24.
pub fn bridge() -> Value {
    json!({
        "cniVersion": "1.0.0", "name": "net", "type": "bridge", "bridge": BRIDGE, "isGateway": true,
        "ipam": host_local(&["10.22.0.0/24"]),
    })
}

/// The same with IPv6: fd00:22::/64.
pub fn dual_stack() -> Value {
    with(&bridge(), json!({ "ipam": host_local(&["10.22.0.0/24", "fd00:22::/64"]) }))
}

/// IPv6 alone: fd00:22::/64.
pub fn ipv6_only() -> Value {
    with(&bridge(), json!({ "ipam": host_local(&["fd00:22::/64"]) }))
}

/// All that can be made for a pod on this kernel: dual stack, masquerade, spoof filter, hairpin.
pub fn everything() -> Value {
    with(&dual_stack(), json!({ "ipMasq": true, "macspoofchk": true, "hairpinMode": true }))
}

/// A port without addresses.
pub fn layer2() -> Value {
    json!({ "cniVersion": "1.0.0", "name": "net", "type": "bridge", "bridge": BRIDGE })
}

/// Addresses that the config names, on a bridge with the gateway of the first.
pub fn fixed(addresses: &[(&str, &str)]) -> Value {
    let addresses: Vec<_> = addresses.iter().map(|(a, g)| json!({ "address": a, "gateway": g })).collect();
    with(&bridge(), json!({ "ipam": null })).merge(json!({ "ipam": {
        "type": "static", "addresses": addresses, "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }] } }))
}

/// IPAM with one range for each subnet, and default routes.
pub fn host_local(subnets: &[&str]) -> Value {
    let ranges: Vec<_> = subnets.iter().map(|s| json!([{ "subnet": s }])).collect();
    let mut routes = Vec::new();
    if subnets.iter().any(|s| !s.contains(':')) {
        routes.push(json!({ "dst": "0.0.0.0/0" }));
    }
    if subnets.iter().any(|s| s.contains(':')) {
        routes.push(json!({ "dst": "::/0" }));
    }
    json!({ "type": "host-local", "ranges": ranges, "routes": routes })
}

/// The config with keys added, replaced, or (by `null`) removed, as by RFC 7396.
pub fn with(config: &Value, patch: Value) -> Value {
    config.clone().merge(patch)
}

/// [`with`] as a method, for chains.
pub trait Merge {
    /// See [`with`].
    fn merge(self, patch: Value) -> Value;
}

impl Merge for Value {
    fn merge(mut self, patch: Value) -> Value {
        match (&mut self, patch) {
            (Value::Object(keys), Value::Object(patch)) => {
                for (key, value) in patch {
                    match keys.remove(&key) {
                        _ if value.is_null() => {}
                        Some(old) => _ = keys.insert(key, old.merge(value)),
                        None => _ = keys.insert(key, value),
                    }
                }
                self
            }
            (_, patch) => patch,
        }
    }
}
