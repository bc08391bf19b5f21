//! static: the addresses that the config names.

use serde_json::{Value, json};
use tests::{
    Host, Place, case,
    config::{self, GATEWAY4, with},
    plugin::Reply,
    traffic::assert_reaches,
};

fn config(ipam: Value) -> Value {
    with(&json!({ "cniVersion": "1.0.0", "name": "net", "type": "static" }), json!({ "ipam": ipam }))
}

fn ips(reply: &Reply) -> Value {
    reply.result()["ips"].clone()
}

#[test]
fn a_pod_gets_them() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let config = config::fixed(&[("10.22.0.50/24", GATEWAY4), ("fd00:22::50/64", config::GATEWAY6)]);
        let network = host.network(&with(&config, json!({ "ipMasq": true })));
        network.add(&pod).ok();
        assert_eq!(pod.addresses(), ["10.22.0.50/24", "fd00:22::50/64"]);
        assert_reaches(&pod, GATEWAY4);
        assert_reaches(&pod, config::GATEWAY6);
        network.check(&pod).ok();
        network.del(&pod).ok();
        assert!(pod.link("eth0").is_none());
    });
}

#[test]
fn cni_args_add_to_the_config() {
    case(|| {
        let host = Host::new();
        let config = config(json!({ "type": "static", "addresses": [{ "address": "10.1.0.5/24" }] }));
        let args = "IgnoreUnknown=1;IP=10.2.0.5/24,fd00::5/64;GATEWAY=10.2.0.1,fd00::1,10.1.0.1";
        let reply = host.plugin("static").config(&config).args(args).add();
        assert_eq!(
            ips(&reply),
            json!([
            { "address": "10.1.0.5/24" },
            { "address": "10.2.0.5/24", "gateway": "10.2.0.1" },
            { "address": "fd00::5/64", "gateway": "fd00::1" }])
        );
    });
}

#[test]
fn ips_of_args_and_runtime_replace_the_config() {
    case(|| {
        let host = Host::new();
        let config =
            config(json!({ "type": "static", "addresses": [{ "address": "10.1.0.5/24", "gateway": "10.1.0.1" }] }));
        let args = with(&config, json!({ "args": { "cni": { "ips": ["10.3.0.5/24"] } } }));
        let call = |config: &Value| host.plugin("static").config(config).args("IP=10.2.0.5/24").add();
        assert_eq!(ips(&call(&args)), json!([{ "address": "10.3.0.5/24" }]));
        let runtime = with(&args, json!({ "runtimeConfig": { "ips": ["10.4.0.5/24", "fd00::5/64"] } }));
        assert_eq!(ips(&call(&runtime)), json!([{ "address": "10.4.0.5/24" }, { "address": "fd00::5/64" }]));
        let empty = with(&config, json!({ "runtimeConfig": { "ips": [] }, "args": { "cni": { "ips": [] } } }));
        assert_eq!(ips(&call(&empty))[0]["gateway"], "10.1.0.1");
    });
}

#[test]
fn without_addresses_the_result_has_none() {
    case(|| {
        let host = Host::new();
        let config = config(json!({ "type": "static" }));
        assert_eq!(host.plugin("static").config(&config).add().result(), json!({ "cniVersion": "1.0.0" }));
        let old = with(&config, json!({ "cniVersion": "0.2.0" }));
        host.plugin("static").config(&old).add().failure().is(999, "no valid IP addresses");
        let bridge = with(&config::bridge(), json!({ "ipam": null }));
        let bridge = with(&bridge, json!({ "ipam": { "type": "static" } }));
        host.plugin("bridge").pod(&host.pod()).config(&bridge).add().failure().is(999, "missing IP config");
    });
}

#[test]
fn del_asks_for_nothing() {
    case(|| {
        let host = Host::new();
        for ipam in [json!({ "type": "static", "addresses": [{ "address": "bad" }] }), Value::Null, json!({})] {
            host.plugin("static").config(&config(ipam)).del().ok();
        }
    });
}

#[test]
fn check_compares_gateways() {
    case(|| {
        let host = Host::new();
        let config =
            config(json!({ "type": "static", "addresses": [{ "address": "10.1.0.5/24", "gateway": "10.1.0.1" }] }));
        let check = |ip: Value| {
            let result = json!({ "cniVersion": "1.0.0", "ips": [ip] });
            host.plugin("static").config_with(&config, &result).check()
        };
        check(json!({ "address": "10.1.0.5/24", "gateway": "10.1.0.1" })).ok();
        check(json!({ "address": "10.1.0.5/24", "gateway": "10.1.0.2" })).failure().is(999, "10.1.0.2");
        host.plugin("static").config(&config).check().failure().is(999, "prevResult");
    });
}

#[test]
fn bad_configs_are_refused() {
    case(|| {
        let host = Host::new();
        let two =
            json!({ "type": "static", "addresses": [{ "address": "10.1.0.5/24" }, { "address": "10.1.0.6/24" }] });
        for (config, args, fragment) in [
            (config(Value::Null), "", "ipam"),
            (config(json!({ "type": "static", "addresses": [{ "address": "10.1.0.5" }] })), "", "10.1.0.5"),
            (config(json!({ "type": "static", "addresses": [{ "address": "10.1.0.5/33" }] })), "", "10.1.0.5/33"),
            (config(json!({ "type": "static", "addresses": [{ "address": "10.1.0.5/24", "gateway": "x" }] })), "", "x"),
            (config(json!({ "type": "static" })), "IP=10.1.0.5", "10.1.0.5"),
            (config(json!({ "type": "static" })), "IP=10.1.0.5/24;GATEWAY=nowhere", "nowhere"),
            (
                with(&config(json!({ "type": "static" })), json!({ "runtimeConfig": { "ips": ["10.1.0.7"] } })),
                "",
                "10.1.0.7",
            ),
            (
                with(&config(json!({ "type": "static" })), json!({ "args": { "cni": { "ips": ["10.1.0.8"] } } })),
                "",
                "10.1.0.8",
            ),
            (with(&config(two), json!({ "cniVersion": "0.2.0" })), "", "more than 1 address per family"),
        ] {
            host.plugin("static").config(&config).args(args).add().failure().is(999, fragment);
        }
    });
}
