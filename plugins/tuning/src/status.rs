//! STATUS: whether an ADD could work now, found out without leaving anything behind.

use cni::{Call, Error, code};
use host::fsutil::{self, Unwritable};

use crate::allowlist;
use crate::config::Plan;

pub(crate) fn status(call: &Call) -> Result<(), Error> {
    let plan = Plan::new(call).map_err(plugin::unavailable)?;
    allowlist::check(&plan.sysctls).map_err(plugin::unavailable)?;
    if plan.attributes.is_empty() && !plan.takes_mac {
        // Nothing is kept.
        return Ok(());
    }
    fsutil::writable(&plan.data_dir).map_err(|Unwritable { reason, remedy }| {
        let folder = plan.data_dir.display();
        Error::new(
            code::NOT_AVAILABLE,
            format!("no interface can be tuned, as no backup can be kept in {folder}: {reason}"),
        )
        .with_details(format!("{remedy}, or set another dataDir"))
    })
}
