//! flannel's GC and STATUS: the delegate's, and its own part of them.

use serde_json::{Value, json};
use tests::{Host, Place, Pod, Reply, case, config::with};

use crate::{
    delegate::{path, script},
    flannel_add::{DATA_DIR, LEASE4, OWN, RECORDER, SUBNET_ENV, config, fake, node, warm_up},
};

fn newest(config: &Value) -> Value {
    with(config, json!({ "cniVersion": "1.1.0" }))
}

fn call(host: &Host, verb: &str, config: &Value) -> Reply {
    let call = host.plugin("flannel").verb(verb).id("").netns("").ifname("").env("CNI_PATH", &path());
    call.config(&newest(config)).run()
}

fn gc(host: &Host, config: &Value, valid: Value) -> Reply {
    call(host, "GC", &with(config, json!({ "cni.dev/valid-attachments": valid })))
}

fn add(host: &Host, pod: &Pod, config: &Value) {
    host.plugin("flannel").pod(pod).config(&newest(config)).env("CNI_PATH", &path()).add().ok();
}

#[test]
fn exactly_the_stale_go() {
    case(|| {
        let host = node(LEASE4);
        let before = warm_up(&host, &newest(&config()));
        let pods: Vec<Pod> = (0..3).map(|_| host.pod()).collect();
        for pod in &pods {
            add(&host, pod, &config());
        }
        let running = host.snapshot();
        gc(&host, &config(), Value::Null).ok();
        host.assert_as(&running);
        // The lease may be gone by now.
        host.run(&format!("rm {SUBNET_ENV}"));
        let said = gc(&host, &config(), json!([{ "containerID": pods[1].id, "ifname": "eth0" }]));
        assert!(said.ok().stderr.contains(&pods[0].id) && !said.stderr.contains(&pods[1].id), "{said}");
        assert_eq!(host.files(OWN), [format!("{}:eth0", pods[1].id)]);
        assert_eq!(host.files(DATA_DIR), [".oxbridge", &pods[1].id]);
        assert!(pods[0].link("eth0").is_none() && pods[1].link("eth0").is_some());
        gc(&host, &config(), json!([])).ok();
        host.write(SUBNET_ENV, LEASE4);
        host.assert_as(&before);
    });
}

#[test]
fn the_delegate_gets_the_list_and_a_del_for_each_stale_attachment() {
    case(|| {
        let host = node(LEASE4);
        script(&host, "fake", RECORDER);
        let (mut stale, alive) = (host.pod(), host.pod());
        add(&host, &alive, &fake());
        stale.ifname = "net1".to_owned();
        add(&host, &stale, &with(&fake(), json!({ "delegate": { "marker": "then" } })));
        host.run("rm /run/test/calls");
        let valid = json!([{ "containerID": alive.id, "ifname": "eth0" }]);
        gc(&host, &fake(), valid.clone()).ok();
        assert_eq!(host.read("/run/test/calls").unwrap().trim(), format!("GC  \nDEL {} net1", stale.id));
        let given = |verb: &str| -> Value {
            serde_json::from_str(&host.read(&format!("/run/test/stdin.{verb}")).unwrap()).unwrap()
        };
        assert_eq!(given("GC")["cni.dev/valid-attachments"], valid);
        assert_eq!(given("GC")["name"], "cbr0");
        assert_eq!(given("DEL")["marker"], "then");
        assert!(host.read("/run/test/env.DEL").unwrap().lines().any(|line| line == "CNI_NETNS="));
        // An empty list, as Go may write it.
        let mut null = newest(&fake()).to_string();
        null.replace_range(null.len() - 1.., r#","cni.dev/valid-attachments":null}"#);
        host.plugin("flannel").verb("GC").env("CNI_PATH", &path()).stdin(null).run().ok();
        assert_eq!(given("GC")["cni.dev/valid-attachments"], json!([]));
        assert!(host.files(OWN).is_empty());
    });
}

#[test]
fn files_stay_while_the_delegate_fails() {
    case(|| {
        let host = node(LEASE4);
        script(&host, "fake", RECORDER);
        add(&host, &host.pod(), &fake());
        let running = host.snapshot();
        script(&host, "fake", r#"[ $CNI_COMMAND = DEL ] || exit 0; echo '{"code":117,"msg":"no"}'; exit 1"#);
        gc(&host, &fake(), json!([])).failure().is(117, "no");
        host.assert_as(&running);
    });
}

#[test]
fn what_is_kept_goes_even_if_the_delegates_gc_fails() {
    case(|| {
        let host = node(LEASE4);
        for (code, is_failure) in [(117, true), (4, false)] {
            script(&host, "fake", RECORDER);
            add(&host, &host.pod(), &fake());
            let no = format!(r#"[ $CNI_COMMAND = DEL ] || {{ echo '{{"code":{code},"msg":"no"}}'; exit 1; }}"#);
            script(&host, "fake", &no);
            let reply = gc(&host, &fake(), json!([]));
            if is_failure {
                reply.failure().is(code, "no");
            } else {
                reply.ok();
            }
            assert_eq!(host.files(DATA_DIR), [".oxbridge"], "{code}");
            assert!(host.files(OWN).is_empty(), "{code}");
        }
        // One that today's config names and that is not there.
        script(&host, "fake", RECORDER);
        add(&host, &host.pod(), &fake());
        let other = with(&config(), json!({ "delegate": { "type": "nowhere" } }));
        gc(&host, &other, json!([])).failure().is(999, "nowhere");
        assert!(host.files(OWN).is_empty());
    });
}

#[test]
fn a_delegate_without_status_is_no_obstacle() {
    case(|| {
        let host = node(LEASE4);
        script(&host, "fake", r#"echo '{"code":4,"msg":"unknown CNI_COMMAND: STATUS"}'; exit 1"#);
        call(&host, "STATUS", &fake()).ok();
        script(&host, "fake", r#"echo '{"code":51,"msg":"limited"}'; exit 1"#);
        call(&host, "STATUS", &fake()).failure().is(51, "limited");
    });
}

#[test]
fn files_of_the_reference_go_with_their_containers() {
    case(|| {
        let host = node(LEASE4);
        script(&host, "fake", RECORDER);
        let alive = host.pod();
        add(&host, &alive, &fake());
        for (id, network) in [("gone", "cbr0"), ("theirs", "other"), ("kept", "cbr0")] {
            host.write(&format!("{DATA_DIR}/{id}"), format!("{{\"name\":\"{network}\",\"type\":\"bridge\"}}"));
        }
        let of = |id: &str| json!({ "containerID": id, "ifname": "eth0" });
        gc(&host, &fake(), json!([of(&alive.id), of("kept")])).ok();
        assert_eq!(host.files(DATA_DIR), [".oxbridge", "kept", &alive.id, "theirs"]);
    });
}

#[test]
fn status_says_what_is_missing_before_a_pod_fails() {
    case(|| {
        let host = Host::new();
        let status = |config: &Value| call(&host, "STATUS", config);
        status(&config()).failure().is(50, "/run/flannel/subnet.env|Check the flannel pod log for this node");
        host.write(SUBNET_ENV, "FLANNEL_NETWORK=10.244.0.0/16\n");
        status(&config())
            .failure()
            .is(50, "is missing FLANNEL_SUBNET, FLANNEL_IPV6_SUBNET, FLANNEL_MTU, FLANNEL_IPMASQ");
        host.write(SUBNET_ENV, LEASE4);
        let before = host.snapshot();
        status(&config()).ok();
        host.assert_as(&before);
        for (patch, fragments) in [
            (json!({ "delegate": { "type": "nowhere" } }), "failed to find plugin|nowhere"),
            (json!({ "delegate": { "name": "x" } }), "must not have 'name' field"),
            (json!({ "dataDir": "/run/flannel/subnet.env" }), "/run/flannel/subnet.env|not a folder"),
            // The delegate's own.
            (json!({ "delegate": { "bridge": "lo" } }), "lo"),
            (json!({ "ipam": { "resolvConf": "/run/test/none" } }), "/run/test/none"),
        ] {
            status(&with(&config(), patch)).failure().is(50, fragments);
        }
    });
}

#[test]
fn through_cnitool() {
    case(|| {
        let host = node(LEASE4);
        let network = host.network(&newest(&config()));
        let pod = host.pod();
        network.call("status", &pod).run().ok();
        network.add(&pod).ok();
        network.check(&pod).ok();
        network.del(&pod).ok();
        network.call("gc", &pod).run().ok();
        assert!(host.files(OWN).is_empty());
    });
}
