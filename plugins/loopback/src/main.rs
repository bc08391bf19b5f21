//! The `loopback` plugin: brings `lo` up in the pod's network namespace.

mod lo;

use std::process::ExitCode;

use cni::{Call, Error};

struct Loopback;

impl cni::Plugin for Loopback {
    const NAME: &'static str = "loopback";

    fn add(&self, call: &Call) -> Result<(), Error> {
        lo::add(call)
    }

    fn del(&self, call: &Call) -> Result<(), Error> {
        lo::del(call)
    }

    fn check(&self, call: &Call) -> Result<(), Error> {
        lo::check(call)
    }
}

fn main() -> ExitCode {
    plugin::main(Loopback)
}
