//! The `flannel` plugin: hands a pod over to another plugin, with the subnet that flanneld leased for this node.

mod add;
mod check;
mod config;
mod del;
mod gc;
mod plan;
mod scratch;
mod status;
mod subnet;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

use cni::{Call, Error};

struct Flannel;

impl cni::Plugin for Flannel {
    const NAME: &'static str = "flannel";

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
    plugin::main(Flannel)
}
