//! The host's end of the pod's veth pair.

use cni::{AddResult, Call, Error};
use host::netns::NetNs;
use netlink::link::{self, Link};
use netlink::{Protocol, Socket};
use plugin::host_end;

/// The host end of the pod's interface, whoever made it, if its namespace tells: `None` if the pod has no such interface
/// (any more), or one whose other end is not on the host. Errors: the namespace cannot be asked.
pub(crate) fn by_pod(socket: &mut Socket, call: &Call) -> Result<Option<Link>, Error> {
    let Some(end) = pods_end(call)? else { return Ok(None) };
    let Some(peer) = end.peer.filter(|_| end.is("veth")) else { return Ok(None) };
    Ok(link::by_index(socket, peer).map_err(|e| looking(call, &e))?.filter(|link| is_peer(link, &end)))
}

/// The host end where there has to be one. Errors: it is no veth, or its other end is not on the host.
pub(crate) fn find(socket: &mut Socket, call: &Call, previous: &AddResult) -> Result<Link, Error> {
    match host_end::find(socket, &call.attachment()).map_err(|e| looking(call, &e))? {
        Some(link) => Ok(link),
        None => by_peer(socket, call, previous),
    }
}

fn by_peer(socket: &mut Socket, call: &Call, previous: &AddResult) -> Result<Link, Error> {
    let ifname = &call.env.ifname;
    let end =
        pods_end(call)?.ok_or_else(|| Error::internal(format!("container interface \"{ifname}\" does not exist")))?;
    let peer = end.peer.filter(|_| end.is("veth")).ok_or_else(|| {
        let kind = end.kind.as_deref().unwrap_or("physical link");
        Error::internal(format!("container interface \"{ifname}\" has no veth peer: it is a {kind}"))
            .with_details("bandwidth can be limited only where the pod is connected by a veth pair")
    })?;
    link::by_index(socket, peer)
        .map_err(|e| looking(call, &e))?
        .filter(|link| is_peer(link, &end) && is_listed(link, previous))
        .ok_or_else(|| {
            Error::internal(format!(
                "no veth peer of container interface \"{ifname}\" found in host ns: none of prevResult's has index {peer}"
            ))
        })
}

/// The pod's own end.
fn pods_end(call: &Call) -> Result<Option<Link>, Error> {
    let netns = NetNs::open(&call.env.netns).map_err(|e| Error::internal(e.to_string()))?;
    let mut pod = netns
        .enter(|| Socket::open(Protocol::Route))
        .map_err(|e| Error::internal(e.to_string()))?
        .map_err(|e| Error::internal(format!("failed to open a netlink socket: {e}")))?;
    link::by_name(&mut pod, &call.env.ifname).map_err(|e| looking(call, &e))
}

/// Indices are unique in one namespace only: both ends must name each other.
fn is_peer(link: &Link, end: &Link) -> bool {
    link.is("veth") && link.peer == Some(end.index)
}

fn looking(call: &Call, error: &netlink::Error) -> Error {
    Error::internal(format!("failed to look for \"{}\": {error}", call.env.ifname))
}

/// Whether a result names the link as one of the host's. Results of old versions name none.
fn is_listed(link: &Link, previous: &AddResult) -> bool {
    previous.interfaces.is_empty() || previous.interfaces.iter().any(|i| i.sandbox.is_empty() && i.name == link.name)
}
