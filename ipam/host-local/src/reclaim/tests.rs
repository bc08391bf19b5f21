use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use plugin::liveness::Present;

use super::*;
use crate::range::tests::{set, text};
use crate::store::{Store, stop};
use crate::transaction::tests::{GONE, HERE, Scratch, add, del, files, ips, request, scratch};

const PLAIN_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");

/// A caller that has nothing in common with anyone recorded.
fn caller(id: &str, requested: &[&str]) -> Request {
    request(id, "/run/netns/caller", requested)
}

fn identity(id: &str) -> String {
    caller(id, &[]).attachment.identity_hex()
}

fn pool(subnet: &str) -> RangeSet {
    set(&[text(subnet, "", "", "")])
}

/// Changes the record of `id`, an attachment that has one.
fn change(store: &Store, id: &str, change: impl FnOnce(&mut Record)) {
    let locked = store.lock().unwrap();
    let mut record = locked.record(&identity(id)).unwrap();
    change(&mut record);
    locked.write_record(&identity(id), &record).unwrap();
}

/// Cookies need Linux 5.14 and CAP_SYS_ADMIN.
fn have_cookies() -> bool {
    Present::look(HERE).cookie.is_some()
}

#[test]
fn which_evidence_frees_an_address() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let cookie = Present::look(HERE).cookie;
    let other_boot = || Some("00000000-0000-0000-0000-000000000000".to_owned());
    type Change<'a> = &'a dyn Fn(&Store, &mut Record);
    // What is changed in the record (or beside it) of c1, made by bridge for a namespace that is gone; freed or not.
    let cases: [(&str, Change<'_>, bool); 20] = [
        ("path gone, no host link, by bridge", &|_, _| (), true),
        ("no namespace mounted there any more", &|_, r| r.netns = PLAIN_FILE.to_owned(), true),
        (
            "path opens another namespace",
            &|_, r| (r.netns, r.netns_cookie) = (HERE.to_owned(), Some(u64::MAX)),
            have_cookies(),
        ),
        ("namespace there", &|_, r| (r.netns, r.netns_cookie) = (HERE.to_owned(), cookie), false),
        ("namespace there, cookie unknown", &|_, r| r.netns = HERE.to_owned(), false),
        ("path may not be looked at", &|_, r| r.netns = format!("{PLAIN_FILE}/x"), false),
        ("no path recorded", &|_, r| r.netns.clear(), false),
        ("by another plugin", &|_, r| r.plugin = Some("macvlan".to_owned()), false),
        ("by a plugin not of ours", &|_, r| r.plugin = None, false),
        ("on another host that shares the store", &|_, r| r.host_cookie = Some(u64::MAX), false),
        ("of an earlier boot", &|_, r| (r.boot_id, r.time) = (other_boot(), 1_000_000_000), true),
        (
            "of an earlier boot, by another plugin, path in use again",
            &|_, r| {
                (r.boot_id, r.time) = (other_boot(), 1_000_000_000);
                (r.plugin, r.netns) = (None, HERE.to_owned());
            },
            true,
        ),
        ("of another boot, but newer than this one", &|_, r| (r.boot_id, r.time) = (other_boot(), now), false),
        ("of the future: the clock was set back", &|_, r| (r.boot_id, r.time) = (other_boot(), now + 86_400), false),
        ("boot unknown", &|_, r| (r.boot_id, r.time) = (None, 1_000_000_000), true),
        ("file of another inode", &|_, r| r.addresses[0].stamp.inode += 1, false),
        ("file of another time", &|_, r| r.addresses[0].stamp.mtime.1 += 1, false),
        ("record of another address", &|_, r| r.addresses[0].ip = "10.0.0.1".parse().unwrap(), false),
        ("record of somebody else under this name", &|_, r| r.container_id = "c7".to_owned(), false),
        (
            "file made anew by the reference, for the same attachment",
            &|store, _| {
                let path = store.folder().join("10.0.0.2");
                fs::rename(&path, store.own_folder().join("kept-inode")).unwrap();
                fs::write(&path, "c1\r\neth0").unwrap();
            },
            false,
        ),
    ];
    for (name, apply, freed) in cases {
        // By the next one of the pool, and by one that wants this very address.
        for requested in ["", "10.0.0.2"] {
            let Scratch { store, .. } = &scratch();
            let sets = [pool("10.0.0.0/30")];
            add(store, &request("c1", GONE, &[""]), &sets).unwrap();
            change(store, "c1", |record| apply(store, record));
            let before = files(store);
            let stale = !store.lock().unwrap().speaks_for_any(&identity("c1"));
            let result = add(store, &caller("c2", &[requested]), &sets);
            assert_eq!(result.is_ok(), freed, "{name} {requested:?}: {result:?}");
            let expected = if freed { vec![("10.0.0.2".to_owned(), "c2\r\neth0".to_owned())] } else { before };
            assert_eq!(files(store), expected, "{name} {requested:?}");
            // A full pool is gone through for records that speak for nothing as well.
            let forgotten = freed || stale && requested.is_empty();
            assert_eq!(store.lock().unwrap().record(&identity("c1")).is_none(), forgotten, "{name} {requested:?}");
        }
    }
}

#[test]
fn what_has_no_record_is_kept() {
    for record in [None, Some(""), Some("{}"), Some("\0\0")] {
        for content in ["c1\r\neth0", "c1"] {
            let Scratch { store, .. } = &scratch();
            drop(store.lock().unwrap());
            fs::write(store.folder().join("10.0.0.2"), content).unwrap();
            if let Some(text) = record {
                fs::write(store.own_folder().join(identity("c1")), text).unwrap();
            }
            let error = add(store, &caller("c2", &[""]), &[pool("10.0.0.0/30")]).unwrap_err();
            assert!(error.details.contains(": 0 have a record of ours,"), "{error}");
            assert!(error.details.ends_with("; 1 have no record of ours and are left to DEL and GC"), "{error}");
            let error = add(store, &caller("c2", &["10.0.0.2"]), &[pool("10.0.0.0/30")]).unwrap_err();
            assert!(error.details.contains("left no record"), "{error}");
            assert_eq!(files(store), [("10.0.0.2".to_owned(), content.to_owned())]);
        }
    }
}

#[test]
fn the_callers_siblings_are_kept() {
    let Scratch { store, .. } = &scratch();
    let sets = [pool("10.0.0.0/30")];
    // Made by another path, which is gone, but for the namespace of this call.
    let mut sibling = request("c1", GONE, &[""]);
    sibling.present.cookie = Some(7);
    add(store, &sibling, &sets).unwrap();
    let mut caller = caller("c1", &[""]);
    caller.attachment.ifname = "eth1".to_owned();
    caller.present.cookie = Some(7);
    let error = add(store, &caller, &sets).unwrap_err();
    assert!(error.details.contains(": 1 have a record of ours,"), "{error}");
    caller.requested = vec!["10.0.0.2".parse().ok()];
    let error = add(store, &caller, &sets).unwrap_err();
    assert!(error.details.ends_with("its namespace is the one of this ADD"), "{error}");
}

#[test]
fn all_that_are_gone_are_freed_at_once_and_the_order_goes_on() {
    let Scratch { store, .. } = &scratch();
    let sets = [pool("10.0.0.0/29"), pool("fd00::/64")];
    for n in 0..5 {
        let netns = if n == 1 { HERE } else { GONE };
        add(store, &request(&format!("c{n}"), netns, &["", ""]), &sets).unwrap();
    }
    assert_eq!(add(store, &caller("new", &["", ""]), &sets).unwrap(), ips(&["10.0.0.2", "fd00::7"]));
    let names: Vec<String> = files(store).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["10.0.0.2", "10.0.0.3", "fd00::3", "fd00::7"]);
    let mut records = store.lock().unwrap().records();
    records.sort();
    let mut expected = vec![identity("c1"), identity("new")];
    expected.sort();
    assert_eq!(records, expected);
    for id in ["c0", "c2", "c3", "c4"] {
        assert_eq!(store.lock().unwrap().find(&Owner::new(id, "eth0")).unwrap(), []);
    }
    assert_eq!(add(store, &caller("next", &["", ""]), &sets).unwrap()[0], ips(&["10.0.0.4"])[0]);
}

/// As if `id` had been attached so many seconds earlier.
fn age(store: &Store, id: &str, seconds: i64) {
    change(store, id, |record| record.time = record.time.saturating_add_signed(-seconds));
}

#[test]
fn a_store_that_is_not_full_heals_within_a_bounded_number_of_adds() {
    for foreign in [false, true] {
        let Scratch { store, .. } = &scratch();
        let sets = [pool("10.0.0.0/24"), pool("fd00::/64")];
        for n in 0..60 {
            let netns = if n % 10 == 0 { HERE } else { GONE };
            add(store, &request(&format!("c{n}"), netns, &["", ""]), &sets).unwrap();
            age(store, &format!("c{n}"), 100);
        }
        // Two addresses each, and an index of at most eight slots for each, of which an ADD passes 256.
        let reservations = 120;
        for n in 0..reservations / LOOKS + reservations * 8 / 256 + 1 {
            let id = format!("new{n}");
            add(store, &caller(&id, &["", ""]), &sets).unwrap();
            del(store, &id);
            if foreign {
                // Then every ADD builds the index anew.
                fs::write(store.folder().join("fd01::1"), "other\r\neth0").unwrap();
                fs::remove_file(store.folder().join("fd01::1")).unwrap();
            }
        }
        let left = files(store);
        assert_eq!(left.len(), 12, "{left:?}");
        assert!(left.iter().all(|(_, owner)| owner.ends_with("0\r\neth0")), "{left:?}");
    }
}

#[test]
fn who_may_still_be_on_its_way_is_not_looked_at_in_passing() {
    for (name, seconds, freed) in [("just added", 0, false), ("settled", 61, true), ("of the future", -600, false)] {
        let Scratch { store, .. } = &scratch();
        let sets = [pool("10.0.0.0/24")];
        add(store, &request("c1", GONE, &[""]), &sets).unwrap();
        age(store, "c1", seconds);
        for n in 0..3 {
            add(store, &caller(&format!("new{n}"), &[""]), &sets).unwrap();
        }
        assert_eq!(files(store).iter().any(|(ip, _)| ip == "10.0.0.2"), !freed, "{name}");
    }
}

#[test]
fn an_add_looks_at_two_in_passing_and_takes_its_own_as_usual() {
    let Scratch { store, .. } = &scratch();
    let sets = [pool("10.0.0.0/29")];
    for n in 0..4 {
        add(store, &request(&format!("c{n}"), GONE, &[""]), &sets).unwrap();
        age(store, &format!("c{n}"), 100);
    }
    assert_eq!(add(store, &caller("new", &[""]), &sets).unwrap(), ips(&["10.0.0.6"]));
    // One of the two may have been the new one itself.
    assert!((3..=4).contains(&files(store).len()), "{:?}", files(store));
}

#[test]
fn a_failure_afterwards_gives_back_what_was_taken_and_brings_back_nobody() {
    let Scratch { store, .. } = &scratch();
    let sets = [pool("10.0.0.0/30"), pool("fd00::/126")];
    add(store, &request("c1", GONE, &["", ""]), &sets).unwrap();
    add(store, &request("c2", HERE, &["fd00::3"]), &sets[1..]).unwrap();
    let caller = caller("c3", &["", "fd00::3"]);
    add(store, &caller, &sets).unwrap_err();
    assert_eq!(files(store), [("fd00::3".to_owned(), "c2\r\neth0".to_owned())]);
    assert_eq!(store.lock().unwrap().records(), [identity("c2")]);
}

#[test]
fn dying_anywhere_while_reclaiming_leaves_a_store_that_works() {
    for n in 0.. {
        let Scratch { store, .. } = &scratch();
        let sets = [pool("10.0.0.0/30"), pool("fd00::/126")];
        add(store, &request("c1", GONE, &["", ""]), &sets).unwrap();
        let new = caller("new", &["", "fd00::2"]);
        let at = stop::at(n, || add(store, &new, &sets).map(drop));
        let owners: Vec<String> = files(store).into_iter().map(|(_, owner)| owner).collect();
        assert!(owners.iter().all(|o| o == "c1\r\neth0" || o == "new\r\neth0"), "after {at:?}: {owners:?}");
        del(store, "new");
        assert_eq!(add(store, &new, &sets).unwrap(), ips(&["10.0.0.2", "fd00::2"]), "after {at:?}");
        if at.is_err() {
            assert!(n > 15, "only {n} points");
            return;
        }
    }
}

#[test]
fn a_full_pool_says_whose_pods_fill_it_and_forgets_what_nobody_has() {
    let Scratch { store, .. } = &scratch();
    let sets = [pool("10.0.0.0/29")];
    for (n, namespace) in ["web", "web", "db", ""].into_iter().enumerate() {
        let mut living = request(&format!("c{n}"), HERE, &[""]);
        let pod = crate::store::record::Pod { namespace: namespace.to_owned(), name: format!("p{n}") };
        living.pod = Some(pod).filter(|pod| !pod.namespace.is_empty());
        add(store, &living, &sets).unwrap();
    }
    add(store, &request("gone", GONE, &["fd00::9"]), &[pool("fd00::/64")]).unwrap();
    fs::remove_file(store.folder().join("fd00::9")).unwrap();
    fs::write(store.folder().join("10.0.0.6"), "other\r\neth0").unwrap();
    let error = add(store, &caller("new", &[""]), &sets).unwrap_err();
    let expected = format!(
        "all of its 5 addresses are taken, by 5 reservations in {}: 4 have a record of ours, and their attachments are \
         alive or may be; 0 are certainly gone, but could not be freed; 1 have no record of ours and are left to DEL and \
         GC; most are held by pods of the namespaces web (2), db (1)",
        store.folder().display()
    );
    assert_eq!(error.details, expected);
    assert_eq!(store.lock().unwrap().records().len(), 4);
}

#[test]
fn the_living_keep_their_addresses_however_often_one_is_asked_for() {
    let Scratch { store, .. } = &scratch();
    let sets = [pool("10.0.0.0/29")];
    for n in 0..5 {
        add(store, &request(&format!("c{n}"), HERE, &[""]), &sets).unwrap();
    }
    let before = files(store);
    for n in 0..1000 {
        let requested = if n % 2 == 0 { "" } else { "10.0.0.4" };
        add(store, &caller(&format!("n{n}"), &[requested]), &sets).unwrap_err();
    }
    assert_eq!(files(store), before);
    assert_eq!(store.lock().unwrap().records().len(), 5);
}
