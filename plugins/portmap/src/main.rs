//! The `portmap` plugin: ports of the host that lead to ports of a pod.

mod add;
mod check;
mod condition;
mod config;
mod del;
mod flows;
mod gc;
mod guard;
mod hairpin;
mod holders;
mod iptables;
mod listeners;
mod localnet;
mod native;
mod orphans;
mod pod;
mod reference;
mod status;

use std::process::ExitCode;

use cni::{Call, Error};

struct Portmap;

impl cni::Plugin for Portmap {
    const NAME: &'static str = "portmap";

    fn add(&self, call: &Call) -> Result<(), Error> {
        add::add(call)?;
        orphans::sweep();
        Ok(())
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
    plugin::main(Portmap)
}
