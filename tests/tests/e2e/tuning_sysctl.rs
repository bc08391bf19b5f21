//! tuning: sysctls of the pod's namespace.

use serde_json::{Value, json};
use tests::{Host, Place, Pod, Reply, case, config::with, plugin::full};

use crate::tuning_link::{linked, tuning, without_dns};

const SOMAXCONN: &str = "/proc/sys/net/core/somaxconn";

fn add(host: &Host, pod: &Pod, previous: &Value, patch: Value) -> Reply {
    host.plugin("tuning").pod(pod).config_with(&with(&tuning(), patch), previous).add()
}

fn check(host: &Host, pod: &Pod, previous: &Value, patch: Value) -> Reply {
    host.plugin("tuning").pod(pod).config_with(&with(&tuning(), patch), previous).check()
}

#[test]
fn they_are_set_in_the_pod_alone() {
    case(|| {
        let host = Host::new();
        let (pod, previous) = linked(&host);
        let on_host = host.read(SOMAXCONN);
        let sysctl = json!({
            "net.core.somaxconn": "511",
            "net/ipv4/ip_forward": "1",
            "net.ipv4.conf.IFNAME.arp_filter": "1",
            "net.ipv4.ip_local_port_range": "20000 30000",
        });
        let result = add(&host, &pod, &previous, json!({ "sysctl": sysctl })).result();
        assert_eq!(without_dns(result), previous);
        assert_eq!(pod.read(SOMAXCONN).as_deref(), Some("511"));
        assert_eq!(pod.read("/proc/sys/net/ipv4/ip_forward").as_deref(), Some("1"));
        assert_eq!(pod.read("/proc/sys/net/ipv4/conf/eth0/arp_filter").as_deref(), Some("1"));
        assert_eq!(pod.read("/proc/sys/net/ipv4/ip_local_port_range").as_deref(), Some("20000\t30000"));
        assert_eq!(host.read(SOMAXCONN), on_host);
        assert!(host.files("/run/cni").is_empty(), "no attribute, no backup");
    });
}

#[test]
fn an_interface_with_a_dot_in_its_name() {
    case(|| {
        let host = Host::new();
        let (mut pod, previous) = linked(&host);
        pod.rename("eth0", "eth0.5");
        pod.ifname = "eth0.5".to_owned();
        add(&host, &pod, &previous, json!({ "sysctl": { "net.ipv4.conf.IFNAME.arp_filter": "1" } })).ok();
        assert_eq!(pod.read("/proc/sys/net/ipv4/conf/eth0.5/arp_filter").as_deref(), Some("1"));
    });
}

/// `args.cni` without a `sysctl` in the config made the reference panic.
#[test]
fn args_replace_and_add_key_by_key() {
    case(|| {
        let host = Host::new();
        let (pod, previous) = linked(&host);
        let args = json!({ "cni": { "sysctl": { "net.core.somaxconn": "300" } } });
        let both = json!({
            "sysctl": { "net.core.somaxconn": "200", "net.ipv4.ip_default_ttl": "70" }, "args": args });
        add(&host, &pod, &previous, both.clone()).ok();
        assert_eq!(pod.read(SOMAXCONN).as_deref(), Some("300"));
        assert_eq!(pod.read("/proc/sys/net/ipv4/ip_default_ttl").as_deref(), Some("70"));
        check(&host, &pod, &previous, both).ok();
    });
}

#[test]
fn args_without_a_sysctl_in_the_config() {
    case(|| {
        let host = Host::new();
        let (pod, previous) = linked(&host);
        let args = json!({ "args": { "cni": { "sysctl": { "net.core.somaxconn": "301" } } } });
        add(&host, &pod, &previous, args.clone()).ok();
        assert_eq!(pod.read(SOMAXCONN).as_deref(), Some("301"));
        check(&host, &pod, &previous, args.clone()).ok();
        let del = with(&tuning(), args);
        host.plugin("tuning").pod(&pod).config(&del).del().ok();
    });
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_touched() {
    case(|| {
        let host = Host::new();
        let (pod, previous) = linked(&host);
        let before = pod.read(SOMAXCONN);
        for (sysctl, fragment) in [
            (r#"{"net.core.somaxconn":"99","kernel.msgmax":"1"}"#, "invalid net sysctl key"),
            (r#"{"net.core.somaxconn":"99","vm/swappiness":"1"}"#, "invalid net sysctl key"),
            (r#"{"net.core.somaxconn":"99","net.core.somaxconn":"98"}"#, "duplicated sysctl keys"),
        ] {
            let config = with(&tuning(), json!({ "prevResult": previous })).to_string();
            let stdin = format!("{},\"sysctl\":{sysctl}}}", config.strip_suffix('}').unwrap());
            host.plugin("tuning").pod(&pod).stdin(stdin).add().failure().is(999, fragment);
            assert_eq!(pod.read(SOMAXCONN), before, "{sysctl}");
        }
    });
}

#[test]
fn one_that_fails_is_named_and_the_others_are_set_back() {
    case(|| {
        let host = Host::new();
        let (pod, previous) = linked(&host);
        let before = pod.read(SOMAXCONN);
        for (key, value, fragment) in [
            ("net.ipv4.ip_default_ttl", "9999", "invalid argument"),
            ("net.ipv4.nothing_of_this_name", "7", "no such file"),
            ("net.ipv4.conf.eth7.arp_filter", "7", "no such file"),
        ] {
            // In whichever order they are set: the maps of some have none.
            let sysctl = json!({ "net.core.somaxconn": "97", "net.ipv4.ip_forward": "1", key: value });
            let failure = add(&host, &pod, &previous, json!({ "sysctl": sysctl })).failure();
            failure.is(999, &format!("{key}|\"{value}\"|{fragment}"));
            assert_eq!(pod.read(SOMAXCONN), before);
            assert_eq!(pod.read("/proc/sys/net/ipv4/ip_forward").as_deref(), Some("0"));
        }
    });
}

#[test]
fn settings_for_all_links_are_set_back_on_each() {
    case(|| {
        let host = Host::new();
        let (pod, previous) = linked(&host);
        // The pod's link differs from the others.
        let eth0 = "/proc/sys/net/ipv4/conf/eth0/forwarding";
        pod.enter(|| std::fs::write(eth0, "1").unwrap());
        let sysctl = json!({ "sysctl": { "net.ipv4.conf.all.forwarding": "1" } });
        let reply =
            host.plugin("tuning").pod(&pod).config_with(&with(&tuning(), sysctl), &previous).stdout(full()).add();
        assert!(!reply.status.success(), "{reply}");
        assert_eq!(pod.read(eth0).as_deref(), Some("1"));
        assert_eq!(pod.read("/proc/sys/net/ipv4/conf/lo/forwarding").as_deref(), Some("0"));
        assert_eq!(pod.read("/proc/sys/net/ipv4/ip_forward").as_deref(), Some("0"));
    });
}

#[test]
fn one_that_can_only_be_written_is_written() {
    case(|| {
        let host = Host::new();
        let (pod, previous) = linked(&host);
        let sysctl = json!({ "sysctl": { "net.ipv4.route.flush": "1" } });
        add(&host, &pod, &previous, sysctl.clone()).ok();
        check(&host, &pod, &previous, sysctl).ok();
    });
}

/// The kernel prints tabs, other bases, sorted lists (containernetworking/plugins#885).
#[test]
fn check_compares_what_values_mean() {
    case(|| {
        let host = Host::new();
        let (pod, previous) = linked(&host);
        let sysctl = json!({ "sysctl": {
            "net.ipv4.ip_local_port_range": "20000 30000",
            "net.ipv4.tcp_rmem": "4096  87380 6291456",
            "net.ipv4.ping_group_range": "0 1000",
            "net.core.somaxconn": "0x200",
            "net.ipv4.ip_local_reserved_ports": "9000-9002,8080",
            "net.ipv4.conf.IFNAME.arp_filter": "1",
            // Cannot be read before it was set, and is printed with all its digits.
            "net.ipv6.conf.IFNAME.stable_secret": "2001:db8::1",
            // Printed with all its digits.
            "net.ipv4.tcp_fastopen_key": "1-2-3-4",
        } });
        add(&host, &pod, &previous, sysctl.clone()).ok();
        check(&host, &pod, &previous, sysctl).ok();
    });
}

/// As with the reference, save that it cannot clear a list.
#[test]
fn an_empty_value_leaves_a_setting_alone_and_clears_a_list() {
    case(|| {
        let host = Host::new();
        let (pod, previous) = linked(&host);
        let list = "/proc/sys/net/ipv4/ip_local_reserved_ports";
        pod.enter(|| std::fs::write(list, "8080").unwrap());
        let before = pod.read(SOMAXCONN);
        for nothing in [json!(""), Value::Null] {
            // Not by `with`, for which null means to leave a key out.
            let mut config = with(&tuning(), json!({ "prevResult": previous }));
            config["sysctl"] = json!({
                "net.core.somaxconn": nothing, "net.ipv4.tcp_rmem": nothing, "net.ipv4.tcp_congestion_control": nothing,
                "net.ipv4.ip_local_reserved_ports": nothing });
            host.plugin("tuning").pod(&pod).config(&config).add().ok();
            assert_eq!(pod.read(SOMAXCONN), before);
            assert_eq!(pod.read(list).as_deref(), Some(""));
            host.plugin("tuning").pod(&pod).config(&config).check().ok();
            pod.enter(|| std::fs::write(list, "8080").unwrap());
            host.plugin("tuning").pod(&pod).config(&config).check().failure().is(999, "ip_local_reserved_ports|8080");
        }
    });
}

#[test]
fn check_says_found_and_expected() {
    case(|| {
        let host = Host::new();
        let (pod, previous) = linked(&host);
        let sysctl = json!({ "sysctl": { "net.ipv4.ip_local_port_range": "20000 30000" } });
        add(&host, &pod, &previous, sysctl.clone()).ok();
        pod.enter(|| std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "20000 30001").unwrap());
        check(&host, &pod, &previous, sysctl).failure().is(999, "ip_local_port_range|20000 30000|30001");
        let gone = json!({ "sysctl": { "net.ipv4.nothing_of_this_name": "1" } });
        check(&host, &pod, &previous, gone).failure().is(999, "nothing_of_this_name");
    });
}

/// Nobody else's `/etc` may see the list.
fn allow(host: &Host, list: &str) {
    host.run("mount -t tmpfs tmpfs /etc");
    host.write("/etc/cni/tuning/allowlist.conf", list);
}

#[test]
fn the_list_of_allowed_ones() {
    case(|| {
        let host = Host::new();
        let (pod, previous) = linked(&host);
        allow(&host, "\n  ^net\\.core\\.somaxconn$\t\n^net.ipv4.conf.IFNAME.[a-z_]*$\n");
        let before = pod.read(SOMAXCONN);
        let fine = json!({ "net.core.somaxconn": "96", "net.ipv4.conf.IFNAME.arp_filter": "1" });
        add(&host, &pod, &previous, json!({ "sysctl": fine })).ok();
        assert_eq!(pod.read(SOMAXCONN).as_deref(), Some("96"));
        pod.enter(|| std::fs::write(SOMAXCONN, before.clone().unwrap()).unwrap());
        // The key as it is written is what counts.
        for key in ["net.ipv4.ip_forward", "net.ipv4.conf.eth0.arp_filter", "net/core/somaxconn"] {
            let failure = add(&host, &pod, &previous, json!({ "sysctl": { key: "1" } })).failure();
            failure.is(999, &format!("Sysctl {key} is not allowed|somaxconn"));
        }
        let args = json!({ "args": { "cni": { "sysctl": { "net.ipv4.ip_forward": "1" } } }, "sysctl": fine });
        add(&host, &pod, &previous, args).failure().is(999, "net.ipv4.ip_forward is not allowed");
        assert_eq!(pod.read(SOMAXCONN), before);
        // Only ADD goes by it: what was allowed then is no fault of the pod.
        let patch = json!({ "sysctl": { "net.ipv4.ip_default_ttl": "64" } });
        check(&host, &pod, &previous, patch).ok();
    });
}

#[test]
fn a_line_of_the_list_that_cannot_be_read_is_named() {
    case(|| {
        let host = Host::new();
        let (pod, previous) = linked(&host);
        allow(&host, "^net.core.somaxconn$\n\n([a-z\n");
        add(&host, &pod, &previous, json!({ "sysctl": { "net.core.somaxconn": "95" } })).ok();
        let failure = add(&host, &pod, &previous, json!({ "sysctl": { "net.ipv4.ip_forward": "1" } })).failure();
        failure.is(999, "allowlist.conf, line 3|([a-z");
        assert_eq!(pod.read("/proc/sys/net/ipv4/ip_forward").as_deref(), Some("0"));
        // Nothing to allow, nothing to read.
        add(&host, &pod, &previous, json!({})).ok();
    });
}
