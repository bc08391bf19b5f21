//! tuning: what is the same for all that it can set: prevResult, versions, GC, STATUS.

use serde_json::{Value, json};
use tests::{Host, Place, Pod, case, config::with, settings::versions};

use crate::tuning_link::{linked, make_link, tuning, without_dns};

const FOLDER: &str = "/run/cni/tuning";

fn newest(patch: Value) -> Value {
    with(&with(&tuning(), json!({ "cniVersion": "1.1.0" })), patch)
}

fn backups(host: &Host) -> Vec<String> {
    host.files(FOLDER).into_iter().filter(|name| !name.starts_with('.')).collect()
}

#[test]
fn without_anything_to_do_the_result_passes_through() {
    case(|| {
        let host = Host::new();
        let (pod, previous) = linked(&host);
        let result = host.plugin("tuning").pod(&pod).config_with(&tuning(), &previous).add().result();
        assert_eq!(without_dns(result), previous);
        host.plugin("tuning").pod(&pod).config_with(&tuning(), &previous).check().ok();
        host.plugin("tuning").pod(&pod).config_with(&tuning(), &previous).del().ok();
        assert!(host.files("/run/cni").is_empty());
    });
}

#[test]
fn the_result_keeps_its_shape_in_each_version() {
    case(|| {
        let host = Host::new();
        let (pod, previous) = linked(&host);
        for version in versions().iter().copied() {
            let previous = if version < "0.3.0" {
                json!({ "cniVersion": version, "ip4": { "ip": "10.22.0.2/24" } })
            } else {
                let ip = if version < "1.0.0" { json!({ "version": "4" }) } else { json!({}) };
                let ip = with(&ip, json!({ "interface": 1, "address": "10.22.0.2/24" }));
                with(&previous, json!({ "cniVersion": version, "ips": [ip] }))
            };
            let config = with(&tuning(), json!({ "cniVersion": version, "mac": "02:aa:bb:cc:dd:02", "mtu": 1390 }));
            let result = host.plugin("tuning").pod(&pod).config_with(&config, &previous).add().result();
            let mut expected = previous.clone();
            if version >= "0.3.0" {
                expected["interfaces"][1]["mac"] = json!("02:aa:bb:cc:dd:02");
            }
            assert_eq!(without_dns(result.clone()), expected);
            if version >= "0.4.0" {
                host.plugin("tuning").pod(&pod).config_with(&config, &result).check().ok();
            }
            host.plugin("tuning").pod(&pod).config_with(&config, &result).del().ok();
        }
    });
}

#[test]
fn a_result_is_required() {
    case(|| {
        let host = Host::new();
        let (pod, _) = linked(&host);
        let config = with(&tuning(), json!({ "mtu": 1400, "sysctl": { "net.core.somaxconn": "99" } }));
        let call = || host.plugin("tuning").pod(&pod);
        for config in [
            config.clone(),
            with(&config, json!({ "prevResult": {} }))
                .as_object()
                .map(|keys| {
                    let mut keys = keys.clone();
                    keys["prevResult"] = Value::Null;
                    Value::Object(keys)
                })
                .unwrap(),
        ] {
            call().config(&config).add().failure().is(999, "Required prevResult missing");
            call().config(&config).check().failure().is(999, "Required prevResult missing");
        }
        assert_eq!(pod.interface()["mtu"], 1500);
        call().config(&config).del().ok();
    });
}

#[test]
fn only_the_pods_own_entry_gets_the_new_address() {
    case(|| {
        let host = Host::new();
        let (pod, previous) = linked(&host);
        let config = with(&tuning(), json!({ "mac": "02:aa:bb:cc:dd:02" }));
        let mut with_namesakes = previous.clone();
        let entries = with_namesakes["interfaces"].as_array_mut().unwrap();
        entries.push(json!({ "name": "eth0", "mac": "02:00:00:00:00:0a" }));
        let result = host.plugin("tuning").pod(&pod).config_with(&config, &with_namesakes).add().result();
        let macs: Vec<&str> =
            result["interfaces"].as_array().unwrap().iter().map(|i| i["mac"].as_str().unwrap()).collect();
        assert_eq!(macs[1..], ["02:aa:bb:cc:dd:02", "02:00:00:00:00:0a"]);
        // A plugin that says nothing of sandboxes.
        let mut bare = previous;
        bare["interfaces"] = json!([{ "name": "eth0", "mac": "02:00:00:00:00:0b" }, { "name": "eth1" }]);
        bare["ips"] = json!([]);
        let result = host.plugin("tuning").pod(&pod).config_with(&config, &bare).add().result();
        assert_eq!(result["interfaces"][0]["mac"], "02:aa:bb:cc:dd:02");
    });
}

#[test]
fn an_interface_that_is_not_there_is_named() {
    case(|| {
        let host = Host::new();
        let (pod, previous) = linked(&host);
        let config = with(&tuning(), json!({ "mtu": 1400, "sysctl": { "net.core.somaxconn": "99" } }));
        let before = pod.read("/proc/sys/net/core/somaxconn");
        let call = || host.plugin("tuning").pod(&pod).ifname("net7").config_with(&config, &previous);
        call().add().failure().is(999, "net7");
        assert_eq!(pod.read("/proc/sys/net/core/somaxconn"), before);
        assert!(backups(&host).is_empty());
    });
}

fn gc(host: &Host, config: &Value, valid: &[&Pod]) -> String {
    let valid: Value = valid.iter().map(|pod| json!({ "containerID": pod.id, "ifname": pod.ifname })).collect();
    let config = with(config, json!({ "cni.dev/valid-attachments": valid }));
    let reply = host.plugin("tuning").verb("GC").id("").netns("").ifname("").config(&config).run();
    assert_eq!(reply.ok().stdout, "");
    reply.stderr
}

#[test]
fn gc_removes_exactly_the_stale_backups_of_its_network() {
    case(|| {
        let host = Host::new();
        let config = newest(json!({ "mtu": 1400 }));
        let other = with(&config, json!({ "name": "other" }));
        let pods: Vec<_> = (0..4).map(|_| linked(&host)).collect();
        for (index, (pod, previous)) in pods.iter().enumerate() {
            let config = if index == 3 { &other } else { &config };
            let previous = with(previous, json!({ "cniVersion": "1.1.0" }));
            host.plugin("tuning").pod(pod).config_with(config, &previous).add().ok();
        }
        let name = |index: usize| format!("{}_eth0.json", pods[index].0.id);
        host.write(&format!("{FOLDER}/somebody_eth0.json"), "{}");
        // Without a list nothing is known to be stale.
        host.plugin("tuning").verb("GC").id("").netns("").ifname("").config(&config).run().ok();
        assert_eq!(backups(&host).len(), 5);
        // Its interface is still up: somebody may want to know.
        let said = gc(&host, &config, &[&pods[0].0]);
        assert!(
            said.contains(&pods[1].0.id) && said.contains(&pods[2].0.id) && !said.contains(&pods[0].0.id),
            "{said}"
        );
        assert_eq!(backups(&host), [name(0), name(3), "somebody_eth0.json".to_owned()]);
        pods[0].0.run("ip link delete eth0");
        assert_eq!(gc(&host, &config, &[]), "");
        assert_eq!(backups(&host), [name(3), "somebody_eth0.json".to_owned()]);
        // What is gone cannot be restored, and need not.
        host.plugin("tuning").pod(&pods[1].0).config(&config).del().ok();
        gc(&host, &other, &[]);
        assert_eq!(host.files(&format!("{FOLDER}/.oxbridge")), Vec::<String>::new());
    });
}

#[test]
fn del_of_another_network_leaves_the_backup() {
    case(|| {
        let host = Host::new();
        let (pod, previous) = linked(&host);
        let config = with(&tuning(), json!({ "mtu": 1400 }));
        host.plugin("tuning").pod(&pod).config_with(&config, &previous).add().ok();
        let other = with(&config, json!({ "name": "other" }));
        host.plugin("tuning").pod(&pod).config_with(&other, &previous).del().ok();
        assert_eq!(pod.interface()["mtu"], 1400);
        assert_eq!(backups(&host).len(), 1);
        host.plugin("tuning").pod(&pod).config_with(&config, &previous).del().ok();
        assert_eq!(pod.interface()["mtu"], 1500);
        assert!(backups(&host).is_empty());
    });
}

/// After a downgrade and the upgrade from it.
#[test]
fn a_stale_record_does_not_hide_what_the_reference_has_kept() {
    case(|| {
        let host = Host::new();
        let (pod, previous) = linked(&host);
        let config = with(&tuning(), json!({ "mtu": 1400 }));
        let other = with(&config, json!({ "name": "other" }));
        host.plugin("tuning").pod(&pod).config_with(&config, &previous).add().ok();
        host.reference("tuning").pod(&pod).config_with(&config, &previous).del().ok();
        pod.run("ip link delete eth0");
        let previous = make_link(&host, &pod);
        pod.run("ip link set dev eth0 mtu 1450");
        host.reference("tuning").pod(&pod).config_with(&other, &previous).add().ok();
        assert_eq!(pod.interface()["mtu"], 1400);
        for _ in 0..2 {
            host.plugin("tuning").pod(&pod).config_with(&other, &previous).del().ok();
            assert_eq!(pod.interface()["mtu"], 1450);
            assert!(backups(&host).is_empty());
        }
        gc(&host, &newest(json!({})), &[]);
        assert!(host.files(&format!("{FOLDER}/.oxbridge")).is_empty());
    });
}

/// What the reference keeps does not tell of which link it is.
#[test]
fn a_late_del_of_the_references_pod_leaves_alone_who_has_its_path_now() {
    case(|| {
        let host = Host::new();
        let (gone, here) = (host.named_pod(), host.named_pod());
        let bridge = with(&tests::config::bridge(), json!({ "name": "tn" }));
        let tuning = with(&tuning(), json!({ "name": "tn", "promisc": true }));
        let attach = |pod: &Pod, by_reference: bool| {
            let call = |name: &str| if by_reference { host.reference(name) } else { host.plugin(name) };
            let result = call("bridge").pod(pod).config(&bridge).add().result();
            call("tuning").pod(pod).config_with(&tuning, &result).add().result()
        };
        let result = attach(&gone, true);
        host.mount_netns(&here.ns, &gone.path);
        attach(&here, false);
        let is_promiscuous = || here.interface()["flags"].as_array().unwrap().contains(&json!("PROMISC"));
        for previous in [result, json!(null)] {
            assert!(is_promiscuous());
            host.write(&format!("{FOLDER}/{}_eth0.json", gone.id), r#"{ "promisc": false }"#);
            host.plugin("tuning").pod(&gone).config_with(&tuning, &previous).del().ok();
            assert!(is_promiscuous());
        }
        // Its own pod is restored, as before.
        let (own, previous) = linked(&host);
        let result = host.reference("tuning").pod(&own).config_with(&tuning, &previous).add().result();
        host.plugin("tuning").pod(&own).config_with(&tuning, &result).del().ok();
        assert!(!own.interface()["flags"].as_array().unwrap().contains(&json!("PROMISC")));
    });
}

#[test]
fn two_attachments_of_one_file_name() {
    case(|| {
        let host = Host::new();
        let (mut one, first) = linked(&host);
        let (mut two, second) = linked(&host);
        for (pod, id, ifname) in [(&mut one, "a_b", "c"), (&mut two, "a", "b_c")] {
            pod.rename("eth0", ifname);
            (pod.id, pod.ifname) = (id.to_owned(), ifname.to_owned());
        }
        let config = with(&tuning(), json!({ "mtu": 1400 }));
        one.run("ip link set dev c mtu 1450");
        host.plugin("tuning").pod(&one).config_with(&config, &first).add().ok();
        host.plugin("tuning").pod(&two).config_with(&config, &second).add().failure().is(999, "a_b|\"c\"|dataDir");
        assert_eq!(two.interface()["mtu"], 1500);
        host.plugin("tuning").pod(&two).config_with(&config, &second).del().ok();
        host.plugin("tuning").pod(&one).config_with(&config, &first).del().ok();
        assert_eq!(one.interface()["mtu"], 1450);
        // A link that is gone has nothing to lose.
        host.plugin("tuning").pod(&one).config_with(&config, &first).add().ok();
        one.run("ip link delete c");
        host.plugin("tuning").pod(&two).config_with(&config, &second).add().ok();
        host.plugin("tuning").pod(&two).config_with(&config, &second).del().ok();
        assert_eq!(two.interface()["mtu"], 1500);
        assert!(backups(&host).is_empty());
    });
}

#[test]
fn names_that_cannot_be_there_are_not_there() {
    case(|| {
        let host = Host::new();
        for folder in ["/dev/null", "/run/a\0b", FOLDER] {
            let config = with(&tuning(), json!({ "dataDir": folder, "sysctl": { "net.core.somaxconn": "99" } }));
            host.plugin("tuning").id(&"c".repeat(251)).netns("").config(&config).del().ok();
        }
    });
}

#[test]
fn gc_removes_what_a_killed_add_was_writing() {
    case(|| {
        let host = Host::new();
        for name in ["old", "young"] {
            host.write(&format!("{FOLDER}/.oxbridge/{name}_eth0.new"), "{");
        }
        host.run(&format!("touch -d -2hours {FOLDER}/.oxbridge/old_eth0.new"));
        gc(&host, &newest(json!({})), &[]);
        assert_eq!(host.files(&format!("{FOLDER}/.oxbridge")), ["young_eth0.new"]);
    });
}

#[test]
fn status_says_why_add_could_not_work() {
    case(|| {
        let host = Host::new();
        let status = |patch: Value| {
            host.plugin("tuning").verb("STATUS").id("").netns("").ifname("").config(&newest(patch)).run()
        };
        status(json!({})).ok();
        status(json!({ "mtu": 1400, "sysctl": { "net.core.somaxconn": "99" } })).ok();
        assert!(host.files("/run/cni").is_empty(), "to look makes nothing");
        status(json!({ "mtu": -1 })).failure().is(50, "mtu");
        status(json!({ "mac": "x" })).failure().is(50, "x");
        host.write("/run/test/file", "");
        status(json!({ "mtu": 1400, "dataDir": "/run/test/file/x" })).failure().is(50, "/run/test/file|dataDir");
        status(json!({ "capabilities": { "mac": true }, "dataDir": "/run/test/file" }))
            .failure()
            .is(50, "not a folder");
        // Sysctls keep nothing.
        status(json!({ "sysctl": { "net.core.somaxconn": "99" }, "dataDir": "/run/test/file" })).ok();
        host.run("mount -t tmpfs tmpfs /etc");
        host.write("/etc/cni/tuning/allowlist.conf", "^net.core.somaxconn$\n");
        status(json!({ "sysctl": { "net.core.somaxconn": "99" } })).ok();
        status(json!({ "sysctl": { "net.ipv4.ip_forward": "1" } })).failure().is(50, "not allowed|allowlist.conf");
        host.run("rm /etc/cni/tuning/allowlist.conf");
        host.run("mkdir /etc/cni/tuning/allowlist.conf");
        status(json!({ "sysctl": { "net.core.somaxconn": "99" } })).failure().is(50, "allowlist.conf");
    });
}

#[test]
fn no_config_makes_it_panic() {
    case(|| {
        let host = Host::new();
        let (pod, previous) = linked(&host);
        let base = with(&tuning(), json!({ "prevResult": previous })).to_string();
        let base = base.strip_suffix('}').unwrap();
        let values =
            ["null", "{}", "[]", "5", "-1", "1.5", "true", "\"\"", "\"x\"", "99999999999999999999", "{\"a\":null}"];
        let keys = [
            "sysctl",
            "mac",
            "mtu",
            "promisc",
            "allmulti",
            "txQLen",
            "dataDir",
            "args",
            "runtimeConfig",
            "capabilities",
        ];
        for value in values {
            let members = keys.map(|key| format!("\"{key}\":{value}"));
            let nested = ["sysctl", "mac", "mtu", "promisc", "allmulti", "txQLen"]
                .map(|key| format!("\"args\":{{\"cni\":{{\"{key}\":{value}}}}}"));
            for member in members.iter().chain(&nested) {
                let stdin = format!("{base},{member}}}");
                for verb in ["ADD", "CHECK", "DEL"] {
                    let reply = host.plugin("tuning").pod(&pod).stdin(stdin.clone()).verb(verb).run();
                    assert!(matches!(reply.status.code(), Some(0 | 1)), "{verb} {member}: {reply}");
                    assert!(!reply.stderr.contains("panic"), "{verb} {member}: {reply}");
                }
            }
        }
    });
}
