//! Takes back the addresses of attachments that are certainly gone: all of them when an ADD finds nothing else to give,
//! a few at every other ADD.
//!
//! After a crash or a reboot no DEL comes for what was alive before, and many runtimes never call GC: without this, a
//! pool that is full once stays full. An address is looked at only through our record of it, and only while its
//! reservation file is the very one that was recorded; whether it may be taken is for [liveness](plugin::liveness) to say.
//!
//! What was reclaimed stays so, also when the ADD that needed it fails later: its owner is gone whatever becomes of us.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use cni::{Attachment, Error};
use plugin::liveness::Verdict;

use crate::range::RangeSet;
use crate::store::record::Record;
use crate::store::reservation::{Content, Owner};
use crate::store::{Held, Locked};
use crate::time::utc;
use crate::transaction::Request;

/// What was found out about the addresses in question.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Tally {
    /// So many are held and have a record that counts.
    pub(crate) recorded: usize,
    /// So many of those belong to attachments that are certainly gone.
    pub(crate) gone: usize,
    /// So many of those are free now: all, unless files could not be removed.
    pub(crate) freed: usize,
    /// How many of the others each namespace's pods hold, as far as the runtime named them.
    pub(crate) namespaces: BTreeMap<String, usize>,
}

/// An attachment that has reservations, as our record tells.
#[derive(Debug)]
struct Known {
    identity: String,
    attachment: Attachment,
    record: Record,
    /// What the record counts for; never empty.
    held: Vec<Held>,
}

/// Reclaims from everyone who has an address of this set: one pass over the network's records.
///
/// Error: a signal asked to stop.
pub(crate) fn from_all(locked: &mut Locked<'_>, caller: &Request, set: &RangeSet) -> Result<Tally, Error> {
    let own = caller.attachment.identity_hex();
    let mut tally = Tally::default();
    for identity in locked.records() {
        plugin::step()?;
        if identity == own {
            continue;
        }
        match Known::of(locked, &caller.attachment.network, &identity, |ip| set.contains(ip)) {
            Some(known) => known.judge(locked, caller, |ip| set.contains(ip), &mut tally),
            // The reference freed what this was about, and knows nothing of records.
            None if !locked.speaks_for_any(&identity) => _ = locked.remove_record(&identity),
            None => {}
        }
    }
    Ok(tally)
}

/// Reclaims this one address, with whatever else its holder has.
pub(crate) fn from_holder(locked: &mut Locked<'_>, caller: &Request, ip: IpAddr) -> Tally {
    let mut tally = Tally::default();
    if let Some(known) = Known::holding(locked, caller, ip) {
        known.judge(locked, caller, |of| of == ip, &mut tally);
    }
    tally
}

/// So many addresses are looked at by an ADD that finds a free one: about 50 µs each.
const LOOKS: usize = 2;
/// An attachment is looked at in passing only when its own ADD must have ended: before, it has no host link either.
const SETTLED: Duration = Duration::from_secs(60);

/// Reclaims what the next few addresses' holders have: every ADD a few, so that a store heals before it is full.
pub(crate) fn in_passing(locked: &mut Locked<'_>, caller: &Request) {
    for ip in locked.look_round(LOOKS) {
        if let Some(known) = Known::holding(locked, caller, ip)
            && known.record.age().is_some_and(|age| age >= SETTLED)
        {
            known.judge(locked, caller, |of| of == ip, &mut Tally::default());
        }
    }
}

impl Known {
    /// Who has this address; `None` also where it is the caller.
    fn holding(locked: &Locked<'_>, caller: &Request, ip: IpAddr) -> Option<Self> {
        let Content::Owner(Owner { container_id, ifname: Some(ifname) }) = locked.read(ip).ok()??.content else {
            return None;
        };
        let holder = Attachment { network: caller.attachment.network.clone(), container_id, ifname };
        if holder == caller.attachment {
            return None;
        }
        Self::of(locked, &holder.network, &holder.identity_hex(), |of| of == ip)
    }

    /// `None`: no record that counts for an address which is `wanted`.
    fn of(locked: &Locked<'_>, network: &str, identity: &str, wanted: impl Fn(IpAddr) -> bool) -> Option<Self> {
        let record = locked.record(identity)?;
        if !record.addresses.iter().any(|a| wanted(a.ip)) {
            return None;
        }
        let attachment = Attachment {
            network: network.to_owned(),
            container_id: record.container_id.clone(),
            ifname: record.ifname.clone(),
        };
        // Under a wrong name, the host link looked for would be another's.
        if attachment.identity_hex() != identity {
            return None;
        }
        let owner = Content::Owner(Owner::new(&record.container_id, &record.ifname));
        let counts = |ip| {
            let reservation = locked.read(ip).ok()??;
            let stamp = reservation.stamp;
            (reservation.content == owner && record.counts_for(ip, stamp)).then_some(Held { ip, stamp })
        };
        let held: Vec<Held> = record.addresses.iter().filter_map(|a| counts(a.ip)).collect();
        let identity = identity.to_owned();
        held.iter().any(|held| wanted(held.ip)).then_some(Self { identity, attachment, record, held })
    }

    /// Counts what it has of the `wanted`, and frees all that it has if it is certainly gone.
    fn judge(&self, locked: &mut Locked<'_>, caller: &Request, wanted: impl Fn(IpAddr) -> bool, tally: &mut Tally) {
        let count = self.held.iter().filter(|held| wanted(held.ip)).count();
        tally.recorded += count;
        let Verdict::Gone(why) = caller.present.judge(&self.record.trace(), &self.attachment) else {
            if let Some(pod) = &self.record.pod {
                *tally.namespaces.entry(pod.namespace.clone()).or_default() += count;
            }
            return;
        };
        tally.gone += count;
        let freed = self.free(locked, &why);
        tally.freed += freed.into_iter().filter(|ip| wanted(*ip)).count();
    }

    /// Goes on past errors: one file that cannot be removed must not keep the others.
    fn free(&self, locked: &mut Locked<'_>, why: &str) -> Vec<IpAddr> {
        let owner = Owner::new(&self.record.container_id, &self.record.ifname);
        let pod = self.record.pod.as_ref().map(|pod| format!("pod {}/{}, ", pod.namespace, pod.name));
        let since = format!("{}since {}", pod.unwrap_or_default(), utc(self.record.time));
        let mut freed = Vec::with_capacity(self.held.len());
        for held in &self.held {
            match locked.release(Some(&owner), *held) {
                Ok(()) => {
                    freed.push(held.ip);
                    let text = format!("reclaimed {} of {owner} ({since}), because {why}", held.ip);
                    host::syslog::notice("host-local", &text);
                }
                Err(error) => {
                    host::syslog::warn("host-local", format_args!("{owner} is gone, because {why}, but {error}"));
                }
            }
        }
        if freed.len() == self.held.len() {
            // A record that outlives its reservations counts for nothing.
            let _ = locked.remove_record(&self.identity);
        }
        freed
    }
}

#[cfg(test)]
mod tests;
