//! One call at a time changes iptables' rules or firewalld's sources in a network namespace.
//!
//! Neither has transactions that would notice what came in between a look and a change: without the lock sixteen calls
//! at once would put sixteen jumps into FORWARD. Our own tables need none.

use std::time::{Duration, Instant};

use cni::Error;
use host::lock::Lock;

/// How long a call may take for all that it waits for.
const PATIENCE: Duration = Duration::from_secs(10);
/// What of this the programs of a call have at least, and so what is not spent on waiting for the lock.
const SHARE: Duration = Duration::from_secs(2);
/// What they have at most: less than others wait for the lock, so that these outlive a program that hangs.
const PROGRAMS: Duration = Duration::from_secs(6);

/// A call's turn; the next one's begins when it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    _lock: Lock,
    /// When its programs have to have ended.
    deadline: Instant,
}

impl Turn {
    /// Waits for it. Errors: code 11, naming whose it is.
    pub(crate) fn wait() -> Result<Self, Error> {
        let start = Instant::now();
        let lock = Lock::in_namespace("firewall", PATIENCE - SHARE).map_err(|e| {
            Error::new(
                cni::code::TRY_AGAIN,
                format!("waiting for another plugin call to finish with the firewall: {e}"),
            )
        })?;
        Ok(Self { _lock: lock, deadline: (start + PATIENCE).min(Instant::now() + PROGRAMS) })
    }

    /// Takes it if it is free within a moment.
    pub(crate) fn if_free() -> Option<Self> {
        let lock = Lock::in_namespace("firewall", Duration::ZERO).ok()?;
        Some(Self { _lock: lock, deadline: Instant::now() + PROGRAMS })
    }

    /// How long a program may take; enough for one that does not hang, so that what was begun can be taken back.
    pub(crate) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now()).max(SHARE)
    }
}
