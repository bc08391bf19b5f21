//! bandwidth: DEL, CHECK, GC, STATUS, and an ADD that fails or comes again.

use std::process::Stdio;

use serde_json::{Value, json};
use tests::{
    Host, Network, Place, Pod, case, config,
    config::with,
    plugin::{full, unread},
};

use crate::bandwidth_add::{attach, config, ifbs, limits, qdiscs};

/// A pod with limits; the result of that.
fn attach_limited(host: &Host, pod: &Pod) -> Value {
    let result = attach(host, pod);
    host.plugin("bandwidth").pod(pod).config_with(&config(limits()), &result).add().result()
}

fn detach(host: &Host, pod: &Pod, result: &Value) {
    host.plugin("bandwidth").pod(pod).config_with(&config(limits()), result).del().ok();
    host.plugin("bridge").pod(pod).config_with(&config::dual_stack(), result).del().ok();
}

#[test]
fn in_a_chain_by_cnitool() {
    case(|| {
        let host = Host::new();
        let bandwidth = json!({ "type": "bandwidth" });
        let list = json!({ "cniVersion": "1.0.0", "name": "net",
            "plugins": [config::bridge(), with(&bandwidth, limits())] });
        let network = Network::of_list(&host, &list);
        let warm_up = host.pod();
        network.add(&warm_up).ok();
        network.del(&warm_up).ok();
        let before = host.snapshot();
        let pod = host.pod();
        network.add(&pod).ok();
        assert_eq!(ifbs(&host).len(), 1);
        network.check(&pod).ok();
        network.del(&pod).ok();
        network.del(&pod).ok();
        host.assert_as(&before);
    });
}

#[test]
fn del_needs_nothing_but_who_it_is_about() {
    case(|| {
        let host = Host::new();
        let before = host.warm_up(&config::dual_stack());
        for patch in [
            json!({}),
            json!({ "prevResult": null }),
            json!({ "prevResult": { "cniVersion": "9.9", "ips": "none" } }),
            json!({ "ingressRate": 5, "ingressBurst": null }),
            json!({ "egressRate": "much" }),
        ] {
            let pod = host.pod();
            let result = attach_limited(&host, &pod);
            let config = with(&config(with(&limits(), json!({ "prevResult": result }))), patch);
            for netns in ["/run/netns/none", ""] {
                host.plugin("bandwidth").pod(&pod).netns(netns).config(&config).del().ok();
            }
            assert!(ifbs(&host).is_empty());
            host.plugin("bridge").pod(&pod).config(&config::dual_stack()).del().ok();
            host.assert_as(&before);
        }
    });
}

#[test]
fn del_leaves_a_link_as_it_was() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        let before = host.snapshot();
        let call = || host.plugin("bandwidth").pod(&pod).config_with(&config(limits()), &result);
        call().add().ok();
        call().del().ok();
        host.assert_as(&before);
        call().del().ok();
        host.assert_as(&before);
    });
}

#[test]
fn del_after_the_pods_namespace_is_gone() {
    case(|| {
        let host = Host::new();
        let pod = host.named_pod();
        let before = host.warm_up(&config::dual_stack());
        let result = attach_limited(&host, &pod);
        let (id, path) = (pod.id.clone(), pod.path.clone());
        host.unmount(&path);
        drop(pod);
        host.wait_for_ports(0);
        for (plugin, config) in [("bandwidth", config(limits())), ("bridge", config::dual_stack())] {
            host.plugin(plugin).id(&id).netns(&path).config_with(&config, &result).del().ok();
        }
        let diff = before.diff(&host.snapshot());
        assert!(!diff.contains("bwp") && !diff.contains("/networks/net/10."), "{diff}");
    });
}

#[test]
fn a_second_add_replaces_the_first() {
    case(|| {
        let host = Host::new();
        let before = host.warm_up(&config::dual_stack());
        let pod = host.pod();
        let result = attach(&host, &pod);
        for limits in [
            limits(),
            limits(),
            json!({ "ingressRate": 16_000_000, "ingressBurst": 80_000 }),
            json!({ "egressRate": 16_000_000, "egressBurst": 80_000 }),
        ] {
            let call = || host.plugin("bandwidth").pod(&pod).config_with(&config(limits.clone()), &result);
            call().add().ok();
            call().check().ok();
            assert_eq!(ifbs(&host).len(), usize::from(limits["egressRate"].is_u64()));
        }
        detach(&host, &pod, &result);
        host.assert_as(&before);
    });
}

#[test]
fn limits_that_the_config_no_longer_has() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        let before = host.snapshot();
        let call = |limits: &Value| host.plugin("bandwidth").pod(&pod).config_with(&config(limits.clone()), &result);
        let ingress = json!({ "ingressRate": 8_000_000, "ingressBurst": 80_000 });
        let egress = json!({ "egressRate": 8_000_000, "egressBurst": 80_000 });
        for (earlier, now, found) in [
            (&ingress, &json!({}), "a tbf"),
            (&egress, &json!({}), "the ifb"),
            (&limits(), &json!({}), "a tbf"),
            (&limits(), &ingress, "the ifb"),
            (&limits(), &egress, "a tbf"),
        ] {
            call(earlier).add().ok();
            call(now).check().failure().is(999, &format!("found {found}|expected none"));
            call(now).add().ok();
            call(now).check().ok();
            if *now == json!({}) {
                host.assert_as(&before);
            }
            call(now).del().ok();
        }
        host.assert_as(&before);
        // What others do to the link is theirs.
        let end = result["interfaces"][1]["name"].as_str().unwrap();
        host.run(&format!("tc qdisc add dev {end} root handle 5: pfifo limit 10"));
        call(&json!({})).add().ok();
        call(&json!({})).check().ok();
        assert_eq!(qdiscs(&host, end).len(), 1);
    });
}

#[test]
fn a_result_that_nobody_can_read_undoes_everything() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        let before = host.snapshot();
        let outputs: [fn() -> Stdio; 2] = [|| full().into(), unread];
        for output in outputs {
            let call = host.plugin("bandwidth").pod(&pod).config_with(&config(limits()), &result);
            let reply = call.stdout(output()).add();
            assert!(!reply.status.success() && reply.status.code().is_some(), "{reply}");
            host.assert_as(&before);
        }
    });
}

#[test]
fn killed_at_any_moment_del_cleans_and_add_works() {
    case(|| {
        if std::process::Command::new("strace").arg("-V").output().is_err() {
            tests::skip("there is no strace");
        }
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        let before = host.snapshot();
        let mut killed = 0;
        for nth in 1.. {
            let inject = format!("inject=sendto,sendmsg:signal=KILL:when={nth}");
            let strace = ["strace", "-qq", "-e", "trace=sendto,sendmsg", "-e", &inject, "-o", "/dev/null"];
            let call = || host.plugin("bandwidth").pod(&pod).config_with(&config(limits()), &result);
            let reply = call().under(&strace).add();
            // Without the result, which nobody has got.
            host.plugin("bandwidth").pod(&pod).config(&config(limits())).del().ok();
            let diff = before.diff(&host.snapshot());
            assert!(diff.is_empty(), "killed at request {nth}:\n{diff}");
            call().under(&strace).add();
            call().add().ok();
            call().check().ok();
            call().del().ok();
            host.assert_as(&before);
            if reply.status.success() {
                break;
            }
            killed = nth;
        }
        assert!(killed > 5, "it was killed {killed} times only");
    });
}

#[test]
fn check_knows_the_buckets_of_low_rates() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        // Kubernetes' default burst, which takes days at these rates; the kernel's reckoning of it is not exact.
        for rate in [3_000, 7_000, 24_000, 96_000, 1_000_000] {
            let limits = json!({ "ingressRate": rate, "ingressBurst": i32::MAX });
            let call = || host.plugin("bandwidth").pod(&pod).config_with(&config(limits.clone()), &result);
            call().add().ok();
            call().check().ok();
            call().del().ok();
        }
    });
}

#[test]
fn check_notices_what_is_missing_or_different() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach_limited(&host, &pod);
        let end = result["interfaces"][1]["name"].as_str().unwrap();
        let ifb = result["interfaces"][3]["name"].as_str().unwrap();
        let check = |limits: Value| host.plugin("bandwidth").pod(&pod).config_with(&config(limits), &result).check();
        check(limits()).ok();
        for (patch, fragment) in [
            (json!({ "ingressRate": 8_000_008 }), "8000000|8000008"),
            (json!({ "egressBurst": 161_600 }), "20000|20200"),
            (json!({ "latency": 100 }), "35000|100000"),
        ] {
            check(with(&limits(), patch)).failure().is(999, fragment);
        }
        // What is done, and what is said of it; nothing where it mends what was broken.
        let of_end = format!("tc qdisc add dev {end} root handle 1: tbf rate 8mbit burst 10000 limit 35000");
        let of_ifb = format!("tc qdisc add dev {ifb} root handle 1: tbf rate 4mbit burst 20000 limit 32500");
        for (line, fragment) in [
            (format!("tc qdisc del dev {end} root"), format!("{end}|none|tbf")),
            (format!("tc qdisc add dev {end} root handle 2: pfifo"), format!("{end}|pfifo|tbf")),
            (format!("tc qdisc del dev {end} root"), format!("{end}|none|tbf")),
            (of_end, String::new()),
            (format!("tc qdisc del dev {ifb} root"), format!("{ifb}|none|tbf")),
            (of_ifb, String::new()),
            (format!("ip link set {ifb} down"), format!("{ifb}|down|up")),
            (format!("ip link set {ifb} up"), String::new()),
            (format!("tc filter del dev {end} parent ffff:"), format!("{end}|no filter|{ifb}")),
            (format!("tc qdisc del dev {end} ingress"), format!("{end}|no filter|{ifb}")),
            (format!("ip link del {ifb}"), format!("no such link|{ifb}")),
        ] {
            host.run(&line);
            if fragment.is_empty() {
                check(limits()).ok();
            } else {
                check(limits()).failure().is(999, &fragment);
            }
        }
    });
}

fn gc(host: &Host, valid: Value) -> String {
    let config = with(&config(json!({ "cniVersion": "1.1.0" })), json!({ "cni.dev/valid-attachments": valid }));
    host.plugin("bandwidth").verb("GC").id("").netns("").ifname("").config(&config).run().ok().stderr.clone()
}

#[test]
fn gc_removes_what_is_not_in_the_list() {
    case(|| {
        let host = Host::new();
        let pods = [host.pod(), host.pod(), host.pod()];
        for pod in &pods {
            attach_limited(&host, pod);
        }
        let other = host.pod();
        let foreign = |config: Value| with(&config, json!({ "name": "other" }));
        let result = host.plugin("bridge").pod(&other).config(&foreign(config::dual_stack())).add().result();
        let config = foreign(config(limits()));
        let result = host.plugin("bandwidth").pod(&other).config_with(&config, &result).add().result();
        gc(&host, Value::Null);
        assert_eq!(ifbs(&host).len(), 4);
        let said = gc(&host, json!([{ "containerID": pods[1].id, "ifname": "eth0" }]));
        let names = |pod: &Pod| said.contains(&format!(" {} ", pod.id));
        assert!(names(&pods[0]) && names(&pods[2]) && !names(&pods[1]) && said.contains("still up"), "{said}");
        assert_eq!(ifbs(&host).len(), 2);
        gc(&host, json!([]));
        assert_eq!(ifbs(&host).len(), 1);
        host.plugin("bandwidth").pod(&other).config_with(&config, &result).check().ok();
    });
}

#[test]
fn status_makes_nothing() {
    case(|| {
        let host = Host::new();
        let before = host.snapshot();
        let status = |limits: Value| {
            let config = with(&config(limits), json!({ "cniVersion": "1.1.0" }));
            host.plugin("bandwidth").verb("STATUS").config(&config).run()
        };
        status(limits()).ok();
        status(json!({})).ok();
        host.assert_as(&before);
        assert_eq!(qdiscs(&host, "lo"), [Value::Null; 0]);
        status(json!({ "egressRate": 1 })).failure().is(50, "burst must also be set");
    });
}

/// After an upgrade in place.
#[test]
fn pods_of_the_reference_are_checked_and_removed() {
    case(|| {
        let host = Host::new();
        let before = host.warm_up(&config::dual_stack());
        // As configured; containerd's; CRI-O's; and what takes long.
        for (burst, rate) in [
            (160_000_u64, 4_000_000),
            (2_147_483_647, 4_000_000),
            (34_359_738_352, 4_000_000),
            (2_147_483_647, 3_000),
            (2_147_483_647, 100_000),
        ] {
            let limits = json!({
                "egressRate": rate, "egressBurst": burst, "ingressRate": 7_777_777, "ingressBurst": 99_999 });
            let pod = host.pod();
            let result = host.reference("bridge").pod(&pod).config(&config::dual_stack()).add().result();
            let config = config(limits);
            let result = host.reference("bandwidth").pod(&pod).config_with(&config, &result).add().result();
            assert_eq!(ifbs(&host).len(), 1);
            host.plugin("bandwidth").pod(&pod).config_with(&config, &result).check().ok();
            host.plugin("bandwidth").pod(&pod).netns("").config_with(&config, &result).del().ok();
            assert!(ifbs(&host).is_empty());
            host.plugin("bridge").pod(&pod).config_with(&config::dual_stack(), &result).del().ok();
            host.assert_as(&before);
        }
    });
}

/// And after a downgrade.
#[test]
fn the_reference_checks_and_removes_our_pods() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach_limited(&host, &pod);
        host.reference("bandwidth").pod(&pod).config_with(&config(limits()), &result).check().ok();
        host.reference("bandwidth").pod(&pod).config_with(&config(limits()), &result).del().ok();
        assert!(ifbs(&host).is_empty());
    });
}

/// What the reference left of another attachment of the container is that one's.
#[test]
fn an_unmarked_ifb_is_not_taken_from_its_user() {
    case(|| {
        let host = Host::new();
        let mut pod = host.pod();
        let bridge = with(&config::bridge(), json!({ "ipam": { "routes": null } }));
        "net1".clone_into(&mut pod.ifname);
        let first = host.reference("bridge").pod(&pod).config(&bridge).add().result();
        let first = host.reference("bandwidth").pod(&pod).config_with(&config(limits()), &first).add().result();
        "net2".clone_into(&mut pod.ifname);
        let second = host.plugin("bridge").pod(&pod).config(&bridge).add().result();
        let second = host.plugin("bandwidth").pod(&pod).config_with(&config(limits()), &second).add().result();
        assert_eq!(ifbs(&host).len(), 2);
        host.plugin("bandwidth").pod(&pod).config_with(&config(limits()), &second).del().ok();
        let check = host.plugin("bandwidth").pod(&pod).ifname("net1").config_with(&config(limits()), &first).check();
        check.ok();
        host.plugin("bandwidth").pod(&pod).ifname("net1").config_with(&config(limits()), &first).del().ok();
        assert!(ifbs(&host).is_empty());
    });
}

/// Runtimes pass no result to a DEL of a config before 0.4.0.
#[test]
fn without_a_result_an_unmarked_ifb_is_its_users() {
    case(|| {
        let bridge = config::bridge();
        let one_way = json!({ "ingressRate": 8_000_000, "ingressBurst": 80_000 });
        for (second, keeps_pair) in [(config(limits()), true), (config(one_way), true), (config(limits()), false)] {
            let host = Host::new();
            let mut pod = host.pod();
            let first = host.reference("bridge").pod(&pod).config(&bridge).add().result();
            let first = host.reference("bandwidth").pod(&pod).config_with(&config(limits()), &first).add().result();
            "net1".clone_into(&mut pod.ifname);
            let without_routes = with(&bridge, json!({ "ipam": { "routes": null } }));
            let result = host.plugin("bridge").pod(&pod).config(&without_routes).add().result();
            host.plugin("bandwidth").pod(&pod).config_with(&second, &result).add().ok();
            if !keeps_pair {
                host.plugin("bridge").pod(&pod).config_with(&bridge, &result).del().ok();
            }
            for _ in 0..2 {
                host.plugin("bandwidth").pod(&pod).config(&second).del().ok();
                assert_eq!(ifbs(&host).len(), 1, "{second} {keeps_pair}");
            }
            "eth0".clone_into(&mut pod.ifname);
            host.plugin("bandwidth").pod(&pod).config_with(&config(limits()), &first).check().ok();
            // Whether the namespace can be asked or not.
            let netns = if keeps_pair { pod.path.clone() } else { String::new() };
            host.plugin("bandwidth").pod(&pod).netns(&netns).config(&config(limits())).del().ok();
            assert!(ifbs(&host).is_empty());
        }
    });
}
