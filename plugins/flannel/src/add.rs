//! ADD: the delegate makes the attachment; what it was told is kept for later verbs.

use std::cell::Cell;

use cni::{Call, Error, delegate};
use host::undo::Undo;

use crate::config::Config;
use crate::plan::{self, Delegate};
use crate::scratch::Scratch;

pub(crate) fn add(call: &Call) -> Result<(), Error> {
    let config = Config::strict(call)?;
    let lease = plan::lease(&config.subnet_file())?;
    let plan = Delegate::new(call, &config, Some(&lease))?;
    plan.find(call)?;
    let scratch = Scratch::new(call, config.data_dir());
    let attachment = call.attachment();

    let still_there = Cell::new(false);
    let mut undo = Undo::new();
    // Kept before there is anything to remember: whatever ends this call, DEL finds it.
    let before = scratch.write(&attachment, &plan)?;
    let (files, of, made) = (&scratch, &attachment, &still_there);
    undo.push("forgetting the delegate's config", move || {
        // What the delegate could not take back, DEL will have to.
        if made.get() { Ok(()) } else { files.restore(of, &before) }
    });
    plugin::step()?;
    let json = plan.to_json();
    let running = delegate::start_with(call, plan.plugin(), "ADD", &[], &json)?;
    // A failed ADD has left nothing; its DEL would take away what the running container of this id has.
    let succeeded = || {
        undo.push("having the delegate take it back", || {
            plan.run(call, "DEL", &[]).inspect_err(|_| still_there.set(true))
        });
    };
    let result = running.wait_then(call, succeeded)?;
    plugin::step()?;
    call.reply(&result)?;
    undo.disarm();
    Ok(())
}
