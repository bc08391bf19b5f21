//! CHECK: passes after every ADD, and notices what is gone.

use serde_json::{Value, json};
use tests::{
    Host, Place, Pod, case,
    config::{self, BRIDGE, GATEWAY4, GATEWAY6, with},
    snapshot::elements,
    traffic::assert_reaches,
};

fn attached(host: &Host, config: &Value) -> (Pod, Value) {
    let pod = host.pod();
    let result = host.plugin("bridge").pod(&pod).config(config).add().result();
    (pod, result)
}

#[test]
fn passes_right_after_add() {
    case(|| {
        let plain = [
            config::bridge(),
            config::dual_stack(),
            config::ipv6_only(),
            config::everything(),
            with(&config::bridge(), json!({ "isGateway": false, "ipam": { "routes": null } })),
            with(&config::dual_stack(), json!({ "isDefaultGateway": true, "ipam": { "routes": null } })),
            with(&config::bridge(), json!({ "hairpinMode": true })),
            with(&config::bridge(), json!({ "promiscMode": true })),
            with(&config::bridge(), json!({ "mtu": 1400 })),
            with(&config::bridge(), json!({ "runtimeConfig": { "mac": "02:00:00:00:00:07" } })),
            with(&config::bridge(), json!({ "cniVersion": "0.4.0" })),
            with(&config::fixed(&[("10.22.0.5/24", "10.22.0.1")]), json!({ "ipam": { "routes": null } })),
            with(&config::bridge(), json!({ "ipam": { "routes": [{ "dst": "192.168.1.0/24", "gw": "10.22.0.9" }] } })),
        ];
        for config in plain {
            let host = Host::new();
            let (pod, result) = attached(&host, &config);
            let reply = host.plugin("bridge").pod(&pod).config_with(&config, &result).check();
            assert!(reply.status.success(), "{config}: {reply}");
            assert_eq!(reply.stdout, "");
        }
    });
}

#[test]
fn passes_for_what_the_reference_gives_false_alarms_for() {
    case(|| {
        for config in [
            with(&config::bridge(), json!({ "portIsolation": true, "hairpinMode": true, "isDefaultGateway": true })),
            with(&config::dual_stack(), json!({ "isDefaultGateway": true, "ipMasq": true, "cniVersion": "1.1.0" })),
            with(
                &config::fixed(&[("10.22.0.5/32", "10.22.0.1")]),
                json!({ "isGateway": false, "ipam": { "routes": null } }),
            ),
            with(
                &config::bridge(),
                json!({ "ipam": { "ranges": [[{ "subnet": "10.22.0.0/24" }], [{ "subnet": "10.23.0.0/24" }]] } }),
            ),
            with(
                &config::bridge(),
                json!({ "cniVersion": "1.1.0", "ipam": { "routes": [
                { "dst": "192.168.1.0/24", "table": 100, "mtu": 1300 }, { "dst": "192.168.2.0/24", "priority": 9 }] } }),
            ),
            config::layer2(),
            with(&config::layer2(), json!({ "disableContainerInterface": true })),
            with(&config::everything(), json!({ "ipMasqBackend": "iptables" })),
        ] {
            let host = Host::new();
            let (pod, result) = attached(&host, &config);
            let reply = host.plugin("bridge").pod(&pod).config_with(&config, &result).check();
            assert!(reply.status.success(), "{config}: {reply}");
        }
    });
}

#[test]
fn passes_while_somebody_captures_packets_on_the_bridge() {
    case(|| {
        let host = Host::new();
        let (pod, result) = attached(&host, &config::everything());
        // What tcpdump does, seen from outside.
        host.run(&format!("ip link set {BRIDGE} promisc on"));
        host.plugin("bridge").pod(&pod).config_with(&config::everything(), &result).check().ok();
    });
}

#[test]
fn passes_for_older_pods_while_pods_come_and_go() {
    case(|| {
        for config in
            [config::bridge(), with(&config::bridge(), json!({ "isGateway": false, "ipam": { "routes": null } }))]
        {
            let host = Host::new();
            let (first, result) = attached(&host, &config);
            let more: Vec<_> = (0..4).map(|_| attached(&host, &config)).collect();
            // A bridge that takes its address from its ports takes the lowest: this one's.
            host.run("ip link add low address 02:00:00:00:00:01 type veth peer name high");
            host.run(&format!("ip link set low master {BRIDGE}"));
            host.plugin("bridge").pod(&first).config_with(&config, &result).check().ok();
            host.plugin("bridge").pod(&more[0].0).config(&config).del().ok();
            host.plugin("bridge").pod(&first).config_with(&config, &result).check().ok();
        }
    });
}

#[test]
fn needs_the_result_of_add() {
    case(|| {
        let host = Host::new();
        let (pod, _) = attached(&host, &config::bridge());
        host.plugin("bridge").pod(&pod).config(&config::bridge()).check().failure().is(999, "prevResult");
    });
}

/// One thing goes wrong behind the plugin's back: CHECK says so, with these words.
fn notices(config: &Value, damage: impl FnOnce(&Host, &Pod, &str), fragments: &str) {
    let host = Host::new();
    let (pod, result) = attached(&host, config);
    let check = || host.plugin("bridge").pod(&pod).config_with(config, &result).check();
    check().ok();
    damage(&host, &pod, result["interfaces"][1]["name"].as_str().unwrap());
    let failure = check().failure();
    failure.is(999, fragments);
}

#[test]
fn notices_a_lost_address_or_route() {
    case(|| {
        let config = with(
            &config::dual_stack(),
            json!({ "ipam": { "routes": [{ "dst": "192.168.1.0/24" }, { "dst": "fd07::/64" }] } }),
        );
        notices(&config, |_, pod, _| _ = pod.run("ip address del 10.22.0.2/24 dev eth0"), "10.22.0.2");
        notices(&config, |_, pod, _| _ = pod.run("ip address del fd00:22::2/64 dev eth0"), "fd00:22::2");
        notices(&config, |_, pod, _| _ = pod.run("ip route del 192.168.1.0/24"), "192.168.1.0");
        notices(&config, |_, pod, _| _ = pod.run("ip -6 route del fd07::/64"), "fd07::");
        notices(&config, |_, pod, _| _ = pod.run("ip route replace 192.168.1.0/24 via 10.22.0.99"), "192.168.1.0");
    });
}

/// What a later plugin may do: of the pod's subnets other routes of its interface than the kernel's.
fn instead_of_subnets(pod: &Pod, v4: &str, v6: &str) {
    pod.run(&format!("ip route add {v4} dev eth0"));
    pod.run(&format!("ip -6 route add {v6} dev eth0"));
    pod.run("ip route del 10.22.0.0/24 dev eth0");
    pod.run("ip -6 route del fd00:22::/64 dev eth0");
}

#[test]
fn passes_where_other_routes_reach_the_gateway() {
    case(|| {
        let config = config::dual_stack();
        for (v4, v6) in
            [("10.22.0.1", "fd00:22::1"), ("10.22.0.0/16", "fd00:22::/48"), ("0.0.0.0/0 metric 9", "8000::/1")]
        {
            let host = Host::new();
            let (pod, result) = attached(&host, &config);
            instead_of_subnets(&pod, v4, v6);
            host.plugin("bridge").pod(&pod).config_with(&config, &result).check().ok();
            assert_reaches(&pod, GATEWAY4);
            assert_reaches(&pod, GATEWAY6);
        }
    });
}

#[test]
fn notices_that_nothing_reaches_the_gateway() {
    case(|| {
        if tests::settings::is_reference() {
            tests::skip("it does not look at the routes of subnets");
        }
        let config = config::dual_stack();
        // The default route by way of the gateway says where the gateway would be if anything led there.
        notices(&config, |_, pod, _| _ = pod.run("ip route del 10.22.0.0/24 dev eth0"), "10.22.0.0/24");
        notices(&config, |_, pod, _| _ = pod.run("ip -6 route del fd00:22::/64 dev eth0"), "fd00:22::/64");
        notices(&config, |_, pod, _| instead_of_subnets(pod, "10.22.0.9", "fd00:22::1"), "10.22.0.0/24");
        notices(&config, |_, pod, _| instead_of_subnets(pod, "10.22.0.1", "fd00:22::9"), "fd00:22::/64");
        // Of the host only the subnet's own will do.
        let host = |host: &Host, _: &Pod, _: &str| {
            host.run(&format!("ip route add 10.22.0.0/16 dev {BRIDGE}"));
            host.run(&format!("ip route del 10.22.0.0/24 dev {BRIDGE}"));
        };
        notices(&config, host, "10.22.0.0/24");
    });
}

#[test]
fn notices_a_lost_link() {
    case(|| {
        notices(&config::bridge(), |_, pod, _| _ = pod.run("ip link del eth0"), "");
        notices(&config::bridge(), |_, pod, _| pod.rename("eth0", "eth7"), "eth0");
        notices(&config::bridge(), |host, _, port| _ = host.run(&format!("ip link set {port} nomaster")), BRIDGE);
        notices(&config::layer2(), |_, pod, _| _ = pod.run("ip link del eth0"), "");
    });
}

#[test]
fn notices_a_released_reservation() {
    case(|| {
        notices(&config::bridge(), |host, _, _| _ = host.run("rm /var/lib/cni/networks/net/10.22.0.2"), "");
    });
}

#[test]
fn notices_lost_masquerade() {
    case(|| {
        let config = with(&config::dual_stack(), json!({ "ipMasq": true }));
        for family in ["ip ", "ip6 "] {
            notices(&config, |host, pod, _| flush(host, &pod.id, family), "masquerad");
        }
        notices(&config, |host, _, _| _ = host.run("nft flush ruleset"), "masquerad");
    });
}

#[test]
fn notices_a_lost_spoof_filter() {
    case(|| {
        let config = with(&config::bridge(), json!({ "macspoofchk": true }));
        notices(&config, |host, pod, _| flush(host, &pod.id, "bridge "), "spoof");
        notices(&config, |host, _, _| _ = host.run("nft flush ruleset"), "spoof");
    });
}

/// Empties the sets in which a pod has elements.
fn flush(host: &Host, id: &str, family: &str) {
    let found: Vec<_> = elements(host, id).into_iter().filter(|e| e.set.starts_with(family)).collect();
    assert!(!found.is_empty(), "nothing of {id} to flush");
    for element in found {
        host.run(&format!("nft flush {} {}", element.kind, element.set));
    }
}

#[test]
fn notices_a_changed_port() {
    case(|| {
        let hairpin = with(&config::bridge(), json!({ "hairpinMode": true }));
        let isolated = with(&config::bridge(), json!({ "portIsolation": true }));
        notices(
            &hairpin,
            |host, _, p| _ = host.run(&format!("bridge link set dev {p} hairpin off")),
            "hairpin|found|expected",
        );
        notices(
            &isolated,
            |host, _, p| _ = host.run(&format!("bridge link set dev {p} isolated off")),
            "isolat|found|expected",
        );
        let mtu = with(&config::bridge(), json!({ "mtu": 1400 }));
        notices(&mtu, |_, pod, _| _ = pod.run("ip link set eth0 mtu 1450"), "mtu|1450|1400");
    });
}

#[test]
fn notices_a_lost_gateway_address() {
    case(|| {
        let damage = |address: &'static str| {
            move |host: &Host, _: &Pod, _: &str| {
                host.run(&format!("ip address del {address} dev {BRIDGE}"));
            }
        };
        notices(&config::dual_stack(), damage("10.22.0.1/24"), "10.22.0.1");
        notices(&config::dual_stack(), damage("fd00:22::1/64"), "fd00:22::1");
    });
}

#[test]
fn notices_lost_promisc_mode() {
    case(|| {
        let config = with(&config::bridge(), json!({ "promiscMode": true }));
        notices(&config, |host, _, _| _ = host.run(&format!("ip link set {BRIDGE} promisc off")), "promisc");
    });
}

#[test]
fn notices_another_mac_or_namespace() {
    case(|| {
        notices(
            &config::bridge(),
            |_, pod, _| _ = pod.run("ip link set eth0 address 02:00:00:00:00:99"),
            "02:00:00:00:00:99",
        );
        let host = Host::new();
        let (pod, result) = attached(&host, &config::bridge());
        let other = host.pod();
        let call = host.plugin("bridge").pod(&pod).netns(&other.path).config_with(&config::bridge(), &result);
        call.check().failure().is(999, "");
    });
}
