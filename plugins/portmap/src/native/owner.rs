//! Who has published ports, and whether it is certainly gone.
//!
//! Elements say whose they are; an element of the set of owners says where that one lived. A port is taken from another
//! attachment only when nothing of it can be alive: by the rule of host-local's store (two independent signs, the
//! namespace and the host link, and known that there was a link).

use std::collections::HashSet;

use cni::{Call, Error};
use host::netns::{self, NetNs};
use netlink::link::Link;
use netlink::nft::MAX_COMMENT;
use plugin::orphans::Orphans;

use super::layout::{self, Wanted};

/// How comments say who made the host link.
const BRIDGE: &str = "bridge";
const HAIRPIN: &str = "hairpin";

/// What the comment of an owner's element says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    /// The kernel's number of the namespace.
    cookie: Option<u64>,
    /// Our bridge plugin made the attachment's host link.
    by_bridge: bool,
    /// ADD saw to it that the host link is in hairpin mode.
    pub(crate) is_hairpin: bool,
    /// How many elements it has in this family.
    pub(crate) elements: usize,
    /// How many of them say that a mapping comes before what others have for its port.
    pub(crate) first: usize,
    /// CNI_NETNS; `None` where it could not be written down.
    netns: Option<String>,
}

impl Owner {
    /// The owner that the call is about.
    pub(crate) fn new(call: &Call, host_link: Option<&Link>, is_hairpin: bool) -> Self {
        let netns = &call.env.netns;
        Self {
            cookie: NetNs::open(netns).ok().and_then(|ns| ns.cookie()),
            by_bridge: host_link.is_some(),
            is_hairpin,
            elements: 0,
            first: 0,
            netns: Some(netns.clone()).filter(|path| is_plain(path)),
        }
    }

    /// Whether it, which has this identity, lives in the same namespace: another interface of one pod.
    pub(crate) fn is_same_pod(&self, other: &Self, identity: &[u8; 16]) -> bool {
        match (self.cookie, other.cookie) {
            (Some(one), Some(another)) => one == another,
            // A path may be another pod's by now: the link, if there was one, tells.
            _ => self.netns.is_some() && self.netns == other.netns && !(self.by_bridge && is_unlinked(identity)),
        }
    }

    /// The same with these elements.
    pub(crate) fn with_elements(&self, wanted: &[Wanted]) -> Self {
        let first = wanted.iter().filter(|w| layout::is_first(&w.set)).count();
        Self { elements: wanted.len(), first, ..self.clone() }
    }

    /// As a comment: `<cookie in hex, or -> <bridge, hairpin (by our bridge too), or -> <number of elements> <path>`; of
    /// the elements those that come first, if there are any, are counted after a `+`.
    pub(crate) fn comment(&self) -> String {
        let cookie = self.cookie.map_or_else(|| "-".to_owned(), |c| format!("{c:x}"));
        let by = match (self.by_bridge, self.is_hairpin) {
            (true, true) => HAIRPIN,
            (true, false) => BRIDGE,
            (false, _) => "-",
        };
        let (rest, first) = (self.elements.saturating_sub(self.first), self.first);
        let number = if first > 0 { format!("{rest}+{first}") } else { rest.to_string() };
        let head = format!("{cookie} {by} {number}");
        let whole = format!("{head} {}", self.netns.as_deref().unwrap_or_default());
        // Half a path leads nowhere, which would count against the owner.
        if self.netns.is_some() && whole.len() <= MAX_COMMENT { whole } else { head }
    }

    /// Reads a comment; what is not understood is nothing that would speak against the owner.
    pub(crate) fn parse(comment: &str) -> Self {
        let mut words = comment.splitn(4, ' ');
        let cookie = words.next().and_then(|c| u64::from_str_radix(c, 16).ok());
        let by = words.next().unwrap_or_default();
        let number = words.next().unwrap_or_default();
        let (rest, first) = number.split_once('+').unwrap_or((number, "0"));
        let (rest, first) = (rest.parse::<usize>().ok(), first.parse().ok());
        Self {
            cookie,
            by_bridge: [BRIDGE, HAIRPIN].contains(&by),
            is_hairpin: by == HAIRPIN,
            elements: rest.zip(first).and_then(|(rest, first)| rest.checked_add(first)).unwrap_or(usize::MAX),
            first: first.unwrap_or_default(),
            netns: words.next().filter(|path| !path.is_empty()).map(str::to_owned),
        }
    }

    /// Whether nothing of the owner can be alive, and why.
    pub(crate) fn is_gone(&self, identity: &[u8; 16]) -> Result<Option<String>, String> {
        if !self.by_bridge {
            return Ok(None);
        }
        // The link first: a namespace is the dearer look.
        let is_missing = Orphans::among(HashSet::from([*identity])).map_err(|e| e.msg)?.has(identity);
        Ok(if is_missing { self.why_unreachable() } else { None })
    }

    /// Why the namespace is not where it was; `None` if it may be.
    fn why_unreachable(&self) -> Option<String> {
        let path = self.netns.as_deref()?;
        match NetNs::open(path) {
            Err(netns::Error::NotFound(_)) => Some(format!("there is no namespace {path} any more")),
            Err(netns::Error::NotANamespace { .. }) => Some(format!("no namespace is mounted on {path} any more")),
            Err(_) => None,
            Ok(ns) => {
                let is_another = self.cookie.is_some_and(|was| ns.cookie().is_some_and(|now| now != was));
                is_another.then(|| format!("{path} leads to another namespace"))
            }
        }
    }
}

/// Those who had a host link by our bridge plugin and have none any more, and whose namespace cannot be reached either.
pub(crate) fn orphans(all: &[([u8; 16], Owner)]) -> Result<Orphans, Error> {
    let linked = all.iter().filter(|(_, owner)| owner.by_bridge);
    let missing = Orphans::among(linked.map(|(identity, _)| *identity).collect())?;
    // The links first: namespaces are the dearer look.
    let may_live = |owner: &Owner| !owner.by_bridge || owner.why_unreachable().is_none();
    let alive = all.iter().filter(|(identity, owner)| missing.has(identity) && may_live(owner));
    let alive = alive.map(|(identity, _)| *identity).collect();
    Ok(missing.without(&alive))
}

/// Whether the attachment has no host link, for certain.
fn is_unlinked(identity: &[u8; 16]) -> bool {
    Orphans::among(HashSet::from([*identity])).is_ok_and(|orphans| orphans.has(identity))
}

/// What can stand in a comment that `nft -f` reads back.
fn is_plain(path: &str) -> bool {
    path.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '"' | '\'' | '\\'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> Owner {
        let netns = Some("/run/netns/a".to_owned());
        Owner { cookie: Some(0x1f), by_bridge: true, is_hairpin: false, elements: 4, first: 0, netns }
    }

    #[test]
    fn owners_are_read_back() {
        assert_eq!(owner().comment(), "1f bridge 4 /run/netns/a");
        let with_first = Owner { elements: 6, first: 2, ..owner() };
        assert_eq!(with_first.comment(), "1f bridge 4+2 /run/netns/a");
        let hairpin = Owner { is_hairpin: true, ..owner() };
        assert_eq!(hairpin.comment(), "1f hairpin 4 /run/netns/a");
        let nothing = Owner { cookie: None, by_bridge: false, is_hairpin: false, elements: 0, first: 0, netns: None };
        for owner in [owner(), with_first, hairpin, nothing] {
            assert_eq!(Owner::parse(&owner.comment()), owner);
        }
        // A path that does not fit is none at all.
        let long = Owner { netns: Some(format!("/{}", "a".repeat(120))), ..owner() };
        assert_eq!(Owner::parse(&long.comment()), Owner { netns: None, ..owner() });
        assert!(!is_plain("/run/a b") && !is_plain("/run/\"") && is_plain("/proc/4711/ns/net"));
        assert_eq!(Owner::parse("").elements, usize::MAX);
        assert_eq!(Owner::parse("- - 4+x").elements, usize::MAX);
    }

    #[test]
    fn only_an_unreachable_namespace_speaks_against_its_owner() {
        assert!(owner().why_unreachable().unwrap().contains("no namespace /run/netns/a"));
        assert_eq!(Owner { netns: None, ..owner() }.why_unreachable(), None);
        let own = Owner { netns: Some("/proc/self/ns/net".to_owned()), cookie: None, ..owner() };
        assert_eq!(own.why_unreachable(), None);
        let file = Owner { netns: Some("/proc/self/status".to_owned()), ..owner() };
        // A file of procfs passes for a namespace of old kernels.
        assert_eq!(file.why_unreachable(), None);
    }
}
