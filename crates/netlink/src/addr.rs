//! Addresses of links (`RTM_*ADDR`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::libc;
use rtnetlink::AddressMessageBuilder;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};

use crate::wire::{ACK, Attrs, CREATE, EXCL, Message, Request, u32_ne};
use crate::{Result, Socket};

const IFADDRMSG_LEN: usize = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_DADFAILED: u32 = 0x08;
const IFA_F_TENTATIVE: u32 = 0x40;
const IFA_F_MANAGETEMPADDR: u32 = 0x100;

/// An address on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// Index of the link.
    pub link: u32,
    /// The local address.
    pub ip: IpAddr,
    /// Length of the subnet's prefix, in bits.
    pub prefix: u8,
    /// `IFA_F_*`.
    pub flags: u32,
}

impl Address {
    /// Whether duplicate address detection has not ended yet.
    #[must_use]
    pub fn is_tentative(&self) -> bool {
        self.flags & IFA_F_TENTATIVE != 0 && !self.is_duplicate()
    }

    /// Whether the kernel made it from a router advertisement (RFC 4862), or makes temporary ones beside it as if it had.
    #[must_use]
    pub fn is_autoconfigured(&self) -> bool {
        self.flags & IFA_F_MANAGETEMPADDR != 0
    }

    /// Whether duplicate address detection found another owner.
    #[must_use]
    pub fn is_duplicate(&self) -> bool {
        self.flags & IFA_F_DADFAILED != 0
    }
}

/// Whether an IPv6 address is looked for on the link before it is used (RFC 4862).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dad {
    /// Use it at once.
    Skip,
    /// The kernel's duplicate address detection decides.
    Detect,
}

/// Appends the request for an address; `EEXIST` if the link has it. The broadcast address is set for IPv4
/// prefixes shorter than 31 bits.
pub fn push_add(request: &mut Request, link: u32, ip: IpAddr, prefix: u8, dad: Dad) {
    let mut message = message(link, ip, prefix);
    if ip.is_ipv6() && dad == Dad::Skip {
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    request.typed(libc::RTM_NEWADDR, ACK | CREATE | EXCL, &message);
}

/// Adds one address; see [`push_add`].
pub fn add(socket: &mut Socket, link: u32, ip: IpAddr, prefix: u8, dad: Dad) -> Result<()> {
    let mut request = Request::new();
    push_add(&mut request, link, ip, prefix, dad);
    socket.transact(&request, |_| ())
}

/// Removes one address.
pub fn delete(socket: &mut Socket, link: u32, ip: IpAddr, prefix: u8) -> Result<()> {
    let mut request = Request::new();
    request.typed(libc::RTM_DELADDR, ACK, &message(link, ip, prefix));
    socket.transact(&request, |_| ())
}

/// The addresses of a link, IPv4 first.
pub fn list(socket: &mut Socket, link: u32) -> Result<Vec<Address>> {
    list_both(socket, Some(link))
}

/// The addresses of all links, IPv4 first. It costs time for each link of the namespace, also for those that have none.
pub fn list_all(socket: &mut Socket) -> Result<Vec<Address>> {
    list_both(socket, None)
}

/// The addresses of all links, of one family: half of what [`list_all`] costs.
pub fn list_all_of(socket: &mut Socket, v6: bool) -> Result<Vec<Address>> {
    list_family(socket, None, u8::try_from(if v6 { libc::AF_INET6 } else { libc::AF_INET }).unwrap_or(0))
}

fn list_both(socket: &mut Socket, link: Option<u32>) -> Result<Vec<Address>> {
    let mut all = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        all.extend(list_family(socket, link, u8::try_from(family).unwrap_or(0))?);
    }
    Ok(all)
}

/// The IPv6 addresses of a link.
pub fn list_v6(socket: &mut Socket, link: u32) -> Result<Vec<Address>> {
    list_family(socket, Some(link), u8::try_from(libc::AF_INET6).unwrap_or(0))
}

fn list_family(socket: &mut Socket, link: Option<u32>, family: u8) -> Result<Vec<Address>> {
    let mut header = [0; IFADDRMSG_LEN];
    header[0] = family;
    header[4..].copy_from_slice(&link.unwrap_or(0).to_ne_bytes());
    // A kernel without IPv6 answers the dump of another family instead: filter by hand as well.
    let is_wanted =
        |a: &Address| link.is_none_or(|link| a.link == link) && a.ip.is_ipv4() == (i32::from(family) == libc::AF_INET);
    socket.dump(
        libc::RTM_GETADDR,
        |w| {
            w.header(&header);
        },
        |message| read(&message).filter(is_wanted),
    )
}

pub(crate) fn read(message: &Message<'_>) -> Option<Address> {
    if message.kind != libc::RTM_NEWADDR {
        return None;
    }
    let head = message.body.get(..IFADDRMSG_LEN)?;
    let attrs = Attrs::behind(message.body, IFADDRMSG_LEN);
    // For IPv4 the local address is IFA_LOCAL (IFA_ADDRESS is the peer's on point-to-point links).
    let ip = attrs.find(IFA_LOCAL).or(attrs.find(IFA_ADDRESS)).and_then(ip_from_bytes)?;
    let flags = attrs.find(IFA_FLAGS).and_then(u32_ne).unwrap_or(u32::from(head[2]));
    Some(Address { link: u32_ne(&head[4..])?, ip, prefix: head[1], flags })
}

pub(crate) fn ip_from_bytes(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn message(link: u32, ip: IpAddr, prefix: u8) -> AddressMessage {
    match ip {
        // Sets the broadcast address too.
        IpAddr::V4(ip) => AddressMessageBuilder::<Ipv4Addr>::new().index(link).address(ip, prefix).build(),
        IpAddr::V6(ip) => AddressMessageBuilder::<Ipv6Addr>::new().index(link).address(ip, prefix).build(),
    }
}
