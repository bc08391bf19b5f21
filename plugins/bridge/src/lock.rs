//! One call at a time makes or changes bridges of a network namespace; many may put ports on bridges that are as they
//! should be.
//!
//! Held from the look at the bridge until the pod's port is on it: whoever holds it alone and sees a bridge without ports
//! knows that nobody is about to use it.

use std::time::Duration;

use cni::Error;
use host::lock::{self, Lock};

/// How long other calls may take with their bridges.
const PATIENCE: Duration = Duration::from_secs(10);
const NAME: &str = "bridges";

/// Waits for the lock, to make or change a bridge. Errors: code 11, naming who holds it.
pub(crate) fn bridges() -> Result<Lock, Error> {
    Lock::alone_in_namespace(NAME, PATIENCE).map_err(|e| held(&e))
}

/// Waits until nobody makes or changes a bridge, beside others who wait for the same.
pub(crate) fn beside_others() -> Result<Lock, Error> {
    Lock::beside_others_in_namespace(NAME, PATIENCE).map_err(|e| held(&e))
}

fn held(error: &lock::Error) -> Error {
    Error::new(cni::code::TRY_AGAIN, format!("waiting for another plugin call to finish with its bridge: {error}"))
}
