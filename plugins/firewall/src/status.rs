//! STATUS: whether an ADD could work now, as far as that can be known without doing anything.

use cni::{Call, Error, code};
use netlink::nft::Family;

use crate::config::{Backend, Policy, Settings};
use crate::{add, forward, iptables};

pub(crate) fn status(call: &Call) -> Result<(), Error> {
    let settings = Settings::new(call).map_err(|e| with_code(code::NOT_AVAILABLE, e))?;
    let needs_nf_tables = settings.policy != Policy::Open || settings.backend == Backend::Nftables;
    let mut nft = add::open().map_err(|e| with_code(code::NOT_AVAILABLE, e))?;
    if let Err(error) = nft.generation()
        && needs_nf_tables
    {
        return Err(Error::new(code::NOT_AVAILABLE, format!("the kernel refuses nf_tables: {error}"))
            .with_details("load the module nf_tables"));
    }
    // A host where only IPv6 is dropped can still run most pods.
    for (family, code) in [(Family::Ip, code::NOT_AVAILABLE), (Family::Ip6, code::LIMITED_CONNECTIVITY)] {
        let mut needs = forward::needs(&mut nft, &settings, [family].into_iter()).map_err(|e| with_code(code, e))?;
        if let Some(firewalld) = &mut needs.firewalld {
            firewalld.check_zone(&settings.zone).map_err(|e| with_code(code::NOT_AVAILABLE, e))?;
        }
        for (family, place) in needs.iptables {
            iptables::is_usable(family, place).map_err(|e| with_code(code, e))?;
        }
    }
    Ok(())
}

/// The same error, as an answer to STATUS.
fn with_code(code: u32, error: Error) -> Error {
    Error::new(code, error.msg).with_details(error.details)
}
