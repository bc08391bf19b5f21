//! Pods get their network: addresses, gateway, routes, and traffic that flows.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use serde_json::{Value, json};
use tests::{
    Host, Place, Pod, case,
    config::{self, BRIDGE, GATEWAY4, GATEWAY6, STORE, with},
    pod::ips,
    traffic::{assert_reaches, assert_silent, reaches},
};

/// ADD by direct call; the result.
fn add(host: &Host, pod: &Pod, config: &Value) -> Value {
    host.plugin_of(config).pod(pod).config(config).add().result()
}

#[test]
fn two_pods_reach_each_other_and_the_gateway() {
    case(|| {
        let host = Host::new();
        let network = host.network(&config::dual_stack());
        let (a, b) = (host.pod(), host.pod());
        network.add(&a).ok();
        network.add(&b).ok();
        assert_eq!(a.addresses(), ["10.22.0.2/24", "fd00:22::2/64"]);
        assert_eq!(b.addresses(), ["10.22.0.3/24", "fd00:22::3/64"]);
        for target in [GATEWAY4, GATEWAY6, "10.22.0.3", "fd00:22::3"] {
            assert_reaches(&a, target);
        }
        assert_reaches(&b, "10.22.0.2");
        assert_reaches(&b, "fd00:22::2");
        assert_reaches(&host, "10.22.0.2");
        assert_reaches(&host, "fd00:22::2");
    });
}

#[test]
fn ipv6_alone_is_enough() {
    case(|| {
        let host = Host::new();
        let network = host.network(&config::ipv6_only());
        let (a, b) = (host.pod(), host.pod());
        network.add(&a).ok();
        network.add(&b).ok();
        assert_eq!(a.addresses(), ["fd00:22::2/64"]);
        assert_reaches(&a, GATEWAY6);
        assert_reaches(&a, "fd00:22::3");
        assert_eq!(a.routes(6).iter().find(|r| r["dst"] == "default").unwrap()["gateway"], GATEWAY6);
        assert!(a.routes(4).is_empty());
    });
}

#[test]
fn without_a_gateway_pods_reach_each_other_only() {
    case(|| {
        let host = Host::new();
        let config = with(&config::bridge(), json!({ "isGateway": false, "ipam": { "routes": null } }));
        let (a, b) = (host.pod(), host.pod());
        let result = add(&host, &a, &config);
        add(&host, &b, &config);
        // host-local answers with the gateway that the range would have.
        assert_eq!(result["ips"][0]["gateway"], GATEWAY4);
        assert_reaches(&a, "10.22.0.3");
        assert_silent(&a, GATEWAY4);
        assert_eq!(host.read("/proc/sys/net/ipv4/ip_forward").unwrap(), "0");
    });
}

#[test]
fn is_gateway_puts_the_address_on_the_bridge_and_forwards() {
    case(|| {
        let host = Host::new();
        add(&host, &host.pod(), &config::dual_stack());
        let bridge = host.snapshot();
        assert!(bridge.mentions(&format!("address {BRIDGE} {GATEWAY4}/24")));
        assert!(bridge.mentions(&format!("address {BRIDGE} {GATEWAY6}/64")));
        for name in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            assert_eq!(host.read(&format!("/proc/sys/net/{name}")).unwrap(), "1", "{name}");
        }
        assert_eq!(host.read(&format!("/proc/sys/net/ipv6/conf/{BRIDGE}/accept_ra")).unwrap(), "0");
    });
}

#[test]
fn the_gateway_defaults_to_the_first_address_of_the_subnet() {
    case(|| {
        let host = Host::new();
        let config = config::fixed(&[]);
        let config = with(&config, json!({ "ipam": { "addresses": [{ "address": "10.9.1.77/20" }], "routes": null } }));
        let result = add(&host, &host.pod(), &config);
        assert_eq!(result["ips"][0]["gateway"], "10.9.0.1");
        assert!(host.snapshot().mentions(&format!("address {BRIDGE} 10.9.0.1/20")));
    });
}

#[test]
fn is_default_gateway_adds_a_default_route_per_family() {
    case(|| {
        let host = Host::new();
        let config = with(
            &config::dual_stack(),
            json!({
            "isGateway": false, "isDefaultGateway": true, "ipam": { "routes": null } }),
        );
        let pod = host.pod();
        let result = add(&host, &pod, &config);
        assert_eq!(
            result["routes"],
            json!([
            { "dst": "0.0.0.0/0", "gw": GATEWAY4 }, { "dst": "::/0", "gw": GATEWAY6 }])
        );
        assert_eq!(default_gateways(&pod), [GATEWAY4, GATEWAY6]);
        assert!(host.snapshot().mentions(&format!("address {BRIDGE} {GATEWAY4}/24")), "it implies isGateway");
    });
}

#[test]
fn is_default_gateway_leaves_an_ipam_default_route_with_a_gateway() {
    case(|| {
        let host = Host::new();
        let config = with(
            &config::bridge(),
            json!({
            "isDefaultGateway": true, "ipam": { "routes": [{ "dst": "0.0.0.0/0", "gw": "10.22.0.200" }] } }),
        );
        let pod = host.pod();
        let result = add(&host, &pod, &config);
        assert_eq!(result["routes"], json!([{ "dst": "0.0.0.0/0", "gw": "10.22.0.200" }]));
        assert_eq!(default_gateways(&pod), ["10.22.0.200"]);
    });
}

#[test]
fn is_default_gateway_goes_with_an_ipam_default_route_without_a_gateway() {
    case(|| {
        let host = Host::new();
        let config = with(&config::dual_stack(), json!({ "isDefaultGateway": true }));
        let pod = host.pod();
        add(&host, &pod, &config);
        assert_eq!(default_gateways(&pod), [GATEWAY4, GATEWAY6]);
        assert_reaches(&pod, GATEWAY4);
    });
}

fn default_gateways(pod: &Pod) -> Vec<String> {
    let routes = [pod.routes(4), pod.routes(6)].concat();
    let defaults = routes.iter().filter(|r| r["dst"] == "default");
    defaults.map(|r| r["gateway"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn two_ranges_of_one_family_work_with_a_gateway() {
    case(|| {
        let host = Host::new();
        let config = with(
            &config::bridge(),
            json!({
            "ipMasq": true, "ipam": config::host_local(&["10.22.0.0/24", "10.23.0.0/24"]) }),
        );
        let (a, b) = (host.pod(), host.pod());
        assert_eq!(ips(&add(&host, &a, &config)).len(), 2);
        add(&host, &b, &config);
        for target in [GATEWAY4, "10.23.0.1", "10.22.0.3", "10.23.0.3"] {
            assert_reaches(&a, target);
        }
    });
}

#[test]
fn dns_of_the_config_replaces_that_of_ipam() {
    case(|| {
        let host = Host::new();
        host.write("/run/test/resolv.conf", "nameserver 192.0.2.53\nsearch example.org example.net\noptions ndots:2\n");
        let config = with(&config::bridge(), json!({ "ipam": { "resolvConf": "/run/test/resolv.conf" } }));
        let dns = |config: &Value| add(&host, &host.pod(), config)["dns"].clone();
        assert_eq!(
            dns(&config),
            json!({
            "nameservers": ["192.0.2.53"], "search": ["example.org", "example.net"], "options": ["ndots:2"] })
        );
        let own = json!({ "nameservers": ["192.0.2.54"], "domain": "example.com" });
        assert_eq!(dns(&with(&config, json!({ "dns": own }))), own);
        // An empty list is a member too.
        assert_eq!(dns(&with(&config, json!({ "dns": { "search": [] } }))), Value::Null);
        assert_ne!(dns(&with(&config, json!({ "dns": {} }))), Value::Null);
    });
}

#[test]
fn the_pods_sysctls_are_those_of_the_reference() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        add(&host, &pod, &config::dual_stack());
        for (name, value) in [
            ("ipv6/conf/eth0/accept_dad", "0"),
            ("ipv4/conf/eth0/arp_notify", "1"),
            ("ipv6/conf/eth0/keep_addr_on_down", "1"),
        ] {
            assert_eq!(pod.read(&format!("/proc/sys/net/{name}")).unwrap(), value, "{name}");
        }
    });
}

#[test]
fn a_namespace_with_ipv6_disabled_gets_its_ipv6_address() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        pod.run("sysctl -q -w net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
        add(&host, &pod, &config::dual_stack());
        assert_eq!(pod.addresses(), ["10.22.0.2/24", "fd00:22::2/64"]);
        assert_reaches(&pod, GATEWAY6);
    });
}

#[test]
fn an_interface_name_that_is_taken_is_refused_with_nothing_done() {
    case(|| {
        let host = Host::new();
        let before = host.warm_up(&config::bridge());
        let pod = host.pod();
        pod.run("ip link add eth0 type veth peer name other");
        host.plugin("bridge").pod(&pod).config(&config::bridge()).add().failure().is(999, "eth0|already exists");
        host.assert_as(&before);
        assert_eq!(pod.json("ip -j link").as_array().unwrap().len(), 3, "lo, eth0, other");
    });
}

#[test]
fn a_duplicate_add_is_refused_and_the_running_pod_untouched() {
    case(|| {
        let host = Host::new();
        let config = config::everything();
        let pod = host.pod();
        let result = add(&host, &pod, &config);
        let (before, inside) = (host.snapshot(), pod.run("ip -d address"));
        let failure = host.plugin("bridge").pod(&pod).config(&config).add().failure();
        assert!(!failure.msg.is_empty());
        host.assert_as(&before);
        assert_eq!(pod.run("ip -d address"), inside);
        assert_reaches(&pod, GATEWAY4);
        assert_reaches(&pod, GATEWAY6);
        assert_eq!(host.files(STORE), ["10.22.0.2", "fd00:22::2", "last_reserved_ip.0", "last_reserved_ip.1", "lock"]);
        host.plugin("bridge").pod(&pod).config_with(&with(&config, json!({})), &result).check().ok();
    });
}

#[test]
fn pods_added_and_deleted_in_parallel_get_addresses_of_their_own() {
    case(|| {
        const PODS: usize = 20;
        let host = Host::new();
        let config = with(&config::everything(), json!({ "bridge": "br-par" }));
        let network = host.network(&config);
        let pods: Vec<Pod> = (0..PODS).map(|_| host.pod()).collect();
        let next = AtomicUsize::new(0);
        let all = |work: &(dyn Fn(&Pod) + Sync)| {
            next.store(0, Ordering::Relaxed);
            thread::scope(|s| {
                for _ in 0..8 {
                    s.spawn(|| {
                        while let Some(pod) = pods.get(next.fetch_add(1, Ordering::Relaxed)) {
                            work(pod);
                        }
                    });
                }
            });
        };
        // The bridge does not exist yet: they make it at the same time.
        all(&|pod| _ = network.add(pod).ok());
        let addresses: BTreeSet<String> = pods.iter().flat_map(Pod::addresses).collect();
        assert_eq!(addresses.len(), 2 * PODS);
        let (first, last) = (&pods[0], &pods[PODS - 1]);
        assert_reaches(first, last.addresses()[0].split('/').next().unwrap());
        assert_reaches(last, first.addresses()[1].split('/').next().unwrap());
        all(&|pod| _ = network.del(pod).ok());
        let left = host.snapshot();
        host.warm_up(&config);
        host.assert_as(&left);
        assert_eq!(host.json("ip -j link show master br-par"), json!([]));
    });
}

#[test]
fn the_host_and_pods_agree_on_the_result() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = add(&host, &pod, &config::dual_stack());
        let links = result["interfaces"].as_array().unwrap();
        assert_eq!(links[0]["name"], BRIDGE);
        assert_eq!(links[0]["mac"], host.link(BRIDGE).unwrap()["address"]);
        let veth = links[1]["name"].as_str().unwrap();
        assert!(veth.len() == 12 && veth.starts_with("veth"), "{veth}");
        let port = host.link(veth).unwrap();
        assert_eq!((&links[1]["mac"], &port["master"]), (&port["address"], &json!(BRIDGE)));
        assert_eq!(links[2]["name"], "eth0");
        assert_eq!(links[2]["sandbox"], pod.path);
        assert_eq!(links[2]["mac"], pod.interface()["address"]);
        let addresses: Vec<IpAddr> =
            pod.addresses().iter().map(|a| a.split('/').next().unwrap().parse().unwrap()).collect();
        assert_eq!(ips(&result), addresses);
    });
}

#[test]
fn isolated_ports_reach_the_gateway_but_not_each_other() {
    case(|| {
        let host = Host::new();
        let config = with(&config::dual_stack(), json!({ "portIsolation": true }));
        let (a, b) = (host.pod(), host.pod());
        add(&host, &a, &config);
        add(&host, &b, &config);
        assert_reaches(&a, GATEWAY4);
        assert_reaches(&b, GATEWAY6);
        assert_silent(&a, "10.22.0.3");
        assert_silent(&a, "fd00:22::3");
        // A port that is not isolated reaches both.
        let open = host.pod();
        add(&host, &open, &config::dual_stack());
        assert_reaches(&open, "10.22.0.2");
    });
}

#[test]
fn a_pod_reaches_itself_through_the_bridge_with_hairpin_only() {
    case(|| {
        let host = Host::new();
        // What a pod sends to a service address comes back to it, so the frame leaves by the port it came in.
        let service = |pod: &Pod, address: &str| {
            host.run("sysctl -q -w net.ipv4.conf.all.route_localnet=0");
            host.write(
                "/run/test/dnat",
                format!(
                    "table ip service {{
                   chain pre {{ type nat hook prerouting priority dstnat
                     ip daddr 10.96.0.1 dnat to {address}
                   }}
                   chain post {{ type nat hook postrouting priority srcnat
                     ip saddr {address} ip daddr {address} masquerade
                   }}
                 }}"
                ),
            );
            host.run("nft -f /run/test/dnat");
            let answered = reaches(pod, "10.96.0.1");
            host.run("nft delete table ip service");
            answered
        };
        let pod = host.pod();
        add(&host, &pod, &with(&config::bridge(), json!({ "hairpinMode": true })));
        assert!(service(&pod, "10.22.0.2"));
        let port = host.json(&format!("ip -d -j link show master {BRIDGE}"));
        assert_eq!(port[0]["linkinfo"]["info_slave_data"]["hairpin"], true);
    });
}
