//! The pod's link: finding it, setting its attributes, restoring them.

use cni::{AddResult, Attachment, Error};
use host::netns::NetNs;
use netlink::link::{self, Link};
use netlink::{Protocol, Socket};

use crate::attributes::{Attribute, Attributes};
use crate::backup::{LinkId, Record};
use crate::mac;

/// An attachment's end in its pod.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pod<'a> {
    pub(crate) netns: &'a NetNs,
    pub(crate) attachment: &'a Attachment,
    /// The chain's result, if it is known: which links the host has for the pod, and its addresses.
    pub(crate) result: Option<&'a AddResult>,
}

impl Pod<'_> {
    /// A socket in the pod, and its link; `None` if there is none of this name.
    pub(crate) fn look(&self) -> Result<(Socket, Option<Link>), Error> {
        let name = &self.attachment.ifname;
        let failed = |e: netlink::Error| Error::internal(format!("failed to look for \"{name}\": {e}"));
        let socket = self.netns.enter(|| Socket::open(Protocol::Route)).map_err(|e| Error::internal(e.to_string()))?;
        let mut socket = socket.map_err(failed)?;
        let link = link::by_name(&mut socket, name).map_err(failed)?;
        Ok((socket, link))
    }

    /// The same where there has to be one.
    pub(crate) fn find(&self) -> Result<(Socket, Link), Error> {
        let (socket, link) = self.look()?;
        let Some(link) = link else {
            return Err(Error::internal(format!("failed to get \"{}\": no such interface", self.attachment.ifname))
                .with_details("tuning comes behind the plugin that makes the interface, and has its CNI_IFNAME"));
        };
        Ok((socket, link))
    }

    /// Its link, if that is the one that the record is of.
    pub(crate) fn of(&self, record: &Record) -> Option<Link> {
        let (_, link) = self.look().ok()?;
        link.filter(|link| record.is_of(&LinkId::new(self.netns, link.index)))
    }

    /// Sets one attribute of the link, which was as `link` says.
    pub(crate) fn set(&self, socket: &mut Socket, link: &Link, attribute: Attribute) -> Result<(), String> {
        match attribute {
            Attribute::Mac(mac) => mac::change(self, socket, link, mac),
            other => other.set(socket, link.index).map_err(|e| e.to_string()),
        }
    }

    /// Sets the link back to what it was, past errors, in the reference's order: an MTU may stand in the way of the
    /// rest. Returns what could not be restored, and why.
    pub(crate) fn restore(&self, socket: &mut Socket, link: &Link, originals: &Attributes) -> Vec<String> {
        let mut attributes: Vec<Attribute> = originals.list().collect();
        attributes.sort_by_key(|attribute| !matches!(attribute, Attribute::Mtu(_)));
        let failure = |attribute: Attribute| {
            let error = self.set(socket, link, attribute).err()?;
            Some(format!("failed to restore {attribute} of \"{}\": {error}", link.name))
        };
        attributes.into_iter().filter_map(failure).collect()
    }
}
