//! GC: frees the reservations of attachments that the runtime no longer knows.

use std::collections::HashSet;

use cni::{Call, Error, ValidAttachment};

use crate::config;
use crate::store::reservation::{Content, Owner};
use crate::store::{self, Held, Locked, Store};

/// So many errors are told in full: a read-only store has one for each reservation.
const TOLD: usize = 10;

pub(crate) fn gc(call: &Call) -> Result<(), Error> {
    // No list is no statement; an empty one says that nothing is alive.
    let Some(valid) = call.valid_attachments()? else {
        return Ok(());
    };
    let Ok(store) = Store::new(&config::store_root(call), &call.network) else {
        // Under such a name nothing can have been reserved.
        return Ok(());
    };
    let Some(mut locked) = store.lock_existing().map_err(crate::failed)? else {
        return Ok(());
    };
    let errors = collect(&mut locked, &valid).map_err(crate::failed)?;
    match errors.as_slice() {
        [] => Ok(()),
        [first, ..] => {
            let some: Vec<String> = errors.iter().take(TOLD).map(ToString::to_string).collect();
            Err(Error::internal(format!("{} of this network's reservations were not freed: {first}", errors.len()))
                .with_details(some.join("; ")))
        }
    }
}

/// Frees all but the valid ones. Returns what could not be freed; an error where nothing could be tried.
fn collect(locked: &mut Locked<'_>, valid: &[ValidAttachment]) -> Result<Vec<store::Error>, store::Error> {
    let alive = Alive::new(valid);
    let mut errors = Vec::new();
    for ip in locked.occupied()? {
        let reservation = match locked.read(ip) {
            Ok(Some(reservation)) => reservation,
            Ok(None) => continue,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        let owner = match reservation.content {
            Content::Owner(owner) if alive.has(&owner) => continue,
            Content::Owner(owner) => Some(owner),
            // Nobody's, and nobody will ask for it.
            Content::Torn => None,
            Content::Foreign(_) => continue,
            Content::Unreadable(why) => {
                errors.push(locked.unreadable(ip, why));
                continue;
            }
        };
        let held = Held { ip, stamp: reservation.stamp };
        match locked.release(owner.as_ref(), held) {
            Ok(()) => {
                let whose =
                    owner.map_or_else(|| "nobody (its file was empty or cut off)".to_owned(), |o| o.to_string());
                host::syslog::warn("host-local", format_args!("GC freed {ip} of {whose}"));
            }
            Err(error) => errors.push(error),
        }
    }
    for identity in locked.records() {
        if !locked.speaks_for_any(&identity) {
            errors.extend(locked.remove_record(&identity).err());
        }
    }
    Ok(errors)
}

/// What the runtime knows: a lookup for each reservation, and there may be as many of either.
struct Alive<'a> {
    containers: HashSet<&'a str>,
    attachments: HashSet<(&'a str, &'a str)>,
}

impl<'a> Alive<'a> {
    fn new(valid: &'a [ValidAttachment]) -> Self {
        Self {
            containers: valid.iter().map(|a| a.container_id.as_str()).collect(),
            attachments: valid.iter().map(|a| (a.container_id.as_str(), a.ifname.as_str())).collect(),
        }
    }

    /// A reservation of the old format names only the container: it is valid with any interface of it.
    fn has(&self, owner: &Owner) -> bool {
        match owner.ifname.as_deref() {
            Some(ifname) => self.attachments.contains(&(owner.container_id.as_str(), ifname)),
            None => self.containers.contains(owner.container_id.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn exactly_the_unlisted_are_freed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path(), "n").unwrap();
        drop(store.lock().unwrap());
        let file = |ip: &str, text: &str| fs::write(store.folder().join(ip), text).unwrap();
        file("10.0.0.2", "c1\r\neth0");
        file("10.0.0.3", "c1\r\neth1");
        file("10.0.0.4", "c2");
        file("10.0.0.5", "c3");
        file("10.0.0.6", "");
        file("last_reserved_ip.0", "10.0.0.6");
        file("note", "c3");
        fs::create_dir(store.folder().join("10.0.0.7")).unwrap();
        fs::write(store.own_folder().join("0".repeat(32)), "{}").unwrap();
        let valid = |id: &str| ValidAttachment { container_id: id.to_owned(), ifname: "eth0".to_owned() };
        let errors = collect(&mut store.lock().unwrap(), &[valid("c1"), valid("c2")]).unwrap();
        assert!(errors.is_empty(), "{errors:?}");
        let mut names: Vec<_> = fs::read_dir(store.folder()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["10.0.0.2", "10.0.0.4", "10.0.0.7", "last_reserved_ip.0", "lock", "note"]);
        assert!(!store.own_folder().join("0".repeat(32)).exists());
    }
}
