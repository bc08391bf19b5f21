//! Networks as `podman network create` writes them: `bridge`, `portmap`, `firewall` and `tuning`, version 0.4.0.

use serde_json::Value;
use tests::{
    NetNs, Place, reported,
    traffic::{
        assert_reaches, assert_silent,
        outside::{HOST4, HOST6, SERVER4, SERVER6},
        source_seen,
    },
};

use super::node::{Node, subject};

/// A dual-stack network with the gateways 10.44.0.1 and fd00:44::1; more options may follow.
pub(super) const BLUE: &str = "network create --subnet 10.44.0.0/24 --ipv6 --subnet fd00:44::/64";
/// Another one, with the gateways 10.45.0.1 and fd00:45::1.
pub(super) const GREEN: &str = "network create --subnet 10.45.0.0/24 --ipv6 --subnet fd00:45::/64";

/// The addresses that are not of the link itself.
pub(super) fn addresses(container: &NetNs, ifname: &str) -> Vec<String> {
    let link = container.link(ifname).unwrap_or_else(|| panic!("no {ifname}"));
    let all = link["addr_info"].as_array().unwrap().iter();
    let global = all.filter(|address| address["scope"] == "global");
    global.map(|address| address["local"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_network_that_podman_makes() {
    reported(
        &subject(),
        "`network create`, dual stack: addresses, gateway, containers, the outside as the host",
        || {
            let node = Node::new();
            let outside = node.host().outside();
            node.podman(&format!("{BLUE} blue"));
            let (a, b) = (node.start("a", "--network blue"), node.start("b", "--network blue"));
            assert_eq!(addresses(&a, "eth0"), ["10.44.0.2", "fd00:44::2"]);
            assert_eq!(addresses(&b, "eth0"), ["10.44.0.3", "fd00:44::3"]);
            for to in ["10.44.0.1", "fd00:44::1", "10.44.0.3", "fd00:44::3", SERVER4, SERVER6] {
                assert_reaches(&a, to);
            }
            for (server, host) in [(SERVER4, HOST4), (SERVER6, HOST6)] {
                assert_eq!(source_seen(&a, outside, server), Some(host.parse().unwrap()));
            }
            // With the container's own program, too.
            node.podman("exec a ping -c 1 -W 5 10.44.0.3");
        },
    );
}

#[test]
fn the_network_of_those_who_ask_for_none() {
    reported(&subject(), "the default network", || {
        let node = Node::new();
        node.host().outside();
        let container = node.start("a", "");
        assert_eq!(addresses(&container, "eth0"), ["10.88.0.2"]);
        assert_reaches(&container, "10.88.0.1");
        assert_reaches(&container, SERVER4);
    });
}

#[test]
fn two_containers_of_a_pod() {
    reported(&subject(), "`podman pod`: two containers with one interface", || {
        let node = Node::new();
        node.podman(&format!("{BLUE} blue"));
        let pod = || {
            node.podman(&format!("pod create --name both --network blue --infra-image {}", tests::image::NAME));
            let namespaces = ["a", "b"].map(|name| {
                node.start(name, r#"--pod both --entrypoint ["/bin/sleep","3600"]"#);
                for to in ["10.44.0.1", "fd00:44::1"] {
                    node.podman(&format!("exec {name} ping -c 1 -W 5 {to}"));
                }
                let pid = node.inspect(name)["State"]["Pid"].as_u64().unwrap();
                node.machine().run(&format!("readlink /proc/{pid}/ns/net"))
            });
            assert_eq!(namespaces[0], namespaces[1]);
            let addresses = addresses(&node.netns("a"), "eth0");
            assert_eq!(addresses.len(), 2, "{addresses:?}");
            addresses.iter().for_each(|to| assert_reaches(node.host(), to));
            node.podman("pod rm -f -t 0 both");
            node.host().snapshot()
        };
        let before = pod();
        pod();
        node.host().assert_as(&before);
    });
}

#[test]
fn static_addresses_and_mac() {
    reported(
        &subject(),
        "static IPv4, IPv6 and MAC address; a second container with the same address is refused",
        || {
            let node = Node::new();
            node.podman(&format!("{BLUE} blue"));
            let a = node.start("a", "--network blue:ip=10.44.0.50,ip6=fd00:44::50,mac=02:11:22:33:44:55");
            assert_eq!(addresses(&a, "eth0"), ["10.44.0.50", "fd00:44::50"]);
            assert_eq!(a.link("eth0").unwrap()["address"], "02:11:22:33:44:55");
            let before = node.host().snapshot();
            let id = node.inspect("a")["Id"].as_str().unwrap().to_owned();
            for (address, name) in [("ip=10.44.0.50", "b"), ("ip6=fd00:44::50", "c")] {
                let error =
                    node.try_start(name, &format!("--network blue:{address}")).err().expect("two have one address");
                assert!(tests::settings::is_reference() || error.contains(&format!("held by {id}")), "{error}");
                node.remove(name);
            }
            node.host().assert_as(&before);
            for to in ["10.44.0.50", "fd00:44::50"] {
                assert_reaches(node.host(), to);
            }
        },
    );
}

#[test]
fn several_networks_of_a_container() {
    reported(&subject(), "two networks; `network connect`, `disconnect` and `connect` again while it runs", || {
        let node = Node::new();
        node.podman(&format!("{BLUE} blue"));
        node.podman(&format!("{GREEN} green"));
        let blue = node.start("blue", "--network blue:ip=10.44.0.100,ip6=fd00:44::100");
        node.start("green", "--network green:ip=10.45.0.100,ip6=fd00:45::100");
        // podman attaches to them in any order.
        let a = node.start("a", "--network blue:interface_name=eth0 --network green:interface_name=eth1");
        let everywhere =
            || ["10.44.0.100", "fd00:44::100", "10.45.0.100", "fd00:45::100"].map(|to| assert_reaches(&a, to));
        assert_eq!(addresses(&a, "eth0"), ["10.44.0.101", "fd00:44::101"]);
        assert_eq!(addresses(&a, "eth1"), ["10.45.0.101", "fd00:45::101"]);
        everywhere();

        node.podman("network disconnect green a");
        assert!(a.link("eth1").is_none());
        assert_reaches(&a, "10.44.0.100");

        node.podman("network connect --ip 10.45.0.77 --ip6 fd00:45::77 --alias a-green green a");
        assert_eq!(addresses(&a, "eth1"), ["10.45.0.77", "fd00:45::77"]);
        everywhere();

        // The first, which has the default route of both families: those of the other take its place on its return.
        node.podman("network disconnect blue a");
        assert!(a.link("eth0").is_none());
        node.podman("network connect --alias a-blue blue a");
        everywhere();
        assert_reaches(&blue, &addresses(&a, "eth0")[0]);
    });
}

#[test]
fn networks_with_options() {
    reported(
        &subject(),
        "`network create --internal`, `--opt mtu=`, `--opt isolate=`, `--disable-dns`, `interface_name`",
        || {
            let node = Node::new();
            node.host().outside();
            node.podman("network create --internal --subnet 10.46.0.0/24 --ipv6 --subnet fd00:46::/64 inner");
            node.podman(&format!("{BLUE} --opt isolate=1 blue"));
            node.podman(&format!("{GREEN} --opt isolate=1 --opt mtu=1400 --disable-dns green"));

            let (a, b) = (node.start("a", "--network inner"), node.start("b", "--network inner"));
            for to in addresses(&b, "eth0") {
                assert_reaches(&a, &to);
            }
            for to in [SERVER4, SERVER6] {
                assert_silent(&a, to);
            }

            let (c, d) = (node.start("c", "--network blue"), node.start("d", "--network green:interface_name=lan"));
            assert_eq!(d.link("lan").unwrap()["mtu"], 1400);
            for to in [SERVER4, SERVER6] {
                assert_reaches(&c, to);
                assert_reaches(&d, to);
            }
            for to in addresses(&d, "lan") {
                assert_silent(&c, &to);
                assert_reaches(node.host(), &to);
            }
        },
    );
}

#[test]
fn networks_are_listed_and_removed() {
    reported(
        &subject(),
        "`network ls`, `inspect`, `rm`: nothing of a removed network is in the way of the next",
        || {
            let node = Node::new();
            node.podman(&format!("{BLUE} blue"));
            node.start("a", "--network blue");
            let described: Value = serde_json::from_str(&node.podman("network inspect blue")).unwrap();
            assert_eq!(described[0]["subnets"][1]["gateway"], "fd00:44::1");
            let bridge = described[0]["network_interface"].as_str().unwrap().to_owned();
            assert!(node.host().link(&bridge).is_some());
            let refused = node.try_podman("network rm blue").expect_err("it has a container");
            assert!(refused.contains("network is being used"), "{refused}");
            node.podman("network rm -f -t 0 blue");
            assert!(node.host().link(&bridge).is_none());
            assert_eq!(node.podman("network ls -q"), "podman");

            // The same bridge and other addresses; then the same addresses on another bridge.
            node.podman(&format!("{GREEN} blue"));
            node.podman(&format!("{BLUE} green"));
            let (a, b) = (node.start("a", "--network blue"), node.start("b", "--network green"));
            for (container, gateways) in [(a, ["10.45.0.1", "fd00:45::1"]), (b, ["10.44.0.1", "fd00:44::1"])] {
                for to in gateways {
                    assert_reaches(&container, to);
                }
            }
        },
    );
}
