//! GC and STATUS of portmap.

use serde_json::{Value, json};
use tests::{Host, Place, Pod, Reply, case, config::with};

use crate::portmap_add::{add, at, attach, call, config, elements, tcp, udp};

fn gc(host: &Host, list: Option<Value>) -> Reply {
    let mut config = with(&config(&[]), json!({ "cniVersion": "1.1.0", "runtimeConfig": null }));
    if let Some(list) = list {
        config = with(&config, json!({ "cni.dev/valid-attachments": list }));
    }
    host.plugin("portmap").verb("GC").config(&config).run()
}

fn valid(pods: &[&Pod]) -> Value {
    pods.iter().map(|p| json!({ "containerID": p.id, "ifname": p.ifname })).collect()
}

#[test]
fn exactly_the_stale_ones_go() {
    case(|| {
        for backend in ["nftables", "iptables"] {
            let host = Host::new();
            let of = |ports: &[Value]| with(&config(ports), json!({ "backend": backend }));
            let pods = [host.pod(), host.pod()];
            let results = [attach(&host, &pods[0]), attach(&host, &pods[1])];
            add(&host, &pods[0], &of(&[tcp(8080, 80), udp(53, 53)]), &results[0]).ok();
            let with_one = host.snapshot();
            let stale = with(
                &of(&[tcp(8081, 80), at("192.0.2.1", udp(54, 53))]),
                if backend == "iptables" { json!({}) } else { json!({ "conditionsV4": ["-i", "lo"] }) },
            );
            add(&host, &pods[1], &stale, &results[1]).ok();
            let with_both = host.snapshot();
            gc(&host, None).ok();
            host.assert_as(&with_both);
            gc(&host, Some(valid(&[&pods[0], &pods[1]]))).ok();
            host.assert_as(&with_both);
            let reply = gc(&host, Some(valid(&[&pods[0]])));
            if backend == "nftables" {
                assert!(reply.stderr.contains(&pods[1].id) && reply.stderr.contains("still up"), "{reply}");
            }
            reply.ok();
            let diff = with_one.diff(&host.snapshot());
            assert!(!diff.contains("10.22.0.3") && !diff.contains("\n- ") && !diff.contains("ports-if-"), "{diff}");
            call(&host, &pods[0], &of(&[tcp(8080, 80), udp(53, 53)]), &results[0]).check().ok();
            gc(&host, Some(json!([]))).ok();
            assert!(!host.snapshot().lines("nft element").any(|l| l.contains("10.22.0.2") || l.contains("owners")));
            assert!(!host.snapshot().mentions("CNI-DN-"));
        }
    });
}

#[test]
fn other_networks_and_the_operators_elements_stay() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        add(&host, &pod, &with(&config(&[tcp(8080, 80)]), json!({ "name": "other" })), &result).ok();
        host.run("nft add element ip oxbridge ports-any { tcp . 9999 : 10.22.0.99 . 80 }");
        let before = host.snapshot();
        gc(&host, Some(json!([]))).ok();
        host.assert_as(&before);
    });
}

#[test]
fn the_references_chains_go_too() {
    case(|| {
        let host = Host::new();
        let pods = [host.pod(), host.pod()];
        let results = [attach(&host, &pods[0]), attach(&host, &pods[1])];
        let reference = |n: usize, config: &Value| {
            host.reference("portmap").pod(&pods[n]).config_with(config, &results[n]).add().ok();
        };
        reference(0, &config(&[tcp(8080, 80)]));
        let before = host.snapshot();
        reference(1, &config(&[tcp(8081, 80)]));
        gc(&host, Some(valid(&[&pods[0]]))).ok();
        host.assert_as(&before);
        // Another network's name that begins alike.
        reference(1, &with(&config(&[tcp(8081, 80)]), json!({ "name": "net-2" })));
        let before = host.snapshot();
        gc(&host, Some(valid(&[&pods[0]]))).ok();
        host.assert_as(&before);
        gc(&host, Some(json!([]))).ok();
        assert_eq!(elements(&host, "ip", "ports-any"), [""; 0]);
        assert!(host.snapshot().mentions("10.22.0.3:80") && !host.snapshot().mentions("10.22.0.2:80"));
    });
}

#[test]
fn status_says_whether_add_could_work() {
    case(|| {
        let host = Host::new();
        let status = |patch: Value| {
            let config = with(&config(&[]), json!({ "cniVersion": "1.1.0", "runtimeConfig": null }));
            host.plugin("portmap").verb("STATUS").config(&with(&config, patch))
        };
        status(json!({})).run().ok();
        status(json!({})).env("PATH", "").run().ok();
        status(json!({ "backend": "iptables" })).run().ok();
        status(json!({ "backend": "iptables" })).env("PATH", "/nowhere").run().failure().is(50, "iptables");
        status(json!({ "backend": "ebpf" })).run().failure().is(50, "ebpf");
        status(json!({ "markMasqBit": 99 })).run().failure().is(50, "MasqMarkBit");
    });
}
