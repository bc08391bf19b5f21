//! The veth pair between the bridge and the pod.

use std::os::fd::AsFd;
use std::time::Duration;

use cni::attachment::MAX_HOST_IFNAME_ATTEMPTS;
use cni::{Attachment, Error};
use host::netns::NetNs;
use host::undo::Undo;
use netlink::link::{self, Link, Mac, NewVeth};
use netlink::monitor::Monitor;
use netlink::{Errno, Protocol, Socket};
use plugin::host_end;

use crate::bridge::Bridge;
use crate::wait;

/// A namespace that was just destroyed takes its links along after a grace period of some ten milliseconds.
const DISMANTLING: Duration = Duration::from_secs(3);

/// The pair of an attachment.
#[derive(Debug)]
pub(crate) struct Veth {
    /// Index of the host end.
    pub(crate) host: u32,
    pub(crate) host_name: String,
    pub(crate) host_mac: Mac,
    /// Index of the pod's end, in the pod's namespace.
    pub(crate) pod: u32,
    pub(crate) pod_mac: Mac,
}

/// Refuses an attachment that exists already, before anything is done: the name taken in the pod, or the host end
/// there. One whose namespace is being dismantled is waited for.
pub(crate) fn ensure_absent(socket: &mut Socket, pod: &mut Socket, attachment: &Attachment) -> Result<(), Error> {
    let ifname = &attachment.ifname;
    let failed = |e: netlink::Error| Error::internal(format!("failed to look for \"{ifname}\": {e}"));
    if link::by_name(pod, ifname).map_err(failed)?.is_some() {
        return Err(taken(ifname));
    }
    let mut remnant = None;
    let is_gone = || {
        remnant = host_end::find(socket, attachment).map_err(failed)?;
        Ok(remnant.is_none().then_some(()))
    };
    if wait::until(DISMANTLING, || Monitor::links().map_err(failed), failed, is_gone)?.is_some() {
        return Ok(());
    }
    Err(Error::internal(format!(
        "container \"{}\" is attached to network \"{}\" already: the host link \"{}\" of its \"{ifname}\" exists",
        attachment.container_id,
        attachment.network,
        remnant.map(|link| link.name).unwrap_or_default()
    ))
    .with_details("its interface was renamed, or is in another namespace that still lives; DEL removes it"))
}

/// Makes the pair, the host end on the bridge, both ends down. `None`: the bridge is gone.
pub(crate) fn create(
    socket: &mut Socket,
    attachment: &Attachment,
    bridge: &Bridge,
    netns: &NetNs,
    mac: Option<Mac>,
    mtu: Option<u32>,
    undo: &mut Undo<'_>,
) -> Result<Option<Veth>, Error> {
    let ifname = &attachment.ifname;
    let failed = |e: netlink::Error| Error::internal(format!("failed to make veth pair: {e}"));
    let pod_mac = mac.map_or_else(host::mac::random, Ok).map_err(|e| failed(e.into()))?;
    for attempt in 0..MAX_HOST_IFNAME_ATTEMPTS {
        let host_name = attachment.host_ifname(attempt);
        let new = NewVeth {
            host_name: &host_name,
            host_mac: attachment.host_mac(),
            master: Some(bridge.index),
            peer_name: ifname,
            peer_mac: pod_mac,
            peer_netns: Some(netns.as_fd()),
            mtu,
        };
        let created = link::create_veth(socket, &new);
        match created {
            // One of the two names: if it is the host's, somebody else's link has it and the next name will do.
            Err(error) if link::is_taken(&error) => {
                if link::by_name(socket, &host_name).map_err(failed)?.is_some() {
                    continue;
                }
                return Err(taken(ifname));
            }
            // Also where it was not certainly refused: an answer that gets lost says nothing.
            _ => {}
        }
        let host_mac = attachment.host_mac();
        let undone = host_name.clone();
        undo.push("removing the veth pair", move || {
            let mut socket = Socket::open(Protocol::Route)?;
            match made(&mut socket, &undone, host_mac)? {
                Some(link) => link::delete(&mut socket, link.index),
                None => Ok(()),
            }
        });
        if let Err(error) = created {
            return match link::by_index(socket, bridge.index).map_err(failed)? {
                Some(_) => Err(failed(error)),
                None => Ok(None),
            };
        }
        let link = made(socket, &host_name, host_mac).map_err(failed)?.ok_or_else(|| failed(Errno::ENODEV.into()))?;
        let pod = link.peer.ok_or_else(|| failed(Errno::ENODEV.into()))?;
        return Ok(Some(Veth { host: link.index, host_name, host_mac, pod, pod_mac }));
    }
    Err(Error::internal(format!(
        "failed to make veth pair: all {MAX_HOST_IFNAME_ATTEMPTS} names of the host end are taken, \"{}\" the first",
        attachment.host_ifname(0)
    )))
}

/// The link that was made with this name and address; another's of the same name is none of ours.
fn made(socket: &mut Socket, name: &str, mac: Mac) -> netlink::Result<Option<Link>> {
    Ok(link::by_name(socket, name)?.filter(|l| l.mac == Some(mac)))
}

fn taken(ifname: &str) -> Error {
    Error::internal(format!("container veth name (\"{ifname}\") already exists in the container's namespace"))
        .with_details(
            "the container is attached already (nothing was changed), or CNI_IFNAME is another interface's name",
        )
}
