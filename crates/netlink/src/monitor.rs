//! Waiting for the kernel to report a change instead of asking again and again.

use std::os::fd::AsFd;
use std::time::Instant;

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::nft::Writer;
use crate::wire::Message;
use crate::{Protocol, Result, Socket};

/// Notifications of one network namespace: that of the calling thread when it was opened.
#[derive(Debug)]
pub struct Monitor {
    socket: Socket,
}

impl Monitor {
    /// Of links that change, come or go.
    pub fn links() -> Result<Self> {
        Ok(Self { socket: Socket::listen(Protocol::Route, &[libc::RTNLGRP_LINK.cast_signed()])? })
    }

    /// Of IPv6 addresses that change, come or go.
    pub fn v6_addresses() -> Result<Self> {
        let group = libc::RTNLGRP_IPV6_IFADDR.cast_signed();
        Ok(Self { socket: Socket::listen(Protocol::Route, &[group])? })
    }

    /// Of changes to the ruleset of nf_tables.
    pub fn ruleset() -> Result<Self> {
        Ok(Self { socket: Socket::listen(Protocol::Netfilter, &[libc::NFNLGRP_NFTABLES])? })
    }

    /// Who changes the ruleset next (see [`Monitor::ruleset`]); `None`: nobody until the deadline.
    pub fn next_writer(&mut self, deadline: Instant) -> Result<Option<Writer>> {
        let mut writer = None;
        while writer.is_none() && self.wait_until_readable(deadline)? {
            self.read(|message| writer = writer.take().or(Writer::read(&message)))?;
        }
        Ok(writer)
    }

    /// Asks `ready` at once and again after each notification, until it answers or the deadline has passed (`None`).
    ///
    /// `ready` is asked on a socket of its own: what is answered there is newer than the notification.
    /// `failed` makes the caller's error of a failure to listen.
    pub fn wait<T, E>(
        &mut self,
        deadline: Instant,
        failed: impl Fn(crate::Error) -> E,
        mut ready: impl FnMut() -> std::result::Result<Option<T>, E>,
    ) -> std::result::Result<Option<T>, E> {
        loop {
            if let Some(answer) = ready()? {
                return Ok(Some(answer));
            }
            if !self.wait_for_notification(deadline).map_err(&failed)? {
                // The last change may have come together with the deadline.
                return ready();
            }
        }
    }

    fn wait_for_notification(&mut self, deadline: Instant) -> Result<bool> {
        Ok(self.wait_until_readable(deadline)? && self.read(|_| ()).map(|()| true)?)
    }

    /// `false`: the deadline has passed.
    fn wait_until_readable(&self, deadline: Instant) -> Result<bool> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            // Rounded up, so that the last millisecond is not spun away.
            let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(0) => {}
                // A signal: who waits asks again, so that it can end the wait. There may be nothing to be read.
                Err(Errno::EINTR) => return Ok(true),
                Err(errno) => return Err(errno.into()),
                Ok(_) => return Ok(true),
            }
        }
    }

    fn read(&mut self, each: impl FnMut(Message<'_>)) -> Result<()> {
        match self.socket.notifications(each) {
            // Too many at once for the buffer: something has changed, that is all there is to know.
            Err(error) if error.is(Errno::ENOBUFS) => Ok(()),
            result => result,
        }
    }
}
