//! `ipMasq`: the outside sees the host, other pods see the pod.

use std::net::{IpAddr, UdpSocket};

use serde_json::{Value, json};
use tests::{
    Host, Place, Pod, case,
    config::{self, BRIDGE, with},
    snapshot::{elements, rules},
    traffic::{
        assert_reaches, assert_silent,
        outside::{HOST4, HOST6, SERVER4, SERVER6, UPLINK},
        sender_of_next, source_seen,
    },
};

fn masqueraded(config: &Value) -> Value {
    with(config, json!({ "ipMasq": true }))
}

fn ip(text: &str) -> Option<IpAddr> {
    Some(text.parse().unwrap())
}

#[test]
fn the_outside_sees_the_hosts_address() {
    case(|| {
        for (config, servers) in [
            (config::bridge(), &[(SERVER4, HOST4)][..]),
            (config::ipv6_only(), &[(SERVER6, HOST6)]),
            (config::dual_stack(), &[(SERVER4, HOST4), (SERVER6, HOST6)]),
        ] {
            let host = Host::new();
            let outside = host.outside();
            let pod = host.pod();
            host.network(&masqueraded(&config)).add(&pod).ok();
            for (server, seen) in servers {
                assert_reaches(&pod, server);
                assert_eq!(source_seen(&pod, outside, server), ip(seen));
            }
        }
    });
}

#[test]
fn without_ip_masq_the_outside_sees_the_pod() {
    case(|| {
        let host = Host::new();
        let outside = host.outside();
        let pod = host.pod();
        host.network(&config::dual_stack()).add(&pod).ok();
        // There is no way back to the pod.
        assert_silent(&pod, SERVER4);
        outside.run(&format!("ip route add 10.22.0.0/24 via {HOST4}"));
        outside.run(&format!("ip route add fd00:22::/64 via {HOST6}"));
        assert_eq!(source_seen(&pod, outside, SERVER4), ip("10.22.0.2"));
        assert_eq!(source_seen(&pod, outside, SERVER6), ip("fd00:22::2"));
    });
}

#[test]
fn pods_of_the_subnet_see_each_other() {
    case(|| {
        let host = Host::new();
        let (a, b) = (host.pod(), host.pod());
        let network = host.network(&masqueraded(&config::dual_stack()));
        network.add(&a).ok();
        network.add(&b).ok();
        assert_eq!(source_seen(&a, &b, "10.22.0.3"), ip("10.22.0.2"));
        assert_eq!(source_seen(&a, &b, "fd00:22::3"), ip("fd00:22::2"));
    });
}

#[test]
fn pods_of_the_subnet_see_each_other_also_where_bridged_frames_pass_the_hosts_rules() {
    case(|| {
        let host = Host::new();
        if host.try_run("sysctl -w net.bridge.bridge-nf-call-iptables=1").is_err() {
            tests::skip("this kernel has no br_netfilter");
        }
        let (a, b) = (host.pod(), host.pod());
        let network = host.network(&masqueraded(&config::bridge()));
        network.add(&a).ok();
        network.add(&b).ok();
        assert_eq!(source_seen(&a, &b, "10.22.0.3"), ip("10.22.0.2"));
    });
}

#[test]
fn the_host_sees_the_pod() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        host.network(&masqueraded(&config::dual_stack())).add(&pod).ok();
        assert_eq!(source_seen(&pod, &host, "10.22.0.1"), ip("10.22.0.2"));
        assert_eq!(source_seen(&pod, &host, "fd00:22::1"), ip("fd00:22::2"));
    });
}

#[test]
fn multicast_keeps_its_source() {
    case(|| {
        let host = Host::new();
        let outside = host.outside();
        let pod = host.pod();
        host.network(&masqueraded(&config::dual_stack())).add(&pod).ok();
        // Nothing routes multicast here: the host itself sends, with the pod's source address.
        host.run(&format!("ip address add 10.22.0.2/32 dev {UPLINK}"));
        host.run(&format!("ip address add fd00:22::2/128 dev {UPLINK} nodad"));
        host.run(&format!("ip route add 239.0.0.0/8 dev {UPLINK}"));
        outside.run(&format!("ip route add 10.22.0.0/24 via {HOST4}"));
        host.run(&format!("ip -6 route add multicast ff15::/16 dev {UPLINK} table local"));
        let link = outside.link("eth0").unwrap()["ifindex"].as_u64().unwrap().try_into().unwrap();
        let uplink = host.link(UPLINK).unwrap()["ifindex"].clone();
        let (v4, v6) = outside.enter(|| {
            let sockets = [UdpSocket::bind("0.0.0.0:5000").unwrap(), UdpSocket::bind("[::]:5001").unwrap()];
            sockets[0].join_multicast_v4(&"239.1.2.3".parse().unwrap(), &SERVER4.parse().unwrap()).unwrap();
            sockets[1].join_multicast_v6(&"ff15::1".parse().unwrap(), link).unwrap();
            sockets.into()
        });
        let seen = |server: &UdpSocket, from: &str, to: &str| {
            host.enter(|| UdpSocket::bind(from).unwrap().send_to(b"x", to).unwrap());
            sender_of_next(server).map(|peer| peer.ip())
        };
        assert_eq!(seen(&v4, "10.22.0.2:0", "239.1.2.3:5000"), ip("10.22.0.2"));
        assert_eq!(seen(&v6, "[fd00:22::2]:0", &format!("[ff15::1%{uplink}]:5001")), ip("fd00:22::2"));
        // What is not multicast does get the host's address: the sender above would be masqueraded.
        assert_eq!(seen(&v4, "10.22.0.2:0", &format!("{SERVER4}:5000")), ip(HOST4));
    });
}

#[test]
fn the_default_backend_needs_no_rule_for_a_pod() {
    case(|| {
        let host = Host::new();
        let config = masqueraded(&config::dual_stack());
        host.warm_up(&config);
        let count = || rules(&host, "").len();
        let before = count();
        let pods = [host.pod(), host.pod(), host.pod()];
        for pod in &pods {
            host.plugin("bridge").pod(pod).config(&config).add().ok();
            assert_eq!(elements(&host, &pod.id).len(), 2, "one for each address");
        }
        assert_eq!(count(), before);
        let text = host.run("nft list ruleset");
        // What nft prints it also has to read: the host's firewall may be saved and restored this way.
        host.write("/run/test/ruleset", format!("flush ruleset\n{text}"));
        host.run("nft -f /run/test/ruleset");
        assert_eq!(host.run("nft list ruleset"), text);
    });
}

#[test]
fn long_names_of_network_and_container_still_make_a_loadable_ruleset() {
    case(|| {
        let host = Host::new();
        let outside = host.outside();
        let config = with(&masqueraded(&config::everything()), json!({ "name": "n".repeat(120) }));
        let mut pod = host.pod();
        pod.id = "c".repeat(128);
        host.plugin("bridge").pod(&pod).config(&config).add().ok();
        assert_eq!(source_seen(&pod, outside, SERVER4), ip(HOST4));
        let text = host.run("nft list ruleset");
        host.write("/run/test/ruleset", format!("flush ruleset\n{text}"));
        host.run("nft -f /run/test/ruleset");
        host.plugin("bridge").pod(&pod).config(&config).del().ok();
        assert!(!host.snapshot().mentions("nft element"));
    });
}

#[test]
fn a_family_can_be_left_out() {
    case(|| {
        for (value, v4, v6) in [("ipv4", ip(HOST4), ip("fd00:22::2")), ("ipv6", ip("10.22.0.2"), ip(HOST6))] {
            let host = Host::new();
            let outside = host.outside();
            outside.run(&format!("ip route add 10.22.0.0/24 via {HOST4}"));
            outside.run(&format!("ip route add fd00:22::/64 via {HOST6}"));
            let pod = host.pod();
            let config = with(&config::dual_stack(), json!({ "ipMasq": value }));
            host.network(&config).add(&pod).ok();
            assert_eq!(source_seen(&pod, outside, SERVER4), v4, "ipMasq: {value}");
            assert_eq!(source_seen(&pod, outside, SERVER6), v6, "ipMasq: {value}");
        }
    });
}

#[test]
fn two_ranges_of_one_family_are_both_masqueraded_and_exempted() {
    case(|| {
        let host = Host::new();
        let outside = host.outside();
        let config = masqueraded(&with(
            &config::bridge(),
            json!({
            "forceAddress": true, "isGateway": false, "ipam": config::host_local(&["10.22.0.0/24", "10.23.0.0/24"]) }),
        ));
        let config = with(&config, json!({ "ipam": { "routes": [{ "dst": "0.0.0.0/0", "gw": "10.22.0.1" }] } }));
        host.run(&format!("ip link add {BRIDGE} type bridge"));
        host.run(&format!("ip address add 10.22.0.1/24 dev {BRIDGE}"));
        host.run(&format!("ip address add 10.23.0.1/24 dev {BRIDGE}"));
        host.run("sysctl -q -w net.ipv4.ip_forward=1");
        let (a, b) = (host.pod(), host.pod());
        let network = host.network(&config);
        network.add(&a).ok();
        network.add(&b).ok();
        a.run("ip route add 192.0.2.10 via 10.22.0.1 src 10.23.0.2");
        outside.run("ip address add 192.0.2.10/24 dev eth0");
        assert_eq!(source_seen(&a, outside, SERVER4), ip(HOST4), "from the first range");
        assert_eq!(source_seen(&a, outside, "192.0.2.10"), ip(HOST4), "from the second range");
        assert_eq!(source_seen(&a, &b, "10.23.0.3"), ip("10.23.0.2"));
    });
}

/// The pods' lines of `iptables-save -t nat` (or its IPv6 sibling).
fn saved(host: &Host, program: &str) -> Vec<String> {
    let text = host.run(&format!("{program} -t nat"));
    text.lines().filter(|l| l.contains("CNI-")).map(|l| l.split(" [").next().unwrap().to_owned()).collect()
}

#[test]
fn the_iptables_backend_has_the_layout_of_the_reference() {
    case(|| {
        let host = Host::new();
        let outside = host.outside();
        let config = with(&masqueraded(&config::dual_stack()), json!({ "name": "tn", "ipMasqBackend": "iptables" }));
        let before = host.warm_up(&config);
        let mut pod = host.pod();
        pod.id = "c1".to_owned();
        host.plugin("bridge").pod(&pod).config(&config).add().ok();
        let chain = "CNI-5a0e4b11e4ca823ae73b9333";
        let comment = r#"-m comment --comment "name: \"tn\" id: \"c1\"""#;
        let (v4, v6) = ("10.22.0.3", "fd00:22::3");
        assert_eq!(
            saved(&host, "iptables-save"),
            [
                format!(":{chain} -"),
                format!("-A POSTROUTING -s {v4}/32 {comment} -j {chain}"),
                format!("-A {chain} -d 10.22.0.0/24 {comment} -j ACCEPT"),
                format!("-A {chain} ! -d 224.0.0.0/4 {comment} -j MASQUERADE"),
            ]
        );
        assert_eq!(
            saved(&host, "ip6tables-save"),
            [
                format!(":{chain} -"),
                format!("-A POSTROUTING -s {v6}/128 {comment} -j {chain}"),
                format!("-A {chain} -d fd00:22::/64 {comment} -j ACCEPT"),
                format!("-A {chain} ! -d ff00::/8 {comment} -j MASQUERADE"),
            ]
        );
        assert_eq!(source_seen(&pod, outside, SERVER4), ip(HOST4));
        assert_eq!(source_seen(&pod, outside, SERVER6), ip(HOST6));
        host.plugin("bridge").pod(&pod).config(&config).del().ok();
        host.assert_as(&before);
    });
}

#[test]
fn the_iptables_backend_is_removed_without_the_namespace() {
    case(|| {
        let host = Host::new();
        let config = with(&masqueraded(&config::dual_stack()), json!({ "ipMasqBackend": "iptables" }));
        let before = host.warm_up(&config);
        let pod = host.pod();
        host.plugin("bridge").pod(&pod).config(&config).add().ok();
        let Pod { id, ns, .. } = pod;
        drop(ns);
        host.plugin("bridge").id(&id).netns("").config(&config).del().ok();
        host.assert_as(&before);
    });
}

/// A container with two attachments to one network: net1 and net2.
fn twice(config: Value) {
    let host = Host::new();
    let outside = host.outside();
    let before = host.warm_up(&config);
    let mut pod = host.pod();
    for name in ["net1", "net2"] {
        name.clone_into(&mut pod.ifname);
        host.plugin("bridge").pod(&pod).config(&config).add().ok();
    }
    host.plugin("bridge").pod(&pod).ifname("net1").config(&config).del().ok();
    assert_eq!(pod.addresses().len(), 2, "net2 is still there");
    assert_eq!(source_seen(&pod, outside, SERVER4), ip(HOST4));
    assert_eq!(source_seen(&pod, outside, SERVER6), ip(HOST6));
    host.plugin("bridge").pod(&pod).config(&config).del().ok();
    host.assert_as(&before);
}

#[test]
fn one_of_two_attachments_can_go() {
    case(|| twice(masqueraded(&config::dual_stack())));
}

#[test]
fn one_of_two_attachments_can_go_with_the_iptables_backend() {
    case(|| twice(with(&masqueraded(&config::dual_stack()), json!({ "ipMasqBackend": "iptables" }))));
}

#[test]
fn an_address_taken_over_belongs_to_its_new_owner() {
    case(|| {
        let host = Host::new();
        let outside = host.outside();
        let config = masqueraded(&config::fixed(&[("10.22.0.50/24", "10.22.0.1"), ("fd00:22::50/64", "fd00:22::1")]));
        let before = host.warm_up(&config);
        let (old, new) = (host.pod(), host.pod());
        host.plugin("bridge").pod(&old).config(&config).add().ok();
        let id = old.id.clone();
        // The namespace ends without a DEL; the address goes to another pod; then the DEL comes.
        drop(old);
        host.plugin("bridge").pod(&new).config(&config).add().ok();
        host.plugin("bridge").id(&id).netns("").config(&config).del().ok();
        assert_eq!(source_seen(&new, outside, SERVER4), ip(HOST4));
        assert_eq!(source_seen(&new, outside, SERVER6), ip(HOST6));
        assert_eq!(new.addresses().len(), 2);
        host.plugin("bridge").pod(&new).config(&config).del().ok();
        host.assert_as(&before);
    });
}
