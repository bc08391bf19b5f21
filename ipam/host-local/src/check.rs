//! CHECK: the attachment still has the addresses that its ADD gave it.

use std::net::IpAddr;

use cni::{Call, Error};

use crate::config::Plan;
use crate::store::Store;
use crate::store::reservation::Owner;

pub(crate) fn check(call: &Call) -> Result<(), Error> {
    let plan = Plan::new(call)?;
    let store = Store::new(&plan.data_dir, &call.network).map_err(crate::failed)?;
    let expected: Vec<IpAddr> = call.prev_result()?.map_or_else(Vec::new, |result| {
        let ips = result.ips.iter().map(|ip| ip.address.addr());
        ips.filter(|ip| plan.sets.iter().any(|set| set.contains(*ip))).collect()
    });
    compare(&store, &Owner::new(&call.env.container_id, &call.env.ifname), &expected)
}

/// `expected`: the addresses of prevResult that are host-local's to give; empty where there is no prevResult.
fn compare(store: &Store, owner: &Owner, expected: &[IpAddr]) -> Result<(), Error> {
    let mut held = Vec::new();
    if let Some(locked) = store.lock_existing().map_err(crate::failed)? {
        held = locked.find(owner).map_err(crate::failed)?;
        if held.is_empty() {
            held = locked.find(&owner.old_format()).map_err(crate::failed)?;
        }
    }
    let found: Vec<IpAddr> = held.into_iter().map(|held| held.ip).collect();
    let folder = store.folder().display();
    if found.is_empty() {
        let text = format!("host-local: Failed to find address added by container {}", owner.container_id);
        let expected = if expected.is_empty() { "some address".to_owned() } else { listed(expected) };
        return Err(
            Error::internal(text).with_details(format!("{folder}: expected {expected}, found none for {owner}"))
        );
    }
    let missing: Vec<IpAddr> = expected.iter().filter(|ip| !found.contains(ip)).copied().collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::internal(format!("host-local: {} is not reserved by {owner}", listed(&missing))).with_details(format!(
        "{folder}: expected {}, found {}",
        listed(expected),
        listed(&found)
    )))
}

fn listed(ips: &[IpAddr]) -> String {
    ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn addresses_are_compared() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path(), "n").unwrap();
        let owner = Owner::new("c1", "eth0");
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let check = |expected: &[IpAddr]| compare(&store, &owner, expected).map_err(|e| e.to_string());
        let error = check(&[ip("10.0.0.2")]).unwrap_err();
        assert!(error.contains("container c1") && error.contains("expected 10.0.0.2, found none"), "{error}");
        assert!(!store.folder().exists(), "CHECK makes no folder");

        drop(store.lock().unwrap());
        fs::write(store.folder().join("10.0.0.3"), "c1\r\neth0").unwrap();
        assert_eq!(check(&[]), Ok(()));
        assert_eq!(check(&[ip("10.0.0.3")]), Ok(()));
        let error = check(&[ip("10.0.0.3"), ip("fd00::2")]).unwrap_err();
        assert!(error.contains("fd00::2 is not reserved by c1 eth0"), "{error}");
        assert!(error.contains("expected 10.0.0.3, fd00::2, found 10.0.0.3"), "{error}");
        fs::write(store.folder().join("10.0.0.3"), "c2\r\neth0").unwrap();
        assert!(check(&[ip("10.0.0.3")]).is_err());
    }
}
