//! host-local's store where the file system fails, where something else lies in the place of its files, and names that
//! try to leave it.
//!
//! Ours alone: each test is about what the reference does not look at.

use std::{
    os::unix::fs::symlink,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use serde_json::{Value, json};
use tests::{
    Call, Host, Place, case,
    config::{STORE, with},
    plugin::{Reply, full, unread},
    settings, skip,
};

const ROOT: &str = "/var/lib/cni/networks";
const OWN: &str = "/var/lib/cni/networks/.oxbridge/net";
/// Where nothing of the store's may be read, made or changed.
const OUTSIDE: &str = "/run/test/outside";

fn only_ours() {
    if settings::is_reference() {
        skip("the reference follows what it finds, and reports little");
    }
}

fn network() -> Value {
    json!({ "cniVersion": "1.1.0", "name": "net", "type": "host-local", "ipam": {
        "type": "host-local", "ranges": [[{ "subnet": "10.1.0.0/24" }]] } })
}

fn call<'h>(host: &'h Host, id: &str, config: &Value) -> Call<'h> {
    host.plugin("host-local").id(id).config(config)
}

/// Whether it has an address, whichever.
fn check(host: &Host, id: &str, config: &Value) -> Reply {
    call(host, id, config).check()
}

fn gc(host: &Host, config: &Value) -> Reply {
    call(host, "", &with(config, json!({ "cni.dev/valid-attachments": [] }))).ifname("").netns("").verb("GC").run()
}

fn status(host: &Host, config: &Value) -> Reply {
    call(host, "", config).ifname("").netns("").verb("STATUS").run()
}

/// A small file system for the store, mounted with these options.
fn on(host: &Host, options: &str) -> Value {
    host.run("mkdir -p /run/test/small");
    host.run(&format!("mount -t tmpfs -o {options} tmpfs /run/test/small"));
    with(&network(), json!({ "ipam": { "dataDir": "/run/test/small" } }))
}

fn reservations(host: &Host, root: &str) -> Vec<String> {
    host.files(&format!("{root}/net")).into_iter().filter(|name| name.starts_with("10.")).collect()
}

fn records(host: &Host, root: &str) -> usize {
    host.files(&format!("{root}/.oxbridge/net")).iter().filter(|name| name.len() == 32).count()
}

#[test]
fn with_too_little_room_add_leaves_nothing_and_works_once_there_is_more() {
    case(|| {
        only_ours();
        for (what, limits) in [("size", 1..8), ("nr_inodes", 1..12)] {
            let mut failed = 0;
            for limit in limits {
                let host = Host::new();
                let pages = if what == "size" { limit * 4096 } else { limit };
                let config = on(&host, &format!("{what}={pages}"));
                let reply = call(&host, "c1", &config).add();
                if !reply.status.success() {
                    failed += 1;
                    reply.failure().is(999, "/run/test/small|no space left on device");
                    assert_eq!(reservations(&host, "/run/test/small"), [""; 0], "{what}={limit}");
                    assert_eq!(records(&host, "/run/test/small"), 0, "{what}={limit}");
                    call(&host, "c1", &config).del().ok();
                    host.run("mount -o remount,size=1m,nr_inodes=100 /run/test/small");
                    call(&host, "c1", &config).add().ok();
                }
                check(&host, "c1", &config).ok();
                call(&host, "c1", &config).del().ok();
                assert_eq!(reservations(&host, "/run/test/small"), [""; 0]);
            }
            assert!(failed > 2, "{what}: {failed} failed");
        }
    });
}

#[test]
fn on_a_full_disk_everything_but_add_works() {
    case(|| {
        only_ours();
        let host = Host::new();
        let config = on(&host, "size=256k");
        for n in 0..3 {
            call(&host, &format!("c{n}"), &config).add().ok();
        }
        host.try_run("dd if=/dev/zero of=/run/test/small/ballast bs=4096").unwrap_err();
        status(&host, &config).failure().is(50, "/run/test/small/net|full");
        call(&host, "late", &config).add().failure().is(999, "no space left on device");
        check(&host, "c0", &config).ok();
        // Without an index there is no room for another.
        host.run("rm /run/test/small/.oxbridge/net/index");
        host.try_run("dd if=/dev/zero of=/run/test/small/ballast2 bs=4096").unwrap_err();
        check(&host, "c0", &config).ok();
        call(&host, "c0", &config).del().ok();
        assert_eq!(reservations(&host, "/run/test/small"), ["10.1.0.3", "10.1.0.4"]);
        gc(&host, &config).ok();
        assert_eq!((reservations(&host, "/run/test/small").len(), records(&host, "/run/test/small")), (0, 0));
    });
}

#[test]
fn a_read_only_store_is_read_and_what_cannot_be_removed_is_said() {
    case(|| {
        only_ours();
        let host = Host::new();
        let config = on(&host, "size=1m");
        call(&host, "c1", &config).add().ok();
        host.run("mount -o remount,ro /run/test/small");
        status(&host, &config).failure().is(50, "/run/test/small/net|read-only");
        call(&host, "c2", &config).add().failure().is(999, "read-only");
        check(&host, "c1", &config).ok();
        call(&host, "c2", &config).del().ok();
        call(&host, "c1", &config).del().failure().is(999, "10.1.0.2|read-only");
        gc(&host, &config).failure().is(999, "10.1.0.2|read-only");
        host.run("mount -o remount,rw /run/test/small");
        call(&host, "c1", &config).del().ok();
        assert_eq!((reservations(&host, "/run/test/small").len(), records(&host, "/run/test/small")), (0, 0));
    });
}

#[test]
fn a_store_that_was_removed_is_made_anew() {
    case(|| {
        only_ours();
        let (host, config) = (Host::new(), network());
        for what in [ROOT, STORE, "/var/lib/cni/networks/.oxbridge", OWN, "/var/lib/cni/networks/net/lock"] {
            call(&host, "c1", &config).add().ok();
            host.run(&format!("rm -r {what}"));
            let kept = reservations(&host, ROOT).len();
            assert_eq!(check(&host, "c1", &config).status.success(), kept == 1, "{what}");
            call(&host, "c2", &config).add().ok();
            for id in ["c1", "c2"] {
                call(&host, id, &config).del().ok();
            }
            gc(&host, &config).ok();
            assert_eq!((reservations(&host, ROOT).len(), records(&host, ROOT)), (0, 0), "{what}");
        }
    });
}

#[test]
fn a_store_that_is_removed_all_the_time_makes_nobody_wait() {
    case(|| {
        only_ours();
        let (host, config) = (Host::new(), network());
        let done = AtomicBool::new(false);
        thread::scope(|s| {
            s.spawn(|| {
                host.enter(|| {
                    while !done.load(Ordering::Relaxed) {
                        _ = std::fs::remove_dir_all(ROOT);
                    }
                });
            });
            let calls: Vec<_> = (0..2)
                .map(|n| {
                    let (host, config) = (&host, &config);
                    s.spawn(move || {
                        for m in 0..60 {
                            let id = format!("c{n}-{m}");
                            let reply = call(host, &id, config).add();
                            if !reply.status.success() {
                                reply.failure().is(999, ROOT);
                            }
                            let reply = call(host, &id, config).del();
                            if !reply.status.success() {
                                reply.failure().is(999, ROOT);
                            }
                        }
                    })
                })
                .collect();
            let ended: Vec<_> = calls.into_iter().map(thread::ScopedJoinHandle::join).collect();
            done.store(true, Ordering::Relaxed);
            ended.into_iter().for_each(|call| call.unwrap());
        });
        call(&host, "c1", &config).add().ok();
        check(&host, "c1", &config).ok();
        call(&host, "c1", &config).del().ok();
    });
}

#[test]
fn rubbish_in_our_own_files_is_seen_through() {
    case(|| {
        only_ours();
        for rubbish in ["", "oxbridge", "{\"addresses\":1}", &"\0".repeat(5000), &"\u{feff}ö".repeat(40_000)] {
            let (host, config) = (Host::new(), network());
            call(&host, "c1", &config).add().ok();
            for name in host.files(OWN) {
                host.write(&format!("{OWN}/{name}"), rubbish);
            }
            for name in ["new", "draft"] {
                host.write(&format!("{OWN}/{name}"), rubbish);
            }
            host.write(&format!("{STORE}/last_reserved_ip.0"), rubbish);
            check(&host, "c1", &config).ok();
            call(&host, "c1", &config).add().failure().is(999, "10.1.0.2 has been allocated to c1 eth0|no record");
            call(&host, "c2", &config).add().ok();
            for id in ["c1", "c2"] {
                call(&host, id, &config).del().ok();
            }
            assert_eq!((reservations(&host, ROOT).len(), records(&host, ROOT)), (0, 0));
        }
    });
}

/// With [`OWN`] on another file system, a reservation is no link to a finished file.
#[test]
fn where_nothing_can_be_linked_the_record_counts_all_the_same() {
    case(|| {
        only_ours();
        let (host, config) = (Host::new(), network());
        host.run(&format!("mkdir -p {OWN}"));
        host.run(&format!("mount -t tmpfs tmpfs {OWN}"));
        let add = |netns: &str| call(&host, "c1", &config).netns(netns).env("OXBRIDGE_PLUGIN", "bridge").add();
        let first = add("/run/netns/gone").result();
        let again = add("/run/netns/gone-too");
        assert_eq!(again.result()["ips"], first["ips"]);
        assert!(again.stderr.contains("is started again"), "{again}");
        call(&host, "c1", &config).del().ok();
        assert_eq!((reservations(&host, ROOT).len(), records(&host, ROOT)), (0, 0));
    });
}

/// Puts something else in the place of a file.
type Replace = fn(&Host, &str);

fn replacements() -> [(&'static str, Replace); 5] {
    [
        ("a folder", |host, path| _ = host.run(&format!("mkdir -p {path}"))),
        ("a FIFO", |host, path| _ = host.run(&format!("mkfifo {path}"))),
        ("a link to a file", |host, path| host.enter(|| symlink(format!("{OUTSIDE}/file"), path).unwrap())),
        ("a link to nothing", |host, path| host.enter(|| symlink(format!("{OUTSIDE}/none"), path).unwrap())),
        ("a link to itself", |host, path| host.enter(|| symlink(path, path).unwrap())),
    ]
}

/// A host with one attachment and something outside of the store.
fn with_an_outside() -> Host {
    let host = Host::new();
    host.write(&format!("{OUTSIDE}/file"), "c1\r\neth0");
    call(&host, "c1", &network()).add().ok();
    host
}

fn assert_outside_is_untouched(host: &Host, what: &str) {
    assert_eq!(host.files(OUTSIDE), ["file"], "{what}");
    assert_eq!(host.read(&format!("{OUTSIDE}/file")).unwrap(), "c1\r\neth0", "{what}");
}

#[test]
fn a_lock_that_is_no_file_is_refused_at_once() {
    case(|| {
        only_ours();
        for (what, replace) in replacements() {
            let (host, config) = (with_an_outside(), network());
            let lock = format!("{STORE}/lock");
            host.run(&format!("rm {lock}"));
            replace(&host, &lock);
            let replies = [
                call(&host, "c2", &config).add(),
                check(&host, "c1", &config),
                call(&host, "c1", &config).del(),
                gc(&host, &config),
            ];
            for reply in replies {
                reply.failure().is(999, &lock);
            }
            status(&host, &config).failure().is(50, &lock);
            assert_eq!(reservations(&host, ROOT), ["10.1.0.2"], "{what}");
            assert_outside_is_untouched(&host, what);
            host.run(&format!("rm -r {lock}"));
            call(&host, "c1", &config).del().ok();
        }
    });
}

#[test]
fn a_reservation_that_is_no_file_is_kept_and_leads_nowhere() {
    case(|| {
        only_ours();
        for (what, replace) in replacements() {
            let (host, config) = (with_an_outside(), network());
            let path = format!("{STORE}/10.1.0.3");
            replace(&host, &path);
            assert_eq!(call(&host, "c2", &config).add().result()["ips"][0]["address"], "10.1.0.4/24", "{what}");
            let requested = call(&host, "c3", &config).args("IP=10.1.0.3").add();
            requested.failure().is(999, "10.1.0.3 is not available|something else than a reservation");
            // It says to be c1's.
            call(&host, "c1", &config).del().ok();
            gc(&host, &config).ok();
            assert_eq!(reservations(&host, ROOT), ["10.1.0.3"], "{what}");
            assert_outside_is_untouched(&host, what);
        }
    });
}

#[test]
fn a_cursor_that_is_no_file_is_an_error_of_add() {
    case(|| {
        only_ours();
        for (what, replace) in replacements() {
            let (host, config) = (with_an_outside(), network());
            let path = format!("{STORE}/last_reserved_ip.0");
            host.run(&format!("rm {path}"));
            replace(&host, &path);
            call(&host, "c2", &config).add().failure().is(999, &format!("{path}|not a plain file"));
            check(&host, "c1", &config).ok();
            call(&host, "c1", &config).del().ok();
            assert_eq!((reservations(&host, ROOT).len(), records(&host, ROOT)), (0, 0), "{what}");
            assert_outside_is_untouched(&host, what);
        }
    });
}

#[test]
fn our_own_files_that_are_none_are_done_without() {
    case(|| {
        only_ours();
        for (what, replace) in replacements() {
            let (host, config) = (with_an_outside(), network());
            for name in host.files(OWN) {
                host.run(&format!("rm {OWN}/{name}"));
                replace(&host, &format!("{OWN}/{name}"));
            }
            check(&host, "c1", &config).ok();
            call(&host, "c1", &config).add().failure().is(999, "no record");
            call(&host, "c2", &config).add().ok();
            call(&host, "c2", &config).del().ok();
            // A folder in a record's place cannot be removed as a file.
            let reply = call(&host, "c1", &config).del();
            assert!(reply.status.success() || what == "a folder", "{what}: {reply}");
            assert_eq!(reservations(&host, ROOT), [""; 0], "{what}");
            assert_outside_is_untouched(&host, what);
        }
    });
}

#[test]
fn a_good_index_elsewhere_is_not_written() {
    case(|| {
        only_ours();
        let (host, config) = (with_an_outside(), network());
        let elsewhere = "/run/test/index";
        host.run(&format!("mv {OWN}/index {elsewhere}"));
        host.enter(|| symlink(elsewhere, format!("{OWN}/index")).unwrap());
        let before = host.enter(|| std::fs::read(elsewhere).unwrap());
        call(&host, "c2", &config).add().ok();
        call(&host, "c1", &config).del().ok();
        assert_eq!(host.enter(|| std::fs::read(elsewhere).unwrap()), before);
    });
}

#[test]
fn our_own_folder_elsewhere_is_not_used() {
    case(|| {
        only_ours();
        for (what, replace) in replacements() {
            for path in [OWN, "/var/lib/cni/networks/.oxbridge"] {
                let (host, config) = (with_an_outside(), network());
                host.run(&format!("rm -r {path}"));
                replace(&host, path);
                // An empty folder is as good as none.
                if what != "a folder" {
                    call(&host, "c2", &config).add().failure().is(999, path);
                    status(&host, &config).failure().is(50, path);
                }
                check(&host, "c1", &config).ok();
                call(&host, "c1", &config).del().ok();
                gc(&host, &config).ok();
                assert_eq!(reservations(&host, ROOT), [""; 0], "{what}");
                assert_outside_is_untouched(&host, what);
            }
        }
        // A link to a folder.
        let (host, config) = (with_an_outside(), network());
        host.run(&format!("rm -r {OWN}"));
        host.enter(|| symlink(OUTSIDE, OWN).unwrap());
        call(&host, "c2", &config).add().failure().is(999, OWN);
        status(&host, &config).failure().is(50, OWN);
        call(&host, "c1", &config).del().ok();
        assert_outside_is_untouched(&host, "a link to a folder");
    });
}

#[test]
fn the_store_itself_may_be_elsewhere() {
    case(|| {
        only_ours();
        for path in ["/run/test/data", "/run/test/data/net"] {
            let host = Host::new();
            let config = with(&network(), json!({ "ipam": { "dataDir": "/run/test/data" } }));
            host.run("mkdir -p /run/test/data /run/test/elsewhere");
            host.try_run(&format!("rmdir {path}")).ok();
            host.enter(|| symlink("/run/test/elsewhere", path).unwrap());
            status(&host, &config).ok();
            call(&host, "c1", &config).add().ok();
            check(&host, "c1", &config).ok();
            assert_eq!(reservations(&host, "/run/test/data"), ["10.1.0.2"]);
            call(&host, "c1", &config).add().failure().is(999, "c1 eth0");
            call(&host, "c1", &config).del().ok();
            assert_eq!((reservations(&host, "/run/test/data").len(), records(&host, "/run/test/data")), (0, 0));
        }
    });
}

#[test]
fn where_no_store_can_be_there_is_nothing_to_release() {
    case(|| {
        only_ours();
        for (what, replace) in replacements() {
            for path in ["/run/test/data", "/run/test/data/net"] {
                let host = Host::new();
                let config = with(&network(), json!({ "ipam": { "dataDir": "/run/test/data" } }));
                host.write(&format!("{OUTSIDE}/file"), "c1\r\neth0");
                if path.ends_with("net") {
                    host.run("mkdir -p /run/test/data");
                }
                replace(&host, path);
                if what != "a folder" {
                    call(&host, "c1", &config).add().failure().is(999, "/run/test/data/net");
                    status(&host, &config).failure().is(50, "/run/test/data");
                }
                call(&host, "c1", &config).del().ok();
                gc(&host, &config).ok();
                check(&host, "c1", &config).failure().is(999, "c1");
                assert_outside_is_untouched(&host, what);
            }
        }
    });
}

#[test]
fn names_that_would_leave_the_store_are_refused_with_nothing_done() {
    case(|| {
        only_ours();
        let host = Host::new();
        call(&host, "c1", &network()).add().ok();
        let before = host.snapshot();
        let named = |name: &str| with(&network(), json!({ "name": name }));
        let verbs = ["ADD", "CHECK", "DEL", "GC", "STATUS"];
        let odd = [
            "..",
            ".",
            "../net",
            "net/..",
            "/etc",
            "net/10.1.0.2",
            ".oxbridge",
            ".net",
            "nét",
            "net\0",
            "n\u{202e}t",
            " ",
        ];
        for name in odd {
            for verb in verbs {
                call(&host, "c2", &named(name)).verb(verb).run().failure().is(7, "network name");
            }
        }
        for id in ["..", "../net/10.1.0.2", "/", ".hidden", "a/b", "ä", "c1\r\neth0", " "] {
            for verb in &verbs[..3] {
                call(&host, id, &network()).verb(verb).run().failure().is(4, "containerID");
            }
        }
        for ifname in ["..", ".", "a/b", "../../x", "a234567890123456", "a b", "a\u{2028}b"] {
            for verb in &verbs[..3] {
                call(&host, "c1", &network()).ifname(ifname).verb(verb).run().failure().is(4, "interface name");
            }
        }
        host.assert_as(&before);
    });
}

#[test]
fn names_too_long_for_files_are_refused_and_released() {
    case(|| {
        only_ours();
        let host = Host::new();
        let before = host.snapshot();
        let named = |length: usize| with(&network(), json!({ "name": "n".repeat(length) }));
        for length in [256, 300, 100_000] {
            let config = named(length);
            call(&host, "c1", &config).add().failure().is(7, "network name");
            check(&host, "c1", &config).failure().is(7, "network name");
            status(&host, &config).failure().is(50, "network name");
            call(&host, "c1", &config).del().ok();
            gc(&host, &config).ok();
        }
        // Its file could not be told from one that was not made by a plugin.
        for length in [4091, 100_000] {
            let id = "c".repeat(length);
            call(&host, &id, &network()).add().failure().is(4, "CNI_CONTAINERID is too long");
            check(&host, &id, &network()).failure().is(999, "");
            call(&host, &id, &network()).del().ok();
        }
        host.assert_as(&before);
        for (id, config) in [("c".repeat(4090), network()), ("c1".to_owned(), named(255))] {
            call(&host, &id, &config).add().ok();
            check(&host, &id, &config).ok();
            call(&host, &id, &config).add().failure().is(999, "duplicate allocation");
            call(&host, &id, &config).del().ok();
        }
        assert_eq!((reservations(&host, ROOT).len(), records(&host, ROOT)), (0, 0));
    });
}

#[test]
fn without_stdin_or_stdout_nothing_is_reserved() {
    case(|| {
        only_ours();
        let (host, config) = (Host::new(), network());
        call(&host, "c1", &config).add().ok();
        let before = host.snapshot();
        let closed = |what: &'static str| call(&host, "c2", &config).under(&["sh", "-c", what]);
        closed("exec \"$0\" <&-").add().failure().is(6, "");
        closed("exec \"$0\" </dev/null").add().failure().is(6, "");
        let reply = closed("exec \"$0\" >&-").add();
        assert!(!reply.status.success(), "{reply}");
        for stdout in [full().into(), unread()] {
            let reply = call(&host, "c2", &config).stdout(stdout).add();
            assert!(!reply.status.success(), "{reply}");
        }
        host.assert_nothing_made(&before);
        // DEL says nothing, and needs nobody to listen.
        call(&host, "c1", &config).under(&["sh", "-c", "exec \"$0\" >&-"]).del().ok();
        assert_eq!((reservations(&host, ROOT).len(), records(&host, ROOT)), (0, 0));
    });
}

#[test]
fn a_resolv_conf_that_is_no_file_makes_nobody_wait() {
    case(|| {
        only_ours();
        let host = Host::new();
        let config = with(&network(), json!({ "ipam": { "resolvConf": "/run/test/resolv.conf" } }));
        host.run("mkfifo /run/test/resolv.conf");
        call(&host, "c1", &config).add().failure().is(999, "/run/test/resolv.conf|not a plain file");
        status(&host, &config).failure().is(50, "/run/test/resolv.conf|not a plain file");
        host.run("mv /run/test/resolv.conf /run/test/fifo");
        host.write("/run/test/real", "nameserver 192.0.2.1");
        host.run("ln -s real /run/test/resolv.conf");
        let dns = call(&host, "c1", &config).add().result()["dns"].take();
        assert_eq!(dns["nameservers"][0], "192.0.2.1");
    });
}
