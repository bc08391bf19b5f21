//! CHECK of VLANs: whatever is changed behind the plugin's back is named, and nothing else is.

use serde_json::{Value, json};
use tests::{
    Host, Place, case,
    config::{self, BRIDGE, with},
    settings::not_for_reference,
};

use crate::{
    vlan::{in_vlan, node, port},
    vlan_gateway::{gateway, gateway_port, network},
};

/// A command of the host, and what CHECK says of what it did.
type Damage = (String, &'static str);

/// The commands that mend whatever was done to a port, which they call `PORT`.
fn by(commands: &[&str]) -> impl Fn(&Host, &str) {
    move |host, port| commands.iter().for_each(|line| _ = host.run(&line.replace("PORT", port)))
}

/// ADD, CHECK, and for each damage CHECK, and what mends it; in the end CHECK again, and DEL.
fn each_is_named(config: &Value, mend: impl Fn(&Host, &str), damages: impl Fn(&Host, &str) -> Vec<Damage>) {
    not_for_reference("its CHECK looks at no VLAN");
    let host = node();
    let pod = host.pod();
    let call = || host.plugin("bridge").pod(&pod);
    let result = call().config(config).add().result();
    let check = || call().config_with(config, &result).check();
    check().ok();
    let port = port(&result);
    let mut wrong = String::new();
    for (command, expected) in damages(&host, port) {
        host.run(&command);
        let reply = check();
        let said = if reply.status.success() { String::new() } else { reply.failure().msg };
        if !said.contains(expected) {
            wrong += &format!("\n  `{command}`: expected {expected:?} in {said:?}");
        }
        mend(&host, port);
    }
    assert!(wrong.is_empty(), "{wrong}");
    check().ok();
    call().config(config).del().ok();
}

fn one(line: String, says: &'static str) -> Damage {
    (line, says)
}

#[test]
fn every_vlan_of_a_port() {
    case(|| {
        let config = with(&in_vlan(100), json!({ "vlanTrunk": [{ "id": 150 }, { "minID": 200, "maxID": 300 }] }));
        let mend = [
            "bridge vlan del dev PORT vid 1-4094",
            "bridge vlan add dev PORT vid 100 pvid untagged",
            "bridge vlan add dev PORT vid 150",
            "bridge vlan add dev PORT vid 200-300",
            "ip link set br0 type bridge vlan_filtering 1",
        ];
        each_is_named(&config, by(&mend), |_, port| {
            vec![
                one(format!("bridge vlan del dev {port} vid 100"), "found not in VLAN 100, expected VLAN 100 PVID"),
                one(format!("bridge vlan add dev {port} vid 100 untagged"), "VLAN 100 Egress Untagged, expected"),
                one(format!("bridge vlan add dev {port} vid 100 pvid"), "VLAN 100 PVID, expected"),
                one(format!("bridge vlan add dev {port} vid 100"), "found VLAN 100 tagged, expected"),
                one(
                    format!("bridge vlan add dev {port} vid 1 untagged"),
                    "VLAN 1 Egress Untagged, expected not in VLAN 1",
                ),
                one(format!("bridge vlan add dev {port} vid 7"), "found VLAN 7 tagged, expected not in VLAN 7"),
                one(format!("bridge vlan add dev {port} vid 4094 pvid untagged"), "VLAN 100 Egress Untagged, expected"),
                one(format!("bridge vlan del dev {port} vid 150"), "found not in VLAN 150, expected VLAN 150 tagged"),
                one(format!("bridge vlan del dev {port} vid 200-300"), "found not in VLAN 200"),
                one(format!("bridge vlan del dev {port} vid 250"), "found not in VLAN 250"),
                one(format!("bridge vlan add dev {port} vid 300 untagged"), "found VLAN 300 Egress Untagged, expected"),
                one(format!("ip link set {BRIDGE} type bridge vlan_filtering 0"), "VLAN filtering off"),
            ]
        });
    });
}

#[test]
fn the_native_vlan_of_a_trunk_and_a_default_that_was_to_stay() {
    case(|| {
        let trunk = with(&config::layer2(), json!({ "vlanTrunk": [{ "id": 20 }] }));
        let mend = [
            "bridge vlan del dev PORT vid 1-4094",
            "bridge vlan add dev PORT vid 1 pvid untagged",
            "bridge vlan add dev PORT vid 20",
        ];
        each_is_named(&trunk, by(&mend), |_, port| {
            vec![
                one(format!("bridge vlan del dev {port} vid 1"), "found not in VLAN 1"),
                one(format!("bridge vlan add dev {port} vid 21"), "found VLAN 21 tagged"),
            ]
        });
        let kept = with(&in_vlan(100), json!({ "preserveDefaultVlan": true }));
        each_is_named(&kept, by(&["bridge vlan del dev PORT vid 2"]), |_, port| {
            vec![one(format!("bridge vlan add dev {port} vid 2"), "found VLAN 2 tagged")]
        });
        // A trunk that is empty asks for filtering alone.
        let empty = with(&config::layer2(), json!({ "vlanTrunk": [] }));
        each_is_named(&empty, by(&["ip link set br0 type bridge vlan_filtering 1"]), |_, _| {
            vec![one(format!("ip link set {BRIDGE} type bridge vlan_filtering 0"), "VLAN filtering off")]
        });
    });
}

#[test]
fn every_part_of_a_vlans_gateway() {
    case(|| {
        let config = with(&network(100), json!({ "ipMasq": false }));
        // The next ADD, but for a route that is the kernel's own.
        let mend = |host: &Host, _: &str| {
            let pod = host.pod();
            host.plugin("bridge").pod(&pod).config(&config).add().ok();
            host.plugin("bridge").pod(&pod).config(&config).del().ok();
            host.run("ip route replace 10.100.0.0/24 dev br0.100 proto kernel scope link src 10.100.0.1");
        };
        each_is_named(&config, mend, |host, _| {
            let (gateway, port) = (gateway(100), gateway_port(host, 100));
            vec![
                one(format!("ip link del {gateway}"), "gateway port \"br0.100\": found no such link"),
                one(format!("ip link set {gateway} down"), "gateway port \"br0.100\": found \"br0.100\" down"),
                one(format!("ip link set {port} down"), "down, expected it up"),
                one(format!("ip link set {port} nomaster"), "not on the bridge"),
                one(format!("bridge vlan del dev {port} vid 100"), "not untagged in VLAN 100"),
                one(format!("bridge vlan add dev {port} vid 100"), "not untagged in VLAN 100"),
                one(format!("ip address del 10.100.0.1/24 dev {gateway}"), "expected 10.100.0.1/24"),
                one(format!("ip address del fd00:100::1/64 dev {gateway}"), "expected fd00:100::1/64"),
                one(format!("ip route del 10.100.0.0/24 dev {gateway}"), "none to 10.100.0.0/24"),
                one("sysctl -q -w net.ipv4.ip_forward=0".to_owned(), "ip_forward"),
            ]
        });
    });
}

#[test]
fn a_layer_2_pod_has_no_gateway_to_look_for() {
    case(|| {
        let config = with(&config::layer2(), json!({ "vlan": 100, "isGateway": true }));
        each_is_named(
            &config,
            |_, _| (),
            |host, _| {
                assert!(host.link("br0.100").is_none(), "the gateway of nobody");
                Vec::new()
            },
        );
    });
}
