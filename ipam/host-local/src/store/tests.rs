use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use proptest::prelude::*;

use super::record::tests::record;
use super::*;

fn ip(n: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, n])
}

fn owner(n: u8) -> Owner {
    Owner::new(&format!("c{n}"), "eth0")
}

fn reserve(locked: &mut Locked<'_>, owner: &Owner, ip: IpAddr) -> Option<Held> {
    let draft = locked.draft(owner).unwrap();
    let held = locked.reserve(&draft, ip).unwrap();
    locked.discard(&draft);
    held
}

/// Owner by address, as the files say.
fn truth(store: &Store) -> BTreeMap<IpAddr, Content> {
    let entries = fs::read_dir(store.folder()).unwrap().map(|entry| entry.unwrap());
    let ips = entries.filter_map(|entry| reservation::address_of(&entry.file_name()));
    ips.map(|ip| (ip, reservation::read(&store.path_of(ip)).unwrap().unwrap().content)).collect()
}

fn ips_of(locked: &Locked<'_>, owner: &Owner) -> Vec<IpAddr> {
    locked.find(owner).unwrap().into_iter().map(|held| held.ip).collect()
}

#[test]
fn files_are_those_of_the_reference() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(&dir.path().join("a/b"), "n").unwrap();
    {
        let mut locked = store.lock().unwrap();
        reserve(&mut locked, &owner(1), ip(2)).unwrap();
        locked.set_cursor(0, ip(200)).unwrap();
        locked.set_cursor(0, ip(2)).unwrap();
        assert_eq!(locked.cursor(0), Some(ip(2)));
        assert_eq!(locked.cursor(1), None);
    }
    let file = |name: &str| {
        let path = store.folder().join(name);
        (fs::read(&path).unwrap(), fs::metadata(path).unwrap().permissions().mode() & 0o777)
    };
    assert_eq!(file("10.0.0.2"), (b"c1\r\neth0".to_vec(), 0o600));
    assert_eq!(file("last_reserved_ip.0"), (b"10.0.0.2".to_vec(), 0o600));
    assert_eq!(file("lock").0, b"");
    assert_eq!(fs::metadata(store.folder().join("10.0.0.2")).unwrap().nlink(), 1);
    let mut own: Vec<_> = fs::read_dir(store.own_folder()).unwrap().map(|e| e.unwrap().file_name()).collect();
    own.sort();
    assert_eq!(own, ["index"]);
}

#[test]
fn names_that_lead_out_of_the_store_are_refused() {
    for name in ["", ".", "..", "a/b", "/", ".oxbridge", "a\0b"] {
        assert!(Store::new(Path::new("/x"), name).is_err(), "{name:?}");
    }
}

#[test]
fn an_address_is_given_once_and_freed_only_as_seen() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path(), "n").unwrap();
    let mut locked = store.lock().unwrap();
    let held = reserve(&mut locked, &owner(1), ip(2)).unwrap();
    assert_eq!(reserve(&mut locked, &owner(2), ip(2)), None);
    fs::remove_file(store.path_of(ip(2))).unwrap();
    fs::write(store.path_of(ip(2)), "c9\r\neth0").unwrap();
    locked.release(Some(&owner(1)), held).unwrap();
    assert!(store.path_of(ip(2)).exists(), "someone else's by now");
    locked.release(Some(&owner(1)), Held { ip: ip(3), ..held }).unwrap();
}

#[test]
fn a_torn_file_is_replaced_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path(), "n").unwrap();
    let mut locked = store.lock().unwrap();
    fs::write(store.path_of(ip(2)), "").unwrap();
    let draft = locked.draft(&owner(1)).unwrap();
    assert_eq!(locked.reserve(&draft, ip(2)).unwrap(), None);
    let held = locked.take_over(&draft, ip(2)).unwrap().unwrap();
    locked.discard(&draft);
    assert_eq!(locked.find(&owner(1)).unwrap(), [held]);
    assert_eq!(fs::read(store.path_of(ip(2))).unwrap(), b"c1\r\neth0");
}

#[test]
fn our_own_writes_keep_the_index_fresh_and_others_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path(), "n").unwrap();
    reserve(&mut store.lock().unwrap(), &owner(1), ip(1)).unwrap();
    let fresh = || {
        let boot = store.lock().unwrap().boot;
        Index::open(&store.index_path()).unwrap().is_fresh(mtime(store.folder()).unwrap(), boot)
    };
    let index = || fs::metadata(store.index_path()).unwrap().ino();
    let built = index();
    reserve(&mut store.lock().unwrap(), &owner(2), ip(2)).unwrap();
    assert!(fresh());
    assert_eq!(index(), built, "not built anew");
    fs::write(store.path_of(ip(3)), "c3\r\neth0").unwrap();
    assert_eq!(ips_of(&store.lock().unwrap(), &owner(3)), [ip(3)]);
    assert_ne!(index(), built);
    for damage in [&b""[..], b"oxbridge", &[0xff; 4000]] {
        // Of two later ones, the second may get this inode again.
        let built = index();
        fs::write(store.index_path(), damage).unwrap();
        assert_eq!(ips_of(&store.lock().unwrap(), &owner(2)), [ip(2)]);
        assert_ne!(index(), built);
        assert!(fresh());
    }
}

#[test]
fn an_index_that_cannot_be_kept_is_done_without() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path(), "n").unwrap();
    fs::create_dir_all(store.index_path()).unwrap();
    let mut locked = store.lock().unwrap();
    let held = reserve(&mut locked, &owner(1), ip(2)).unwrap();
    assert_eq!(ips_of(&locked, &owner(1)), [ip(2)]);
    locked.release(Some(&owner(1)), held).unwrap();
    assert_eq!(ips_of(&locked, &owner(1)), Vec::<IpAddr>::new());
    fs::write(store.path_of(ip(3)), "c3\r\neth0").unwrap();
    drop(locked);
    assert_eq!(ips_of(&store.lock().unwrap(), &owner(3)), [ip(3)]);
}

#[test]
fn an_index_that_lies_points_to_files_that_do_not_agree() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path(), "n").unwrap();
    reserve(&mut store.lock().unwrap(), &owner(1), ip(2)).unwrap();
    // Written in place: the folder's time does not move.
    fs::write(store.path_of(ip(2)), "c2\r\neth0").unwrap();
    let locked = store.lock().unwrap();
    assert_eq!(ips_of(&locked, &owner(1)), Vec::<IpAddr>::new());
}

#[test]
fn many_reservations_make_the_index_grow() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path(), "n").unwrap();
    let mut locked = store.lock().unwrap();
    for n in 0..200 {
        reserve(&mut locked, &owner(n), ip(n)).unwrap();
    }
    drop(locked);
    let locked = store.lock().unwrap();
    for n in 0..200 {
        assert_eq!(ips_of(&locked, &owner(n)), [ip(n)]);
    }
    assert!(matches!(locked.known, Known::Index(_)));
}

#[test]
fn dying_between_any_two_steps_leaves_a_store_that_works() {
    let mut died = Vec::new();
    for n in 0.. {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path(), "n").unwrap();
        // One life before, so that what is changed is an existing index.
        let old = reserve(&mut store.lock().unwrap(), &owner(9), ip(9)).unwrap();
        let at = stop::at(n, || {
            let mut locked = store.lock().unwrap();
            let draft = locked.draft(&owner(1)).unwrap();
            locked.reserve(&draft, ip(2)).unwrap().unwrap();
            locked.discard(&draft);
            locked.set_cursor(0, ip(2)).unwrap();
            locked.write_record("0", &record()).unwrap();
            locked.release(Some(&owner(9)), old).unwrap();
            locked.remove_record("0").unwrap();
        });
        let truth = truth(&store);
        let mut locked = store.lock().unwrap();
        for n in [1, 9] {
            let expected: Vec<IpAddr> =
                truth.iter().filter(|(_, c)| **c == Content::Owner(owner(n))).map(|(ip, _)| *ip).collect();
            assert_eq!(ips_of(&locked, &owner(n)), expected, "after {at:?}");
        }
        assert!(truth.values().all(|content| matches!(content, Content::Owner(_))), "after {at:?}: {truth:?}");
        reserve(&mut locked, &owner(3), ip(3)).unwrap();
        drop(locked);
        assert!(!store.temporary().exists());
        match at {
            Ok(point) => died.push(point),
            Err(()) => break,
        }
    }
    let points =
        ["drafted", "linked", "indexed", "cursor", "recorded", "unlinked", "unindexed", "forgotten", "stamped"];
    assert_eq!(died, points);
}

#[derive(Debug, Clone)]
enum Step {
    Reserve(u8, u8),
    Release(u8),
    ForeignWrite(u8, u8),
    ForeignRemove(u8),
    Torn(u8),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0u8..6, 0u8..20).prop_map(|(who, what)| Step::Reserve(who, what)),
        2 => (0u8..6).prop_map(Step::Release),
        1 => (0u8..6, 0u8..20).prop_map(|(who, what)| Step::ForeignWrite(who, what)),
        1 => (0u8..20).prop_map(Step::ForeignRemove),
        1 => (0u8..20).prop_map(Step::Torn),
        3 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn the_index_answers_as_the_folder_does(steps in steps()) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path(), "n").unwrap();
        let mut locked = store.lock().unwrap();
        for step in steps {
            match step {
                Step::Reserve(who, what) => {
                    let was_free = !store.path_of(ip(what)).exists();
                    prop_assert_eq!(reserve(&mut locked, &owner(who), ip(what)).is_some(), was_free);
                }
                Step::Release(who) => {
                    for held in locked.find(&owner(who)).unwrap() {
                        locked.release(Some(&owner(who)), held).unwrap();
                    }
                }
                // Others hold the lock as well: our own is given back before.
                Step::ForeignWrite(..) | Step::ForeignRemove(_) | Step::Torn(_) | Step::Reopen => {
                    drop(locked);
                    match step {
                        Step::ForeignWrite(who, what) => {
                            let _ = write_exclusively(&store.path_of(ip(what)), &owner(who).content()).unwrap();
                        }
                        Step::ForeignRemove(what) => {
                            fsutil::remove(&store.path_of(ip(what))).unwrap();
                        }
                        Step::Torn(what) => {
                            let _ = write_exclusively(&store.path_of(ip(what)), "").unwrap();
                        }
                        _ => {}
                    }
                    locked = store.lock().unwrap();
                }
            }
            let truth = truth(&store);
            for who in 0..6 {
                let expected: Vec<IpAddr> =
                    truth.iter().filter(|(_, c)| **c == Content::Owner(owner(who))).map(|(ip, _)| *ip).collect();
                prop_assert_eq!(ips_of(&locked, &owner(who)), expected);
            }
        }
    }
}
