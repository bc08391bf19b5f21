//! STATUS: whether an ADD could work now, as far as that can be known without doing anything.

use cni::{Call, Error, code};
use netlink::nft::{Family, Nft};

use crate::config::{Backend, Plan};
use crate::iptables;

pub(crate) fn status(call: &Call) -> Result<(), Error> {
    let plan = Plan::new(call).map_err(plugin::unavailable)?;
    match plan.backend {
        Backend::Nftables => {
            Nft::open().and_then(|mut nft| ruleset::is_possible(&mut nft, Family::Ip, true)).map_err(|e| {
                Error::new(
                    code::NOT_AVAILABLE,
                    format!("published ports need nf_tables, which the kernel refuses: {e}"),
                )
                .with_details("load the modules nf_tables and nft_chain_nat, or set backend to \"iptables\"")
            })
        }
        // IPv6's is needed only by pods that have an IPv6 address.
        Backend::Iptables => iptables::ensure_installed(Family::Ip),
    }
}
