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

/// Commands of the host, and what CHECK says of what they did.
type Damage = (Vec<String>, &'static str);

/// ADD, CHECK, the damage, CHECK, DEL; for each damage of a config.
fn each_is_named(config: &Value, damages: impl Fn(&Host, &str) -> Vec<Damage>) {
    not_for_reference("its CHECK looks at no VLAN");
    let host = node();
    let pod = host.pod();
    let call = || host.plugin("bridge").pod(&pod);
    let (mut number, mut wrong) = (0, String::new());
    loop {
        let result = call().config(config).add().result();
        let check = || call().config_with(config, &result).check();
        check().ok();
        let mut all = damages(&host, port(&result));
        if number == all.len() {
            break;
        }
        let (commands, expected) = all.swap_remove(number);
        commands.iter().for_each(|line| _ = host.run(line));
        let reply = check();
        let said = if reply.status.success() { String::new() } else { reply.failure().msg };
        if !said.contains(expected) {
            wrong += &format!("\n  {commands:?}: expected {expected:?} in {said:?}");
        }
        call().config(config).del().ok();
        host.run(&format!("ip link del {BRIDGE}"));
        _ = host.try_run(&format!("ip link del {BRIDGE}.100"));
        number += 1;
    }
    assert!(wrong.is_empty(), "of {number}:{wrong}");
}

fn one(line: String, says: &'static str) -> Damage {
    (vec![line], says)
}

#[test]
fn every_vlan_of_a_port() {
    case(|| {
        let config = with(&in_vlan(100), json!({ "vlanTrunk": [{ "id": 150 }, { "minID": 200, "maxID": 300 }] }));
        each_is_named(&config, |_, port| {
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
        each_is_named(&trunk, |_, port| {
            vec![
                one(format!("bridge vlan del dev {port} vid 1"), "found not in VLAN 1"),
                one(format!("bridge vlan add dev {port} vid 21"), "found VLAN 21 tagged"),
            ]
        });
        let kept = with(&in_vlan(100), json!({ "preserveDefaultVlan": true }));
        each_is_named(&kept, |_, port| vec![one(format!("bridge vlan add dev {port} vid 2"), "found VLAN 2 tagged")]);
        // A trunk that is empty asks for filtering alone.
        let empty = with(&config::layer2(), json!({ "vlanTrunk": [] }));
        each_is_named(&empty, |_, _| {
            vec![one(format!("ip link set {BRIDGE} type bridge vlan_filtering 0"), "VLAN filtering off")]
        });
    });
}

#[test]
fn every_part_of_a_vlans_gateway() {
    case(|| {
        each_is_named(&network(100), |host, _| {
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
