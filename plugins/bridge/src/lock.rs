//! One call at a time makes or changes bridges of a network namespace.
//!
//! Held from the look at the bridge until the pod's port is on it: whoever holds it and sees a bridge without ports
//! knows that nobody is about to use it.

use std::time::Duration;

use cni::Error;
use host::lock::Lock;

/// How long other calls may take with their bridges.
const PATIENCE: Duration = Duration::from_secs(10);

/// Waits for the lock. Errors: code 11, naming who holds it.
pub(crate) fn bridges() -> Result<Lock, Error> {
    Lock::in_namespace("bridges", PATIENCE).map_err(|e| {
        Error::new(cni::code::TRY_AGAIN, format!("waiting for another plugin call to finish with its bridge: {e}"))
    })
}
