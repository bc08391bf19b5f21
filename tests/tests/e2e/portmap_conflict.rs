//! A port that another pod has: refused with its name, or taken from one that is certainly gone.

use serde_json::{Value, json};
use tests::{
    Host, NetNs, Place, Pod, case,
    config::{self, with},
};

use crate::portmap_add::{add, at, attach, call, config, elements, tcp, udp};

/// A host, and a pod that has published the port 8080.
fn holder(host: &Host) -> (Pod, Value) {
    let pod = host.named_pod();
    let result = attach(host, &pod);
    add(host, &pod, &config(&[tcp(8080, 80), udp(5353, 53)]), &result).ok();
    (pod, result)
}

#[test]
fn a_live_pods_port_is_refused_with_its_name_and_nothing_done() {
    case(|| {
        let host = Host::new();
        let (holder, _) = holder(&host);
        let pod = host.pod();
        let result = attach(&host, &pod);
        let before = host.snapshot();
        let refused = |mappings: &[Value]| add(&host, &pod, &config(mappings), &result).failure();
        refused(&[tcp(9999, 80), tcp(8080, 80)]).is(999, &format!("8080/tcp|{}|net|eth0", holder.id));
        refused(&[at("::", tcp(8080, 80))]).is(999, &holder.id);
        refused(&[udp(5353, 53)]).is(999, "5353/udp");
        host.assert_as(&before);
        // Another protocol, or one address of the host, is another port.
        add(&host, &pod, &config(&[udp(8080, 80), at("192.0.2.1", tcp(8080, 80))]), &result).ok();
        refused_at(&host);
    });
}

fn refused_at(host: &Host) {
    let third = host.pod();
    let result = attach(host, &third);
    let same = config(&[at("192.0.2.1", tcp(8080, 81))]);
    add(host, &third, &same, &result).failure().is(999, "192.0.2.1:8080/tcp|pod-2");
    add(host, &third, &config(&[at("192.0.2.2", tcp(8080, 81))]), &result).ok();
}

#[test]
fn after_del_the_port_is_free() {
    case(|| {
        let host = Host::new();
        let (holder, result) = holder(&host);
        call(&host, &holder, &config(&[tcp(8080, 80)]), &result).del().ok();
        let pod = host.pod();
        let result = attach(&host, &pod);
        add(&host, &pod, &config(&[tcp(8080, 80)]), &result).ok();
    });
}

/// containers/podman#11324 and many more: the dead container's rule stayed, and won.
#[test]
fn a_port_of_a_pod_that_is_certainly_gone_is_taken_over() {
    case(|| {
        for path in ["gone", "another"] {
            let host = Host::new();
            let (holder, _) = holder(&host);
            // The runtime died with the pod: no DEL.
            host.unmount(&holder.path);
            host.run(&format!("ip link del {}", link(&host)));
            if path == "another" {
                host.mount_netns(&NetNs::new(), &holder.path);
            }
            let pod = host.pod();
            let result = attach(&host, &pod);
            let reply = add(&host, &pod, &config(&[tcp(8080, 80)]), &result);
            let told = &reply.ok().stderr;
            assert!(told.contains("8080/tcp") && told.contains(&holder.id) && told.contains("taken over"), "{told}");
            // All that the dead one had is gone.
            assert_eq!(elements(&host, "ip", "ports-any"), ["tcp . 8080 : 10.22.0.3 . 80"]);
            assert_eq!(elements(&host, "ip6", "ports-snat"), ["tcp . fd00:22::3 . 80"]);
            assert_eq!(elements(&host, "ip", "ports-owners").len(), 1);
            call(&host, &pod, &config(&[tcp(8080, 80)]), &result).check().ok();
        }
    });
}

/// The name of the only veth on the host.
fn link(host: &Host) -> String {
    host.json("ip -j link show type veth")[0]["ifname"].as_str().unwrap().to_owned()
}

#[test]
fn one_sign_of_death_is_not_enough() {
    case(|| {
        // The path is gone, the link is there.
        let host = Host::new();
        let (holder, _) = holder(&host);
        host.unmount(&holder.path);
        let pod = host.pod();
        let result = attach(&host, &pod);
        add(&host, &pod, &config(&[tcp(8080, 80)]), &result).failure().is(999, &holder.id);
        // The link is gone, the namespace is there.
        let host = Host::new();
        let (holder, _) = self::holder(&host);
        host.run(&format!("ip link del {}", link(&host)));
        let pod = host.pod();
        let result = attach(&host, &pod);
        add(&host, &pod, &config(&[tcp(8080, 80)]), &result).failure().is(999, &holder.id);
    });
}

#[test]
fn without_a_link_of_our_bridge_nothing_speaks_against_a_holder() {
    case(|| {
        let host = Host::new();
        let holder = host.named_pod();
        // Made by some other plugin.
        let result = json!({ "cniVersion": "1.0.0", "ips": [{ "address": "10.99.0.2/24" }] });
        add(&host, &holder, &config(&[tcp(8080, 80)]), &result).ok();
        host.unmount(&holder.path);
        let pod = host.pod();
        let result = attach(&host, &pod);
        add(&host, &pod, &config(&[tcp(8080, 80)]), &result).failure().is(999, &format!("{}|may be alive", holder.id));
    });
}

#[test]
fn a_restart_of_the_same_container_takes_its_own_back() {
    case(|| {
        let host = Host::new();
        let (mut pod, _) = holder(&host);
        host.unmount(&pod.path);
        host.run(&format!("ip link del {}", link(&host)));
        pod.ns = NetNs::new();
        pod.path = pod.ns.path();
        let result = attach(&host, &pod);
        let config = config(&[tcp(8080, 80)]);
        add(&host, &pod, &config, &result).ok();
        assert_eq!(elements(&host, "ip", "ports-any").len(), 1);
        call(&host, &pod, &config, &result).check().ok();
        call(&host, &pod, &config, &result).del().ok();
        assert_eq!(elements(&host, "ip", "ports-owners"), [""; 0]);
    });
}

#[test]
fn an_element_that_says_nothing_of_its_owner_is_respected() {
    case(|| {
        let host = Host::new();
        let (holder, result) = holder(&host);
        call(&host, &holder, &config(&[tcp(8080, 80)]), &result).del().ok();
        host.run("nft add element ip oxbridge ports-any { tcp . 8080 : 10.22.0.99 . 80 }");
        let add = |mappings: &[Value]| add(&host, &holder, &config(mappings), &result);
        add(&[tcp(8080, 80)]).failure().is(999, "8080/tcp|unknown");
        add(&[tcp(8081, 80)]).ok();
        call(&host, &holder, &config(&[]), &result).del().ok();
        assert_eq!(elements(&host, "ip", "ports-any"), ["tcp . 8080 : 10.22.0.99 . 80"]);
    });
}

#[test]
fn who_shares_conditions_keeps_them_when_another_goes() {
    case(|| {
        let host = Host::new();
        let pods = [host.pod(), host.pod()];
        let results = [attach(&host, &pods[0]), attach(&host, &pods[1])];
        let of = |port| with(&config(&[tcp(port, 80)]), json!({ "conditionsV4": ["ip", "saddr", "!=", "192.0.2.9"] }));
        for (number, port) in [(0, 8080), (1, 8081)] {
            add(&host, &pods[number], &of(port), &results[number]).ok();
        }
        call(&host, &pods[0], &of(8080), &results[0]).del().ok();
        call(&host, &pods[1], &of(8081), &results[1]).check().ok();
        assert!(host.run("nft list maps ip").contains("10.22.0.3 . 80"));
    });
}

#[test]
fn mappings_under_different_conditions_do_not_conflict() {
    case(|| {
        let host = Host::new();
        let (holder, _) = holder(&host);
        let pods = [host.pod(), host.pod()];
        let results = [attach(&host, &pods[0]), attach(&host, &pods[1])];
        let conditions = |from: &str| with(&config(&[tcp(8080, 80)]), json!({ "conditionsV4": ["ip", "saddr", from] }));
        let of_v4 = |config: Value| with(&config, json!({ "conditionsV6": ["-i", "nowhere"] }));
        let (a, b) = (of_v4(conditions("198.51.100.0/24")), conditions("203.0.113.0/24"));
        add(&host, &pods[0], &a, &results[0]).ok();
        // The same conditions are the same port.
        let third = host.pod();
        let result = attach(&host, &third);
        add(&host, &third, &a, &result).failure().is(999, &format!("8080/tcp|{}", pods[0].id));
        // IPv6 has no conditions here.
        add(&host, &pods[1], &b, &results[1]).failure().is(999, &holder.id);
        add(&host, &pods[1], &of_v4(b.clone()), &results[1]).failure().is(999, &pods[0].id);
        let b = with(&b, json!({ "conditionsV6": ["-i", "elsewhere"] }));
        add(&host, &pods[1], &b, &results[1]).ok();
        let conditional = || host.run("nft list maps").lines().filter(|l| l.contains("ports-if-")).count();
        assert_eq!(conditional(), 4);
        call(&host, &pods[0], &a, &results[0]).check().ok();
        // They go with the last that has them.
        for (pod, config, result) in [(&pods[0], &a, &results[0]), (&pods[1], &b, &results[1])] {
            call(&host, pod, &with(config, json!({ "runtimeConfig": null, "prevResult": null })), result).del().ok();
        }
        assert_eq!(conditional(), 0);
        assert_eq!(host.run("nft list chain ip oxbridge ports-if").lines().count(), 4);
        _ = config::BRIDGE;
    });
}
