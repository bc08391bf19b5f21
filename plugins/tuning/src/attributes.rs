//! What a link can be given: address, promiscuous mode, MTU, all multicast, length of its queue.

use std::fmt;

use netlink::link::{self, Link, Mac};
use netlink::{Result, Socket};
use serde::{Deserialize, Serialize};

/// Attributes of a link: some to be set, or what they were. Its JSON is the reference's backup, `omitempty` and all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Attributes {
    #[serde(with = "mac_text", skip_serializing_if = "Option::is_none")]
    pub(crate) mac: Option<Mac>,
    #[serde(rename = "promisc", skip_serializing_if = "Option::is_none")]
    pub(crate) promiscuous: Option<bool>,
    /// In bytes; never 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mtu: Option<u32>,
    #[serde(rename = "allmulti", skip_serializing_if = "Option::is_none")]
    pub(crate) all_multicast: Option<bool>,
    /// In packets.
    #[serde(rename = "txQLen", skip_serializing_if = "Option::is_none")]
    pub(crate) tx_queue_len: Option<u32>,
}

impl Attributes {
    /// All that the kernel says of the link.
    pub(crate) fn of(link: &Link) -> Self {
        Self {
            mac: link.mac,
            promiscuous: Some(link.is_promiscuous()),
            mtu: Some(link.mtu),
            all_multicast: Some(link.takes_all_multicast()),
            tx_queue_len: Some(link.tx_queue_len),
        }
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.list().next().is_none()
    }

    /// These, of those that the other has.
    pub(crate) fn only(&self, other: &Self) -> Self {
        Self {
            mac: self.mac.filter(|_| other.mac.is_some()),
            promiscuous: self.promiscuous.filter(|_| other.promiscuous.is_some()),
            mtu: self.mtu.filter(|_| other.mtu.is_some()),
            all_multicast: self.all_multicast.filter(|_| other.all_multicast.is_some()),
            tx_queue_len: self.tx_queue_len.filter(|_| other.tx_queue_len.is_some()),
        }
    }

    /// These, and the other's where there is none.
    pub(crate) fn or(&self, other: &Self) -> Self {
        Self {
            mac: self.mac.or(other.mac),
            promiscuous: self.promiscuous.or(other.promiscuous),
            mtu: self.mtu.or(other.mtu),
            all_multicast: self.all_multicast.or(other.all_multicast),
            tx_queue_len: self.tx_queue_len.or(other.tx_queue_len),
        }
    }

    /// One by one, in the order of setting them.
    pub(crate) fn list(&self) -> impl Iterator<Item = Attribute> {
        [
            self.mac.map(Attribute::Mac),
            self.promiscuous.map(Attribute::Promiscuous),
            self.mtu.map(Attribute::Mtu),
            self.all_multicast.map(Attribute::AllMulticast),
            self.tx_queue_len.map(Attribute::TxQueueLen),
        ]
        .into_iter()
        .flatten()
    }
}

/// One attribute and its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attribute {
    Mac(Mac),
    Promiscuous(bool),
    Mtu(u32),
    AllMulticast(bool),
    TxQueueLen(u32),
}

impl Attribute {
    /// Gives it to a link. Of a changed address nobody is told: see [`crate::mac`].
    pub(crate) fn set(self, socket: &mut Socket, index: u32) -> Result<()> {
        match self {
            Self::Mac(mac) => link::set_mac(socket, index, mac),
            Self::Promiscuous(on) => link::set_promiscuous(socket, index, on),
            Self::Mtu(bytes) => link::set_mtu(socket, index, bytes),
            Self::AllMulticast(on) => link::set_all_multicast(socket, index, on),
            Self::TxQueueLen(packets) => link::set_tx_queue_len(socket, index, packets),
        }
    }
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = |on: &bool| if *on { "on" } else { "off" };
        match self {
            Self::Mac(mac) => write!(f, "MAC address {}", host::mac::format(*mac)),
            Self::Promiscuous(value) => write!(f, "promiscuous mode {}", on(value)),
            Self::Mtu(bytes) => write!(f, "MTU {bytes}"),
            Self::AllMulticast(value) => write!(f, "all-multicast mode {}", on(value)),
            Self::TxQueueLen(packets) => write!(f, "transmit queue length {packets}"),
        }
    }
}

/// An address as text; the reference leaves out an empty one.
mod mac_text {
    use netlink::link::Mac;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    #[allow(clippy::ref_option, clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
    pub(super) fn serialize<S: Serializer>(mac: &Option<Mac>, serializer: S) -> Result<S::Ok, S::Error> {
        match mac {
            Some(mac) => serializer.serialize_str(&host::mac::format(*mac)),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Mac>, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(None);
        }
        host::mac::parse(&text).map(Some).ok_or_else(|| D::Error::custom(format!("{text:?} is no MAC address")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_and_what_is_filled_in() {
        let some = Attributes { mtu: Some(1500), promiscuous: Some(false), ..Attributes::default() };
        let others = Attributes { mtu: Some(1400), tx_queue_len: Some(5), ..Attributes::default() };
        assert_eq!(some.only(&others), Attributes { mtu: Some(1500), ..Attributes::default() });
        assert_eq!(some.or(&others), Attributes { tx_queue_len: Some(5), ..some });
        assert!(Attributes::default().is_empty() && !some.is_empty());
        let texts: Vec<_> = some.or(&others).list().map(|attribute| attribute.to_string()).collect();
        assert_eq!(texts, ["promiscuous mode off", "MTU 1500", "transmit queue length 5"]);
    }
}
