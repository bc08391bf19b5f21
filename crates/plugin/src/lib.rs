//! What is the same in every plugin, between the protocol and the host it runs on.

pub mod gc;
pub mod host_end;
pub mod liveness;
pub mod orphans;

use std::process::ExitCode;

use cni::{Call, Error, Plugin, Version, code};
use host::memory::WithReserve;
use netlink::{Protocol, Socket};

#[global_allocator]
static MEMORY: WithReserve = WithReserve::new();

/// Runs one call: the whole of a plugin's `main`. Signals are looked at by [`step`] from now on, and ADD begins only
/// when its result can be told.
pub fn main<P: Plugin>(plugin: P) -> ExitCode {
    host::signal::install();
    // Only our own calls are known to be made by a process without threads.
    if let Some(caller) = cni::delegate::caller() {
        host::signal::heed_end_of(caller);
    }
    cni::main(OnHost(plugin))
}

/// A plugin on a host, where stdout may be closed.
struct OnHost<P>(P);

impl<P: Plugin> Plugin for OnHost<P> {
    const NAME: &'static str = P::NAME;
    const VERSIONS: &'static [Version] = P::VERSIONS;

    fn add(&self, call: &Call) -> Result<(), Error> {
        if host::stdio::stdout_was_closed() {
            return Err(Error::new(code::IO_FAILURE, host::stdio::NO_STDOUT));
        }
        self.0.add(call)
    }

    fn del(&self, call: &Call) -> Result<(), Error> {
        self.0.del(call)
    }

    fn check(&self, call: &Call) -> Result<(), Error> {
        self.0.check(call)
    }

    fn gc(&self, call: &Call) -> Result<(), Error> {
        self.0.gc(call)
    }

    fn status(&self, call: &Call) -> Result<(), Error> {
        self.0.status(call)
    }
}

/// Between two steps of a transaction.
///
/// # Errors
/// Code 11 once a signal asked to end; the caller's undo takes back what it has done.
pub fn step() -> Result<(), Error> {
    match host::signal::pending() {
        None => Ok(()),
        Some(signal) => {
            Err(Error::new(code::TRY_AGAIN, format!("interrupted by {signal}; what this call had done is undone")))
        }
    }
}

/// A netlink socket in the calling thread's namespace.
///
/// # Errors
/// Why there is none.
pub fn open(protocol: Protocol) -> Result<Socket, Error> {
    Socket::open(protocol).map_err(|e| Error::internal(format!("failed to open a netlink socket: {e}")))
}

/// The error of something that ADD would need, as STATUS tells it: code 50.
#[must_use]
pub fn unavailable(error: Error) -> Error {
    Error { code: code::NOT_AVAILABLE, ..error }
}
