//! STATUS: whether an ADD could work now, as far as that can be known without doing anything.

use cni::{Call, Error, code, delegate};
use netlink::nft::{Family, Nft};
use netlink::{Protocol, Socket};

use crate::config::{MasqueradeBackend, Plan};
use crate::{bridge, iptables};

pub(crate) fn status(call: &Call) -> Result<(), Error> {
    let plan = Plan::new(call).map_err(plugin::unavailable)?;
    let mut host = Socket::open(Protocol::Route)
        .map_err(|e| Error::new(code::NOT_AVAILABLE, format!("failed to open a netlink socket: {e}")))?;
    let mtu = bridge::wanted_mtu(&mut host, plan.mtu).map_err(plugin::unavailable)?;
    if let Some(link) = bridge::get(&mut host, &plan.bridge).map_err(plugin::unavailable)? {
        bridge::refuse_foreign(&plan, mtu, &link).map_err(plugin::unavailable)?;
    }
    let (native, by_program) = match plan.masquerade {
        Some((_, MasqueradeBackend::Nftables)) => (true, None),
        Some((families, MasqueradeBackend::Iptables)) => (false, Some(families)),
        None => (false, None),
    };
    if native || plan.check_mac {
        Nft::open().and_then(|mut nft| nft.generation()).map_err(|e| {
            Error::new(
                code::NOT_AVAILABLE,
                format!("ipMasq and macspoofchk need nf_tables, which the kernel refuses: {e}"),
            )
            .with_details("load the module nf_tables, or set ipMasqBackend to \"iptables\"")
        })?;
    }
    if let Some(families) = by_program {
        // IPv4's is needed in any case but one; IPv6's only by pods that have an IPv6 address.
        iptables::ensure_installed(if families.v4 { Family::Ip } else { Family::Ip6 })?;
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
