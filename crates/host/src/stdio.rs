//! What stdin, stdout and stderr were when the program began.
//!
//! Rust's runtime opens `/dev/null` in the place of a closed one before `main`, so that a result written to a closed
//! stdout seems to have arrived. Whoever must not lose what it prints asks here.

use std::sync::atomic::{AtomicBool, Ordering};

use nix::libc;

static STDOUT_CLOSED: AtomicBool = AtomicBool::new(false);

/// What a program says that has a result to tell, and nobody to tell it to.
pub const NO_STDOUT: &str = "stdout is closed: the result could not be told, so nothing is done";

/// Whether stdout was closed when the program began.
#[must_use]
pub fn stdout_was_closed() -> bool {
    STDOUT_CLOSED.load(Ordering::Relaxed)
}

/// The C library runs what stands in this section before the runtime of Rust begins.
// SAFETY: the section holds pointers to functions of this signature; this one needs nothing that is not there yet.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

extern "C" fn look() {
    // SAFETY: asks for the flags of a descriptor by number; a closed one answers EBADF.
    let flags = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) };
    STDOUT_CLOSED.store(flags == -1, Ordering::Relaxed);
}
