use std::collections::BTreeMap;
use std::fs;

use proptest::prelude::*;

use super::*;
use crate::allocator::tests::{any_set, walk};
use crate::range::address;
use crate::range::tests::{set, text};

/// An ADD of `id`/eth0 for the namespace `netns`, by bridge, in this boot.
pub(crate) fn request(id: &str, netns: &str, requested: &[&str]) -> Request {
    Request {
        attachment: Attachment { network: "n".to_owned(), container_id: id.to_owned(), ifname: "eth0".to_owned() },
        requested: requested.iter().map(|ip| ip.parse().ok()).collect(),
        present: Present::new(netns, None),
        pod: None,
        plugin: Some("bridge".to_owned()),
        caller: None,
    }
}

pub(crate) fn add(store: &Store, request: &Request, sets: &[RangeSet]) -> Result<Vec<IpAddr>, Error> {
    let mut transaction = Transaction::begin(store, request)?;
    let ips = transaction.allocate(sets)?;
    transaction.unlock();
    transaction.commit();
    Ok(ips)
}

pub(crate) fn del(store: &Store, id: &str) {
    let mut locked = store.lock().unwrap();
    let owner = Owner::new(id, "eth0");
    for held in locked.find(&owner).unwrap() {
        locked.release(Some(&owner), held).unwrap();
    }
}

/// Names and contents of all reservations.
pub(crate) fn files(store: &Store) -> Vec<(String, String)> {
    let names = fs::read_dir(store.folder()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|n| n.parse::<IpAddr>().is_ok()).collect();
    names.sort();
    names.into_iter().map(|n| (n.clone(), fs::read_to_string(store.folder().join(n)).unwrap())).collect()
}

pub(crate) fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn dual() -> [RangeSet; 2] {
    [set(&[text("10.0.0.0/29", "", "", "")]), set(&[text("fd00::/64", "", "", "")])]
}

pub(crate) struct Scratch {
    pub(crate) _dir: tempfile::TempDir,
    pub(crate) store: Store,
}

pub(crate) fn scratch() -> Scratch {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path(), "n").unwrap();
    Scratch { _dir: dir, store }
}

pub(crate) const HERE: &str = "/proc/self/ns/net";
pub(crate) const GONE: &str = "/nonexistent/netns/gone";

#[test]
fn one_address_of_each_set_in_order() {
    let Scratch { store, .. } = &scratch();
    assert_eq!(add(store, &request("c1", HERE, &["", ""]), &dual()).unwrap(), ips(&["10.0.0.2", "fd00::2"]));
    assert_eq!(add(store, &request("c2", HERE, &["", "fd00::9"]), &dual()).unwrap(), ips(&["10.0.0.3", "fd00::9"]));
    del(store, "c1");
    assert_eq!(add(store, &request("c3", HERE, &["", ""]), &dual()).unwrap(), ips(&["10.0.0.4", "fd00::a"]));
    let record = store.lock().unwrap().record(&request("c3", "", &[]).attachment.identity_hex()).unwrap();
    assert_eq!((record.netns.as_str(), record.addresses.len(), record.addresses[1].set), (HERE, 2, 1));
    assert!(record.boot_id.is_some());
}

#[test]
fn a_duplicate_is_refused_by_name_and_changes_nothing() {
    let Scratch { store, .. } = &scratch();
    add(store, &request("c1", HERE, &["", ""]), &dual()).unwrap();
    let before = files(store);
    for requested in [["", ""], ["10.0.0.5", ""], ["10.0.0.2", "fd00::2"], ["", "fd00::9"]] {
        let error = add(store, &request("c1", HERE, &requested), &dual()).unwrap_err();
        let expected = "failed to allocate for range 0: 10.0.0.2 has been allocated to c1 eth0, duplicate allocation is not allowed";
        assert_eq!(error.msg, expected);
        assert!(error.details.contains(HERE) && error.details.contains("reserved since 20"), "{error}");
        assert_eq!(files(store), before);
    }
    // Another namespace, while the recorded one is still there.
    let error = add(store, &request("c1", GONE, &["", ""]), &dual()).unwrap_err();
    assert!(error.details.contains("kept, because its namespace is still there"), "{error}");
    assert_eq!(files(store), before);
}

#[test]
fn the_references_reservation_without_a_record_is_a_duplicate() {
    let Scratch { store, .. } = &scratch();
    drop(store.lock().unwrap());
    for content in ["c1\r\neth0", "c1"] {
        // Written in place it would not move the folder's time.
        let _ = fs::remove_file(store.folder().join("fd00::7"));
        fs::write(store.folder().join("fd00::7"), content).unwrap();
        let error = add(store, &request("c1", GONE, &["", ""]), &dual()).unwrap_err();
        assert!(error.msg.starts_with("failed to allocate for range 1: fd00::7 has been allocated"), "{error}");
        assert_eq!(files(store), [("fd00::7".to_owned(), content.to_owned())]);
    }
    // Outside of the sets it is no duplicate.
    fs::rename(store.folder().join("fd00::7"), store.folder().join("fd01::7")).unwrap();
    assert!(add(store, &request("c1", GONE, &["", ""]), &dual()).is_ok());
}

#[test]
fn a_restart_gets_its_addresses_back() {
    let Scratch { store, .. } = &scratch();
    let first = add(store, &request("c1", GONE, &["", ""]), &dual()).unwrap();
    add(store, &request("c2", HERE, &["", ""]), &dual()).unwrap();
    assert_eq!(add(store, &request("c1", HERE, &["", ""]), &dual()).unwrap(), first);
    let error = add(store, &request("c1", HERE, &["", ""]), &dual()).unwrap_err();
    assert!(error.details.contains("the one of this ADD"), "{error}");
}

#[test]
fn a_restart_that_asks_for_another_address_frees_the_old_one() {
    let Scratch { store, .. } = &scratch();
    add(store, &request("c1", GONE, &["", ""]), &dual()).unwrap();
    let again = request("c1", HERE, &["10.0.0.5", "fd00::2"]);
    assert_eq!(add(store, &again, &dual()).unwrap(), ips(&["10.0.0.5", "fd00::2"]));
    let names: Vec<String> = files(store).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["10.0.0.5", "fd00::2"]);
}

#[test]
fn a_restart_that_fails_leaves_the_former_life_as_it_was() {
    let Scratch { store, .. } = &scratch();
    add(store, &request("c1", GONE, &["", ""]), &dual()).unwrap();
    let record = || store.lock().unwrap().record(&request("c1", "", &[]).attachment.identity_hex()).unwrap();
    let (files_before, record_before) = (files(store), record());
    let again = request("c1", HERE, &["10.0.0.5", ""]);
    let mut transaction = Transaction::begin(store, &again).unwrap();
    transaction.allocate(&dual()).unwrap();
    transaction.unlock();
    assert_ne!(record(), record_before);
    // The result could not be printed.
    drop(transaction);
    assert_eq!((files(store), record()), (files_before, record_before));
}

#[test]
fn our_stale_record_does_not_speak_for_the_references_reservation() {
    let Scratch { store, .. } = &scratch();
    add(store, &request("c1", GONE, &["", ""]), &dual()).unwrap();
    let path = store.folder().join("10.0.0.2");
    fs::remove_file(&path).unwrap();
    fs::write(&path, "c1\r\neth0").unwrap();
    let error = add(store, &request("c1", HERE, &["", ""]), &dual()).unwrap_err();
    assert!(error.details.contains("no record"), "{error}");
}

#[test]
fn a_requested_address_in_use_names_its_holder() {
    let Scratch { store, .. } = &scratch();
    add(store, &request("c1", HERE, &["", ""]), &dual()).unwrap();
    let error = add(store, &request("c2", GONE, &["", "fd00::2"]), &dual()).unwrap_err();
    assert_eq!(
        error.msg,
        "failed to allocate for range 1: requested IP address fd00::2 is not available in range set \
         fd00::1-fd00::ffff:ffff:ffff:ffff"
    );
    assert!(error.details.contains("held by c1 eth0 since 20") && error.details.contains(HERE), "{error}");
    assert!(error.details.ends_with("kept, because its namespace is still there"), "{error}");
    let held: Vec<String> = files(store).into_iter().map(|(_, owner)| owner).collect();
    assert_eq!(held, ["c1\r\neth0", "c1\r\neth0"], "the first set's address was given back");
}

#[test]
fn a_full_pool_says_so_after_taking_over_what_is_torn() {
    let Scratch { store, .. } = &scratch();
    let [four, six] = dual();
    let sets = [four, six];
    drop(store.lock().unwrap());
    fs::write(store.folder().join("10.0.0.4"), "").unwrap();
    let given: Vec<IpAddr> =
        (0..5).map(|n| add(store, &request(&format!("c{n}"), HERE, &["", ""]), &sets).unwrap()[0]).collect();
    assert_eq!(given, ips(&["10.0.0.2", "10.0.0.3", "10.0.0.5", "10.0.0.6", "10.0.0.4"]));
    let error = add(store, &request("c5", HERE, &["", ""]), &sets).unwrap_err();
    assert_eq!(error.msg, "failed to allocate for range 0: no IP addresses available in range set: 10.0.0.1-10.0.0.6");
    assert!(error.details.contains("all of its 5 addresses are taken, by 5 reservations in"), "{error}");
    assert!(error.details.contains(": 5 have a record of ours,"), "{error}");
    assert!(error.details.contains("; 0 are certainly gone,"), "{error}");
    assert_eq!(files(store).len(), 10);
}

#[test]
fn what_cannot_be_printed_is_undone_also_by_a_panic() {
    let Scratch { store, .. } = &scratch();
    add(store, &request("c0", HERE, &["", ""]), &dual()).unwrap();
    let before = files(store);
    for panics in [false, true] {
        let request = request("c1", HERE, &["", ""]);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut transaction = Transaction::begin(store, &request).unwrap();
            transaction.allocate(&dual()).unwrap();
            if panics {
                panic!("on the way");
            }
            transaction.unlock();
        }));
        assert_eq!(result.is_err(), panics);
        assert_eq!(files(store), before);
        assert_eq!(store.lock().unwrap().records().len(), 1);
    }
}

/// Lets an ADD die at each of its points, on a store of its own each time, and looks at what it has left.
fn dying_anywhere(prepare: impl Fn(&Store), request: &Request, sets: &[RangeSet], look: impl Fn(&Store)) {
    for n in 0.. {
        let Scratch { store, .. } = &scratch();
        prepare(store);
        let at = stop::at(n, || add(store, request, sets).map(drop));
        let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| look(store)));
        assert!(looked.is_ok(), "after {at:?}");
        if at.is_err() {
            assert!(n > 5, "only {n} points");
            return;
        }
    }
}

/// One address in each set.
fn narrow() -> [RangeSet; 2] {
    [set(&[text("10.0.0.0/29", "10.0.0.2", "10.0.0.2", "")]), set(&[text("fd00::/64", "fd00::2", "fd00::2", "")])]
}

#[test]
fn dying_anywhere_in_an_add_leaves_a_store_that_a_del_cleans() {
    let request = request("c1", GONE, &["", ""]);
    dying_anywhere(
        |_| (),
        &request,
        &dual(),
        |store| {
            assert!(files(store).iter().all(|(_, owner)| owner == "c1\r\neth0"));
            del(store, "c1");
            assert_eq!(files(store), []);
            add(store, &request, &dual()).unwrap();
        },
    );
}

#[test]
fn dying_anywhere_in_an_add_keeps_no_address_from_the_next() {
    dying_anywhere(
        |_| (),
        &request("c1", GONE, &["", ""]),
        &narrow(),
        |store| {
            assert_eq!(add(store, &request("c2", HERE, &["", ""]), &narrow()).unwrap(), ips(&["10.0.0.2", "fd00::2"]));
            assert!(files(store).iter().all(|(_, owner)| owner == "c2\r\neth0"));
            let locked = store.lock().unwrap();
            let speaking = |identity: &String| locked.speaks_for_any(identity);
            let speaking: Vec<String> = locked.records().into_iter().filter(speaking).collect();
            assert_eq!(speaking, [request("c2", "", &[]).attachment.identity_hex()]);
        },
    );
}

#[test]
fn dying_anywhere_in_an_add_does_not_refuse_it_when_it_is_tried_again() {
    dying_anywhere(
        |_| (),
        &request("c1", GONE, &["", ""]),
        &dual(),
        |store| {
            let again = add(store, &request("c1", HERE, &["", ""]), &dual()).unwrap();
            assert_eq!(files(store).len(), again.len());
            del(store, "c1");
            assert_eq!(files(store), []);
        },
    );
}

#[test]
fn dying_anywhere_in_a_restart_leaves_nothing_unrecorded() {
    let former = |store: &Store| _ = add(store, &request("c1", GONE, &["", ""]), &dual()).unwrap();
    // One address is another, one stays.
    let again = request("c1", "/nonexistent/netns/too", &["10.0.0.5", ""]);
    dying_anywhere(former, &again, &dual(), |store| {
        let locked = store.lock().unwrap();
        let record = locked.record(&again.attachment.identity_hex()).unwrap();
        let held = locked.find(&Owner::new("c1", "eth0")).unwrap();
        assert!(held.len() >= 2 && held.iter().all(|held| record.counts_for(held.ip, held.stamp)), "{record:?}");
        drop(locked);
        add(store, &request("c1", HERE, &["10.0.0.6", ""]), &dual()).unwrap();
    });
}

#[derive(Debug, Clone)]
enum Step {
    Add(u8, Option<u8>),
    Del(u8),
    ForeignAdd(u8),
    ForeignDel(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0u8..12, prop::option::weighted(0.1, 0u8..16)).prop_map(|(id, ip)| Step::Add(id, ip)),
        3 => (0u8..12).prop_map(Step::Del),
        1 => (0u8..16).prop_map(Step::ForeignAdd),
        1 => (0u8..16).prop_map(Step::ForeignDel),
    ];
    prop::collection::vec(step, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// The real store beside a map, and the reference's walk restated.
    #[test]
    fn allocation_is_the_models(set in any_set(), steps in steps()) {
        let Scratch { store, .. } = &scratch();
        drop(store.lock().unwrap());
        let sets = [set.clone()];
        let nth = |n: u8| {
            let range = &set.ranges()[usize::from(n) % set.ranges().len()];
            address(number(range.subnet.addr()) + u128::from(n), set.is_ipv4())
        };
        let mut model: BTreeMap<IpAddr, String> = BTreeMap::new();
        let mut cursor = None;
        for step in steps {
            match step {
                Step::Add(id, wanted) => {
                    let id = format!("c{id}");
                    let content = format!("{id}\r\neth0");
                    // As the plan assigns: only what the set has and is no gateway.
                    let wanted = wanted.map(nth).filter(|ip| set.range_of(*ip).is_some_and(|r| r.gateway != *ip));
                    let has = model.iter().any(|(ip, owner)| *owner == content && set.contains(*ip));
                    let mut request = request(&id, HERE, &[""]);
                    request.requested = vec![wanted];
                    let got = add(store, &request, &sets);
                    if has {
                        prop_assert!(got.unwrap_err().msg.contains("duplicate allocation is not allowed"));
                        continue;
                    }
                    let candidates = wanted.map_or_else(|| walk(&set, cursor), |ip| vec![ip]);
                    match candidates.into_iter().find(|ip| !model.contains_key(ip)) {
                        Some(ip) => {
                            prop_assert_eq!(got.unwrap(), vec![ip]);
                            model.insert(ip, content);
                            cursor = Some(ip);
                        }
                        None => prop_assert!(got.unwrap_err().msg.contains("available in range set")),
                    }
                }
                Step::Del(id) => {
                    del(store, &format!("c{id}"));
                    model.retain(|_, owner| *owner != format!("c{id}\r\neth0"));
                }
                Step::ForeignAdd(n) => {
                    let ip = nth(n);
                    model.entry(ip).or_insert_with(|| {
                        let content = format!("f{n}\r\neth0");
                        fs::write(store.folder().join(ip.to_string()), &content).unwrap();
                        content
                    });
                }
                Step::ForeignDel(n) => {
                    if model.remove(&nth(n)).is_some() {
                        fs::remove_file(store.folder().join(nth(n).to_string())).unwrap();
                    }
                }
            }
            let mut expected: Vec<(String, String)> = model.iter().map(|(ip, o)| (ip.to_string(), o.clone())).collect();
            expected.sort();
            prop_assert_eq!(files(store), expected);
        }
    }

    /// Nothing in the way: every address comes up once, in the order of the walk, before the pool is full.
    #[test]
    fn every_address_of_a_small_pool_is_given_once(set in any_set()) {
        let Scratch { store, .. } = &scratch();
        let walk = walk(&set, None);
        let sets = [set];
        for (n, ip) in walk.iter().enumerate() {
            prop_assert_eq!(add(store, &request(&format!("c{n}"), HERE, &[""]), &sets).unwrap(), vec![*ip]);
        }
        let error = add(store, &request("last", HERE, &[""]), &sets).unwrap_err();
        prop_assert!(error.msg.contains("no IP addresses available in range set: "));
    }
}
