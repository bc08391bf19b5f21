//! Waits: each ends, within ten seconds where it is our own, and says what it waited for.
//!
//! The obstacles are real ones: a lock that is held, a ruleset that another program changes all the time, a program or a
//! delegate that hangs. Times are measured against the calls' own limit only ([`Call`](tests::Call) kills what takes
//! longer): this machine may be slow.

use std::{
    fs,
    io::{Read, Write},
    os::unix::fs::MetadataExt,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::{
    Host, Place, Pod, case,
    chained::{self, Chain, gc},
    config::{self, BRIDGE, STORE, with},
    snapshot::rules,
};

use crate::delegate::{path, script};

/// Skips the test against the reference, which waits without an end.
fn only_ours() {
    if tests::settings::is_reference() {
        tests::skip("it waits for ever, or is refused what it wants");
    }
}

/// A program that works on a host until this value is dropped.
struct Working(Child);

impl Working {
    fn start(host: &Host, script: &str) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = host.enter(|| command.spawn().unwrap());
        // It says when it has begun.
        let mut begun = [0];
        child.stdout.as_mut().unwrap().read_exact(&mut begun).unwrap();
        Self(child)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        // Those that loop look at their standard input, all others are killed.
        drop(self.0.stdin.take());
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// Somebody who commits to the ruleset all the time, as fast as one process can: some thousand times a second.
fn busy(host: &Host, set: &str) -> (Working, thread::JoinHandle<()>) {
    host.run(&format!("nft add set ip busy {set} {{ type ipv4_addr ; }}"));
    let mut working = Working::start(host, "echo b; exec nft -i >/dev/null");
    let mut stdin = working.0.stdin.take().unwrap();
    let element = format!("element ip busy {set} {{ 192.0.2.1 }}");
    let turn = format!("add {element}\ndelete {element}\n").repeat(50);
    let feeder = thread::spawn(move || while stdin.write_all(turn.as_bytes()).is_ok() {});
    (working, feeder)
}

/// ADD, CHECK and DEL of a chain for a pod. Failures have to be about the ruleset, and such that a runtime tries again;
/// their number.
fn attach_and_detach(chain: &Chain<'_>, pod: &Pod) -> usize {
    let (mut result, mut failures) = (Value::Null, 0);
    let mut call = |verb: &str, plugin: &Value, result: &Value| {
        let reply = chain.call(plugin).verb(verb).pod(pod).config_with(plugin, result).run();
        if !reply.status.success() {
            reply.failure().is(11, "nft");
            failures += 1;
        }
        reply
    };
    let mut is_added = true;
    for plugin in &chain.plugins {
        let reply = call("ADD", plugin, &result);
        is_added = reply.status.success();
        if !is_added {
            break;
        }
        result = reply.result();
    }
    if is_added {
        chain.plugins.iter().for_each(|plugin| _ = call("CHECK", plugin, &result));
    }
    for plugin in chain.plugins.iter().rev() {
        // A runtime tries again.
        while !call("DEL", plugin, &result).status.success() {}
    }
    failures
}

#[test]
fn a_ruleset_that_others_change_all_the_time() {
    case(|| {
        only_ours();
        let host = Host::new();
        Chain::new(&host, chained::everything()).warm_up();
        let before = host.snapshot();
        host.run("nft add table ip busy");
        let writers = ["a", "b"].map(|set| busy(&host, set));
        let failures: usize = thread::scope(|s| {
            let calls = [1, 2, 3, 4].map(|number| {
                let ports = json!([{ "hostPort": 9000 + number, "containerPort": 80, "protocol": "tcp" }]);
                let mut plugins = chained::everything();
                plugins[1] = with(&plugins[1], json!({ "runtimeConfig": { "portMappings": ports } }));
                let chain = Chain::new(&host, plugins);
                let host = &host;
                s.spawn(move || -> usize { (0..3).map(|_| attach_and_detach(&chain, &host.pod())).sum() })
            });
            calls.map(|call| call.join().unwrap()).iter().sum()
        });
        println!("{failures} calls were told to try again");
        for (working, feeder) in writers {
            drop(working);
            feeder.join().unwrap();
        }
        host.run("nft delete table ip busy");
        host.assert_as(&before);
    });
}

/// Holds the lock of a file, by a program whose name and number an error has to tell.
fn hold(host: &Host, file: &str) -> Working {
    Working::start(host, &format!("exec flock {file} sh -c 'echo b; exec cat >/dev/null'"))
}

/// Calls one plugin of the chain, whose predecessors have been called, while a lock is held: it is told to try again,
/// and who holds which lock. Nothing is left of it.
fn is_told_who_holds(host: &Host, chain: &Chain<'_>, plugin: usize, lock: &str) {
    let pod = host.pod();
    let before_it = Chain::new(host, chain.plugins[..plugin].to_vec());
    let result = before_it.add(&pod);
    let before = host.snapshot();
    let holder = hold(host, lock);
    let plugin = &chain.plugins[plugin];
    let call = || chain.call(plugin).pod(&pod).config_with(plugin, &result);
    let failure = call().add().failure();
    failure.is(11, &format!("{lock}|pid {}|flock", holder.pid()));
    let waited = failure.msg.split("still locked after ").nth(1).and_then(|rest| rest.split(" s").next());
    assert!(waited.is_some_and(|waited| waited.parse::<u32>().is_ok()), "seconds: {}", failure.msg);
    drop(holder);
    let diff = before.diff_without_skeleton(&host.snapshot());
    assert!(diff.is_empty(), "{lock}: {diff}");
    // As a runtime tries again.
    call().add().ok();
    chain.call(plugin).pod(&pod).config_with(plugin, &result).del().ok();
    before_it.del(&pod, &result);
}

/// The lock file of this name of a host.
fn lock_of(host: &Host, name: &str) -> String {
    let files = host.files("/run/oxbridge");
    let file = files.iter().find(|file| file.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {files:?}"));
    format!("/run/oxbridge/{file}")
}

#[test]
fn locks_that_are_held_are_named_with_their_holder() {
    case(|| {
        only_ours();
        let iptables = json!({ "backend": "iptables" });
        let portmap = with(&chained::portmap(), iptables.clone());
        let firewall = with(&chained::firewall(), iptables);
        let locks = [(0, "store"), (0, "bridges"), (1, "portmap-iptables"), (2, "firewall")];
        thread::scope(|s| {
            for (plugin, lock) in locks {
                let plugins = vec![chained::bridge(), portmap.clone(), firewall.clone()];
                s.spawn(move || {
                    let host = Host::new();
                    let chain = Chain::new(&host, plugins);
                    chain.warm_up();
                    let file = if lock == "store" { format!("{STORE}/lock") } else { lock_of(&host, lock) };
                    is_told_who_holds(&host, &chain, plugin, &file);
                });
            }
        });
    });
}

#[test]
fn a_delegate_whose_caller_is_killed_waits_for_nothing_more() {
    case(|| {
        only_ours();
        // Of host-local for its lock.
        const WAIT: Duration = Duration::from_secs(10);
        let host = Host::new();
        let chain = Chain::new(&host, vec![config::bridge()]);
        chain.warm_up();
        let (config, pod, before) = (&chain.plugins[0], host.pod(), host.snapshot());
        let lock = format!("{STORE}/lock");
        let holder = hold(&host, &lock);
        let inode = host.enter(|| fs::metadata(&lock).unwrap().ino());
        let is_waited_for = || {
            let locks = fs::read_to_string("/proc/locks").unwrap();
            locks.lines().any(|line| line.contains("-> FLOCK") && line.contains(&format!(":{inode} ")))
        };
        let killed = chain.call(config).pod(&pod).config(config).signal(Signal::SIGKILL, is_waited_for).add();
        assert!(killed.status.code().is_none(), "killed too late: {killed}");
        let start = Instant::now();
        killed.wait_for_orphans();
        assert!(killed.time + start.elapsed() < WAIT, "its wait had to end");
        drop(holder);
        host.assert_as(&before);
    });
}

#[test]
fn del_and_gc_are_told_who_holds_the_store() {
    case(|| {
        only_ours();
        let host = Host::new();
        let chain = Chain::new(&host, vec![config::bridge()]);
        let pods = [host.pod(), host.pod()];
        let [result, _] = pods.each_ref().map(|pod| chain.add(pod));
        let holder = hold(&host, &format!("{STORE}/lock"));
        let config = &chain.plugins[0];
        let what = format!("{STORE}/lock|pid {}", holder.pid());
        thread::scope(|s| {
            s.spawn(|| {
                chain.call(config).pod(&pods[0]).config_with(config, &result).del().failure().is(11, &what).code
            });
            s.spawn(|| gc(chain.call(config), config, &json!([])).failure().is(11, &what).code);
            s.spawn(|| {
                let check = chain.call(config).pod(&pods[1]).config_with(config, &result).check();
                check.failure().is(11, &what);
            });
        });
        drop(holder);
        chain.call(config).pod(&pods[0]).config(config).del().ok();
        gc(chain.call(config), config, &json!([])).ok();
        assert!(!host.files(STORE).iter().any(|file| file.starts_with("10.")), "the addresses are free");
    });
}

#[test]
fn the_lock_of_x_tables_is_named_with_its_holder() {
    case(|| {
        only_ours();
        let iptables = json!({ "backend": "iptables" });
        let plugins = [
            with(&chained::bridge(), json!({ "ipMasqBackend": "iptables" })),
            with(&chained::portmap(), iptables.clone()),
            with(&chained::firewall(), iptables),
        ];
        // On this thread, which can be skipped.
        Host::new().use_legacy_iptables();
        thread::scope(|s| {
            for number in 0..plugins.len() {
                let plugins = &plugins;
                s.spawn(move || {
                    let host = Host::new();
                    host.use_legacy_iptables();
                    let chain = Chain::new(&host, plugins.to_vec());
                    let pod = host.pod();
                    let call =
                        |plugin: &Value, result: &Value| chain.call(plugin).pod(&pod).config_with(plugin, result);
                    let mut result = Value::Null;
                    for plugin in &plugins[..number] {
                        result = call(plugin, &result).add().result();
                    }
                    let before = host.snapshot();
                    let holder = hold(&host, "/run/xtables.lock");
                    let failure = call(&plugins[number], &result).add().failure();
                    failure.is(11, &format!("lock|pid {}|flock", holder.pid()));
                    drop(holder);
                    let diff = before.diff_without_skeleton(&host.snapshot());
                    // Our tables may be made by then; nothing of the pod is in them.
                    let own: Vec<_> = diff.lines().filter(|line| line.contains(&pod.id)).collect();
                    assert!(own.is_empty(), "{own:?}");
                    call(&plugins[number], &result).add().ok();
                });
            }
        });
    });
}

/// One that hangs in a verb, and works in the others.
fn hanging(host: &Host, verb: &str) -> Value {
    script(
        host,
        "slow",
        &format!(
            r#"[ $CNI_COMMAND = {verb} ] && {{ echo $CNI_COMMAND >>/run/test/asked; exec sleep 600; }}
            [ $CNI_COMMAND = ADD ] && echo '{{"cniVersion":"1.0.0","ips":[{{"address":"10.22.0.9/24"}}]}}'
            true"#
        ),
    );
    let config = with(&config::bridge(), json!({ "ipam": null, "cniVersion": "1.1.0" }));
    with(&config, json!({ "ipam": { "type": "slow" } }))
}

#[test]
fn a_delegate_that_hangs_is_ended_in_every_verb() {
    case(|| {
        only_ours();
        thread::scope(|s| {
            for verb in ["ADD", "DEL", "CHECK", "GC", "STATUS"] {
                s.spawn(move || {
                    let host = Host::new();
                    let config = hanging(&host, verb);
                    let pod = host.pod();
                    let call = || {
                        let call = host.plugin("bridge").env("CNI_PATH", &path()).env("OXBRIDGE_DELEGATE_TIMEOUT", "2");
                        call.pod(&pod)
                    };
                    let result = if verb == "ADD" { Value::Null } else { call().config(&config).add().result() };
                    let config = with(&config, json!({ "cni.dev/valid-attachments": [] }));
                    let call = match verb {
                        "GC" | "STATUS" => call().id("").netns("").ifname("").config(&config),
                        _ => call().config_with(&config, &result),
                    };
                    let failure = call.verb(verb).run().failure();
                    let text = format!("plugin \"slow\" {verb} was not done in time|OXBRIDGE_DELEGATE_TIMEOUT");
                    failure.is(if verb == "STATUS" { failure.code } else { 11 }, &text);
                    assert_eq!(host.read("/run/test/asked").unwrap(), verb);
                    if verb == "ADD" {
                        assert!(pod.link("eth0").is_none() && host.link(BRIDGE).is_none(), "it is undone");
                    }
                });
            }
        });
    });
}

#[test]
fn what_hangs_two_delegates_deep_ends_from_the_inside_out() {
    case(|| {
        only_ours();
        let host = Host::new();
        hanging(&host, "ADD");
        host.write(
            crate::flannel_add::SUBNET_ENV,
            "FLANNEL_NETWORK=10.22.0.0/16\nFLANNEL_SUBNET=10.22.0.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n",
        );
        let config = json!({ "cniVersion": "1.0.0", "name": "net", "type": "flannel",
                             "delegate": { "bridge": BRIDGE }, "ipam": { "type": "slow" } });
        let pod = host.pod();
        let call = || host.plugin("flannel").pod(&pod).config(&config).env("CNI_PATH", &path());
        let reply = call().env("OXBRIDGE_DELEGATE_TIMEOUT", "6").add();
        // Not flannel's word about bridge: bridge's own about its delegate, and it has undone what it did.
        reply.failure().is(11, "plugin \"slow\" ADD was not done in time");
        assert!(pod.link("eth0").is_none() && host.link(BRIDGE).is_none());
    });
}

#[test]
fn a_port_that_listens_first_is_told_and_not_waited_for() {
    case(|| {
        only_ours();
        let host = Host::new();
        host.run(&format!("ip link add {BRIDGE} address 02:00:00:00:00:aa type bridge stp_state 1 forward_delay 1500"));
        let pod = host.pod();
        let reply = host.plugin("bridge").pod(&pod).config(&config::bridge()).add();
        assert!(reply.ok().stderr.contains("spanning tree"), "{reply}");
        let port = host.link(reply.result()["interfaces"][1]["name"].as_str().unwrap()).unwrap();
        assert_eq!(port["linkinfo"]["info_slave_data"]["state"], "listening");
        host.plugin("bridge").pod(&pod).config_with(&config::bridge(), &reply.result()).check().ok();
    });
}

#[test]
fn duplicate_address_detection_that_does_not_end_is_not_waited_for_long() {
    case(|| {
        only_ours();
        let host = Host::new();
        let config = with(&config::ipv6_only(), json!({ "enabledad": true }));
        host.warm_up(&config);
        let before = host.snapshot();
        let pod = host.pod();
        // One a second.
        pod.run("sysctl -q -w net/ipv6/conf/default/dad_transmits=100");
        let failure = host.plugin("bridge").pod(&pod).config(&config).add().failure();
        failure.is(11, "tentative|dad_transmits");
        assert!(pod.link("eth0").is_none());
        host.assert_as(&before);
    });
}

/// Where a namespace should be: who opens it must not wait for somebody to write.
#[test]
fn a_pipe_in_the_place_of_a_namespace() {
    case(|| {
        only_ours();
        let host = Host::new();
        host.run("mkfifo /run/test/pipe");
        for plugin in chained::everything() {
            let call = || host.plugin_of(&plugin).netns("/run/test/pipe").config(&plugin);
            call().add().failure();
            call().del().ok();
        }
        assert!(rules(&host, "oxbridge").is_empty());
    });
}
