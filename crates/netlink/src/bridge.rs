//! Ports and VLANs of bridges.
//!
//! Source: `net/bridge/br_netlink.c`, `include/uapi/linux/if_bridge.h`.

use nix::errno::Errno;
use nix::libc;
use rtnetlink::LinkBridgePort;

use crate::link::IFINFOMSG_LEN;
use crate::socket::DUMP_TRIES;
use crate::wire::{ACK, Attrs, Message, Request, Writer, u32_ne};
use crate::{Result, Socket};

const IFLA_BR_STP_STATE: u16 = 5;
const IFLA_BR_VLAN_FILTERING: u16 = 7;
const IFLA_BR_VLAN_DEFAULT_PVID: u16 = 39;
const IFLA_BRPORT_STATE: u16 = 1;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const BR_STATE_FORWARDING: u8 = 3;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_MASTER: u16 = 10;
const RTEXT_FILTER_BRVLAN_COMPRESSED: u32 = 1 << 2;
const IFLA_BRIDGE_VLAN_INFO: u16 = 2;
const VLAN_PVID: u16 = 1 << 1;
const VLAN_UNTAGGED: u16 = 1 << 2;
const VLAN_RANGE_BEGIN: u16 = 1 << 3;
const VLAN_RANGE_END: u16 = 1 << 4;

/// What the kernel says of a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BridgeState {
    /// Whether VLAN filtering is on.
    pub vlan_filtering: bool,
    /// Whether the kernel has VLAN filtering (`CONFIG_BRIDGE_VLAN_FILTERING`): without it, it says nothing of a default
    /// VLAN.
    pub can_filter_vlans: bool,
    /// Whether the spanning tree protocol decides when a port forwards.
    pub stp: bool,
    /// The VLAN that every new port is in, untagged; 0 for none.
    pub default_vlan: u16,
}

/// What the kernel says of a port of a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PortState {
    /// Whether it forwards.
    pub forwarding: bool,
    /// Whether frames may leave by the port they came in.
    pub hairpin: bool,
    /// Whether it may talk only to ports that are not isolated.
    pub isolated: bool,
}

/// A VLAN of a port, or a run of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct VlanRange {
    /// First id, 1..=4094.
    pub first: u16,
    /// Last id, 1..=4094.
    pub last: u16,
    /// Untagged frames that come in belong to it.
    pub pvid: bool,
    /// Its frames leave without a tag.
    pub untagged: bool,
}

impl VlanRange {
    /// The VLAN in which a port's untagged traffic lives.
    #[must_use]
    pub fn access(id: u16) -> Self {
        Self { first: id, last: id, pvid: true, untagged: true }
    }

    /// VLANs whose frames carry their tag.
    #[must_use]
    pub fn tagged(first: u16, last: u16) -> Self {
        Self { first, last, pvid: false, untagged: false }
    }

    /// Whether this VLAN is among them.
    #[must_use]
    pub fn contains(&self, id: u16) -> bool {
        (self.first..=self.last).contains(&id)
    }
}

/// Appends the request that sets what a port may do.
pub fn push_port(request: &mut Request, index: u32, hairpin: bool, isolated: bool) {
    let message = LinkBridgePort::new(index).hairpin(hairpin).isolated(isolated).build();
    request.typed(libc::RTM_NEWLINK, ACK, &message);
}

/// Appends the requests that take the VLANs of `remove` off a port, then put those of `add` on it.
pub fn push_vlans(request: &mut Request, index: u32, remove: &[VlanRange], add: &[VlanRange]) {
    push_vlan_list(request, libc::RTM_DELLINK, index, remove);
    push_vlan_list(request, libc::RTM_SETLINK, index, add);
}

/// A port of a bridge with its VLANs; or the bridge with those in which it takes part itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortVlans {
    /// Index of the port.
    pub port: u32,
    /// Index of its bridge; for the bridge itself the same.
    pub bridge: u32,
    /// Its VLANs.
    pub vlans: Vec<VlanRange>,
}

impl PortVlans {
    /// Whether it is a port, and not the bridge itself.
    #[must_use]
    pub fn is_port(&self) -> bool {
        self.port != self.bridge
    }

    /// Whether it is in this VLAN.
    #[must_use]
    pub fn has(&self, id: u16) -> bool {
        self.vlans.iter().any(|range| range.contains(id))
    }
}

/// The VLANs of all ports of all bridges, and of the bridges themselves; it costs time for each.
///
/// Whole also while ports go: the kernel resumes such a dump by counting, and says nothing (no `NLM_F_DUMP_INTR`) where it
/// skips one because another before it is gone. The one that is gone is in no second dump, so that two alike are whole.
/// Errors: `EINTR` where ports come and go without an end.
pub fn port_vlans(socket: &mut Socket) -> Result<Vec<PortVlans>> {
    let mut last = dump_port_vlans(socket)?;
    for _ in 0..DUMP_TRIES {
        let next = dump_port_vlans(socket)?;
        if next == last {
            return Ok(next);
        }
        last = next;
    }
    Err(Errno::EINTR.into())
}

/// The VLANs of a port, or of a bridge itself; none for what is neither.
pub fn vlans(socket: &mut Socket, index: u32) -> Result<Vec<VlanRange>> {
    let of = |all: Vec<PortVlans>| all.into_iter().find(|p| p.port == index).map(|p| p.vlans);
    // What a single dump says of a port is right; only that it says nothing may be wrong.
    match of(dump_port_vlans(socket)?) {
        Some(vlans) => Ok(vlans),
        None => Ok(of(port_vlans(socket)?).unwrap_or_default()),
    }
}

fn dump_port_vlans(socket: &mut Socket) -> Result<Vec<PortVlans>> {
    socket.dump(
        libc::RTM_GETLINK,
        |w| {
            // A dump of AF_BRIDGE cannot be narrowed to one port: the kernel refuses an index here. Without compression a
            // port in all VLANs does not fit into a message, and the dump fails.
            w.header(&bridge_header(0)).u32(IFLA_EXT_MASK, RTEXT_FILTER_BRVLAN_COMPRESSED);
        },
        |message| read_vlans(&message),
    )
}

/// All in one message: an attribute a VLAN, two a range.
fn push_vlan_list(request: &mut Request, kind: u16, index: u32, vlans: &[VlanRange]) {
    if vlans.is_empty() {
        return;
    }
    request.message(kind, ACK, |w| {
        w.header(&bridge_header(index)).nest(IFLA_AF_SPEC, |w| push_vlan_infos(w, vlans));
    });
}

fn push_vlan_infos(w: &mut Writer<'_>, vlans: &[VlanRange]) {
    for vlan in vlans {
        let flags = if vlan.pvid { VLAN_PVID } else { 0 } | if vlan.untagged { VLAN_UNTAGGED } else { 0 };
        if vlan.first == vlan.last {
            w.attr(IFLA_BRIDGE_VLAN_INFO, &vlan_info(flags, vlan.first));
        } else {
            w.attr(IFLA_BRIDGE_VLAN_INFO, &vlan_info(flags | VLAN_RANGE_BEGIN, vlan.first));
            w.attr(IFLA_BRIDGE_VLAN_INFO, &vlan_info(flags | VLAN_RANGE_END, vlan.last));
        }
    }
}

/// `struct bridge_vlan_info`.
fn vlan_info(flags: u16, id: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (flags.to_ne_bytes(), id.to_ne_bytes());
    [a, b, c, d]
}

fn bridge_header(index: u32) -> [u8; IFINFOMSG_LEN] {
    let mut header = [0; IFINFOMSG_LEN];
    header[0] = u8::try_from(libc::AF_BRIDGE).unwrap_or(0);
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header
}

pub(crate) fn read_bridge(data: Attrs<'_>) -> BridgeState {
    let default_vlan = data.find(IFLA_BR_VLAN_DEFAULT_PVID);
    BridgeState {
        vlan_filtering: data.find(IFLA_BR_VLAN_FILTERING).is_some_and(|v| v.first() != Some(&0)),
        can_filter_vlans: default_vlan.is_some(),
        stp: data.find(IFLA_BR_STP_STATE).and_then(u32_ne).unwrap_or(0) != 0,
        default_vlan: default_vlan.and_then(|v| Some(u16::from_ne_bytes(v.get(..2)?.try_into().ok()?))).unwrap_or(0),
    }
}

pub(crate) fn read_port(data: Attrs<'_>) -> PortState {
    let is_set = |kind| data.find(kind).is_some_and(|v| v.first().is_some_and(|b| *b != 0));
    PortState {
        forwarding: data.find(IFLA_BRPORT_STATE).and_then(|v| v.first().copied()) == Some(BR_STATE_FORWARDING),
        hairpin: is_set(IFLA_BRPORT_MODE),
        isolated: is_set(IFLA_BRPORT_ISOLATED),
    }
}

fn read_vlans(message: &Message<'_>) -> Option<PortVlans> {
    let port = u32_ne(&message.body.get(..IFINFOMSG_LEN)?[4..])?;
    let attributes = || Attrs::behind(message.body, IFINFOMSG_LEN);
    let bridge = attributes().find(IFLA_MASTER).and_then(u32_ne)?;
    let mut vlans: Vec<VlanRange> = Vec::new();
    let mut is_open = false;
    let infos = attributes().nested(IFLA_AF_SPEC).filter(|(kind, _)| *kind == IFLA_BRIDGE_VLAN_INFO);
    for (flags, id) in infos.filter_map(|(_, value)| read_vlan_info(value)) {
        match vlans.last_mut() {
            // The end of a range that the one before began.
            Some(range) if is_open => range.last = id,
            _ => vlans.push(VlanRange {
                first: id,
                last: id,
                pvid: flags & VLAN_PVID != 0,
                untagged: flags & VLAN_UNTAGGED != 0,
            }),
        }
        is_open = flags & VLAN_RANGE_BEGIN != 0;
    }
    (message.kind == libc::RTM_NEWLINK).then_some(PortVlans { port, bridge, vlans })
}

/// Flags and id.
fn read_vlan_info(value: &[u8]) -> Option<(u16, u16)> {
    let number = |at: usize| Some(u16::from_ne_bytes(value.get(at..at + 2)?.try_into().ok()?));
    Some((number(0)?, number(2)?))
}

#[cfg(test)]
mod tests {
    //! This project's kernels may lack VLAN filtering: the messages are read by an independent decoder instead.

    use rtnetlink::packet_core::NetlinkMessage;
    use rtnetlink::packet_core::NetlinkPayload::InnerMessage;
    use rtnetlink::packet_route::link::{
        AfSpecBridge, BridgeVlanInfo, BridgeVlanInfoFlags, LinkAttribute, LinkMessage,
    };
    use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

    use super::*;

    fn decode(bytes: &[u8]) -> Vec<RouteNetlinkMessage> {
        let mut all = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).unwrap();
            rest = &rest[usize::try_from(message.header.length).unwrap()..];
            let InnerMessage(inner) = message.payload else { panic!("no message") };
            all.push(inner);
        }
        all
    }

    fn specs(message: &LinkMessage) -> &[AfSpecBridge] {
        assert_eq!(message.header.interface_family, AddressFamily::Bridge);
        let [LinkAttribute::AfSpecBridge(specs)] = &message.attributes[..] else { panic!("{:?}", message.attributes) };
        specs
    }

    fn vlan_request(index: u32, remove: &[VlanRange], add: &[VlanRange]) -> Request {
        let mut request = Request::new();
        push_vlans(&mut request, index, remove, add);
        request
    }

    fn info(vid: u16, flags: BridgeVlanInfoFlags) -> AfSpecBridge {
        AfSpecBridge::VlanInfo(BridgeVlanInfo { vid, flags })
    }

    #[test]
    fn the_default_vlan_goes_and_access_and_trunk_come() {
        let default = VlanRange::access(1);
        let request = vlan_request(
            7,
            &[default],
            &[VlanRange::access(100), VlanRange::tagged(200, 299), VlanRange::tagged(5, 5)],
        );
        let messages = decode(request.bytes());
        let [RouteNetlinkMessage::DelLink(remove), RouteNetlinkMessage::SetLink(add)] = &messages[..] else {
            panic!("{messages:?}")
        };
        let untagged_pvid = BridgeVlanInfoFlags::Pvid | BridgeVlanInfoFlags::Untagged;
        assert_eq!((remove.header.index, add.header.index), (7, 7));
        assert_eq!(specs(remove), [info(1, untagged_pvid)]);
        assert_eq!(
            specs(add),
            [
                info(100, untagged_pvid),
                info(200, BridgeVlanInfoFlags::RangeBegin),
                info(299, BridgeVlanInfoFlags::RangeEnd),
                info(5, BridgeVlanInfoFlags::empty()),
            ]
        );
    }

    #[test]
    fn vlans_of_a_port_are_read_with_their_ranges() {
        let vlans = vec![VlanRange::access(100), VlanRange::tagged(200, 299), VlanRange::tagged(9, 9)];
        let of_port = |port| {
            let mut request = Request::new();
            request.message(libc::RTM_NEWLINK, 0, |w| {
                w.header(&bridge_header(port)).u32(IFLA_MASTER, 3).nest(IFLA_AF_SPEC, |w| push_vlan_infos(w, &vlans));
            });
            request
        };
        let read = |request: &Request| read_vlans(&crate::wire::Messages(request.bytes()).next().unwrap());
        let port = read(&of_port(7)).unwrap();
        assert_eq!(port, PortVlans { port: 7, bridge: 3, vlans: vlans.clone() });
        assert!([100, 200, 250, 299, 9].iter().all(|id| port.has(*id)) && !port.has(300));
        assert!(port.is_port() && !read(&of_port(3)).unwrap().is_port(), "the bridge's own");
    }

    #[test]
    fn nothing_to_change_is_no_request() {
        assert_eq!(vlan_request(7, &[], &[]).messages(), 0);
    }
}
