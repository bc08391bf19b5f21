//! Whether an attachment that has a record is *certainly gone*.
//!
//! Wrongly gone, and two pods have one address; wrongly kept, and an address is lost until its DEL or GC. So everything
//! is kept that no two independent signs speak against.
//!
//! What is reclaimed at ADD of what other attachments have left goes by this: reservations, backups.

use std::cell::OnceCell;
use std::time::{Duration, SystemTime};

use cni::Attachment;
use cni::attachment::{MAX_HOST_IFNAME_ATTEMPTS, host_ifname};
use host::alive::Process;
use host::boot;
use host::netns::{self, NetNs};
use netlink::link::{self, Link};
use netlink::{Protocol, Socket};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;

use crate::host_end::is_of_identity;

/// What a record tells of where and when an attachment was made.
#[derive(Debug, Clone, Copy)]
pub struct Trace<'a> {
    /// `CNI_NETNS` as it was given; empty if it was not.
    pub netns: &'a str,
    /// The kernel's number of that namespace.
    pub netns_cookie: Option<u64>,
    /// The kernel's id of the boot.
    pub boot_id: Option<&'a str>,
    /// By the clock of that moment.
    pub made_at: SystemTime,
    /// Whether `bridge` made the attachment, in the network namespace of the caller: what became of links can only be
    /// seen where they were.
    pub by_bridge: bool,
    /// Who made it, if that is known. While it is at work there may be no link yet.
    pub maker: Option<Process>,
}

/// The namespace of this call, and this boot.
#[derive(Debug)]
pub struct Present {
    /// `CNI_NETNS` as it was given.
    pub netns: String,
    /// The kernel's number of it; `None` where it cannot be had.
    pub cookie: Option<u64>,
    /// The kernel's id of this boot.
    pub boot_id: Option<String>,
    /// The host's veths, once they were asked for; an error is why they cannot be listed.
    veths: OnceCell<Result<Vec<Link>, String>>,
}

/// What is known about a recorded attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
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
    link: HostLink,
    by_bridge: bool,
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
pub enum HostLink {
    /// Its name. It may be a foreign link.
    There(String),
    /// None of the names is taken.
    Missing,
    /// Why they cannot be looked for.
    Unknown(String),
}

/// An ADD has its host link, or has failed, that long after its addresses were recorded.
const LONGEST_ADD: Duration = Duration::from_secs(60);

/// Clocks are set by fractions of seconds at boot, and the boot's own time is only known to the second.
const CLOCK_SLACK: Duration = Duration::from_secs(5);

impl Present {
    /// Looks at the given namespace; one that cannot be opened (host-local does not need it) is known by its path alone.
    #[must_use]
    pub fn look(netns: &str) -> Self {
        Self::new(netns, NetNs::open(netns).ok().and_then(|ns| ns.cookie()))
    }

    /// The namespace given by this path, which has this number, and this boot.
    #[must_use]
    pub fn new(netns: &str, cookie: Option<u64>) -> Self {
        Self { netns: netns.to_owned(), cookie, boot_id: boot::id(), veths: OnceCell::new() }
    }

    /// Looks at what the record tells about, and judges.
    #[must_use]
    pub fn judge(&self, record: &Trace<'_>, attachment: &Attachment) -> Verdict {
        let boot = self.boot_of(record);
        let same = match (record.netns_cookie, self.cookie) {
            (Some(recorded), Some(given)) => recorded == given,
            _ => record.netns == self.netns,
        };
        let link = host_link(&attachment.identity());
        // A link decides alone, and namespaces are the dearer look: a full pool may be one of many that live.
        let place = if link == HostLink::Missing { place(record) } else { Place::Unknown("not looked at".to_owned()) };
        let evidence = Evidence { boot, same, place, link, by_bridge: record.by_bridge };
        // The dearest look is the last.
        match judge(&evidence) {
            Verdict::Gone(_) => {}
            verdict => return verdict,
        }
        if evidence.boot == Boot::This
            && let Some(why) = under_way(record)
        {
            return Verdict::Kept(why);
        }
        judge(&Evidence { link: self.last_look(&attachment.identity()), ..evidence })
    }

    /// The host's end, once who makes it has ended. By its names again: the link may have been made since they were looked
    /// for, and since the veths were listed for an earlier record.
    fn last_look(&self, identity: &[u8; 16]) -> HostLink {
        match host_link(identity) {
            HostLink::Missing => self.renamed_link(identity),
            found => found,
        }
    }

    /// The host's end under a name that somebody gave it.
    fn renamed_link(&self, identity: &[u8; 16]) -> HostLink {
        let list = || Socket::open(Protocol::Route).and_then(|mut socket| link::list_of(&mut socket, "veth"));
        match self.veths.get_or_init(|| list().map_err(|error| error.to_string())) {
            Ok(veths) => match veths.iter().find(|veth| is_of_identity(veth, identity)) {
                Some(veth) => HostLink::There(veth.name.clone()),
                None => HostLink::Missing,
            },
            Err(why) => HostLink::Unknown(why.clone()),
        }
    }

    fn boot_of(&self, record: &Trace<'_>) -> Boot {
        match (record.boot_id, self.boot_id.as_deref()) {
            (Some(recorded), Some(now)) if recorded != now => {
                let older = |began: SystemTime| record.made_at + CLOCK_SLACK < began;
                if boot::time().is_some_and(older) { Boot::Earlier } else { Boot::Doubtful }
            }
            _ => Boot::This,
        }
    }
}

/// In words, whether the recorded namespace can still be opened.
#[must_use]
pub fn describe(record: &Trace<'_>) -> String {
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
        HostLink::There(name) => Some(format!("its host link {name} is there")),
        HostLink::Unknown(why) => Some(format!("its host link cannot be looked for ({why})")),
        HostLink::Missing => None,
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
        _ if !evidence.by_bridge => {
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

/// Why its ADD may still be at work; it may see other mounts than we do, and the namespace by a path that leads nowhere
/// here.
fn under_way(record: &Trace<'_>) -> Option<String> {
    let maker = record.maker?;
    match maker.is_alive() {
        Some(true) => Some(format!("its ADD is under way, by process {}", maker.pid)),
        Some(false) => None,
        // Its number says nothing here; made in the future, time says nothing either.
        None => {
            let age = SystemTime::now().duration_since(record.made_at).unwrap_or_default();
            (age < LONGEST_ADD).then(|| "its ADD may be under way, where its process cannot be seen".to_owned())
        }
    }
}

fn place(record: &Trace<'_>) -> Place {
    if record.netns.is_empty() {
        return Place::Unknown("no path was recorded".to_owned());
    }
    let ns = match NetNs::open(record.netns) {
        Ok(ns) => ns,
        Err(netns::Error::NotFound(_)) => return Place::Nowhere("path does not exist".to_owned()),
        Err(netns::Error::NotANamespace { .. }) => return Place::Nowhere("no namespace is mounted there".to_owned()),
        Err(error) => return Place::Unknown(error.to_string()),
    };
    let another = record.netns_cookie.is_some_and(|recorded| ns.cookie().is_some_and(|now| now != recorded));
    if another { Place::Another } else { Place::Open }
}

/// The host's end of an attachment's veth, under any of the names that it can have.
#[must_use]
pub fn host_link(identity: &[u8; 16]) -> HostLink {
    for name in (0..MAX_HOST_IFNAME_ATTEMPTS).map(|attempt| host_ifname(identity, attempt)) {
        match if_nametoindex(name.as_str()) {
            Ok(_) => return HostLink::There(name),
            // The kernel's answer, and what C libraries may make of it.
            Err(Errno::ENODEV | Errno::ENXIO) => {}
            // No memory for a socket, say: that the link is missing was not shown.
            Err(errno) => return HostLink::Unknown(errno.desc().to_owned()),
        }
    }
    HostLink::Missing
}

#[cfg(test)]
mod tests {
    use netlink::link::NewBridge;
    use nix::sched::{CloneFlags, unshare};

    use super::*;

    fn at(netns: &str) -> Trace<'_> {
        let made_at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        Trace { netns, netns_cookie: Some(4098), boot_id: Some("0f0e"), made_at, by_bridge: true, maker: None }
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
        for (boot, same, place, link, by_bridge, expected) in cases {
            let link = if link { HostLink::There("veth0".to_owned()) } else { HostLink::Missing };
            let evidence = Evidence { boot, same, place, link, by_bridge };
            let verdict = match judge(&evidence) {
                Verdict::Same => 'S',
                Verdict::Gone(_) => 'G',
                Verdict::Kept(_) => 'K',
            };
            assert_eq!(verdict, expected, "{evidence:?}");
            // A link that could not be looked for is no missing one.
            let verdict = judge(&Evidence { link: HostLink::Unknown("no memory".to_owned()), ..evidence });
            assert!(!matches!(verdict, Verdict::Gone(_)), "{verdict:?}");
        }
    }

    #[test]
    fn boots_are_told_apart_by_id_and_time() {
        let now = Present::new("", None);
        let mut record = at("/run/netns/x");
        assert_eq!(now.boot_of(&record), Boot::Earlier);
        record.made_at += Duration::from_secs(u64::from(u32::MAX));
        assert_eq!(now.boot_of(&record), Boot::Doubtful, "a clock set back");
        record.made_at = SystemTime::now();
        assert_eq!(now.boot_of(&record), Boot::Doubtful, "a faked id");
        record.boot_id = None;
        assert_eq!(now.boot_of(&record), Boot::This);
    }

    #[test]
    fn who_makes_an_attachment_speaks_for_it() {
        let own = Process::look(std::process::id()).unwrap();
        let now = SystemTime::now();
        let why = |maker: Process, made_at| under_way(&Trace { maker: Some(maker), made_at, ..at("/run/netns/x") });
        assert!(why(own, now).unwrap().contains(&own.pid.to_string()));
        assert!(why(own, SystemTime::UNIX_EPOCH).is_some(), "it may be stopped");
        assert_eq!(why(Process { start: own.start + 1, ..own }, now), None);
        let unseen = Process { namespace: 1, ..own };
        assert!(why(unseen, now).is_some());
        assert_eq!(why(unseen, now - LONGEST_ADD), None);
        assert_eq!(under_way(&at("/run/netns/x")), None);
    }

    /// In a network namespace of its own, which needs root.
    #[test]
    fn a_link_made_after_the_veths_were_listed_is_found() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: making network namespaces needs root");
            return;
        }
        std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let (present, identity) = (Present::new("", None), [0x5a; 16]);
            assert_eq!(present.last_look(&identity), HostLink::Missing);
            assert!(present.veths.get().is_some());
            let name = host_ifname(&identity, 0);
            let new = NewBridge { name: &name, mac: [2, 0, 0, 0, 0, 1], mtu: None, vlan_filtering: false };
            link::create_bridge(&mut Socket::open(Protocol::Route).unwrap(), &new).unwrap();
            assert_eq!(present.last_look(&identity), HostLink::There(name));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_path_is_followed_to_its_namespace() {
        assert!(matches!(place(&at("/nonexistent/netns")), Place::Nowhere(_)));
        let record = Trace { netns_cookie: None, ..at("/proc/self/ns/net") };
        assert_eq!(place(&record), Place::Open);
        assert_eq!(host_link(&[0x5a; 16]), HostLink::Missing);
    }
}
