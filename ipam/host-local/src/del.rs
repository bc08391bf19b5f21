//! DEL: frees everything that the attachment has, also outside the ranges that the config has by now.
//!
//! Nothing of the config is needed but where the store is, and nothing is made where there is no store.

use cni::{Call, Error};

use crate::config;
use crate::store::reservation::Owner;
use crate::store::{self, Locked, Store};

pub(crate) fn del(call: &Call) -> Result<(), Error> {
    let Ok(store) = Store::new(&config::store_root(call), &call.network) else {
        // Under such a name nothing can have been reserved.
        return Ok(());
    };
    let attachment = call.attachment();
    let identity = attachment.identity_hex();
    match store.lock_existing().map_err(crate::failed)? {
        None => store.forget_without_folder(&identity).map_err(crate::failed),
        Some(mut locked) => {
            locked.tidy();
            let owner = Owner::new(&attachment.container_id, &attachment.ifname);
            release(&mut locked, &owner, &identity).map_err(crate::failed)
        }
    }
}

/// Goes on past errors; returns the first.
fn release(locked: &mut Locked<'_>, owner: &Owner, identity: &str) -> Result<(), store::Error> {
    let mut owner = owner.clone();
    let mut held = locked.find(&owner)?;
    if held.is_empty() {
        owner = owner.old_format();
        held = locked.find(&owner)?;
    }
    let mut result = Ok(());
    for held in held {
        result = result.and(locked.release(Some(&owner), held));
    }
    result.and(locked.remove_record(identity))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn an_exact_reservation_before_one_of_the_old_format() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path(), "n").unwrap();
        drop(store.lock().unwrap());
        let file = |ip: &str, text: &str| fs::write(store.folder().join(ip), text).unwrap();
        let left = || {
            let names = fs::read_dir(store.folder()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<String> = names.filter(|name| name.starts_with("10.")).collect();
            names.sort();
            names.join(" ")
        };
        file("10.0.0.2", "c1\r\neth0");
        file("10.9.0.2", "c1\r\neth0\n");
        file("10.0.0.3", "c1");
        file("10.0.0.4", "c1\r\neth1");
        file("10.0.0.5", "");
        let owner = Owner::new("c1", "eth0");
        release(&mut store.lock().unwrap(), &owner, "0").unwrap();
        assert_eq!(left(), "10.0.0.3 10.0.0.4 10.0.0.5");
        release(&mut store.lock().unwrap(), &owner, "0").unwrap();
        assert_eq!(left(), "10.0.0.4 10.0.0.5");
        release(&mut store.lock().unwrap(), &owner, "0").unwrap();
        assert_eq!(left(), "10.0.0.4 10.0.0.5");
    }

    #[test]
    fn a_store_that_is_not_there_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(&dir.path().join("root"), "n").unwrap();
        assert!(store.lock_existing().unwrap().is_none());
        store.forget_without_folder("0").unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
