//! VLANs: what passes between pods, by packets.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tests::{
    Host, Place, Pod, case,
    config::{self, BRIDGE, with},
    settings,
    traffic::{
        PATIENCE, assert_reaches, assert_silent,
        frames::{self, BROADCAST, DOT1AD, DOT1Q, EXPERIMENT, Wire},
    },
};

use crate::vlan::{in_vlan, node};

/// For a frame that must not arrive, after those that must.
const ARRIVAL: Duration = Duration::from_millis(400);

fn attach(host: &Host, config: &Value) -> Pod {
    let pod = host.pod();
    host.plugin("bridge").pod(&pod).config(config).add().ok();
    pod
}

/// The pod's addresses, without their prefixes.
fn addresses(pod: &Pod) -> Vec<String> {
    pod.addresses().iter().map(|a| a.split('/').next().unwrap().to_owned()).collect()
}

fn reach_each_other(a: &Pod, b: &Pod) {
    addresses(b).iter().for_each(|to| assert_reaches(a, to));
    addresses(a).iter().for_each(|to| assert_reaches(b, to));
}

fn are_apart(a: &Pod, b: &Pod) {
    are_silent(a, &addresses(b));
    are_silent(b, &addresses(a));
}

/// All are asked at once: each is waited for to the end.
fn are_silent(from: &Pod, all: &[String]) {
    thread::scope(|s| {
        for to in all {
            s.spawn(|| assert_silent(from, to));
        }
    });
}

#[test]
fn pods_of_a_vlan_reach_each_other_and_no_others() {
    case(|| {
        let host = node();
        let [a, b, other, others, none, no_others] =
            [100, 100, 200, 200, 0, 0].map(|vlan| attach(&host, &in_vlan(vlan)));
        reach_each_other(&a, &b);
        reach_each_other(&other, &others);
        reach_each_other(&none, &no_others);
        are_apart(&a, &other);
        are_apart(&a, &none);
        are_apart(&other, &none);
    });
}

/// A frame that one pod sends, with these tags; and whether it is in the pod's VLAN.
type Sent = (&'static [(u16, u16)], bool);

/// What a pod of VLAN 100 can send. A tag of VLAN 0 gives a priority alone.
const FRAMES: &[Sent] = &[
    (&[], true),
    (&[(DOT1Q, 0)], true),
    (&[(DOT1Q, 100)], true),
    (&[(DOT1Q, 200)], false),
    (&[(DOT1Q, 1)], false),
    (&[(DOT1Q, 4094)], false),
    (&[(DOT1Q, 1), (DOT1Q, 200)], false),
    (&[(DOT1Q, 200), (DOT1Q, 100)], false),
    // The inner tag is what the frame carries, for the bridge: it stays where the outer one is.
    (&[(DOT1Q, 100), (DOT1Q, 200)], true),
    (&[(DOT1Q, 0), (DOT1Q, 200)], true),
    (&[(DOT1AD, 200)], true),
    (&[(DOT1AD, 1), (DOT1Q, 200)], true),
];

/// A frame that can be told from others.
fn marked(number: usize, kind: u16) -> Vec<u8> {
    let payload = format!("frame number {number:03} of a test");
    frames::frame(BROADCAST, frames::mac("02:00:00:00:01:01"), kind, payload.as_bytes())
}

/// Which of the marked frames are among these.
fn numbers(seen: &[Vec<u8>], of: usize) -> Vec<usize> {
    let text = |number: usize| format!("frame number {number:03} of a test").into_bytes();
    (0..of).filter(|n| seen.iter().any(|frame| frame.windows(text(*n).len()).any(|part| part == text(*n)))).collect()
}

/// # Panics
/// When of so many marked frames not exactly these arrive, which may take as long as everything here takes.
fn assert_sees(wire: &Wire, of: usize, expected: &[usize], whose: &str) {
    let deadline = Instant::now() + PATIENCE * settings::slowness();
    let mut seen = Vec::new();
    while !expected.iter().all(|n| numbers(&seen, of).contains(n)) && Instant::now() < deadline {
        seen.extend(wire.all(Duration::from_millis(20)));
    }
    seen.extend(wire.all(ARRIVAL));
    assert_eq!(numbers(&seen, of), expected, "seen by {whose}");
}

#[test]
fn no_tag_leads_out_of_a_vlan() {
    case(|| {
        let host = node();
        let [sender, same, other, none] = [100, 100, 200, 0].map(|vlan| attach(&host, &in_vlan(vlan)));
        let trunk = attach(&host, &with(&config::layer2(), json!({ "vlanTrunk": [{ "id": 200 }, { "id": 300 }] })));
        let (wire, same) = (Wire::of(&sender, "eth0"), Wire::of(&same, "eth0"));
        let others = [Wire::of(&other, "eth0"), Wire::of(&none, "eth0"), Wire::of(&trunk, "eth0")];
        let bridge = Wire::of(&host, BRIDGE);
        // ARP, IPv4 and IPv6 in name only, and a kind that nobody knows: none is looked into.
        let kinds = [EXPERIMENT, frames::ARP, frames::IPV4, frames::IPV6];
        let mut expected = Vec::new();
        for (number, (kind, (tags, is_in))) in kinds.iter().flat_map(|k| FRAMES.iter().map(move |f| (k, f))).enumerate()
        {
            wire.send(&frames::tagged(&marked(number, *kind), tags));
            expected.extend(Some(number).filter(|_| *is_in));
        }
        let count = kinds.len() * FRAMES.len();
        assert_sees(&same, count, &expected, "the sender's VLAN");
        for (wire, whose) in others.iter().chain([&bridge]).zip(["VLAN 200", "no VLAN", "a trunk", "the bridge"]) {
            assert_eq!(numbers(&wire.all(Duration::from_millis(60)), count), [0; 0], "seen by {whose}");
        }
        // They do see what is sent in their VLANs.
        for (number, vlan) in [(count, 200), (count + 1, 0)] {
            Wire::of(&attach(&host, &in_vlan(vlan)), "eth0").send(&marked(number, EXPERIMENT));
        }
        let seen = [vec![count], vec![count + 1], vec![count, count + 1], vec![count + 1]];
        for (wire, seen) in others.iter().chain([&bridge]).zip(seen) {
            assert_sees(wire, count + 2, &seen, "its own VLANs");
        }
    });
}

/// A link for a VLAN on top of the pod's own, as a guest with a trunk makes it.
fn join(pod: &Pod, vlan: u16, address: &str) {
    if let Err(error) = pod.try_run(&format!("ip link add link eth0 name v{vlan} type vlan id {vlan}")) {
        tests::skip(format!("this kernel has no links of the kind vlan: {error}"));
    }
    pod.run(&format!("sysctl -q -w net.ipv6.conf.v{vlan}.accept_dad=0"));
    pod.run(&format!("ip address add 10.22.0.{address}/24 dev v{vlan}"));
    pod.run(&format!("ip address add fd00:22::{address}/64 dev v{vlan}"));
    pod.run(&format!("ip link set v{vlan} up"));
}

/// The pod's other links are no way.
fn only(pod: &Pod, link: &str) {
    for other in ["eth0", "v100", "v202", "v300"].iter().filter(|other| **other != link) {
        for family in [4, 6] {
            _ = pod.try_run(&format!("ip -{family} route flush dev {other} table main proto kernel"));
        }
    }
    pod.run(&format!("ip route replace 10.22.0.0/24 dev {link}"));
    pod.run(&format!("ip -6 route replace fd00:22::/64 dev {link}"));
}

#[test]
fn a_trunk_reaches_the_pods_of_its_vlans_and_no_others() {
    case(|| {
        let host = node();
        let trunk = attach(
            &host,
            &with(&config::layer2(), json!({ "vlanTrunk": [{ "id": 100 }, { "minID": 200, "maxID": 203 }] })),
        );
        let [a, b, c, native] = [100, 202, 300, 0].map(|vlan| attach(&host, &in_vlan(vlan)));
        reach_each_other(&c, &attach(&host, &in_vlan(300)));
        for (vlan, address) in [(100, "101"), (202, "102"), (300, "103")] {
            join(&trunk, vlan, address);
        }
        trunk.run("ip address add 10.22.0.104/24 dev eth0");
        trunk.run("ip address add fd00:22::104/64 dev eth0 nodad");
        for (link, reached) in [("v100", Some(&a)), ("v202", Some(&b)), ("v300", None), ("eth0", Some(&native))] {
            only(&trunk, link);
            let is_reached = |pod: &&Pod| reached.is_some_and(|reached| reached.id == pod.id);
            let (near, far): (Vec<_>, Vec<_>) = [&a, &b, &c, &native].into_iter().partition(is_reached);
            near.iter().flat_map(|pod| addresses(pod)).for_each(|to| assert_reaches(&trunk, &to));
            are_silent(&trunk, &far.iter().flat_map(|pod| addresses(pod)).collect::<Vec<_>>());
        }
    });
}

#[test]
fn a_trunks_native_vlan_is_its_access_vlan() {
    case(|| {
        let host = node();
        let keys = json!({ "vlan": 50, "vlanTrunk": [{ "id": 100 }] });
        let trunk = attach(&host, &with(&in_vlan(0), keys));
        let [native, tagged, none] = [50, 100, 0].map(|vlan| attach(&host, &in_vlan(vlan)));
        reach_each_other(&trunk, &native);
        for (pod, vlan) in [(&tagged, 100), (&none, 0)] {
            reach_each_other(pod, &attach(&host, &in_vlan(vlan)));
        }
        are_apart(&trunk, &tagged);
        are_apart(&trunk, &none);
        // Beside it, the others by their tags.
        let (trunk, wires) = (Wire::of(&trunk, "eth0"), [&native, &tagged, &none].map(|pod| Wire::of(pod, "eth0")));
        trunk.send(&marked(0, EXPERIMENT));
        trunk.send(&frames::tagged(&marked(1, EXPERIMENT), &[(DOT1Q, 100)]));
        trunk.send(&frames::tagged(&marked(2, EXPERIMENT), &[(DOT1Q, 1)]));
        for (wire, seen) in wires.iter().zip([&[0][..], &[1], &[]]) {
            assert_sees(wire, 3, seen, "its VLAN");
        }
    });
}

#[test]
fn the_default_vlan_leads_in_and_a_tag_leads_out() {
    case(|| {
        let host = node();
        let pod = attach(&host, &with(&in_vlan(100), json!({ "preserveDefaultVlan": true })));
        let [same, none] = [100, 0].map(|vlan| attach(&host, &in_vlan(vlan)));
        let [pod, same, none] = [&pod, &same, &none].map(|pod| Wire::of(pod, "eth0"));
        none.send(&marked(0, EXPERIMENT));
        pod.send(&frames::tagged(&marked(1, EXPERIMENT), &[(DOT1Q, 1)]));
        pod.send(&marked(2, EXPERIMENT));
        same.send(&marked(3, EXPERIMENT));
        assert_sees(&none, 4, &[1], "no VLAN");
        assert_sees(&pod, 4, &[0, 3], "the pod in both");
        assert_sees(&same, 4, &[2], "VLAN 100");
    });
}

#[test]
fn in_a_vlan_the_spoof_filter_holds_whatever_the_tag() {
    case(|| {
        let host = node();
        let config = with(&in_vlan(100), json!({ "macspoofchk": true }));
        let [sender, same] = [(); 2].map(|()| attach(&host, &config));
        reach_each_other(&sender, &same);
        let (wire, same) = (Wire::of(&sender, "eth0"), Wire::of(&same, "eth0"));
        let own = frames::mac(sender.interface()["address"].as_str().unwrap());
        for (number, (tags, _)) in FRAMES.iter().enumerate() {
            let forged = marked(number, EXPERIMENT);
            wire.send(&frames::tagged(&forged, tags));
            let honest = [&forged[..6], &own, &marked(number + 100, EXPERIMENT)[12..]].concat();
            wire.send(&frames::tagged(&honest, tags));
        }
        let honest: Vec<_> = FRAMES.iter().enumerate().filter(|(_, f)| f.1).map(|(number, _)| number + 100).collect();
        assert_sees(&same, 200, &honest, "the sender's VLAN");
    });
}
