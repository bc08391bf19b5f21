//! Pods as kubelet makes them, with the networks that operators configure.

use serde_json::{Value, json};
use tests::{
    Host, Place,
    config::{self, with},
    image,
    published::{CONTAINER_PORT, at},
    reported, settings,
    traffic::{
        self, http,
        outside::{HOST4, HOST6, SERVER4, SERVER6},
    },
};

use super::{
    cri::PodConfig,
    daemon::{Node, STORE, Sandbox, bridge, knows_status, list, portmap, published, subject},
};

/// The port of the host that the pod `web` is published at.
const PORT: u16 = 8080;
/// What [`exercise`] does, in words.
const EXERCISE: &str = "pods by CRI: addresses, ping, HTTP, host port from all sides, stop, remove, the node as before";

fn web(pod: &mut PodConfig) {
    pod.port_mappings = vec![published(PORT)];
}

#[test]
fn dual_stack_and_a_published_port() {
    reported(&subject(), &format!("bridge (ipMasq, hairpinMode, dual stack) + portmap: {EXERCISE}"), || {
        let node = Node::new(&list("1.0.0", &[bridge(), portmap()]));
        lives_and_goes(&node, web, |_| {});
    });
}

#[test]
fn ipv6_only() {
    reported(&subject(), &format!("bridge + portmap, IPv6 alone: {EXERCISE}"), || {
        let plugin = with(&bridge(), json!({ "ipam": null }));
        let plugin = with(&plugin, json!({ "ipam": config::host_local(&["fd00:22::/64"]) }));
        exercise(&Node::new(&list("1.0.0", &[plugin, portmap()])), 1, web, |_| {});
    });
}

#[test]
fn all_chained_plugins() {
    reported(
        &subject(),
        &format!(
            "bridge + tuning + firewall + bandwidth (by annotations) + portmap, FORWARD policy DROP: {EXERCISE}, limits, sysctl"
        ),
        || {
            let tuning = json!({ "type": "tuning", "sysctl": { "net.core.somaxconn": "500" } });
            let bandwidth = json!({ "type": "bandwidth", "capabilities": { "bandwidth": true } });
            let firewall = json!({ "type": "firewall" });
            let node = Node::new(&list("1.0.0", &[bridge(), tuning, firewall, bandwidth, portmap()]));
            // The reference's firewall does not let published ports through.
            if !settings::is_reference() {
                node.host().run("iptables -P FORWARD DROP");
                node.host().run("ip6tables -P FORWARD DROP");
            }
            let limited = |pod: &mut PodConfig| {
                web(pod);
                for (direction, rate) in [("ingress", "20M"), ("egress", "10M")] {
                    pod.annotations.insert(format!("kubernetes.io/{direction}-bandwidth"), rate.to_owned());
                }
            };
            lives_and_goes(&node, limited, |pod| {
                assert_eq!(pod.ns().read("/proc/sys/net/core/somaxconn").as_deref(), Some("500"));
                // Bytes a second: what it sends leaves by an ifb, what it receives by its veth.
                assert_eq!(rates(node.host()), [(false, 1_250_000), (true, 2_500_000)]);
            });
        },
    );
}

#[test]
fn flannel() {
    reported(&subject(), &format!("flannel's own conflist, dual stack: {EXERCISE}"), || {
        let delegate = json!({ "hairpinMode": true, "isDefaultGateway": true });
        let node = Node::new(&list("1.0.0", &[json!({ "type": "flannel", "delegate": delegate }), portmap()]));
        node.host().write(
            "/run/flannel/subnet.env",
            "FLANNEL_NETWORK=10.22.0.0/16\nFLANNEL_SUBNET=10.22.0.1/24\nFLANNEL_IPV6_NETWORK=fd00:22::/48\n\
             FLANNEL_IPV6_SUBNET=fd00:22::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n",
        );
        // From the second pod on, the bridge keeps the MTU when its last port leaves.
        node.run("zero", web).end();
        lives_and_goes(&node, web, |pod| {
            assert_eq!(pod.ns().link("eth0").unwrap()["mtu"], 1450);
        });
    });
}

#[test]
fn cni_1_1_0_before_containerd_2() {
    reported(
        &subject(),
        "a conflist of cniVersion 1.1.0, which its libcni does not know: refused, nothing left",
        || {
            settings::not_for_reference("Debian's build does not know 1.1.0");
            if knows_status() {
                tests::skip("this containerd knows it");
            }
            let node = Node::new(&list("1.1.0", &[bridge(), portmap()]));
            let refused = || {
                let error = node.try_run("web", web).map(drop).unwrap_err();
                assert!(error.message().contains("unsupported CNI result version \"1.1.0\""), "{error}");
                node.host().snapshot()
            };
            let before = refused();
            refused();
            node.host().assert_as(&before);
            assert!(!node.host().files(STORE).iter().any(|name| name.starts_with("10.")));
        },
    );
}

#[test]
fn cni_1_1_0() {
    reported(&subject(), &format!("bridge + portmap, cniVersion 1.1.0: {EXERCISE}"), || {
        if !knows_status() {
            tests::skip("its libcni does not know it");
        }
        lives_and_goes(&Node::new(&list("1.1.0", &[bridge(), portmap()])), web, |_| {});
    });
}

/// A dual-stack pod that is published, and what becomes of it and of the node; `look` sees it while it lives.
fn lives_and_goes(node: &Node, change: impl Fn(&mut PodConfig), look: impl FnOnce(&Sandbox<'_>)) {
    exercise(node, 2, change, look);
}

/// A pod with so many addresses.
fn exercise(node: &Node, addresses: usize, change: impl Fn(&mut PodConfig), look: impl FnOnce(&Sandbox<'_>)) {
    node.host().outside();
    let before = node.warm_up(&change);
    let pod = node.run("web", &change);
    let sibling = node.run("sibling", |_| {});
    assert_eq!(pod.addresses.len(), addresses, "{:?}", pod.addresses);
    assert_connected(node.host(), &pod, &sibling);
    assert_published(node.host(), &pod, &sibling);
    look(&pod);
    let address = pod.addresses[0].clone();
    assert!(node.host().files(STORE).contains(&address));
    pod.stop();
    assert!(!node.host().files(STORE).contains(&address), "its address is free before it is removed");
    traffic::assert_reaches(node.host(), &sibling.addresses[0]);
    pod.end();
    sibling.end();
    node.host().assert_as(&before);
}

/// IPv4 or IPv6.
struct Family {
    is_v6: bool,
    /// The host's address on the uplink.
    host: &'static str,
    /// The address of the server outside.
    server: &'static str,
}

const FAMILIES: [Family; 2] =
    [Family { is_v6: false, host: HOST4, server: SERVER4 }, Family { is_v6: true, host: HOST6, server: SERVER6 }];

/// Those that the pod has an address of.
fn families(pod: &Sandbox<'_>) -> impl Iterator<Item = &'static Family> {
    FAMILIES.iter().filter(|family| pod.addresses.iter().any(|address| address.contains(':') == family.is_v6))
}

/// From the node and its sibling to the pod, and from the pod to the world.
fn assert_connected(host: &Host, pod: &Sandbox<'_>, sibling: &Sandbox<'_>) {
    for Family { is_v6, server, .. } in families(pod) {
        let address = pod.address(*is_v6);
        traffic::assert_reaches(host, address);
        traffic::assert_reaches(&sibling.ns(), address);
        traffic::assert_reaches(&pod.ns(), server);
        let web = at(address, CONTAINER_PORT);
        assert_eq!(http::get(host, web, image::PAGE).as_deref(), Some(image::GREETING));
        let asked = http::who(&sibling.ns(), web).unwrap();
        assert_eq!((asked.server.as_str(), asked.seen), ("web", sibling.address(*is_v6).parse().unwrap()));
    }
}

/// From outside with the client's own address; from the node, a sibling and the pod itself as well.
fn assert_published(host: &Host, pod: &Sandbox<'_>, sibling: &Sandbox<'_>) {
    for Family { is_v6, host: address, server } in families(pod) {
        let to = at(address, PORT);
        let asked = http::who(host.outside(), to).unwrap_or_else(|| panic!("no answer from {to} outside"));
        assert_eq!((asked.server.as_str(), asked.seen), ("web", server.parse().unwrap()));
        for (from, name) in [(host.netns(), "the node"), (&sibling.ns(), "its sibling"), (&pod.ns(), "itself")] {
            let asked = http::who(from, to).unwrap_or_else(|| panic!("no answer from {to} to {name}"));
            assert_eq!(asked.server, "web");
        }
        if !is_v6 {
            let local = at("127.0.0.1", PORT);
            let asked = http::who(host, local).unwrap_or_else(|| panic!("no answer from {local}"));
            assert_eq!(asked.server, "web");
        }
    }
}

/// Of the token buckets on the host, sorted: whether it is on a veth, and bytes a second.
fn rates(host: &Host) -> Vec<(bool, u64)> {
    let all = host.json("tc -j qdisc show");
    let buckets = all.as_array().unwrap().iter().filter(|qdisc| qdisc["kind"] == "tbf");
    let is_veth =
        |name: &Value| host.link(name.as_str().unwrap()).is_some_and(|link| link["linkinfo"]["info_kind"] == "veth");
    let rate = |qdisc: &Value| (is_veth(&qdisc["dev"]), qdisc["options"]["rate"].as_u64().unwrap());
    let mut rates: Vec<_> = buckets.map(rate).collect();
    rates.sort_unstable();
    rates
}
