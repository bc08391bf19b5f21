//! tuning: the backup of a pod that went without a DEL is taken back by a later ADD, and no other.

use serde_json::{Value, json};
use tests::{Host, Place, Pod, case, chained::tuning, config, config::with, host::Lost, settings::not_for_reference};

use crate::tuning_link::linked;

const FOLDER: &str = "/run/cni/tuning";

fn attach(host: &Host, pod: &Pod) -> Value {
    let result = host.plugin("bridge").pod(pod).config(&config::dual_stack()).add().result();
    host.plugin("tuning").pod(pod).config_with(&tuning(), &result).add().result()
}

/// Whose backups and records there are.
fn kept(host: &Host) -> [Vec<String>; 2] {
    let of = |folder: &str| -> Vec<String> {
        host.files(folder).iter().filter_map(|name| Some(name.strip_suffix("_eth0.json")?.to_owned())).collect()
    };
    [of(FOLDER), of(&format!("{FOLDER}/.oxbridge"))]
}

/// One more ADD, of a pod of nobody's making, a minute later; what it says.
fn add_later(host: &Host) -> String {
    host.pass_a_minute();
    let (pod, previous) = linked(host);
    let config = with(&tuning(), json!({ "mac": null }));
    let reply = host.plugin("tuning").pod(&pod).config_with(&config, &previous).add();
    host.plugin("tuning").pod(&pod).config_with(&config, &previous).del().ok();
    reply.ok();
    reply.stderr
}

/// That there are both of this pod, and no others.
fn both(pod: &Lost) -> [Vec<String>; 2] {
    [vec![pod.id.clone()], vec![pod.id.clone()]]
}

fn record(pod: &str) -> String {
    format!("{FOLDER}/.oxbridge/{pod}_eth0.json")
}

/// Changes what the record of a pod says.
fn patch(host: &Host, pod: &Lost, patch: Value) {
    let json: Value = serde_json::from_str(&host.read(&record(&pod.id)).unwrap()).unwrap();
    host.write(&record(&pod.id), with(&json, patch).to_string());
}

#[test]
fn the_backup_of_a_pod_that_is_gone_is_taken_back() {
    case(|| {
        not_for_reference("it never takes anything back");
        let host = Host::new();
        let [lost, alive] = [host.named_pod(), host.named_pod()];
        let of_lost = attach(&host, &lost);
        let of_alive = attach(&host, &alive);
        // Another suite's, of a namespace that is gone, and one without a record.
        let (foreign, previous) = linked(&host);
        host.plugin("tuning").pod(&foreign).netns(&foreign.path).config_with(&tuning(), &previous).add().ok();
        host.write(&format!("{FOLDER}/somebody_eth0.json"), "{}");
        let foreign = host.lose(foreign);
        let lost = host.lose(lost);
        let said = add_later(&host);
        assert!(said.contains("reclaimed the backup") && said.contains(&lost.id), "{said}");
        assert!(!said.contains(&alive.id) && !said.contains(&foreign.id), "{said}");
        let mut rest = [alive.id.clone(), foreign.id].to_vec();
        rest.sort();
        let with_somebody = [&rest[..], &["somebody".to_owned()]].concat();
        assert_eq!(kept(&host), [with_somebody, rest]);
        assert_eq!(add_later(&host), "");
        // A DEL that comes after all, and one that finds its pod.
        for (plugin, config) in [("tuning", tuning()), ("bridge", config::dual_stack())] {
            host.plugin(plugin).lost(&lost).config_with(&config, &of_lost).del().ok();
        }
        host.plugin("tuning").pod(&alive).config_with(&tuning(), &of_alive).del().ok();
        assert_eq!(alive.interface()["mtu"], 1500);
    });
}

#[test]
fn what_could_be_alive_keeps_its_backup() {
    case(|| {
        not_for_reference("it never takes anything back");
        let host = Host::new();
        let pod = host.named_pod();
        let result = attach(&host, &pod);
        let end = result["interfaces"][1]["name"].as_str().unwrap().to_owned();
        let lost = host.lose(pod);
        let before = host.read(&record(&lost.id)).unwrap();
        let another_boot = "00000000-0000-0000-0000-000000000000";
        let now = serde_json::from_str::<Value>(&before).unwrap()["time"].clone();
        for change in [
            json!({ "bridgeNetnsCookie": null }),
            json!({ "bridgeNetnsCookie": 1 }),
            json!({ "netns": "" }),
            json!({ "netns": "/proc/self/ns/net", "netnsCookie": null }),
            json!({ "bootId": another_boot, "time": now }),
        ] {
            patch(&host, &lost, change.clone());
            assert_eq!(add_later(&host), "", "{change}");
            assert_eq!(kept(&host), both(&lost), "{change}");
            host.write(&record(&lost.id), &before);
        }
        // A link that could be its pod's.
        host.run(&format!("ip link add {end} type bridge"));
        add_later(&host);
        assert_eq!(kept(&host), both(&lost));
        host.run(&format!("ip link delete {end}"));
        // What the reference has kept since is not ours.
        let backup = format!("{FOLDER}/{}_eth0.json", lost.id);
        let ours = host.read(&backup).unwrap();
        host.write(&backup, "{\n \"mtu\": 1300\n}");
        add_later(&host);
        assert_eq!(kept(&host), both(&lost));
        host.write(&backup, ours);
        add_later(&host);
        assert_eq!(kept(&host), [[""; 0], [""; 0]]);
    });
}

#[test]
fn certainly_gone_is_also_what() {
    case(|| {
        not_for_reference("it never takes anything back");
        let host = Host::new();
        // Its path is another pod's by now.
        let pod = host.named_pod();
        attach(&host, &pod);
        let lost = host.lose(pod);
        let next = host.pod();
        host.mount_netns(&next.ns, &lost.path);
        let said = add_later(&host);
        assert!(said.contains("leads to another namespace"), "{said}");
        // Of an earlier boot, whoever made it.
        let (pod, previous) = linked(&host);
        host.plugin("tuning").pod(&pod).config_with(&tuning(), &previous).add().ok();
        let lost = host.lose(pod);
        patch(&host, &lost, json!({ "bootId": "00000000-0000-0000-0000-000000000000", "time": 1_000_000_000 }));
        host.write(&format!("{FOLDER}/.oxbridge/killed_eth0.new"), "{");
        host.run(&format!("touch -d -2hours {FOLDER}/.oxbridge/killed_eth0.new"));
        let said = add_later(&host);
        assert!(said.contains("earlier boot"), "{said}");
        assert_eq!(kept(&host), [[""; 0], [""; 0]]);
        assert!(host.files(&format!("{FOLDER}/.oxbridge")).is_empty());
    });
}
