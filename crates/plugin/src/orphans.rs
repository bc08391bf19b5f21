//! What attachments have left that ended without a DEL: whose it is, and when to look for it.

use std::collections::HashSet;
use std::fmt::Display;
use std::time::{Duration, Instant};

use cni::Error;
use netlink::link;
use netlink::{Protocol, Socket};

use crate::host_end::is_of_identity;
use crate::liveness::{HostLink, host_link};

/// Attachments that had a host end and have none any more, by their identities: their namespace ended, or somebody
/// removed the pair, and no DEL came.
///
/// An ADD makes the host end before anything that mentions the attachment, and a DEL removes it after all of that. So
/// what is removed in one transaction, for which [`has`](Self::has) is asked after the generation that it depends on
/// was read, is nobody's.
#[derive(Debug)]
pub struct Orphans {
    identities: HashSet<[u8; 16]>,
    deadline: Instant,
}

/// What is done about orphans may take as long; the rest is left to the next time.
const PATIENCE: Duration = Duration::from_secs(5);

impl Orphans {
    /// Those of these attachments that have no host end: under none of its names, nor a link of another name with its
    /// alias or address.
    ///
    /// # Errors
    /// It cannot be told.
    pub fn among(mut identities: HashSet<[u8; 16]>) -> Result<Self, Error> {
        let looking = |why: &dyn Display| Error::internal(format!("failed to look for pods' host links: {why}"));
        let mut result = Ok(());
        identities.retain(|identity| match host_link(identity) {
            HostLink::Missing => true,
            HostLink::There(_) => false,
            HostLink::Unknown(why) => {
                result = Err(why);
                false
            }
        });
        result.map_err(|why| looking(&why))?;
        if !identities.is_empty() {
            // Dear, with as many links as pods: only when something looks like it. An ifb of the attachment says the same
            // of itself, and outlives the pair.
            let links = Socket::open(Protocol::Route).and_then(|mut socket| link::list_of(&mut socket, "veth"));
            let links = links.map_err(|e| looking(&e))?;
            identities.retain(|identity| !links.iter().any(|link| is_of_identity(link, identity)));
        }
        Ok(Self { identities, deadline: Instant::now() + PATIENCE })
    }

    /// The same without these, for which something else speaks.
    #[must_use]
    pub fn without(mut self, alive: &HashSet<[u8; 16]>) -> Self {
        self.identities.retain(|identity| !alive.contains(identity));
        self
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.identities.is_empty()
    }

    /// Whether it is one of them still. Nobody is once the time is over or a signal asked to end.
    #[must_use]
    pub fn has(&self, identity: &[u8; 16]) -> bool {
        self.identities.contains(identity)
            && host::signal::pending().is_none()
            && Instant::now() < self.deadline
            && host_link(identity) == HostLink::Missing
    }
}

/// Runs the look for what orphans have left, once a minute at most: what an ADD does when it has succeeded and its
/// result is told. A failure is no failure of the ADD.
pub fn sweep(plugin: &str, look: impl FnOnce() -> Result<(), Error>) {
    sweep_place(plugin, plugin, look);
}

/// The same for each of the places in which a plugin keeps something: `place` is a name of it.
pub fn sweep_place(plugin: &str, place: &str, look: impl FnOnce() -> Result<(), Error>) {
    if host::signal::pending().is_some() || !host::sweep::is_due(place) {
        return;
    }
    if let Err(error) = look() {
        host::syslog::warn(plugin, format_args!("looking for what attachments without a DEL have left: {error}"));
    }
}
