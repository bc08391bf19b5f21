//! Without IPAM: a port, and nothing else.

use serde_json::json;
use tests::{
    Host, Place, case,
    config::{self, BRIDGE, with},
    settings::versions,
    traffic::assert_reaches,
};

#[test]
fn the_pods_link_is_up_without_addresses() {
    case(|| {
        let host = Host::new();
        let (a, b) = (host.pod(), host.pod());
        let network = host.network(&config::layer2());
        network.add(&a).ok();
        let result = network.add(&b).result();
        assert!(result.get("ips").is_none());
        assert_eq!(a.interface()["operstate"], "UP");
        assert!(a.addresses().is_empty());
        a.run("ip address add 10.9.0.1/24 dev eth0");
        b.run("ip address add 10.9.0.2/24 dev eth0");
        assert_reaches(&a, "10.9.0.2");
        let before = host.snapshot();
        assert!(!before.mentions("/var/lib/cni/networks"), "IPAM has nothing to do with it");
        network.del(&a).ok();
        network.del(&b).ok();
        assert_eq!(host.json(&format!("ip -j link show master {BRIDGE}")), json!([]));
    });
}

#[test]
fn an_empty_ipam_is_none() {
    case(|| {
        let host = Host::new();
        for ipam in [json!({}), json!({ "type": "" })] {
            let pod = host.pod();
            let config = with(&config::layer2(), json!({ "ipam": ipam }));
            host.plugin("bridge").pod(&pod).config(&config).add().ok();
            host.plugin("bridge").pod(&pod).config(&config).del().ok();
        }
    });
}

#[test]
fn check_passes() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let network = host.network(&with(&config::layer2(), json!({ "ipam": {} })));
        network.add(&pod).ok();
        network.check(&pod).ok();
        network.del(&pod).ok();
    });
}

#[test]
fn the_pods_link_can_stay_down() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let config = with(&config::layer2(), json!({ "disableContainerInterface": true }));
        let result = host.plugin("bridge").pod(&pod).config(&config).add().result();
        assert_eq!(result["interfaces"][2]["name"], "eth0");
        assert_eq!(pod.interface()["operstate"], "DOWN");
        assert!(!pod.interface()["flags"].as_array().unwrap().contains(&json!("UP")));
        host.plugin("bridge").pod(&pod).config(&config).del().ok();
    });
}

#[test]
fn versions_that_cannot_say_it_are_refused_with_nothing_done() {
    case(|| {
        for version in versions().iter().filter(|v| **v < "0.3.0") {
            let host = Host::new();
            let before = host.snapshot();
            let pod = host.pod();
            let config = with(&config::layer2(), json!({ "cniVersion": version }));
            host.plugin("bridge").pod(&pod).config(&config).add().failure().is(999, "IP");
            host.assert_as(&before);
            assert!(pod.link("eth0").is_none());
        }
    });
}

#[test]
fn ip_masq_and_gateway_without_ipam_do_nothing() {
    case(|| {
        let host = Host::new();
        let config = with(&config::layer2(), json!({ "isGateway": true, "isDefaultGateway": true, "ipMasq": true }));
        let pod = host.pod();
        host.plugin("bridge").pod(&pod).config(&config).add().ok();
        assert!(pod.addresses().is_empty());
        assert!(!host.snapshot().mentions(&format!("address {BRIDGE} ")));
        host.plugin("bridge").pod(&pod).config(&config).del().ok();
    });
}
