//! host-local's reservations that nobody will release: which are taken back, when, and which never.
//!
//! Ours alone: the reference waits for an administrator.

use std::{
    any::Any,
    fs::File,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant, SystemTime},
};

use serde_json::{Value, json};
use tests::{
    Call, Host, NetNs, Place, Pod, case,
    config::{self, STORE, with},
    plugin::Reply,
    settings, skip,
    traffic::PATIENCE,
};

const OWN: &str = "/var/lib/cni/networks/.oxbridge/net";
const VICTIM: &str = "10.22.0.2";

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Reclaimed,
    Kept,
}
use Fate::{Kept, Reclaimed};

/// Somebody who has [`VICTIM`], and what is found out about him.
struct Row {
    evidence: &'static str,
    /// What becomes of him when the pool is full, or his address is asked for.
    full: Fate,
    /// And when ADDs that need nothing of his pass by, a minute later.
    passing: Fate,
    /// Makes the reservation and the evidence. What is returned lives until the row is done.
    make: fn(&Host, &Value) -> Box<dyn Any>,
}

fn row(evidence: &'static str, full: Fate, passing: Fate, make: fn(&Host, &Value) -> Box<dyn Any>) -> Row {
    Row { evidence, full, passing, make }
}

fn nothing() -> Box<dyn Any> {
    Box::new(())
}

/// A pod on the bridge.
fn attach(host: &Host, config: &Value) -> Pod {
    let pod = host.named_pod();
    host.plugin("bridge").pod(&pod).config(config).add().ok();
    pod
}

/// The namespace ends without DEL, and with it the link.
fn die(host: &Host, pod: Pod) {
    host.unmount(&pod.path);
    drop(pod);
    host.wait_for_ports(0);
}

fn reserve(host: &Host, config: &Value, id: &str) -> Reply {
    reserving(host, config, id).add()
}

fn reserving<'h>(host: &'h Host, config: &Value, id: &str) -> Call<'h> {
    host.plugin("host-local").id(id).netns("/run/netns/none").config(config)
}

fn records(host: &Host) -> Vec<String> {
    host.files(OWN).into_iter().filter(|name| name.len() == 32).map(|name| format!("{OWN}/{name}")).collect()
}

fn edit(host: &Host, change: impl Fn(&mut Value)) {
    for path in records(host) {
        let Some(mut record) = host.read(&path).and_then(|text| serde_json::from_str(&text).ok()) else { continue };
        change(&mut record);
        host.write(&path, record.to_string());
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

/// As if all this had happened more than a minute ago.
fn let_a_minute_pass(host: &Host) {
    let now = now();
    edit(host, |record| {
        let time = record["time"].as_u64().unwrap();
        if now.abs_diff(time) < 60 {
            record["time"] = json!(time - 70);
        }
    });
}

/// What is done meanwhile is done in another boot, as far as plugins can see.
fn in_another_boot<T>(host: &Host, work: impl FnOnce() -> T) -> T {
    const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
    host.write("/run/test/boot_id", "11111111-2222-3333-4444-555555555555\n");
    host.run(&format!("mount --bind /run/test/boot_id {BOOT_ID}"));
    let result = work();
    host.run(&format!("umount {BOOT_ID}"));
    result
}

fn long_ago(record: &mut Value) {
    record["time"] = json!(1_000_000_000);
}

/// A process, killed at the end.
struct Process(Child);

impl Process {
    /// `script` of sh, with `stdout` as its standard output.
    fn new(script: &str, stdout: impl Into<Stdio>) -> Self {
        let child = Command::new("sh").args(["-c", script]).stdin(Stdio::piped()).stdout(stdout).spawn();
        Self(child.unwrap())
    }

    fn path(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.0.id())
    }

    /// Lets the script read a line, and waits until its standard output is something else.
    fn go_on(&mut self) {
        let stdout = self.path("fd/1");
        let leads_to = || std::fs::read_link(&stdout).ok();
        let before = leads_to();
        drop(self.0.stdin.take());
        let deadline = Instant::now() + PATIENCE;
        while leads_to() == before && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(2));
        }
        assert_ne!(leads_to(), before);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// A pod known by its process, which is dead by now; the namespace is left to whoever keeps the pod.
fn of_a_dead_process(host: &Host, config: &Value) -> Pod {
    let mut pod = host.pod();
    let process = pod.enter(|| Process::new("exec sleep 60", Stdio::null()));
    pod.path = process.path("ns/net");
    host.plugin("bridge").pod(&pod).config(config).add().ok();
    drop(process);
    pod
}

/// A pod known by a descriptor, of which `script` makes something else.
fn of_a_descriptor(host: &Host, config: &Value, script: &str) -> (Pod, Process) {
    let mut pod = host.pod();
    let mut process = Process::new(script, File::open(&pod.path).unwrap());
    pod.path = process.path("fd/1");
    host.plugin("bridge").pod(&pod).config(config).add().ok();
    process.go_on();
    (pod, process)
}

/// A pod whose path is a mount that only the caller of its ADD sees.
fn of_another_mount_namespace(host: &Host, config: &Value) -> Pod {
    let pod = host.pod();
    let script = format!("touch /run/hidden; mount --bind {} /run/hidden; exec \"$0\"", pod.path);
    let call = host.plugin("bridge").pod(&pod).netns("/run/hidden").config(config);
    call.under(&["unshare", "-m", "sh", "-c", &script]).add().ok();
    pod
}

/// A pod whose host link has its second name, because the first was taken.
fn by_its_second_name(host: &Host, config: &Value) -> Pod {
    let link = || host.json("ip -j link show type veth")[0]["ifname"].as_str().unwrap().to_owned();
    let pod = attach(host, config);
    let first = link();
    host.plugin("bridge").pod(&pod).config(config).del().ok();
    host.run(&format!("ip link add {first} type bridge"));
    let again = with(config, json!({ "args": { "cni": { "ips": [VICTIM] } } }));
    host.plugin("bridge").pod(&pod).config(&again).add().ok();
    assert_ne!(link(), first);
    host.run(&format!("ip link del {first}"));
    pod
}

fn rows() -> Vec<Row> {
    vec![
        // Nobody's, and gone.
        row("an empty file", Reclaimed, Kept, |host, _| {
            host.write(&format!("{STORE}/{VICTIM}"), "");
            nothing()
        }),
        row("a file that was cut off", Reclaimed, Kept, |host, _| {
            host.write(&format!("{STORE}/{VICTIM}"), "\r\n");
            nothing()
        }),
        row("path, namespace and link are gone", Reclaimed, Reclaimed, |host, config| {
            die(host, attach(host, config));
            nothing()
        }),
        row("the path leads to another pod; namespace and link are gone", Reclaimed, Reclaimed, |host, config| {
            let (pod, other) = (attach(host, config), NetNs::new());
            let path = pod.path.clone();
            die(host, pod);
            host.mount_netns(&other, &path);
            Box::new(other)
        }),
        row("the path of a dead process; namespace and link are gone", Reclaimed, Reclaimed, |host, config| {
            die(host, of_a_dead_process(host, config));
            nothing()
        }),
        row("a closed descriptor; namespace and link are gone", Reclaimed, Reclaimed, |host, config| {
            let (pod, process) = of_a_descriptor(host, config, "read x; exec >&-; exec sleep 60");
            die(host, pod);
            Box::new(process)
        }),
        row("a descriptor that became a pipe", Reclaimed, Reclaimed, |host, config| {
            let (pod, process) = of_a_descriptor(host, config, "read x; exec >&0 </dev/null; exec sleep 60");
            die(host, pod);
            Box::new(process)
        }),
        row("the path became a FIFO", Reclaimed, Reclaimed, |host, config| {
            let pod = attach(host, config);
            let path = pod.path.clone();
            die(host, pod);
            host.run(&format!("mkfifo {path}"));
            nothing()
        }),
        row("hidden in another mount namespace; namespace and link are gone", Reclaimed, Reclaimed, |host, config| {
            die(host, of_another_mount_namespace(host, config));
            nothing()
        }),
        row("of an earlier boot, by whatever plugin, the path in use again", Reclaimed, Reclaimed, |host, config| {
            let pod = host.pod();
            in_another_boot(host, || host.plugin("host-local").pod(&pod).config(config).add().result());
            edit(host, long_ago);
            Box::new(pod)
        }),
        // As above, but one sign is missing.
        row("of the future, by this boot: the clock was set back", Reclaimed, Kept, |host, config| {
            die(host, attach(host, config));
            edit(host, |record| record["time"] = json!(now() + 86_400));
            nothing()
        }),
        row("not made by bridge", Kept, Kept, |host, config| {
            reserve(host, config, "macvlan").ok();
            nothing()
        }),
        row("the namespace is there, the link is not", Kept, Kept, |host, config| {
            let pod = attach(host, config);
            pod.run("ip link del eth0");
            host.wait_for_ports(0);
            Box::new(pod)
        }),
        row("the path is gone, the pod lives", Kept, Kept, |host, config| {
            let pod = attach(host, config);
            host.unmount(&pod.path);
            Box::new(pod)
        }),
        row("the path is gone, the link has its second name", Kept, Kept, |host, config| {
            let pod = by_its_second_name(host, config);
            host.unmount(&pod.path);
            Box::new(pod)
        }),
        row("the path is gone, the link has a name that somebody gave it", Kept, Kept, |host, config| {
            let pod = attach(host, config);
            let link = host.json("ip -j link show type veth")[0]["ifname"].as_str().unwrap().to_owned();
            host.rename(&link, "uplink0");
            host.unmount(&pod.path);
            Box::new(pod)
        }),
        row("the path leads to another pod, the pod lives", Kept, Kept, |host, config| {
            let (pod, other) = (attach(host, config), NetNs::new());
            host.mount_netns(&other, &pod.path);
            Box::new((pod, other))
        }),
        row("the path of a dead process, the pod lives", Kept, Kept, |host, config| {
            Box::new(of_a_dead_process(host, config))
        }),
        row("the path of a dead process, the namespace is mounted elsewhere", Kept, Kept, |host, config| {
            let pod = of_a_dead_process(host, config);
            host.mount_netns(&pod.ns, "/run/netns/elsewhere");
            drop(pod);
            nothing()
        }),
        row("a closed descriptor, the pod lives", Kept, Kept, |host, config| {
            Box::new(of_a_descriptor(host, config, "read x; exec >&-; exec sleep 60"))
        }),
        row("a mount in another mount namespace, the pod lives", Kept, Kept, |host, config| {
            Box::new(of_another_mount_namespace(host, config))
        }),
        row("of a nested container with a boot id of its own", Kept, Kept, |host, config| {
            in_another_boot(host, || die(host, attach(host, config)));
            nothing()
        }),
        row("looked at from a container with a boot id and an age of its own", Kept, Kept, |host, config| {
            die(host, attach(host, config));
            host.write("/run/test/boot_id", "11111111-2222-3333-4444-555555555555\n");
            host.run("mount --bind /run/test/boot_id /proc/sys/kernel/random/boot_id");
            host.write("/run/test/uptime", "0.50 0.50\n");
            host.run("mount --bind /run/test/uptime /proc/uptime");
            nothing()
        }),
        row("of another boot, and of the future: the clock was set back", Kept, Kept, |host, config| {
            in_another_boot(host, || die(host, attach(host, config)));
            edit(host, |record| record["time"] = json!(now() + 86_400));
            nothing()
        }),
        row("of an earlier boot, but its link is there", Kept, Kept, |host, config| {
            let pod = in_another_boot(host, || attach(host, config));
            edit(host, long_ago);
            host.unmount(&pod.path);
            Box::new(pod)
        }),
        // What our record does not speak for.
        row("made by the reference", Kept, Kept, |host, config| {
            host.reference("host-local").id("theirs").config(config).add().ok();
            nothing()
        }),
        row("freed and reserved again by the reference, for the same attachment", Kept, Kept, |host, config| {
            let pod = attach(host, config);
            let theirs = || host.reference("host-local").id(&pod.id).config(config);
            theirs().del().ok();
            theirs().args(&format!("IP={VICTIM}")).add().ok();
            die(host, pod);
            nothing()
        }),
        row("its record was removed", Kept, Kept, |host, config| {
            die(host, attach(host, config));
            records(host).iter().for_each(|path| _ = host.run(&format!("rm {path}")));
            nothing()
        }),
        row("its record is unreadable", Kept, Kept, |host, config| {
            die(host, attach(host, config));
            records(host).iter().for_each(|path| host.write(path, "{\"containerId\": \"pod"));
            nothing()
        }),
        row("its record is a link to a good one", Kept, Kept, |host, config| {
            die(host, attach(host, config));
            for path in records(host) {
                host.run(&format!("mv {path} /run/test/record"));
                host.run(&format!("ln -s /run/test/record {path}"));
            }
            nothing()
        }),
    ]
}

fn only_ours() {
    if settings::is_reference() {
        skip("the reference takes nothing back");
    }
}

/// One bridge, one network; the pool is the given range.
fn pool(end: &str) -> Value {
    let ranges = json!([[{ "subnet": "10.22.0.0/24", "rangeStart": VICTIM, "rangeEnd": end }]]);
    with(&config::bridge(), json!({ "ipam": { "ranges": ranges } }))
}

fn holder(host: &Host) -> Option<String> {
    host.read(&format!("{STORE}/{VICTIM}"))
}

#[test]
fn which_evidence_frees_an_address_of_a_full_pool() {
    case(|| {
        only_ours();
        each_row(&pool(VICTIM), "", "no IP addresses available in range set");
    });
}

#[test]
fn which_evidence_frees_an_address_that_is_asked_for() {
    case(|| {
        only_ours();
        each_row(&pool("10.22.0.200"), "IP=10.22.0.2", "requested IP address 10.22.0.2 is not available");
    });
}

/// Nothing else will do for an ADD with these CNI_ARGS.
fn each_row(config: &Value, args: &str, refused: &str) {
    for Row { evidence, full, make, .. } in rows() {
        let host = Host::new();
        let _alive = make(&host, config);
        let before = holder(&host);
        let reply = host.plugin("host-local").id("late").config(config).args(args).add();
        if full == Kept {
            assert!(!reply.status.success(), "{evidence}: {reply}");
            reply.failure().is(999, refused);
            assert_eq!(holder(&host), before, "{evidence}");
        } else {
            assert!(reply.status.success(), "{evidence}: {reply}");
            assert_eq!(holder(&host).unwrap(), "late\r\neth0", "{evidence}");
            let told = reply.stderr.contains(&format!("reclaimed {VICTIM} of "));
            assert_eq!(told, before.is_some_and(|text| !text.is_empty()), "{evidence}: {reply}");
        }
    }
}

#[test]
fn which_evidence_frees_an_address_in_passing() {
    case(|| {
        only_ours();
        for Row { evidence, passing, make, .. } in rows() {
            let (host, config) = (Host::new(), pool("10.22.0.200"));
            let _alive = make(&host, &config);
            let_a_minute_pass(&host);
            let before = holder(&host).unwrap();
            let mut stderr = String::new();
            for n in 0..4 {
                let id = format!("late-{n}");
                stderr += &reserve(&host, &config, &id).ok().stderr;
                host.plugin("host-local").id(&id).config(&config).del().ok();
            }
            let told = stderr.contains(&format!("reclaimed {VICTIM} of "));
            match passing {
                Kept => assert_eq!((holder(&host), told), (Some(before), false), "{evidence}: {stderr}"),
                Reclaimed => assert_eq!((holder(&host), told), (None, true), "{evidence}: {stderr}"),
            }
        }
    });
}

#[test]
fn an_add_that_is_under_way_is_not_looked_at_in_passing() {
    case(|| {
        only_ours();
        let (host, config) = (Host::new(), pool("10.22.0.200"));
        die(&host, attach(&host, &config));
        for n in 0..4 {
            reserve(&host, &config, &format!("late-{n}")).ok();
        }
        assert!(holder(&host).unwrap().starts_with("pod-1"));
    });
}

/// By a runtime in another mount namespace, whose path leads nowhere here.
#[test]
fn an_add_that_is_under_way_is_not_robbed_by_a_full_pool() {
    case(|| {
        only_ours();
        let (host, config) = (Host::new(), pool(VICTIM));
        // Its reader is the pod's ADD.
        let bridge = Process::new("read line", Stdio::null());
        let early = reserving(&host, &config, "early").netns("/run/netns/elsewhere").env("OXBRIDGE_PLUGIN", "bridge");
        early.env("OXBRIDGE_CALLER", &bridge.0.id().to_string()).add().ok();
        let refused = reserve(&host, &config, "late").failure();
        refused.is(999, "no IP addresses available|1 have a record of ours, and their attachments are alive or may be");
        let asked = with(&config, json!({ "args": { "cni": { "ips": [VICTIM] } } }));
        let refused = reserve(&host, &asked, "late").failure();
        refused.is(999, &format!("not available|its ADD is under way, by process {}", bridge.0.id()));
        drop(bridge);
        reserve(&host, &config, "late").ok();
        assert!(holder(&host).unwrap().starts_with("late"));
    });
}

#[test]
fn a_node_that_crashed_heals_before_its_pool_is_full() {
    case(|| {
        only_ours();
        let (host, config) = (Host::new(), config::dual_stack());
        let alive = attach(&host, &config);
        let dead: Vec<Pod> = (0..12).map(|_| attach(&host, &config)).collect();
        dead.iter().for_each(|pod| host.unmount(&pod.path));
        drop(dead);
        host.wait_for_ports(1);
        let_a_minute_pass(&host);
        // 26 reservations, two by each ADD; and an index of a few hundred slots, of which each passes 256.
        for n in 0..16 {
            let id = format!("late-{n}");
            host.plugin("host-local").id(&id).config(&config).add().ok();
            host.plugin("host-local").id(&id).config(&config).del().ok();
        }
        let left = host.files(STORE);
        assert_eq!(left, ["10.22.0.2", "fd00:22::2", "last_reserved_ip.0", "last_reserved_ip.1", "lock"]);
        assert_eq!(records(&host).len(), 1);
        tests::traffic::assert_reaches(&alive, config::GATEWAY4);
    });
}

#[test]
fn the_pool_of_an_earlier_boot_is_free() {
    case(|| {
        only_ours();
        let (host, config) =
            (Host::new(), with(&config::bridge(), json!({ "ipam": config::host_local(&["10.22.0.0/29"]) })));
        in_another_boot(&host, || (0..5).for_each(|n| _ = reserve(&host, &config, &format!("old-{n}")).ok()));
        reserve(&host, &config, "late").failure().is(999, "no IP addresses available|: 5 have a record of ours");
        edit(&host, long_ago);
        for n in 0..5 {
            reserve(&host, &config, &format!("new-{n}")).ok();
        }
        assert!(host.snapshot().mentions("new-4") && !host.snapshot().mentions("old-"));
    });
}

#[test]
fn a_live_owner_keeps_its_address_under_a_thousand_attempts() {
    case(|| {
        only_ours();
        let (host, config) = (Host::new(), pool("10.22.0.3"));
        // All that speaks for it is its link.
        let pod = attach(&host, &config);
        host.unmount(&pod.path);
        let_a_minute_pass(&host);
        let attempt = |n: usize, args: &str| {
            let call = || host.plugin("host-local").id(&format!("c{n}")).config(&config).args(args);
            let reply = call().add();
            call().del().ok();
            reply
        };
        for n in 0..500 {
            // The other address is free, and this ADD passes by.
            assert_eq!(attempt(n, "").result()["ips"][0]["address"], "10.22.0.3/24");
        }
        let other = host.pod();
        host.plugin("bridge").pod(&other).config(&config).add().ok();
        for n in 500..1000 {
            let args = if n % 2 == 0 { "" } else { "IP=10.22.0.2" };
            attempt(n, args).failure().is(999, "available");
        }
        assert_eq!(holder(&host).unwrap(), "pod-1\r\neth0");
        tests::traffic::assert_reaches(&pod, config::GATEWAY4);
    });
}

#[test]
fn a_full_pool_says_who_fills_it() {
    case(|| {
        only_ours();
        let (host, config) = (Host::new(), pool("10.22.0.6"));
        host.reference("host-local").id("theirs").config(&config).add().ok();
        for (n, namespace) in ["web", "web", "db"].into_iter().enumerate() {
            let args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=p{n}");
            let call = host.plugin("host-local").id(&format!("c{n}")).config(&config);
            call.args(&args).add().ok();
        }
        die(&host, attach(&host, &config));
        // The one that is gone goes first.
        reserve(&host, &config, "late").ok();
        let expected = "all of its 5 addresses are taken, by 5 reservations in /var/lib/cni/networks/net|\
            4 have a record of ours|0 are certainly gone|1 have no record of ours|namespaces web (2), db (1)";
        reserve(&host, &config, "later").failure().is(999, expected);
    });
}
