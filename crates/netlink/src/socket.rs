//! A blocking netlink socket.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};

use crate::wire::{ACK, Attrs, DUMP, HEADER_LEN, Message, Messages, Request, Writer, text};
use crate::{Error, Result};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
/// A dump that other writers disturb is asked for again this often, then its last answer is an error.
pub(crate) const DUMP_TRIES: usize = 20;
/// Messages of one send whose acknowledgements fit into the smallest receive buffer (each takes some 800 bytes of it).
const SLICE: usize = 64;
/// The kernel builds dump messages of at most 32 KiB.
const RECEIVE_BUFFER: usize = 32 * 1024;

/// Which part of the kernel answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Links, addresses, routes, neighbours.
    Route,
    /// nf_tables, conntrack.
    Netfilter,
    /// Sockets of the namespace.
    SockDiag,
}

/// A netlink socket in the network namespace in which it was opened.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    buf: Box<[u8]>,
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    pub fn open(protocol: Protocol) -> Result<Self> {
        let protocol = match protocol {
            Protocol::Route => SockProtocol::NetlinkRoute,
            Protocol::Netfilter => SockProtocol::NetlinkNetFilter,
            Protocol::SockDiag => SockProtocol::NetlinkSockDiag,
        };
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        // Extended acknowledgements carry the kernel's reason; the strict check makes dumps honour their filters.
        // Kernels without them answer with less, so a refusal is no error.
        for option in [libc::NETLINK_CAP_ACK, libc::NETLINK_EXT_ACK, libc::NETLINK_GET_STRICT_CHK] {
            let _ = set_option(&fd, libc::SOL_NETLINK, option, 1);
        }
        Ok(Self::from(fd))
    }

    /// Opens a socket that receives the notifications of these groups (`RTNLGRP_*`, `NFNLGRP_*`).
    pub(crate) fn listen(protocol: Protocol, groups: &[libc::c_int]) -> Result<Self> {
        let socket = Self::open(protocol)?;
        // The kernel skips the socket that asked for a change by its number, and an unbound one has the kernel's own.
        bind(socket.fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        for group in groups {
            set_option(&socket.fd, libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP, *group)?;
        }
        Ok(socket)
    }

    /// Allows requests of up to `bytes` in one send, beyond the system's limit where we may.
    pub(crate) fn grow_send_buffer(&self, bytes: usize) {
        let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
        let _ = set_option(&self.fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, bytes)
            .or_else(|_| set_option(&self.fd, libc::SOL_SOCKET, libc::SO_SNDBUF, bytes));
    }

    /// Sends the requests and reads all that comes back; the first refusal is returned, after the rest was read.
    ///
    /// The kernel works inside `send`, so everything is queued by the time it returns: reading until the queue is
    /// empty can neither miss an answer nor wait for one that never comes (an nf_tables batch that is refused at
    /// its first message acknowledges nothing else).
    pub fn transact(&mut self, request: &Request, each: impl FnMut(Message<'_>)) -> Result<()> {
        self.exchange(request.bytes(), each)
    }

    /// The same for requests that each stand for themselves, in slices: the acknowledgements of hundreds at once would
    /// not fit into the socket's buffer. Ends at the first slice with a refusal.
    pub fn transact_each(&mut self, request: &Request) -> Result<()> {
        request.slices(SLICE).into_iter().try_for_each(|slice| self.exchange(slice, |_| ()))
    }

    fn exchange(&mut self, bytes: &[u8], mut each: impl FnMut(Message<'_>)) -> Result<()> {
        self.send(bytes)?;
        let mut first = None;
        while let Some(len) = self.receive(MsgFlags::MSG_DONTWAIT)? {
            for message in Messages(&self.buf[..len]) {
                match message.kind {
                    NLMSG_ERROR | NLMSG_DONE => {
                        if let Some(error) = refusal(&message) {
                            first.get_or_insert(error);
                        }
                    }
                    _ if message.flags & NLM_F_DUMP_INTR != 0 => {
                        first.get_or_insert(Errno::EINTR.into());
                    }
                    _ => each(message),
                }
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// One acknowledged request.
    pub fn request(&mut self, kind: u16, flags: u16, body: impl FnOnce(&mut Writer<'_>)) -> Result<()> {
        let mut request = Request::new();
        request.message(kind, flags | ACK, body);
        self.transact(&request, |_| ())
    }

    /// Asks for one object; `None` if `missing` says that this refusal means "there is none".
    pub(crate) fn get<T>(
        &mut self,
        request: &Request,
        missing: impl Fn(&Error) -> bool,
        mut read: impl FnMut(Message<'_>) -> Option<T>,
    ) -> Result<Option<T>> {
        let mut found = None;
        match self.transact(request, |message| found = read(message).or(found.take())) {
            Ok(()) => Ok(found),
            Err(error) if missing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks for all objects; a dump that another writer disturbed is asked for again.
    pub(crate) fn dump<T>(
        &mut self,
        kind: u16,
        body: impl Fn(&mut Writer<'_>),
        mut read: impl FnMut(Message<'_>) -> Option<T>,
    ) -> Result<Vec<T>> {
        let mut tries = 0;
        loop {
            let mut request = Request::new();
            request.message(kind, DUMP, &body);
            let mut all = Vec::new();
            match self.transact(&request, |message| all.extend(read(message))) {
                Err(error) if error.is(Errno::EINTR) && tries < DUMP_TRIES => tries += 1,
                result => return result.map(|()| all),
            }
        }
    }

    /// Reads one datagram of notifications, if there is one.
    pub(crate) fn notifications(&mut self, mut each: impl FnMut(Message<'_>)) -> Result<()> {
        if let Some(len) = self.receive(MsgFlags::MSG_DONTWAIT)? {
            Messages(&self.buf[..len]).for_each(&mut each);
        }
        Ok(())
    }

    fn send(&self, bytes: &[u8]) -> Result<()> {
        loop {
            match send(self.fd.as_raw_fd(), bytes, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
                Ok(_) => return Ok(()),
            }
        }
    }

    fn receive(&mut self, flags: MsgFlags) -> Result<Option<usize>> {
        loop {
            match recv(self.fd.as_raw_fd(), &mut self.buf, flags | MsgFlags::MSG_TRUNC) {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(errno) => return Err(errno.into()),
                Ok(len) if len > self.buf.len() => return Err(Errno::EMSGSIZE.into()),
                Ok(len) => return Ok(Some(len)),
            }
        }
    }
}

/// One that somebody else has opened: the kernel, or who plays it, is at its other end.
impl From<OwnedFd> for Socket {
    fn from(fd: OwnedFd) -> Self {
        Self { fd, buf: vec![0; RECEIVE_BUFFER].into() }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn refusal(message: &Message<'_>) -> Option<Error> {
    let code = i32::from_ne_bytes(message.body.get(..4)?.try_into().ok()?);
    if code == 0 {
        return None;
    }
    // With NETLINK_CAP_ACK only the request's header is repeated; the attributes follow it.
    let text = (message.kind == NLMSG_ERROR && message.flags & NLM_F_ACK_TLVS != 0)
        .then(|| Attrs::behind(message.body, 4 + HEADER_LEN).find(NLMSGERR_ATTR_MSG).map(text))
        .flatten();
    let request = usize::try_from(message.seq.saturating_sub(1)).unwrap_or(0);
    Some(Error { errno: Errno::from_raw(code.wrapping_neg()), text, request })
}

fn set_option(fd: &OwnedFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> Result<()> {
    // SAFETY: the kernel reads four bytes from a living c_int; the descriptor is open.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const value).cast(), 4) };
    Errno::result(result).map(drop).map_err(Error::from)
}
