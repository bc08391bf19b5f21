//! STATUS: whether an ADD could work now, as far as that can be known without doing anything.

use cni::{Call, Error, code, delegate};
use netlink::nft::{Family, Nft};
use netlink::{Protocol, Socket};

use crate::config::{Families, MasqueradeBackend, Plan};
use crate::{bridge, iptables};

pub(crate) fn status(call: &Call) -> Result<(), Error> {
    let plan = Plan::new(call).map_err(plugin::unavailable)?;
    let mut host = Socket::open(Protocol::Route)
        .map_err(|e| Error::new(code::NOT_AVAILABLE, format!("failed to open a netlink socket: {e}")))?;
    let mtu = bridge::wanted_mtu(&mut host, plan.mtu).map_err(plugin::unavailable)?;
    bridge::refuse_kernel(&mut host, &plan).map_err(plugin::unavailable)?;
    if let Some(link) = bridge::get(&mut host, &plan.bridge).map_err(plugin::unavailable)? {
        bridge::refuse_foreign(&plan, mtu, &link).map_err(plugin::unavailable)?;
    }
    // IPv4's is needed in any case but one; IPv6's only by pods that have an IPv6 address.
    let family = |families: Families| if families.v4 { Family::Ip } else { Family::Ip6 };
    match plan.masquerade {
        Some((families, MasqueradeBackend::Nftables)) => {
            Nft::open().and_then(|mut nft| ruleset::is_possible(&mut nft, family(families), true)).map_err(|e| {
                refused("ipMasq", &e).with_details(
                    "load the modules nf_tables, nft_chain_nat and nft_masq, or set ipMasqBackend to \"iptables\"",
                )
            })?;
        }
        Some((families, MasqueradeBackend::Iptables)) => iptables::ensure_installed(family(families))?,
        None => {}
    }
    if plan.check_mac {
        Nft::open()
            .and_then(|mut nft| nft.generation())
            .map_err(|e| refused("macspoofchk", &e).with_details("load the module nf_tables"))?;
    }
    match &plan.ipam {
        // Missing or failing: pods cannot start.
        Some(ipam) => {
            delegate::find(ipam, &call.env.path).map_err(plugin::unavailable)?;
            delegate::if_known(delegate::run(call, ipam, "STATUS", &[]))
        }
        None => Ok(()),
    }
}

fn refused(what: &str, error: &netlink::Error) -> Error {
    Error::new(code::NOT_AVAILABLE, format!("{what} needs nf_tables, which the kernel refuses: {error}"))
}
