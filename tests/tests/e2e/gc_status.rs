//! GC removes what nobody needs any more; STATUS says whether ADD could work.

use serde_json::{Value, json};
use tests::{
    Host, Network, Place, Pod, Reply, case,
    config::{self, STORE, with},
    host::SCRATCH,
    settings::not_for_reference,
    traffic::assert_reaches,
};

fn newest(config: &Value) -> Value {
    with(config, json!({ "cniVersion": "1.1.0" }))
}

/// GC with this list of valid attachments (`null`: without a list).
fn gc(host: &Host, config: &Value, valid: Value) -> Reply {
    let config = with(&newest(config), json!({ "cni.dev/valid-attachments": valid }));
    let reply = host.plugin_of(&config).verb("GC").id("").netns("").ifname("").config(&config).run();
    assert_eq!(reply.ok().stdout, "");
    reply
}

fn valid(pods: &[&Pod]) -> Value {
    pods.iter().map(|pod| json!({ "containerID": pod.id, "ifname": pod.ifname })).collect()
}

#[test]
fn what_is_not_in_the_list_goes() {
    case(|| {
        let host = Host::new();
        let config = config::everything();
        let before = host.warm_up(&config);
        let pods: Vec<Pod> = (0..3).map(|_| host.pod()).collect();
        for pod in &pods {
            host.plugin("bridge").pod(pod).config(&config).add().ok();
        }
        let said = gc(&host, &config, valid(&[&pods[1]])).stderr;
        // They were alive: somebody will want to know.
        assert!(said.contains(&pods[0].id) && said.contains(&pods[2].id) && !said.contains(&pods[1].id), "{said}");
        assert_reaches(&pods[1], config::GATEWAY4);
        let now = host.snapshot();
        for gone in [&pods[0], &pods[2]] {
            assert!(!now.mentions(&format!("{} ", gone.id)) && !now.mentions(&format!("{}\\r", gone.id)));
        }
        assert_eq!(host.json("ip -j link show type veth").as_array().unwrap().len(), 1);
        gc(&host, &config, json!([]));
        host.assert_as(&before);
    });
}

#[test]
fn namespaces_that_are_gone_do_not_matter() {
    case(|| {
        let host = Host::new();
        let config = config::everything();
        let before = host.warm_up(&config);
        for _ in 0..3 {
            host.plugin("bridge").pod(&host.pod()).config(&config).add().ok();
        }
        gc(&host, &config, json!([]));
        host.assert_as(&before);
    });
}

#[test]
fn without_a_list_nothing_goes() {
    case(|| {
        let host = Host::new();
        let config = config::everything();
        let pod = host.pod();
        host.plugin("bridge").pod(&pod).config(&config).add().ok();
        let before = host.snapshot();
        gc(&host, &config, Value::Null);
        host.assert_as(&before);
    });
}

#[test]
fn other_networks_are_left_alone() {
    case(|| {
        let host = Host::new();
        let other = with(
            &config::everything(),
            json!({ "name": "other", "bridge": "br1",
            "ipam": config::host_local(&["10.77.0.0/24", "fd00:77::/64"]) }),
        );
        let pod = host.pod();
        host.plugin("bridge").pod(&pod).config(&other).add().ok();
        host.warm_up(&config::everything());
        let before = host.snapshot();
        gc(&host, &config::everything(), json!([]));
        host.assert_as(&before);
        assert_reaches(&pod, "10.77.0.1");
    });
}

#[test]
fn the_early_spelling_of_the_list_is_understood() {
    case(|| {
        let host = Host::new();
        let config = newest(&config::everything());
        let before = host.warm_up(&config);
        host.plugin("bridge").pod(&host.pod()).config(&config).add().ok();
        let config = with(&config, json!({ "cni.dev/attachments": [] }));
        host.plugin("bridge").verb("GC").config(&config).run().ok();
        host.assert_as(&before);
    });
}

/// So Go writes a list to which nothing was added: that of a node after a reboot.
#[test]
fn null_is_an_empty_list() {
    case(|| {
        not_for_reference("it does not speak 1.1.0 in this version");
        let host = Host::new();
        let config = newest(&config::everything());
        let before = host.warm_up(&config);
        host.plugin("bridge").pod(&host.pod()).config(&config).add().ok();
        let (mut config, list) =
            (config.to_string(), r#","cni.dev/valid-attachments":null,"cni.dev/attachments":null}"#);
        config.replace_range(config.len() - 1.., list);
        host.plugin("bridge").verb("GC").stdin(config).run().ok();
        host.assert_as(&before);
    });
}

#[test]
fn another_attachment_of_a_valid_container_goes() {
    case(|| {
        let host = Host::new();
        let config = with(&config::everything(), json!({ "ipam": { "routes": null } }));
        let mut pod = host.pod();
        for name in ["net1", "net2"] {
            name.clone_into(&mut pod.ifname);
            host.plugin("bridge").pod(&pod).config(&config).add().ok();
        }
        gc(&host, &config, valid(&[&pod]));
        assert!(pod.link("net1").is_none() && pod.link("net2").is_some());
        assert_eq!(host.files(STORE).iter().filter(|name| name.starts_with("10.")).count(), 1);
    });
}

#[test]
fn gc_of_host_local_alone_frees_reservations() {
    case(|| {
        let host = Host::new();
        let config = with(&config::bridge(), json!({ "type": "host-local" }));
        for id in ["a", "b"] {
            host.plugin("host-local").id(id).config(&config).add().ok();
        }
        gc(&host, &config, json!([{ "containerID": "b", "ifname": "eth0" }]));
        assert_eq!(host.files(STORE), ["10.22.0.3", "last_reserved_ip.0", "lock"]);
    });
}

#[test]
fn static_and_loopback_have_nothing_to_collect() {
    case(|| {
        let host = Host::new();
        gc(&host, &json!({ "name": "net", "type": "loopback" }), json!([]));
        gc(&host, &with(&config::fixed(&[]), json!({ "type": "static" })), json!([]));
    });
}

#[test]
fn status_is_fine_where_add_would_work() {
    case(|| {
        let host = Host::new();
        let status = |config: &Value| _ = host.plugin_of(config).verb("STATUS").config(&newest(config)).run().ok();
        let all = || {
            status(&config::everything());
            status(&config::layer2());
            status(&json!({ "name": "net", "type": "loopback" }));
            status(&with(&config::bridge(), json!({ "type": "host-local" })));
        };
        all();
        host.warm_up(&config::everything());
        all();
        // A pool that is full is no reason to take the node out of service.
        let small = with(
            &config::bridge(),
            json!({ "name": "small", "bridge": "br-small",
            "ipam": config::host_local(&["10.99.0.0/30"]) }),
        );
        let pod = host.pod();
        host.plugin("bridge").pod(&pod).config(&small).add().ok();
        status(&small);
    });
}

#[test]
fn status_says_why_add_could_not_work() {
    case(|| {
        let host = Host::new();
        host.run("ip link add br-taken type veth peer name other");
        host.write("/run/test/file", "");
        for (patch, fragment) in [
            (json!({ "bridge": "br-taken" }), "br-taken"),
            (json!({ "ipam": { "resolvConf": "/run/test/none" } }), "/run/test/none"),
            (json!({ "ipam": { "dataDir": "/run/test/file/x" } }), "/run/test/file"),
            (json!({ "ipam": { "type": "nowhere" } }), "nowhere"),
        ] {
            let config = newest(&with(&config::bridge(), patch));
            host.plugin("bridge").verb("STATUS").config(&config).run().failure().is(50, fragment);
        }
    });
}

/// For runtimes that share a folder of configs: neither knows the other's pods. cnitool knows none at all.
#[test]
fn a_list_with_disable_gc_keeps_everything() {
    case(|| {
        not_for_reference("it does not speak 1.1.0 in this version");
        for disabled in [true, false] {
            let host = Host::new();
            let list = json!({ "cniVersion": "1.1.0", "name": "net", "disableGC": disabled,
                "plugins": [newest(&config::bridge())] });
            let network = Network::of_list(&host, &list);
            let pod = host.pod();
            network.add(&pod).ok();
            network.call("gc", &pod).run().ok();
            assert_eq!(pod.link("eth0").is_some(), disabled);
        }
    });
}

#[test]
fn gc_and_status_through_cnitool() {
    case(|| {
        let host = Host::new();
        let network = host.network(&newest(&config::everything()));
        let pod = host.pod();
        network.call("status", &pod).run().ok();
        network.add(&pod).ok();
        network.check(&pod).ok();
        network.del(&pod).ok();
        network.call("gc", &pod).run().ok();
        assert!(host.exists(&format!("{SCRATCH}/net.d/net.conflist")));
    });
}
