//! Routes of the pod, with all that they say.

use serde_json::{Value, json};
use tests::{
    Host, Place, Pod, case,
    config::{self, with},
};

fn add(host: &Host, routes: Value) -> Pod {
    let pod = host.pod();
    let config = with(&config::dual_stack(), json!({ "cniVersion": "1.1.0", "ipam": { "routes": routes } }));
    host.plugin("bridge").pod(&pod).config(&config).add().ok();
    pod
}

/// The route to this destination in this table.
fn route(pod: &Pod, family: u8, table: &str, dst: &str) -> Value {
    let routes = pod.json(&format!("ip -{family} -d -j route show table {table}"));
    let found = routes.as_array().unwrap().iter().find(|r| r["dst"] == dst);
    found.unwrap_or_else(|| panic!("no route to {dst} in {routes}")).clone()
}

#[test]
fn hundreds_of_them_are_set() {
    case(|| {
        let host = Host::new();
        let routes: Vec<_> =
            (0..400).map(|n| json!({ "dst": format!("10.{}.{}.0/24", 100 + n / 200, n % 200) })).collect();
        let pod = host.pod();
        let config = with(&config::bridge(), json!({ "ipam": { "routes": routes } }));
        host.plugin("bridge").pod(&pod).config(&config).add().ok();
        route(&pod, 4, "main", "10.100.0.0/24");
        route(&pod, 4, "main", "10.101.199.0/24");
    });
}

#[test]
fn mtu_and_advmss_are_set() {
    case(|| {
        let host = Host::new();
        let pod = add(
            &host,
            json!([
            { "dst": "192.168.1.0/24", "mtu": 1300, "advmss": 1200 }, { "dst": "fd07::/64", "mtu": 1310, "advmss": 1210 }]),
        );
        assert_eq!(route(&pod, 4, "main", "192.168.1.0/24")["metrics"], json!([{ "mtu": 1300, "advmss": 1200 }]));
        assert_eq!(route(&pod, 6, "main", "fd07::/64")["metrics"], json!([{ "mtu": 1310, "advmss": 1210 }]));
    });
}

#[test]
fn table_scope_and_priority_are_set() {
    case(|| {
        let host = Host::new();
        let pod = add(
            &host,
            json!([
            { "dst": "192.168.1.0/24", "table": 100, "priority": 77 },
            { "dst": "192.168.2.0/24", "scope": 200, "priority": 5 },
            { "dst": "fd07::/64", "table": 1000, "priority": 78 }]),
        );
        assert_eq!(route(&pod, 4, "100", "192.168.1.0/24")["metric"], 77);
        assert_eq!(route(&pod, 6, "1000", "fd07::/64")["metric"], 78);
        let scoped = route(&pod, 4, "main", "192.168.2.0/24");
        assert_eq!((&scoped["scope"], &scoped["metric"]), (&json!("site"), &json!(5)));
    });
}

#[test]
fn the_next_hop_is_the_routes_or_the_gateway() {
    case(|| {
        let host = Host::new();
        let pod = add(
            &host,
            json!([
            { "dst": "192.168.1.0/24" }, { "dst": "192.168.2.0/24", "gw": "10.22.0.77" },
            { "dst": "fd07::/64" }, { "dst": "fd08::/64", "gw": "fd00:22::77" }]),
        );
        assert_eq!(route(&pod, 4, "main", "192.168.1.0/24")["gateway"], "10.22.0.1");
        assert_eq!(route(&pod, 4, "main", "192.168.2.0/24")["gateway"], "10.22.0.77");
        assert_eq!(route(&pod, 6, "main", "fd07::/64")["gateway"], "fd00:22::1");
        assert_eq!(route(&pod, 6, "main", "fd08::/64")["gateway"], "fd00:22::77");
        assert_eq!(route(&pod, 4, "main", "192.168.1.0/24")["protocol"], "boot");
    });
}

#[test]
fn a_route_that_cannot_be_undoes_the_add() {
    case(|| {
        let host = Host::new();
        let before = host.warm_up(&config::dual_stack());
        let pod = host.pod();
        let config = with(
            &config::dual_stack(),
            json!({ "ipam": { "routes": [
            { "dst": "192.168.1.0/24" }, { "dst": "192.168.2.0/24", "gw": "172.31.0.1" }] } }),
        );
        let failure = host.plugin("bridge").pod(&pod).config(&config).add().failure();
        failure.is(999, "192.168.2.0|172.31.0.1|unreachable");
        assert!(pod.link("eth0").is_none());
        host.assert_as(&before);
    });
}
