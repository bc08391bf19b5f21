//! The bridge and the veth pair as links: MACs, MTUs, flags, marks.

use std::{fs, path::Path};

use serde_json::{Value, json};
use tests::{
    Host, Place, Pod, case,
    config::{self, BRIDGE, with},
    settings::bin_dir,
    traffic::assert_reaches,
};

fn add(host: &Host, pod: &Pod, config: &Value) -> Value {
    host.plugin_of(config).pod(pod).config(config).add().result()
}

fn mac_of(host: &Host, link: &str) -> String {
    host.link(link).unwrap()["address"].as_str().unwrap().to_owned()
}

fn port_of(host: &Host) -> Value {
    host.json(&format!("ip -d -j link show master {BRIDGE}"))[0].clone()
}

/// `/sys/class/net/<link>/addr_assign_type`; 3 = set by us, which udev respects.
fn assign_type(place: &Host, link: &str) -> String {
    place.read(&format!("/sys/class/net/{link}/addr_assign_type")).unwrap()
}

#[test]
fn the_bridges_mac_stays_while_pods_come_and_go() {
    case(|| {
        for config in [config::bridge(), with(&config::bridge(), json!({ "isGateway": false })), config::layer2()] {
            let host = Host::new();
            let pods: Vec<Pod> = (0..4).map(|_| host.pod()).collect();
            add(&host, &pods[0], &config);
            let mac = mac_of(&host, BRIDGE);
            let first = u8::from_str_radix(&mac[..2], 16).unwrap();
            assert_eq!(first & 3, 2, "{mac} is locally administered and unicast");
            for pod in &pods[1..] {
                let result = add(&host, pod, &config);
                assert_eq!(result["interfaces"][0]["mac"], mac);
            }
            for pod in &pods {
                host.plugin("bridge").pod(pod).config(&config).del().ok();
                assert_eq!(mac_of(&host, BRIDGE), mac);
            }
            assert_eq!(assign_type(&host, BRIDGE), "3");
        }
    });
}

#[test]
fn two_hosts_have_bridges_with_different_macs() {
    case(|| {
        let macs = [(); 2].map(|()| {
            let host = Host::new();
            add(&host, &host.pod(), &config::bridge());
            mac_of(&host, BRIDGE)
        });
        assert_ne!(macs[0], macs[1]);
    });
}

#[test]
fn a_first_add_that_fails_does_not_poison_the_bridge() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        // IPAM fails: it has no address.
        let full = with(
            &config::bridge(),
            json!({ "ipam": { "ranges": [[
            { "subnet": "10.22.0.0/24", "rangeStart": "10.22.0.1", "rangeEnd": "10.22.0.1" }]] } }),
        );
        host.plugin("bridge").pod(&pod).config(&full).add().failure();
        // The network outlives this container.
        drop(pod);
        host.wait_for_ports(0);
        let pods = [host.pod(), host.pod(), host.pod()];
        let macs = pods.each_ref().map(|pod| {
            add(&host, pod, &config::bridge());
            mac_of(&host, BRIDGE)
        });
        assert!(macs[0] == macs[1] && macs[1] == macs[2] && macs[0] != "00:00:00:00:00:00", "{macs:?}");
        assert_reaches(&pods[0], config::GATEWAY4);
    });
}

#[test]
fn a_bridge_of_somebody_else_keeps_its_mac_once_it_has_the_gateway() {
    case(|| {
        let host = Host::new();
        host.run(&format!("ip link add {BRIDGE} type bridge"));
        host.run(&format!("ip link set {BRIDGE} up"));
        let pod = host.pod();
        add(&host, &pod, &config::bridge());
        let mac = mac_of(&host, BRIDGE);
        // Left to itself, a bridge takes the lowest of its ports' addresses: this one's.
        host.run("ip link add low address 02:00:00:00:00:01 type veth peer name high");
        host.run(&format!("ip link set low master {BRIDGE}"));
        add(&host, &host.pod(), &config::bridge());
        assert_eq!(mac_of(&host, BRIDGE), mac);
        assert_reaches(&pod, config::GATEWAY4);
    });
}

#[test]
fn the_hosts_end_of_a_veth_has_a_mac_that_udev_leaves_alone() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        add(&host, &pod, &config::bridge());
        assert_eq!(assign_type(&host, port_of(&host)["ifname"].as_str().unwrap()), "3");
    });
}

#[test]
fn the_hosts_end_tells_whose_it_is() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        add(&host, &pod, &config::bridge());
        let alias = port_of(&host)["ifalias"].as_str().unwrap_or_default().to_owned();
        assert!(["net", &pod.id, "eth0"].iter().all(|part| alias.contains(part)), "{alias:?}");
    });
}

#[test]
fn a_foreign_link_with_our_name_is_left_alone() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let name = |host: &Host| port_of(host)["ifname"].as_str().unwrap().to_owned();
        add(&host, &pod, &config::bridge());
        let first = name(&host);
        host.plugin("bridge").pod(&pod).config(&config::bridge()).del().ok();
        host.run(&format!("ip link add {first} type veth peer name foreign"));
        let (before, mac) = (host.snapshot(), mac_of(&host, &first));
        add(&host, &pod, &config::bridge());
        assert_ne!(name(&host), first);
        assert_reaches(&pod, config::GATEWAY4);
        host.plugin("bridge").pod(&pod).config(&config::bridge()).del().ok();
        assert_eq!(mac_of(&host, &first), mac);
        host.assert_as(&before);
    });
}

#[test]
fn mtu_is_that_of_bridge_and_pod() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        add(&host, &pod, &with(&config::bridge(), json!({ "mtu": 1380 })));
        assert_eq!(pod.interface()["mtu"], 1380);
        assert_eq!(port_of(&host)["mtu"], 1380);
        assert_eq!(host.link(BRIDGE).unwrap()["mtu"], 1380);
    });
}

#[test]
fn mtu_of_an_existing_bridge_of_ours_follows() {
    case(|| {
        let host = Host::new();
        let (a, b) = (host.pod(), host.pod());
        add(&host, &a, &config::bridge());
        assert_eq!(host.link(BRIDGE).unwrap()["mtu"], 1500);
        host.plugin("bridge").pod(&a).config(&config::bridge()).del().ok();
        add(&host, &b, &with(&config::bridge(), json!({ "mtu": 9000 })));
        assert_eq!((&host.link(BRIDGE).unwrap()["mtu"], &b.interface()["mtu"]), (&json!(9000), &json!(9000)));
    });
}

#[test]
fn mtu_of_an_operators_bridge_is_never_ignored() {
    case(|| {
        let host = Host::new();
        host.run(&format!("ip link add {BRIDGE} type bridge"));
        // Set by hand: from now on it does not follow its ports.
        host.run(&format!("ip link set {BRIDGE} mtu 1400"));
        let pod = host.pod();
        let reply = host.plugin("bridge").pod(&pod).config(&with(&config::bridge(), json!({ "mtu": 9000 }))).add();
        if reply.status.success() {
            assert_eq!(host.link(BRIDGE).unwrap()["mtu"], 9000);
        } else {
            reply.failure().is(999, "1400|9000");
        }
    });
}

#[test]
fn mtu_auto_is_that_of_the_default_routes_link() {
    case(|| {
        let host = Host::new();
        host.outside();
        host.run("ip link set uplink mtu 1380");
        let pod = host.pod();
        add(&host, &pod, &with(&config::bridge(), json!({ "mtu": "auto" })));
        assert_eq!(pod.interface()["mtu"], 1380);
        assert_eq!(host.link(BRIDGE).unwrap()["mtu"], 1380);
    });
}

#[test]
fn a_mac_can_be_asked_for_in_three_ways() {
    case(|| {
        let host = Host::new();
        let args = "IgnoreUnknown=1;MAC=02:00:00:00:00:01";
        let by_args = json!({ "args": { "cni": { "mac": "02:00:00:00:00:02" } } });
        let by_runtime = with(&by_args, json!({ "runtimeConfig": { "mac": "02:00:00:00:00:03" } }));
        for (patch, mac) in
            [(json!({}), "02:00:00:00:00:01"), (by_args, "02:00:00:00:00:02"), (by_runtime, "02:00:00:00:00:03")]
        {
            let pod = host.pod();
            let config = with(&config::bridge(), patch);
            let result = host.plugin("bridge").pod(&pod).config(&config).args(args).add().result();
            assert_eq!(pod.interface()["address"], mac);
            assert_eq!(result["interfaces"][2]["mac"], mac);
            assert_reaches(&pod, config::GATEWAY4);
        }
    });
}

#[test]
fn the_mac_capability_comes_through_the_runtime() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let network = host.network(&with(&config::bridge(), json!({ "capabilities": { "mac": true } })));
        network.call("add", &pod).env("CAP_ARGS", r#"{"mac":"02:00:00:00:00:03"}"#).run().ok();
        assert_eq!(pod.interface()["address"], "02:00:00:00:00:03");
    });
}

#[test]
fn a_pods_mac_is_random_unless_asked_for() {
    case(|| {
        let host = Host::new();
        let macs = [host.pod(), host.pod()].map(|pod| {
            add(&host, &pod, &config::bridge());
            pod.interface()["address"].clone()
        });
        assert_ne!(macs[0], macs[1]);
    });
}

#[test]
fn hairpin_and_isolation_are_flags_of_the_port() {
    case(|| {
        for (hairpin, isolated) in [(false, false), (true, false), (false, true), (true, true)] {
            let host = Host::new();
            let config = with(&config::bridge(), json!({ "hairpinMode": hairpin, "portIsolation": isolated }));
            let pod = host.pod();
            add(&host, &pod, &config);
            let port = &port_of(&host)["linkinfo"]["info_slave_data"];
            assert_eq!((&port["hairpin"], &port["isolated"]), (&json!(hairpin), &json!(isolated)));
        }
    });
}

#[test]
fn promisc_mode_is_a_flag_of_the_bridge() {
    case(|| {
        let host = Host::new();
        add(&host, &host.pod(), &with(&config::bridge(), json!({ "promiscMode": true })));
        let flags = host.link(BRIDGE).unwrap()["flags"].clone();
        assert!(flags.as_array().unwrap().contains(&json!("PROMISC")), "{flags}");
    });
}

#[test]
fn the_bridge_has_a_default_name() {
    case(|| {
        let host = Host::new();
        for name in [Value::Null, json!("")] {
            let result = add(&host, &host.pod(), &with(&config::layer2(), json!({ "bridge": name })));
            assert_eq!(result["interfaces"][0]["name"], "cni0");
        }
    });
}

#[test]
fn an_existing_link_that_is_no_bridge_is_refused() {
    case(|| {
        let host = Host::new();
        host.run(&format!("ip link add {BRIDGE} type veth peer name other"));
        let before = host.snapshot();
        let failure = host.plugin("bridge").pod(&host.pod()).config(&config::bridge()).add().failure();
        failure.is(999, &format!("{BRIDGE}|not a bridge"));
        if !tests::settings::is_reference() {
            host.assert_nothing_made(&before);
        }
    });
}

#[test]
fn an_operators_bridge_is_used_as_it_is() {
    case(|| {
        let host = Host::new();
        host.run(&format!("ip link add {BRIDGE} address 02:00:00:00:00:aa type bridge stp_state 0"));
        let (a, b) = (host.pod(), host.pod());
        add(&host, &a, &config::bridge());
        add(&host, &b, &config::bridge());
        assert_eq!(mac_of(&host, BRIDGE), "02:00:00:00:00:aa");
        assert_reaches(&a, config::GATEWAY4);
        for pod in [&a, &b] {
            host.plugin("bridge").pod(pod).config(&config::bridge()).del().ok();
        }
        assert!(host.link(BRIDGE).is_some());
    });
}

#[test]
fn the_binaries_are_small_and_alone() {
    case(|| {
        for plugin in
            ["bandwidth", "bridge", "firewall", "flannel", "host-local", "loopback", "portmap", "static", "tuning"]
        {
            let path = bin_dir().join(plugin);
            let size = fs::metadata(&path).unwrap().len();
            // firewall talks to firewalld, over D-Bus.
            let most = if plugin == "firewall" { 3_000_000 } else { 2_200_000 };
            assert!(size < most, "{} has {size} bytes", path.display());
            assert!(is_static(&path), "{} needs a dynamic linker", path.display());
        }
    });
}

/// No segment of the ELF file names an interpreter.
fn is_static(path: &Path) -> bool {
    let elf = fs::read(path).unwrap();
    let number = |at: usize, bytes: usize| elf[at..at + bytes].iter().rev().fold(0, |n, b| n << 8 | usize::from(*b));
    let (offset, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    (0..count).all(|i| number(offset + i * size, 4) != 3)
}
