//! STATUS: what an operator can act on, without anything being started but delegates.

use serde_json::{Value, json};
use tests::{
    Host, Place, Reply, case,
    chained::{everything, firewall, portmap},
    config::{self, with},
    settings::not_for_reference,
};

use crate::flannel_add::{LEASE4, config as flannel, node};

fn newest(config: &Value) -> Value {
    with(config, json!({ "cniVersion": "1.1.0" }))
}

fn status(host: &Host, config: &Value, wrapper: &[&str]) -> Reply {
    let call = host.plugin_of(config).verb("STATUS").id("").netns("").ifname("").config(&newest(config));
    call.under(wrapper).run()
}

fn needs_strace(host: &Host) {
    if host.try_run("strace -V").is_err() {
        tests::skip("there is no strace");
    }
}

/// The file names of the programs that a STATUS starts.
fn programs(host: &Host, config: &Value) -> Vec<String> {
    let strace = ["strace", "-f", "-qq", "-e", "trace=execve", "-e", "signal=none", "-o", "/run/test/trace"];
    status(host, config, &strace).ok();
    let trace = host.read("/run/test/trace").unwrap();
    let started = trace.lines().filter(|line| line.ends_with(" = 0"));
    started.map(|line| line.split('"').nth(1).unwrap().rsplit('/').next().unwrap().to_owned()).collect()
}

/// The kubelet asks every five seconds.
#[test]
fn starts_delegates_alone() {
    case(|| {
        not_for_reference("it has no STATUS in this version");
        let host = node(LEASE4);
        needs_strace(&host);
        let with_iptables = |config: &Value| with(config, json!({ "backend": "iptables" }));
        for plugin in everything().iter().chain(&[with_iptables(&firewall()), with_iptables(&portmap())]) {
            let name = plugin["type"].as_str().unwrap();
            let expected = if name == "bridge" { vec![name, "host-local"] } else { vec![name] };
            assert_eq!(programs(&host, plugin), expected);
        }
        let bridge = with(&config::everything(), json!({ "ipMasqBackend": "iptables" }));
        assert_eq!(programs(&host, &bridge), ["bridge", "host-local"]);
        assert_eq!(programs(&host, &flannel()), ["flannel", "bridge", "host-local"]);
        assert_eq!(programs(&host, &json!({ "name": "net", "type": "loopback" })), ["loopback"]);
        // A chain that drops does not change that.
        host.run("iptables -P FORWARD DROP");
        assert_eq!(programs(&host, &firewall()), ["firewall"]);
    });
}

#[test]
fn a_kernel_without_nf_tables() {
    case(|| {
        not_for_reference("it has no STATUS in this version");
        let host = Host::new();
        needs_strace(&host);
        // The socket for links comes first in bridge. (musl asks for each that is refused so once more, in another way.)
        for (config, nth) in [(config::everything(), 2), (portmap(), 1), (firewall(), 1)] {
            let inject = format!("inject=socket:error=EPROTONOSUPPORT:when={nth}+");
            let strace = ["strace", "-qq", "-o", "/dev/null", "-e", "trace=socket", "-e", &inject];
            status(&host, &config, &strace).failure().is(50, "nf_tables, which the kernel refuses|load the module");
        }
        // Who asks for nothing of it is content.
        let strace = ["strace", "-qq", "-o", "/dev/null", "-e", "trace=socket"];
        let strace = [&strace[..], &["-e", "inject=socket:error=EPROTONOSUPPORT:when=2+"]].concat();
        status(&host, &config::dual_stack(), &strace).ok();
    });
}

#[test]
fn a_missing_binary_is_named_with_where_it_was_looked_for() {
    case(|| {
        not_for_reference("it has no STATUS in this version");
        let host = node(LEASE4);
        for config in [config::bridge(), flannel()] {
            let config = with(&config, json!({ "ipam": { "type": "not-there" } }));
            status(&host, &config, &[]).failure().is(50, "not-there|in path [|install it into one of these folders");
        }
        let other = with(&flannel(), json!({ "delegate": { "type": "not-there" } }));
        status(&host, &other, &[]).failure().is(50, "not-there|install it into one of these folders");
    });
}

#[test]
fn missing_programs_are_named() {
    case(|| {
        not_for_reference("it has no STATUS in this version");
        let host = Host::new();
        let bridge = with(&config::everything(), json!({ "ipMasqBackend": "iptables" }));
        for config in [
            bridge,
            with(&portmap(), json!({ "backend": "iptables" })),
            with(&firewall(), json!({ "backend": "iptables" })),
        ] {
            let call = host.plugin_of(&config).verb("STATUS").config(&newest(&config));
            call.env("PATH", "/nowhere").run().failure().is(50, "restore|in PATH|install iptables");
        }
    });
}

#[test]
fn a_store_that_cannot_be_written() {
    case(|| {
        not_for_reference("it has no STATUS in this version");
        let host = node(LEASE4);
        host.run("mkdir -p /run/test/store");
        for (options, what) in [("ro", "not writable"), ("nr_inodes=1", "no inodes left")] {
            host.run(&format!("mount -t tmpfs -o {options} tmpfs /run/test/store"));
            let ipam = json!({ "ipam": { "dataDir": "/run/test/store" } });
            let before = host.snapshot();
            for config in [config::bridge(), flannel()] {
                status(&host, &with(&config, ipam.clone()), &[]).failure().is(50, &format!("/run/test/store|{what}"));
            }
            let tuning = with(&tests::chained::tuning(), json!({ "dataDir": "/run/test/store" }));
            status(&host, &tuning, &[]).failure().is(50, &format!("/run/test/store|{what}|dataDir"));
            host.assert_as(&before);
            host.run("umount /run/test/store");
        }
    });
}

/// A node with all its pods running would be emptied for it.
#[test]
fn a_full_pool_is_no_failure() {
    case(|| {
        not_for_reference("it has no STATUS in this version");
        let host = Host::new();
        let small = with(&config::bridge(), json!({ "ipam": config::host_local(&["10.99.0.0/30"]) }));
        let [holder, pod] = [host.pod(), host.pod()];
        host.plugin("bridge").pod(&holder).config(&small).add().ok();
        host.plugin("bridge").pod(&pod).config(&small).add().failure();
        status(&host, &small, &[]).ok();
    });
}
