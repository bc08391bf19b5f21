//! loopback: `lo` is up.

use serde_json::{Value, json};
use tests::{
    Host, Place, case,
    config::with,
    settings::versions,
    traffic::{assert_reaches, assert_silent},
};

fn config() -> Value {
    json!({ "cniVersion": "1.0.0", "name": "lo", "type": "loopback" })
}

#[test]
fn brings_lo_up_and_takes_it_down() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let network = host.network(&config());
        assert_silent(&pod, "127.0.0.1");
        network.add(&pod).ok();
        assert_reaches(&pod, "127.0.0.1");
        assert_reaches(&pod, "::1");
        network.check(&pod).ok();
        network.del(&pod).ok();
        assert_silent(&pod, "127.0.0.1");
        network.del(&pod).ok();
    });
}

#[test]
fn the_interface_name_does_not_matter() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = host.plugin("loopback").pod(&pod).ifname("anything").config(&config()).add().result();
        assert_eq!(result["interfaces"][0]["name"], "lo");
        assert_reaches(&pod, "127.0.0.1");
    });
}

#[test]
fn a_previous_result_passes_through() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let previous = json!({
            "cniVersion": "1.0.0", "interfaces": [{ "name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/x" }],
            "ips": [{ "address": "10.1.0.5/24", "interface": 0 }], "routes": [{ "dst": "0.0.0.0/0" }] });
        let result = host.plugin("loopback").pod(&pod).config_with(&config(), &previous).add().result();
        assert_eq!(result, previous);
        assert_reaches(&pod, "127.0.0.1");
    });
}

#[test]
fn a_previous_result_of_another_shape_is_refused() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let previous = json!({ "cniVersion": "0.2.0", "ip4": { "ip": "10.1.0.5/24" } });
        host.plugin("loopback").pod(&pod).config_with(&config(), &previous).add().failure().is(999, "0.2.0");
        let previous = json!({ "cniVersion": "1.0.0", "ips": "none" });
        host.plugin("loopback").pod(&pod).config_with(&config(), &previous).add().failure().is(999, "");
        // The error came before lo was touched.
        assert_silent(&pod, "127.0.0.1");
    });
}

#[test]
fn other_addresses_on_lo_are_refused() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        pod.run("ip address add 10.1.0.5/32 dev lo");
        host.plugin("loopback").pod(&pod).config(&config()).add().failure().is(999, "10.1.0.5");
    });
}

#[test]
fn del_without_a_namespace_is_fine() {
    case(|| {
        let host = Host::new();
        host.plugin("loopback").netns("").config(&config()).del().ok();
        host.plugin("loopback").netns("/run/netns/none").config(&config()).del().ok();
    });
}

#[test]
fn del_with_something_else_at_the_path_is_fine() {
    case(|| {
        let host = Host::new();
        host.write("/run/test/file", "");
        host.plugin("loopback").netns("/run/test/file").config(&config()).del().ok();
    });
}

#[test]
fn check_notices_that_lo_is_down() {
    case(|| {
        for version in versions().iter().filter(|v| **v >= "0.4.0") {
            let host = Host::new();
            let pod = host.pod();
            let config = with(&config(), json!({ "cniVersion": version }));
            let call = || host.plugin("loopback").pod(&pod).config(&config);
            call().check().failure().is(999, "down");
            call().add().ok();
            call().check().ok();
            call().netns("/run/netns/none").check().failure().is(999, "/run/netns/none");
        }
    });
}
