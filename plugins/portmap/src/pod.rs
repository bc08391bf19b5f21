//! Which addresses are the attachment's, and which are those of the container's other interfaces.
//!
//! The reference names its chains and rules for the container alone: what they lead to tells whose they are.

use std::cell::OnceCell;
use std::net::IpAddr;

use cni::{Attachment, Call};
use host::netns::{self, NetNs};
use netlink::{Protocol, Socket, addr, link};

use crate::iptables;

/// The pod's end of an attachment, as far as it can be known by now.
#[derive(Debug)]
pub(crate) struct Pod<'a> {
    pub(crate) attachment: &'a Attachment,
    /// By the result of ADD; empty if it tells nothing.
    told: Vec<IpAddr>,
    netns: &'a str,
    /// Looked at when it is asked for.
    namespace: OnceCell<Namespace>,
}

/// What is in the pod's namespace.
#[derive(Debug)]
enum Namespace {
    /// There is none any more, and with it no interface of the container lives.
    Gone,
    Alive {
        /// Addresses of the attachment's interface.
        own: Vec<IpAddr>,
        /// Those of the others.
        others: Vec<IpAddr>,
    },
    /// It cannot be entered.
    Unknown,
}

impl<'a> Pod<'a> {
    /// `told`: the attachment's addresses, if they are known.
    pub(crate) fn new(call: &'a Call, attachment: &'a Attachment, told: Vec<IpAddr>) -> Self {
        Self { attachment, told, netns: &call.env.netns, namespace: OnceCell::new() }
    }

    /// The addresses that are the attachment's; none if nothing tells.
    pub(crate) fn addresses(&self) -> &[IpAddr] {
        if !self.told.is_empty() {
            return &self.told;
        }
        if let Namespace::Alive { own, .. } = self.namespace() { own } else { &[] }
    }

    /// Whether anything of what the container's interfaces share may be the attachment's.
    pub(crate) fn may_share(&self) -> bool {
        iptables::is_first(self.attachment)
            || !self.addresses().is_empty()
            || matches!(self.namespace(), Namespace::Gone)
    }

    /// Whether what leads to this address, in a chain that the container's interfaces share, is another interface's.
    pub(crate) fn spares(&self, ip: IpAddr) -> bool {
        if self.addresses().contains(&ip) {
            return false;
        }
        match (self.namespace(), iptables::is_first(self.attachment)) {
            // An address that no interface has is left from an earlier life of the container.
            (Namespace::Gone, true) => false,
            (Namespace::Alive { others, .. }, true) => others.contains(&ip),
            (Namespace::Gone, false) | (Namespace::Unknown, true) => !self.addresses().is_empty(),
            (Namespace::Alive { .. } | Namespace::Unknown, false) => true,
        }
    }

    fn namespace(&self) -> &Namespace {
        self.namespace.get_or_init(|| look(self.netns, &self.attachment.ifname))
    }
}

fn look(path: &str, ifname: &str) -> Namespace {
    if path.is_empty() {
        return Namespace::Gone;
    }
    let namespace = match NetNs::open(path) {
        Ok(namespace) => namespace,
        Err(netns::Error::NotFound(_) | netns::Error::NotANamespace { .. }) => return Namespace::Gone,
        Err(_) => return Namespace::Unknown,
    };
    let read = || -> netlink::Result<Namespace> {
        let mut socket = Socket::open(Protocol::Route)?;
        let link = link::by_name(&mut socket, ifname)?.map(|link| link.index);
        let (own, others): (Vec<_>, Vec<_>) =
            addr::list_all(&mut socket)?.into_iter().partition(|address| Some(address.link) == link);
        let ips = |addresses: Vec<addr::Address>| addresses.into_iter().map(|a| a.ip).collect();
        Ok(Namespace::Alive { own: ips(own), others: ips(others) })
    };
    match namespace.enter(read) {
        Ok(Ok(found)) => found,
        _ => Namespace::Unknown,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn attachment(ifname: &str) -> Attachment {
        Attachment { network: "tn".to_owned(), container_id: "c1".to_owned(), ifname: ifname.to_owned() }
    }

    fn ips(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    /// A pod of a namespace in which other interfaces have these addresses; `None`: there is none.
    pub(crate) fn pod<'a>(attachment: &'a Attachment, told: &[&str], others: Option<&[&str]>) -> Pod<'a> {
        let namespace = match others {
            Some(others) => Namespace::Alive { own: Vec::new(), others: ips(others) },
            None => Namespace::Gone,
        };
        Pod { attachment, told: ips(told), netns: "", namespace: OnceCell::from(namespace) }
    }

    #[test]
    fn other_interfaces_are_spared() {
        let (first, second) = (attachment("eth0"), attachment("net1"));
        let ip = "10.0.0.9".parse().unwrap();
        for (attachment, told, others, expected) in [
            (&first, &["10.0.0.9"][..], Some(&["10.0.0.9"][..]), false),
            (&first, &["10.0.0.2"], Some(&["10.0.0.9"]), true),
            (&first, &["10.0.0.2"], Some(&[]), false),
            (&first, &["10.0.0.2"], None, false),
            (&first, &[], None, false),
            (&first, &[], Some(&["10.0.0.9"]), true),
            (&second, &["10.0.0.9"], Some(&[]), false),
            (&second, &["10.0.0.2"], None, true),
            (&second, &[], None, false),
            (&second, &[], Some(&[]), true),
        ] {
            assert_eq!(pod(attachment, told, others).spares(ip), expected, "{attachment:?} {told:?} {others:?}");
        }
    }

    #[test]
    fn a_namespace_is_looked_into() {
        assert!(matches!(look("", "lo"), Namespace::Gone));
        assert!(matches!(look("/nowhere", "lo"), Namespace::Gone));
        // Without privileges it cannot be entered.
        assert!(!matches!(look("/proc/self/ns/net", "lo"), Namespace::Gone));
    }
}
