//! host-local: its store, its order, its errors.

use std::{collections::BTreeSet, fs::File, os::unix::fs::PermissionsExt, thread, time::Duration};

use nix::fcntl::{Flock, FlockArg};
use serde_json::{Value, json};
use tests::{
    Host, NetNs, Place, case,
    config::{self, STORE, with},
    plugin::Reply,
};

fn config(ranges: Value) -> Value {
    json!({ "cniVersion": "1.0.0", "name": "net", "type": "host-local", "ipam": { "type": "host-local", "ranges": ranges } })
}

fn subnet(subnet: &str) -> Value {
    config(json!([[{ "subnet": subnet }]]))
}

fn add(host: &Host, id: &str, config: &Value) -> Reply {
    host.plugin("host-local").id(id).config(config).add()
}

fn del(host: &Host, id: &str, config: &Value) {
    host.plugin("host-local").id(id).config(config).del().ok();
}

/// The addresses that an ADD gives, with their prefixes.
fn addresses(reply: &Reply) -> Vec<String> {
    reply.result()["ips"].as_array().unwrap().iter().map(|ip| ip["address"].as_str().unwrap().to_owned()).collect()
}

fn first(host: &Host, id: &str, config: &Value) -> String {
    addresses(&add(host, id, config))[0].split('/').next().unwrap().to_owned()
}

fn content(host: &Host, name: &str) -> Vec<u8> {
    host.enter(|| std::fs::read(format!("{STORE}/{name}")).unwrap())
}

fn mode(host: &Host, path: &str) -> u32 {
    host.enter(|| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777)
}

#[test]
fn the_store_is_that_of_the_reference_to_the_byte() {
    case(|| {
        let host = Host::new();
        add(&host, "c1", &with(&config::dual_stack(), json!({ "type": "host-local" }))).ok();
        assert_eq!(host.files(STORE), ["10.22.0.2", "fd00:22::2", "last_reserved_ip.0", "last_reserved_ip.1", "lock"]);
        assert_eq!(content(&host, "10.22.0.2"), b"c1\r\neth0");
        assert_eq!(content(&host, "fd00:22::2"), b"c1\r\neth0");
        assert_eq!(content(&host, "last_reserved_ip.0"), b"10.22.0.2");
        assert_eq!(content(&host, "last_reserved_ip.1"), b"fd00:22::2");
        assert_eq!(content(&host, "lock"), b"");
        del(&host, "c1", &with(&config::dual_stack(), json!({ "type": "host-local" })));
        assert_eq!(host.files(STORE), ["last_reserved_ip.0", "last_reserved_ip.1", "lock"]);
    });
}

#[test]
fn the_store_has_the_modes_of_the_reference() {
    case(|| {
        let host = Host::new();
        add(&host, "c1", &subnet("10.1.0.0/24")).ok();
        for (name, expected) in [("10.1.0.2", 0o600), ("last_reserved_ip.0", 0o600), ("lock", 0o750)] {
            assert_eq!(mode(&host, &format!("{STORE}/{name}")), expected, "{name}");
        }
        assert_eq!(mode(&host, STORE), 0o755);
        assert_eq!(mode(&host, "/var/lib/cni/networks"), 0o755);
    });
}

#[test]
fn another_data_dir_is_used() {
    case(|| {
        let host = Host::new();
        let config = with(&subnet("10.1.0.0/24"), json!({ "ipam": { "dataDir": "/run/test/a/b" } }));
        add(&host, "c1", &config).ok();
        assert_eq!(host.files("/run/test/a/b/net"), ["10.1.0.2", "last_reserved_ip.0", "lock"]);
        assert!(!host.exists(STORE));
    });
}

#[test]
fn addresses_go_round() {
    case(|| {
        let host = Host::new();
        let config = config(
            json!([[{ "subnet": "10.1.0.0/24", "rangeStart": "10.1.0.10", "rangeEnd": "10.1.0.13", "gateway": "10.1.0.12" }]]),
        );
        let mut given = Vec::new();
        for n in 0..7 {
            let id = format!("c{n}");
            given.push(first(&host, &id, &config));
            del(&host, &id, &config);
        }
        assert_eq!(given, ["10.1.0.10", "10.1.0.11", "10.1.0.13", "10.1.0.10", "10.1.0.11", "10.1.0.13", "10.1.0.10"]);
    });
}

#[test]
fn a_set_of_ranges_is_walked_in_order_until_it_is_full() {
    case(|| {
        let host = Host::new();
        let config = config(json!([[{ "subnet": "fd00:1::/126" },
            { "subnet": "fd00:2::/64", "rangeStart": "fd00:2::", "rangeEnd": "fd00:2::2", "gateway": "fd00:2::1" }]]));
        let given: Vec<_> = (0..4).map(|n| first(&host, &format!("c{n}"), &config)).collect();
        assert_eq!(given, ["fd00:1::2", "fd00:1::3", "fd00:2::", "fd00:2::2"]);
        add(&host, "late", &config).failure().is(999, "no IP addresses available in range set");
        // One in the middle becomes free: it is found from wherever the cursor is.
        del(&host, "c1", &config);
        assert_eq!(first(&host, "late", &config), "fd00:1::3");
    });
}

#[test]
fn the_order_is_that_of_the_reference() {
    case(|| {
        let sets = [
            json!([[{ "subnet": "10.1.0.0/29" }]]),
            json!([[{ "subnet": "10.1.0.0/28", "rangeStart": "10.1.0.4", "rangeEnd": "10.1.0.7" },
                    { "subnet": "10.2.0.0/29", "gateway": "10.2.0.3" }], [{ "subnet": "fd00::/125" }]]),
            json!([[{ "subnet": "fd00::/64", "rangeStart": "fd00::ffff:fffe", "rangeEnd": "fd00::1:0:2" }]]),
            json!([[{ "subnet": "10.1.0.0/29", "rangeStart": "10.1.0.0", "rangeEnd": "10.1.0.7" }]]),
        ];
        for ranges in sets {
            let config = config(ranges);
            let (ours, theirs) = (Host::new(), Host::new());
            let mut seed = 7_u32;
            let mut held = Vec::new();
            for n in 0..40 {
                // A third of the steps releases somebody.
                seed = seed.wrapping_mul(1_103_515_245).wrapping_add(12345);
                let number = usize::try_from(seed >> 16).unwrap();
                if number.is_multiple_of(3) && !held.is_empty() {
                    let id: String = held.swap_remove(number % held.len());
                    del(&ours, &id, &config);
                    theirs.reference("host-local").id(&id).config(&config).del().ok();
                    continue;
                }
                let id = format!("c{n}");
                let reply = add(&ours, &id, &config);
                let expected = theirs.reference("host-local").id(&id).config(&config).add();
                assert_eq!(reply.status.success(), expected.status.success(), "step {n}: {reply}\n{expected}");
                if reply.status.success() {
                    assert_eq!(addresses(&reply), addresses(&expected), "step {n} of {config}");
                    held.push(id);
                } else {
                    assert_eq!(reply.failure().msg, expected.failure().msg);
                }
            }
            assert_eq!(ours.files(STORE), theirs.files(STORE));
        }
    });
}

#[test]
fn every_address_of_a_small_pool_is_given_once() {
    case(|| {
        let host = Host::new();
        let config = subnet("10.1.0.0/27");
        let next = std::sync::atomic::AtomicU32::new(0);
        let given = thread::scope(|s| {
            let threads = [(); 6].map(|()| {
                s.spawn(|| {
                    let mut mine = Vec::new();
                    loop {
                        let n = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        if n >= 29 {
                            return mine;
                        }
                        mine.push(first(&host, &format!("c{n}"), &config));
                    }
                })
            });
            threads.into_iter().flat_map(|t| t.join().unwrap()).collect::<Vec<_>>()
        });
        let all: BTreeSet<_> = given.iter().cloned().collect();
        assert_eq!((given.len(), all.len()), (29, 29));
        add(&host, "late", &config).failure().is(999, "no IP addresses available in range set: 10.1.0.1-10.1.0.30");
    });
}

#[test]
fn ipv6_ranges_are_searched_without_walking_them() {
    case(|| {
        let host = Host::new();
        let config = subnet("fd00::/8");
        // The cursor is far from the end, everything near it is taken.
        let taken: Vec<_> = (2..2000).map(|n| format!("fd00::{n:x}")).collect();
        for address in &taken {
            host.write(&format!("{STORE}/{address}"), "x\r\neth0");
        }
        let reply = add(&host, "c1", &config);
        assert_eq!(addresses(&reply), ["fd00::7d0/8"]);
        assert!(reply.time < Duration::from_secs(2), "{:?}", reply.time);
    });
}

#[test]
fn torn_and_empty_files_are_nobodys() {
    case(|| {
        let host = Host::new();
        for (name, text) in [("2", ""), ("3", "\r\n"), ("4", " "), ("5", "")] {
            host.write(&format!("{STORE}/10.1.0.{name}"), text);
        }
        // In whatever order.
        let given: BTreeSet<_> = (0..5).map(|n| first(&host, &format!("c{n}"), &subnet("10.1.0.0/29"))).collect();
        assert_eq!(given.len(), 5);
        assert!(content(&host, "10.1.0.2").ends_with(b"\r\neth0"));
    });
}

#[test]
fn a_garbage_cursor_means_from_the_beginning() {
    case(|| {
        for text in ["", "garbage", "10.99.0.1", "fd00::1"] {
            let host = Host::new();
            host.write(&format!("{STORE}/last_reserved_ip.0"), text);
            assert_eq!(first(&host, "c1", &subnet("10.1.0.0/24")), "10.1.0.2", "cursor {text:?}");
        }
    });
}

#[test]
fn reservations_of_old_releases_are_known() {
    case(|| {
        let host = Host::new();
        let config = subnet("10.1.0.0/24");
        // They hold the container id alone.
        host.write(&format!("{STORE}/10.1.0.2"), "old");
        add(&host, "old", &config).failure().is(999, "10.1.0.2");
        let result = json!({ "cniVersion": "1.0.0", "ips": [{ "address": "10.1.0.2/24" }] });
        host.plugin("host-local").id("old").config_with(&config, &result).check().ok();
        del(&host, "old", &config);
        assert!(!host.exists(&format!("{STORE}/10.1.0.2")));
    });
}

#[test]
fn a_duplicate_is_refused_and_changes_nothing() {
    case(|| {
        let host = Host::new();
        let config = with(&config::dual_stack(), json!({ "type": "host-local" }));
        let pod = host.pod();
        let call = || host.plugin("host-local").pod(&pod).config(&config).add();
        call().ok();
        let before = host.snapshot();
        call().failure().is(999, "10.22.0.2 has been allocated to pod-1|duplicate allocation is not allowed");
        host.assert_as(&before);
        // Another interface of the container is no duplicate.
        let other = host.plugin("host-local").pod(&pod).ifname("eth1").config(&config).add();
        assert_eq!(addresses(&other)[0], "10.22.0.3/24");
    });
}

#[test]
fn a_failed_duplicate_frees_nothing() {
    case(|| {
        let host = Host::new();
        let config = with(&config::dual_stack(), json!({ "type": "host-local" }));
        let pod = host.pod();
        host.plugin("host-local").pod(&pod).config(&config).add().ok();
        let before = host.snapshot();
        // The first set is satisfied by the request, the second finds the duplicate.
        host.plugin("host-local").pod(&pod).config(&config).args("IP=10.22.0.77").add().failure().is(999, "");
        host.assert_as(&before);
    });
}

#[test]
fn a_restart_into_another_namespace_gets_its_address_back() {
    case(|| {
        let host = Host::new();
        let config = config::everything();
        let mut pod = host.named_pod();
        host.plugin("bridge").pod(&pod).config(&config).add().ok();
        let addresses = pod.addresses();
        // The node forgot to call DEL; somebody else came in the meantime.
        host.unmount(&pod.path);
        pod.ns = NetNs::new();
        host.wait_for_ports(0);
        let other = host.pod();
        host.plugin("bridge").pod(&other).config(&config).add().ok();
        host.mount_netns(&pod.ns, &pod.path);
        let reply = host.plugin("bridge").pod(&pod).config(&config).add();
        reply.ok();
        assert_eq!(pod.addresses(), addresses);
        tests::traffic::assert_reaches(&pod, config::GATEWAY4);
    });
}

#[test]
fn a_restart_while_the_old_namespace_lives_is_a_duplicate() {
    case(|| {
        let host = Host::new();
        let config = config::bridge();
        let (old, mut new) = (host.pod(), host.pod());
        host.plugin("bridge").pod(&old).config(&config).add().ok();
        new.id.clone_from(&old.id);
        host.plugin("bridge").pod(&new).config(&config).add().failure().is(999, "pod-1");
        tests::traffic::assert_reaches(&old, config::GATEWAY4);
    });
}

#[test]
fn the_full_pool_of_a_node_that_crashed_is_reclaimed() {
    case(|| {
        let host = Host::new();
        let config = with(&config::bridge(), json!({ "ipam": config::host_local(&["10.22.0.0/29"]) }));
        let alive = host.pod();
        host.plugin("bridge").pod(&alive).config(&config).add().ok();
        for _ in 0..4 {
            host.plugin("bridge").pod(&host.pod()).config(&config).add().ok();
        }
        // Their namespaces ended without DEL; the one that is alive keeps its address.
        host.wait_for_ports(1);
        let pods: Vec<_> = (0..4).map(|_| host.pod()).collect();
        for pod in &pods {
            host.plugin("bridge").pod(pod).config(&config).add().ok();
            assert_ne!(pod.addresses(), alive.addresses());
        }
        host.plugin("bridge").pod(&host.pod()).config(&config).add().failure().is(999, "no IP addresses available");
        tests::traffic::assert_reaches(&alive, config::GATEWAY4);
    });
}

#[test]
fn a_reclaimed_address_is_told_with_its_owner() {
    case(|| {
        let host = Host::new();
        let config = with(&config::bridge(), json!({ "ipam": config::host_local(&["10.22.0.0/30"]) }));
        let gone = host.named_pod();
        host.plugin("bridge").pod(&gone).config(&config).add().ok();
        host.unmount(&gone.path);
        let id = gone.id.clone();
        drop(gone);
        host.wait_for_ports(0);
        let reply = host.plugin("bridge").pod(&host.pod()).config(&config).add();
        let told = format!("reclaimed 10.22.0.2 of {id} eth0 ");
        assert!(reply.ok().stderr.contains(&told), "{reply}");
    });
}

#[test]
fn a_pod_whose_path_is_gone_or_used_again_keeps_its_address_in_a_full_pool() {
    case(|| {
        let host = Host::new();
        let config = with(&config::bridge(), json!({ "ipam": config::host_local(&["10.22.0.0/30"]) }));
        let requested = with(&config, json!({ "args": { "cni": { "ips": ["10.22.0.2"] } } }));
        let (pod, other) = (host.named_pod(), host.pod());
        host.plugin("bridge").pod(&pod).config(&config).add().ok();
        let refused = || {
            let call = |config: &Value| host.plugin("bridge").pod(&host.pod()).config(config).add();
            call(&config).failure().is(999, "no IP addresses available");
            call(&requested).failure().is(999, "10.22.0.2 is not available");
        };
        refused();
        host.unmount(&pod.path);
        refused();
        host.mount_netns(&other.ns, &pod.path);
        refused();
        tests::traffic::assert_reaches(&pod, config::GATEWAY4);
    });
}

#[test]
fn a_requested_address_is_taken_over_from_a_pod_that_is_gone() {
    case(|| {
        let host = Host::new();
        let config = with(&config::bridge(), json!({ "args": { "cni": { "ips": ["10.22.0.9"] } } }));
        let gone = host.pod();
        host.plugin("bridge").pod(&gone).config(&config).add().ok();
        drop(gone);
        host.wait_for_ports(0);
        let pod = host.pod();
        host.plugin("bridge").pod(&pod).config(&config).add().ok();
        assert!(content(&host, "10.22.0.9").starts_with(pod.id.as_bytes()));
        tests::traffic::assert_reaches(&pod, config::GATEWAY4);
    });
}

#[test]
fn reservations_made_by_hand_are_never_reclaimed() {
    case(|| {
        let host = Host::new();
        let config = subnet("10.1.0.0/30");
        host.write(&format!("{STORE}/10.1.0.2"), "precious\r\neth0");
        add(&host, "c1", &config).failure().is(999, "no IP addresses available");
        // So is one that another plugin than bridge asked for.
        del(&host, "precious", &config);
        host.plugin("host-local").id("macvlan").netns("/run/netns/none").config(&config).add().ok();
        add(&host, "c1", &config).failure().is(999, "no IP addresses available");
    });
}

#[test]
fn requested_addresses_come_from_four_places() {
    case(|| {
        let host = Host::new();
        let base = config(json!([[{ "subnet": "10.1.0.0/24" }], [{ "subnet": "fd00::/64" }]]));
        let ips = |json: Value| with(&base, json);
        let cases = [
            (
                ips(json!({ "runtimeConfig": { "ips": ["10.1.0.50", "fd00::50"] } })),
                "",
                ["10.1.0.50/24", "fd00::50/64"],
            ),
            (ips(json!({ "runtimeConfig": { "ips": ["10.1.0.51/16"] } })), "", ["10.1.0.51/24", "fd00::51/64"]),
            (
                ips(json!({ "args": { "cni": { "ips": ["10.1.0.52", "fd00::52"] } } })),
                "",
                ["10.1.0.52/24", "fd00::52/64"],
            ),
            (base.clone(), "IP=10.1.0.53", ["10.1.0.53/24", "fd00::53/64"]),
            (
                ips(json!({ "args": { "cni": { "ips": ["fd00::54"] } } })),
                "IP=10.1.0.54",
                ["10.1.0.54/24", "fd00::54/64"],
            ),
        ];
        for (number, (config, args, expected)) in cases.iter().enumerate() {
            let reply = host.plugin("host-local").id(&format!("c{number}")).config(config).args(args).add();
            assert_eq!(addresses(&reply), *expected, "case {number}");
        }
    });
}

#[test]
fn a_requested_address_that_is_held_is_refused_with_its_holder() {
    case(|| {
        let host = Host::new();
        let config = subnet("10.1.0.0/24");
        let request =
            |id: &str, ip: &str| host.plugin("host-local").id(id).config(&config).args(&format!("IP={ip}")).add();
        request("holder", "10.1.0.9").ok();
        let before = host.snapshot();
        request("late", "10.1.0.9").failure().is(999, "requested IP address 10.1.0.9 is not available in range set");
        request("late", "10.1.0.9").failure().is(999, "holder|eth0");
        request("late", "10.1.0.1").failure().is(999, "gateway|10.1.0.1");
        request("late", "10.77.0.1").failure().is(999, "failed to allocate all requested IPs: 10.77.0.1");
        assert!(!host.snapshot().mentions("late"), "nothing stays reserved");
        assert!(before.diff(&host.snapshot()).is_empty());
    });
}

#[test]
fn ranges_of_the_runtime_come_first() {
    case(|| {
        let host = Host::new();
        let config = with(
            &subnet("10.1.0.0/24"),
            json!({
            "ipam": { "subnet": "10.2.0.0/24", "rangeStart": "10.2.0.7", "gateway": "10.2.0.9" },
            "runtimeConfig": { "ipRanges": [[{ "subnet": "10.3.0.0/24" }]] } }),
        );
        let reply = add(&host, "c1", &config);
        assert_eq!(addresses(&reply), ["10.3.0.2/24", "10.2.0.7/24", "10.1.0.2/24"]);
        assert_eq!(reply.result()["ips"][1]["gateway"], "10.2.0.9");
        assert_eq!(content(&host, "last_reserved_ip.2"), b"10.1.0.2");
    });
}

#[test]
fn the_capabilities_come_through_the_runtime() {
    case(|| {
        let host = Host::new();
        let network =
            host.network(&with(&config::bridge(), json!({ "capabilities": { "ips": true, "ipRanges": true } })));
        let pod = host.pod();
        let caps = r#"{"ips":["10.44.0.9"],"ipRanges":[[{"subnet":"10.44.0.0/24"}]]}"#;
        let config = network.call("add", &pod).env("CAP_ARGS", caps).run();
        // The network's own range is another set, and the bridge can have one gateway per subnet.
        if config.status.success() {
            assert_eq!(pod.addresses(), ["10.44.0.9/24", "10.22.0.2/24"]);
        } else {
            assert!(tests::settings::is_reference() && config.stderr.contains("already has an IP address"), "{config}");
        }
    });
}

#[test]
fn old_versions_can_have_one_address_per_family() {
    case(|| {
        let host = Host::new();
        let config = with(
            &config(json!([[{ "subnet": "10.1.0.0/24" }], [{ "subnet": "10.2.0.0/24" }]])),
            json!({ "cniVersion": "0.2.0" }),
        );
        add(&host, "c1", &config).failure().is(999, "does not support more than 1 address per family");
        let config = with(
            &config,
            json!({ "ipam": { "ranges": [[{ "subnet": "10.1.0.0/24" }], [{ "subnet": "fd00::/64" }]] } }),
        );
        add(&host, "c1", &config).ok();
    });
}

#[test]
fn check_looks_for_the_address() {
    case(|| {
        let host = Host::new();
        let config = subnet("10.1.0.0/24");
        let result = add(&host, "c1", &config).result();
        let check = |id: &str| host.plugin("host-local").id(id).config_with(&config, &result).check();
        check("c1").ok();
        check("c2").failure().is(999, "c2");
        host.run(&format!("mv {STORE}/10.1.0.2 {STORE}/10.1.0.3"));
        check("c1").failure().is(999, "10.1.0.2");
    });
}

#[test]
fn del_frees_what_this_attachment_has_and_nothing_else() {
    case(|| {
        let host = Host::new();
        let config = subnet("10.1.0.0/24");
        for (id, ifname) in [("a", "eth0"), ("a", "eth1"), ("ab", "eth0")] {
            host.plugin("host-local").id(id).ifname(ifname).config(&config).add().ok();
        }
        del(&host, "a", &config);
        del(&host, "a", &config);
        assert_eq!(host.files(STORE), ["10.1.0.3", "10.1.0.4", "last_reserved_ip.0", "lock"]);
        // Also when the ranges are others by now.
        del(&host, "ab", &subnet("10.2.0.0/24"));
        assert_eq!(host.files(STORE), ["10.1.0.3", "last_reserved_ip.0", "lock"]);
    });
}

#[test]
fn a_lock_that_is_never_released_is_an_error_with_its_holder() {
    case(|| {
        let host = Host::new();
        let config = subnet("10.1.0.0/24");
        add(&host, "c1", &config).ok();
        let file = host.enter(|| File::open(format!("{STORE}/lock")).unwrap());
        let lock = Flock::lock(file, FlockArg::LockExclusive).unwrap();
        let reply = add(&host, "c2", &config);
        let pid = std::process::id().to_string();
        reply.failure().is(11, &format!("lock|{pid}"));
        assert!(reply.time < Duration::from_secs(12), "{:?}", reply.time);
        drop(lock);
        add(&host, "c2", &config).ok();
    });
}

#[test]
fn a_lock_that_is_released_is_waited_for() {
    case(|| {
        let host = Host::new();
        let config = subnet("10.1.0.0/24");
        add(&host, "c1", &config).ok();
        let file = host.enter(|| File::open(format!("{STORE}/lock")).unwrap());
        let lock = Flock::lock(file, FlockArg::LockExclusive).unwrap();
        thread::scope(|s| {
            let waiting = s.spawn(|| add(&host, "c2", &config));
            thread::sleep(Duration::from_millis(300));
            drop(lock);
            let reply = waiting.join().unwrap();
            assert!(reply.ok().time >= Duration::from_millis(250));
        });
    });
}

#[test]
fn a_store_that_cannot_be_written_leaves_no_reservation() {
    case(|| {
        let host = Host::new();
        // Room for the lock and not much more.
        host.run("mkdir /run/test/tiny");
        host.run("mount -t tmpfs -o nr_inodes=4 tmpfs /run/test/tiny");
        let config = with(&subnet("10.1.0.0/24"), json!({ "ipam": { "dataDir": "/run/test/tiny" } }));
        let reply = add(&host, "c1", &config);
        assert!(!reply.status.success(), "{reply}");
        assert!(!host.files("/run/test/tiny/net").contains(&"10.1.0.2".to_owned()));
    });
}

#[test]
fn resolv_conf_is_read_before_anything_is_reserved() {
    case(|| {
        let host = Host::new();
        let config = with(&subnet("10.1.0.0/24"), json!({ "ipam": { "resolvConf": "/run/test/resolv.conf" } }));
        add(&host, "c1", &config).failure().is(999, "/run/test/resolv.conf");
        assert!(!host.exists(&format!("{STORE}/10.1.0.2")));
        host.write(
            "/run/test/resolv.conf",
            "# c\n; c\n\nnameserver 192.0.2.1 ignored\n  nameserver 192.0.2.2\nnameserver\n\
            domain a\ndomain b\nsearch x y\nsearch z\noptions ndots:2 edns0\noptions rotate\n",
        );
        assert_eq!(
            add(&host, "c1", &config).result()["dns"],
            json!({
            "nameservers": ["192.0.2.1", "192.0.2.2"], "domain": "b", "search": ["x", "y", "z"],
            "options": ["ndots:2", "edns0", "rotate"] })
        );
    });
}
