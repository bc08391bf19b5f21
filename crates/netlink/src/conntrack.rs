//! Forgetting connections (`ctnetlink`).
//!
//! The first packet of a UDP flow decides where the flow goes, for as long as it goes on: a sender that never pauses
//! would stay with an address that is gone. So a published port's entries are removed when the port comes and goes.
//! Source: `net/netfilter/nf_conntrack_netlink.c`, `include/uapi/linux/netfilter/nfnetlink_conntrack.h`.

use std::net::{IpAddr, Ipv4Addr};

use nix::errno::Errno;

use crate::addr::ip_from_bytes;
use crate::nft::{Family, header};
use crate::wire::{Attrs, Message, Writer};
use crate::{Error, Result, Socket};

const SUBSYS: u16 = 1 << 8;
const CT_NEW: u16 = SUBSYS;
const CT_GET: u16 = SUBSYS | 1;
const CT_DELETE: u16 = SUBSYS | 2;
const NFGENMSG_LEN: usize = 4;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
/// Flags of a filter: which parts of the tuple count (`net/netfilter/nf_conntrack_netlink.c`).
const WITH_IP_SRC: u32 = 1 << 0;
const WITH_PROTO_NUM: u32 = 1 << 3;
const WITH_PROTO_DST_PORT: u32 = 1 << 5;

const UDP: u8 = 17;
/// One dump for all ports looks at every UDP flow in user space, one for each port walks the whole table again; with
/// 100,000 entries the first takes 180 ms and the second 29 ms.
const DUMPS: usize = 6;

/// A UDP flow of the table: what its first packet was sent to, and who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// Destination address of the first packet, before any translation.
    pub destination: IpAddr,
    /// Destination port of the first packet, before any translation.
    pub port: u16,
    /// Source address of the answers: after a translation, that of the pod.
    pub answers_from: IpAddr,
}

/// The UDP flows that are looked for; the kernel leaves out what does not match, where it can (Linux 5.8).
#[derive(Debug, Clone, Copy)]
pub struct Filter<'a> {
    /// IPv4 or IPv6.
    pub family: Family,
    /// Original destination ports.
    pub ports: &'a [u16],
    /// Source address of the answers; `None`: any.
    pub answers_from: Option<IpAddr>,
}

impl Filter<'_> {
    /// The address to filter by in the kernel, which shows all *other* IPv6 addresses than the one that is asked for
    /// (`ctnetlink_filter_match_tuple` takes `ipv6_addr_cmp` for a test of equality; seen on Linux 6.18).
    fn address(&self) -> Option<Ipv4Addr> {
        match self.answers_from? {
            IpAddr::V4(ip) => Some(ip),
            IpAddr::V6(_) => None,
        }
    }

    fn matches(&self, flow: &Flow) -> bool {
        self.ports.contains(&flow.port) && self.answers_from.is_none_or(|ip| ip == flow.answers_from)
    }
}

/// Forgets the flows that match the filter and of which `is_meant` holds, and returns how many that were.
///
/// The socket is one of [`crate::Protocol::Netfilter`]. For a kernel without connection tracking, see
/// [`is_unsupported`]. A flow that is gone in the meantime is not counted and no error.
pub fn delete_udp(socket: &mut Socket, filter: &Filter<'_>, is_meant: impl Fn(&Flow) -> bool) -> Result<usize> {
    // Where the answers come from says more than the port: few flows are left, of whatever port.
    let dumps: Vec<Option<u16>> = if filter.address().is_some() || filter.ports.len() > DUMPS {
        vec![None]
    } else {
        filter.ports.iter().copied().map(Some).collect()
    };
    let mut deleted = 0;
    for port in dumps {
        for entry in list(socket, filter, port, &is_meant)? {
            deleted += usize::from(delete(socket, filter.family, &entry)?);
        }
    }
    Ok(deleted)
}

/// Whether the error says that the kernel has no connection tracking or does not show it: nothing is to be forgotten
/// then.
#[must_use]
pub fn is_unsupported(error: &Error) -> bool {
    // No nfnetlink at all; no nfnetlink_conntrack.
    [Errno::EPROTONOSUPPORT, Errno::EINVAL, Errno::EOPNOTSUPP].contains(&error.errno)
}

/// What names an entry to the kernel.
struct Entry {
    original: Vec<u8>,
    zone: Option<Vec<u8>>,
    id: Option<Vec<u8>>,
}

fn list(
    socket: &mut Socket,
    filter: &Filter<'_>,
    port: Option<u16>,
    is_meant: &impl Fn(&Flow) -> bool,
) -> Result<Vec<Entry>> {
    let head = header(filter.family.number(), 0);
    let read = |m: Message<'_>| read(&m, |flow| filter.matches(flow) && is_meant(flow));
    let filtered = socket.dump(
        CT_GET,
        |w| {
            w.header(&head);
            write_filter(w, port, filter.address());
        },
        read,
    );
    match filtered {
        // A kernel that knows no filter ignores it or refuses.
        Err(error) if is_unsupported(&error) => socket.dump(
            CT_GET,
            |w| {
                w.header(&head);
            },
            read,
        ),
        filtered => filtered,
    }
}

fn write_filter(w: &mut Writer<'_>, port: Option<u16>, answers_from: Option<Ipv4Addr>) {
    w.nest(CTA_TUPLE_ORIG, |w| {
        w.nest(CTA_TUPLE_PROTO, |w| {
            w.u8(CTA_PROTO_NUM, UDP);
            if let Some(port) = port {
                w.attr(CTA_PROTO_DST_PORT, &port.to_be_bytes());
            }
        });
    });
    if let Some(ip) = answers_from {
        w.nest(CTA_TUPLE_REPLY, |w| {
            w.nest(CTA_TUPLE_IP, |w| {
                w.attr(CTA_IP_V4_SRC, &ip.octets());
            });
        });
    }
    w.nest(CTA_FILTER, |w| {
        w.u32(CTA_FILTER_ORIG_FLAGS, WITH_PROTO_NUM | port.map_or(0, |_| WITH_PROTO_DST_PORT));
        w.u32(CTA_FILTER_REPLY_FLAGS, answers_from.map_or(0, |_| WITH_IP_SRC));
    });
}

fn read(message: &Message<'_>, is_wanted: impl Fn(&Flow) -> bool) -> Option<Entry> {
    if message.kind != CT_NEW {
        return None;
    }
    let attrs = Attrs::behind(message.body, NFGENMSG_LEN);
    let (original, reply) = (attrs.nested(CTA_TUPLE_ORIG), attrs.nested(CTA_TUPLE_REPLY));
    let protocol = original.nested(CTA_TUPLE_PROTO);
    if protocol.find(CTA_PROTO_NUM)? != [UDP] {
        return None;
    }
    let flow = Flow {
        destination: address(original, [CTA_IP_V4_DST, CTA_IP_V6_DST])?,
        port: u16::from_be_bytes(protocol.find(CTA_PROTO_DST_PORT)?.try_into().ok()?),
        answers_from: address(reply, [CTA_IP_V4_SRC, CTA_IP_V6_SRC])?,
    };
    is_wanted(&flow).then(|| Entry {
        original: original.0.to_vec(),
        zone: attrs.find(CTA_ZONE).map(<[u8]>::to_vec),
        id: attrs.find(CTA_ID).map(<[u8]>::to_vec),
    })
}

fn address(tuple: Attrs<'_>, kinds: [u16; 2]) -> Option<IpAddr> {
    let ip = tuple.nested(CTA_TUPLE_IP);
    kinds.into_iter().find_map(|kind| ip.find(kind)).and_then(ip_from_bytes)
}

/// Whether it was there. The kernel's number of the entry keeps a new one of the same addresses and ports.
fn delete(socket: &mut Socket, family: Family, entry: &Entry) -> Result<bool> {
    let result = socket.request(CT_DELETE, 0, |w| {
        w.header(&header(family.number(), 0));
        w.nest(CTA_TUPLE_ORIG, |w| {
            w.header(&entry.original);
        });
        for (kind, value) in [(CTA_ZONE, &entry.zone), (CTA_ID, &entry.id)] {
            if let Some(value) = value {
                w.attr(kind, value);
            }
        }
    });
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.is(Errno::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}
