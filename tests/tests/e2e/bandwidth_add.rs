//! bandwidth: what ADD makes, and what it refuses.

use serde_json::{Value, json};
use tests::{Host, Place, Pod, case, config, config::with, settings::versions};

/// A config of bandwidth in the network of [`config::bridge`].
pub(crate) fn config(limits: Value) -> Value {
    with(&json!({ "cniVersion": "1.0.0", "name": "net", "type": "bandwidth" }), limits)
}

/// 8 Mbit/s to the pod, 4 Mbit/s from it.
pub(crate) fn limits() -> Value {
    json!({ "ingressRate": 8_000_000, "ingressBurst": 80_000, "egressRate": 4_000_000, "egressBurst": 160_000 })
}

/// A pod on the bridge; the result of that.
pub(crate) fn attach(host: &Host, pod: &Pod) -> Value {
    host.plugin("bridge").pod(pod).config(&config::dual_stack()).add().result()
}

/// The host's ifbs, as `ip` shows them.
pub(crate) fn ifbs(host: &Host) -> Vec<Value> {
    host.json("ip -d -j link show type ifb").as_array().unwrap().clone()
}

/// The queueing disciplines that somebody gave to a link.
pub(crate) fn qdiscs(host: &Host, link: &str) -> Vec<Value> {
    let all = host.json(&format!("tc -j qdisc show dev {link}"));
    all.as_array().unwrap().iter().filter(|q| q["kind"] != "noqueue").cloned().collect()
}

fn host_end(result: &Value) -> String {
    result["interfaces"][1]["name"].as_str().unwrap().to_owned()
}

#[test]
fn both_ways_are_limited_and_the_ifb_is_in_the_result() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let before = attach(&host, &pod);
        let result = host.plugin("bandwidth").pod(&pod).config_with(&config(limits()), &before).add().result();
        let ifb = &ifbs(&host)[0];
        let name = ifb["ifname"].as_str().unwrap();
        let mut expected = before;
        let entry = json!({ "name": name, "mac": ifb["address"] });
        expected["interfaces"].as_array_mut().unwrap().push(entry);
        assert_eq!(result, expected);
        assert_eq!((&ifb["mtu"], name.len(), &name[..3]), (&1500.into(), 15, "bwp"));
        assert!(ifb["flags"].as_array().unwrap().contains(&"UP".into()));
        let end = host_end(&result);
        let of_end = qdiscs(&host, &end);
        let tbf = |rate: u64, burst: u64| json!({ "rate": rate, "burst": burst, "lat": 25000 });
        assert_eq!(
            (&of_end[0]["kind"], &of_end[0]["handle"], &of_end[0]["root"]),
            (&"tbf".into(), &"1:".into(), &true.into())
        );
        assert_eq!(of_end[0]["options"], tbf(1_000_000, 10_000));
        assert_eq!((&of_end[1]["kind"], of_end.len()), (&"ingress".into(), 2));
        let of_ifb = qdiscs(&host, name);
        assert_eq!((of_ifb.len(), &of_ifb[0]["options"]), (1, &tbf(500_000, 20_000)));
        host.plugin("bandwidth").pod(&pod).config_with(&config(limits()), &result).check().ok();
    });
}

#[test]
fn one_action_redirects() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let before = attach(&host, &pod);
        host.plugin("bandwidth").pod(&pod).config_with(&config(limits()), &before).add().ok();
        let filters = host.json(&format!("tc -j filter show dev {} parent ffff:", host_end(&before)));
        let actions = filters.as_array().unwrap().iter().filter_map(|f| f["options"]["actions"].as_array());
        assert_eq!(actions.map(Vec::len).collect::<Vec<_>>(), [1], "{filters}");
    });
}

#[test]
fn without_limits_the_result_passes_through() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        let before = host.snapshot();
        for limits in [json!({}), json!({ "runtimeConfig": { "bandwidth": {} } }), json!({ "egressRate": 0 })] {
            let config = config(limits);
            let call = || host.plugin("bandwidth").pod(&pod).config_with(&config, &result);
            assert_eq!(call().add().result(), result);
            call().check().ok();
            call().del().ok();
        }
        host.assert_as(&before);
    });
}

/// Also where the interface is no veth, which could not be limited.
#[test]
fn without_limits_any_interface_will_do() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        pod.run("ip link add eth0 type bridge");
        let result = json!({ "cniVersion": "1.0.0", "interfaces": [{ "name": "eth0", "sandbox": pod.path }] });
        let call = |limits: Value| host.plugin("bandwidth").pod(&pod).config_with(&config(limits), &result);
        assert_eq!(call(json!({})).add().result(), result);
        call(json!({})).check().ok();
        call(limits()).add().failure().is(999, "eth0|bridge|veth");
    });
}

#[test]
fn without_a_previous_result_it_says_that_it_is_chained() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        for limits in [json!({}), limits()] {
            let call = || host.plugin("bandwidth").pod(&pod).config(&config(limits.clone()));
            call().add().failure().is(999, "must be called as a chained plugin|prevResult");
            call().check().failure().is(999, "must be called as a chained plugin|prevResult");
        }
    });
}

#[test]
fn the_configs_own_keys_win_over_the_runtimes() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        let wish = json!({ "runtimeConfig": { "bandwidth": { "ingressRate": 800_000, "ingressBurst": 160_000,
            "egressRate": 800_000, "egressBurst": 160_000 } } });
        let add =
            |limits: Value| host.plugin("bandwidth").pod(&pod).config_with(&config(limits), &result).add().result();
        add(with(&wish, json!({ "ingressRate": 8_000_000, "ingressBurst": 80_000 })));
        assert_eq!(qdiscs(&host, &host_end(&result))[0]["options"]["rate"], 1_000_000);
        assert!(ifbs(&host).is_empty());
        host.plugin("bandwidth").pod(&pod).config(&config(json!({}))).del().ok();
        let other = host.pod();
        let result = attach(&host, &other);
        host.plugin("bandwidth").pod(&other).config_with(&config(wish), &result).add().ok();
        assert_eq!(qdiscs(&host, &host_end(&result))[0]["options"]["rate"], 100_000);
        assert_eq!(ifbs(&host).len(), 1);
    });
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_done() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        let before = host.snapshot();
        for (limits, fragment) in [
            (json!({ "ingressRate": 8000 }), "if rate is set, burst must also be set"),
            (json!({ "egressBurst": 8000 }), "if burst is set, rate must also be set"),
            (json!({ "runtimeConfig": { "bandwidth": { "egressRate": 8000 } } }), "burst must also be set"),
            (json!({ "egressRate": 8000, "egressBurst": 34_359_738_360_u64 }), "burst cannot be more than 4GB"),
            (json!({ "egressRate": -1, "egressBurst": 80_000 }), "egressRate"),
            (json!({ "egressRate": "8M", "egressBurst": 80_000 }), "egressRate"),
        ] {
            let config = config(limits);
            let call = || host.plugin("bandwidth").pod(&pod).config_with(&config, &result);
            call().add().failure().is(999, fragment);
            call().check().failure().is(999, fragment);
            host.assert_as(&before);
        }
    });
}

/// The kernel would drop all full packets, and the pod would hang in its first longer answer.
#[test]
fn a_bucket_that_no_packet_fits_into_is_refused() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        let before = host.snapshot();
        for (key, limits) in [
            ("ingressBurst", json!({ "ingressRate": 123, "ingressBurst": 456 })),
            ("egressBurst", json!({ "egressRate": 8_000_000, "egressBurst": 1513 * 8 })),
        ] {
            let call = host.plugin("bandwidth").pod(&pod).config_with(&config(limits), &result);
            call.add().failure().is(999, &format!("{key}|1514|12112|1500"));
            host.assert_as(&before);
        }
    });
}

#[test]
fn rates_and_bursts_beyond_32_bits() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        // 100 Gbit/s, almost 4 GB, at the same time more time than the kernel's ticks can say.
        let limits = json!({ "ingressRate": 100_000_000_000_u64, "ingressBurst": 34_359_738_000_u64,
            "egressRate": 8000, "egressBurst": i32::MAX });
        let call = || host.plugin("bandwidth").pod(&pod).config_with(&config(limits.clone()), &result);
        call().add().ok();
        assert_eq!(qdiscs(&host, &host_end(&result))[0]["options"]["rate"], 12_500_000_000_u64);
        call().check().ok();
    });
}

#[test]
fn the_queue_is_as_long_as_asked_for() {
    case(|| {
        let host = Host::new();
        for (more, latency, burst) in [
            (json!({}), 25_000, 10_000),
            (json!({ "latency": 110 }), 100_000, 10_000),
            (json!({ "latency": 110, "maxBurst": 16_000 }), 108_000, 2000),
            (json!({ "maxBurst": 16_000 }), 25_000, 2000),
        ] {
            let pod = host.pod();
            let result = attach(&host, &pod);
            let config = config(with(&json!({ "ingressRate": 8_000_000, "ingressBurst": 80_000 }), more));
            host.plugin("bandwidth").pod(&pod).config_with(&config, &result).add().ok();
            let options = &qdiscs(&host, &host_end(&result))[0]["options"];
            assert_eq!(*options, json!({ "rate": 1_000_000, "burst": burst, "lat": latency }));
            host.plugin("bandwidth").pod(&pod).config_with(&config, &result).check().ok();
        }
    });
}

/// One container, twice on one network.
#[test]
fn two_attachments_of_a_container_have_an_ifb_each() {
    case(|| {
        let host = Host::new();
        let bridge = with(&config::bridge(), json!({ "ipam": { "routes": null } }));
        let before = host.warm_up(&bridge);
        let mut pod = host.pod();
        let config = config(limits());
        let names = ["net1", "net2"];
        let results = names.map(|name| {
            name.clone_into(&mut pod.ifname);
            let result = host.plugin("bridge").pod(&pod).config(&bridge).add().result();
            host.plugin("bandwidth").pod(&pod).config_with(&config, &result).add().result()
        });
        assert_eq!(ifbs(&host).len(), 2);
        for (name, result) in names.iter().zip(&results) {
            host.plugin("bandwidth").pod(&pod).ifname(name).config_with(&config, result).check().ok();
        }
        host.plugin("bandwidth").pod(&pod).ifname("net1").config_with(&config, &results[0]).del().ok();
        host.plugin("bridge").pod(&pod).ifname("net1").config_with(&bridge, &results[0]).del().ok();
        assert_eq!(ifbs(&host).len(), 1);
        host.plugin("bandwidth").pod(&pod).ifname("net2").config_with(&config, &results[1]).check().ok();
        for plugin in [("bandwidth", &config), ("bridge", &bridge)] {
            host.plugin(plugin.0).pod(&pod).ifname("net2").config_with(plugin.1, &results[1]).del().ok();
        }
        host.assert_as(&before);
    });
}

#[test]
fn old_versions_of_results_say_nothing_of_interfaces() {
    case(|| {
        for version in versions() {
            let host = Host::new();
            let pod = host.pod();
            let version = json!({ "cniVersion": version });
            let bridge = with(&config::bridge(), version.clone());
            let result = host.plugin("bridge").pod(&pod).config(&bridge).add().result();
            let config = config(with(&limits(), version.clone()));
            let call = |result: &Value| host.plugin("bandwidth").pod(&pod).config_with(&config, result);
            let after = call(&result).add().result();
            assert_eq!(ifbs(&host).len(), 1);
            let listed = after["interfaces"].as_array().map_or(0, Vec::len);
            assert_eq!(listed, if version["cniVersion"].as_str() < Some("0.3.0") { 0 } else { 4 });
            call(&after).del().ok();
            assert!(ifbs(&host).is_empty());
        }
    });
}

#[test]
fn somebody_elses_queueing_discipline_is_left_alone() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        let end = host_end(&result);
        let add = format!("tc qdisc add dev {end}");
        let filter = format!("tc filter add dev {end} parent ffff: protocol ip u32 match u32 0 0 flowid 1:1");
        for (lines, fragment, undo) in [
            (vec![format!("{add} root handle 7: pfifo limit 10")], "pfifo", "root"),
            (vec![format!("{add} clsact")], "clsact", "clsact"),
            (vec![format!("{add} ingress"), filter], "ingress", "ingress"),
        ] {
            lines.iter().for_each(|line| _ = host.run(line));
            let before = host.snapshot();
            let there = qdiscs(&host, &end);
            let call = host.plugin("bandwidth").pod(&pod).config_with(&config(limits()), &result);
            call.add().failure().is(999, fragment);
            host.assert_as(&before);
            assert_eq!(qdiscs(&host, &end), there);
            host.run(&format!("tc qdisc del dev {end} {undo}"));
        }
    });
}

/// The pair is found through the pod, and only if the result lists it.
#[test]
fn behind_another_suites_bridge() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = host.reference("bridge").pod(&pod).config(&config::dual_stack()).add().result();
        let before = host.snapshot();
        let call = |result: &Value| host.plugin("bandwidth").pod(&pod).config_with(&config(limits()), result);
        let mut unlisted = result.clone();
        unlisted["interfaces"].as_array_mut().unwrap().remove(1);
        call(&unlisted).add().failure().is(999, "no veth peer of container interface|host ns");
        call(&result).ifname("eth7").add().failure().is(999, "eth7");
        call(&result).netns("/run/netns/none").add().failure().is(999, "/run/netns/none");
        host.assert_as(&before);
        let after = call(&result).add().result();
        assert_eq!((qdiscs(&host, &host_end(&result)).len(), ifbs(&host).len()), (2, 1));
        call(&after).check().ok();
        call(&after).netns("").del().ok();
        assert!(ifbs(&host).is_empty());
        host.plugin("bridge").pod(&pod).config_with(&config::dual_stack(), &after).del().ok();
    });
}
