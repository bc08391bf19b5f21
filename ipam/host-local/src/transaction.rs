//! Taking the addresses of one attachment: what is refused, what is taken, and what a failure gives back.
//!
//! Dropped before [`Transaction::commit`], by an error, a signal or a panic, it frees exactly what it took.

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use cni::{Attachment, Error};
use plugin::liveness::{Present, Verdict, describe};

use crate::allocator::Candidates;
use crate::range::{RangeSet, number};
use crate::reclaim::{self, Tally};
use crate::store::record::{Caller, Pod, Record, Recorded, here};
use crate::store::reservation::{Content, Owner};
use crate::store::{Draft, Held, Locked, Store, stop};
use crate::time::utc;

/// What is asked for, and by whom.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) attachment: Attachment,
    /// For each range set the address it is to give, if a certain one is asked for.
    pub(crate) requested: Vec<Option<IpAddr>>,
    pub(crate) present: Present,
    pub(crate) pod: Option<Pod>,
    pub(crate) plugin: Option<String>,
    pub(crate) caller: Option<Caller>,
}

/// The addresses taken by this call, and how to give them back.
#[derive(Debug)]
pub(crate) struct Transaction<'a> {
    store: &'a Store,
    request: &'a Request,
    owner: Owner,
    identity: String,
    /// `None` between [`Transaction::unlock`] and the end.
    locked: Option<Locked<'a>>,
    taken: Vec<Held>,
    /// Reservations of the attachment's former life that its new one does not want.
    superseded: Vec<(Owner, Held)>,
    /// What the record speaks for: all that the attachment has, and what it is about to take.
    recorded: Vec<Recorded>,
    /// The record of the former life, and whether this call has written another.
    before: Option<Record>,
    has_written: bool,
    finished: bool,
}

/// The attachment's former life, when it is certainly over.
#[derive(Debug, Default)]
struct Former {
    held: Vec<(Owner, Held)>,
    record: Option<Record>,
}

/// So many addresses are tried one by one before the folder is listed; and taken by others between look and reservation.
const TRIES: usize = 32;
/// So many namespaces are named in the error of a full pool.
const NAMED: usize = 5;

impl<'a> Transaction<'a> {
    /// Takes the store's lock.
    pub(crate) fn begin(store: &'a Store, request: &'a Request) -> Result<Self, Error> {
        let locked = store.lock().map_err(crate::failed)?;
        plugin::step()?;
        Ok(Self {
            store,
            request,
            owner: Owner::new(&request.attachment.container_id, &request.attachment.ifname),
            identity: request.attachment.identity_hex(),
            locked: Some(locked),
            taken: Vec::new(),
            superseded: Vec::new(),
            recorded: Vec::new(),
            before: None,
            has_written: false,
            finished: false,
        })
    }

    /// One address from each set, in their order. Where none is free, those of attachments that are certainly gone are
    /// reclaimed; undoing this transaction does not bring them back.
    ///
    /// Errors, prefixed with the number of the range set: no address left; the requested one is taken; the attachment
    /// has one already.
    pub(crate) fn allocate(&mut self, sets: &[RangeSet]) -> Result<Vec<IpAddr>, Error> {
        let former = self.former(sets)?;
        let requested = &self.request.requested;
        let kept: Vec<Option<Held>> =
            sets.iter().zip(requested).map(|(set, requested)| former.keep(set, *requested)).collect();
        let unwanted = |old: &Held| sets.iter().zip(&kept).any(|(set, kept)| kept.is_none() && set.contains(old.ip));
        self.superseded.extend(former.held.iter().filter(|(_, held)| unwanted(held)).cloned());
        self.recorded = former.recorded(sets);
        self.before = former.record;
        if kept.iter().all(Option::is_some) {
            self.write_record()?;
        }
        let mut ips = Vec::with_capacity(sets.len());
        for (n, ((set, requested), kept)) in sets.iter().zip(requested).zip(kept).enumerate() {
            let held = match kept {
                Some(held) => held,
                None => self
                    .take(n, set, *requested)
                    .map_err(|e| e.context(&format!("failed to allocate for range {n}")))?,
            };
            ips.push(held.ip);
            plugin::step()?;
        }
        let request = self.request;
        reclaim::in_passing(self.locked()?, request);
        Ok(ips)
    }

    /// Gives the lock back; what was taken stays taken.
    pub(crate) fn unlock(&mut self) {
        self.locked = None;
    }

    /// Everything went well. Only now is freed what a former life had and the new one did not want.
    pub(crate) fn commit(mut self) {
        self.finished = true;
        let superseded = std::mem::take(&mut self.superseded);
        if superseded.is_empty() {
            return;
        }
        let release = || {
            let mut locked = self.store.lock()?;
            superseded.iter().try_for_each(|(owner, held)| locked.release(Some(owner), *held))
        };
        if let Err(error) = release() {
            let owner = &self.owner;
            let text = format!("an address of {owner} is no longer needed, but stays reserved until its DEL: {error}");
            host::syslog::warn("host-local", text);
        }
    }

    fn locked(&mut self) -> Result<&mut Locked<'a>, Error> {
        self.locked.as_mut().ok_or_else(|| Error::internal("the store was unlocked too early"))
    }

    /// What the attachment holds inside the sets. Refused, unless it is certainly gone and this is a restart.
    fn former(&mut self, sets: &[RangeSet]) -> Result<Former, Error> {
        let owner = self.owner.clone();
        let identity = self.identity.clone();
        let locked = self.locked()?;
        let mut held = Vec::new();
        for owner in [owner.clone(), owner.old_format()] {
            let found = locked.find(&owner).map_err(crate::failed)?;
            held.extend(found.into_iter().map(|held| (owner.clone(), held)));
        }
        if held.is_empty() {
            return Ok(Former::default());
        }
        let record = locked.record(&identity);
        let former = Former { held, record };
        let inside = former.inside(sets);
        let Some((n, held)) = inside.first() else {
            return Ok(former);
        };
        let (n, ip) = (*n, held.ip);
        let unrecorded = |held: &Held| !former.record.as_ref().is_some_and(|r| r.counts_for(held.ip, held.stamp));
        if let Some((n, held)) = inside.iter().find(|(_, held)| unrecorded(held)) {
            let since = format!("reserved since {}, by a plugin that left no record of it", utc(held.stamp.mtime.0));
            return Err(duplicate(*n, held.ip, &owner, &since));
        }
        // Whatever is inside is recorded.
        let Some(record) = &former.record else { return Ok(former) };
        let (id, ifname) = (&self.request.attachment.container_id, &self.request.attachment.ifname);
        let since = format!("reserved since {}, for {}", utc(record.time), describe(&record.trace()));
        match self.request.present.judge(&record.trace(), &self.request.attachment) {
            Verdict::Same => Err(duplicate(n, ip, &owner, &format!("{since}: the one of this ADD"))),
            Verdict::Kept(why) => Err(duplicate(n, ip, &owner, &format!("{since}; kept, because {why}"))),
            Verdict::Gone(why) => {
                let text = format!(
                    "{id} {ifname} is started again in {:?}: its reservation of {} (since {}, namespace {:?}) was still \
                     there, but {why}",
                    self.request.present.netns,
                    ip,
                    utc(record.time),
                    record.netns
                );
                host::syslog::notice("host-local", &text);
                Ok(former)
            }
        }
    }

    fn take(&mut self, n: usize, set: &RangeSet, requested: Option<IpAddr>) -> Result<Held, Error> {
        let owner = self.owner.clone();
        let draft = self.locked()?.draft(&owner).map_err(crate::failed)?;
        let held = self.take_as(&draft, n, set, requested);
        self.locked()?.discard(&draft);
        let held = held?;
        self.locked()?.set_cursor(n, held.ip).map_err(crate::failed)?;
        Ok(held)
    }

    /// The record speaks for the draft's file before that gets its address: who dies in between leaves no reservation of
    /// which nothing is known.
    fn take_as(&mut self, draft: &Draft, n: usize, set: &RangeSet, requested: Option<IpAddr>) -> Result<Held, Error> {
        for _ in 0..TRIES {
            let ip = match self.free(n, set, requested)? {
                Some(ip) => ip,
                None => self.free_from_the_gone(n, set, requested)?,
            };
            self.recorded.push(Recorded { ip, stamp: draft.stamp(), set: n });
            self.write_record()?;
            if let Some(held) = reserve(self.locked()?, draft, ip).map_err(crate::failed)? {
                self.taken.push(held);
                self.recorded_as(held)?;
                return Ok(held);
            }
            // Made meanwhile by someone who heeds no lock.
            self.recorded.pop();
            plugin::step()?;
        }
        Err(self.unavailable(set, requested, Tally::default()))
    }

    /// Where the draft could not be linked, the reservation is another file.
    fn recorded_as(&mut self, held: Held) -> Result<(), Error> {
        match self.recorded.last_mut() {
            Some(recorded) if recorded.stamp != held.stamp => {
                recorded.stamp = held.stamp;
                self.write_record()
            }
            _ => Ok(()),
        }
    }

    /// Nothing is free: has somebody something who does not live any more?
    fn free_from_the_gone(&mut self, n: usize, set: &RangeSet, requested: Option<IpAddr>) -> Result<IpAddr, Error> {
        let request = self.request;
        let locked = self.locked()?;
        let tally = match requested {
            Some(ip) => reclaim::from_holder(locked, request, ip),
            None => reclaim::from_all(locked, request, set)?,
        };
        let free = if tally.freed > 0 { self.free(n, set, requested)? } else { None };
        free.ok_or_else(|| self.unavailable(set, requested, tally))
    }

    /// An address that can be given; `None`: there is none.
    fn free(&mut self, n: usize, set: &RangeSet, requested: Option<IpAddr>) -> Result<Option<IpAddr>, Error> {
        let locked = self.locked()?;
        let free = match requested {
            Some(ip) => is_nobodys(locked, ip).map(|free| Some(ip).filter(|ip| free && set.contains(*ip))),
            None => next_free(locked, set, n),
        };
        free.map_err(crate::failed)
    }

    fn unavailable(&mut self, set: &RangeSet, requested: Option<IpAddr>, tally: Tally) -> Error {
        let folder = self.store.folder().display().to_string();
        let Some(ip) = requested else {
            let held = self.locked().ok().and_then(|locked| locked.occupied().ok()).unwrap_or_default();
            let held = held.into_iter().filter(|ip| set.contains(*ip)).count();
            return Error::internal(format!("no IP addresses available in range set: {set}")).with_details(exhausted(
                set.capacity(),
                held,
                &folder,
                &tally,
            ));
        };
        let range = set.range_of(ip).map(ToString::to_string).unwrap_or_default();
        let holder = self.holder(ip).unwrap_or_else(|| format!("see {folder}/{ip}"));
        Error::internal(format!("requested IP address {ip} is not available in range set {range}")).with_details(holder)
    }

    /// In words, who has the address.
    fn holder(&mut self, ip: IpAddr) -> Option<String> {
        let network = self.request.attachment.network.clone();
        let locked = self.locked().ok()?;
        let reservation = locked.read(ip).ok()??;
        let owner = match reservation.content {
            Content::Owner(owner) => owner,
            Content::Torn => return Some("its file is empty or cut off".to_owned()),
            Content::Foreign(what) => return Some(format!("something else than a reservation has its name: {what}")),
            Content::Unreadable(why) => return Some(format!("its file cannot be read: {why}")),
        };
        let since = utc(reservation.stamp.mtime.0);
        let ifname = owner.ifname.clone().unwrap_or_default();
        let attachment = Attachment { network, container_id: owner.container_id.clone(), ifname };
        let record = locked.record(&attachment.identity_hex()).filter(|r| r.counts_for(ip, reservation.stamp));
        let Some(record) = record else {
            return Some(format!("held by {owner} since {since}, by a plugin that left no record of it"));
        };
        let pod = record.pod.as_ref().map(|pod| format!("pod {}/{}, ", pod.namespace, pod.name)).unwrap_or_default();
        let why = match self.request.present.judge(&record.trace(), &attachment) {
            Verdict::Same => "its namespace is the one of this ADD".to_owned(),
            Verdict::Kept(why) => why,
            Verdict::Gone(_) => "its file could not be removed".to_owned(),
        };
        Some(format!("held by {owner} since {since}, {pod}{}; kept, because {why}", describe(&record.trace())))
    }

    fn write_record(&mut self) -> Result<(), Error> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let Request { attachment, present, pod, plugin, caller, .. } = self.request;
        let record = Record {
            container_id: attachment.container_id.clone(),
            ifname: attachment.ifname.clone(),
            addresses: self.recorded.clone(),
            time: now.as_secs(),
            boot_id: present.boot_id.clone(),
            netns: present.netns.clone(),
            netns_cookie: present.cookie,
            pod: pod.clone(),
            plugin: plugin.clone(),
            host_cookie: here(),
            caller: *caller,
        };
        self.has_written = true;
        let identity = self.identity.clone();
        self.locked()?.write_record(&identity, &record).map_err(crate::failed)
    }

    fn undo(&mut self) -> Result<(), crate::store::Error> {
        if self.taken.is_empty() && !self.has_written {
            return Ok(());
        }
        let mut locked = match self.locked.take() {
            Some(locked) => locked,
            None => self.store.lock()?,
        };
        let mut result = Ok(());
        for held in self.taken.drain(..).rev() {
            result = result.and(locked.release(Some(&self.owner), held));
        }
        result.and(match self.before.take() {
            Some(record) => locked.write_record(&self.identity, &record),
            None => locked.remove_record(&self.identity),
        })
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        if self.finished || stop::is_dead() {
            return;
        }
        if let Err(error) = self.undo() {
            host::syslog::warn("host-local", format_args!("undoing the reservations of {}: {error}", self.owner));
        }
    }
}

impl Former {
    /// The addresses that lie in one of the sets, with its number.
    fn inside(&self, sets: &[RangeSet]) -> Vec<(usize, Held)> {
        let in_set = |(n, set): (usize, &RangeSet)| {
            let held = self.held.iter().filter(|(_, held)| set.contains(held.ip)).map(|(_, held)| (n, *held));
            held.collect::<Vec<_>>()
        };
        sets.iter().enumerate().flat_map(in_set).collect()
    }

    /// The address of this set that the attachment gets back.
    fn keep(&self, set: &RangeSet, requested: Option<IpAddr>) -> Option<Held> {
        let mut inside = self.held.iter().map(|(_, held)| *held).filter(|held| set.contains(held.ip));
        inside.find(|held| requested.is_none_or(|ip| ip == held.ip))
    }

    /// What its record says about all that it has: also what is to be freed, until it is, and what none of the sets has,
    /// which stays reserved.
    fn recorded(&self, sets: &[RangeSet]) -> Vec<Recorded> {
        let recorded = self.record.iter().flat_map(|record| &record.addresses);
        let held = |a: &&Recorded| self.held.iter().any(|(_, held)| (held.ip, held.stamp) == (a.ip, a.stamp));
        let set_of = |a: &Recorded| sets.iter().position(|set| set.contains(a.ip)).unwrap_or(a.set);
        recorded.filter(held).map(|a| Recorded { set: set_of(a), ..*a }).collect()
    }
}

/// In words, who has the addresses of a full pool, and what can become of them.
fn exhausted(capacity: u128, held: usize, folder: &str, tally: &Tally) -> String {
    let Tally { recorded, gone, namespaces, .. } = tally;
    let mut text = format!(
        "all of its {capacity} addresses are taken, by {held} reservations in {folder}: {} have a record of ours, and their \
         attachments are alive or may be; {gone} are certainly gone, but could not be freed; {} have no record of ours and \
         are left to DEL and GC",
        recorded - gone,
        held.saturating_sub(*recorded)
    );
    let mut most: Vec<(&String, &usize)> = namespaces.iter().collect();
    most.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    if !most.is_empty() {
        let most: Vec<String> = most.iter().take(NAMED).map(|(name, count)| format!("{name} ({count})")).collect();
        text += &format!("; most are held by pods of the namespaces {}", most.join(", "));
    }
    text
}

fn duplicate(n: usize, ip: IpAddr, owner: &Owner, details: &str) -> Error {
    Error::internal(format!(
        "failed to allocate for range {n}: {ip} has been allocated to {owner}, duplicate allocation is not allowed"
    ))
    .with_details(details)
}

/// The next address in order that has no file; the first that has nobody's where there is no other.
fn next_free(locked: &Locked<'_>, set: &RangeSet, n: usize) -> Result<Option<IpAddr>, crate::store::Error> {
    let candidates = Candidates::new(set, locked.cursor(n));
    for (ip, _) in candidates.iter().take(TRIES) {
        if locked.is_free(ip)? {
            return Ok(Some(ip));
        }
    }
    // A long run of taken addresses: list the names once and go to the next gap.
    let inside = |ip: &IpAddr| set.contains(*ip);
    let mut occupied: Vec<u128> = locked.occupied()?.into_iter().filter(inside).map(number).collect();
    occupied.sort_unstable();
    while let Some((ip, _)) = candidates.first_free(&occupied) {
        if locked.is_free(ip)? {
            return Ok(Some(ip));
        }
        // Made meanwhile by someone who heeds no lock.
        let at = occupied.partition_point(|n| *n < number(ip));
        occupied.insert(at, number(ip));
    }
    // Full, unless some files are nobody's.
    for (ip, _) in candidates.iter() {
        if is_nobodys(locked, ip)? {
            return Ok(Some(ip));
        }
    }
    Ok(None)
}

fn is_nobodys(locked: &Locked<'_>, ip: IpAddr) -> Result<bool, crate::store::Error> {
    Ok(locked.read(ip)?.is_none_or(|reservation| reservation.content == Content::Torn))
}

/// `None`: somebody has it.
fn reserve(locked: &mut Locked<'_>, draft: &Draft, ip: IpAddr) -> Result<Option<Held>, crate::store::Error> {
    match locked.reserve(draft, ip)? {
        None if is_nobodys(locked, ip)? => locked.take_over(draft, ip),
        reserved => Ok(reserved),
    }
}

#[cfg(test)]
pub(crate) mod tests;
