//! Every config that cannot work is refused with its reason, before anything is touched.

use serde_json::{Value, json};
use tests::{
    Host, case,
    config::{self, with},
};

/// The config is refused in these verbs with code 999 and these words; the host stays as it is.
fn refused(host: &Host, config: &Value, verbs: &[&str], fragments: &str) {
    let before = host.snapshot();
    let pod = host.pod();
    for verb in verbs {
        let result = json!({ "cniVersion": "1.0.0", "interfaces": [], "ips": [] });
        let call = host.plugin_of(config).pod(&pod).verb(verb);
        let call = if *verb == "CHECK" { call.config_with(config, &result) } else { call.config(config) };
        let reply = call.run();
        assert_eq!(reply.status.code(), Some(1), "{verb} {config}: {reply}");
        reply.failure().is(999, fragments);
    }
    let diff = before.diff(&host.snapshot());
    assert!(diff.is_empty(), "{config} left something:\n{diff}");
}

fn bridge(patch: Value) -> Value {
    with(&config::bridge(), patch)
}

#[test]
fn types_of_the_bridges_keys() {
    case(|| {
        let host = Host::new();
        for (key, value) in [
            ("bridge", json!(5)),
            ("isGateway", json!("true")),
            ("isDefaultGateway", json!(1)),
            ("forceAddress", json!([])),
            ("ipMasq", json!(1)),
            ("ipMasqBackend", json!(true)),
            ("mtu", json!(1.5)),
            ("mtu", json!([])),
            ("hairpinMode", json!("x")),
            ("promiscMode", json!({})),
            ("vlan", json!("5")),
            ("vlan", json!(1e3)),
            ("vlanTrunk", json!({})),
            ("vlanTrunk", json!([5])),
            ("vlanTrunk", json!([{ "id": "5" }])),
            ("preserveDefaultVlan", json!(0)),
            ("macspoofchk", json!("yes")),
            ("enabledad", json!("no")),
            ("disableContainerInterface", json!(1)),
            ("portIsolation", json!("true")),
            ("dns", json!([])),
            ("dns", json!({ "nameservers": "192.0.2.1" })),
            ("ipam", json!([])),
            ("runtimeConfig", json!({ "mac": 5 })),
            ("args", json!({ "cni": { "mac": 5 } })),
            ("capabilities", json!({ "mac": "yes" })),
            ("type", json!(["bridge"])),
        ] {
            // A type that the reference does not know yet is an unknown key to it.
            let unknown =
                ["ipMasqBackend", "portIsolation", "preserveDefaultVlan", "vlanTrunk", "disableContainerInterface"];
            if tests::settings::is_reference() && unknown.contains(&key) {
                continue;
            }
            let mut config = config::bridge();
            config[key] = value;
            let before = host.snapshot();
            let reply = host.plugin("bridge").pod(&host.pod()).config(&config).add();
            assert_eq!(reply.status.code(), Some(1), "{config}: {reply}");
            reply.failure().is(999, "failed to load netconf");
            let diff = before.diff(&host.snapshot());
            assert!(diff.is_empty(), "{config} left something:\n{diff}");
        }
    });
}

#[test]
fn types_of_the_previous_result() {
    case(|| {
        let host = Host::new();
        for previous in
            [json!("x"), json!([]), json!({ "cniVersion": "0.2.0" }), json!({ "ips": [{ "address": "x" }] })]
        {
            let pod = host.pod();
            let reply = host.plugin("bridge").pod(&pod).config(&bridge(json!({ "prevResult": previous }))).check();
            reply.failure().is(999, "");
        }
    });
}

#[test]
fn vlans_out_of_range() {
    case(|| {
        let host = Host::new();
        for (patch, fragments) in
            [(json!({ "vlan": 4095 }), "4095"), (json!({ "vlan": -1 }), "-1"), (json!({ "vlan": 5000 }), "5000")]
        {
            refused(&host, &bridge(patch), &["ADD", "CHECK"], &format!("invalid VLAN ID|{fragments}"));
        }
    });
}

#[test]
fn vlan_trunks_that_make_no_sense() {
    case(|| {
        let host = Host::new();
        for (trunk, fragments) in [
            (json!([{ "minID": 0, "maxID": 5 }]), "incorrect trunk minID parameter"),
            (json!([{ "minID": 5, "maxID": 4095 }]), "incorrect trunk maxID parameter"),
            (json!([{ "id": 4095 }]), "incorrect trunk id parameter"),
            (json!([{ "id": 0 }]), "incorrect trunk id parameter"),
            (json!([{ "minID": 9, "maxID": 5 }]), "minID|greater than|maxID"),
            (json!([{ "minID": 9 }]), "maxID"),
            (json!([{ "maxID": 9 }]), "minID"),
        ] {
            refused(&host, &bridge(json!({ "vlanTrunk": trunk })), &["ADD", "CHECK"], fragments);
        }
    });
}

#[test]
fn combinations_that_contradict() {
    case(|| {
        let host = Host::new();
        refused(
            &host,
            &bridge(json!({ "hairpinMode": true, "promiscMode": true })),
            &["ADD"],
            "cannot set hairpin|promisc|at the same time",
        );
    });
}

#[test]
fn combinations_of_newer_keys_that_contradict() {
    case(|| {
        let host = Host::new();
        refused(
            &host,
            &bridge(json!({ "disableContainerInterface": true })),
            &["ADD"],
            "cannot use IPAM|disableContainerInterface",
        );
        refused(
            &host,
            &bridge(json!({ "ipMasq": true, "ipMasqBackend": "ebpf" })),
            &["ADD"],
            "unknown ipmasq backend|ebpf",
        );
    });
}

#[test]
fn values_that_no_link_can_have() {
    case(|| {
        let host = Host::new();
        refused(&host, &bridge(json!({ "bridge": "a234567890123456" })), &["ADD"], "a234567890123456");
        refused(&host, &bridge(json!({ "bridge": "a/b" })), &["ADD"], "a/b");
        for mac in ["nonsense", "02:00:00:00:00", "02:00:00:00:00:0g", "01:00:5e:00:00:01", "00:00:00:00:00:00"] {
            refused(&host, &bridge(json!({ "runtimeConfig": { "mac": mac } })), &["ADD"], mac);
        }
        for mtu in [-1, 10, 70000] {
            refused(&host, &bridge(json!({ "mtu": mtu })), &["ADD"], &mtu.to_string());
        }
        refused(&host, &bridge(json!({ "mtu": "large" })), &["ADD"], "large");
        refused(&host, &bridge(json!({ "ipMasq": "ipv5" })), &["ADD"], "ipv5");
    });
}

#[test]
fn ipam_that_is_missing_or_fails() {
    case(|| {
        let host = Host::new();
        refused(&host, &bridge(json!({ "ipam": { "type": "nowhere" } })), &["ADD"], "failed to find plugin|nowhere");
        refused(&host, &bridge(json!({ "ipam": { "ranges": null } })), &["ADD"], "no IP ranges specified");
    });
}

#[test]
fn ranges_of_host_local() {
    case(|| {
        let host = Host::new();
        let with_ranges = |ranges: Value| {
            with(&config::bridge(), json!({ "type": "host-local", "ipam": { "ranges": ranges, "routes": null } }))
        };
        for (ranges, fragments) in [
            (json!([]), "no IP ranges specified"),
            (json!([[]]), "invalid range set 0|empty"),
            (json!([[{ "subnet": "10.1.0.0/31" }]]), "invalid range set 0|too small to allocate from|10.1.0.0/31"),
            (json!([[{ "subnet": "fd00::/127" }]]), "too small to allocate from"),
            (json!([[{ "subnet": "10.1.0.5/24" }]]), "host bits set|10.1.0.0"),
            (json!([[{ "subnet": "10.1.0.0" }]]), "invalid CIDR address: 10.1.0.0"),
            (json!([[{ "subnet": "10.1.0.0/40" }]]), "invalid CIDR address: 10.1.0.0/40"),
            (json!([[{ "subnet": "10.1.0.0/24", "rangeStart": "10.2.0.1" }]]), "10.2.0.1|not in network"),
            (json!([[{ "subnet": "10.1.0.0/24", "rangeEnd": "10.2.0.1" }]]), "10.2.0.1|not in network"),
            (json!([[{ "subnet": "10.1.0.0/24", "rangeStart": "10.1.0.9", "rangeEnd": "10.1.0.5" }]]), "10.1.0.9"),
            (json!([[{ "subnet": "10.1.0.0/24", "rangeStart": "10.1.0.09" }]]), "invalid IP address: 10.1.0.09"),
            (json!([[{ "subnet": "10.1.0.0/24", "gateway": "router" }]]), "invalid IP address: router"),
            (
                json!([[{ "subnet": "10.1.0.0/24" }, { "subnet": "fd00::/64" }]]),
                "invalid range set 0|mixed address families",
            ),
            (json!([[{ "subnet": "10.1.0.0/24" }, { "subnet": "10.1.0.0/16" }]]), "invalid range set 0|overlap"),
            (json!([[{ "subnet": "10.1.0.0/24" }], [{ "subnet": "10.1.0.0/16" }]]), "range set 0 overlaps with 1"),
            (json!([[{ "subnet": "10.1.0.0/24" }], [{ "subnet": "10.2.0.0/31" }]]), "invalid range set 1"),
            (json!("x"), ""),
            (json!([{ "subnet": "10.1.0.0/24" }]), ""),
        ] {
            refused(&host, &with_ranges(ranges), &["ADD", "CHECK"], fragments);
        }
        let no_ipam = with(&with_ranges(json!([])), json!({ "ipam": null }));
        refused(&host, &no_ipam, &["ADD", "CHECK"], "ipam");
    });
}

#[test]
fn requests_of_host_local() {
    case(|| {
        let host = Host::new();
        let base = with(&config::bridge(), json!({ "type": "host-local" }));
        for (patch, fragments) in [
            (json!({ "runtimeConfig": { "ips": ["nonsense"] } }), "nonsense"),
            (json!({ "runtimeConfig": { "ips": [""] } }), ""),
            (json!({ "args": { "cni": { "ips": ["10.1.0.300"] } } }), "10.1.0.300"),
            (json!({ "args": { "cni": { "ips": "10.1.0.3" } } }), ""),
            (json!({ "runtimeConfig": { "ipRanges": [[{ "subnet": "10.1.0.0/31" }]] } }), "too small"),
        ] {
            refused(&host, &with(&base, patch), &["ADD"], fragments);
        }
    });
}

#[test]
fn loopback_checks_its_keys_as_well() {
    case(|| {
        let host = Host::new();
        let base = json!({ "cniVersion": "1.0.0", "name": "lo", "type": "loopback" });
        for patch in [
            json!({ "ipam": [] }),
            json!({ "dns": 5 }),
            json!({ "capabilities": { "x": 1 } }),
            json!({ "prevResult": "x" }),
        ] {
            let reply = host.plugin("loopback").pod(&host.pod()).config(&with(&base, patch.clone())).add();
            assert_eq!(reply.status.code(), Some(1), "{patch}: {reply}");
            reply.failure().is(999, "");
        }
    });
}
