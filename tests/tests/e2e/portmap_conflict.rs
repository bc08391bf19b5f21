//! A port that another pod has: refused with its name, or taken from one that is certainly gone.

use serde_json::{Value, json};
use tests::{
    Host, NetNs, Network, Place, Pod, case,
    config::{self, with},
    published::{self, V4, bridge, chain, mapping, mapping_at, other_bridge, portmap, publish, withdraw},
    settings::{is_reference, not_for_reference},
    traffic::{Server, Transport, ask},
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
        let pods = [host.pod(), host.pod()];
        let results = [attach(&host, &pods[0]), attach(&host, &pods[1])];
        let of = |from: &str, link: &str| {
            let conditions = json!({ "conditionsV4": ["ip", "saddr", from], "conditionsV6": ["-i", link] });
            with(&config(&[tcp(8080, 80)]), conditions)
        };
        let (a, b) = (of("198.51.100.0/24", "nowhere"), of("203.0.113.0/24", "elsewhere"));
        add(&host, &pods[0], &a, &results[0]).ok();
        // The same conditions are the same port, in either family.
        let third = host.pod();
        let result = attach(&host, &third);
        add(&host, &third, &a, &result).failure().is(999, &format!("8080/tcp|{}", pods[0].id));
        add(&host, &third, &of("203.0.113.0/24", "nowhere"), &result).failure().is(999, &pods[0].id);
        let reply = add(&host, &pods[1], &b, &results[1]);
        // Nobody can know whether they exclude each other.
        let told = &reply.ok().stderr;
        assert!(told.contains("8080/tcp") && told.contains(&pods[0].id) && told.contains("other conditions"), "{told}");
        let conditional = || host.run("nft list maps").lines().filter(|l| l.contains("ports-if-")).count();
        assert_eq!(conditional(), 4);
        call(&host, &pods[0], &a, &results[0]).check().ok();
        call(&host, &pods[1], &b, &results[1]).check().ok();
        // They go with the last that has them.
        for (pod, config, result) in [(&pods[0], &a, &results[0]), (&pods[1], &b, &results[1])] {
            call(&host, pod, &with(config, json!({ "runtimeConfig": null, "prevResult": null })), result).del().ok();
        }
        assert_eq!(conditional(), 0);
        assert_eq!(host.run("nft list chain ip oxbridge ports-if").lines().count(), 4);
        _ = config::BRIDGE;
    });
}

#[test]
fn conditions_take_nothing_from_a_pod_that_has_the_port_without_any() {
    case(|| {
        for holder_is_conditional in [false, true] {
            let host = Host::new();
            let pods = [host.pod(), host.pod()];
            let results = [attach(&host, &pods[0]), attach(&host, &pods[1])];
            for at_address in [false, true] {
                let mapping = tcp(if at_address { 8081 } else { 8080 }, 80);
                let mapping = if at_address { at("10.22.0.1", mapping) } else { mapping };
                let plain = config(&[mapping]);
                let conditions = json!({ "conditionsV4": ["ip", "saddr", "!=", "192.0.2.9"] });
                let conditional = with(&plain, conditions);
                let [first, second] =
                    if holder_is_conditional { [&conditional, &plain] } else { [&plain, &conditional] };
                add(&host, &pods[0], first, &results[0]).ok();
                let before = host.snapshot();
                add(&host, &pods[1], second, &results[1]).failure().is(999, &format!("/tcp|{}", pods[0].id));
                host.assert_as(&before);
                // Its own is replaced.
                add(&host, &pods[0], second, &results[0]).ok();
                call(&host, &pods[0], second, &results[0]).check().ok();
            }
        }
    });
}

#[test]
fn whoever_had_the_pods_address_before_does_not_block_another_port() {
    case(|| {
        let host = Host::new();
        let result = json!({ "cniVersion": "1.0.0", "ips": [{ "address": "10.99.0.2/24" }] });
        let [old, new] = [host.pod(), host.pod()];
        add(&host, &old, &config(&[tcp(7000, 80), tcp(7002, 81)]), &result).ok();
        let config = config(&[tcp(7001, 80)]);
        let reply = add(&host, &new, &config, &result);
        let told = &reply.ok().stderr;
        assert!(told.contains(&old.id) && told.contains("10.99.0.2"), "{told}");
        call(&host, &new, &config, &result).check().ok();
        // The other's DEL takes its own.
        host.plugin("portmap").pod(&old).config(&crate::portmap_add::config(&[])).del().ok();
        call(&host, &new, &config, &result).check().ok();
        assert_eq!(elements(&host, "ip", "ports-snat"), ["tcp . 10.99.0.2 . 80"]);
        assert_eq!(elements(&host, "ip", "ports-any"), ["tcp . 7001 : 10.99.0.2 . 80"]);
        call(&host, &new, &config, &result).del().ok();
        assert_eq!(elements(&host, "ip", "ports-snat"), [""; 0]);
    });
}

#[test]
fn a_live_pods_port_is_refused_whatever_backend_published_it() {
    case(|| {
        let host = Host::new();
        let [holder, pod] = [host.pod(), host.pod()];
        let results = [attach(&host, &holder), attach(&host, &pod)];
        let mappings = [tcp(8080, 80), udp(5353, 53), at("10.22.0.1", tcp(8443, 443)), at("::", tcp(9000, 90))];
        let iptables = with(&config(&mappings), json!({ "backend": "iptables" }));
        add(&host, &holder, &iptables, &results[0]).ok();
        let before = host.snapshot();
        for taken in &mappings {
            let reply = add(&host, &pod, &config(&[tcp(9999, 80), taken.clone()]), &results[1]);
            reply.failure().is(999, &format!("{}/|{}|net|CNI-DN-", taken["hostPort"], holder.id));
        }
        host.assert_as(&before);
        for free in [udp(8080, 80), tcp(8443, 443), at("10.22.0.9", tcp(8443, 443)), at("10.22.0.1", tcp(8080, 80))] {
            let reply = add(&host, &pod, &config(&[free]), &results[1]);
            assert!(!reply.ok().stderr.contains(&holder.id), "{}", reply.stderr);
        }
    });
}

#[test]
fn a_thousand_ports_that_are_taken_are_refused_or_replaced_as_one() {
    case(|| {
        let host = Host::new();
        let pods = [host.pod(), host.pod()];
        let results = [attach(&host, &pods[0]), attach(&host, &pods[1])];
        let of = |container| config(&(10_000..11_000).map(|port| tcp(port, container)).collect::<Vec<_>>());
        for container in [80, 80, 81] {
            add(&host, &pods[0], &of(container), &results[0]).ok();
            call(&host, &pods[0], &of(container), &results[0]).check().ok();
        }
        add(&host, &pods[1], &of(80), &results[1]).failure().is(999, &format!("10000/tcp|{}", pods[0].id));
    });
}

/// Each looks at all that is published before it commits, which every other's commit makes worthless.
#[test]
fn pods_with_many_ports_at_once_take_turns() {
    case(|| {
        not_for_reference("it starts a program for each port, and takes minutes");
        let host = Host::new();
        let pods: Vec<(Pod, Value)> = (0..6)
            .map(|_| {
                let pod = host.pod();
                let result = attach(&host, &pod);
                (pod, result)
            })
            .collect();
        let all_at_once = || {
            std::thread::scope(|s| {
                for (first, (pod, result)) in (10_000..).step_by(500).zip(&pods) {
                    let host = &host;
                    s.spawn(move || {
                        let config = config(&(first..first + 500).map(|port| tcp(port, 80)).collect::<Vec<_>>());
                        for _ in 0..2 {
                            add(host, pod, &config, result).ok();
                            call(host, pod, &config, result).check().ok();
                            call(host, pod, &config, result).del().ok();
                        }
                    });
                }
            });
            // The lock of who was disturbed.
            host.files("/run/oxbridge").iter().any(|name| name.starts_with("nftables-turn-"))
        };
        assert!((0..20).any(|_| all_at_once()), "nobody took turns");
    });
}

/// Ours come first: a port that is published there would be dead in iptables.
#[test]
fn the_iptables_backend_respects_a_live_pods_port_too() {
    case(|| {
        let host = Host::new();
        let (holder, _) = holder(&host);
        let pod = host.pod();
        let result = attach(&host, &pod);
        let iptables = |mappings: &[Value]| with(&config(mappings), json!({ "backend": "iptables" }));
        let before = host.snapshot();
        let reply = add(&host, &pod, &iptables(&[tcp(9999, 80), tcp(8080, 80)]), &result);
        reply.failure().is(999, &format!("8080/tcp|{}|net", holder.id));
        host.assert_as(&before);
        add(&host, &pod, &iptables(&[tcp(9999, 80), udp(8080, 80)]), &result).ok();
        // One that is gone loses its ports.
        let host = Host::new();
        let (holder, _) = self::holder(&host);
        host.unmount(&holder.path);
        host.run(&format!("ip link del {}", link(&host)));
        let pod = host.pod();
        let result = attach(&host, &pod);
        let reply = add(&host, &pod, &iptables(&[tcp(8080, 80)]), &result);
        assert!(reply.ok().stderr.contains("taken over"), "{}", reply.stderr);
        assert_eq!(elements(&host, "ip", "ports-any"), [""; 0]);
        call(&host, &pod, &iptables(&[tcp(8080, 80)]), &result).check().ok();
    });
}

/// podman#11324: what a dead container left blocks nobody; but nothing tells that from a pod of the reference that
/// lives.
#[test]
fn who_has_the_port_by_the_reference_is_named_in_the_log() {
    case(|| {
        let host = Host::new();
        let [old, own, pod] = [host.pod(), host.pod(), host.pod()];
        let results = [attach(&host, &own), attach(&host, &pod)];
        let of_old = json!({
            "cniVersion": "1.0.0",
            "interfaces": [{ "name": "eth0", "sandbox": old.path }],
            "ips": [{ "address": "10.22.0.99/24", "interface": 0 }],
        });
        let of_reference = with(&config(&[tcp(8080, 80)]), json!({ "backend": "iptables", "name": "old" }));
        host.reference("portmap").pod(&old).config_with(&of_reference, &of_old).add().ok();
        let reply = add(&host, &pod, &config(&[tcp(8080, 80)]), &results[1]);
        let told = &reply.ok().stderr;
        assert!(told.contains(&format!("container {} (network old) in chain CNI-DN-", old.id)), "{told}");
        assert!(told.contains("may be alive"), "{told}");
        // As its nftables backend writes it.
        host.run("nft add table ip cni_hostport");
        host.run("nft add chain ip cni_hostport hostports");
        host.run("nft add chain ip cni_hostport hostip_hostports");
        host.run("nft add rule ip cni_hostport hostports tcp dport 8081 dnat to 10.22.0.99:80 comment old");
        host.run(
            "nft add rule ip cni_hostport hostip_hostports ip daddr 10.22.0.1 udp dport 82 dnat to 10.22.0.99:80 comment old",
        );
        for (mapping, is_taken) in [
            (tcp(8081, 80), true),
            (udp(8081, 80), false),
            (at("10.22.0.1", tcp(8081, 80)), false),
            (at("10.22.0.1", udp(82, 80)), true),
            (at("10.22.0.2", udp(82, 80)), false),
            (udp(82, 80), false),
        ] {
            let reply = add(&host, &pod, &config(std::slice::from_ref(&mapping)), &results[1]);
            let told = &reply.ok().stderr;
            assert_eq!(told.contains("container old in table ip cni_hostport"), is_taken, "{mapping}: {told}");
        }
        // Whose address the pod has now is gone.
        let mut of_dead = of_old;
        of_dead["ips"][0]["address"] = results[0]["ips"][0]["address"].clone();
        let of_reference = with(&config(&[tcp(8082, 80)]), json!({ "backend": "iptables", "name": "old" }));
        let dead = host.pod();
        host.reference("portmap").pod(&dead).config_with(&of_reference, &of_dead).add().ok();
        let reply = add(&host, &own, &config(&[tcp(8082, 80)]), &results[0]);
        assert!(!reply.ok().stderr.contains("8082"), "{}", reply.stderr);
    });
}

/// A name of the host link that another had when it was made is free again.
#[test]
fn a_host_link_with_its_second_name_is_known() {
    case(|| {
        let host = Host::new();
        let (holder, _) = holder(&host);
        let identity =
            cni::Attachment { network: "net".into(), container_id: holder.id.clone(), ifname: "eth0".into() };
        host.run(&format!("ip link set {} down", link(&host)));
        host.run(&format!("ip link set {} name {}", link(&host), identity.host_ifname(2)));
        host.unmount(&holder.path);
        let pod = host.pod();
        let result = attach(&host, &pod);
        add(&host, &pod, &config(&[tcp(8080, 80)]), &result).failure().is(999, &holder.id);
    });
}

/// podman publishes a container's ports by each network that it is in: `podman run --network a --network b -p 8080:80`.
#[test]
fn a_pod_in_two_networks_has_its_ports_by_both() {
    case(|| {
        for backend in ["nftables", "iptables"] {
            let host = Host::new();
            let chained = if is_reference() { portmap(&json!({})) } else { portmap(&json!({ "backend": backend })) };
            let one = chain(&host, &[bridge(&json!({ "ipMasq": true })), chained.clone()]);
            let two = chain(&host, &[other_bridge(&json!({ "ipMasq": true })), chained]);
            let mappings =
                [mapping(Transport::Tcp, 8080), mapping(Transport::Udp, 8080), mapping(Transport::Tcp, 8081)];
            let by_one = host.pod();
            let by_two = second(&by_one);
            for (network, pod) in [(&one, &by_one), (&two, &by_two)] {
                publish(network, pod, &mappings).ok();
                withdraw(network, pod, &mappings).ok();
            }
            let before = host.snapshot();

            publish(&one, &by_one, &mappings).ok();
            publish(&two, &by_two, &mappings).ok();
            let answers = |addresses: &[&str]| {
                // Which of two is asked does not matter: both are the pod's.
                let at = |address: &&str| Server::start(&by_one, "pod", published::at(address, 80));
                let _servers: Vec<_> = addresses.iter().map(at).collect();
                for port in [8080, 8081] {
                    let answer = ask(&host, Transport::Tcp, published::at("127.0.0.1", port));
                    assert_eq!(answer.map(|answer| answer.server).as_deref(), Some("pod"), "{backend} {port}");
                }
            };
            let check = |network: &Network<'_>, pod: &Pod| {
                // The reference's CHECK of portmap fails for every dual-stack pod.
                if !is_reference() {
                    published::check(network, pod, &mappings).ok();
                }
            };
            answers(&["10.22.0.3", "10.23.0.3"]);
            check(&one, &by_one);
            check(&two, &by_two);
            // By the other, when one goes; whoever comes back is welcome, and others are not.
            withdraw(&one, &by_one, &mappings).ok();
            answers(&["10.23.0.3"]);
            check(&two, &by_two);
            let other = host.pod();
            if !is_reference() {
                let refused = publish(&one, &other, &mappings);
                assert!(refused.stderr.contains("is already published by container"), "{refused}");
                withdraw(&one, &other, &mappings).ok();
            }
            publish(&one, &by_one, &mappings).ok();
            check(&one, &by_one);
            check(&two, &by_two);
            withdraw(&two, &by_two, &mappings).ok();
            let address = by_one.link("eth0").unwrap()["addr_info"][0]["local"].as_str().unwrap().to_owned();
            answers(&[&address]);
            withdraw(&one, &by_one, &mappings).ok();
            host.assert_as(&before);
        }
    });
}

/// Another interface of a pod.
fn second(pod: &Pod) -> Pod {
    Pod { ifname: "eth1".to_owned(), ns: NetNs::open(&pod.path), id: pod.id.clone(), path: pod.path.clone() }
}

/// A host, and a pod of two networks with portmaps of these backends, one after the other; `case` gets network and pod of
/// either. By default the pod answers by the first.
fn in_two_networks(backends: [&str; 2], ip_masq: bool, case: impl Fn(&Host, [(&Network<'_>, &Pod); 2])) {
    let host = Host::new();
    host.outside();
    let [one, two] = backends.map(|backend| portmap(&json!({ "backend": backend })));
    let one = chain(&host, &[bridge(&json!({ "ipMasq": ip_masq })), one]);
    let on_link = with(&other_bridge(&json!({ "ipMasq": ip_masq })), json!({ "ipam": { "routes": null } }));
    let two = chain(&host, &[on_link, two]);
    let pod = host.pod();
    case(&host, [(&one, &pod), (&two, &second(&pod))]);
}

/// What stays of two networks after they were used together: the first learns of the second's subnet by its next ADD.
fn warm_up(both: &[(&Network<'_>, &Pod)], mappings: &[Value]) {
    for verb in [publish, withdraw, publish, withdraw] {
        both.iter().for_each(|(network, pod)| _ = verb(network, pod, mappings).ok());
    }
}

/// The pod's addresses on which it serves for as long as what is returned lives.
fn serve(pod: &Pod, links: &[&str]) -> Vec<Server> {
    let address = |link: &&str| pod.link(link).unwrap()["addr_info"][0]["local"].as_str().unwrap().to_owned();
    links.iter().map(|link| Server::start(pod, "pod", published::at(&address(link), 80))).collect()
}

fn assert_answers(who: &str, from: &impl Place, address: &str) {
    let answer = ask(from, Transport::Tcp, published::at(address, 8080));
    assert_eq!(answer.map(|answer| answer.server).as_deref(), Some("pod"), "{who}");
}

/// The pod takes nothing by the link of the second network to which it would not answer by that.
#[test]
fn of_two_networks_the_first_keeps_the_port() {
    case(|| {
        not_for_reference("which of two networks has the port");
        for backends in [["nftables", "nftables"], ["iptables", "iptables"], ["iptables", "nftables"]] {
            for first_goes in [false, true] {
                let ip_masq = first_goes;
                in_two_networks(backends, ip_masq, |host, both| {
                    let (networks, pods) = (both.map(|b| b.0), both.map(|b| b.1));
                    let mappings = [mapping(Transport::Tcp, 8080), mapping_at(Transport::Tcp, 8081, V4.host)];
                    let third = |patch: Value| {
                        let own =
                            json!({ "name": "third", "bridge": "br2", "ipam": config::host_local(&["10.24.0.0/24"]) });
                        chain(host, &[bridge(&own), portmap(&with(&json!({ "backend": backends[1] }), patch))])
                    };
                    let other = host.pod();
                    for network in [third(json!({})), third(json!({ "conditionsV4": ["-s", "192.0.2.0/24"] }))] {
                        publish(&network, &other, &mappings).ok();
                        withdraw(&network, &other, &mappings).ok();
                    }
                    warm_up(&both, &mappings);
                    let sibling = host.pod();
                    networks[0].add(&sibling).ok();
                    let before = host.snapshot();
                    for (network, pod) in both {
                        publish(network, pod, &mappings).ok();
                    }
                    pods[0].run("sysctl -qw net.ipv4.conf.all.rp_filter=1");
                    let check =
                        || both.iter().for_each(|(network, pod)| _ = published::check(network, pod, &mappings).ok());
                    check();
                    let ask_all = |when: &str| {
                        let when = |who: &str| format!("{backends:?} {when}, {who}");
                        assert_answers(&when("the host"), host, "127.0.0.1");
                        assert_answers(&when("outside"), host.outside(), V4.host);
                        assert_answers(&when("the sibling"), &sibling, V4.host);
                        assert_answers(&when("the pod"), pods[0], V4.host);
                        let at = ask(host.outside(), Transport::Tcp, published::at(V4.host, 8081));
                        assert!(at.is_some(), "{}", when("outside, one address"));
                    };
                    let servers = serve(pods[0], &["eth0", "eth1"]);
                    ask_all("both");
                    let (gone, left) = if first_goes { (0, 1) } else { (1, 0) };
                    drop(servers);
                    withdraw(networks[gone], pods[gone], &mappings).ok();
                    let via = ["10.22.0.1", "10.23.0.1"][left];
                    pods[0].run(&format!("ip route replace default via {via}"));
                    published::check(networks[left], pods[left], &mappings).ok();
                    let servers = serve(pods[0], &[&pods[left].ifname]);
                    ask_all("one of them");
                    drop(servers);
                    // With and without conditions it is taken.
                    for conditions in [json!({}), json!({ "conditionsV4": ["-s", "192.0.2.0/24"] })] {
                        let network = third(conditions);
                        let refused = publish(&network, &other, &mappings);
                        assert!(refused.stderr.contains("is already published by"), "{backends:?} {refused}");
                        withdraw(&network, &other, &mappings).ok();
                    }
                    publish(networks[gone], pods[gone], &mappings).ok();
                    check();
                    for (network, pod) in both {
                        withdraw(network, pod, &mappings).ok();
                    }
                    host.assert_as(&before);
                });
            }
        }
    });
}

/// The rules of iptables come before our own, whoever was first.
#[test]
fn a_pod_of_our_tables_joins_a_network_by_iptables() {
    case(|| {
        not_for_reference("both backends at once");
        for first_goes in [false, true] {
            in_two_networks(["nftables", "iptables"], true, |host, both| {
                let mappings = [mapping(Transport::Tcp, 8080)];
                warm_up(&both, &mappings);
                let before = host.snapshot();
                for (network, pod) in both {
                    publish(network, pod, &mappings).ok();
                }
                for (network, pod) in both {
                    published::check(network, pod, &mappings).ok();
                }
                let servers = serve(both[0].1, &["eth0", "eth1"]);
                assert_answers("both", host, "127.0.0.1");
                drop(servers);
                let [left, gone] = if first_goes { [both[1], both[0]] } else { both };
                withdraw(gone.0, gone.1, &mappings).ok();
                published::check(left.0, left.1, &mappings).ok();
                let servers = serve(left.1, &[&left.1.ifname]);
                assert_answers("one of them", host, "127.0.0.1");
                drop(servers);
                withdraw(left.0, left.1, &mappings).ok();
                host.assert_as(&before);
            });
        }
    });
}

/// What lets the port come before a dead pod's rule stays for as long as either has it.
#[test]
fn a_port_that_comes_first_does_so_by_either_network() {
    case(|| {
        not_for_reference("our own tables");
        for first_goes in [false, true] {
            in_two_networks(["nftables", "nftables"], true, |host, both| {
                let mappings = [mapping(Transport::Tcp, 8080)];
                host.run("nft add table ip cni_hostport");
                host.run("nft add chain ip cni_hostport hostports");
                let rule = "nft add rule ip cni_hostport hostports tcp dport 8080 dnat to 10.22.0.99:80 comment old";
                let is_first = || host.run("nft list set ip oxbridge ports-first").contains("8080");
                for is_there_before in [true, false] {
                    if is_there_before {
                        host.run(rule);
                    }
                    publish(both[0].0, both[0].1, &mappings).ok();
                    if !is_there_before {
                        host.run(rule);
                    }
                    publish(both[1].0, both[1].1, &mappings).ok();
                    assert!(is_first());
                    let [left, gone] = if first_goes { [both[1], both[0]] } else { both };
                    withdraw(gone.0, gone.1, &mappings).ok();
                    assert!(is_first(), "{first_goes}");
                    published::check(left.0, left.1, &mappings).ok();
                    publish(gone.0, gone.1, &mappings).ok();
                    for (network, pod) in both {
                        published::check(network, pod, &mappings).ok();
                    }
                    for (network, pod) in both {
                        withdraw(network, pod, &mappings).ok();
                    }
                    assert!(!is_first());
                    host.run("nft flush chain ip cni_hostport hostports");
                }
            });
        }
    });
}

/// The message is about the map that the interface has its ports in.
#[test]
fn check_tells_what_a_second_network_lacks() {
    case(|| {
        not_for_reference("our own tables");
        in_two_networks(["nftables", "nftables"], true, |host, both| {
            let mappings = [mapping(Transport::Tcp, 8080)];
            for (network, pod) in both {
                publish(network, pod, &mappings).ok();
            }
            let map = host
                .run("nft list maps ip")
                .lines()
                .find_map(|l| l.trim().strip_prefix("map ports-by-")?.strip_suffix(" {").map(str::to_owned));
            let map = format!("ports-by-{}", map.unwrap());
            host.run(&format!("nft flush map ip oxbridge {map}"));
            let told = published::check(both[1].0, both[1].1, &mappings);
            assert!(told.stderr.contains(&map) || told.stdout.contains(&map), "{told}");
        });
    });
}
