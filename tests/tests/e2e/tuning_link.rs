//! tuning: attributes of the pod's interface, what is kept of them, and what DEL makes of it.

use std::{fs, process::Stdio};

use serde_json::{Value, json};
use tests::{
    Call, Host, Place, Pod, case,
    config::with,
    plugin::{full, unread},
    settings::is_reference,
};

const FOLDER: &str = "/run/cni/tuning";
const MAC: &str = "02:aa:bb:cc:dd:01";

/// A network of this plugin alone.
pub(crate) fn tuning() -> Value {
    json!({ "cniVersion": "1.0.0", "name": "net", "type": "tuning" })
}

/// A pod with a veth of 10.22.0.2, as some other plugin could have made it, and that plugin's result.
pub(crate) fn linked(host: &Host) -> (Pod, Value) {
    let pod = host.pod();
    let result = make_link(host, &pod);
    (pod, result)
}

pub(crate) fn make_link(host: &Host, pod: &Pod) -> Value {
    let host_end = format!("v-{}", pod.id);
    host.run(&format!("ip link add {host_end} type veth peer name eth0 netns {}", pod.ns.path()));
    host.run(&format!("ip link set {host_end} up"));
    pod.run("ip link set lo up");
    pod.run("ip link set eth0 up");
    pod.run("ip address add 10.22.0.2/24 dev eth0");
    json!({
        "cniVersion": "1.0.0",
        "interfaces": [
            { "name": host_end, "mac": host.link(&host_end).unwrap()["address"] },
            { "name": "eth0", "mac": pod.interface()["address"], "sandbox": pod.path }],
        "ips": [{ "interface": 1, "address": "10.22.0.2/24" }],
    })
}

/// The result, without the empty `dns` that some versions print.
pub(crate) fn without_dns(mut result: Value) -> Value {
    if result["dns"] == json!({}) {
        result.as_object_mut().unwrap().remove("dns");
    }
    result
}

/// All that can be set, save the queue's length, which came later.
fn all() -> Value {
    json!({ "mac": MAC, "mtu": 1400, "promisc": true, "allmulti": true })
}

/// MAC, MTU, promiscuous mode, all-multicast mode, queue length.
fn state(pod: &Pod) -> (String, u64, bool, bool, u64) {
    let link = pod.interface();
    let has = |flag: &str| link["flags"].as_array().unwrap().iter().any(|f| f == flag);
    let mac = link["address"].as_str().unwrap().to_owned();
    (mac, link["mtu"].as_u64().unwrap(), has("PROMISC"), has("ALLMULTI"), link["txqlen"].as_u64().unwrap_or_default())
}

fn call<'h>(host: &'h Host, pod: &Pod, previous: &Value, patch: &Value) -> Call<'h> {
    host.plugin("tuning").pod(pod).config_with(&with(&tuning(), patch.clone()), previous)
}

/// The backup files, without those of ours that nobody else reads.
fn backups(host: &Host) -> Vec<String> {
    host.files(FOLDER).into_iter().filter(|name| !name.starts_with('.')).collect()
}

fn backup(host: &Host, pod: &Pod) -> String {
    host.enter(|| fs::read_to_string(format!("{FOLDER}/{}_eth0.json", pod.id)).unwrap())
}

#[test]
fn they_are_set_and_restored() {
    case(|| {
        let host = Host::new();
        let (pod, previous) = linked(&host);
        let before = state(&pod);
        let result = call(&host, &pod, &previous, &all()).add().result();
        assert_eq!(state(&pod), (MAC.to_owned(), 1400, true, true, before.4));
        let mut expected = previous;
        expected["interfaces"][1]["mac"] = json!(MAC);
        assert_eq!(without_dns(result.clone()), expected);
        call(&host, &pod, &result, &all()).check().ok();
        call(&host, &pod, &result, &all()).del().ok();
        assert_eq!(state(&pod), before);
        assert!(backups(&host).is_empty());
        call(&host, &pod, &result, &all()).del().ok();
    });
}

#[test]
fn the_queue_length_and_switching_off() {
    case(|| {
        let host = Host::new();
        let (pod, previous) = linked(&host);
        pod.run("ip link set dev eth0 allmulticast on txqueuelen 500");
        let before = state(&pod);
        let patch = json!({ "txQLen": 77, "allmulti": false });
        call(&host, &pod, &previous, &patch).add().ok();
        assert_eq!((state(&pod).3, state(&pod).4), (false, 77));
        call(&host, &pod, &previous, &patch).check().ok();
        let kept = "{\n \"allmulti\": true,\n \"txQLen\": 500\n}";
        assert_eq!(backup(&host, &pod), kept);
        pod.run("ip link set dev eth0 txqueuelen 78");
        call(&host, &pod, &previous, &patch).check().failure().is(999, "78|77");
        call(&host, &pod, &previous, &patch).del().ok();
        assert_eq!(state(&pod), before);
    });
}

#[test]
fn args_of_the_call_stand_in_for_the_config() {
    case(|| {
        let host = Host::new();
        let (pod, previous) = linked(&host);
        let patch = json!({ "mac": "02:aa:bb:cc:dd:09", "mtu": 1300, "promisc": true,
            "args": { "cni": { "mtu": 1350, "promisc": false, "mac": MAC, "allmulti": true } },
            "runtimeConfig": { "mac": "02:aa:bb:cc:dd:07" } });
        call(&host, &pod, &previous, &patch).args("IgnoreUnknown=1;MAC=02:aa:bb:cc:dd:08").add().ok();
        let (mac, mtu, promisc, allmulti, _) = state(&pod);
        assert_eq!((mac.as_str(), mtu, promisc, allmulti), (MAC, 1350, false, true));
        let macs = [
            (json!({ "mac": "02:aa:bb:cc:dd:09" }), "", "02:aa:bb:cc:dd:09"),
            (json!({ "mac": "02:aa:bb:cc:dd:09" }), "MAC=02:aa:bb:cc:dd:08", "02:aa:bb:cc:dd:08"),
            (json!({ "runtimeConfig": { "mac": MAC } }), "MAC=02:aa:bb:cc:dd:08", MAC),
        ];
        for (patch, args, expected) in macs {
            call(&host, &pod, &previous, &patch).args(args).add().ok();
            assert_eq!(state(&pod).0, expected);
        }
    });
}

#[test]
fn the_backup_is_the_references_to_the_byte() {
    case(|| {
        let host = Host::new();
        let (pod, previous) = linked(&host);
        let mac = state(&pod).0;
        call(&host, &pod, &previous, &all()).add().ok();
        let text = format!("{{\n \"mac\": \"{mac}\",\n \"promisc\": false,\n \"mtu\": 1500,\n \"allmulti\": false\n}}");
        assert_eq!(backup(&host, &pod), text);
        assert_eq!(backups(&host), [format!("{}_eth0.json", pod.id)]);
    });
}

#[test]
fn the_reference_restores_what_we_tuned_and_we_what_it_tuned() {
    case(|| {
        let host = Host::new();
        let (pod, previous) = linked(&host);
        let before = state(&pod);
        let config = with(&tuning(), all());
        let reference = || host.reference("tuning").pod(&pod).config_with(&config, &previous);
        call(&host, &pod, &previous, &all()).add().ok();
        reference().del().ok();
        assert_eq!(state(&pod), before);
        assert!(backups(&host).is_empty());
        reference().add().ok();
        assert_ne!(state(&pod), before);
        call(&host, &pod, &previous, &all()).del().ok();
        assert_eq!(state(&pod), before);
        assert!(backups(&host).is_empty());
    });
}

#[test]
fn a_second_add_keeps_the_originals() {
    case(|| {
        let host = Host::new();
        let (pod, previous) = linked(&host);
        let before = state(&pod);
        call(&host, &pod, &previous, &json!({ "mtu": 1400 })).add().ok();
        call(&host, &pod, &previous, &all()).add().ok();
        call(&host, &pod, &previous, &json!({ "mtu": 1300 })).add().ok();
        assert_eq!(state(&pod).1, 1300);
        call(&host, &pod, &previous, &json!({ "mtu": 1300 })).del().ok();
        assert_eq!(state(&pod), before);
    });
}

#[test]
fn a_restarted_container_gets_nothing_of_its_predecessor() {
    case(|| {
        let host = Host::new();
        let (mut pod, previous) = linked(&host);
        call(&host, &pod, &previous, &all()).add().ok();
        // The same container with a new interface, in its namespace or in another.
        pod.run("ip link delete eth0");
        let previous = make_link(&host, &pod);
        let made = state(&pod);
        call(&host, &pod, &previous, &all()).del().ok();
        assert_eq!(state(&pod), made);
        assert!(backups(&host).is_empty());
        call(&host, &pod, &previous, &json!({ "mtu": 1300 })).add().ok();
        host.run(&format!("ip link delete v-{}", pod.id));
        let other = host.pod();
        pod.ns = other.ns;
        pod.path = pod.ns.path();
        let previous = make_link(&host, &pod);
        pod.run("ip link set dev eth0 mtu 1450");
        let made = state(&pod);
        call(&host, &pod, &previous, &json!({ "mtu": 1300 })).add().ok();
        assert_eq!(state(&pod).1, 1300);
        call(&host, &pod, &previous, &json!({ "mtu": 1300 })).del().ok();
        assert_eq!(state(&pod), made);
    });
}

#[test]
fn what_another_suite_has_kept_of_an_earlier_container_is_replaced() {
    case(|| {
        let host = Host::new();
        let (pod, previous) = linked(&host);
        let before = state(&pod);
        host.write(&format!("{FOLDER}/{}_eth0.json", pod.id), "{\n \"mtu\": 1234\n}");
        call(&host, &pod, &previous, &json!({ "mtu": 1400 })).add().ok();
        call(&host, &pod, &previous, &json!({ "mtu": 1400 })).del().ok();
        assert_eq!(state(&pod), before);
    });
}

/// containernetworking/plugins#493, #540.
#[test]
fn without_the_namespace_nothing_is_left() {
    case(|| {
        let host = Host::new();
        for netns in ["", "/run/netns/gone", "/run/test/plain"] {
            host.write("/run/test/plain", "no namespace");
            let (pod, previous) = linked(&host);
            call(&host, &pod, &previous, &all()).add().ok();
            assert_eq!(backups(&host).len(), 1);
            let id = pod.id.clone();
            drop(pod);
            let del = || host.plugin("tuning").id(&id).netns(netns).config(&with(&tuning(), all())).del();
            del().ok();
            assert!(backups(&host).is_empty(), "{netns}");
            del().ok();
        }
        let left = host.enter(|| fs::read_dir(format!("{FOLDER}/.oxbridge")).map_or(0, Iterator::count));
        assert_eq!(left, 0);
    });
}

#[test]
fn del_needs_neither_a_valid_config_nor_the_result() {
    case(|| {
        let host = Host::new();
        let (pod, previous) = linked(&host);
        let before = state(&pod);
        for patch in [
            json!({ "mtu": "x", "sysctl": 5, "mac": "y" }),
            json!({ "prevResult": { "ips": "garbage" }, "mtu": 1400 }),
            json!({}),
        ] {
            call(&host, &pod, &previous, &all()).add().ok();
            let config = with(&tuning(), patch);
            host.plugin("tuning").pod(&pod).args("no=args;at all").config(&config).del().ok();
            assert_eq!(state(&pod), before);
            assert!(backups(&host).is_empty());
        }
    });
}

#[test]
fn a_backup_that_says_nothing_is_removed() {
    case(|| {
        let host = Host::new();
        let (pod, previous) = linked(&host);
        for garbage in ["", "{", "[]", "{\"mtu\":\"x\"}"] {
            let made = state(&pod);
            host.write(&format!("{FOLDER}/{}_eth0.json", pod.id), garbage);
            let reply = call(&host, &pod, &previous, &all()).del();
            assert!(reply.ok().stderr.contains(&format!("{}_eth0.json", pod.id)), "{reply}");
            assert!(backups(&host).is_empty());
            assert_eq!(state(&pod), made);
        }
    });
}

#[test]
fn a_path_that_leads_to_another_pod_by_now_changes_nothing_there() {
    case(|| {
        let host = Host::new();
        let (mut pod, previous) = linked(&host);
        pod.path = "/run/netns/reused".to_owned();
        host.mount_netns(&pod.ns, &pod.path);
        call(&host, &pod, &previous, &all()).add().ok();
        let (other, _) = linked(&host);
        host.mount_netns(&other.ns, &pod.path);
        let there = state(&other);
        call(&host, &pod, &previous, &all()).del().ok();
        assert_eq!(state(&other), there);
        assert!(backups(&host).is_empty());
    });
}

#[test]
fn whatever_fails_everything_is_as_before() {
    case(|| {
        let host = Host::new();
        let (pod, previous) = linked(&host);
        let sysctl = "/proc/sys/net/core/somaxconn";
        let before = (state(&pod), pod.read(sysctl));
        host.write("/run/test/file", "");
        let base = with(&all(), json!({ "sysctl": { "net.core.somaxconn": "99" } }));
        let folder = json!({ "dataDir": "/run/test/file" });
        for (patch, fragment) in [
            (json!({ "mtu": 70000 }), "MTU 70000|eth0"),
            (folder, "/run/test/file"),
            (json!({ "mtu": -5 }), "mtu"),
            (json!({ "mac": "01:00:5e:00:00:01" }), "01:00:5e:00:00:01"),
        ] {
            call(&host, &pod, &previous, &with(&base, patch)).add().failure().is(999, fragment);
            assert_eq!((state(&pod), pod.read(sysctl)), before, "{fragment}");
            assert!(backups(&host).is_empty(), "{fragment}");
        }
        let outputs: [fn() -> Stdio; 2] = [|| full().into(), unread];
        for output in outputs {
            let reply = call(&host, &pod, &previous, &base).stdout(output()).add();
            assert!(!reply.status.success() && reply.status.code().is_some(), "{reply}");
            assert_eq!((state(&pod), pod.read(sysctl)), before);
            assert!(backups(&host).is_empty());
        }
    });
}

#[test]
fn a_second_add_that_fails_keeps_what_the_first_one_kept() {
    case(|| {
        let host = Host::new();
        let (pod, previous) = linked(&host);
        let before = state(&pod);
        call(&host, &pod, &previous, &all()).add().ok();
        let (tuned, kept) = (state(&pod), backup(&host, &pod));
        let reply = call(&host, &pod, &previous, &json!({ "txQLen": 5, "mtu": 1300 })).stdout(full()).add();
        assert!(!reply.status.success(), "{reply}");
        assert_eq!((state(&pod), backup(&host, &pod)), (tuned, kept));
        call(&host, &pod, &previous, &all()).del().ok();
        assert_eq!(state(&pod), before);
    });
}

/// Skips the test unless it can be said which request to the kernel is the plugin's third.
pub(crate) fn needs_countable_requests(host: &Host) {
    if is_reference() {
        tests::skip("a Go program's requests come from whichever of its threads");
    }
    if host.try_run("strace -V").is_err() {
        tests::skip("there is no strace");
    }
}

#[test]
fn sigterm_at_any_moment_undoes_everything() {
    case(|| {
        let host = Host::new();
        needs_countable_requests(&host);
        let (pod, previous) = linked(&host);
        let sysctl = "/proc/sys/net/core/somaxconn";
        let before = (state(&pod), pod.read(sysctl));
        let patch = with(&all(), json!({ "txQLen": 7, "sysctl": { "net.core.somaxconn": "99" } }));
        let mut interrupted = 0;
        for moment in 1..500 {
            let inject = format!("inject=sendto,openat,rename:signal=TERM:when={moment}");
            let strace = ["strace", "-qq", "-e", "trace=sendto,openat,rename", "-e", &inject, "-o", "/dev/null"];
            let reply = call(&host, &pod, &previous, &patch).under(&strace).add();
            if reply.status.success() {
                call(&host, &pod, &previous, &patch).del().ok();
                pod.enter(|| fs::write(sysctl, before.1.as_deref().unwrap()).unwrap());
                // The signal came after the last look for one.
                if interrupted > 0 {
                    break;
                }
            } else if reply.status.code().is_some() {
                reply.failure().is(11, "SIGTERM");
                interrupted += 1;
            }
            assert_eq!((state(&pod), pod.read(sysctl)), before, "at {moment}");
            assert!(backups(&host).is_empty(), "at {moment}");
        }
        assert!(interrupted > 10, "{interrupted}");
    });
}

#[test]
fn killed_at_any_moment_del_restores_and_add_works() {
    case(|| {
        let host = Host::new();
        needs_countable_requests(&host);
        let (pod, previous) = linked(&host);
        let before = state(&pod);
        let mut killed = 0;
        for moment in 1..500 {
            let inject = format!("inject=sendto,openat,rename:signal=KILL:when={moment}");
            let strace = ["strace", "-qq", "-e", "trace=sendto,openat,rename", "-e", &inject, "-o", "/dev/null"];
            let reply = call(&host, &pod, &previous, &all()).under(&strace).add();
            call(&host, &pod, &previous, &all()).del().ok();
            assert_eq!(state(&pod), before, "at {moment}");
            let left = [host.files(&format!("{FOLDER}/.oxbridge")), backups(&host)].concat();
            assert!(left.is_empty(), "at {moment}: {left:?}");
            call(&host, &pod, &previous, &all()).add().ok();
            call(&host, &pod, &previous, &all()).del().ok();
            if reply.status.success() {
                break;
            }
            killed = moment;
        }
        assert!(killed > 10, "{killed}");
    });
}

#[test]
fn check_does_not_mind_who_else_looks() {
    case(|| {
        let host = Host::new();
        let (pod, previous) = linked(&host);
        let patch = json!({ "mac": MAC.to_uppercase(), "mtu": 1400 });
        let result = call(&host, &pod, &previous, &patch).add().result();
        assert_eq!(state(&pod).0, MAC);
        assert!(result["interfaces"][1]["mac"].as_str().unwrap().eq_ignore_ascii_case(MAC));
        call(&host, &pod, &result, &patch).check().ok();
        // Somebody else's promiscuous mode is no fault of the pod.
        pod.run("ip link set dev eth0 promisc on allmulticast on");
        call(&host, &pod, &result, &patch).check().ok();
    });
}

#[test]
fn check_says_found_and_expected() {
    case(|| {
        let host = Host::new();
        let (pod, previous) = linked(&host);
        let result = call(&host, &pod, &previous, &all()).add().result();
        for (change, back, fragment) in [
            ("mtu 1350", "mtu 1400", "1350|1400"),
            ("promisc off", "promisc on", "promisc"),
            ("allmulticast off", "allmulticast on", "multi"),
            ("address 02:aa:bb:cc:dd:ff", &format!("address {MAC}"), "02:aa:bb:cc:dd:ff|02:aa:bb:cc:dd:01"),
        ] {
            pod.run(&format!("ip link set dev eth0 {change}"));
            call(&host, &pod, &result, &all()).check().failure().is(999, fragment);
            pod.run(&format!("ip link set dev eth0 {back}"));
            call(&host, &pod, &result, &all()).check().ok();
        }
        pod.run("ip link delete eth0");
        call(&host, &pod, &result, &all()).check().failure().is(999, "eth0");
    });
}
