//! The addresses of an attachment whose result nobody has any more: what the reference made is found by these alone.
//!
//! DEL of `bridge` comes after that of a plugin behind it, so interface and reservation are still there. Neither is needed
//! for what is ours, nor where the reference has never been.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use cni::Call;
use host::fsutil;
use host::netns::NetNs;
use netlink::nft::Nft;
use netlink::{Protocol, Socket, addr, link};

use crate::iptables;

/// Where `host-local` keeps its reservations if the config does not say otherwise: `<network>/<address>`.
const STORE: &str = "/var/lib/cni/networks";

/// Of the pod's interface; where that cannot be reached, those that are reserved for it.
pub(crate) fn addresses(call: &Call) -> Vec<IpAddr> {
    if !may_have_rules() {
        return Vec::new();
    }
    let store = Path::new(STORE).join(&call.network);
    let mut of_pod = of_interface(call).unwrap_or_default();
    // Paths of namespaces are reused: only what is reserved for it is known to be its own.
    of_pod.retain(|address| owner(&store.join(address.to_string())).is_some_and(|owner| is_of(&owner, call)));
    if of_pod.is_empty() { reserved(&store, call) } else { of_pod }
}

fn may_have_rules() -> bool {
    iptables::is_in_xtables() || Nft::open().is_ok_and(|mut nft| iptables::is_in_nf_tables(&mut nft))
}

/// `None`: there is no such interface, or it cannot be looked at.
fn of_interface(call: &Call) -> Option<Vec<IpAddr>> {
    let netns = NetNs::open(&call.env.netns).ok()?;
    if netns.is(&NetNs::current().ok()?) {
        return None;
    }
    let mut pod = netns.enter(|| Socket::open(Protocol::Route)).ok()?.ok()?;
    let link = link::by_name(&mut pod, &call.env.ifname).ok()??;
    Some(addr::list(&mut pod, link.index).ok()?.iter().map(|address| address.ip).collect())
}

fn reserved(store: &Path, call: &Call) -> Vec<IpAddr> {
    let address = |path: PathBuf| {
        let address = path.file_name()?.to_str()?.parse().ok()?;
        owner(&path).filter(|owner| is_of(owner, call)).map(|_| address)
    };
    fs::read_dir(store).into_iter().flatten().flatten().filter_map(|entry| address(entry.path())).collect()
}

/// Whose a reservation is; `None`: there is none.
fn owner(path: &Path) -> Option<String> {
    String::from_utf8(fsutil::read_small(path).ok()?).ok()
}

/// By the container's id and the interface's name, on a line each.
fn is_of(owner: &str, call: &Call) -> bool {
    owner.lines().eq([call.env.container_id.as_str(), call.env.ifname.as_str()])
}
