//! VLANs: which a port is in. Where the kernel has no VLAN filtering, what is tested is how that is said.
//!
//! What passes is looked at in [`crate::vlan_traffic`], the gateways in [`crate::vlan_gateway`], CHECK in
//! [`crate::vlan_check`].

use std::sync::OnceLock;

use serde_json::{Value, json};
use tests::{
    Host, Place, case,
    config::{self, BRIDGE, with},
    published::set_bridge_nf,
    traffic::assert_reaches,
};

/// Whether this kernel can filter VLANs on a bridge.
pub(crate) fn can_filter(host: &Host) -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let made = host.try_run("ip link add probe type bridge vlan_filtering 1").is_ok();
        let filters = made && host.link("probe").unwrap()["linkinfo"]["info_data"]["vlan_filtering"] == 1;
        _ = host.try_run("ip link del probe");
        filters
    })
}

/// A node whose kernel filters VLANs; skips the test where it cannot.
pub(crate) fn node() -> Host {
    let host = Host::new();
    if !can_filter(&host) {
        tests::skip("this kernel has no VLAN filtering on bridges");
    }
    set_bridge_nf(&host, false);
    host
}

/// The VLANs of a port as `bridge vlan` says it: `100 PVID Egress Untagged`, `200-203`.
pub(crate) fn vlans(host: &Host, port: &str) -> Vec<String> {
    let found = host.json(&format!("bridge -j -compressvlans vlan show dev {port}"));
    let text = |vlan: &Value| {
        let end = vlan["vlanEnd"].as_u64().map(|end| format!("-{end}")).unwrap_or_default();
        let flags = vlan["flags"].as_array().into_iter().flatten();
        flags.fold(format!("{}{end}", vlan["vlan"]), |text, flag| text + " " + flag.as_str().unwrap())
    };
    found[0]["vlans"].as_array().into_iter().flatten().map(text).collect()
}

/// The name of the host's end, by the result of ADD.
pub(crate) fn port(result: &Value) -> &str {
    result["interfaces"][1]["name"].as_str().unwrap()
}

/// Pods of this VLAN, all in one subnet of each family whatever the VLAN, without a gateway. 0: without a VLAN.
pub(crate) fn in_vlan(vlan: u16) -> Value {
    with(&config::dual_stack(), json!({ "isGateway": false, "vlan": vlan }))
}

/// Whether the bridge filters VLANs.
fn filters(host: &Host) -> bool {
    host.link(BRIDGE).unwrap()["linkinfo"]["info_data"]["vlan_filtering"] == 1
}

#[test]
fn without_vlan_filtering_in_the_kernel_it_is_refused_with_nothing_done() {
    case(|| {
        let host = Host::new();
        if can_filter(&host) {
            tests::skip("this kernel filters VLANs");
        }
        for patch in [json!({ "vlan": 100 }), json!({ "vlanTrunk": [{ "minID": 5, "maxID": 9 }, { "id": 20 }] })] {
            // The bridge is there already, or is yet to be made.
            for first in [None, Some(config::bridge())] {
                let host = Host::new();
                if let Some(config) = first {
                    host.warm_up(&config);
                }
                let before = host.snapshot();
                let config = with(&config::bridge(), patch.clone());
                let failure = host.plugin("bridge").pod(&host.pod()).config(&config).add().failure();
                failure.is(999, "vlan filtering|kernel");
                // Where there is a bridge, it is known before.
                let is_known = host.link(BRIDGE).is_some();
                let newest = with(&config, json!({ "cniVersion": "1.1.0" }));
                let status = host.plugin("bridge").verb("STATUS").config(&newest).run();
                match is_known {
                    true => _ = status.failure().is(50, "vlan filtering|kernel"),
                    false => _ = status.ok(),
                }
                host.assert_nothing_made(&before);
            }
        }
    });
}

/// ADD, what `bridge vlan` says then, CHECK and DEL of each of these keys.
fn ports_are(cases: &[(Value, &[&str])]) {
    let host = node();
    for (keys, expected) in cases {
        let (pod, config) = (host.pod(), with(&config::layer2(), keys.clone()));
        let result = host.plugin("bridge").pod(&pod).config(&config).add().result();
        assert_eq!(vlans(&host, port(&result)), *expected, "{keys}");
        assert_eq!(filters(&host), keys.as_object().unwrap().keys().any(|key| key.starts_with("vlan")), "{keys}");
        // The reference's CHECK wants an ipam, and it has no STATUS.
        if !tests::settings::is_reference() {
            host.plugin("bridge").pod(&pod).config_with(&config, &result).check().ok();
            let newest = with(&config, json!({ "cniVersion": "1.1.0" }));
            host.plugin("bridge").verb("STATUS").config(&newest).run().ok();
        }
        host.plugin("bridge").pod(&pod).config(&config).del().ok();
        host.run(&format!("ip link del {BRIDGE}"));
    }
}

#[test]
fn a_port_is_in_its_vlans_alone() {
    case(|| {
        ports_are(&[
            (json!({ "vlan": 100 }), &["100 PVID Egress Untagged"]),
            (json!({ "vlan": 4094, "preserveDefaultVlan": false }), &["4094 PVID Egress Untagged"]),
            (
                json!({ "vlan": 7, "vlanTrunk": [{ "minID": 5, "maxID": 9 }] }),
                &["5-6", "7 PVID Egress Untagged", "8-9"],
            ),
        ]);
    });
}

#[test]
fn the_default_vlan_stays_where_asked_for() {
    case(|| {
        ports_are(&[
            (json!({ "vlan": 100, "preserveDefaultVlan": true }), &["1 Egress Untagged", "100 PVID Egress Untagged"]),
            (json!({ "vlan": 1 }), &["1 PVID Egress Untagged"]),
            (json!({}), &["1 PVID Egress Untagged"]),
        ]);
    });
}

#[test]
fn a_trunk_is_the_union_of_its_items() {
    case(|| {
        ports_are(&[
            (
                json!({ "vlanTrunk": [{ "id": 100 }, { "minID": 200, "maxID": 203 }] }),
                &["1 PVID Egress Untagged", "100", "200-203"],
            ),
            (
                // They overlap, touch, and are out of order.
                json!({ "vlanTrunk": [{ "minID": 30, "maxID": 40, "id": 5 }, { "minID": 35, "maxID": 41 }, { "id": 42 },
                                      { "id": 5 }] }),
                &["1 PVID Egress Untagged", "5", "30-42"],
            ),
            (
                json!({ "vlan": 50, "preserveDefaultVlan": true, "vlanTrunk": [{ "id": 60 }] }),
                &["1 Egress Untagged", "50 PVID Egress Untagged", "60"],
            ),
            (json!({ "vlanTrunk": [] }), &["1 PVID Egress Untagged"]),
            // A kernel that is asked for each of them by itself has no room for the answer.
            (json!({ "vlanTrunk": [{ "minID": 1, "maxID": 4094 }] }), &["1 PVID Egress Untagged", "2-4094"]),
        ]);
    });
}

#[test]
fn our_bridge_begins_to_filter_under_its_pods() {
    case(|| {
        let host = node();
        let (old, new, other) = (host.pod(), host.pod(), host.pod());
        host.plugin("bridge").pod(&old).config(&config::dual_stack()).add().ok();
        assert!(!filters(&host));
        host.plugin("bridge").pod(&new).config(&in_vlan(100)).add().ok();
        assert!(filters(&host), "a VLAN without filtering is none");
        // Pods without a VLAN go on as before, beside it.
        host.plugin("bridge").pod(&other).config(&config::dual_stack()).add().ok();
        for to in [config::GATEWAY4, config::GATEWAY6, "10.22.0.4", "fd00:22::4"] {
            assert_reaches(&old, to);
        }
        for to in [config::GATEWAY4, config::GATEWAY6, "10.22.0.2", "fd00:22::2"] {
            tests::traffic::assert_silent(&new, to);
        }
    });
}

#[test]
fn an_operators_bridge_is_never_changed_and_never_unfiltered() {
    case(|| {
        tests::settings::not_for_reference("it puts VLANs on bridges that do not filter them");
        let host = node();
        host.run(&format!("ip link add {BRIDGE} address 02:00:00:00:00:01 type bridge vlan_filtering 0"));
        host.run(&format!("ip link set {BRIDGE} up"));
        let before = host.snapshot();
        for keys in [json!({ "vlan": 100 }), json!({ "vlanTrunk": [{ "id": 100 }] }), json!({ "vlanTrunk": [] })] {
            let config = with(&config::bridge(), keys);
            let pod = host.pod();
            let failure = host.plugin("bridge").pod(&pod).config(&config).add().failure();
            failure.is(999, "does not filter VLANs|vlan_filtering 1");
            host.assert_nothing_made(&before);
            host.plugin("bridge")
                .config(&with(&config, json!({ "cniVersion": "1.1.0" })))
                .verb("STATUS")
                .run()
                .failure()
                .is(50, "does not filter VLANs|vlan_filtering 1");
        }
        // As the message says.
        host.run(&format!("ip link set {BRIDGE} type bridge vlan_filtering 1"));
        let (a, b) = (host.pod(), host.pod());
        for pod in [&a, &b] {
            host.plugin("bridge").pod(pod).config(&in_vlan(100)).add().ok();
        }
        assert_reaches(&a, b.addresses()[0].split('/').next().unwrap());
    });
}
