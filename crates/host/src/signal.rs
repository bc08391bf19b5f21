//! Being asked to stop: SIGTERM and SIGINT do not end the process, they are looked at between two steps.
//!
//! The handlers only set a flag. They are gone in a started program (`execve` resets handlers but would keep a
//! blocked mask), so a delegate can still be ended by the same signals.

use std::sync::atomic::{AtomicI32, Ordering};

use nix::libc;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::unistd::getppid;

static RECEIVED: AtomicI32 = AtomicI32::new(0);

/// From now on SIGTERM, SIGINT and SIGHUP are only remembered. System calls they interrupt are not restarted, so that
/// a wait ends and its caller looks. A caller that ignores SIGCHLD would have us do so, too: nobody could wait for a
/// delegate then.
pub fn install() {
    let action = SigAction::new(SigHandler::Handler(remember), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        // SAFETY: the handler does nothing but store to an atomic, which is async-signal-safe.
        let _ = unsafe { sigaction(signal, &action) };
    }
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: no handler is installed.
    let _ = unsafe { sigaction(Signal::SIGCHLD, &default) };
}

/// From now on the end of `parent` asks to stop as well, as SIGTERM. Nothing, if another process has started this one. The
/// kernel looks at the thread that has: it must not end before its process does.
pub fn heed_end_of(parent: u32) {
    let is_there = || u32::try_from(getppid().as_raw()) == Ok(parent);
    // What has ended before this is noticed when nobody reads the answer.
    if is_there() && set_pdeathsig(Signal::SIGTERM).is_ok() && !is_there() {
        remember(Signal::SIGTERM as libc::c_int);
    }
}

/// The signal that asks to stop, if one came.
#[must_use]
pub fn pending() -> Option<&'static str> {
    match RECEIVED.load(Ordering::Relaxed) {
        0 => None,
        number => Signal::try_from(number).ok().map(Signal::as_str),
    }
}

extern "C" fn remember(number: libc::c_int) {
    RECEIVED.store(number, Ordering::Relaxed);
}
