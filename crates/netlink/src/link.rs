//! Links (`RTM_*LINK`).
//!
//! Source: `net/core/rtnetlink.c`, `drivers/net/veth.c`. A veth pair is made by one request with both ends where they
//! belong, because moving a link into another namespace costs an RCU grace period (20-30 ms).

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc;
use rtnetlink::packet_core::DefaultNla;
use rtnetlink::packet_route::link::{InfoBridge, InfoData, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::{LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth};

use crate::bridge::{BridgeState, PortState, read_bridge, read_port};
use crate::wire::{ACK, Attrs, CREATE, EXCL, Message, Request, Writer, u32_ne};
use crate::{Error, Result, Socket};

pub(crate) const IFINFOMSG_LEN: usize = 16;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_TXQLEN: u16 = 13;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_VLAN_ID: u16 = 1;
const IFLA_INET_CONF: u16 = 1;
const IPV4_DEVCONF_ARP_NOTIFY: u16 = 22;
const IPV4_DEVCONF_ROUTE_LOCALNET: u16 = 26;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const IFLA_INET6_CONF: u16 = 2;
/// Position in the array of the link's IPv6 settings (`DEVCONF_*` in `include/uapi/linux/ipv6.h`).
const DEVCONF_ACCEPT_RA: usize = 3;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IF_OPER_UP: u8 = 6;

/// A link layer address.
pub type Mac = [u8; 6];

/// What the kernel says of a link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// Interface index, unique in its namespace.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// `veth`, `bridge`, …; `None` for physical devices and the loopback.
    pub kind: Option<String>,
    /// Link layer address; `None` where it has another length than 6.
    pub mac: Option<Mac>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Length of the transmit queue, in packets.
    pub tx_queue_len: u32,
    /// `IFF_*`.
    pub flags: u32,
    /// Whether it can carry packets (RFC 2863), which trails the carrier by some microseconds.
    pub is_operational: bool,
    /// Index of the bridge (or other master) it belongs to.
    pub master: Option<u32>,
    /// For a veth: the index of its other end, in that end's namespace. For one on top of another link (as a `vlan`): that
    /// link's.
    pub peer: Option<u32>,
    /// Whether `peer` is in another namespace.
    pub peer_is_elsewhere: bool,
    /// Of a link of the kind `vlan`: the VLAN whose frames it takes from the link below it.
    pub vlan: Option<u16>,
    /// Free text that spells out whose link it is.
    pub alias: Option<String>,
    /// Of a bridge.
    pub bridge: Option<BridgeState>,
    /// Of a port of a bridge.
    pub port: Option<PortState>,
    /// Whether IPv6 takes addresses and routes from router advertisements: the sysctl `accept_ra`. `None` without IPv6.
    pub accept_ra: Option<u32>,
}

impl Link {
    /// Whether the link is administratively up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.flags & flag(libc::IFF_UP) != 0
    }

    /// Whether it was put into promiscuous mode by an administrator (a packet capture does not show here).
    #[must_use]
    pub fn is_promiscuous(&self) -> bool {
        self.flags & flag(libc::IFF_PROMISC) != 0
    }

    /// Whether an administrator had it take all multicast packets (what a bridge or a capture asks for does not show).
    #[must_use]
    pub fn takes_all_multicast(&self) -> bool {
        self.flags & flag(libc::IFF_ALLMULTI) != 0
    }

    /// Whether it is of this kind.
    #[must_use]
    pub fn is(&self, kind: &str) -> bool {
        self.kind.as_deref() == Some(kind)
    }
}

/// A bridge to be made.
#[derive(Debug)]
pub struct NewBridge<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its address; set at creation it stays, whichever ports come and go.
    pub mac: Mac,
    /// In bytes; `None` for the kernel's default.
    pub mtu: Option<u32>,
    /// Whether VLAN filtering is on.
    pub vlan_filtering: bool,
}

/// A veth pair to be made, its host end in the socket's namespace.
#[derive(Debug)]
pub struct NewVeth<'a> {
    /// Name of the host end.
    pub host_name: &'a str,
    /// Address of the host end.
    pub host_mac: Mac,
    /// Index of the bridge that the host end joins; `None` for a pair without one.
    pub master: Option<u32>,
    /// Name of the other end.
    pub peer_name: &'a str,
    /// Address of the other end.
    pub peer_mac: Mac,
    /// Namespace of the other end; `None` for the socket's own.
    pub peer_netns: Option<BorrowedFd<'a>>,
    /// Of both ends, in bytes; `None` for the kernel's default.
    pub mtu: Option<u32>,
}

/// The link of this name; `None` if there is none.
pub fn by_name(socket: &mut Socket, name: &str) -> Result<Option<Link>> {
    get(socket, 0, |m| m.name(name))
}

/// The link of this index; `None` if there is none.
pub fn by_index(socket: &mut Socket, index: u32) -> Result<Option<Link>> {
    get(socket, index, |m| m)
}

fn get(
    socket: &mut Socket,
    index: u32,
    key: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
) -> Result<Option<Link>> {
    let mut request = Request::new();
    request.typed(libc::RTM_GETLINK, ACK, &key(LinkUnspec::new_with_index(index)).build());
    socket.get(&request, |e| e.is(Errno::ENODEV), |m| read(&m))
}

/// All links of this kind; use it only where no name or index is known, it costs time for each.
pub fn list_of(socket: &mut Socket, kind: &str) -> Result<Vec<Link>> {
    socket.dump(
        libc::RTM_GETLINK,
        |w| {
            w.header(&[0; IFINFOMSG_LEN]).nest(IFLA_LINKINFO, |w| {
                w.str(IFLA_INFO_KIND, kind);
            });
        },
        // A kernel without the kind's module does not filter.
        |m| read(&m).filter(|l| l.is(kind)),
    )
}

/// The ports of a bridge; like [`list_of`], it costs time for each.
pub fn ports(socket: &mut Socket, bridge: u32) -> Result<Vec<Link>> {
    socket.dump(
        libc::RTM_GETLINK,
        |w| {
            w.header(&[0; IFINFOMSG_LEN]).u32(IFLA_MASTER, bridge);
        },
        // Kernels before 4.2 do not filter.
        |m| read(&m).filter(|l| l.master == Some(bridge)),
    )
}

/// Whether a bridge has any port.
pub fn has_ports(socket: &mut Socket, bridge: u32) -> Result<bool> {
    Ok(!ports(socket, bridge)?.is_empty())
}

/// Makes a bridge, which is down at first; `EEXIST` if the name is taken.
pub fn create_bridge(socket: &mut Socket, new: &NewBridge<'_>) -> Result<()> {
    let mut builder = LinkMessageBuilder::<LinkBridge>::new(new.name).address(new.mac.to_vec());
    if let Some(mtu) = new.mtu {
        builder = builder.mtu(mtu);
    }
    if new.vlan_filtering {
        builder = builder.set_info_data(InfoData::Bridge(vec![InfoBridge::VlanFiltering(true)]));
    }
    let mut request = Request::new();
    request.typed(libc::RTM_NEWLINK, ACK | CREATE | EXCL, &builder.build());
    socket.transact(&request, |_| ())
}

/// Turns VLAN filtering of a bridge on.
pub fn set_vlan_filtering(socket: &mut Socket, name: &str) -> Result<()> {
    // Only RTM_NEWLINK looks into the bridge's data; RTM_SETLINK passes them over in silence.
    let message = LinkMessageBuilder::<LinkBridge>::new(name)
        .set_info_data(InfoData::Bridge(vec![InfoBridge::VlanFiltering(true)]))
        .build();
    let mut request = Request::new();
    request.typed(libc::RTM_NEWLINK, ACK, &message);
    socket.transact(&request, |_| ())
}

/// Makes a veth pair, both ends down, the host's end on its bridge. `EEXIST` if either name is taken.
///
/// A port that is up when it joins a bridge is enabled, disabled when its missing carrier is noticed, and enabled again
/// when it gets one; each time the kernel visits all ports (`br_port_state_selection`). One that is set up after its
/// missing carrier was noticed (looking at the link makes the kernel notice) is enabled once.
pub fn create_veth(socket: &mut Socket, new: &NewVeth<'_>) -> Result<()> {
    let mut request = Request::new();
    request.typed(libc::RTM_NEWLINK, ACK | CREATE | EXCL, &veth_message(new));
    socket.transact(&request, |_| ())
}

/// An intermediate functional block to be made: a link that only exists to queue what is redirected to it.
#[derive(Debug)]
pub struct NewIfb<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its address, which nobody ever sees; one that is set at creation is left alone by udev.
    pub mac: Mac,
    /// In bytes: that of the link whose packets it queues.
    pub mtu: u32,
}

/// Makes an ifb, down at first, without a queue of its own (`drivers/net/ifb.c`). `EEXIST` if the name is taken,
/// `EOPNOTSUPP` if the kernel has no such links (module `ifb`).
pub fn create_ifb(socket: &mut Socket, new: &NewIfb<'_>) -> Result<()> {
    socket.request(libc::RTM_NEWLINK, CREATE | EXCL, |w| {
        w.header(&[0; IFINFOMSG_LEN])
            .str(IFLA_IFNAME, new.name)
            .attr(IFLA_ADDRESS, &new.mac)
            .u32(IFLA_MTU, new.mtu)
            .u32(IFLA_TXQLEN, 0)
            .nest(IFLA_LINKINFO, |w| {
                w.str(IFLA_INFO_KIND, "ifb");
            });
    })
}

/// Whether the kernel has (or can load) ifb links. Nothing is made: one is asked for with a multicast address, which
/// `ifb_validate` refuses.
pub fn has_ifb(socket: &mut Socket) -> Result<bool> {
    let asked = socket.request(libc::RTM_NEWLINK, CREATE | EXCL, |w| {
        w.header(&[0; IFINFOMSG_LEN]).attr(IFLA_ADDRESS, &[1, 0, 0, 0, 0, 0]).nest(IFLA_LINKINFO, |w| {
            w.str(IFLA_INFO_KIND, "ifb");
        });
    });
    match asked {
        Err(error) if error.is(Errno::EOPNOTSUPP) => Ok(false),
        Err(error) if error.is(Errno::EPERM) => Err(error),
        _ => Ok(true),
    }
}

fn veth_message(new: &NewVeth<'_>) -> LinkMessage {
    let mut peer = LinkUnspec::new_with_name(new.peer_name).address(new.peer_mac.to_vec());
    let mut host = LinkMessageBuilder::<LinkVeth>::new(new.host_name, new.peer_name).address(new.host_mac.to_vec());
    if let Some(mtu) = new.mtu {
        peer = peer.mtu(mtu);
        host = host.mtu(mtu);
    }
    if let Some(netns) = new.peer_netns {
        peer = peer.setns_by_fd(netns.as_raw_fd());
    }
    if let Some(master) = new.master {
        host = host.controller(master);
    }
    host.set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build()))).build()
}

/// Removes a link (of a veth pair: both ends); no error if there is none.
pub fn delete(socket: &mut Socket, index: u32) -> Result<()> {
    let mut request = Request::new();
    request.typed(libc::RTM_DELLINK, ACK, &LinkUnspec::new_with_index(index).build());
    match socket.transact(&request, |_| ()) {
        Err(error) if error.is(Errno::ENODEV) => Ok(()),
        result => result,
    }
}

/// Sets a link up.
pub fn set_up(socket: &mut Socket, index: u32) -> Result<()> {
    set(socket, index, LinkMessageBuilder::up)
}

/// Sets a link down.
pub fn set_down(socket: &mut Socket, index: u32) -> Result<()> {
    set(socket, index, LinkMessageBuilder::down)
}

/// Puts a link into promiscuous mode, or ends what an administrator asked for (a packet capture keeps its own).
pub fn set_promiscuous(socket: &mut Socket, index: u32, on: bool) -> Result<()> {
    set(socket, index, |m| m.promiscuous(on))
}

/// Lets a link take all multicast packets, or ends it.
pub fn set_all_multicast(socket: &mut Socket, index: u32, on: bool) -> Result<()> {
    set(socket, index, |m| m.allmulticast(on))
}

/// Sets the length of the transmit queue, in packets.
pub fn set_tx_queue_len(socket: &mut Socket, index: u32, packets: u32) -> Result<()> {
    set(socket, index, |m| m.txqueuelen(packets))
}

/// Sets the MTU, in bytes.
pub fn set_mtu(socket: &mut Socket, index: u32, mtu: u32) -> Result<()> {
    set(socket, index, |m| m.mtu(mtu))
}

/// Appends the request that sets the MTU, in bytes.
pub fn push_mtu(request: &mut Request, index: u32, mtu: u32) {
    push_set(request, index, |m| m.mtu(mtu));
}

/// Appends the request that makes a link a port of a bridge.
pub fn push_master(request: &mut Request, index: u32, bridge: u32) {
    push_set(request, index, |m| m.controller(bridge));
}

/// Appends the request that sets the alias (at most 255 bytes).
pub fn push_alias(request: &mut Request, index: u32, alias: &str) {
    push_set(request, index, |m| with_alias(m, alias));
}

/// Without the NUL that the builder appends: the kernel would count it, and refuse 255 bytes.
fn with_alias<T>(message: LinkMessageBuilder<T>, alias: &str) -> LinkMessageBuilder<T> {
    let attribute = DefaultNla::new(IFLA_IFALIAS, alias.as_bytes().to_vec());
    message.append_extra_attribute(LinkAttribute::Other(attribute))
}

/// Takes a port off its bridge.
pub fn clear_master(socket: &mut Socket, index: u32) -> Result<()> {
    set(socket, index, LinkMessageBuilder::nocontroller)
}

/// Appends the request that sets the link layer address.
///
/// Setting the present one changes nothing, but tells the kernel's `NETDEV_CHANGEADDR` listeners: with the sysctls
/// `arp_notify` and `ndisc_notify` on, the link announces all its addresses (`net/ipv4/devinet.c`, `net/ipv6/ndisc.c`).
pub fn push_mac(request: &mut Request, index: u32, mac: Mac) {
    push_set(request, index, |m| m.address(mac.to_vec()));
}

/// Sets the link layer address; see [`push_mac`].
pub fn set_mac(socket: &mut Socket, index: u32, mac: Mac) -> Result<()> {
    let mut request = Request::new();
    push_mac(&mut request, index, mac);
    socket.transact(&request, |_| ())
}

fn set(
    socket: &mut Socket,
    index: u32,
    change: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
) -> Result<()> {
    let mut request = Request::new();
    push_set(&mut request, index, change);
    socket.transact(&request, |_| ())
}

/// Appends `RTM_SETLINK` for the link of this index.
fn push_set(
    request: &mut Request,
    index: u32,
    change: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
) {
    request.typed(libc::RTM_SETLINK, ACK, &change(LinkUnspec::new_with_index(index)).build());
}

/// Appends the request that sets a link up.
pub fn push_up(request: &mut Request, index: u32) {
    push_set(request, index, LinkMessageBuilder::up);
}

/// Appends the request that lets a link announce its IPv4 addresses whenever its own address is set (the sysctl
/// `arp_notify`, without looking for its file: that takes the longer the more namespaces there are).
pub fn push_arp_notify(request: &mut Request, index: u32) {
    push_family_setting(request, index, AF_INET, |w| {
        w.nest(IFLA_INET_CONF, |w| {
            w.u32(IPV4_DEVCONF_ARP_NOTIFY, 1);
        });
    });
}

/// Lets packets with a source or destination in 127.0.0.0/8 pass by this link (the sysctl `route_localnet`, without
/// looking for its file).
pub fn route_localnet(socket: &mut Socket, index: u32) -> Result<()> {
    let mut request = Request::new();
    push_family_setting(&mut request, index, AF_INET, |w| {
        w.nest(IFLA_INET_CONF, |w| {
            w.u32(IPV4_DEVCONF_ROUTE_LOCALNET, 1);
        });
    });
    socket.transact(&request, |_| ())
}

/// Whether a link lets them pass; `None` if there is no such link. Not by its file either: the kernel looks through those of
/// all namespaces that have one of this name, 0.8 ms among 2,000 (`fs/proc/proc_sysctl.c`, `proc_sys_compare`).
pub fn routes_localnet(socket: &mut Socket, index: u32) -> Result<Option<bool>> {
    let mut request = Request::new();
    request.typed(libc::RTM_GETLINK, ACK, &LinkUnspec::new_with_index(index).build());
    socket.get(
        &request,
        |e| e.is(Errno::ENODEV),
        |message| {
            let conf = Attrs::behind(message.body, IFINFOMSG_LEN).nested(IFLA_AF_SPEC).nested(AF_INET);
            // The n-th setting is the n-th number, counted from 1 (`inet_fill_link_af`).
            let at = 4 * (usize::from(IPV4_DEVCONF_ROUTE_LOCALNET) - 1);
            conf.find(IFLA_INET_CONF)?.get(at..at + 4).and_then(u32_ne).map(|value| value != 0)
        },
    )
}

/// Appends the request that keeps the kernel from giving a link an IPv6 link-local address, to be sent before the link
/// has a carrier.
pub fn push_no_link_local(request: &mut Request, index: u32) {
    push_family_setting(request, index, AF_INET6, |w| {
        w.u8(IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE);
    });
}

fn push_family_setting(request: &mut Request, index: u32, family: u16, setting: impl FnOnce(&mut Writer<'_>)) {
    let mut header = [0; IFINFOMSG_LEN];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    request.message(libc::RTM_SETLINK, ACK, |w| {
        w.header(&header).nest(IFLA_AF_SPEC, |w| {
            w.nest(family, setting);
        });
    });
}

/// Whether the kernel refused a name because it is taken.
#[must_use]
pub fn is_taken(error: &Error) -> bool {
    error.is(Errno::EEXIST)
}

pub(crate) fn read(message: &Message<'_>) -> Option<Link> {
    if message.kind != libc::RTM_NEWLINK {
        return None;
    }
    let head = message.body.get(..IFINFOMSG_LEN)?;
    let (index, flags) = (u32_ne(&head[4..])?, u32_ne(&head[8..])?);
    let mut link = Link { index, flags, ..Link::default() };
    for (kind, value) in Attrs::behind(message.body, IFINFOMSG_LEN) {
        match kind {
            IFLA_ADDRESS => link.mac = value.try_into().ok(),
            IFLA_IFNAME => link.name = crate::wire::text(value),
            IFLA_MTU => link.mtu = u32_ne(value)?,
            IFLA_TXQLEN => link.tx_queue_len = u32_ne(value)?,
            IFLA_LINK => link.peer = u32_ne(value),
            IFLA_LINK_NETNSID => link.peer_is_elsewhere = true,
            IFLA_MASTER => link.master = u32_ne(value).filter(|m| *m != 0),
            IFLA_OPERSTATE => link.is_operational = value.first() == Some(&IF_OPER_UP),
            IFLA_IFALIAS => link.alias = Some(crate::wire::text(value)),
            IFLA_AF_SPEC => {
                let settings = Attrs(value).nested(AF_INET6).find(IFLA_INET6_CONF);
                link.accept_ra = settings.and_then(|all| u32_ne(all.get(DEVCONF_ACCEPT_RA * 4..)?));
            }
            IFLA_LINKINFO => {
                let info = Attrs(value);
                link.kind = info.string(IFLA_INFO_KIND);
                if link.is("bridge") {
                    link.bridge = Some(read_bridge(info.nested(IFLA_INFO_DATA)));
                }
                if link.is("vlan") {
                    let id = info.nested(IFLA_INFO_DATA).find(IFLA_VLAN_ID);
                    link.vlan = id.and_then(|v| Some(u16::from_ne_bytes(v.get(..2)?.try_into().ok()?)));
                }
                if info.string(IFLA_INFO_SLAVE_KIND).as_deref() == Some("bridge") {
                    link.port = Some(read_port(info.nested(IFLA_INFO_SLAVE_DATA)));
                }
            }
            _ => {}
        }
    }
    Some(link)
}

fn flag(bits: libc::c_int) -> u32 {
    bits.cast_unsigned()
}
