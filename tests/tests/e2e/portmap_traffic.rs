//! A published port is reached from everywhere it should, as whom it should, and nothing else is touched.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    panic::{self, AssertUnwindSafe},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use tests::{
    Host, NetNs, Network, Place, Pod, case,
    config::{BRIDGE, host_local, with},
    published::{
        CONTAINER_PORT, Family, NAME, Node, V4, V6, at, bridge, chain, ip, mapping, mapping_at, portmap, publish,
        route_back, set_bridge_nf, withdraw,
    },
    traffic::{Answer, PATIENCE, Server, Transport, ask, ask_briefly, outside::UPLINK, sctp, sender_of_next},
};

/// Published for any address of the host.
const ANY: u16 = 8080;
/// Published for the host's addresses on the uplink.
const UPLINK_ONLY: u16 = 8081;
/// Published for 127.0.0.1.
const LOOPBACK_ONLY: u16 = 8082;

/// Each of the ports, for both transports and families.
fn mappings() -> Vec<Value> {
    let of = |transport| {
        [
            mapping(transport, ANY),
            mapping_at(transport, UPLINK_ONLY, V4.host),
            mapping_at(transport, UPLINK_ONLY, V6.host),
            mapping_at(transport, LOOPBACK_ONLY, "127.0.0.1"),
        ]
    };
    Transport::ALL.into_iter().flat_map(of).collect()
}

fn node(bridge_patch: &Value) -> Node {
    Node::new(&mappings(), bridge_patch, &json!({}))
}

fn answer(seen: &str) -> Option<Answer> {
    Some(Answer { server: NAME.to_owned(), seen: ip(seen) })
}

/// One row of the matrix: somebody asks at the targets, with and without `ipMasq`, with frames between the ports of a
/// bridge passing the host's rules and not, over TCP and UDP. The server has to see it as `seen` says, given whether
/// there is `ipMasq`.
fn row<P: Place>(
    who: for<'n> fn(&'n Node) -> &'n P,
    bridge_nf: &[bool],
    targets: [(&str, u16); 2],
    seen: impl Fn(bool) -> &'static str,
) {
    let mut wrong = Vec::new();
    for masquerade in [false, true] {
        let node = node(&json!({ "ipMasq": masquerade }));
        for bridge_nf in bridge_nf {
            set_bridge_nf(&node.host, *bridge_nf);
            for transport in Transport::ALL {
                for (target, port) in targets {
                    let found = ask(who(&node), transport, at(target, port));
                    if found != answer(seen(masquerade)) {
                        wrong.push(format!(
                            "ipMasq {masquerade}, bridge-nf {bridge_nf}, {transport} to {target} {port}: {found:?} \
                             instead of {}",
                            seen(masquerade)
                        ));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

const BOTH: &[bool] = &[false, true];

/// The port for any address of the host, and the one for this address.
fn targets(f: Family) -> [(&'static str, u16); 2] {
    [(f.host, ANY), (f.host, UPLINK_ONLY)]
}

fn from_the_host(f: Family) {
    row(|node| &node.host, BOTH, targets(f), |_| f.host);
}

fn from_the_pod_itself(f: Family, bridge_nf: bool) {
    row(|node| &node.pod, &[bridge_nf], targets(f), |_| f.gateway);
}

fn from_a_sibling(f: Family) {
    row(|node| &node.sibling, BOTH, targets(f), |_| f.gateway);
}

fn from_another_bridge(f: Family) {
    // Seen from the other network, the pod is elsewhere: `ipMasq` of that network is for such traffic.
    let seen = |masquerade| if masquerade { f.gateway } else { f.stranger };
    row(|node| &node.stranger, BOTH, targets(f), seen);
}

fn from_outside(f: Family) {
    row(|node| node.host.outside(), BOTH, targets(f), |_| f.outside);
}

#[test]
fn v4_from_the_host_by_its_address() {
    case(|| from_the_host(V4));
}

#[test]
fn v4_from_the_host_by_127_0_0_1() {
    case(|| row(|node| &node.host, BOTH, [("127.0.0.1", ANY), ("127.0.0.1", LOOPBACK_ONLY)], |_| V4.gateway));
}

#[test]
fn v4_from_the_pod_itself() {
    case(|| from_the_pod_itself(V4, false));
}

/// The kernel forwards such a frame on the bridge, as a frame: the port it came from has to take it back.
#[test]
fn v4_from_the_pod_itself_where_bridged_frames_pass_the_hosts_rules() {
    case(|| from_the_pod_itself(V4, true));
}

#[test]
fn v4_from_a_sibling_on_the_bridge() {
    case(|| from_a_sibling(V4));
}

#[test]
fn v4_from_a_pod_on_another_bridge() {
    case(|| from_another_bridge(V4));
}

#[test]
fn v4_from_outside() {
    case(|| from_outside(V4));
}

#[test]
fn v6_from_the_host_by_its_address() {
    case(|| from_the_host(V6));
}

#[test]
fn v6_from_the_pod_itself() {
    case(|| from_the_pod_itself(V6, false));
}

/// The kernel forwards such a frame on the bridge, as a frame: the port it came from has to take it back.
#[test]
fn v6_from_the_pod_itself_where_bridged_frames_pass_the_hosts_rules() {
    case(|| from_the_pod_itself(V6, true));
}

#[test]
fn v6_from_a_sibling_on_the_bridge() {
    case(|| from_a_sibling(V6));
}

#[test]
fn v6_from_a_pod_on_another_bridge() {
    case(|| from_another_bridge(V6));
}

#[test]
fn v6_from_outside() {
    case(|| from_outside(V6));
}

#[test]
fn by_the_gateways_address_too() {
    case(|| {
        let node = node(&json!({}));
        set_bridge_nf(&node.host, false);
        for f in [V4, V6] {
            assert_eq!(ask(&node.sibling, Transport::Tcp, at(f.gateway, ANY)), answer(f.gateway));
            assert_eq!(ask(&node.pod, Transport::Udp, at(f.gateway, ANY)), answer(f.gateway));
            assert_eq!(ask(&node.stranger, Transport::Udp, at(f.gateway, ANY)), answer(f.stranger));
            assert_eq!(ask(&node.host, Transport::Tcp, at(f.gateway, ANY)), answer(f.gateway));
        }
    });
}

/// What a row asks, in short: everyone, at the port for any address, over TCP and UDP, with and without bridged frames.
fn everyone(node: &Node, families: &[Family]) {
    for bridge_nf in BOTH {
        set_bridge_nf(&node.host, *bridge_nf);
        for transport in Transport::ALL {
            for f in families {
                let to = at(f.host, ANY);
                assert_eq!(ask(node.host.outside(), transport, to), answer(f.outside), "outside");
                assert_eq!(ask(&node.stranger, transport, to), answer(f.stranger), "another bridge");
                assert_eq!(ask(&node.sibling, transport, to), answer(f.gateway), "sibling");
                assert_eq!(ask(&node.pod, transport, to), answer(f.gateway), "itself");
                assert_eq!(ask(&node.host, transport, to), answer(f.host), "host");
                assert_eq!(ask(&node.host, transport, at(f.gateway, ANY)), answer(f.gateway), "gateway");
            }
            assert_eq!(ask(&node.host, transport, at("127.0.0.1", ANY)), answer(V4.gateway), "127.0.0.1");
        }
    }
}

#[test]
fn hairpin_mode_of_the_bridge_plugin_changes_nothing() {
    case(|| everyone(&node(&json!({ "hairpinMode": true })), &[V4, V6]));
}

#[test]
fn the_spoof_filter_is_no_obstacle() {
    case(|| everyone(&node(&json!({ "hairpinMode": true, "macspoofchk": true })), &[V4, V6]));
}

/// A published port is no way around the isolation of ports. Without bridged frames in the rules' sight the packet is
/// routed by the host, as any other.
#[test]
fn isolated_ports_stay_isolated_where_the_kernel_forwards_frames() {
    case(|| {
        let node = node(&json!({ "portIsolation": true }));
        for f in [V4, V6] {
            set_bridge_nf(&node.host, false);
            assert_eq!(ask(&node.sibling, Transport::Tcp, at(f.host, ANY)), answer(f.gateway));
            set_bridge_nf(&node.host, true);
            assert_eq!(ask_briefly(&node.sibling, Transport::Tcp, at(f.host, ANY)), None);
            assert_eq!(ask(&node.stranger, Transport::Tcp, at(f.host, ANY)), answer(f.stranger));
            assert_eq!(ask(node.host.outside(), Transport::Tcp, at(f.host, ANY)), answer(f.outside));
        }
    });
}

#[test]
fn the_hosts_own_server_at_ipv6_loopback_is_left_alone() {
    case(|| {
        let node = node(&json!({}));
        // The kernel cannot send from ::1 to another link: the port is not served there, and not caught.
        for transport in Transport::ALL {
            assert_eq!(ask_briefly(&node.host, transport, at("::1", ANY)), None);
        }
        let _own = Server::start(&node.host, "host", at("::1", ANY));
        for transport in Transport::ALL {
            let own = Answer { server: "host".to_owned(), seen: ip("::1") };
            assert_eq!(ask(&node.host, transport, at("::1", ANY)), Some(own));
        }
    });
}

#[test]
fn with_a_host_ip_other_addresses_of_the_host_are_not_served() {
    case(|| {
        let node = node(&json!({}));
        for transport in Transport::ALL {
            for f in [V4, V6] {
                assert_eq!(ask_briefly(&node.sibling, transport, at(f.gateway, UPLINK_ONLY)), None);
                assert_eq!(ask_briefly(&node.host, transport, at(f.gateway, UPLINK_ONLY)), None);
            }
            assert_eq!(ask_briefly(&node.host, transport, at("127.0.0.1", UPLINK_ONLY)), None);
            assert_eq!(ask_briefly(node.host.outside(), transport, at(V4.host, LOOPBACK_ONLY)), None);
        }
    });
}

#[test]
fn an_unspecified_host_ip_is_any_address_of_its_family() {
    case(|| {
        let mappings = [mapping_at(Transport::Tcp, ANY, "0.0.0.0"), mapping_at(Transport::Udp, ANY, "::")];
        let node = Node::new(&mappings, &json!({}), &json!({}));
        let outside = node.host.outside();
        assert_eq!(ask(outside, Transport::Tcp, at(V4.host, ANY)), answer(V4.outside));
        assert_eq!(ask(outside, Transport::Udp, at(V6.host, ANY)), answer(V6.outside));
        assert_eq!(ask_briefly(outside, Transport::Tcp, at(V6.host, ANY)), None);
        assert_eq!(ask_briefly(outside, Transport::Udp, at(V4.host, ANY)), None);
    });
}

#[test]
fn a_mapping_with_a_host_ip_wins_over_one_for_any_address() {
    case(|| {
        // In both orders.
        for first in [false, true] {
            let host = Host::new();
            host.outside();
            let network = chain(&host, &[bridge(&json!({})), portmap(&json!({}))]);
            let (wide, narrow) = (host.pod(), host.pod());
            let narrow_ports: Vec<_> =
                Transport::ALL.into_iter().flat_map(|t| [V4, V6].map(|f| mapping_at(t, ANY, f.host))).collect();
            let wide_ports = Transport::ALL.map(|t| mapping(t, ANY));
            let mut both: [(&Pod, &[Value]); 2] = [(&wide, &wide_ports), (&narrow, &narrow_ports)];
            if first {
                both.reverse();
            }
            for (pod, ports) in both {
                publish(&network, pod, ports).ok();
            }
            let start = |pod: &Pod, name| {
                pod.addresses()
                    .iter()
                    .map(|a| Server::start(pod, name, at(a.split('/').next().unwrap(), CONTAINER_PORT)))
                    .collect::<Vec<_>>()
            };
            let _servers = [start(&wide, "wide"), start(&narrow, "narrow")];
            let who = |from: &Host, transport, to| ask(from, transport, to).map(|a| a.server);
            for transport in Transport::ALL {
                for f in [V4, V6] {
                    assert_eq!(who(&host, transport, at(f.host, ANY)).as_deref(), Some("narrow"));
                    assert_eq!(who(&host, transport, at(f.gateway, ANY)).as_deref(), Some("wide"));
                }
                assert_eq!(who(&host, transport, at("127.0.0.1", ANY)).as_deref(), Some("wide"));
            }
            withdraw(&network, &narrow, &narrow_ports).ok();
            for transport in Transport::ALL {
                assert_eq!(who(&host, transport, at(V4.host, ANY)).as_deref(), Some("wide"));
                assert_eq!(who(&host, transport, at(V6.host, ANY)).as_deref(), Some("wide"));
            }
        }
    });
}

#[test]
fn after_del_nobody_answers_and_the_host_has_its_port_back() {
    case(|| {
        let node = node(&json!({ "ipMasq": true }));
        assert_eq!(ask(&node.host, Transport::Tcp, at("127.0.0.1", ANY)), answer(V4.gateway));
        node.withdraw();
        let outside = node.host.outside();
        for transport in Transport::ALL {
            for f in [V4, V6] {
                assert_eq!(ask_briefly(outside, transport, at(f.host, ANY)), None);
                assert_eq!(ask_briefly(&node.sibling, transport, at(f.host, UPLINK_ONLY)), None);
            }
            assert_eq!(ask_briefly(&node.host, transport, at("127.0.0.1", ANY)), None);
        }
        let _own = [V4, V6].map(|f| Server::start(&node.host, "host", at(f.host, ANY)));
        for transport in Transport::ALL {
            for f in [V4, V6] {
                let own = Answer { server: "host".to_owned(), seen: ip(f.outside) };
                assert_eq!(ask(outside, transport, at(f.host, ANY)), Some(own));
            }
        }
    });
}

#[test]
fn addresses_that_the_host_gets_later_are_served() {
    case(|| {
        let node = node(&json!({}));
        node.host.run(&format!("ip address add 192.0.2.77/24 dev {UPLINK}"));
        node.host.run(&format!("ip address add 2001:db8:1::77/64 dev {UPLINK} nodad"));
        for transport in Transport::ALL {
            for (f, address) in [(V4, "192.0.2.77"), (V6, "2001:db8:1::77")] {
                assert_eq!(ask(node.host.outside(), transport, at(address, ANY)), answer(f.outside));
                assert_eq!(ask(&node.sibling, transport, at(address, ANY)), answer(f.gateway));
            }
        }
    });
}

#[test]
fn many_ports_of_many_pods_all_lead_to_their_own() {
    case(|| {
        let host = Host::new();
        host.outside();
        let network = chain(&host, &[bridge(&json!({ "ipMasq": true })), portmap(&json!({}))]);
        let pods = [host.pod(), host.pod(), host.pod()];
        // More than the fifteen that a rule of iptables can hold; two of the host lead to each of the pod.
        let ports = |n: u16| (0..40).map(move |k| (8000 + 100 * n + k, 80 + k / 2));
        let mut servers = Vec::new();
        for (n, pod) in (0..).zip(&pods) {
            let mappings: Vec<_> = ports(n)
                .map(|(of_host, of_pod)| with(&mapping(Transport::Tcp, of_host), json!({ "containerPort": of_pod })))
                .collect();
            publish(&network, pod, &mappings).ok();
            let address = pod.addresses()[0].split('/').next().unwrap().to_owned();
            servers.extend((80..100).map(|port| Server::start(pod, &format!("{n}-{port}"), at(&address, port))));
        }
        for n in 0..3 {
            for (of_host, of_pod) in ports(n) {
                let found = ask(host.outside(), Transport::Tcp, at(V4.host, of_host)).map(|a| a.server);
                assert_eq!(found, Some(format!("{n}-{of_pod}")), "port {of_host}");
            }
        }
    });
}

#[test]
fn an_ipv6_only_pod_is_published_over_ipv6_alone() {
    case(|| {
        let host = Host::new();
        host.outside();
        let first = with(&bridge(&json!({ "ipMasq": true })), json!({ "ipam": host_local(&["fd00:22::/64"]) }));
        let network = chain(&host, &[first, portmap(&json!({}))]);
        let (pod, sibling) = (host.pod(), host.pod());
        publish(&network, &pod, &mappings()).ok();
        network.add(&sibling).ok();
        let _server = Server::start(&pod, NAME, at(V6.pod, CONTAINER_PORT));
        for transport in Transport::ALL {
            assert_eq!(ask(host.outside(), transport, at(V6.host, ANY)), answer(V6.outside));
            assert_eq!(ask(&sibling, transport, at(V6.host, UPLINK_ONLY)), answer(V6.gateway));
            assert_eq!(ask(&host, transport, at(V6.host, ANY)), answer(V6.host));
            assert_eq!(ask_briefly(host.outside(), transport, at(V4.host, ANY)), None);
        }
        withdraw(&network, &pod, &mappings()).ok();
        assert_eq!(ask_briefly(host.outside(), Transport::Tcp, at(V6.host, ANY)), None);
    });
}

/// `conditionsV4` and `conditionsV6` are one attachment's: others are reached as before.
#[test]
fn conditions_restrict_who_is_let_in_to_this_pod_alone() {
    case(|| {
        let host = Host::new();
        host.outside();
        let conditions = json!({ "conditionsV4": ["-s", "192.0.2.0/24"], "conditionsV6": ["!", "-s", "fd00:22::/64"] });
        let restricted = chain(&host, &[bridge(&json!({})), portmap(&conditions)]);
        let (pod, other) = (host.pod(), host.pod());
        publish(&restricted, &pod, &mappings()).ok();
        // The same network, by a config without them.
        let open = chain(&host, &[bridge(&json!({})), portmap(&json!({}))]);
        let ports = [mapping(Transport::Tcp, 9090), mapping(Transport::Udp, 9090)];
        publish(&open, &other, &ports).ok();
        let _servers = [(&pod, "restricted", V4.pod), (&pod, "restricted", V6.pod)]
            .into_iter()
            .chain([(&other, "open", V4.sibling), (&other, "open", V6.sibling)])
            .map(|(pod, name, ip)| Server::start(pod, name, at(ip, CONTAINER_PORT)))
            .collect::<Vec<_>>();
        for transport in Transport::ALL {
            for f in [V4, V6] {
                for port in [ANY, UPLINK_ONLY] {
                    let name = ask(host.outside(), transport, at(f.host, port)).map(|a| a.server);
                    assert_eq!(name.as_deref(), Some("restricted"), "from outside");
                    assert_eq!(ask_briefly(&other, transport, at(f.host, port)), None, "from a sibling");
                }
                for who in [&pod.ns, host.outside()] {
                    let name = ask(who, transport, at(f.host, 9090)).map(|a| a.server);
                    assert_eq!(name.as_deref(), Some("open"));
                }
            }
        }
        withdraw(&restricted, &pod, &mappings()).ok();
        assert_eq!(ask_briefly(host.outside(), Transport::Tcp, at(V4.host, ANY)), None);
    });
}

/// The same with chains of iptables, as the reference has them.
#[test]
fn the_iptables_backend_serves_everyone_too() {
    case(|| {
        let ports: Vec<_> = mappings().into_iter().filter(|m| m["hostIP"] != "127.0.0.1").collect();
        let node =
            Node::new(&ports, &json!({ "ipMasq": true, "hairpinMode": true }), &json!({ "backend": "iptables" }));
        for bridge_nf in [false, true] {
            set_bridge_nf(&node.host, bridge_nf);
            for transport in Transport::ALL {
                for f in [V4, V6] {
                    for (to, port) in targets(f) {
                        let to = at(to, port);
                        assert_eq!(ask(&node.host, transport, to), answer(f.host));
                        assert_eq!(ask(&node.pod, transport, to), answer(f.gateway));
                        assert_eq!(ask(&node.sibling, transport, to), answer(f.gateway));
                        assert_eq!(ask(&node.stranger, transport, to), answer(f.gateway));
                        assert_eq!(ask(node.host.outside(), transport, to), answer(f.outside));
                    }
                }
                assert_eq!(ask(&node.host, transport, at("127.0.0.1", ANY)), answer(V4.gateway));
            }
        }
        node.withdraw();
        for f in [V4, V6] {
            assert_eq!(ask_briefly(node.host.outside(), Transport::Tcp, at(f.host, ANY)), None);
        }
    });
}

#[test]
fn without_snat_everybody_is_seen_as_who_they_are() {
    case(|| {
        let node = Node::new(&mappings(), &json!({}), &json!({ "snat": false }));
        // Answers between ports of one bridge pass the host only this way.
        set_bridge_nf(&node.host, true);
        for transport in Transport::ALL {
            for f in [V4, V6] {
                assert_eq!(ask(&node.sibling, transport, at(f.host, ANY)), answer(f.sibling));
                assert_eq!(ask(&node.stranger, transport, at(f.host, ANY)), answer(f.stranger));
                assert_eq!(ask(node.host.outside(), transport, at(f.host, ANY)), answer(f.outside));
            }
            assert_eq!(ask_briefly(&node.host, transport, at("127.0.0.1", ANY)), None);
        }
        assert_eq!(node.host.read(&format!("/proc/sys/net/ipv4/conf/{BRIDGE}/route_localnet")).as_deref(), Some("0"));
    });
}

#[test]
fn with_masq_all_everybody_is_seen_as_the_gateway() {
    case(|| {
        let node = Node::new(&mappings(), &json!({}), &json!({ "masqAll": true }));
        for transport in Transport::ALL {
            for f in [V4, V6] {
                for port in [ANY, UPLINK_ONLY] {
                    assert_eq!(ask(node.host.outside(), transport, at(f.host, port)), answer(f.gateway));
                    assert_eq!(ask(&node.stranger, transport, at(f.host, port)), answer(f.gateway));
                    assert_eq!(ask(&node.sibling, transport, at(f.host, port)), answer(f.gateway));
                }
            }
            assert_eq!(ask(&node.host, transport, at("127.0.0.1", ANY)), answer(V4.gateway));
        }
        // What did not come through a published port keeps its source.
        route_back(&node.host);
        for f in [V4, V6] {
            assert_eq!(ask(node.host.outside(), Transport::Tcp, at(f.pod, CONTAINER_PORT)), answer(f.outside));
        }
    });
}

#[test]
fn the_pods_own_address_is_reached_as_before() {
    case(|| {
        let node = node(&json!({}));
        route_back(&node.host);
        for f in [V4, V6] {
            let to = at(f.pod, CONTAINER_PORT);
            assert_eq!(ask(&node.sibling, Transport::Tcp, to), answer(f.sibling));
            assert_eq!(ask(&node.stranger, Transport::Udp, to), answer(f.stranger));
            assert_eq!(ask(node.host.outside(), Transport::Tcp, to), answer(f.outside));
            assert_eq!(ask(&node.host, Transport::Udp, to), answer(f.gateway));
        }
    });
}

/// containernetworking/plugins#1209: nobody could ask a name server elsewhere any more.
#[test]
fn foreign_traffic_to_the_same_port_number_passes() {
    case(|| {
        let ports = Transport::ALL.map(|transport| mapping(transport, 53));
        let node = Node::new(&ports, &json!({ "ipMasq": true }), &json!({}));
        route_back(&node.host);
        let outside = node.host.outside();
        let _servers: Vec<_> = [V4, V6]
            .into_iter()
            .flat_map(|f| {
                [
                    Server::start(outside, "outside", at(f.outside, 53)),
                    Server::start(&node.stranger, "stranger", at(f.stranger, 53)),
                    Server::start(&node.sibling, "sibling", at(f.sibling, 53)),
                ]
            })
            .collect();
        for bridge_nf in [false, true] {
            set_bridge_nf(&node.host, bridge_nf);
            for transport in Transport::ALL {
                let name = |answer: Option<Answer>| answer.map(|a| a.server);
                for f in [V4, V6] {
                    for who in [&node.pod, &node.sibling, &node.stranger] {
                        assert_eq!(name(ask(who, transport, at(f.outside, 53))).as_deref(), Some("outside"));
                    }
                    assert_eq!(name(ask(&node.host, transport, at(f.outside, 53))).as_deref(), Some("outside"));
                    assert_eq!(name(ask(outside, transport, at(f.stranger, 53))).as_deref(), Some("stranger"));
                    assert_eq!(name(ask(&node.pod, transport, at(f.sibling, 53))).as_deref(), Some("sibling"));
                    assert_eq!(name(ask(outside, transport, at(f.host, 53))).as_deref(), Some(NAME));
                }
            }
        }
    });
}

/// On a link that holds addresses of Services, made by this command, nothing is caught.
fn services_are_left_alone(link: &str, make: &str) {
    let host = Host::new();
    host.outside();
    if host.try_run(make).is_err() {
        tests::skip(format!("this kernel cannot `{make}`"));
    }
    host.run(&format!("ip link set {link} up"));
    host.run(&format!("ip address add 10.96.0.1/32 dev {link}"));
    host.run(&format!("ip address add fd00:96::1/128 dev {link} nodad"));
    let (pod, client) = (host.pod(), host.pod());
    let network = chain(&host, &[bridge(&json!({})), portmap(&json!({}))]);
    publish(&network, &pod, &mappings()).ok();
    network.add(&client).ok();
    // Services come and go all the time.
    host.run(&format!("ip address add 10.96.0.2/32 dev {link}"));
    host.run(&format!("ip address add fd00:96::2/128 dev {link} nodad"));
    let services = ["10.96.0.1", "10.96.0.2", "fd00:96::1", "fd00:96::2"];
    let _servers: Vec<_> = services.iter().map(|ip| Server::start(&host, "service", at(ip, ANY))).collect();
    for transport in Transport::ALL {
        for service in services {
            let name = |answer: Option<Answer>| answer.map(|a| a.server);
            assert_eq!(name(ask(&client, transport, at(service, ANY))).as_deref(), Some("service"), "{service}");
            assert_eq!(name(ask(&host, transport, at(service, ANY))).as_deref(), Some("service"), "{service}");
        }
    }
    let _server = Server::start(&pod, NAME, at(V4.pod, CONTAINER_PORT));
    assert_eq!(ask(&client, Transport::Tcp, at(V4.host, ANY)), answer(V4.gateway));
}

/// containernetworking/plugins#222, talos#9223: the cluster's API server was not reached any more. kube-proxy in its
/// IPVS mode gives the host the Services' addresses.
#[test]
fn addresses_of_services_in_ipvs_mode_are_not_caught() {
    // Not every kernel has dummies; what counts is the name.
    case(|| services_are_left_alone("kube-ipvs0", "ip link add kube-ipvs0 type bridge"));
}

/// A cache of names on each node has such an address.
#[test]
fn addresses_of_dummies_are_not_caught() {
    case(|| services_are_left_alone("nodelocaldns", "ip link add nodelocaldns type dummy"));
}

/// kube-proxy starts after the last pod with a port: nothing may need another ADD.
#[test]
fn services_that_come_after_the_last_add_are_not_caught() {
    case(|| {
        let node = node(&json!({}));
        node.host.run("ip link add kube-ipvs0 type bridge");
        node.host.run("ip link set kube-ipvs0 up");
        node.host.run("ip address add 10.96.0.1/32 dev kube-ipvs0");
        node.host.run("ip address add fd00:96::1/128 dev kube-ipvs0 nodad");
        let services = ["10.96.0.1", "fd00:96::1"];
        let _servers = services.map(|ip| Server::start(&node.host, "service", at(ip, ANY)));
        let name = |answer: Option<Answer>| answer.map(|a| a.server);
        for transport in Transport::ALL {
            for service in services {
                let service = at(service, ANY);
                assert_eq!(name(ask(&node.sibling, transport, service)).as_deref(), Some("service"), "{service}");
                assert_eq!(name(ask(&node.host, transport, service)).as_deref(), Some("service"), "{service}");
            }
        }
        everyone(&node, &[V4, V6]);
    });
}

/// A virtual address of the node on a dummy: whoever names it means it.
#[test]
fn a_named_address_on_a_link_of_services_is_served() {
    case(|| {
        let host = Host::new();
        host.outside();
        host.run("ip link add kube-ipvs0 type bridge");
        host.run("ip link set kube-ipvs0 up");
        host.run("ip address add 192.0.2.77/32 dev kube-ipvs0");
        host.run("ip address add 192.0.2.78/32 dev kube-ipvs0");
        let mappings = Transport::ALL.map(|t| mapping_at(t, ANY, "192.0.2.77"));
        let node = Node::on(host, &mappings, &json!({}), &[portmap(&json!({}))]);
        let served = || {
            for transport in Transport::ALL {
                let vip = at("192.0.2.77", ANY);
                assert_eq!(ask(node.host.outside(), transport, vip), answer(V4.outside));
                assert_eq!(ask(&node.sibling, transport, vip), answer(V4.gateway));
                assert_eq!(ask(&node.pod, transport, vip), answer(V4.gateway));
                assert_eq!(ask(&node.host, transport, vip), answer("192.0.2.77"));
                assert_eq!(ask_briefly(node.host.outside(), transport, at("192.0.2.78", ANY)), None);
            }
        };
        served();
        // Nor does another pod's ADD change anything.
        let network = chain(&node.host, &[bridge(&json!({})), portmap(&json!({}))]);
        publish(&network, &node.host.pod(), &[mapping(Transport::Tcp, 9999)]).ok();
        served();
    });
}

/// A virtual address that another machine has taken over.
#[test]
fn an_address_that_has_gone_to_another_machine_is_no_longer_served() {
    case(|| {
        let host = Host::new();
        host.outside();
        host.run(&format!("ip address add 192.0.2.77/24 dev {UPLINK}"));
        let node = Node::on(host, &mappings(), &json!({ "ipMasq": true }), &[portmap(&json!({}))]);
        let outside = node.host.outside();
        let vip = at("192.0.2.77", ANY);
        assert_eq!(ask(&node.sibling, Transport::Tcp, vip), answer(V4.gateway));
        node.host.run(&format!("ip address del 192.0.2.77/24 dev {UPLINK}"));
        outside.run("ip address add 192.0.2.77/32 dev lo");
        let _server = Server::start(outside, "another", vip);
        for transport in Transport::ALL {
            let name = |answer: Option<Answer>| answer.map(|a| a.server);
            assert_eq!(name(ask(&node.sibling, transport, vip)).as_deref(), Some("another"));
            assert_eq!(name(ask(&node.host, transport, vip)).as_deref(), Some("another"));
        }
    });
}

#[test]
fn in_ipvs_mode_everyone_is_served_as_well() {
    case(|| {
        let host = Host::new();
        host.outside();
        host.run("ip link add kube-ipvs0 type bridge");
        host.run("ip address add 10.96.0.1/32 dev kube-ipvs0");
        let node = Node::on(host, &mappings(), &json!({ "hairpinMode": true }), &[portmap(&json!({}))]);
        everyone(&node, &[V4, V6]);
        // By the link it is on.
        node.host.run(&format!("ip address add 192.0.2.77/24 dev {UPLINK}"));
        assert_eq!(ask(node.host.outside(), Transport::Tcp, at("192.0.2.77", ANY)), answer(V4.outside));
        node.withdraw();
        assert_eq!(ask_briefly(node.host.outside(), Transport::Tcp, at(V4.host, ANY)), None);
    });
}

/// kubernetes#90259: with `route_localnet`, what listens at 127.0.0.1 is open to neighbours.
fn neighbours_do_not_reach_what_listens_at_127_0_0_1(backend: &str) {
    let node = Node::new(&mappings(), &json!({}), &json!({ "backend": backend }));
    let _private = Server::start(&node.host, "private", at("127.0.0.1", 9999));
    let attacker = &node.sibling;
    attacker.enter(|| std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap());
    attacker.run("ip address flush dev lo");
    attacker.run(&format!("ip route add 127.0.0.0/8 via {}", V4.gateway));
    let outside = node.host.outside();
    outside.run("ip link set lo down");
    outside.run("ip address flush dev lo");
    outside.enter(|| std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap());
    outside.run(&format!("ip route add 127.0.0.0/8 via {}", V4.host));
    for transport in Transport::ALL {
        for port in [9999, ANY, LOOPBACK_ONLY] {
            assert_eq!(ask_briefly(attacker, transport, at("127.0.0.1", port)), None, "{transport} {port}");
            assert_eq!(ask_briefly(outside, transport, at("127.0.0.1", port)), None, "{transport} {port}");
        }
    }
    // The host itself gets both.
    assert!(ask(&node.host, Transport::Tcp, at("127.0.0.1", 9999)).is_some());
    assert_eq!(ask(&node.host, Transport::Tcp, at("127.0.0.1", ANY)), answer(V4.gateway));
}

#[test]
fn neighbours_do_not_reach_what_listens_at_127_0_0_1_by_nftables() {
    case(|| neighbours_do_not_reach_what_listens_at_127_0_0_1("nftables"));
}

#[test]
fn neighbours_do_not_reach_what_listens_at_127_0_0_1_by_iptables() {
    case(|| neighbours_do_not_reach_what_listens_at_127_0_0_1("iptables"));
}

/// Whether the socket receives something of what is sent from now on.
fn receives(socket: &UdpSocket) -> bool {
    socket.set_nonblocking(true).unwrap();
    while socket.recv_from(&mut [0; 8]).is_ok() {}
    socket.set_nonblocking(false).unwrap();
    sender_of_next(socket).is_some()
}

/// containernetworking/plugins#1190: a sender that never pauses stayed with the pod that was gone.
///
/// `from_host`: the host itself sends, to this address of its own.
fn steady_sender(f: Family, target: &str, from_host: bool) {
    steady_sender_by(f, target, from_host, "nftables", withdraw_all);
}

/// DEL with the ports and the result of ADD.
fn withdraw_all(network: &Network<'_>, pod: &Pod, ports: &[Value]) {
    withdraw(network, pod, ports).ok();
}

fn steady_sender_by(
    f: Family,
    target: &str,
    from_host: bool,
    backend: &str,
    withdraw: fn(&Network<'_>, &Pod, &[Value]),
) {
    let host = Host::new();
    let outside = host.outside();
    let network = chain(&host, &[bridge(&json!({})), portmap(&json!({ "backend": backend }))]);
    let ports = [mapping(Transport::Udp, ANY)];
    network.add(&host.pod()).ok();
    let target = at(target, ANY);
    let own = host.enter(|| UdpSocket::bind(target).unwrap());
    let stop = AtomicBool::new(false);
    let any = if target.is_ipv4() { "0.0.0.0:5000" } else { "[::]:5000" };
    let bind = || UdpSocket::bind(any).unwrap();
    let socket = if from_host { host.enter(bind) } else { outside.enter(bind) };
    thread::scope(|s| {
        s.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // Refused while nobody listens.
                _ = socket.send_to(b"x", target);
                thread::sleep(Duration::from_millis(10));
            }
        });
        let wrong = panic::catch_unwind(AssertUnwindSafe(|| {
            // Before that, its neighbour has to be found.
            assert!(receives(&own), "before ADD, on the host");
            for turn in ["first", "second"] {
                let pod = host.pod();
                publish(&network, &pod, &ports).ok();
                let addresses = pod.addresses();
                let mut addresses = addresses.iter().map(|a| ip(a.split('/').next().unwrap()));
                let address = addresses.find(|a| a.is_ipv4() == ip(f.pod).is_ipv4()).unwrap();
                let inside = pod.enter(|| UdpSocket::bind((address, CONTAINER_PORT)).unwrap());
                assert!(receives(&inside), "after the {turn} ADD, in the pod");
                withdraw(&network, &pod, &ports);
                assert!(receives(&own), "after the {turn} DEL, on the host");
            }
        }));
        stop.store(true, Ordering::Relaxed);
        if let Err(cause) = wrong {
            panic::resume_unwind(cause);
        }
    });
}

#[test]
fn v4_a_steady_udp_sender_follows_the_port() {
    case(|| steady_sender(V4, V4.host, false));
}

/// The rules that are removed say where they led.
#[test]
fn a_steady_udp_sender_follows_the_port_when_del_does_not_know_the_ports() {
    case(|| {
        for (f, target) in [(V4, V4.host), (V6, V6.host)] {
            steady_sender_by(f, target, false, "iptables", |network, pod, _| _ = network.del(pod).ok());
        }
    });
}

#[test]
fn v6_a_steady_udp_sender_follows_the_port() {
    case(|| steady_sender(V6, V6.host, false));
}

#[test]
fn a_steady_udp_sender_on_the_host_follows_the_port() {
    case(|| {
        steady_sender(V4, V4.host, true);
        steady_sender(V6, V6.host, true);
        steady_sender(V4, "127.0.0.1", true);
    });
}

/// The flows that the kernel follows to this port: source port and destination.
fn flows(host: &Host, port: u16) -> Vec<String> {
    let text = host.enter(|| std::fs::read_to_string("/proc/thread-self/net/nf_conntrack").unwrap());
    let wanted = format!(" dport={port} ");
    text.lines()
        .filter(|l| l.starts_with("ipv") && l.contains(" udp ") && l.contains(&wanted))
        .map(str::to_owned)
        .collect()
}

/// Others' flows to the same port number, as those to a name server elsewhere, are nobody's to forget.
#[test]
fn udp_flows_that_do_not_go_by_the_port_are_left_alone() {
    case(|| {
        let host = Host::new();
        let outside = host.outside();
        let network = chain(&host, &[bridge(&json!({ "ipMasq": true })), portmap(&json!({}))]);
        let client = host.pod();
        network.add(&client).ok();
        let _servers = [V4, V6].map(|f| Server::start(outside, "outside", at(f.outside, 53)));
        for f in [V4, V6] {
            assert!(ask(&client, Transport::Udp, at(f.outside, 53)).is_some());
            assert!(ask(&host, Transport::Udp, at(f.outside, 53)).is_some());
        }
        let before = flows(&host, 53).len();
        assert!(before >= 4, "{before}");
        let pod = host.pod();
        let ports = [mapping(Transport::Udp, 53)];
        publish(&network, &pod, &ports).ok();
        assert_eq!(flows(&host, 53).len(), before, "after ADD");
        withdraw(&network, &pod, &ports).ok();
        assert_eq!(flows(&host, 53).len(), before, "after DEL");
    });
}

/// A connection under way does not notice that others come and go.
#[test]
fn open_connections_live_on_while_others_are_published_and_withdrawn() {
    case(|| {
        let node = node(&json!({ "ipMasq": true }));
        let listener = node.pod.enter(|| TcpListener::bind((V4.pod, 81)).unwrap());
        let direct = chain(&node.host, &[bridge(&json!({ "ipMasq": true })), portmap(&json!({}))]);
        let third = node.host.pod();
        publish(&direct, &third, &[]).ok();
        let connect = |from: &NetNs, to: SocketAddr| from.enter(|| TcpStream::connect_timeout(&to, PATIENCE).unwrap());
        route_back(&node.host);
        let echo = |client: &mut TcpStream, server: &mut TcpStream| {
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            client.write_all(b"?").unwrap();
            server.read_exact(&mut [0]).unwrap();
            server.write_all(b"!").unwrap();
            client.read_exact(&mut [0]).unwrap();
        };
        let ports = [with(&mapping(Transport::Tcp, 9000), json!({ "containerPort": 81 }))];
        let published = node.host.pod();
        publish(&direct, &published, &ports).ok();
        let address = published.addresses()[0].split('/').next().unwrap().to_owned();
        let listener_of_published = published.enter(|| TcpListener::bind((address.as_str(), 81)).unwrap());
        let mut clients = vec![
            connect(node.host.outside(), at(V4.host, 9000)),
            connect(&node.sibling.ns, at(V4.host, 9000)),
            connect(node.host.netns(), at("127.0.0.1", 9000)),
        ];
        let mut servers: Vec<_> = clients.iter().map(|_| listener_of_published.accept().unwrap().0).collect();
        clients.push(connect(node.host.outside(), at(V4.pod, 81)));
        servers.push(listener.accept().unwrap().0);
        for turn in 0..3 {
            let other = node.host.pod();
            let ports = [mapping(Transport::Tcp, 9100 + turn), mapping(Transport::Udp, 9100 + turn)];
            publish(&direct, &other, &ports).ok();
            for (client, server) in clients.iter_mut().zip(&mut servers) {
                echo(client, server);
            }
            withdraw(&direct, &other, &ports).ok();
            for (client, server) in clients.iter_mut().zip(&mut servers) {
                echo(client, server);
            }
        }
    });
}

/// As distributions set it: a packet is dropped that comes by another link than its answer would leave by.
#[test]
fn a_strict_reverse_path_filter_is_no_obstacle() {
    case(|| {
        let node = node(&json!({ "ipMasq": true }));
        for link in ["all", UPLINK, BRIDGE, "br1"] {
            node.host.run(&format!("sysctl -q -w net.ipv4.conf.{link}.rp_filter=1"));
        }
        for bridge_nf in [false, true] {
            set_bridge_nf(&node.host, bridge_nf);
            for transport in Transport::ALL {
                let to = at(V4.host, ANY);
                assert_eq!(ask(node.host.outside(), transport, to), answer(V4.outside));
                assert_eq!(ask(&node.sibling, transport, to), answer(V4.gateway));
                assert_eq!(ask(&node.stranger, transport, to), answer(V4.gateway));
                assert_eq!(ask(&node.host, transport, to), answer(V4.host));
                assert_eq!(ask(&node.host, transport, at("127.0.0.1", ANY)), answer(V4.gateway));
            }
        }
    });
}

#[test]
fn sctp_is_published_too() {
    case(|| {
        let port = json!({ "hostPort": 9000, "containerPort": 900, "protocol": "sctp" });
        let node = Node::new(&[port], &json!({}), &json!({}));
        for f in [V4, V6] {
            let to = at(f.host, 9000);
            let seen = |from| sctp::associate(from, to, &node.pod, at(f.pod, 900));
            assert_eq!(seen(node.host.outside()), Some(ip(f.outside)));
            assert_eq!(sctp::associate(&node.sibling, to, &node.pod, at(f.pod, 900)), Some(ip(f.gateway)));
        }
    });
}

/// A Service of these ports, as kube-proxy translates it: to the pod, with nothing else.
fn service(host: &Host, ports: &[u16]) {
    let rules = |ip: &str, address: &str, pod: String, port: &u16| {
        Transport::ALL.map(|t| format!("{ip} daddr {address} {t} dport {port} dnat {ip} to {pod}:{CONTAINER_PORT}\n"))
    };
    let all: String = ports
        .iter()
        .flat_map(|port| {
            [
                rules("ip", "10.96.0.10", V4.pod.to_owned(), port),
                rules("ip6", "fd00:96::10", format!("[{}]", V6.pod), port),
            ]
        })
        .flatten()
        .collect();
    host.write(
        "/run/test/service",
        format!("table inet service {{\nchain in {{\ntype nat hook prerouting priority dstnat\n{all}}}\n}}"),
    );
    host.run("nft -f /run/test/service");
}

fn a_services_clients(port: u16) {
    let node = node(&json!({}));
    set_bridge_nf(&node.host, true);
    service(&node.host, &[port]);
    for transport in Transport::ALL {
        for (f, address) in [(V4, "10.96.0.10"), (V6, "fd00:96::10")] {
            assert_eq!(ask(&node.sibling, transport, at(address, port)), answer(f.sibling));
            assert_eq!(ask(&node.stranger, transport, at(address, port)), answer(f.stranger));
        }
    }
}

#[test]
fn a_services_clients_keep_their_source() {
    case(|| a_services_clients(CONTAINER_PORT));
}

/// Ingress controllers have the ports 80 and 443 of both the host and their Service.
#[test]
fn clients_of_a_service_with_the_published_ports_number_keep_their_source() {
    case(|| a_services_clients(ANY));
}
