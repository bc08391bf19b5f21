//! Waiting for the kernel: asked first, then told, never longer than a deadline, and not past a signal.

use std::time::{Duration, Instant};

use cni::Error;
use netlink::monitor::Monitor;

/// Asks `ready` until it answers; `None` if it has not by the end of `patience`.
///
/// Mostly it has happened by now: a monitor is opened only if it is needed, and `ready` asked again after that, so that
/// no change falls in between. `failed` makes the error of a failure to listen.
pub(crate) fn until<T>(
    patience: Duration,
    open: impl FnOnce() -> Result<Monitor, Error>,
    failed: impl Fn(netlink::Error) -> Error,
    mut ready: impl FnMut() -> Result<Option<T>, Error>,
) -> Result<Option<T>, Error> {
    let mut ask = || plugin::step().and_then(|()| ready());
    if let Some(answer) = ask()? {
        return Ok(Some(answer));
    }
    open()?.wait(Instant::now() + patience, failed, ask)
}
