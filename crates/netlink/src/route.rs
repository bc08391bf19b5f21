//! Routes (`RTM_*ROUTE`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::errno::Errno;
use nix::libc;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteMetric, RouteProtocol, RouteScope};

use crate::addr::ip_from_bytes;
use crate::wire::{ACK, Attrs, CREATE, Message, Request, u32_ne};
use crate::{Error, Result, Socket};

const RTMSG_LEN: usize = 12;
/// `struct rtnexthop`: length, flags, hops, index of the link.
const RTNEXTHOP_LEN: usize = 8;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_METRICS: u16 = 8;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_VIA: u16 = 18;
const RTAX_MTU: u16 = 2;
const RTAX_ADVMSS: u16 = 8;
/// `RTPROT_RA`: from router advertisements.
const ADVERTISED: u8 = 9;
/// `RT_TABLE_MAIN`.
pub const MAIN_TABLE: u32 = 254;

/// A route, to be made or found. All zeros and `None` mean: not stated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Destination; its bits behind the prefix must be zero or the kernel refuses it.
    pub dst: IpAddr,
    /// Length of the destination's prefix, in bits.
    pub prefix: u8,
    /// Next hop.
    pub gateway: Option<IpAddr>,
    /// Index of the link by which packets leave.
    pub link: Option<u32>,
    /// Routing table; the main one if not stated.
    pub table: Option<u32>,
    /// `RT_SCOPE_*`; global if not stated.
    pub scope: Option<u8>,
    /// Metric.
    pub priority: Option<u32>,
    /// Path MTU, in bytes.
    pub mtu: Option<u32>,
    /// Segment size to advertise, in bytes.
    pub advmss: Option<u32>,
}

/// Appends the request for a route; `EEXIST` if an equal one (destination, metric) is there.
pub fn push_add(request: &mut Request, route: &Route) {
    request.typed(libc::RTM_NEWROUTE, ACK | CREATE, &message(route));
}

fn message(route: &Route) -> RouteMessage {
    // Protocol "boot" is what an administrator's and the reference's routes carry.
    macro_rules! build {
        ($family:ty, $dst:expr, $gateway:expr) => {{
            let mut builder = RouteMessageBuilder::<$family>::new()
                .destination_prefix($dst, route.prefix)
                .protocol(RouteProtocol::Boot);
            if let Some(gateway) = $gateway {
                builder = builder.gateway(gateway);
            }
            with_rest(builder, route)
        }};
    }
    let v4 = route.gateway.and_then(|g| if let IpAddr::V4(g) = g { Some(g) } else { None });
    let v6 = route.gateway.and_then(|g| if let IpAddr::V6(g) = g { Some(g) } else { None });
    match route.dst {
        IpAddr::V4(dst) => build!(Ipv4Addr, dst, v4),
        IpAddr::V6(dst) => build!(Ipv6Addr, dst, v6),
    }
}

fn with_rest<T>(mut builder: RouteMessageBuilder<T>, route: &Route) -> RouteMessage {
    if let Some(link) = route.link {
        builder = builder.output_interface(link);
    }
    if let Some(table) = route.table {
        builder = builder.table_id(table);
    }
    if let Some(scope) = route.scope {
        builder = builder.scope(RouteScope::from(scope));
    }
    if let Some(priority) = route.priority {
        builder = builder.priority(priority);
    }
    let metrics: Vec<_> =
        route.mtu.map(RouteMetric::Mtu).into_iter().chain(route.advmss.map(RouteMetric::Advmss)).collect();
    let mut message = builder.build();
    if !metrics.is_empty() {
        message.attributes.push(RouteAttribute::Metrics(metrics));
    }
    message
}

/// The unicast routes of all tables, of one family. One with several next hops is several, each with one of them: the
/// kernel joins equal IPv6 routes of different links so.
pub fn list(socket: &mut Socket, v6: bool) -> Result<Vec<Route>> {
    list_by(socket, v6, None)
}

/// Those of them that leave by this link: the kernel leaves out the others, of which a router may have a million.
pub fn list_of_link(socket: &mut Socket, v6: bool, link: u32) -> Result<Vec<Route>> {
    list_by(socket, v6, Some(link))
}

/// Whether a router advertisement gave the host an IPv6 route by this link.
pub fn is_advertised(socket: &mut Socket, link: u32) -> Result<bool> {
    let advertised = |message: &Message<'_>| {
        let leads_there = read(message).iter().any(|route| route.link == Some(link));
        (leads_there && message.body.get(5) == Some(&ADVERTISED)).then_some(())
    };
    Ok(!dump(socket, true, Some(link), advertised)?.is_empty())
}

fn list_by(socket: &mut Socket, v6: bool, link: Option<u32>) -> Result<Vec<Route>> {
    let mut routes = dump(socket, v6, link, |message| Some(read(message)))?.concat();
    // Older kernels do not filter.
    routes.retain(|r| r.dst.is_ipv6() == v6 && (link.is_none() || r.link == link));
    Ok(routes)
}

fn dump<T>(
    socket: &mut Socket,
    v6: bool,
    link: Option<u32>,
    read: impl Fn(&Message<'_>) -> Option<T>,
) -> Result<Vec<T>> {
    let family = if v6 { libc::AF_INET6 } else { libc::AF_INET };
    let mut header = [0; RTMSG_LEN];
    header[0] = u8::try_from(family).unwrap_or(0);
    socket.dump(
        libc::RTM_GETROUTE,
        |w| {
            w.header(&header);
            if let Some(link) = link {
                w.u32(RTA_OIF, link);
            }
        },
        |message| read(&message),
    )
}

/// Index of the link on which this address is, as far as the host's routes tell; `None` if a gateway leads there, or
/// nothing.
pub fn link_of_neighbour(socket: &mut Socket, ip: IpAddr) -> Result<Option<u32>> {
    let (family, bytes) = match ip {
        IpAddr::V4(ip) => (libc::AF_INET, ip.octets().to_vec()),
        IpAddr::V6(ip) => (libc::AF_INET6, ip.octets().to_vec()),
    };
    let mut header = [0; RTMSG_LEN];
    header[0] = u8::try_from(family).unwrap_or(0);
    header[1] = u8::try_from(bytes.len() * 8).unwrap_or(0);
    let mut request = Request::new();
    request.message(libc::RTM_GETROUTE, ACK, |w| {
        w.header(&header).attr(RTA_DST, &bytes);
    });
    let is_missing = |e: &Error| {
        [Errno::ENETUNREACH, Errno::EHOSTUNREACH, Errno::ENOENT, Errno::EACCES, Errno::EINVAL].contains(&e.errno)
    };
    socket.get(&request, is_missing, |message| {
        if message.kind != libc::RTM_NEWROUTE {
            return None;
        }
        let attrs = Attrs::behind(message.body, RTMSG_LEN);
        let has_gateway = [RTA_GATEWAY, RTA_VIA].into_iter().any(|kind| attrs.find(kind).is_some());
        attrs.find(RTA_OIF).and_then(u32_ne).filter(|_| !has_gateway)
    })
}

/// Index of the link behind the default route of the main table with the lowest metric, IPv4 before IPv6.
pub fn default_link(socket: &mut Socket) -> Result<Option<u32>> {
    for v6 in [false, true] {
        let best = list(socket, v6)?
            .into_iter()
            .filter(|r| r.prefix == 0 && r.table == Some(MAIN_TABLE) && r.link.is_some())
            .min_by_key(|r| r.priority.unwrap_or(0));
        if let Some(route) = best {
            return Ok(route.link);
        }
    }
    Ok(None)
}

/// The route by each of its next hops; none if the message is about something else.
fn read(message: &Message<'_>) -> Vec<Route> {
    let Some(route) = read_common(message) else { return Vec::new() };
    let Some(mut hops) = Attrs::behind(message.body, RTMSG_LEN).find(RTA_MULTIPATH) else { return vec![route] };
    let mut routes = Vec::new();
    while let Some(head) = hops.get(..RTNEXTHOP_LEN) {
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let Some(hop) = hops.get(..length).filter(|_| length >= RTNEXTHOP_LEN) else { break };
        let gateway = Attrs::behind(hop, RTNEXTHOP_LEN).find(RTA_GATEWAY).and_then(ip_from_bytes);
        routes.push(Route { gateway, link: u32_ne(&head[4..]), ..route });
        hops = hops.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    routes
}

/// All that the next hops have in common, and what is said of the only one.
fn read_common(message: &Message<'_>) -> Option<Route> {
    let head = message.body.get(..RTMSG_LEN)?;
    if message.kind != libc::RTM_NEWROUTE || head[7] != libc::RTN_UNICAST {
        return None;
    }
    let attrs = Attrs::behind(message.body, RTMSG_LEN);
    let number = |kind| attrs.find(kind).and_then(u32_ne);
    let metric = |kind| attrs.nested(RTA_METRICS).find(kind).and_then(u32_ne);
    let unspecified = if i32::from(head[0]) == libc::AF_INET6 {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    } else {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    };
    Some(Route {
        dst: attrs.find(RTA_DST).map_or(Some(unspecified), ip_from_bytes)?,
        prefix: head[1],
        gateway: attrs.find(RTA_GATEWAY).and_then(ip_from_bytes),
        link: number(RTA_OIF),
        table: Some(number(RTA_TABLE).unwrap_or(u32::from(head[4]))),
        scope: Some(head[6]),
        priority: number(RTA_PRIORITY),
        mtu: metric(RTAX_MTU),
        advmss: metric(RTAX_ADVMSS),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Messages;

    #[test]
    fn a_route_with_everything_is_read_back() {
        for (dst, gateway) in [("10.1.0.0", "10.0.0.1"), ("fd01::", "fd00::1")] {
            let route = Route {
                dst: dst.parse().unwrap(),
                prefix: 48.min(if dst.contains(':') { 48 } else { 16 }),
                gateway: Some(gateway.parse().unwrap()),
                link: Some(3),
                table: Some(1000),
                scope: Some(0),
                priority: Some(77),
                mtu: Some(1300),
                advmss: Some(1200),
            };
            let mut request = Request::new();
            push_add(&mut request, &route);
            assert_eq!(read(&Messages(request.bytes()).next().unwrap()), [route]);
        }
    }
}
