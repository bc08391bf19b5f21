//! A host in trouble: nobody at the other end of a stream, no space, nothing to write to, another time, a delegate that
//! hangs. What becomes of single system calls is the business of `tests/faults`, of host-local's store that of
//! `host_local`.

use std::process::Stdio;

use serde_json::{Value, json};
use tests::{
    Call, Host, Place, Pod, Snapshot, case,
    chained::{self, Chain},
    config::{self, with},
    plugin::{full, unread},
    settings,
};

use crate::{
    delegate::{path, script},
    flannel_add::{self, DATA_DIR, LEASE46},
};

/// A pod for which a plugin is called.
struct Scene {
    host: Host,
    pod: Pod,
    config: Value,
    before: Snapshot,
}

impl Scene {
    /// Behind a bridge, if it is one that wants a result.
    fn new(plugin: &Value) -> Self {
        let host = flannel_add::node(LEASE46);
        // Of the tests' own files, whatever becomes of /run.
        host.run("mount -t tmpfs tmpfs /run/test");
        let is_chained = ["portmap", "firewall", "tuning", "bandwidth"].iter().any(|name| plugin["type"] == *name);
        let first = if is_chained { vec![chained::bridge()] } else { Vec::new() };
        let all = Chain::new(&host, [&first[..], std::slice::from_ref(plugin)].concat());
        all.warm_up();
        all.warm_up();
        let pod = host.pod();
        let result = Chain::new(&host, first).add(&pod);
        let config = with(plugin, json!({ "prevResult": result }));
        let mut scene = Self { before: host.snapshot(), host, pod, config };
        // Not even `lo` is what it was once it was up.
        scene.call().add().ok();
        scene.call().del().ok();
        scene.before = Snapshot::with_pod(&scene.host, &scene.pod);
        scene
    }

    fn call(&self) -> Call<'_> {
        self.host.plugin_of(&self.config).pod(&self.pod).config(&self.config)
    }

    fn in_shell(&self, redirection: &str) -> Call<'_> {
        self.call().under(&["sh", "-c", &format!("exec \"$0\" {redirection}")])
    }

    fn assert_as_before(&self, what: &str) {
        let diff = self.before.diff(&Snapshot::with_pod(&self.host, &self.pod));
        // DEL leaves a queueing discipline of the pod's own link, which goes with it.
        let is_of_the_link =
            |line: &str| self.config["type"] == "bandwidth" && line[2..].split(' ').nth(1).unwrap().starts_with("veth");
        let left: Vec<&str> = diff.lines().filter(|line| !is_of_the_link(line)).collect();
        assert!(left.is_empty(), "{}: {what}: {left:#?}", self.config);
    }
}

fn plugins() -> Vec<Value> {
    vec![
        config::everything(),
        with(&config::dual_stack(), json!({ "type": "host-local", "name": "other" })),
        with(&config::fixed(&[("10.22.0.50/24", config::GATEWAY4)]), json!({ "type": "static" })),
        json!({ "cniVersion": "1.0.0", "name": "lo", "type": "loopback" }),
        flannel_add::config(),
        chained::portmap(),
        chained::firewall(),
        // Sysctls are not set back by DEL.
        with(&chained::tuning(), json!({ "sysctl": null })),
        chained::bandwidth(),
    ]
}

fn each(test: impl Fn(&Scene)) {
    if settings::is_reference() {
        tests::skip("this is about what ours promise");
    }
    plugins().iter().for_each(|plugin| test(&Scene::new(plugin)));
}

#[test]
fn without_a_config_or_a_reader_nothing_is_done() {
    case(|| {
        each(|scene| {
            for verb in ["ADD", "DEL", "CHECK"] {
                scene.in_shell("<&-").verb(verb).run().failure();
                scene.assert_as_before(&format!("{verb} with stdin closed"));
            }
            assert!(!scene.in_shell(">&-").add().status.success());
            scene.assert_as_before("ADD with stdout closed");
            let outputs: [fn() -> Stdio; 2] = [|| full().into(), unread];
            for output in outputs {
                let reply = scene.call().stdout(output()).add();
                assert!(reply.status.code().is_some_and(|code| code != 0), "{reply}");
                scene.assert_as_before("ADD that nobody reads");
            }
            // What nobody has to be told.
            let result = scene.in_shell("2>&-").add().result();
            let check = || scene.host.plugin_of(&scene.config).pod(&scene.pod).config_with(&scene.config, &result);
            check().stdout(full()).check().ok();
            scene.in_shell("<&0 >&- 2>&-").del().ok();
            scene.assert_as_before("DEL that nobody hears");
            scene.call().stdout(full()).del().ok();
        });
    });
}

/// The ways in which nothing can be written to a folder that is a file system of its own, and back.
const UNWRITABLE: [(&str, &str); 3] = [
    ("mount -o remount,ro DIR", "mount -o remount,rw DIR"),
    ("mount -o remount,nr_inodes=$(($(df --output=iused DIR|tail -n1))) DIR", "mount -o remount,nr_inodes=100000 DIR"),
    ("cat /dev/zero >DIR/test.fill 2>/dev/null; true", "rm -f DIR/test.fill"),
];

/// Runs the test with nothing to be written below the folder, in each of the ways.
fn without_space(scene: &Scene, folder: &str, test: impl Fn(&str)) {
    let shell = |line: &str| {
        scene.host.write("/run/test/sh", line.replace("DIR", folder));
        scene.host.run("sh /run/test/sh");
    };
    shell("mount -o remount,size=1m DIR");
    for (unwritable, writable) in UNWRITABLE {
        shell(unwritable);
        test(unwritable);
        shell(writable);
    }
}

/// Locks are taken elsewhere; what needs a file refuses, with nothing done.
#[test]
fn without_space_in_run_add_works_or_leaves_nothing() {
    case(|| {
        each(|scene| {
            without_space(scene, "/run", |what| {
                let reply = scene.call().add();
                if scene.config["type"] == "tuning" {
                    reply.failure().is(999, "failed to keep what|/run/cni");
                    // Only the file that fills it may be more than before.
                } else {
                    reply.ok();
                }
                scene.call().del().ok();
                if !what.contains("fill") {
                    scene.assert_as_before(what);
                }
            });
            scene.assert_as_before("with space again");
        });
    });
}

#[test]
fn without_space_for_files_add_leaves_nothing_and_del_goes_on() {
    case(|| {
        each(|scene| {
            let keeps = ["bridge", "host-local", "flannel"].iter().any(|name| scene.config["type"] == *name);
            without_space(scene, "/var/lib/cni", |what| {
                let reply = scene.call().add();
                if keeps && reply.status.success() {
                    // Where a byte can still be written into the files that are there, and a name is all it takes.
                    assert!(!what.contains("ro"), "{what}: {reply}");
                } else if keeps {
                    let failure = reply.failure();
                    assert!(format!("{failure:?}").contains("/var/lib/cni"), "it does not say where: {failure:?}");
                } else {
                    reply.ok();
                }
                scene.call().del().ok();
            });
            scene.assert_as_before("with space again");
            // Read-only since ADD: what cannot be removed is said, and removed once it can be.
            scene.call().add().ok();
            scene.host.run("mount -o remount,ro /var/lib/cni");
            let reply = scene.call().del();
            assert_eq!(reply.status.success(), !keeps, "{reply}");
            scene.host.run("mount -o remount,rw /var/lib/cni");
            scene.call().del().ok();
            scene.assert_as_before("DEL without and with");
        });
    });
}

/// As after the clock was set back: all that is kept is of tomorrow.
#[test]
fn files_of_the_future_are_files() {
    case(|| {
        each(|scene| {
            let tomorrow = || scene.host.run("find /run /var/lib/cni -exec touch -h -d tomorrow {} +");
            tomorrow();
            let result = scene.call().add().result();
            tomorrow();
            let config = with(&scene.config, json!({ "prevResult": result }));
            scene.host.plugin_of(&config).pod(&scene.pod).config(&config).check().ok();
            scene.call().del().ok();
            scene.assert_as_before("all is of tomorrow");
            scene.call().add().ok();
            scene.call().del().ok();
            scene.assert_as_before("all was of tomorrow");
        });
    });
}

#[test]
fn a_delegate_of_flannel_that_hangs_dies_or_talks_nonsense_leaves_nothing() {
    case(|| {
        let host = flannel_add::node(LEASE46);
        let before = flannel_add::warm_up(&host, &flannel_add::config());
        let (pod, config) = (host.pod(), flannel_add::fake());
        let call = || {
            let call = host.plugin("flannel").pod(&pod).config(&config).env("CNI_PATH", &path());
            call.env("OXBRIDGE_DELEGATE_TIMEOUT", "1")
        };
        let of_add = |lines: &str| script(&host, "fake", &format!("[ $CNI_COMMAND = ADD ] || exit 0\n{lines}"));
        for (lines, code, fragment) in [
            ("exec sleep 1000", 11, "fake|ADD"),
            ("trap '' TERM; while :; do sleep 1; done", 11, "fake|ADD"),
            ("kill -9 $$", 999, "signal 9"),
            ("exit 3", 999, "status 3"),
            ("echo nonsense", 999, "nonsense"),
            ("", 999, "no result"),
        ] {
            if settings::is_reference() && code == 11 {
                // It waits for ever.
                continue;
            }
            of_add(lines);
            let failure = call().add().failure();
            if !settings::is_reference() {
                failure.is(code, fragment);
                host.assert_as(&before);
            }
            assert!(host.files(DATA_DIR).iter().all(|name| name.starts_with('.')), "{lines}");
        }
    });
}

#[test]
fn a_delegate_that_hangs_in_del_is_ended_and_asked_again() {
    case(|| {
        if settings::is_reference() {
            tests::skip("it waits for ever");
        }
        for (plugin, config) in [
            ("flannel", flannel_add::fake()),
            (
                "bridge",
                with(&with(&config::everything(), json!({ "ipam": null })), json!({ "ipam": { "type": "fake" } })),
            ),
        ] {
            let host = flannel_add::node(LEASE46);
            let answer =
                r#"[ $CNI_COMMAND = ADD ] && echo '{"cniVersion":"1.0.0","ips":[{"address":"10.22.0.9/24"}]}'"#;
            let good = || script(&host, "fake", &format!("echo $CNI_COMMAND >>/run/test/calls; {answer}; exit 0"));
            let pod = host.pod();
            let call = || {
                let call = host.plugin(plugin).pod(&pod).config(&config).env("CNI_PATH", &path());
                call.env("OXBRIDGE_DELEGATE_TIMEOUT", "1")
            };
            good();
            call().add().ok();
            call().del().ok();
            let before = host.snapshot();
            call().add().ok();
            script(&host, "fake", "exec sleep 1000");
            call().del().failure().is(11, "fake|DEL");
            good();
            call().del().ok();
            assert_eq!(host.read("/run/test/calls").unwrap(), "ADD\nDEL\nADD\nDEL", "{plugin}");
            host.assert_as(&before);
            assert!(pod.link("eth0").is_none(), "{plugin}");
        }
    });
}
