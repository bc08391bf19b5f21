//! The `static` IPAM plugin: the addresses that the config, the runtime or `CNI_ARGS` name, and nothing else.
//!
//! It keeps no state, so that DEL and GC have nothing to do, and it knows nothing of who else has an address.

mod check;
mod config;

use std::process::ExitCode;

use cni::{Call, Error, code};

use crate::config::Plan;

struct Static;

impl cni::Plugin for Static {
    const NAME: &'static str = "static";

    fn add(&self, call: &Call) -> Result<(), Error> {
        call.reply(&Plan::new(call)?.into_result())
    }

    fn del(&self, _: &Call) -> Result<(), Error> {
        Ok(())
    }

    fn check(&self, call: &Call) -> Result<(), Error> {
        check::check(&Plan::new(call)?, call)
    }

    /// An ADD with this config would fail.
    fn status(&self, call: &Call) -> Result<(), Error> {
        Plan::new(call).map(drop).map_err(|e| Error { code: code::NOT_AVAILABLE, ..e })
    }
}

fn main() -> ExitCode {
    plugin::main(Static)
}
