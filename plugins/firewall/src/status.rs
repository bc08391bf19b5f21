//! STATUS: whether an ADD could work now, as far as that can be known without doing anything.

use std::fmt::Display;

use cni::{Call, Error, code};
use netlink::nft::{Family, Nft};

use crate::config::{Backend, Policy, Settings};
use crate::{add, forward, iptables};

pub(crate) fn status(call: &Call) -> Result<(), Error> {
    let settings = Settings::new(call).map_err(plugin::unavailable)?;
    let needs_nf_tables = settings.policy != Policy::Open || settings.backend == Backend::Nftables;
    let refused = |error: &dyn Display| {
        Error::new(code::NOT_AVAILABLE, format!("pods are let in by nf_tables, which the kernel refuses: {error}"))
            .with_details("load the module nf_tables, or set backend to \"iptables\" and no policy")
    };
    let mut nft = add::open().map_err(|e| refused(&e.msg))?;
    if needs_nf_tables && let Err(error) = ruleset::is_possible(&mut nft, Family::Ip, false) {
        return Err(refused(&error));
    }
    can_let_in(&mut nft, &settings, Family::Ip).map_err(plugin::unavailable)?;
    // Most pods can still run, of IPv4 alone: a runtime takes any error here for a node that is not ready.
    if let Err(error) = can_let_in(&mut nft, &settings, Family::Ip6) {
        host::syslog::notice("firewall", &format!("pods with IPv6 addresses cannot be let in: {}", error.msg));
    }
    Ok(())
}

fn can_let_in(nft: &mut Nft, settings: &Settings, family: Family) -> Result<(), Error> {
    let mut needs = forward::needs(nft, settings, [family].into_iter())?;
    if let Some(firewalld) = &mut needs.firewalld {
        firewalld.check_zone(&settings.zone)?;
    }
    needs.places(nft).into_iter().try_for_each(|(family, place)| iptables::ensure_installed(family, place))
}
