//! DEL: everything of the attachment goes, and nothing of anyone else's, whatever has happened to the namespace.

use serde_json::{Value, json};
use tests::{
    Host, NetNs, Place, Pod, case,
    config::{self, BRIDGE, GATEWAY4, with},
    host::NETNS_DIR,
    traffic::{assert_reaches, outside::SERVER4},
};

/// A pod with everything, by path, and the result of its ADD.
fn attached(host: &Host) -> (Pod, Value) {
    let pod = host.named_pod();
    let result = host.plugin("bridge").pod(&pod).config(&config::everything()).add().result();
    (pod, result)
}

/// What `CNI_NETNS` can be when DEL comes.
type Happening = (&'static str, fn(&Host, &mut Pod));

const HAPPENINGS: [Happening; 8] = [
    ("alive", |_, _| {}),
    ("empty, namespace alive", |_, pod| pod.path.clear()),
    ("empty, namespace gone", |host, pod| {
        end(host, pod);
        pod.path.clear();
    }),
    ("path missing, namespace alive", |host, pod| host.unmount(&pod.path)),
    ("path missing, namespace gone", end),
    ("a plain file", |host, pod| {
        end(host, pod);
        host.write(&pod.path, "");
    }),
    ("the host's own namespace", |host, pod| {
        end(host, pod);
        pod.path = host.netns().path();
    }),
    ("not even a path that can be", |_, pod| pod.path = "/dev/null/x".to_owned()),
];

fn end(host: &Host, pod: &mut Pod) {
    host.unmount(&pod.path);
    pod.ns = NetNs::new();
}

fn delete_after(happenings: &[Happening]) {
    for (what, happen) in happenings {
        for with_result in [true, false] {
            let host = Host::new();
            let before = host.warm_up(&config::everything());
            let (mut pod, result) = attached(&host);
            happen(&host, &mut pod);
            let config = config::everything();
            for time in ["first", "second"] {
                let call = host.plugin("bridge").pod(&pod);
                let call = if with_result { call.config_with(&config, &result) } else { call.config(&config) };
                let reply = call.del();
                assert!(reply.status.success(), "{what}, prevResult: {with_result}, {time} DEL: {reply}");
                assert_eq!(reply.stdout, "");
            }
            host.unmount(&format!("{NETNS_DIR}/{}", pod.id));
            host.enter(|| std::fs::remove_dir(NETNS_DIR)).unwrap();
            let diff = before.diff(&host.snapshot());
            assert!(diff.is_empty(), "{what}, prevResult: {with_result}: left or taken:\n{diff}");
        }
    }
}

#[test]
fn with_the_namespace_alive() {
    case(|| delete_after(&HAPPENINGS[..1]));
}

#[test]
fn without_the_namespace() {
    case(|| delete_after(&HAPPENINGS[1..5]));
}

#[test]
fn with_something_else_at_the_path() {
    case(|| delete_after(&HAPPENINGS[5..]));
}

#[test]
fn with_another_pod_at_the_path() {
    case(|| {
        for with_result in [true, false] {
            let host = Host::new();
            host.outside();
            let config = config::everything();
            let (gone, result) = attached(&host);
            host.unmount(&gone.path);
            let (path, id) = (gone.path.clone(), gone.id.clone());
            drop(gone);
            let mut other = host.pod();
            host.mount_netns(&other.ns, &path);
            other.path.clone_from(&path);
            host.plugin("bridge").pod(&other).config(&config).add().ok();
            let call = || {
                let call = host.plugin("bridge").id(&id).netns(&path);
                if with_result { call.config_with(&config, &result) } else { call.config(&config) }
            };
            let inside = other.run("ip -d address");
            call().del().ok();
            call().del().ok();
            assert_eq!(other.run("ip -d address"), inside);
            for target in [GATEWAY4, config::GATEWAY6, SERVER4] {
                assert_reaches(&other, target);
            }
            let now = host.snapshot();
            assert!(!now.mentions(&format!("{id} ")) && !now.mentions(&format!("{id}\\r")), "left: {now:?}");
            host.plugin("bridge").pod(&other).config(&config).del().ok();
            assert!(!host.snapshot().mentions("nft element"));
        }
    });
}

#[test]
fn with_another_networks_pod_at_the_path() {
    case(|| {
        let host = Host::new();
        // Its eth0 has nothing to do with any plugin.
        let stranger = NetNs::new();
        host.run(&format!("ip link add strange type veth peer name eth0 netns {}", stranger.path()));
        let before = host.warm_up(&config::everything());
        let (mut pod, _) = attached(&host);
        end(&host, &mut pod);
        host.mount_netns(&stranger, &pod.path);
        host.plugin("bridge").pod(&pod).config(&config::everything()).del().ok();
        assert!(stranger.link("eth0").is_some());
        host.unmount(&pod.path);
        host.enter(|| std::fs::remove_dir(NETNS_DIR)).unwrap();
        host.assert_as(&before);
    });
}

#[test]
fn after_the_interface_was_renamed_or_removed() {
    case(|| {
        for damage in ["renamed", "ip link del eth0", "ip address flush dev eth0"] {
            let host = Host::new();
            let before = host.warm_up(&config::everything());
            let pod = host.pod();
            host.plugin("bridge").pod(&pod).config(&config::everything()).add().ok();
            match damage {
                "renamed" => pod.rename("eth0", "eth7"),
                line => _ = pod.run(line),
            }
            host.plugin("bridge").pod(&pod).config(&config::everything()).del().ok();
            let diff = before.diff(&host.snapshot());
            assert!(diff.is_empty(), "after {damage}:\n{diff}");
            assert_eq!(pod.json("ip -j link").as_array().unwrap().len(), 1, "only lo is left in the pod");
        }
    });
}

#[test]
fn after_the_hosts_end_was_removed_or_unplugged() {
    case(|| {
        for line in ["ip link del PORT", "ip link set PORT nomaster"] {
            delete_after_damage(line, |host, port| _ = host.run(&line.replace("PORT", port)));
        }
    });
}

#[test]
fn after_the_hosts_end_was_renamed() {
    case(|| {
        delete_after_damage("renamed", |host, port| host.rename(port, "other"));
        delete_after_damage("renamed and unplugged", |host, port| {
            host.rename(port, "other");
            host.run("ip link set other nomaster");
        });
    });
}

fn delete_after_damage(what: &str, damage: impl FnOnce(&Host, &str)) {
    let host = Host::new();
    let before = host.warm_up(&config::everything());
    let pod = host.pod();
    let result = host.plugin("bridge").pod(&pod).config(&config::everything()).add().result();
    damage(&host, result["interfaces"][1]["name"].as_str().unwrap());
    host.plugin("bridge").pod(&pod).config_with(&config::everything(), &result).del().ok();
    let diff = before.diff(&host.snapshot());
    assert!(diff.is_empty(), "{what}:\n{diff}");
}

#[test]
fn an_interface_that_took_the_name_is_not_ours_to_remove() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        host.plugin("bridge").pod(&pod).config(&config::everything()).add().ok();
        pod.run("ip link del eth0");
        pod.run("ip link add eth0 type veth peer name other");
        host.plugin("bridge").pod(&pod).config(&config::everything()).del().ok();
        assert!(pod.link("eth0").is_some());
    });
}

#[test]
fn what_never_was_can_be_deleted() {
    case(|| {
        let host = Host::new();
        let before = host.warm_up(&config::everything());
        let pod = host.pod();
        let call = || host.plugin("bridge").pod(&pod).config(&config::everything());
        call().del().ok();
        call().netns("").del().ok();
        host.assert_as(&before);
        // Not even its bridge exists.
        let config = with(&config::everything(), json!({ "bridge": "br-none", "name": "none" }));
        host.plugin("bridge").pod(&pod).config(&config).del().ok();
        assert!(host.link("br-none").is_none());
    });
}

#[test]
fn a_config_that_became_invalid_can_still_release() {
    case(|| {
        for patch in [
            json!({ "vlan": 5000 }),
            json!({ "hairpinMode": true, "promiscMode": true }),
            json!({ "ipMasqBackend": "ebpf" }),
            json!({ "mtu": -3 }),
            json!({ "prevResult": "garbage" }),
            json!({ "prevResult": { "cniVersion": "0.2.0", "ips": 5 } }),
            json!({ "disableContainerInterface": true }),
            json!({ "ipam": { "ranges": [[{ "subnet": "10.22.0.7/24" }]] } }),
        ] {
            let host = Host::new();
            let before = host.warm_up(&config::everything());
            let pod = host.pod();
            host.plugin("bridge").pod(&pod).config(&config::everything()).add().ok();
            let config = with(&config::everything(), patch.clone());
            let reply = host.plugin("bridge").pod(&pod).config(&config).del();
            assert!(reply.status.success(), "with {patch}: {reply}");
            let diff = before.diff(&host.snapshot());
            assert!(diff.is_empty(), "with {patch}:\n{diff}");
        }
    });
}

#[test]
fn the_address_is_released_when_nobody_can_use_it_any_more() {
    case(|| {
        let host = Host::new();
        // The delegate writes down what is still there when it is asked to release.
        crate::delegate::script(&host, "nosy", &format!(
            "case $CNI_COMMAND in
               ADD) echo '{{\"cniVersion\":\"1.0.0\",\"ips\":[{{\"address\":\"10.22.0.9/24\"}}]}}' ;;
               DEL) ip -o link show master {BRIDGE} >/run/test/ports; nft list ruleset | grep 'pod-' >/run/test/rules; true ;;
             esac"));
        let config = with(&config::everything(), json!({ "ipam": null }));
        let config = with(&config, json!({ "ipam": { "type": "nosy" } }));
        let pod = host.pod();
        let path = crate::delegate::path();
        host.plugin("bridge").pod(&pod).config(&config).env("CNI_PATH", &path).add().ok();
        assert_ne!(host.run(&format!("ip -o link show master {BRIDGE}")), "");
        host.plugin("bridge").pod(&pod).config(&config).env("CNI_PATH", &path).del().ok();
        assert_eq!(host.read("/run/test/ports").unwrap(), "");
        assert_eq!(host.read("/run/test/rules").unwrap(), "");
    });
}

#[test]
fn pods_next_door_notice_nothing() {
    case(|| {
        let host = Host::new();
        let (a, b) = (host.pod(), host.pod());
        for pod in [&a, &b] {
            host.plugin("bridge").pod(pod).config(&config::everything()).add().ok();
        }
        let inside = b.run("ip -d address");
        host.plugin("bridge").pod(&a).config(&config::everything()).del().ok();
        assert_eq!(b.run("ip -d address"), inside);
        assert_reaches(&b, GATEWAY4);
        assert_eq!(host.files(config::STORE).iter().filter(|f| f.starts_with("10.")).count(), 1);
    });
}
