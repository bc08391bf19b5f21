//! The `bandwidth` plugin: limits what a pod receives and sends, on the host's end of its veth pair.

mod add;
mod check;
mod config;
mod del;
mod gc;
mod host_end;
mod ifb;
mod shaping;
mod status;
mod sweep;

use std::process::ExitCode;

use cni::{Call, Error};

struct Bandwidth;

impl cni::Plugin for Bandwidth {
    const NAME: &'static str = "bandwidth";

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
    plugin::main(Bandwidth)
}
