//! host-local's store, in which anybody may have left anything.

use std::ffi::OsStr;
use std::fs;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use tempfile::TempDir;

/// The store, as the plugin has it: a binary cannot be linked to.
#[path = "../../../ipam/host-local/src/store/mod.rs"]
#[allow(dead_code, reason = "the plugin has more use for it")]
mod store;

use store::index::{Index, Key};
use store::record::Record;
use store::reservation::{Content, Owner};
use store::{Held, Store};

const NETWORK: &str = "net";
const IDENTITY: &str = "0123456789abcdef0123456789abcdef";
const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

/// A file of the store: the first byte says which, the rest is what is in it (or how it is called).
pub fn store(input: &[u8]) {
    let Some((kind, content)) = input.split_first() else { return };
    let root = folder();
    let (folder, own) = (root.path().join(NETWORK), root.path().join(".oxbridge").join(NETWORK));
    fs::create_dir_all(&folder).unwrap();
    fs::create_dir_all(&own).unwrap();
    match kind % 4 {
        0 => fs::write(folder.join(ADDRESS.to_string()), content).unwrap(),
        1 => fs::write(own.join(IDENTITY), content).unwrap(),
        2 => fs::write(folder.join("last_reserved_ip.0"), content).unwrap(),
        _ => {
            let name = OsStr::from_bytes(content);
            if content.is_empty() || content.contains(&b'/') || fs::write(folder.join(name), "c1\r\neth0").is_err() {
                return;
            }
        }
    }
    whole(&Store::new(root.path(), NETWORK).unwrap(), &own);
}

/// Everything that a call reads, and a reservation that comes and goes.
fn whole(store: &Store, own: &Path) {
    let mut locked = store.lock().unwrap();
    let _ = locked.cursor(0);
    for ip in locked.occupied().unwrap() {
        let Some(found) = locked.read(ip).unwrap() else { panic!("{ip} is listed and not there") };
        let owner = match found.content {
            Content::Owner(owner) => Some(owner),
            Content::Torn => None,
            Content::Foreign(_) | Content::Unreadable(_) => continue,
        };
        let held = Held { ip, stamp: found.stamp };
        if let Some(owner) = &owner {
            assert_eq!(locked.find(owner).unwrap(), [held], "{owner}");
        }
        locked.release(owner.as_ref(), held).unwrap();
        assert_eq!(locked.read(ip).unwrap(), None);
    }
    assert!(locked.records().len() <= 1);
    if let Some(record) = locked.record(IDENTITY) {
        recorded(&record, own);
    }
    let owner = Owner::new("c2", "eth0");
    let draft = locked.draft(&owner).unwrap();
    // Whatever no plugin has made stays, and is nobody's to give.
    let held = locked.reserve(&draft, ADDRESS).unwrap();
    assert_eq!(locked.find(&owner).unwrap(), held.as_slice());
    assert_eq!(held.is_none(), locked.read(ADDRESS).unwrap().is_some_and(|r| matches!(r.content, Content::Foreign(_))));
}

/// A record that was understood is written as one that says the same.
fn recorded(record: &Record, own: &Path) {
    let _ = record.trace();
    for address in &record.addresses {
        assert!(record.counts_for(address.ip, address.stamp));
    }
    record.write(&own.join("copy"), &own.join("new")).unwrap();
    assert_eq!(Record::read(&own.join("copy")).as_ref(), Some(record));
}

/// The index, with all that may be asked of it.
pub fn index(input: &[u8]) {
    let root = folder();
    let path = root.path().join("index");
    fs::write(&path, input).unwrap();
    let Some(mut index) = Index::open(&path) else { return };
    let _ = index.is_fresh((1, 2), Some([7; 16]));
    let entries = index.entries().unwrap();
    assert!(entries.len() <= input.len() / 32);
    let key = Key::of(&Owner::new("c1", "eth0"));
    if index.insert(key, ADDRESS).is_ok() {
        let found = index.find(key).unwrap();
        assert!(found.contains(&ADDRESS));
        index.remove(key, ADDRESS).unwrap();
        assert_eq!(index.find(key).unwrap().len(), found.len() - 1);
    }
    index.set_stamp(Some((1, 2))).unwrap();
    assert!(index.is_crowded(u32::MAX));
}

/// A folder in memory, if there is one.
fn folder() -> TempDir {
    let shared = Path::new("/dev/shm");
    if shared.is_dir() { TempDir::new_in(shared) } else { TempDir::new() }.unwrap()
}
