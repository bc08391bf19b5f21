//! GC goes on: one thing that cannot be removed keeps nothing else, and the error names it.

use serde_json::{Value, json};
use tests::{
    Host, Place, Pod, case,
    chained::{Chain, bandwidth, bridge, everything, gc, tuning, valid},
    config::{self, STORE, with},
    plugin::Reply,
    settings::not_for_reference,
};

use crate::delegate::{path, script};

/// Nobody can remove a file on which something is mounted.
fn hold(host: &Host, file: &str) {
    host.run(&format!("mount --bind {file} {file}"));
}

fn let_go(host: &Host, file: &str) {
    host.run(&format!("umount {file}"));
}

fn addresses(host: &Host) -> Vec<String> {
    host.files(STORE).into_iter().filter(|name| name.starts_with("10.")).collect()
}

/// `host-local`, alone and as the end of the longest line of delegates.
#[test]
fn a_reservation_that_cannot_be_removed() {
    case(|| {
        not_for_reference("its GC of this version does nothing");
        let host = Host::new();
        let config = with(&config::bridge(), json!({ "type": "host-local" }));
        for id in ["a", "b", "c"] {
            host.plugin("host-local").id(id).config(&config).add().ok();
        }
        let held = format!("{STORE}/10.22.0.3");
        hold(&host, &held);
        let failure = gc(host.plugin("host-local"), &config, &json!([])).failure();
        failure.is(999, "10.22.0.3");
        assert_eq!(addresses(&host), ["10.22.0.3"]);
        let_go(&host, &held);
        gc(host.plugin("host-local"), &config, &json!([])).ok();
        assert!(addresses(&host).is_empty());
    });
}

#[test]
fn a_reservation_that_cannot_be_removed_behind_two_delegations() {
    case(|| {
        not_for_reference("its GC of this version does nothing");
        let host = crate::flannel_add::node(crate::flannel_add::LEASE4);
        let config = with(&crate::flannel_add::config(), json!({ "cniVersion": "1.1.0" }));
        let pods: Vec<Pod> = (0..3).map(|_| host.pod()).collect();
        for pod in &pods {
            host.plugin("flannel").pod(pod).config(&config).add().ok();
        }
        let store = "/var/lib/cni/networks/cbr0";
        let reserved = || host.files(store).into_iter().filter(|name| name.starts_with("10.")).collect::<Vec<_>>();
        let held = format!("{store}/{}", reserved()[1]);
        hold(&host, &held);
        gc(host.plugin("flannel"), &config, &json!([])).failure().is(999, &held);
        assert_eq!(reserved().len(), 1);
        assert!(pods.iter().all(|pod| pod.link("eth0").is_none()));
        let_go(&host, &held);
        gc(host.plugin("flannel"), &config, &json!([])).ok();
        assert!(reserved().is_empty());
    });
}

#[test]
fn an_ipam_plugin_that_fails() {
    case(|| {
        not_for_reference("its GC of this version does nothing");
        let host = Host::new();
        let fake = with(&with(&config::everything(), json!({ "ipam": null })), json!({ "ipam": { "type": "fake" } }));
        script(&host, "fake", r#"echo '{"cniVersion":"1.0.0","ips":[{"address":"10.22.0.9/24"}]}'"#);
        let pod = host.pod();
        host.plugin("bridge").pod(&pod).config(&fake).env("CNI_PATH", &path()).add().ok();
        let collect = || gc(host.plugin("bridge").env("CNI_PATH", &path()), &fake, &json!([]));
        script(&host, "fake", r#"echo '{"code":117,"msg":"the store is on fire"}'; exit 1"#);
        collect().failure().is(117, "the store is on fire");
        assert!(pod.link("eth0").is_none() && !host.snapshot().lines("element").any(|line| line.contains(&pod.id)));
        // One that has no GC or STATUS is no failure: they came with version 1.1.0 of the spec.
        script(&host, "fake", r#"echo '{"code":4,"msg":"unknown CNI_COMMAND"}'; exit 1"#);
        collect().ok();
        let newest = with(&fake, json!({ "cniVersion": "1.1.0" }));
        host.plugin("bridge").verb("STATUS").config(&newest).env("CNI_PATH", &path()).run().ok();
        // Nor has one that is not there anything to free, but somebody should know.
        host.run("rm /run/test/plugins/fake");
        collect().failure().is(999, "fake");
    });
}

/// Runs GC with the n-th call of a kind failing.
fn with_failing(host: &Host, plugin: &Value, inject: &str) -> Reply {
    if std::process::Command::new("strace").arg("-V").output().is_err() {
        tests::skip("there is no strace");
    }
    let (inject, trace) = (format!("inject={inject}"), format!("trace={}", inject.split(':').next().unwrap()));
    let call = host.plugin_of(plugin).under(&["strace", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject]);
    gc(call, plugin, &json!([]))
}

#[test]
fn nf_tables_that_cannot_be_asked() {
    case(|| {
        not_for_reference("its GC of this version does nothing");
        let host = Host::new();
        let config = config::everything();
        let before = host.warm_up(&config);
        let pod = host.pod();
        host.plugin("bridge").pod(&pod).config(&config).add().ok();
        // Its third socket, behind those for links and for the log.
        with_failing(&host, &config, "socket:error=ENOMEM:when=3").failure().is(999, "nf_tables");
        assert!(pod.link("eth0").is_none() && addresses(&host).is_empty());
        assert_ne!(before.diff(&host.snapshot()), "", "its rules are still there");
        gc(host.plugin("bridge"), &config, &json!([])).ok();
        host.assert_as(&before);
    });
}

#[test]
fn an_ifb_that_cannot_be_deleted() {
    case(|| {
        not_for_reference("its GC of this version does nothing");
        let host = Host::new();
        let chain = Chain::new(&host, vec![bridge(), bandwidth()]);
        let pods: Vec<Pod> = (0..3).map(|_| host.pod()).collect();
        pods.iter().for_each(|pod| _ = chain.add(pod));
        let ifbs = || host.json("ip -j link show type ifb").as_array().unwrap().clone();
        assert_eq!(ifbs().len(), 3);
        // The dump, then for each ifb a look at its host end and the deletion.
        let failure = with_failing(&host, &bandwidth(), "sendto:error=ENOMEM:when=5").failure();
        assert_eq!(ifbs().len(), 1, "{failure:?}");
        failure.is(999, ifbs()[0]["ifname"].as_str().unwrap());
        gc(host.plugin("bandwidth"), &bandwidth(), &json!([])).ok();
        assert!(ifbs().is_empty());
    });
}

#[test]
fn a_backup_that_cannot_be_removed() {
    case(|| {
        not_for_reference("its GC of this version does nothing");
        let host = Host::new();
        let chain = Chain::new(&host, vec![bridge(), tuning()]);
        let pods: Vec<Pod> = (0..3).map(|_| host.pod()).collect();
        pods.iter().for_each(|pod| _ = chain.add(pod));
        let held = format!("/run/cni/tuning/{}_eth0.json", pods[1].id);
        hold(&host, &held);
        gc(host.plugin("tuning"), &tuning(), &json!([])).failure().is(999, &held);
        let backups = || host.files("/run/cni/tuning").into_iter().filter(|name| !name.starts_with('.')).count();
        assert_eq!(backups(), 1);
        let_go(&host, &held);
        gc(host.plugin("tuning"), &tuning(), &json!([])).ok();
        assert_eq!(backups(), 0);
    });
}

#[test]
fn a_list_that_is_none_is_refused_before_anything_goes() {
    case(|| {
        not_for_reference("its GC of this version does nothing");
        let host = Host::new();
        let pod = host.pod();
        let chain = Chain::new(&host, everything());
        chain.add(&pod);
        let before = host.snapshot();
        for plugin in &chain.plugins {
            for list in [json!({}), json!("pod-1"), json!([5]), json!([{ "containerID": 5 }])] {
                gc(chain.call(plugin), plugin, &list).failure().is(999, "cni.dev/valid-attachments");
            }
        }
        host.assert_as(&before);
        chain.gc(&valid(&[&pod]));
        host.assert_as(&before);
    });
}
