//! Another address on the bridge than the config's gateway.

use serde_json::{Value, json};
use tests::{
    Host, Place, case,
    config::{self, BRIDGE, GATEWAY4, with},
    traffic::assert_reaches,
};

fn other_subnet() -> Value {
    with(&config::bridge(), json!({ "name": "other", "ipam": config::host_local(&["10.77.0.0/24"]) }))
}

#[test]
fn with_pods_the_conflict_names_both_addresses_and_changes_nothing() {
    case(|| {
        let host = Host::new();
        let first = host.pod();
        host.plugin("bridge").pod(&first).config(&config::bridge()).add().ok();
        let before = host.snapshot();
        let failure = host.plugin("bridge").pod(&host.pod()).config(&other_subnet()).add().failure();
        failure.is(999, "already has an IP address different from|10.77.0.1/24|10.22.0.1/24");
        failure.is(999, "forceAddress");
        host.assert_nothing_made(&before);
        assert_reaches(&first, GATEWAY4);
    });
}

#[test]
fn force_address_replaces_the_old_one() {
    case(|| {
        let host = Host::new();
        host.plugin("bridge").pod(&host.pod()).config(&config::bridge()).add().ok();
        let pod = host.pod();
        host.plugin("bridge").pod(&pod).config(&with(&other_subnet(), json!({ "forceAddress": true }))).add().ok();
        let now = host.snapshot();
        assert!(now.mentions(&format!("address {BRIDGE} 10.77.0.1/24")));
        assert!(!now.mentions(&format!("address {BRIDGE} 10.22.0.1/24")));
        assert_reaches(&pod, "10.77.0.1");
    });
}

#[test]
fn force_address_of_an_add_that_fails_gives_the_old_one_back() {
    case(|| {
        let host = Host::new();
        let first = host.pod();
        host.plugin("bridge").pod(&first).config(&config::bridge()).add().ok();
        // No gateway of the pod's is where this route wants to go.
        let config = with(
            &other_subnet(),
            json!({ "forceAddress": true, "ipam": { "routes": [{ "dst": "192.0.2.0/24", "gw": "198.51.100.1" }] } }),
        );
        host.plugin("bridge").pod(&host.pod()).config(&config).add().failure();
        let now = host.snapshot();
        assert!(now.mentions(&format!("address {BRIDGE} 10.22.0.1/24")));
        assert!(!now.mentions(&format!("address {BRIDGE} 10.77.0.1/24")));
        assert_reaches(&first, GATEWAY4);
    });
}

#[test]
fn our_bridge_without_pods_takes_the_new_address() {
    case(|| {
        let host = Host::new();
        host.warm_up(&config::bridge());
        let pod = host.pod();
        host.plugin("bridge").pod(&pod).config(&other_subnet()).add().ok();
        let now = host.snapshot();
        assert!(now.mentions(&format!("address {BRIDGE} 10.77.0.1/24")));
        assert!(!now.mentions(&format!("address {BRIDGE} 10.22.0.1/24")));
        assert_reaches(&pod, "10.77.0.1");
    });
}

#[test]
fn an_operators_bridge_keeps_its_address() {
    case(|| {
        let host = Host::new();
        host.run(&format!("ip link add {BRIDGE} type bridge"));
        host.run(&format!("ip address add 192.0.2.77/24 dev {BRIDGE}"));
        host.plugin("bridge")
            .pod(&host.pod())
            .config(&config::bridge())
            .add()
            .failure()
            .is(999, "192.0.2.77/24|10.22.0.1/24");
        assert!(host.snapshot().mentions(&format!("address {BRIDGE} 192.0.2.77/24")));
    });
}

#[test]
fn the_same_address_on_the_bridge_already_is_fine() {
    case(|| {
        let host = Host::new();
        host.run(&format!("ip link add {BRIDGE} type bridge"));
        host.run(&format!("ip address add {GATEWAY4}/24 dev {BRIDGE}"));
        let pod = host.pod();
        host.plugin("bridge").pod(&pod).config(&config::bridge()).add().ok();
        assert_reaches(&pod, GATEWAY4);
    });
}

#[test]
fn an_ipv6_address_conflicts_only_where_prefixes_overlap() {
    case(|| {
        let host = Host::new();
        host.run(&format!("ip link add {BRIDGE} type bridge"));
        host.run(&format!("ip address add fd00:99::1/64 dev {BRIDGE} nodad"));
        host.plugin("bridge").pod(&host.pod()).config(&config::ipv6_only()).add().ok();
        let overlapping = with(
            &config::ipv6_only(),
            json!({ "name": "other", "ipam": {
            "ranges": [[{ "subnet": "fd00:22::/64", "gateway": "fd00:22::fe" }]] } }),
        );
        host.plugin("bridge")
            .pod(&host.pod())
            .config(&overlapping)
            .add()
            .failure()
            .is(999, "fd00:22::1/64|fd00:22::fe/64");
    });
}
