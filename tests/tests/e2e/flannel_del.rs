//! flannel's DEL and CHECK: the delegate is asked by the config that ADD gave it.

use serde_json::{Value, json};
use tests::{Host, Place, Pod, Reply, case, config::with};

use crate::{
    delegate::{path, script},
    flannel_add::{DATA_DIR, LEASE4, LEASE46, OWN, RECORDER, SUBNET_ENV, config, fake, node, warm_up},
};

fn call(host: &Host, verb: &str, pod: &Pod, config: &Value) -> Reply {
    host.plugin("flannel").verb(verb).pod(pod).config(config).env("CNI_PATH", &path()).run()
}

/// A script as the delegate of one pod.
fn recorded() -> (Host, Pod) {
    let host = node(LEASE4);
    script(&host, "fake", RECORDER);
    let pod = host.pod();
    call(&host, "ADD", &pod, &fake()).ok();
    (host, pod)
}

/// What the delegate was given with this verb.
fn given(host: &Host, verb: &str) -> Value {
    serde_json::from_str(&host.read(&format!("/run/test/stdin.{verb}")).unwrap()).unwrap()
}

#[test]
fn leaves_nothing_whatever_is_missing_by_then() {
    case(|| {
        for (lease, patch) in [
            (true, json!({})),
            (false, json!({})),
            // A config that has become another, or nonsense.
            (true, json!({ "delegate": { "bridge": "other", "type": "nowhere" }, "ipam": { "dataDir": "/nowhere" } })),
            (false, json!({ "delegate": 5, "ipam": "x", "subnetFile": 1, "runtimeConfig": [], "prevResult": 7 })),
        ] {
            let host = node(LEASE46);
            let before = warm_up(&host, &config());
            let pod = host.pod();
            call(&host, "ADD", &pod, &config()).ok();
            if !lease {
                host.run(&format!("rm {SUBNET_ENV}"));
            }
            let config = with(&config(), patch);
            for _ in 0..2 {
                host.plugin("flannel").id(&pod.id).netns("").config(&config).del().ok();
            }
            host.write(SUBNET_ENV, LEASE46);
            host.assert_as(&before);
        }
    });
}

#[test]
fn the_config_is_kept_until_the_delegate_has_succeeded() {
    case(|| {
        let (host, pod) = recorded();
        host.run(&format!("rm {SUBNET_ENV}"));
        script(&host, "fake", r#"echo '{"code":11,"msg":"busy"}'; exit 1"#);
        call(&host, "DEL", &pod, &config()).failure().is(11, "busy");
        assert_eq!(host.files(OWN), [format!("{}:eth0", pod.id)]);
        script(&host, "fake", RECORDER);
        call(&host, "DEL", &pod, &config()).ok();
        assert_eq!(given(&host, "DEL")["type"], "fake");
        assert_eq!(given(&host, "DEL")["ipam"]["ranges"], json!([[{ "subnet": "10.244.3.0/24" }]]));
        assert!(host.files(OWN).is_empty());
        assert_eq!(host.files(DATA_DIR), [".oxbridge"]);
    });
}

#[test]
fn two_attachments_of_a_container_have_one_config_each() {
    case(|| {
        let host = node(LEASE4);
        script(&host, "fake", RECORDER);
        let mut pod = host.pod();
        for (ifname, marker) in [("eth0", "first"), ("net1", "second")] {
            ifname.clone_into(&mut pod.ifname);
            call(&host, "ADD", &pod, &with(&fake(), json!({ "delegate": { "marker": marker } }))).ok();
        }
        for (ifname, marker) in [("eth0", "first"), ("net1", "second")] {
            ifname.clone_into(&mut pod.ifname);
            call(&host, "DEL", &pod, &fake()).ok();
            assert_eq!(given(&host, "DEL")["marker"], marker);
        }
        assert_eq!(host.files(DATA_DIR), [".oxbridge"]);
    });
}

#[test]
fn the_delegate_gets_the_result_and_the_version_of_the_call() {
    case(|| {
        let (host, pod) = recorded();
        let result = json!({ "cniVersion": "1.0.0", "ips": [{ "address": "10.244.3.9/24" }], "more": [1] });
        for verb in ["CHECK", "DEL"] {
            call(&host, verb, &pod, &with(&fake(), json!({ "prevResult": result }))).ok();
            assert_eq!(given(&host, verb)["prevResult"], result, "{verb}");
            assert_eq!(given(&host, verb)["mtu"], 1450);
        }
        // Garbage is kept from it.
        call(&host, "DEL", &pod, &with(&fake(), json!({ "prevResult": { "ips": 5 } }))).ok();
        assert!(given(&host, "DEL").get("prevResult").is_none());
    });
}

#[test]
fn without_a_file_the_config_is_made_anew() {
    case(|| {
        for torn in [None, Some("{\"cniVersion\":\"1.0.0\",\"na")] {
            let host = node(LEASE4);
            let before = warm_up(&host, &config());
            let pod = host.pod();
            call(&host, "ADD", &pod, &config()).ok();
            host.run(&format!("rm {OWN}/{id}:eth0 {DATA_DIR}/{id}", id = pod.id));
            torn.into_iter().for_each(|text| host.write(&format!("{OWN}/{}:eth0", pod.id), text));
            let reply = call(&host, "DEL", &pod, &config());
            assert_eq!(reply.ok().stderr.contains("is no config of a delegate"), torn.is_some(), "{reply}");
            host.assert_as(&before);
        }
    });
}

/// There are delegates whose second DEL fails; runtimes repeat theirs.
#[test]
fn a_second_del_is_fine_whatever_the_delegate_says() {
    case(|| {
        let (host, mut pod) = recorded();
        "net1".clone_into(&mut pod.ifname);
        call(&host, "ADD", &pod, &with(&fake(), json!({ "delegate": { "marker": "second" } }))).ok();
        "eth0".clone_into(&mut pod.ifname);
        call(&host, "DEL", &pod, &fake()).ok();
        script(&host, "fake", &format!("{RECORDER}\necho '{{\"code\":999,\"msg\":\"no master\"}}'; exit 1"));
        // The first attachment's, while there is a file of the second's; then with nothing at all.
        assert!(call(&host, "DEL", &pod, &fake()).ok().stderr.contains("no master"));
        assert!(given(&host, "DEL").get("marker").is_none());
        "net1".clone_into(&mut pod.ifname);
        call(&host, "DEL", &pod, &fake()).failure().is(999, "no master");
        script(&host, "fake", RECORDER);
        call(&host, "DEL", &pod, &fake()).ok();
        assert_eq!(given(&host, "DEL")["marker"], "second");
        script(&host, "fake", r#"echo '{"code":999,"msg":"no master"}'; exit 1"#);
        assert!(call(&host, "DEL", &pod, &fake()).ok().stderr.contains("no master"));
        assert_eq!(host.files(DATA_DIR), [".oxbridge"]);
    });
}

#[test]
fn names_that_cannot_be_there_are_not_there() {
    case(|| {
        let host = node(LEASE4);
        script(&host, "fake", RECORDER);
        for folder in ["/dev/null", "/run/a\0b", DATA_DIR] {
            let config = with(&fake(), json!({ "dataDir": folder }));
            let del = host.plugin("flannel").id(&"c".repeat(251)).netns("").config(&config);
            del.env("CNI_PATH", &path()).del().ok();
        }
    });
}

#[test]
fn of_what_never_was_is_fine() {
    case(|| {
        let host = Host::new();
        let before = host.snapshot();
        // No lease, and a delegate that is not installed.
        for config in [config(), with(&config(), json!({ "delegate": { "type": "nowhere" } }))] {
            call(&host, "DEL", &host.pod(), &config).ok();
        }
        host.assert_nothing_made(&before);
    });
}

/// The reference keeps one file for a container; its pods live on when the binaries are replaced.
#[test]
fn pods_of_the_reference_are_removed_and_checked_by_its_file() {
    case(|| {
        let (host, pod) = recorded();
        let kept = host.read(&format!("{DATA_DIR}/{}", pod.id)).unwrap();
        host.run(&format!("rm -r {DATA_DIR}/.oxbridge"));
        host.write(&format!("{DATA_DIR}/{}", pod.id), kept.replace("1450", "1400"));
        host.run(&format!("rm {SUBNET_ENV}"));
        call(&host, "CHECK", &pod, &config()).ok();
        assert_eq!(given(&host, "CHECK")["mtu"], 1400);
        call(&host, "DEL", &pod, &config()).ok();
        assert_eq!(given(&host, "DEL")["mtu"], 1400);
        assert!(host.files(DATA_DIR).is_empty());
    });
}

#[test]
fn another_networks_file_of_the_container_is_left_alone() {
    case(|| {
        let (host, pod) = recorded();
        let other = with(&fake(), json!({ "name": "other", "delegate": { "marker": "other" } }));
        call(&host, "ADD", &pod, &other).ok();
        let theirs = host.read(&format!("{DATA_DIR}/{}", pod.id)).unwrap();
        assert!(theirs.contains("\"cbr0\""), "{theirs}");
        call(&host, "DEL", &pod, &other).ok();
        assert_eq!(given(&host, "DEL")["marker"], "other");
        assert_eq!(host.read(&format!("{DATA_DIR}/{}", pod.id)).unwrap(), theirs);
    });
}

#[test]
fn check_is_the_delegates() {
    case(|| {
        let host = node(LEASE4);
        let pod = host.pod();
        let result = call(&host, "ADD", &pod, &config()).result();
        let check = || host.plugin("flannel").pod(&pod).config_with(&config(), &result).check();
        check().ok();
        pod.run("ip address flush dev eth0 scope global");
        check().failure().is(999, "10.244.3.2");
        script(&host, "fake", r#"echo '{"code":118,"msg":"lost"}'; exit 1"#);
        let kept = host.read(&format!("{OWN}/{}:eth0", pod.id)).unwrap();
        host.write(&format!("{OWN}/{}:eth0", pod.id), kept.replace("\"type\":\"bridge\"", "\"type\":\"fake\""));
        call(&host, "CHECK", &pod, &config()).failure().is(118, "lost");
        host.run(&format!("rm -r {DATA_DIR}"));
        check().failure().is(999, &format!("found no file|expected|{OWN}/{}:eth0", pod.id));
    });
}
