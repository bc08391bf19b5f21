//! DEL of portmap: all of its own, whatever is known, and nothing of anyone else's.

use serde_json::{Value, json};
use tests::{Host, Place, Pod, case, config::with};

use crate::portmap_add::{add, at, attach, call, config, elements, tcp, udp};

fn mappings() -> Vec<Value> {
    vec![tcp(8080, 80), udp(5353, 53), at("192.0.2.1", tcp(8443, 443)), at("::", tcp(9000, 90))]
}

/// What can be said in a DEL: with and without ports, result, namespace; a config that has become invalid.
fn variants(result: &Value) -> Vec<(&'static str, Value)> {
    let whole = config(&mappings());
    vec![
        ("everything", with(&whole, json!({ "prevResult": result }))),
        ("no result", whole.clone()),
        ("no ports", with(&whole, json!({ "runtimeConfig": null, "prevResult": result }))),
        ("empty ports", with(&whole, json!({ "runtimeConfig": { "portMappings": [] } }))),
        ("neither", with(&whole, json!({ "runtimeConfig": null }))),
        ("other ports", with(&config(&[tcp(1, 1)]), json!({ "prevResult": result }))),
        ("some ports", config(&mappings()[..1])),
        ("garbage for a result", with(&whole, json!({ "prevResult": { "ips": 5 } }))),
        ("an invalid config", with(&whole, json!({ "backend": 7, "markMasqBit": "x" }))),
        ("an invalid port", config(&[tcp(0, 80)])),
        ("the other backend", with(&whole, json!({ "backend": "iptables" }))),
        ("other conditions", with(&whole, json!({ "conditionsV4": ["-s", "192.0.2.9"] }))),
    ]
}

fn leaves_nothing(patch: &Value) {
    let host = Host::new();
    let pod = host.pod();
    let result = attach(&host, &pod);
    let config = with(&config(&mappings()), patch.clone());
    add(&host, &pod, &config, &result).ok();
    call(&host, &pod, &config, &result).del().ok();
    let before = host.snapshot();
    for (what, with_what) in variants(&result) {
        for netns in ["", "/run/netns/nowhere", "/proc/self/ns/net", "/run/test"] {
            add(&host, &pod, &config, &result).ok();
            let del = || host.plugin("portmap").pod(&pod).netns(netns).config(&with_what);
            del().del().ok();
            let diff = before.diff(&host.snapshot());
            assert!(diff.is_empty(), "{what}, namespace {netns:?}:\n{diff}");
            // And again.
            del().del().ok();
        }
    }
    host.assert_as(&before);
}

#[test]
fn nothing_is_left_whatever_is_known() {
    case(|| leaves_nothing(&json!({})));
}

#[test]
fn nothing_is_left_under_conditions() {
    case(|| leaves_nothing(&json!({ "conditionsV4": ["-s", "192.0.2.0/24"], "masqAll": true })));
}

#[test]
fn nothing_is_left_of_the_iptables_backend() {
    case(|| leaves_nothing(&json!({ "backend": "iptables" })));
}

#[test]
fn no_program_is_needed() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        let config = config(&mappings());
        add(&host, &pod, &config, &result).ok();
        call(&host, &pod, &config, &result).del().ok();
        let before = host.snapshot();
        let call = || call(&host, &pod, &config, &result).env("PATH", "");
        call().add().ok();
        call().check().ok();
        call().del().ok();
        host.assert_as(&before);
        // Nor to remove what iptables made, where it keeps its rules in nf_tables.
        crate::portmap_add::call(&host, &pod, &with(&config, json!({ "backend": "iptables" })), &result).add().ok();
        call().del().ok();
        assert!(!host.snapshot().mentions("CNI-DN-"));
    });
}

/// Two interfaces on one network, and two networks of one container (containernetworking/plugins#1277 and others).
#[test]
fn other_attachments_of_the_container_keep_their_ports() {
    case(|| {
        for backend in ["nftables", "iptables"] {
            let host = Host::new();
            let config =
                |network: &str, port| with(&config(&[tcp(port, 80)]), json!({ "name": network, "backend": backend }));
            let pod = host.pod();
            let attachments = [("eth0", "net", 8080), ("net1", "net", 8081), ("net2", "other", 8082)];
            let pod_of = |ifname: &str| Pod { id: pod.id.clone(), ifname: ifname.to_owned(), ..host.pod() };
            let result = |number: usize, pod: &Pod| {
                json!({ "cniVersion": "1.0.0",
                    "interfaces": [{ "name": pod.ifname, "sandbox": pod.path }],
                    "ips": [{ "address": format!("10.22.0.{}/24", number + 2), "interface": 0 }] })
            };
            let pods: Vec<Pod> = attachments.iter().map(|(ifname, ..)| pod_of(ifname)).collect();
            for (number, (_, network, port)) in attachments.iter().enumerate() {
                add(&host, &pods[number], &config(network, *port), &result(number, &pods[number])).ok();
            }
            let alive = || {
                let now = host.snapshot();
                let is_there = |n: &usize| now.mentions(&format!("10.22.0.{}", n + 2));
                (0..3).filter(is_there).collect::<Vec<_>>()
            };
            assert_eq!(alive(), [0, 1, 2], "{backend}");
            for left in [&[0, 1][..], &[0], &[]] {
                let number = left.len();
                let (_, network, port) = attachments[number];
                call(&host, &pods[number], &config(network, port), &result(number, &pods[number])).del().ok();
                assert_eq!(alive(), left, "{backend}");
                for still in left {
                    let (_, network, port) = attachments[*still];
                    call(&host, &pods[*still], &config(network, port), &result(*still, &pods[*still])).check().ok();
                }
            }
        }
    });
}

#[test]
fn del_of_another_container_touches_nothing() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        add(&host, &pod, &config(&mappings()), &result).ok();
        let before = host.snapshot();
        let other = host.pod();
        // It says that it has the same ports and the same address.
        call(&host, &other, &config(&mappings()), &result).del().ok();
        host.plugin("portmap").pod(&pod).config(&with(&config(&mappings()), json!({ "name": "other" }))).del().ok();
        host.plugin("portmap").pod(&pod).ifname("eth1").config(&config(&mappings())).del().ok();
        host.assert_as(&before);
    });
}

#[test]
fn a_changed_backend_leaves_nothing_behind() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        let of = |backend: &str| with(&config(&mappings()), json!({ "backend": backend }));
        for backend in ["iptables", "nftables"] {
            add(&host, &pod, &of(backend), &result).ok();
            call(&host, &pod, &of(backend), &result).del().ok();
        }
        let before = host.snapshot();
        for (first, then) in [("iptables", "nftables"), ("nftables", "iptables")] {
            add(&host, &pod, &of(first), &result).ok();
            call(&host, &pod, &with(&of(then), json!({ "runtimeConfig": null })), &result).del().ok();
            host.assert_as(&before);
        }
    });
}

#[test]
fn the_references_pods_lose_their_rules() {
    case(|| {
        let host = Host::new();
        let config = config(&mappings());
        let pods = [host.pod(), host.pod()];
        let results = [attach(&host, &pods[0]), attach(&host, &pods[1])];
        let others = with(&config, json!({ "runtimeConfig": { "portMappings": [tcp(7070, 70)] } }));
        host.reference("portmap").pod(&pods[1]).config_with(&others, &results[1]).add().ok();
        let before = host.snapshot();
        for patch in [json!({}), json!({ "runtimeConfig": null }), json!({ "prevResult": null, "runtimeConfig": null })]
        {
            host.reference("portmap").pod(&pods[0]).config_with(&config, &results[0]).add().ok();
            let del = with(&with(&config, json!({ "prevResult": results[0] })), patch);
            host.plugin("portmap").pod(&pods[0]).config(&del).del().ok();
            host.assert_as(&before);
        }
        // Those of its nftables backend, as 1.9.1 makes them.
        let rule = |id: &str, ip: &str| format!("tcp dport 8080 dnat to {ip}:80 comment \"{id}\"");
        host.write(
            "/run/test/rules",
            format!(
                "table ip cni_hostport {{\nchain hostports {{ \n{}\n{}\n{}\n}}\nchain masquerading {{\n\
                 type nat hook postrouting priority srcnat; policy accept;\n\
                 ip saddr 10.22.0.2 ip daddr 10.22.0.2 masquerade comment \"pod-1\"\n}}\n}}\n",
                rule("pod-1", "10.22.0.2"),
                rule("pod-1", "10.99.0.2"),
                rule("pod-2", "10.22.0.3")
            ),
        );
        host.run("nft -f /run/test/rules");
        call(&host, &pods[0], &config, &results[0]).del().ok();
        let left = host.run("nft list table ip cni_hostport");
        assert!(left.contains("10.99.0.2") && left.contains("pod-2") && !left.contains("10.22.0.2"), "{left}");
        // Without a result and a namespace all of the container's, if it is one interface's.
        let del = || host.plugin("portmap").pod(&pods[0]).netns("").config(&config).del();
        let another = rule("pod-1", "10.88.0.2");
        host.write("/run/test/rules", format!("add rule ip cni_hostport hostports {another}\n"));
        host.run("nft -f /run/test/rules");
        let told = del().ok().stderr.clone();
        assert!(told.contains("pod-1") && told.contains("10.88.0.2") && told.contains("10.99.0.2"), "{told}");
        let left = host.run("nft -a list table ip cni_hostport");
        let kept = left.lines().find(|l| l.contains("10.88.0.2")).unwrap_or_else(|| panic!("{left}"));
        let handle = kept.rsplit(' ').next().unwrap();
        host.run(&format!("nft delete rule ip cni_hostport hostports handle {handle}"));
        del().ok();
        let left = host.run("nft list table ip cni_hostport");
        assert!(!left.contains("pod-1") && left.contains("pod-2"), "{left}");
    });
}

#[test]
fn the_ports_of_others_are_not_looked_at() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        let config = config(&[tcp(80, 80)]);
        add(&host, &pod, &config, &result).ok();
        let others: Vec<_> = (1000..6000)
            .map(|port| format!("tcp . {port} comment \"{port:032x} net c{port} eth0\" : 10.22.9.9 . 80"))
            .collect();
        host.write("/run/test/many", format!("add element ip oxbridge ports-any {{ {} }}", others.join(", ")));
        host.run("nft -f /run/test/many");
        call(&host, &pod, &config, &result).del().ok();
        assert_eq!(elements(&host, "ip", "ports-any").len(), 5000);
        // Nor are they in the way of a DEL that has to look at all.
        add(&host, &pod, &config, &result).ok();
        host.plugin("portmap").pod(&pod).config(&self::config(&[])).del().ok();
        assert_eq!(elements(&host, "ip", "ports-any").len(), 5000);
        assert_eq!(elements(&host, "ip", "ports-owners"), [""; 0]);
    });
}

#[test]
fn elements_are_found_where_somebody_has_emptied_the_set_of_owners() {
    case(|| {
        for ports in [json!(null), json!({ "portMappings": [tcp(8080, 80)] })] {
            let host = Host::new();
            let pod = host.pod();
            let result = attach(&host, &pod);
            add(&host, &pod, &config(&mappings()), &result).ok();
            host.run("nft flush set ip oxbridge ports-owners");
            call(&host, &pod, &with(&config(&[]), json!({ "runtimeConfig": ports })), &result).del().ok();
            for set in ["ports-any", "ports-at", "ports-snat"] {
                assert_eq!(elements(&host, "ip", set), [""; 0]);
            }
        }
    });
}
