//! What an attacker with every right in a pod can do to the host and to other pods, and what not: `SECURITY.md` names
//! these tests.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Instant,
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::{
    Host, NetNs, Place, Pod, Snapshot, case,
    config::{self, BRIDGE, GATEWAY4, GATEWAY6, with},
    syslog::Syslog,
    traffic::{
        PATIENCE, SILENCE, assert_reaches, assert_silent,
        frames::{self, ARP, BROADCAST, EXPERIMENT, IPV4, IPV6, Mac, Wire, frame, gratuitous_arp},
    },
};

const FORGED: Mac = [2, 0, 0, 0, 0, 0x99];
/// The prefix that a hostile router offers.
const PREFIX: &str = "2001:db8:66";

fn gateway() -> Ipv4Addr {
    GATEWAY4.parse().unwrap()
}

fn attach(host: &Host, config: &Value) -> Pod {
    let pod = host.pod();
    host.plugin_of(config).pod(&pod).config(config).add().ok();
    pod
}

fn mac(pod: &Pod) -> Mac {
    frames::mac(pod.interface()["address"].as_str().unwrap())
}

/// Where the place believes an address to be.
fn neighbour(place: &impl Place, ip: impl ToString, link: &str) -> Option<Mac> {
    let all = place.json(&format!("ip -j neighbour show dev {link}"));
    let entry = all.as_array().unwrap().iter().find(|n| n["dst"] == ip.to_string())?.clone();
    entry["lladdr"].as_str().map(frames::mac)
}

/// Says again and again by ARP that an address is at this MAC; whether the victim believes it.
fn is_believed(attacker: &Wire, from: Mac, victim: &Pod, ip: Ipv4Addr, at: Mac, within: std::time::Duration) -> bool {
    let deadline = Instant::now() + within;
    while Instant::now() < deadline {
        attacker.send(&frame(BROADCAST, from, ARP, &gratuitous_arp(ip, at)));
        thread::sleep(std::time::Duration::from_millis(10));
        if neighbour(victim, ip, "eth0") == Some(at) {
            return true;
        }
    }
    false
}

#[test]
fn macspoofchk_checks_the_frames_source_and_not_what_arp_says() {
    case(|| {
        let host = Host::new();
        let config = with(&config::bridge(), json!({ "macspoofchk": true }));
        let (attacker, victim) = (attach(&host, &config), attach(&host, &config));
        let wire = Wire::of(&attacker, "eth0");
        assert_reaches(&victim, GATEWAY4);
        // A forged sender of the frame: it never arrives.
        assert!(!is_believed(&wire, FORGED, &victim, gateway(), FORGED, SILENCE));
        // Its own address on the frame and the gateway's name in it: believed, as on any Ethernet.
        let own = mac(&attacker);
        assert!(is_believed(&wire, own, &victim, gateway(), own, PATIENCE), "ARP is checked after all?");
    });
}

#[test]
fn the_source_address_of_a_packet_is_not_checked() {
    case(|| {
        let host = Host::new();
        let config = with(&config::bridge(), json!({ "macspoofchk": true }));
        let (attacker, _victim) = (attach(&host, &config), attach(&host, &config));
        let (pods, bridge) = (Wire::of(&attacker, "eth0"), Wire::of(&host, BRIDGE));
        let to = frames::mac(host.link(BRIDGE).unwrap()["address"].as_str().unwrap());
        let forged = Ipv4Addr::new(10, 22, 0, 3);
        pods.send(&frame(to, mac(&attacker), IPV4, &frames::echo_request(forged, gateway(), 7)));
        let arrived = |frame: &[u8]| frame.len() >= 34 && frame[12..14] == [8, 0] && frame[26..30] == forged.octets();
        assert!(bridge.wait_for(PATIENCE, arrived).is_some());
    });
}

/// Sends the advertisement until `honest`, which takes any router's word on this link, has an address by it.
fn advertise(attacker: &Wire, at: Mac, honest: &impl Place, link: &str) {
    let from: Ipv6Addr = "fe80::66".parse().unwrap();
    let packet = frames::router_advertisement(from, at, format!("{PREFIX}::").parse().unwrap());
    let everyone = [0x33, 0x33, 0, 0, 0, 1];
    let deadline = Instant::now() + PATIENCE;
    while !honest.run(&format!("ip -6 address show dev {link}")).contains(PREFIX) {
        assert!(Instant::now() < deadline, "the advertisement is not delivered, or wrong");
        attacker.send(&frame(everyone, at, IPV6, &packet));
        thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Somebody on the bridge whom no plugin has set up.
fn somebody(host: &Host) -> NetNs {
    let somebody = NetNs::new();
    host.run(&format!("ip link add somebody type veth peer name eth0 netns {}", somebody.path()));
    host.run(&format!("ip link set somebody master {BRIDGE} up"));
    somebody.run("ip link set eth0 up");
    somebody
}

fn assert_took_nothing(place: &impl Place) {
    let state = format!("{}{}", place.run("ip -6 address"), place.run("ip -6 route show table all"));
    assert!(!state.contains(PREFIX) && !state.contains("via fe80::66"), "{state}");
}

#[test]
fn a_pods_router_advertisements_give_the_host_nothing() {
    case(|| {
        for is_ours in [true, false] {
            let host = Host::new();
            if !is_ours {
                host.run(&format!("ip link add {BRIDGE} type bridge"));
            }
            // No gateway: a host that forwards would take no router's word anyway.
            let attacker = attach(&host, &config::layer2());
            let honest = somebody(&host);
            advertise(&Wire::of(&attacker, "eth0"), mac(&attacker), &honest, "eth0");
            assert_took_nothing(&host);
        }
    });
}

/// Somebody else's bridge, up, with this `accept_ra`.
fn operators_bridge(host: &Host, accept_ra: &str) {
    host.run(&format!("ip link add {BRIDGE} type bridge"));
    host.run(&format!("sysctl -q -w net.ipv6.conf.{BRIDGE}.accept_ra={accept_ra}"));
    host.run(&format!("ip link set {BRIDGE} up"));
}

fn accept_ra(host: &Host) -> String {
    host.run(&format!("cat /proc/sys/net/ipv6/conf/{BRIDGE}/accept_ra")).trim().to_owned()
}

#[test]
fn a_host_that_has_its_router_by_an_operators_bridge_keeps_it() {
    case(|| {
        for (accepted, has_route) in [("1", true), ("2", true), ("2", false)] {
            let host = Host::new();
            let log = Syslog::of(&host);
            operators_bridge(&host, accepted);
            let uplink = somebody(&host);
            let router = frames::mac(uplink.link("eth0").unwrap()["address"].as_str().unwrap());
            advertise(&Wire::of(&uplink, "eth0"), router, &host, BRIDGE);
            if !has_route {
                // As of a router that advertises a prefix alone.
                host.run("ip -6 route del default");
            }
            attach(&host, &config::bridge());
            assert_eq!(accept_ra(&host), accepted);
            assert_eq!(host.run("ip -6 route").contains("default via fe80::66"), has_route);
            let log = log.lines().concat();
            assert!(log.contains(&format!("sysctl -w net/ipv6/conf/{BRIDGE}/accept_ra=0")), "{log}");
        }
    });
}

#[test]
fn an_operators_bridge_without_a_router_takes_none_any_more() {
    case(|| {
        let host = Host::new();
        operators_bridge(&host, "2");
        attach(&host, &config::layer2());
        assert_eq!(accept_ra(&host), "0");
    });
}

#[test]
fn each_add_takes_back_that_the_bridge_believes_routers() {
    case(|| {
        for config in [config::layer2(), config::bridge(), config::dual_stack()] {
            let host = Host::new();
            let _first = attach(&host, &config);
            host.run(&format!("sysctl -q -w net.ipv6.conf.{BRIDGE}.accept_ra=2"));
            let _second = attach(&host, &config);
            assert_eq!(accept_ra(&host), "0", "{config}");
        }
    });
}

#[test]
fn what_cannot_be_taken_back_stops_no_pod() {
    case(|| {
        let host = Host::new();
        let _first = attach(&host, &config::layer2());
        host.run(&format!("sysctl -q -w net.ipv6.conf.{BRIDGE}.accept_ra=2"));
        host.run("mount --bind /proc/sys /proc/sys");
        host.run("mount -o remount,bind,ro /proc/sys");
        let _second = attach(&host, &config::layer2());
        assert_eq!(accept_ra(&host), "2");
    });
}

#[test]
fn an_add_that_fails_leaves_the_protection_to_who_came_meanwhile() {
    case(|| {
        tests::settings::not_for_reference("it lets a bridge believe routers");
        let host = Host::new();
        operators_bridge(&host, "2");
        let (waiting, meanwhile) = (host.pod(), host.pod());
        // Its address is looked for among the neighbours once a second, and ADD waits for that.
        waiting.run("sysctl -q -w net.ipv6.conf.default.dad_transmits=8");
        let slow = with(&config::dual_stack(), json!({ "enabledad": true }));
        let call = || host.plugin("bridge").pod(&waiting).config(&slow);
        let quick = || host.plugin("bridge").pod(&meanwhile).config(&config::layer2());
        let has_come = || accept_ra(&host) == "0" && quick().add().status.success();
        call().signal(Signal::SIGTERM, has_come).add().failure().is(11, "SIGTERM");
        assert_eq!(accept_ra(&host), "0");
        // And with nobody on it that was not there before, it is given back.
        quick().del().ok();
        host.run(&format!("sysctl -q -w net.ipv6.conf.{BRIDGE}.accept_ra=2"));
        call().signal(Signal::SIGTERM, || accept_ra(&host) == "0").add().failure().is(11, "SIGTERM");
        assert_eq!(accept_ra(&host), "2");
    });
}

#[test]
fn an_add_that_fails_leaves_an_operators_bridge_as_it_was() {
    case(|| {
        let host = Host::new();
        operators_bridge(&host, "2");
        host.run(&format!("ip address add 192.0.2.1/24 dev {BRIDGE}"));
        let failure = host.plugin("bridge").pod(&host.pod()).config(&config::bridge()).add().failure();
        failure.is(999, "already has an IP address different from|192.0.2.1/24");
        assert_eq!(accept_ra(&host), "2");
    });
}

#[test]
fn a_pods_router_advertisements_give_its_neighbours_nothing() {
    case(|| {
        for config in [config::dual_stack(), config::bridge(), config::ipv6_only()] {
            let host = Host::new();
            let (attacker, victim) = (attach(&host, &config), attach(&host, &config));
            let honest = somebody(&host);
            advertise(&Wire::of(&attacker, "eth0"), mac(&attacker), &honest, "eth0");
            assert_took_nothing(&victim);
            assert_took_nothing(&host);
        }
    });
}

#[test]
fn pods_of_a_network_with_another_router_still_find_it() {
    case(|| {
        let host = Host::new();
        let config = with(&config::layer2(), json!({ "ipam": config::host_local(&["10.22.0.0/24"]) }));
        let (router, pod) = (attach(&host, &config), attach(&host, &config));
        let honest = somebody(&host);
        advertise(&Wire::of(&router, "eth0"), mac(&router), &honest, "eth0");
        assert!(pod.run("ip -6 route").contains("default via fe80::66"));
    });
}

#[test]
fn a_broadcast_of_a_hairpin_port_comes_back_once() {
    case(|| {
        let host = Host::new();
        let config = with(&config::bridge(), json!({ "hairpinMode": true }));
        let (a, b) = (attach(&host, &config), attach(&host, &config));
        let (first, second) = (Wire::of(&a, "eth0"), Wire::of(&b, "eth0"));
        let is_it = |frame: &[u8]| frame[12..14] == EXPERIMENT.to_be_bytes();
        let one = frame(BROADCAST, mac(&a), EXPERIMENT, &[0; 50]);
        first.send(&one);
        assert_eq!(first.count(SILENCE, is_it), 1);
        assert_eq!(second.count(SILENCE, is_it), 1);
        // A pod that bridges its interface to others of its own is no loop either.
        a.run("ip link add inner type bridge");
        a.run("ip link add other type veth peer name end");
        for link in ["eth0", "other"] {
            a.run(&format!("ip link set {link} master inner up"));
        }
        a.run("ip link set inner up");
        second.send(&frame(BROADCAST, mac(&b), EXPERIMENT, &[0; 50]));
        let count = second.count(SILENCE, is_it);
        assert!(count <= 2, "{count} copies of one broadcast");
        assert_reaches(&b, GATEWAY4);
    });
}

/// What a pod may do to its own interface, and what CHECK says of it (`None`: nothing is amiss by it).
fn mischief() -> Vec<(&'static str, Vec<&'static str>, Option<&'static str>)> {
    vec![
        ("renamed", vec!["ip link set eth0 down", "ip link set eth0 name evil"], Some("eth0")),
        ("removed", vec!["ip link delete eth0"], Some("eth0")),
        ("down", vec!["ip link set eth0 down"], Some("eth0")),
        ("other MAC", vec!["ip link set eth0 address 02:00:00:00:00:99"], Some("02:00:00:00:00:99")),
        ("no address", vec!["ip address flush dev eth0"], Some("10.22.0")),
        ("another's address", vec!["ip address add OTHER/24 dev eth0"], None),
        ("the gateway's address", vec!["ip address add 10.22.0.1/24 dev eth0"], None),
        ("no routes", vec!["ip route delete default"], Some("0.0.0.0/0")),
        ("tiny MTU", vec!["ip link set eth0 mtu 68"], None),
        ("huge queue", vec!["ip link set eth0 txqueuelen 1000000"], None),
        (
            "an impostor",
            vec!["ip link set eth0 down", "ip link set eth0 name evil", "ip link add eth0 type veth peer name end"],
            Some("eth0"),
        ),
        ("on a bridge of its own", vec!["ip link add inner type bridge", "ip link set eth0 master inner"], None),
    ]
}

/// All that bridge can make.
fn everything() -> Value {
    with(&config::everything(), json!({ "ipam": config::host_local(&["10.22.0.0/24"]) }))
}

/// Two pods with that, and the host's state before.
fn neighbours(host: &Host) -> (Value, Snapshot, [(Pod, Value); 2]) {
    let config = everything();
    let before = host.warm_up(&config);
    let pods = two(host, &config);
    (config, before, pods)
}

fn two(host: &Host, config: &Value) -> [(Pod, Value); 2] {
    [(); 2].map(|()| {
        let pod = host.pod();
        let result = host.plugin("bridge").pod(&pod).config(config).add().result();
        (pod, result)
    })
}

/// DEL of both leaves nothing; the one that was left alone works to the end.
fn end(host: &Host, config: &Value, before: &Snapshot, [(attacker, result), (other, others)]: &[(Pod, Value); 2]) {
    let call = |pod: &Pod, result: &Value| host.plugin("bridge").pod(pod).config_with(config, result);
    call(other, others).check().ok();
    call(attacker, result).del().ok();
    call(other, others).check().ok();
    assert_reaches(other, GATEWAY4);
    call(other, others).del().ok();
    host.assert_as(before);
}

#[test]
fn check_names_what_a_pod_did_to_its_interface_and_del_cleans_up() {
    case(|| {
        let host = Host::new();
        let config = everything();
        let before = host.warm_up(&config);
        for (what, lines, said) in mischief() {
            let pods = two(&host, &config);
            let [(attacker, result), (_, others)] = &pods;
            let other = tests::pod::ips(others)[0].to_string();
            lines.iter().for_each(|line| drop(attacker.run(&line.replace("OTHER", &other))));
            let check = host.plugin("bridge").pod(attacker).config_with(&config, result).check();
            match said {
                Some(text) => _ = check.failure().is(999, text),
                None => _ = check.ok(),
            }
            println!("{what}");
            end(&host, &config, &before, &pods);
        }
    });
}

#[test]
fn an_interface_that_was_moved_elsewhere_is_named_and_removed() {
    case(|| {
        let host = Host::new();
        let (config, before, pods) = neighbours(&host);
        let [(attacker, result), _] = &pods;
        let elsewhere = NetNs::new();
        attacker.run(&format!("ip link set eth0 netns {}", elsewhere.path()));
        host.plugin("bridge").pod(attacker).config_with(&config, result).check().failure().is(999, "eth0");
        end(&host, &config, &before, &pods);
        assert!(elsewhere.link("eth0").is_none());
    });
}

#[test]
fn names_and_aliases_in_a_pod_say_nothing_to_the_host() {
    case(|| {
        let host = Host::new();
        let (config, before, pods) = neighbours(&host);
        let [(attacker, _), (_, others)] = &pods;
        // The other's host link, by name, address and alias, but in the attacker's namespace.
        let port = others["interfaces"][1].clone();
        let (name, address) = (port["name"].as_str().unwrap(), port["mac"].as_str().unwrap());
        let alias = host.link(name).unwrap()["ifalias"].as_str().unwrap_or_default().to_owned();
        attacker.run(&format!("ip link add {name} address {address} type veth peer name x"));
        let set = ["ip", "link", "set", name, "alias", &alias];
        let status = attacker.enter(|| std::process::Command::new(set[0]).args(&set[1..]).status().unwrap());
        assert!(status.success());
        attacker.run(&format!("ip link add {BRIDGE} type bridge"));
        end(&host, &config, &before, &pods);
    });
}

#[test]
fn a_pod_that_floods_its_link_stops_nobody() {
    case(|| {
        let host = Host::new();
        let (config, before, pods) = neighbours(&host);
        let [(attacker, _), _] = &pods;
        let (wire, from) = (Wire::of(attacker, "eth0"), mac(attacker));
        let done = AtomicBool::new(false);
        thread::scope(|s| {
            s.spawn(|| {
                let junk = frame(BROADCAST, from, EXPERIMENT, &[0; 1400]);
                let deadline = Instant::now() + 4 * PATIENCE;
                while !done.load(Ordering::Relaxed) && Instant::now() < deadline {
                    wire.send(&junk);
                }
            });
            let third = host.pod();
            let result = host.plugin("bridge").pod(&third).config(&config).add().result();
            assert_reaches(&third, GATEWAY4);
            host.plugin("bridge").pod(&third).config_with(&config, &result).del().ok();
            end(&host, &config, &before, &pods);
            done.store(true, Ordering::Relaxed);
        });
    });
}

#[test]
fn a_pod_reaches_the_hosts_own_servers() {
    case(|| {
        // Not restrained by any plugin: that is for the host's firewall.
        let host = Host::new();
        let pod = attach(&host, &config::dual_stack());
        for to in [GATEWAY4, GATEWAY6] {
            assert_reaches(&pod, to);
        }
        assert_silent(&pod, "127.0.0.1");
    });
}
