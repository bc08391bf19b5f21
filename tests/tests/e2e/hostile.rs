//! Hostile callers and files: names, paths, configs and modes that try to reach what they should not.

use serde_json::{Value, json};
use tests::{
    Call, Host, Place, case, chained,
    config::{self, STORE, with},
    settings,
};

/// Runs the plugin by a shell that does this before.
fn after<'h>(call: Call<'h>, line: &str) -> Call<'h> {
    call.under(&["sh", "-c", &format!("{line}; exec \"$0\"")])
}

/// Names that an interface can have, or can be asked for, and that mean something elsewhere.
const NAMES: [&str; 11] =
    ["a\"b", "a\\b", "a'b", "\u{1b}[31m", "$(id)", "`id`;id", "-rf", "%s%n", "eth%d", "\u{202e}0hte", "*"];

/// ADD and DEL of the chain for an interface of each of these names; `between` looks at the host between the two.
fn under_each_name(host: &Host, chain: &[Value], between: impl Fn(&str)) {
    chained::Chain::new(host, chain.to_vec()).warm_up();
    let before = host.snapshot();
    for name in NAMES {
        let mut pod = host.pod();
        pod.ifname = name.to_owned();
        let mut result = Value::Null;
        for plugin in chain {
            let reply = host.plugin_of(plugin).pod(&pod).config_with(plugin, &result).add();
            if !reply.status.success() {
                reply.failure();
                break;
            }
            result = reply.result();
            assert!(!reply.stderr.contains('\u{1b}'), "{reply}");
        }
        between(name);
        for plugin in chain.iter().rev() {
            host.plugin_of(plugin).pod(&pod).config_with(plugin, &result).del().ok();
        }
        host.assert_as(&before);
    }
}

#[test]
fn interface_names_mean_nothing_to_rules_files_and_logs() {
    case(|| {
        let host = Host::new();
        under_each_name(&host, &chained::everything(), |name| {
            // What is printed can be read back.
            let ruleset = host.run("nft list ruleset");
            host.write("/run/test/ruleset", format!("flush ruleset\n{ruleset}"));
            host.run("nft -c -f /run/test/ruleset");
            assert!(!ruleset.contains('\u{1b}') && !host.run("ip link").contains('\u{1b}'), "{name:?}");
            host.unmount("/run/test/ruleset");
        });
    });
}

#[test]
fn interface_names_mean_nothing_to_the_programs_of_iptables() {
    case(|| {
        let backend = |plugin: Value| with(&plugin, json!({ "backend": "iptables" }));
        let host = Host::new();
        let bridge = with(&chained::bridge(), json!({ "ipMasqBackend": "iptables" }));
        under_each_name(&host, &[bridge, backend(chained::portmap()), backend(chained::firewall())], |_| ());
    });
}

/// What CNI_NETNS may name that is no pod's namespace.
fn no_namespaces(host: &Host) -> Vec<String> {
    host.enter(|| {
        std::os::unix::fs::symlink("/proc/self/ns/net", "/run/test/own").unwrap();
        std::os::unix::fs::symlink("/run/test/loop", "/run/test/loop").unwrap();
    });
    host.run("mkfifo /run/test/fifo");
    host.run("truncate -s 1T /run/test/huge");
    let special = ["own", "loop", "fifo", "huge"].map(|name| format!("/run/test/{name}"));
    let others = ["/run/test", "/dev/zero", "/proc/self/ns/mnt", "/proc/self/status", "relative", "//"];
    special.into_iter().chain(others.map(ToOwned::to_owned)).collect()
}

#[test]
fn what_is_no_pods_namespace_is_refused_and_nobody_waits_for_it() {
    case(|| {
        let host = Host::new();
        let config = config::everything();
        let before = host.warm_up(&config);
        for path in no_namespaces(&host) {
            let call = || host.plugin("bridge").netns(&path).config(&config);
            call().add().failure();
            host.assert_nothing_made(&before);
            call().del().ok();
        }
        // Process 1 is the host's, in its own view.
        let view = ["unshare", "--pid", "--fork", "--mount-proc"];
        let call = || host.plugin("bridge").netns("/proc/1/ns/net").config(&config).under(&view);
        call().add().failure().is(8, "should not be the same");
        call().del().ok();
    });
}

#[test]
fn chained_plugins_do_not_wait_for_a_namespace_that_is_none() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = host.plugin("bridge").pod(&pod).config(&chained::bridge()).add().result();
        host.run("mkfifo /run/test/fifo");
        for plugin in [chained::tuning(), chained::bandwidth(), chained::portmap(), chained::firewall()] {
            let call = || host.plugin_of(&plugin).pod(&pod).netns("/run/test/fifo").config_with(&plugin, &result);
            // The others have nothing to do in it.
            if plugin["type"] == "tuning" {
                call().add().failure();
            }
            call().del().ok();
        }
    });
}

#[test]
fn a_config_without_end_is_refused() {
    case(|| {
        if settings::is_reference() {
            tests::skip("it reads as much as there is memory");
        }
        let host = Host::new();
        let before = host.snapshot();
        for plugin in ["bridge", "host-local", "portmap", "tuning", "loopback"] {
            let pod = host.pod();
            let call = || host.plugin(plugin).pod(&pod).under(&["sh", "-c", "exec \"$0\" </dev/zero"]);
            call().add().failure().is(5, "stdin|larger than 16 MiB");
            call().del().failure().is(5, "stdin|larger than 16 MiB");
        }
        host.assert_as(&before);
    });
}

#[test]
fn a_large_or_deep_config_is_an_error_or_read() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = host.plugin("bridge").pod(&pod).config(&chained::bridge()).add().result();
        // As text: to make a million values takes longer than to refuse them.
        let config = with(&chained::tuning(), json!({ "prevResult": result })).to_string();
        let of = |count: usize| {
            config.replace("\"ips\":[", &format!("\"ips\":[{}", r#"{"address":"10.1.2.3/8"},"#.repeat(count)))
        };
        let tuning = |text: String| host.plugin("tuning").pod(&pod).stdin(text);
        tuning(of(60_000)).add().ok();
        tuning(of(60_000)).del().ok();
        if settings::is_reference() {
            return;
        }
        tuning(of(1_000_000)).add().failure().is(5, "larger than 16 MiB");
        let deep = format!("{{\"cniVersion\":\"1.0.0\",\"name\":\"net\",\"x\":{}", "[".repeat(8 << 20));
        tuning(deep).add().failure().is(6, "nested deeper");
    });
}

#[test]
fn files_that_a_config_names_are_not_waited_for() {
    case(|| {
        if settings::is_reference() {
            tests::skip("it waits for the writer of a FIFO");
        }
        let host = Host::new();
        no_namespaces(&host);
        let before = host.snapshot();
        for file in ["fifo", "huge", "loop", ""] {
            let path = format!("/run/test/{file}");
            let flannel = json!({ "cniVersion": "1.0.0", "name": "net", "type": "flannel", "subnetFile": path });
            let pod = host.pod();
            host.plugin("flannel").pod(&pod).config(&flannel).add().failure().is(999, &path);
            let bridge = with(&config::bridge(), json!({ "ipam": { "resolvConf": path } }));
            host.plugin("bridge").pod(&pod).config(&bridge).add().failure().is(999, &path);
            host.assert_nothing_made(&before);
        }
    });
}

/// What everybody may write, and what of ours anybody else may read.
fn too_open(host: &Host) -> String {
    let open = host.run("find /run /var/lib/cni -path /run/test -prune -o -perm /002 ! -type l -printf %M_%p\\n");
    let secret = "find /run /var/lib/cni -path /run/test -prune -o ( -path */oxbridge/* -o -path */.oxbridge/* ) -perm /077 \
                  -printf %M_%p\\n";
    let secret = if settings::is_reference() { String::new() } else { host.run(secret) };
    format!("{open}{secret}")
}

#[test]
fn a_callers_umask_opens_no_file_to_others() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let mut chain = chained::everything();
        chain[3] = with(&chain[3], json!({ "dataDir": "/run/cni/tuning" }));
        let mut result = Value::Null;
        for plugin in &chain {
            let call = host.plugin_of(plugin).pod(&pod).config_with(plugin, &result);
            result = after(call, "umask 0").add().result();
        }
        let iptables = with(&chain[1], json!({ "backend": "iptables" }));
        after(host.plugin("portmap").id("other").netns("").config(&iptables), "umask 0").del().ok();
        assert_eq!(too_open(&host), "");
        // A lock that anyone can open, anyone can hold.
        let nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups flock -n";
        host.try_run(&format!("{nobody} {STORE}/lock true")).unwrap_err();
        for file in host.files("/run/oxbridge") {
            host.try_run(&format!("{nobody} /run/oxbridge/{file} true")).unwrap_err();
        }
        for plugin in chain.iter().rev() {
            after(host.plugin_of(plugin).pod(&pod).config_with(plugin, &result), "umask 0").del().ok();
        }
        assert_eq!(too_open(&host), "");
    });
}
