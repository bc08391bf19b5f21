//! CHECK: the delegate compares what it made; flannel's own part is the file that DEL will need.

use cni::{Call, Error};

use crate::config::Config;
use crate::scratch::{Kept, Scratch};

pub(crate) fn check(call: &Call) -> Result<(), Error> {
    let config = Config::strict(call)?;
    let scratch = Scratch::new(call, config.data_dir());
    let attachment = call.attachment();
    let lost = |found: String| {
        Error::internal(format!(
            "{found}, expected the delegate's config that ADD saved in {}",
            scratch.path(&attachment).display()
        ))
        .with_details("DEL will use one made of the network's config and subnet.env in its place")
    };
    match scratch.read(&attachment) {
        Kept::Delegate(delegate) => delegate.with(call, &["prevResult"]).run(call, "CHECK", &[]),
        Kept::Unreadable(path) => Err(lost(format!("found no config in {}", path.display()))),
        Kept::Nothing => Err(lost("found no file".to_owned())),
    }
}
