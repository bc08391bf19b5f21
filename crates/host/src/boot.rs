//! Which run of the machine this is.

use std::fs;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};

/// The kernel's id of this boot (`/proc/sys/kernel/random/boot_id`), if it can be read; it is read once.
#[must_use]
pub fn id() -> Option<String> {
    static ID: OnceLock<Option<String>> = OnceLock::new();
    let read = || {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(id.trim().to_owned()).filter(|id| !id.is_empty())
    };
    ID.get_or_init(read).clone()
}

/// When this boot began, by the present clock, if it can be known.
///
/// By CLOCK_BOOTTIME: what containers see in `/proc/uptime` is often their own age (LXCFS).
#[must_use]
pub fn time() -> Option<SystemTime> {
    let uptime = clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?;
    SystemTime::now().checked_sub(Duration::from(uptime))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_boot_began_before_now() {
        assert_eq!(id().unwrap().len(), 36);
        assert!(time().unwrap() < SystemTime::now());
    }
}
