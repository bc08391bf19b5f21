//! Programs that take their time, and calls that are ended meanwhile.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::json;
use tests::{Host, Place, case};

use crate::firewall::{CHAIN, Chain, rules};

const PATH: &str = "/run/test/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// For a program to be started, and one that is let go on to have done its work.
const WHILE: Duration = Duration::from_millis(300);

/// The reference waits for a program, and for others' locks, without an end.
fn only_ours() {
    if tests::settings::is_reference() {
        tests::skip("it would wait for ever");
    }
}

/// A program in front of iptables' own: it says that it has started, and then does this.
fn wrap(host: &Host, program: &str, commands: &str) {
    let script = format!("#!/bin/sh\necho started >>/run/test/started\n{commands}\nexec /usr/sbin/{program} \"$@\"\n");
    host.write(&format!("/run/test/bin/{program}"), &script);
    host.run(&format!("chmod +x /run/test/bin/{program}"));
}

/// Those of a pod.
fn of_pod(host: &Host, program: &str, id: &str) -> usize {
    rules(host, program, CHAIN).iter().filter(|rule| rule.contains(id)).count()
}

#[test]
fn who_is_ended_has_undone_it_though_others_wait() {
    case(|| {
        only_ours();
        let host = Host::new();
        if host.try_run("iptables-legacy -P FORWARD DROP").is_err() {
            tests::skip("there is no iptables-legacy, or the kernel has no x_tables");
        }
        wrap(&host, "iptables-legacy-restore", "sleep 1");
        let mut chain = Chain::new(&host, json!({}));
        chain.network = tests::config::bridge();
        let pods = [host.pod(), host.pod()];
        let results = pods.each_ref().map(|pod| chain.connect(pod));
        let others_wait = AtomicBool::new(false);
        thread::scope(|s| {
            s.spawn(|| {
                while !host.exists("/run/test/started") {
                    thread::sleep(Duration::from_millis(10));
                }
                thread::scope(|s| {
                    s.spawn(|| chain.call(&pods[1], &results[1]).env("PATH", PATH).add().ok().status);
                    thread::sleep(WHILE);
                    others_wait.store(true, Ordering::SeqCst);
                });
            });
            let first = chain.call(&pods[0], &results[0]).env("PATH", PATH);
            first.signal(Signal::SIGTERM, || others_wait.load(Ordering::SeqCst)).add().failure().is(11, "SIGTERM");
            assert_eq!(of_pod(&host, "iptables-legacy", &pods[0].id), 0);
        });
        assert_eq!(of_pod(&host, "iptables-legacy", &pods[1].id), 3);
    });
}

#[test]
fn who_is_killed_leaves_no_program_that_goes_on() {
    case(|| {
        only_ours();
        let host = Host::new();
        host.run("iptables -P FORWARD DROP");
        wrap(&host, "iptables-nft-restore", "sleep 0.3");
        let mut chain = Chain::new(&host, json!({}));
        chain.network = tests::config::bridge();
        let pod = host.pod();
        let result = chain.connect(&pod);
        let call = chain.call(&pod, &result).env("PATH", PATH);
        assert!(!call.signal(Signal::SIGKILL, || host.exists("/run/test/started")).add().status.success());
        chain.call(&pod, &result).del().ok();
        thread::sleep(3 * WHILE);
        assert_eq!(of_pod(&host, "iptables", &pod.id), 0);
    });
}

#[test]
fn a_program_that_hangs_is_waited_for_once_and_others_outlive_it() {
    case(|| {
        only_ours();
        let host = Host::new();
        host.run("iptables -P FORWARD DROP");
        wrap(&host, "iptables-nft-restore", "test -e /run/test/hung || { echo hung >/run/test/hung; exec sleep 100; }");
        let mut chain = Chain::new(&host, json!({}));
        chain.network = tests::config::bridge();
        let pods = [host.pod(), host.pod()];
        let results = pods.each_ref().map(|pod| chain.connect(pod));
        thread::scope(|s| {
            s.spawn(|| {
                let first = chain.call(&pods[0], &results[0]).env("PATH", PATH).add();
                first.failure().is(11, "did not end within");
                assert!(first.time < Duration::from_secs(10), "{first}");
            });
            while !host.exists("/run/test/hung") {
                thread::sleep(Duration::from_millis(10));
            }
            assert!(chain.call(&pods[1], &results[1]).env("PATH", PATH).add().ok().time < Duration::from_secs(10));
        });
        assert_eq!(host.read("/run/test/started").unwrap().lines().count(), 2, "it was not tried again");
        assert_eq!([of_pod(&host, "iptables", &pods[0].id), of_pod(&host, "iptables", &pods[1].id)], [0, 3]);
    });
}
