//! What ADD of portmap makes, read by `nft -j`: elements with an owner, and rules that do not grow.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tests::{
    Call, Host, Place, Pod, Reply, case,
    config::{self, BRIDGE, with},
    plugin::{full, unread},
};

/// `{hostPort, containerPort, protocol}`.
pub(crate) fn tcp(host: u16, container: u16) -> Value {
    json!({ "hostPort": host, "containerPort": container, "protocol": "tcp" })
}

pub(crate) fn udp(host: u16, container: u16) -> Value {
    with(&tcp(host, container), json!({ "protocol": "udp" }))
}

pub(crate) fn at(ip: &str, mapping: Value) -> Value {
    with(&mapping, json!({ "hostIP": ip }))
}

/// A config with these mappings.
pub(crate) fn config(mappings: &[Value]) -> Value {
    json!({ "cniVersion": "1.0.0", "name": "net", "type": "portmap", "runtimeConfig": { "portMappings": mappings } })
}

/// The result of bridge's ADD for the pod, on a dual stack network.
pub(crate) fn attach(host: &Host, pod: &Pod) -> Value {
    host.plugin("bridge").pod(pod).config(&config::dual_stack()).add().result()
}

/// Portmap, for this pod.
pub(crate) fn call<'h>(host: &'h Host, pod: &Pod, config: &Value, result: &Value) -> Call<'h> {
    host.plugin("portmap").pod(pod).config_with(config, result)
}

pub(crate) fn add(host: &Host, pod: &Pod, config: &Value, result: &Value) -> Reply {
    call(host, pod, config, result).add()
}

/// The elements of a set or map of ours as `key [: value]`, sorted; none if there is no such set.
pub(crate) fn elements(host: &Host, family: &str, set: &str) -> Vec<String> {
    raw(host, family, set).iter().map(text).collect::<BTreeSet<_>>().into_iter().collect()
}

/// The comments of the elements.
pub(crate) fn comments(host: &Host, family: &str, set: &str) -> BTreeSet<String> {
    let comment = |element: &Value| {
        let element = if element.is_array() { &element[0] } else { element };
        element["elem"]["comment"].as_str().unwrap_or_default().to_owned()
    };
    raw(host, family, set).iter().map(comment).collect()
}

fn raw(host: &Host, family: &str, set: &str) -> Vec<Value> {
    let listed = ["set", "map"].into_iter().find_map(|kind| {
        let text = host.try_run(&format!("nft -j list {kind} {family} oxbridge {set}")).ok()?;
        serde_json::from_str::<Value>(&text).ok()
    });
    let Some(mut listed) = listed else { return Vec::new() };
    let objects = listed["nftables"].as_array_mut().unwrap();
    let found = objects.iter_mut().find_map(|o| [o["set"].take(), o["map"].take()].into_iter().find(|s| !s.is_null()));
    found.unwrap()["elem"].as_array().cloned().unwrap_or_default()
}

/// An element as nft would show it, without its comment.
fn text(element: &Value) -> String {
    match element {
        Value::Array(entry) => format!("{} : {}", text(&entry[0]), text(&entry[1])),
        Value::Object(object) if object.contains_key("elem") => text(&object["elem"]["val"]),
        Value::Object(object) if object.contains_key("concat") => {
            object["concat"].as_array().unwrap().iter().map(text).collect::<Vec<_>>().join(" . ")
        }
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The rules of our tables, as text.
pub(crate) fn rules(host: &Host) -> Vec<String> {
    let listed = host.json("nft -j list ruleset");
    let rules = listed["nftables"].as_array().unwrap().iter().filter_map(|o| o.get("rule"));
    rules
        .filter(|r| r["table"] == "oxbridge")
        .map(|r| format!("{} {} {}", r["family"].as_str().unwrap(), r["chain"].as_str().unwrap(), r["expr"]))
        .collect()
}

#[test]
fn each_mapping_is_an_element_of_the_pods_families_with_its_owner() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        let mappings =
            [tcp(8080, 80), udp(5353, 53), at("192.0.2.1", tcp(8443, 443)), at("::", tcp(9000, 90)), tcp(8081, 80)];
        let reply = add(&host, &pod, &config(&mappings), &result);
        // The result goes on as it is.
        assert_eq!(reply.result(), result);
        assert_eq!(
            elements(&host, "ip", "ports-any"),
            ["tcp . 8080 : 10.22.0.2 . 80", "tcp . 8081 : 10.22.0.2 . 80", "udp . 5353 : 10.22.0.2 . 53"]
        );
        assert_eq!(elements(&host, "ip", "ports-at"), ["192.0.2.1 . tcp . 8443 : 10.22.0.2 . 443"]);
        assert_eq!(
            elements(&host, "ip6", "ports-any"),
            [
                "tcp . 8080 : fd00:22::2 . 80",
                "tcp . 8081 : fd00:22::2 . 80",
                "tcp . 9000 : fd00:22::2 . 90",
                "udp . 5353 : fd00:22::2 . 53"
            ]
        );
        assert_eq!(elements(&host, "ip6", "ports-at"), [""; 0]);
        assert_eq!(
            elements(&host, "ip", "ports-snat"),
            ["tcp . 10.22.0.2 . 443", "tcp . 10.22.0.2 . 80", "udp . 10.22.0.2 . 53"]
        );
        for (family, set) in [("ip", "ports-any"), ("ip", "ports-at"), ("ip", "ports-snat"), ("ip6", "ports-any")] {
            let comments = comments(&host, family, set);
            assert!(comments.len() == 1 && comments.iter().all(|c| c.ends_with(" net pod-1 eth0")), "{comments:?}");
        }
    });
}

#[test]
fn rules_do_not_grow_with_the_pods() {
    case(|| {
        let host = Host::new();
        let first = host.pod();
        let result = attach(&host, &first);
        add(&host, &first, &config(&[tcp(8080, 80)]), &result).ok();
        let before = rules(&host);
        for port in 8081..8084 {
            let pod = host.pod();
            let result = attach(&host, &pod);
            add(&host, &pod, &config(&[tcp(port, 80), at("192.0.2.1", tcp(port, 81))]), &result).ok();
        }
        assert_eq!(rules(&host), before);
    });
}

#[test]
fn what_nft_lists_nft_reads_back() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        let conditions = json!({
            "conditionsV4": ["ip", "saddr", "192.0.2.0/24", "iifname", "!=", "eth*"],
            "conditionsV6": ["!", "-s", "fd01::5", "-i", "up0"], "masqAll": true,
        });
        let mappings = [tcp(8080, 80), at("192.0.2.1", udp(53, 53)), at("fd00::1", udp(53, 53))];
        add(&host, &pod, &with(&config(&mappings), conditions), &result).ok();
        let other = host.pod();
        let result = attach(&host, &other);
        add(&host, &other, &config(&[tcp(8081, 80)]), &result).ok();
        // Also where addresses of services are kept out.
        host.run("ip link add kube-ipvs0 type bridge");
        host.run("ip address add 10.96.0.1/32 dev kube-ipvs0");
        let third = host.pod();
        let result = attach(&host, &third);
        add(&host, &third, &config(&[tcp(8082, 80)]), &result).ok();
        let listed = host.run("nft list ruleset");
        assert!(listed.contains("fib daddr . iif type local jump ports"), "{listed}");
        assert!(!listed.contains("to the host in"), "{listed}");
        host.write("/run/test/ruleset", &listed);
        host.run("nft flush ruleset");
        host.run("nft -f /run/test/ruleset");
        assert_eq!(host.run("nft list ruleset"), listed);
        call(&host, &third, &config(&[tcp(8082, 80)]), &result).check().ok();
    });
}

#[test]
fn a_pod_without_ports_changes_nothing() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        let before = host.snapshot();
        for runtime in [json!({ "runtimeConfig": null }), json!({ "runtimeConfig": { "portMappings": [] } })] {
            let config = with(&config(&[]), runtime);
            assert_eq!(add(&host, &pod, &config, &result).result(), result);
            call(&host, &pod, &config, &result).check().ok();
            call(&host, &pod, &config, &result).del().ok();
        }
        // Nor one whose family is not asked for.
        let of_v6 = json!({ "cniVersion": "1.0.0", "ips": [{ "address": "fd00:22::2/64" }] });
        add(&host, &pod, &config(&[at("127.0.0.1", tcp(80, 80))]), &of_v6).ok();
        host.assert_as(&before);
    });
}

#[test]
fn it_must_be_chained() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        for mappings in [&[][..], &[tcp(8080, 80)]] {
            let call = || host.plugin("portmap").pod(&pod).config(&config(mappings));
            call().add().failure().is(999, "must be called as chained plugin");
            call().del().ok();
        }
        let call = host.plugin("portmap").pod(&pod).config(&config(&[tcp(8080, 80)]));
        call.check().failure().is(999, "prevResult");
    });
}

#[test]
fn what_cannot_work_is_refused_with_nothing_done() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        let before = host.snapshot();
        for (patch, fragments) in [
            (json!({ "backend": "ebpf" }), "backend|ebpf"),
            (json!({ "markMasqBit": 32 }), "MasqMarkBit must be between 0 and 31"),
            (json!({ "markMasqBit": 1, "externalSetMarkChain": "X" }), "externalSetMarkChain and markMasqBit"),
            (json!({ "conditionsV4": ["tcp", "flags", "syn"] }), "tcp flags syn|supported"),
            (json!({ "backend": "nftables", "conditionsV4": ["-m", "mark", "--mark", "1"] }), "-m mark"),
        ] {
            let config = with(&config(&[tcp(8080, 80)]), patch);
            add(&host, &pod, &config, &result).failure().is(999, fragments);
            call(&host, &pod, &config, &result).del().ok();
        }
        for (mapping, fragments) in [
            (tcp(0, 80), "Invalid host port number: 0"),
            (tcp(80, 0), "Invalid container port number: 0"),
            (with(&tcp(80, 80), json!({ "hostPort": 65536 })), "65536"),
            (with(&tcp(80, 80), json!({ "hostPort": -1 })), "-1"),
            (with(&tcp(80, 80), json!({ "protocol": "icmp" })), "icmp"),
            (at("300.1.1.1", tcp(80, 80)), "300.1.1.1"),
        ] {
            add(&host, &pod, &config(&[tcp(8080, 80), mapping]), &result).failure().is(999, fragments);
        }
        let twice = config(&[tcp(8080, 80), tcp(8080, 81)]);
        add(&host, &pod, &twice, &result).failure().is(999, "8080/tcp|80|81");
        host.assert_as(&before);
    });
}

#[test]
fn protocols_are_taken_in_any_case() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        add(&host, &pod, &config(&[with(&tcp(8080, 80), json!({ "protocol": "TCP" }))]), &result).ok();
        assert_eq!(elements(&host, "ip", "ports-any"), ["tcp . 8080 : 10.22.0.2 . 80"]);
    });
}

/// `{"ContainerPort":80,"HostIP":"","HostPort":8080,"Protocol":"tcp"}` is what Debian's containerd 1.6 says.
#[test]
fn keys_as_containerd_1_6_spells_them() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        let mapping = json!({ "ContainerPort": 80, "HostIP": "", "HostPort": 8080, "Protocol": "tcp" });
        add(&host, &pod, &config(&[mapping]), &result).ok();
        let published = host.snapshot();
        assert!(published.mentions("8080"), "{:?}", published.lines("nft").collect::<Vec<_>>());
    });
}

#[test]
fn a_second_add_changes_nothing() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        let config = config(&[tcp(8080, 80), udp(53, 53), at("192.0.2.1", tcp(443, 443))]);
        add(&host, &pod, &config, &result).ok();
        let before = host.snapshot();
        add(&host, &pod, &config, &result).ok();
        host.assert_as(&before);
        // Not even when it fails.
        let reply = call(&host, &pod, &config, &result).stdout(full()).add();
        assert!(!reply.status.success());
        host.assert_as(&before);
    });
}

#[test]
fn another_add_of_the_same_replaces_what_was_there() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        add(&host, &pod, &config(&[tcp(8080, 80), tcp(9090, 90)]), &result).ok();
        add(&host, &pod, &config(&[tcp(8080, 81), udp(53, 53)]), &result).ok();
        assert_eq!(elements(&host, "ip", "ports-any"), ["tcp . 8080 : 10.22.0.2 . 81", "udp . 53 : 10.22.0.2 . 53"]);
        assert_eq!(elements(&host, "ip6", "ports-snat"), ["tcp . fd00:22::2 . 81", "udp . fd00:22::2 . 53"]);
        // A family that is no longer published too.
        add(&host, &pod, &config(&[at("::", tcp(8080, 81))]), &result).ok();
        assert_eq!(elements(&host, "ip", "ports-any"), [""; 0]);
        assert_eq!(elements(&host, "ip", "ports-owners"), [""; 0]);
    });
}

#[test]
fn a_result_that_nobody_can_read_undoes_everything() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        for patch in [json!({}), json!({ "backend": "iptables" }), json!({ "conditionsV4": ["-i", "lo"] })] {
            let config = with(&config(&[tcp(8080, 80), udp(53, 53)]), patch);
            add(&host, &pod, &config, &result).ok();
            call(&host, &pod, &config, &result).del().ok();
            let before = host.snapshot();
            for output in [full().into(), unread()] {
                let reply = call(&host, &pod, &config, &result).stdout(output).add();
                assert!(reply.status.code().is_some_and(|code| code != 0), "{reply}");
                host.assert_as(&before);
            }
        }
    });
}

#[test]
fn hairpin_mode_is_turned_on_where_it_is_needed_and_undone() {
    case(|| {
        let host = Host::new();
        let bridge_nf = |on| {
            for name in ["iptables", "ip6tables"] {
                _ = host.enter(|| std::fs::write(format!("/proc/sys/net/bridge/bridge-nf-call-{name}"), on));
            }
        };
        if !host.enter(|| std::path::Path::new("/proc/sys/net/bridge").exists()) {
            tests::skip("there is no br_netfilter");
        }
        let pod = host.pod();
        let result = attach(&host, &pod);
        let port = result["interfaces"][1]["name"].as_str().unwrap().to_owned();
        let hairpin =
            || host.json(&format!("ip -d -j link show {port}"))[0]["linkinfo"]["info_slave_data"]["hairpin"] == true;
        let config = config(&[tcp(8080, 80)]);
        bridge_nf("0");
        add(&host, &pod, &config, &result).ok();
        assert!(!hairpin(), "it is not needed");
        call(&host, &pod, &config, &result).check().ok();
        // Nothing of what ADD made has changed.
        bridge_nf("1");
        let check = call(&host, &pod, &config, &result).check();
        assert!(check.ok().stderr.contains("hairpin"), "{}", check.stderr);
        call(&host, &pod, &config, &result).stdout(full()).add();
        assert!(!hairpin(), "it is undone");
        add(&host, &pod, &with(&config, json!({ "snat": false })), &result).ok();
        assert!(!hairpin(), "without snat the pod does not reach itself");
        add(&host, &pod, &config, &result).ok();
        assert!(hairpin());
        host.plugin("bridge").pod(&pod).config_with(&config::dual_stack(), &result).check().ok();
        for on in ["0", "1"] {
            bridge_nf(on);
            call(&host, &pod, &config, &result).check().ok();
        }
        host.run(&format!("bridge link set dev {port} hairpin off"));
        call(&host, &pod, &config, &result).check().failure().is(999, "hairpin|off");
        let iptables = with(&config, json!({ "backend": "iptables" }));
        add(&host, &pod, &iptables, &result).ok();
        assert!(hairpin());
        host.run(&format!("bridge link set dev {port} hairpin off"));
        let check = call(&host, &pod, &iptables, &result).check();
        assert!(check.ok().stderr.contains("hairpin"), "{}", check.stderr);
    });
}

#[test]
fn a_program_of_the_host_that_listens_on_the_port_is_named() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        let _server = host.enter(|| std::net::TcpListener::bind("0.0.0.0:8080").unwrap());
        let reply = add(&host, &pod, &config(&[tcp(8080, 80), tcp(8081, 80)]), &result);
        let told: Vec<_> = reply.ok().stderr.lines().filter(|l| l.contains("listens")).collect();
        assert!(told.len() == 1 && told[0].contains("8080/tcp") && told[0].contains("pid"), "{}", reply.stderr);
    });
}

#[test]
fn a_listener_at_ipv6_loopback_loses_nothing() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        let _server = host.enter(|| std::net::TcpListener::bind("[::1]:8080").unwrap());
        let stderr = add(&host, &pod, &config(&[tcp(8080, 80)]), &result).ok().stderr.clone();
        assert!(!stderr.contains("listens"), "{stderr}");
    });
}

#[test]
fn a_host_ip_that_is_not_reached_is_told_of() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        for (ip, told) in [
            ("::1", Some("[::1]:8080/tcp is not reached: packets from [::1]")),
            ("198.51.100.9", Some("198.51.100.9:8080/tcp is not reached: no link")),
            ("127.0.0.5", None),
            ("10.22.0.1", None),
            ("0.0.0.0", None),
            ("fd00:22::1", None),
        ] {
            let stderr = add(&host, &pod, &config(&[at(ip, tcp(8080, 80))]), &result).ok().stderr.clone();
            assert_eq!(stderr.contains("not reached"), told.is_some(), "{ip}: {stderr}");
            assert!(told.is_none_or(|told| stderr.contains(told)), "{ip}: {stderr}");
        }
    });
}

/// A device of Services that comes or goes is no reason to call the ports of all pods broken.
#[test]
fn addresses_of_services_come_and_go_without_a_false_alarm() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        let config = config(&[tcp(8080, 80)]);
        let check = || _ = call(&host, &pod, &config, &result).check().ok();
        add(&host, &pod, &config, &result).ok();
        let later = || rules(&host).iter().filter(|r| r.contains("ports-in") && r.contains("prefix")).count();
        assert_eq!(later(), 2, "{:?}", rules(&host));
        host.run("ip link add kube-ipvs0 type bridge");
        host.run("ip address add 10.96.0.1/32 dev kube-ipvs0");
        check();
        let other = host.pod();
        let of_other = attach(&host, &other);
        add(&host, &other, &self::config(&[at("0.0.0.0", tcp(8081, 80))]), &of_other).ok();
        let hosts = elements(&host, "ip", "ports-hosts");
        assert!(hosts.contains(&"10.22.0.1".to_owned()) && !hosts.contains(&"10.96.0.1".to_owned()), "{hosts:?}");
        check();
        // And back.
        add(&host, &other, &self::config(&[tcp(8081, 80)]), &of_other).ok();
        assert_eq!(later(), 0);
        host.run("ip link del kube-ipvs0");
        check();
        add(&host, &other, &self::config(&[tcp(8081, 80)]), &of_other).ok();
        assert_eq!(later(), 2);
        check();
        assert_eq!(host.read(&format!("/proc/sys/net/ipv4/conf/{BRIDGE}/route_localnet")).as_deref(), Some("1"));
    });
}

#[test]
fn a_second_add_without_ports_takes_back_what_the_first_made() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        let ports = config(&[tcp(8080, 80), udp(53, 53)]);
        add(&host, &pod, &ports, &result).ok();
        call(&host, &pod, &ports, &result).del().ok();
        let before = host.snapshot();
        for patch in [json!({}), json!({ "conditionsV4": ["-i", "lo"] })] {
            add(&host, &pod, &with(&ports, patch), &result).ok();
            add(&host, &pod, &config(&[]), &result).ok();
            host.assert_as(&before);
        }
        // The shared chains of the other backend stay.
        add(&host, &pod, &with(&ports, json!({ "backend": "iptables" })), &result).ok();
        add(&host, &pod, &config(&[]), &result).ok();
        assert!(!host.run("iptables-save").contains("CNI-DN-"));
    });
}

#[test]
fn what_the_other_backend_made_at_an_earlier_add_goes() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        let native = config(&[tcp(8080, 80)]);
        let iptables = with(&native, json!({ "backend": "iptables" }));
        let has = || {
            let chains = ["iptables-save", "ip6tables-save"].map(|p| host.run(p).contains("CNI-DN-"));
            (elements(&host, "ip", "ports-any").len() + elements(&host, "ip6", "ports-owners").len(), chains)
        };
        for _ in 0..2 {
            add(&host, &pod, &native, &result).ok();
            assert_eq!(has(), (2, [false; 2]));
            call(&host, &pod, &native, &result).check().ok();
            add(&host, &pod, &iptables, &result).ok();
            assert_eq!(has(), (0, [true; 2]));
            call(&host, &pod, &iptables, &result).check().ok();
        }
        call(&host, &pod, &iptables, &result).del().ok();
        assert_eq!(has(), (0, [false; 2]));
    });
}

/// Something of the host has changed between two equal ADDs, of which the second fails.
#[test]
fn a_second_add_that_fails_leaves_what_the_first_made() {
    case(|| {
        for patch in [json!({}), json!({ "backend": "iptables" })] {
            let host = Host::new();
            let pod = host.pod();
            let result = attach(&host, &pod);
            let config = with(&config(&[tcp(8080, 80), udp(53, 53)]), patch);
            add(&host, &pod, &config, &result).ok();
            host.run("ip link add late0 type bridge");
            host.run("ip address add 203.0.113.5/24 dev late0");
            let reply = call(&host, &pod, &config, &result).stdout(full()).add();
            assert!(!reply.status.success());
            call(&host, &pod, &config, &result).check().ok();
        }
    });
}

#[test]
fn maps_of_conditions_go_when_they_change() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        let of = |from: &str| with(&config(&[tcp(8080, 80)]), json!({ "conditionsV4": ["ip", "saddr", from] }));
        let maps = || host.run("nft list maps ip").lines().filter(|l| l.contains("map ports-if-")).count();
        for from in ["192.0.2.1", "192.0.2.2", "192.0.2.2"] {
            add(&host, &pod, &of(from), &result).ok();
            assert_eq!(maps(), 1);
            call(&host, &pod, &of(from), &result).check().ok();
        }
        // Another port under the same conditions.
        let other = with(&of("192.0.2.2"), json!({ "runtimeConfig": { "portMappings": [tcp(8081, 80)] } }));
        add(&host, &pod, &other, &result).ok();
        call(&host, &pod, &other, &result).check().ok();
        call(&host, &pod, &of("192.0.2.1"), &result).del().ok();
        assert_eq!(maps(), 0);
    });
}

/// Each ADD lists the host's addresses; one that looked earlier must not take away what another has seen.
#[test]
fn adds_at_the_same_time_do_not_forget_an_address() {
    case(|| {
        let host = Host::new();
        let pods: Vec<_> = (0..6).map(|_| host.pod()).collect();
        let results: Vec<_> = pods.iter().map(|pod| attach(&host, pod)).collect();
        host.run("ip link add late0 type bridge");
        host.run("ip link add kube-ipvs0 type bridge");
        for round in 1..=12 {
            std::thread::scope(|scope| {
                for (number, (pod, result)) in pods.iter().zip(&results).enumerate() {
                    let port = 8000 + u16::try_from(number).unwrap();
                    let host = &host;
                    scope.spawn(move || {
                        if number % 2 == 1 {
                            host.run(&format!("ip address add 203.0.113.{}/24 dev late0", round * 10 + number));
                        }
                        add(host, pod, &config(&[tcp(port, 80)]), result).ok();
                    });
                }
            });
            let hosts = elements(&host, "ip", "ports-hosts");
            for number in [1, 3, 5] {
                assert!(hosts.contains(&format!("203.0.113.{}", round * 10 + number)), "{round} {number}: {hosts:?}");
            }
        }
    });
}
