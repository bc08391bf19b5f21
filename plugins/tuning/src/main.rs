//! The `tuning` plugin: sysctls of the pod's network namespace and attributes of its interface.

mod add;
mod allowlist;
mod attributes;
mod backup;
mod check;
mod config;
mod del;
mod gc;
mod mac;
mod pod;
mod spoof;
mod status;
mod sweep;
mod sysctl;

use std::process::ExitCode;

use cni::{Call, Error};

struct Tuning;

impl cni::Plugin for Tuning {
    const NAME: &'static str = "tuning";

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
    plugin::main(Tuning)
}
