//! The bridge itself: made if it is missing, repaired if it is ours, looked at closely if it is not.

use cni::Error;
use host::undo::Undo;
use netlink::link::{self, Link, Mac, NewBridge};
use netlink::{Errno, Protocol, Socket, route};

use crate::config::{Mtu, Plan};

/// How the alias of a bridge begins that we made: only such a one is changed without being asked.
const MARK: &str = "oxbridge bridge";

/// A bridge that is as the plan wants it.
#[derive(Debug, Clone)]
pub(crate) struct Bridge {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mac: Option<Mac>,
    /// Made by this plugin (by this call or an earlier one).
    pub(crate) is_ours: bool,
    /// In which VLAN its ports start, 0 for none.
    pub(crate) default_vlan: u16,
    /// Whether the spanning tree protocol decides when its ports forward.
    pub(crate) stp: bool,
}

/// The MTU that was asked for, in bytes; `None` for the kernel's default.
pub(crate) fn wanted_mtu(socket: &mut Socket, mtu: Mtu) -> Result<Option<u32>, Error> {
    match mtu {
        Mtu::Default => Ok(None),
        Mtu::Bytes(bytes) => Ok(Some(bytes)),
        Mtu::Auto => {
            let index = route::default_link(socket).map_err(|e| Error::internal(format!("mtu \"auto\": {e}")))?;
            let link = match index {
                Some(index) => link::by_index(socket, index).ok().flatten(),
                None => None,
            };
            let link = link.ok_or_else(|| {
                Error::internal("mtu \"auto\": the host has no default route whose link would tell the MTU")
                    .with_details("give a number of bytes, or add the default route before pods start")
            })?;
            Ok(Some(link.mtu))
        }
    }
}

/// Makes sure that the bridge is there and as the plan wants it.
pub(crate) fn ensure(socket: &mut Socket, plan: &Plan, mtu: Option<u32>, undo: &mut Undo<'_>) -> Result<Bridge, Error> {
    if let Some(link) = get(socket, &plan.bridge)? {
        return reconcile(socket, plan, mtu, &link);
    }
    // Two first pods at once: the second must see what the first has finished.
    let _lock = crate::gateway::lock(&plan.bridge)?;
    if let Some(link) = get(socket, &plan.bridge)? {
        return reconcile(socket, plan, mtu, &link);
    }
    create(socket, plan, mtu, undo)
}

/// The bridge as it is; an error if a link of another kind has its name.
pub(crate) fn get(socket: &mut Socket, name: &str) -> Result<Option<Link>, Error> {
    let link = link::by_name(socket, name).map_err(|e| failed(name, &e))?;
    match link {
        Some(link) if !link.is("bridge") => {
            let kind = link.kind.as_deref().unwrap_or("physical");
            Err(Error::internal(format!(
                "failed to create bridge \"{name}\": \"{name}\" already exists but is not a bridge (it is a {kind} link)"
            ))
            .with_details("name another bridge in the config, or rename that link"))
        }
        link => Ok(link),
    }
}

/// Whether the alias says that we made it.
pub(crate) fn is_ours(link: &Link) -> bool {
    link.alias.as_deref().is_some_and(|a| a.starts_with(MARK))
}

fn create(socket: &mut Socket, plan: &Plan, mtu: Option<u32>, undo: &mut Undo<'_>) -> Result<Bridge, Error> {
    let name = &plan.bridge;
    // Given at creation, the address stays; one that the kernel derives follows the ports, and every change of it
    // cuts the pods' connections until their neighbour entries age.
    let mac = host::mac::random().map_err(|e| Error::internal(format!("failed to create bridge \"{name}\": {e}")))?;
    let alias = format!("{MARK} {name}");
    let new = NewBridge { name, mac, mtu, vlan_filtering: plan.vlans.filtering, alias: &alias };
    let index = match link::create_bridge(socket, &new) {
        // Another program was quicker.
        Err(error) if error.is(Errno::EEXIST) => {
            let link = get(socket, name)?.ok_or_else(|| failed(name, &error))?;
            return reconcile(socket, plan, mtu, &link);
        }
        Err(error) if plan.vlans.filtering && error.is(Errno::EOPNOTSUPP) => return Err(no_filtering(name)),
        result => result.map_err(|e| failed(name, &e))?,
    };
    let undone = name.clone();
    undo.push("removing the bridge", move || remove_if_empty(&undone, index));
    // The bridge must not take addresses or routes from what a pod announces.
    let _ = host::sysctl::overwrite(&format!("net/ipv6/conf/{name}/accept_ra"), "0");
    let link = get(socket, name)?.ok_or_else(|| failed(name, &Errno::ENODEV.into()))?;
    if plan.vlans.filtering && !link.bridge.unwrap_or_default().vlan_filtering {
        return Err(no_filtering(name));
    }
    reconcile(socket, plan, mtu, &link)
}

fn reconcile(socket: &mut Socket, plan: &Plan, mtu: Option<u32>, link: &Link) -> Result<Bridge, Error> {
    let name = &plan.bridge;
    let is_ours = is_ours(link);
    let state = link.bridge.unwrap_or_default();
    let filtering = plan.vlans.filtering && !state.vlan_filtering;
    let mtu = mtu.filter(|mtu| *mtu != link.mtu);
    // All that is refused is refused before anything is changed.
    if !is_ours && filtering {
        return Err(Error::internal(format!(
            "bridge \"{name}\" does not filter VLANs, and it was not made by this plugin"
        ))
        .with_details(format!(
            "its other ports could be cut off; if that is right: ip link set {name} type bridge vlan_filtering 1"
        )));
    }
    if let (false, Some(mtu)) = (is_ours, mtu) {
        return Err(Error::internal(format!(
            "bridge \"{name}\" has an MTU of {} bytes, the config says {mtu}, and the bridge was not made by this plugin",
            link.mtu
        ))
        .with_details(format!("change the config, or: ip link set {name} mtu {mtu}")));
    }
    if filtering {
        match link::set_vlan_filtering(socket, name) {
            Err(error) if error.is(Errno::EOPNOTSUPP) => return Err(no_filtering(name)),
            result => result.map_err(|e| failed(name, &e))?,
        }
        let state = get(socket, name)?.and_then(|l| l.bridge).unwrap_or_default();
        if !state.vlan_filtering {
            return Err(no_filtering(name));
        }
    }
    if let Some(mtu) = mtu {
        link::set_mtu(socket, link.index, mtu).map_err(|e| failed(name, &e))?;
    }
    if plan.promiscuous && !link.is_promiscuous() {
        link::set_promiscuous(socket, link.index).map_err(|e| failed(name, &e))?;
    }
    if !link.is_up() {
        link::set_up(socket, link.index).map_err(|e| failed(name, &e))?;
    }
    Ok(Bridge {
        index: link.index,
        name: name.clone(),
        mac: link.mac,
        is_ours,
        default_vlan: state.default_vlan,
        stp: state.stp,
    })
}

/// Takes back a bridge that this call made, unless another pod is on it already.
fn remove_if_empty(name: &str, index: u32) -> Result<(), Error> {
    let _lock = crate::gateway::lock(name)?;
    let mut socket = Socket::open(Protocol::Route).map_err(|e| failed(name, &e))?;
    if link::has_ports(&mut socket, index).map_err(|e| failed(name, &e))? {
        return Ok(());
    }
    link::delete(&mut socket, index).map_err(|e| failed(name, &e))
}

fn no_filtering(name: &str) -> Error {
    Error::internal(format!("failed to create bridge \"{name}\": this kernel has no VLAN filtering on bridges"))
        .with_details("vlan and vlanTrunk need a kernel with CONFIG_BRIDGE_VLAN_FILTERING")
}

fn failed(name: &str, error: &netlink::Error) -> Error {
    Error::internal(format!("failed to create bridge \"{name}\": {error}"))
}
