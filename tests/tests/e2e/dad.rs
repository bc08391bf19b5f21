//! IPv6 duplicate address detection: off unless asked for, and waited for then.

use std::time::Duration;

use serde_json::json;
use tests::{
    Host, Place, Pod, case,
    config::{self, BRIDGE, GATEWAY6, with},
    traffic::{assert_reaches, ping},
};

/// The flags of the pod's global IPv6 address.
fn tentative(pod: &Pod) -> bool {
    pod.run("ip -6 address show dev eth0 scope global").contains("tentative")
}

#[test]
fn addresses_work_when_add_returns() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let reply = host.plugin("bridge").pod(&pod).config(&config::dual_stack()).add();
        reply.ok();
        assert!(!tentative(&pod));
        let gateway = host.run(&format!("ip -6 address show dev {BRIDGE} scope global"));
        assert!(!gateway.contains("tentative"), "{gateway}");
        let first = ping(&pod, GATEWAY6.parse().unwrap(), Duration::from_secs(3)).unwrap();
        assert!(first < Duration::from_millis(200), "the gateway answers after {first:?}");
        assert!(reply.time < Duration::from_secs(1), "{:?}", reply.time);
    });
}

#[test]
fn with_enabledad_add_waits_for_the_end_of_it() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let config = with(&config::dual_stack(), json!({ "enabledad": true }));
        let reply = host.plugin("bridge").pod(&pod).config(&config).add();
        reply.ok();
        assert!(!tentative(&pod));
        assert!(reply.time < Duration::from_secs(6), "{:?}", reply.time);
        assert_eq!(pod.read("/proc/sys/net/ipv6/conf/eth0/accept_dad").unwrap(), "1");
        assert_reaches(&pod, GATEWAY6);
    });
}

#[test]
fn with_enabledad_a_duplicate_is_found() {
    case(|| {
        let host = Host::new();
        let config = with(
            &config::fixed(&[("fd00:22::50/64", GATEWAY6)]),
            json!({
            "enabledad": true, "ipam": { "routes": null } }),
        );
        let (a, b) = (host.pod(), host.pod());
        host.plugin("bridge").pod(&a).config(&config).add().ok();
        let before = host.snapshot();
        let failure = host.plugin("bridge").pod(&b).config(&config).add().failure();
        failure.is(999, "fd00:22::50");
        assert!(b.link("eth0").is_none(), "the failed ADD is undone");
        host.assert_as(&before);
        assert_reaches(&a, GATEWAY6);
    });
}
