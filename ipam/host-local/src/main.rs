//! host-local: gives attachments addresses from ranges of this host, kept in files of this host.

#![forbid(unsafe_code)]

mod add;
mod allocator;
mod check;
mod config;
mod del;
mod gc;
mod range;
mod reclaim;
mod resolvconf;
mod status;
mod store;
mod time;
mod transaction;

use std::io;
use std::process::ExitCode;

use cni::{Call, Error, code};

struct HostLocal;

impl cni::Plugin for HostLocal {
    const NAME: &'static str = "host-local";

    fn add(&self, call: &Call) -> Result<(), Error> {
        add::add(call)
    }

    fn del(&self, call: &Call) -> Result<(), Error> {
        del::del(call)
    }

    fn check(&self, call: &Call) -> Result<(), Error> {
        check::check(call)
    }

    fn gc(&self, call: &Call) -> Result<(), Error> {
        gc::gc(call)
    }

    fn status(&self, call: &Call) -> Result<(), Error> {
        status::status(call)
    }
}

fn main() -> ExitCode {
    plugin::main(HostLocal)
}

/// The store's errors as the runtime gets them: a held lock can be tried again, and so can a call that had to end.
fn failed(error: store::Error) -> Error {
    use host::lock;
    let code = match &error {
        store::Error::Lock(lock::Error::Timeout { .. } | lock::Error::Interrupted { .. }) => code::TRY_AGAIN,
        store::Error::Name(_) => code::INVALID_CONFIG,
        _ => code::INTERNAL,
    };
    let advice = match &error {
        store::Error::Io { source, .. } | store::Error::Lock(lock::Error::Io { source, .. }) if is_refused(source) => {
            "make the folder writable for whoever runs the plugins, or set another ipam.dataDir"
        }
        _ => "",
    };
    Error::new(code, error.to_string()).with_details(advice)
}

/// Whether the file system, or who may write there, is the reason.
fn is_refused(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}
