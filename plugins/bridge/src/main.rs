//! The `bridge` plugin: a veth pair into the pod's network namespace, its host end on a Linux bridge.

mod add;
mod bridge;
mod check;
mod config;
mod del;
mod dns;
mod gateway;
mod gateway_port;
mod gc;
mod iptables;
mod lock;
mod masquerade;
mod orphans;
mod pod;
mod port;
mod reference;
mod rules;
mod spoof;
mod status;
mod veth;
mod vlan;
mod wait;

use std::process::ExitCode;

use cni::{Call, Error};

struct Bridge;

impl cni::Plugin for Bridge {
    const NAME: &'static str = "bridge";

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
    plugin::main(Bridge)
}
