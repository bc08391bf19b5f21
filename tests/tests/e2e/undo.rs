//! An ADD that fails leaves nothing, and can be tried again.

use std::{process::Stdio, time::Duration};

use nix::sys::signal::Signal;
use serde_json::json;
use tests::{
    Host, Place, case,
    config::{self, with},
    plugin::{full, unread},
    traffic::assert_reaches,
};

#[test]
fn a_full_pool_leaves_nothing() {
    case(|| {
        let host = Host::new();
        let config = with(&config::everything(), json!({ "ipam": config::host_local(&["10.22.0.0/30"]) }));
        let pod = host.pod();
        host.plugin("bridge").pod(&pod).config(&config).add().ok();
        let before = host.snapshot();
        let late = host.pod();
        let add = || host.plugin("bridge").pod(&late).config(&config).add();
        add().failure().is(999, "no IP addresses available in range set");
        host.assert_as(&before);
        assert!(late.link("eth0").is_none());
        // The same pod, once there is an address.
        host.plugin("bridge").pod(&pod).config(&config).del().ok();
        add().ok();
        assert_reaches(&late, config::GATEWAY4);
    });
}

#[test]
fn a_failed_first_add_leaves_not_even_the_bridge() {
    case(|| {
        let host = Host::new();
        let before = host.snapshot();
        let config = with(
            &config::everything(),
            json!({ "ipam": { "routes": [{ "dst": "192.168.2.0/24", "gw": "172.31.0.1" }] } }),
        );
        let pod = host.pod();
        host.plugin("bridge").pod(&pod).config(&config).add().failure().is(999, "172.31.0.1");
        let diff = before.diff(&host.snapshot());
        let left: Vec<_> = diff.lines().filter(|line| !is_skeleton(line)).collect();
        assert!(left.is_empty(), "{left:#?}");
        host.plugin("bridge").pod(&pod).config(&config::everything()).add().ok();
        assert_reaches(&pod, config::GATEWAY4);
    });
}

/// Whether a line is about what may stay once it was made: the store's folder, empty tables, a lock.
fn is_skeleton(line: &str) -> bool {
    ["/networks", "nft {", "/run/", "sysctl"].iter().any(|part| line.contains(part)) && !line.contains("\\r\\n")
}

#[test]
fn a_result_that_nobody_can_read_undoes_everything() {
    case(|| {
        let host = Host::new();
        for (plugin, config) in [
            ("bridge", config::everything()),
            ("host-local", with(&config::dual_stack(), json!({ "type": "host-local", "name": "other" }))),
        ] {
            let before = host.warm_up(&config);
            let outputs: [fn() -> Stdio; 2] = [|| full().into(), unread];
            for output in outputs {
                let pod = host.pod();
                let reply = host.plugin(plugin).pod(&pod).config(&config).stdout(output()).add();
                assert!(!reply.status.success(), "{plugin}: {reply}");
                assert!(reply.status.code().is_some(), "it is no crash: {reply}");
                host.assert_as(&before);
                assert!(pod.link("eth0").is_none());
                host.plugin(plugin).pod(&pod).config(&config).add().ok();
                host.plugin(plugin).pod(&pod).config(&config).del().ok();
            }
            // Closed: with nobody to tell, nothing is done at all.
            let pod = host.pod();
            let shell = ["sh", "-c", "exec \"$0\" >&-"];
            let reply = host.plugin(plugin).pod(&pod).config(&config).under(&shell).add();
            assert!(!reply.status.success(), "{plugin}: {reply}");
            host.assert_as(&before);
            assert!(pod.link("eth0").is_none());
        }
    });
}

#[test]
fn sigterm_undoes_everything() {
    case(|| {
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
            let host = Host::new();
            let before = host.warm_up(&config::everything());
            crate::delegate::script(
                &host,
                "slow",
                r#"echo $CNI_COMMAND >>/run/test/calls
                [ $CNI_COMMAND = ADD ] || exit 0
                touch /run/test/started
                sleep 0.3
                echo '{"cniVersion":"1.0.0","ips":[{"address":"10.22.0.9/24"}]}'"#,
            );
            let pod = host.pod();
            let config =
                with(&with(&config::everything(), json!({ "ipam": null })), json!({ "ipam": { "type": "slow" } }));
            let call = host.plugin("bridge").pod(&pod).config(&config).env("CNI_PATH", &crate::delegate::path());
            let reply = call.signal(signal, || host.exists("/run/test/started")).add();
            let failure = reply.failure();
            assert!(!failure.msg.is_empty());
            // The delegate is awaited before it is asked to release.
            assert_eq!(host.read("/run/test/calls").unwrap(), "ADD\nDEL");
            assert!(pod.link("eth0").is_none());
            host.assert_as(&before);
        }
    });
}

#[test]
fn a_delegate_that_never_ends_is_ended() {
    case(|| {
        let host = Host::new();
        let before = host.warm_up(&config::everything());
        crate::delegate::script(&host, "stuck", "[ $CNI_COMMAND = ADD ] || exit 0\nexec sleep 1000");
        let config =
            with(&with(&config::everything(), json!({ "ipam": null })), json!({ "ipam": { "type": "stuck" } }));
        let pod = host.pod();
        let call = host.plugin("bridge").pod(&pod).config(&config).env("CNI_PATH", &crate::delegate::path());
        let reply = call.env("OXBRIDGE_DELEGATE_TIMEOUT", "1").add();
        reply.failure().is(11, "stuck|ADD");
        assert!(reply.time < Duration::from_secs(5), "{:?}", reply.time);
        host.assert_as(&before);
    });
}

#[test]
fn killed_at_any_moment_del_cleans_and_add_works() {
    case(|| {
        if std::process::Command::new("strace").arg("-V").output().is_err() {
            tests::skip("there is no strace");
        }
        let host = Host::new();
        let config = config::everything();
        let before = host.warm_up(&config);
        let mut killed = 0;
        // The plugin's own requests to the kernel, one after the other.
        for call in 1.. {
            let pod = host.pod();
            let inject = format!("inject=sendto,sendmsg:signal=KILL:when={call}");
            let strace = ["strace", "-qq", "-e", "trace=sendto,sendmsg", "-e", &inject, "-o", "/dev/null"];
            let reply = host.plugin("bridge").pod(&pod).config(&config).under(&strace).add();
            host.plugin("bridge").pod(&pod).config(&config).del().ok();
            let diff = before.diff(&host.snapshot());
            assert!(diff.is_empty(), "killed at request {call}:\n{diff}");
            host.plugin("bridge").pod(&pod).config(&config).add().ok();
            host.plugin("bridge").pod(&pod).config(&config).del().ok();
            if reply.status.success() {
                break;
            }
            killed = call;
        }
        assert!(killed > 5, "it was killed {killed} times only");
    });
}
