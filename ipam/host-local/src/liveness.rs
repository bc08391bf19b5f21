//! Whether an attachment that has a record is *certainly gone*.
//!
//! Wrongly gone, and two pods have one address; wrongly kept, and an address is lost until its DEL or GC. So everything
//! is kept that no two independent signs speak against.

use std::time::{Duration, SystemTime};

use cni::Attachment;
use cni::attachment::MAX_HOST_IFNAME_ATTEMPTS;
use host::boot;
use host::netns::{self, NetNs};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;

use crate::store::boot_id;
use crate::store::record::Record;

/// The namespace of this call, and this boot.
#[derive(Debug)]
pub(crate) struct Present {
    /// CNI_NETNS as it was given.
    pub(crate) netns: String,
    /// The kernel's number of it; `None` where it cannot be had.
    pub(crate) cookie: Option<u64>,
    pub(crate) boot_id: Option<String>,
}

/// What is known about a recorded attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is in the very namespace that this call is about.
    Same,
    /// Nothing of it can be alive, and why.
    Gone(String),
    /// It may be alive, and what speaks for it.
    Kept(String),
}

/// What was found out, for [`judge`].
#[derive(Debug, Clone)]
struct Evidence {
    boot: Boot,
    /// The record is of the namespace given to this call.
    same: bool,
    place: Place,
    link: Link,
    /// An interface plugin that makes such links made the attachment.
    makes_links: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Boot {
    /// This boot, or unknown.
    This,
    /// Another id, and older than this boot.
    Earlier,
    /// Another id, but no older: a faked id or a changed clock.
    Doubtful,
}

/// Where the recorded path leads now.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// Nowhere, or to something that is no namespace.
    Nowhere(String),
    /// To a namespace that is not the recorded one.
    Another,
    /// To the recorded one, or this cannot be told.
    Open,
    Unknown(String),
}

/// Whether there is a host link with one of the attachment's derived names.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Link {
    There(String),
    Missing,
    Unknown(String),
}

/// Clocks are set by fractions of seconds at boot, and the boot's own time is only known to the second.
const CLOCK_SLACK: Duration = Duration::from_secs(5);

impl Present {
    /// Looks at the given namespace; one that cannot be opened (host-local does not need it) is known by its path alone.
    pub(crate) fn look(netns: &str) -> Self {
        let cookie = NetNs::open(netns).ok().and_then(|ns| ns.cookie());
        Self { netns: netns.to_owned(), cookie, boot_id: boot_id().map(str::to_owned) }
    }

    /// Looks at what the record tells about, and judges.
    pub(crate) fn judge(&self, record: &Record, attachment: &Attachment) -> Verdict {
        let boot = self.boot_of(record);
        let same = match (record.netns_cookie, self.cookie) {
            (Some(recorded), Some(given)) => recorded == given,
            _ => record.netns == self.netns,
        };
        let link = derived_link(attachment);
        // A link decides alone, and namespaces are the dearer look: a full pool may be one of many that live.
        let place = if link == Link::Missing { place(record) } else { Place::Unknown("not looked at".to_owned()) };
        judge(&Evidence { boot, same, place, link, makes_links: record.plugin.as_deref() == Some("bridge") })
    }

    fn boot_of(&self, record: &Record) -> Boot {
        match (&record.boot_id, &self.boot_id) {
            (Some(recorded), Some(now)) if recorded != now => {
                let older = |began: SystemTime| record.made_at() + CLOCK_SLACK < began;
                if boot::time().is_some_and(older) { Boot::Earlier } else { Boot::Doubtful }
            }
            _ => Boot::This,
        }
    }
}

/// In words, whether the recorded namespace can still be opened.
pub(crate) fn describe(record: &Record) -> String {
    match place(record) {
        Place::Nowhere(why) => format!("namespace {:?}, which cannot be opened any more ({why})", record.netns),
        Place::Another => format!("namespace {:?}, a path that now leads to another namespace", record.netns),
        Place::Open => format!("namespace {:?}, which is still there", record.netns),
        Place::Unknown(why) => format!("namespace {:?} ({why})", record.netns),
    }
}

fn judge(evidence: &Evidence) -> Verdict {
    let kept_by_link = match &evidence.link {
        // The host's end of its veth: the pod's end exists as well, wherever it is.
        Link::There(name) => Some(format!("its host link {name} is there")),
        Link::Unknown(why) => Some(format!("its host link cannot be looked for ({why})")),
        Link::Missing => None,
    };
    if let Some(why) = kept_by_link {
        return if evidence.same { Verdict::Same } else { Verdict::Kept(why) };
    }
    match (evidence.boot, &evidence.place) {
        (Boot::Earlier, _) => Verdict::Gone("it is of an earlier boot".to_owned()),
        (Boot::Doubtful, _) if !evidence.same => {
            Verdict::Kept("its boot id is another, but it is not older than this boot".to_owned())
        }
        _ if evidence.same => Verdict::Same,
        _ if !evidence.makes_links => {
            Verdict::Kept("it was not made by bridge, so no missing host link speaks against it".to_owned())
        }
        (_, Place::Nowhere(why)) => {
            Verdict::Gone(format!("its namespace cannot be opened ({why}), nor is there a host link"))
        }
        (_, Place::Another) => {
            Verdict::Gone("its path leads to another namespace, and there is no host link".to_owned())
        }
        (_, Place::Open) => Verdict::Kept("its namespace is still there".to_owned()),
        (_, Place::Unknown(why)) => Verdict::Kept(format!("its namespace cannot be looked at ({why})")),
    }
}

fn place(record: &Record) -> Place {
    if record.netns.is_empty() {
        return Place::Unknown("no path was recorded".to_owned());
    }
    let ns = match NetNs::open(&record.netns) {
        Ok(ns) => ns,
        Err(netns::Error::NotFound(_)) => return Place::Nowhere("path does not exist".to_owned()),
        Err(netns::Error::NotANamespace { .. }) => return Place::Nowhere("no namespace is mounted there".to_owned()),
        Err(error) => return Place::Unknown(error.to_string()),
    };
    let another = record.netns_cookie.is_some_and(|recorded| ns.cookie().is_some_and(|now| now != recorded));
    if another { Place::Another } else { Place::Open }
}

/// The host's end of the attachment's veth, under any of the names that it can have.
fn derived_link(attachment: &Attachment) -> Link {
    for name in (0..MAX_HOST_IFNAME_ATTEMPTS).map(|n| attachment.host_ifname(n)) {
        match if_nametoindex(name.as_str()) {
            Ok(_) => return Link::There(name),
            // The kernel's answer, and what C libraries may make of it.
            Err(Errno::ENODEV | Errno::ENXIO) => {}
            // No memory for a socket, say: that the link is missing was not shown.
            Err(errno) => return Link::Unknown(errno.desc().to_owned()),
        }
    }
    Link::Missing
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::record::tests::record;

    fn attachment() -> Attachment {
        Attachment { network: "n".to_owned(), container_id: "c1".to_owned(), ifname: "eth0".to_owned() }
    }

    #[test]
    fn which_evidence_leads_to_what() {
        use Boot::{Doubtful, Earlier, This};
        let nowhere = || Place::Nowhere("path does not exist".to_owned());
        let unknown = || Place::Unknown("permission denied".to_owned());
        // boot, same, place, link, by bridge: S(ame), G(one), K(ept)
        let cases = [
            (This, true, Place::Open, false, true, 'S'),
            (This, true, nowhere(), false, true, 'S'),
            (This, true, Place::Another, false, true, 'S'),
            (This, true, Place::Another, true, true, 'S'),
            (This, true, Place::Another, false, false, 'S'),
            (This, false, Place::Open, false, true, 'K'),
            (This, false, nowhere(), false, true, 'G'),
            (This, false, nowhere(), true, true, 'K'),
            (This, false, nowhere(), false, false, 'K'),
            (This, false, Place::Another, false, true, 'G'),
            (This, false, Place::Another, true, true, 'K'),
            (This, false, Place::Another, false, false, 'K'),
            (This, false, unknown(), false, true, 'K'),
            (Earlier, true, Place::Open, false, false, 'G'),
            (Earlier, false, nowhere(), false, false, 'G'),
            (Earlier, false, nowhere(), true, true, 'K'),
            (Doubtful, true, Place::Open, false, true, 'S'),
            (Doubtful, false, nowhere(), false, true, 'K'),
            (Doubtful, false, Place::Another, false, true, 'K'),
        ];
        for (boot, same, place, link, makes_links, expected) in cases {
            let link = if link { Link::There("veth0".to_owned()) } else { Link::Missing };
            let evidence = Evidence { boot, same, place, link, makes_links };
            let verdict = match judge(&evidence) {
                Verdict::Same => 'S',
                Verdict::Gone(_) => 'G',
                Verdict::Kept(_) => 'K',
            };
            assert_eq!(verdict, expected, "{evidence:?}");
            // A link that could not be looked for is no missing one.
            let verdict = judge(&Evidence { link: Link::Unknown("no memory".to_owned()), ..evidence });
            assert!(!matches!(verdict, Verdict::Gone(_)), "{verdict:?}");
        }
    }

    #[test]
    fn boots_are_told_apart_by_id_and_time() {
        let now = Present { netns: String::new(), cookie: None, boot_id: boot::id() };
        let mut record = record();
        assert_eq!(now.boot_of(&record), Boot::Earlier);
        record.time = u64::MAX / 4;
        assert_eq!(now.boot_of(&record), Boot::Doubtful, "a clock set back");
        let this = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        record.time = this;
        assert_eq!(now.boot_of(&record), Boot::Doubtful, "a faked id");
        record.boot_id = None;
        assert_eq!(now.boot_of(&record), Boot::This);
    }

    #[test]
    fn a_path_is_followed_to_its_namespace() {
        let mut record = record();
        record.netns = "/nonexistent/netns".to_owned();
        assert!(matches!(place(&record), Place::Nowhere(_)));
        record.netns = "/proc/self/ns/net".to_owned();
        record.netns_cookie = None;
        assert_eq!(place(&record), Place::Open);
        assert_eq!(derived_link(&attachment()), Link::Missing);
    }
}
