//! The `firewall` plugin: lets a pod's traffic pass the host, and decides which pods may send to each other.

mod add;
mod bridge;
mod check;
mod config;
mod dbus;
mod del;
mod firewalld;
mod forgotten;
mod forward;
mod gc;
mod ingress;
mod iptables;
mod lock;
mod orphans;
mod pods;
mod remove;
mod status;

use std::process::ExitCode;

use cni::{Call, Error};

struct Firewall;

impl cni::Plugin for Firewall {
    const NAME: &'static str = "firewall";

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
    plugin::main(Firewall)
}
