//! The IPAM delegate: how it is found and called, and what becomes of its errors.

use std::{fs::File, thread, time::Duration};

use serde_json::{Value, json};
use tests::{
    Host, Place, Pod, case,
    config::{self, with},
    plugin::Reply,
    settings::{bin_dir, not_for_reference},
};

/// Where [`script`] puts plugins.
const FOLDER: &str = "/run/test/plugins";

/// Makes a plugin of shell lines; it finds its config in `$stdin`.
pub(crate) fn script(host: &Host, name: &str, lines: &str) {
    let path = format!("{FOLDER}/{name}");
    host.write(&path, format!("#!/bin/sh\nstdin=$(cat)\n{lines}\n"));
    host.run(&format!("chmod 755 {path}"));
}

/// A `CNI_PATH` with the scripts and the plugins under test.
pub(crate) fn path() -> String {
    format!("{FOLDER}:{}", bin_dir().display())
}

/// ADD of bridge with the script as its IPAM plugin.
fn add(host: &Host, pod: &Pod, lines: &str) -> Reply {
    script(host, "fake", lines);
    host.plugin("bridge").pod(pod).config(&fake()).env("CNI_PATH", &path()).add()
}

fn fake() -> Value {
    with(&with(&config::bridge(), json!({ "ipam": null })), json!({ "ipam": { "type": "fake", "more": [1] } }))
}

const ANSWER: &str = r#"echo '{"cniVersion":"1.0.0","ips":[{"address":"10.22.0.9/24"}]}'"#;

#[test]
fn gets_environment_and_stdin_as_they_are() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        script(&host, "fake", &format!("env >/run/test/env; printf %s \"$stdin\" >/run/test/stdin; {ANSWER}"));
        // Spaces and key order are the caller's.
        let stdin = r#"{"name" :"net","cniVersion":"1.0.0",  "type":"bridge","ipam":{"type":"fake"},"zzz":[ 1 ]}"#;
        let call = host.plugin("bridge").pod(&pod).stdin(stdin).env("CNI_PATH", &path()).args("IgnoreUnknown=1;A=b");
        call.env("TRACEPARENT", "00-ab-cd-01").env("BAGGAGE", "x=y").add().ok();
        assert_eq!(host.read("/run/test/stdin").unwrap(), stdin);
        let env = host.read("/run/test/env").unwrap();
        for line in [
            "CNI_COMMAND=ADD",
            "CNI_IFNAME=eth0",
            "CNI_ARGS=IgnoreUnknown=1;A=b",
            "TRACEPARENT=00-ab-cd-01",
            "BAGGAGE=x=y",
        ] {
            assert_eq!(env.lines().filter(|l| *l == line).count(), 1, "{line} in {env}");
        }
        assert!(
            env.contains(&format!("CNI_NETNS={}", pod.path)) && env.contains(&format!("CNI_CONTAINERID={}", pod.id))
        );
    });
}

#[test]
fn fails_with_its_own_error() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let reply =
            add(&host, &pod, r#"echo '{"code":117,"msg":"no <luck>","details":"at all"}'; echo said >&2; exit 1"#);
        let failure = reply.failure();
        assert_eq!((failure.code, &*failure.msg, &*failure.details), (117, "no <luck>", "at all"));
        assert!(pod.link("eth0").is_none());
    });
}

#[test]
fn is_heard_on_stderr_in_success_and_failure() {
    case(|| {
        let host = Host::new();
        let reply = add(&host, &host.pod(), &format!("echo good >&2; {ANSWER}"));
        assert!(reply.ok().stderr.contains("good"), "{reply}");
        let reply = add(&host, &host.pod(), r#"echo '{"code":117,"msg":"no"}'; echo bad >&2; exit 1"#);
        assert!(reply.stderr.contains("bad"), "{reply}");
    });
}

/// Ignored signals are inherited: its end could not be waited for.
#[test]
fn is_waited_for_whatever_the_caller_thinks_of_its_children() {
    case(|| {
        not_for_reference("it inherits that");
        let host = Host::new();
        let before = host.warm_up(&config::bridge());
        let pod = host.pod();
        let call = || host.plugin_of(&config::bridge()).pod(&pod).config(&config::bridge());
        let careless = ["env", "--ignore-signal=CHLD"];
        call().under(&careless).add().ok();
        call().under(&careless).del().ok();
        host.assert_as(&before);
    });
}

#[test]
fn may_die_without_a_word_or_talk_nonsense() {
    case(|| {
        let host = Host::new();
        let before = host.warm_up(&config::bridge());
        for (lines, fragment) in [
            ("exit 3", "3"),
            ("echo oops >&2; exit 1", "oops"),
            ("echo nonsense; exit 1", "nonsense"),
            ("exit 0", ""),
            ("echo nonsense", ""),
            (r#"echo '{"cniVersion":"1.0.0"}'"#, "missing IP config"),
            ("echo null", "missing IP config"),
            (r#"echo '{"cniVersion":"7.0.0","ips":[{"address":"10.22.0.9/24"}]}'"#, ""),
            (r#"echo '{"cniVersion":"1.0.0","ips":[{"address":"10.22.0.9"}]}'"#, "10.22.0.9"),
        ] {
            let failure = add(&host, &host.pod(), lines).failure();
            assert!(failure.msg.contains(fragment) || failure.details.contains(fragment), "{lines}: {failure:?}");
            host.assert_as(&before);
        }
    });
}

#[test]
fn may_answer_in_any_version_and_without_reading() {
    case(|| {
        let host = Host::new();
        for answer in [
            r#"{"cniVersion":"0.2.0","ip4":{"ip":"10.22.0.9/24","gateway":"10.22.0.1"}}"#,
            r#"{"cniVersion":"0.3.1","ips":[{"version":"4","address":"10.22.0.9/24"}]}"#,
            r#"{"ips":[{"address":"10.22.0.9/24"}]}"#,
        ] {
            let pod = host.pod();
            script(&host, "fake", "");
            host.write(&format!("{FOLDER}/fake"), format!("#!/bin/sh\nexec <&-\necho '{answer}'\n"));
            let config = with(&fake(), json!({ "padding": "x".repeat(60_000) }));
            let result = host.plugin("bridge").pod(&pod).config(&config).env("CNI_PATH", &path()).add().result();
            assert_eq!(result["ips"][0]["address"], "10.22.0.9/24");
            assert_eq!(pod.addresses(), ["10.22.0.9/24"]);
            script(&host, "fake", "");
            host.plugin("bridge").pod(&pod).config(&config).env("CNI_PATH", &path()).del().ok();
        }
    });
}

#[test]
fn that_is_not_there_is_named() {
    case(|| {
        let host = Host::new();
        let before = host.snapshot();
        let none = |path: &str, name: &str| {
            let config = with(&fake(), json!({ "ipam": { "type": name } }));
            host.plugin("bridge").pod(&host.pod()).config(&config).env("CNI_PATH", path).add().failure()
        };
        none("/nowhere:/run/test", "fake").is(999, "failed to find plugin|fake|/nowhere");
        none(&path(), "a/b").is(999, "invalid plugin name|a/b");
        // A folder is no plugin.
        host.write("/run/test/folder/fake/file", "");
        none("/run/test/folder", "fake").is(999, "failed to find plugin");
        if !tests::settings::is_reference() {
            host.assert_as(&before);
        }
    });
}

#[test]
fn is_searched_in_the_order_of_the_path() {
    case(|| {
        let host = Host::new();
        script(&host, "host-local", ANSWER);
        let call =
            |path: &str| host.plugin("bridge").pod(&host.pod()).config(&config::bridge()).env("CNI_PATH", path).add();
        let address = |reply: Reply| reply.result()["ips"][0]["address"].clone();
        assert_eq!(address(call(&format!("{}:{FOLDER}", bin_dir().display()))), "10.22.0.2/24");
        assert_eq!(address(call(&format!("/nowhere:{FOLDER}:{}", bin_dir().display()))), "10.22.0.9/24");
    });
}

#[test]
fn is_asked_to_release_when_add_fails_after_it() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let config = with(&fake(), json!({ "name": "x" }));
        // A route that cannot be: known only when it is tried.
        script(
            &host,
            "fake",
            r#"echo $CNI_COMMAND >>/run/test/calls
            [ $CNI_COMMAND = ADD ] || exit 0
            echo '{"cniVersion":"1.0.0","ips":[{"address":"10.22.0.9/24"}],"routes":[{"dst":"192.168.1.0/24","gw":"172.31.0.1"}]}'"#,
        );
        host.plugin("bridge").pod(&pod).config(&config).env("CNI_PATH", &path()).add().failure();
        assert_eq!(host.read("/run/test/calls").unwrap(), "ADD\nDEL");
        assert!(pod.link("eth0").is_none(), "the veth pair goes with it");
    });
}

#[test]
fn is_asked_to_check() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = add(&host, &pod, &format!("[ $CNI_COMMAND = ADD ] || exit 0; {ANSWER}")).result();
        let check = || host.plugin("bridge").pod(&pod).config_with(&fake(), &result).env("CNI_PATH", &path()).check();
        check().ok();
        script(&host, "fake", r#"echo '{"code":118,"msg":"lost"}'; exit 1"#);
        assert_eq!(check().failure().code, 118);
    });
}

#[test]
fn that_is_being_written_is_waited_for() {
    case(|| {
        let host = Host::new();
        // An installer copies it in this moment: the kernel says "text file busy".
        host.run(&format!("mkdir -p {FOLDER}"));
        host.run(&format!("cp {} {FOLDER}", bin_dir().join("host-local").display()));
        let busy = host.enter(|| File::options().append(true).open(format!("{FOLDER}/host-local")).unwrap());
        let pod = host.pod();
        thread::scope(|s| {
            let add =
                s.spawn(|| host.plugin("bridge").pod(&pod).config(&config::bridge()).env("CNI_PATH", FOLDER).add());
            thread::sleep(Duration::from_millis(200));
            drop(busy);
            add.join().unwrap().ok();
        });
        assert_eq!(pod.addresses(), ["10.22.0.2/24"]);
    });
}
