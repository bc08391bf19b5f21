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
use crate::store::record::{Pod, Record, Recorded, here};
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
    /// The record as it was, where this call has written another.
    before: Option<Option<Record>>,
    finished: bool,
}

/// The attachment's former life, when it is certainly over.
#[derive(Debug, Default)]
struct Former {
    held: Vec<(Owner, Held)>,
    record: Option<Record>,
}

/// So many addresses are tried one by one before the folder is listed.
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
            before: None,
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
        let mut ips = Vec::with_capacity(sets.len());
        let mut addresses = former.addresses_elsewhere(sets);
        for (n, (set, requested)) in sets.iter().zip(&self.request.requested).enumerate() {
            let kept = former.keep(set, *requested);
            let held = match kept {
                Some(held) => held,
                None => self
                    .take(n, set, *requested)
                    .map_err(|e| e.context(&format!("failed to allocate for range {n}")))?,
            };
            let unwanted = former.held.iter().filter(|(_, old)| kept.is_none() && set.contains(old.ip));
            self.superseded.extend(unwanted.cloned());
            addresses.push(Recorded { ip: held.ip, stamp: held.stamp, set: n });
            ips.push(held.ip);
            plugin::step()?;
        }
        self.write_record(addresses, former.record)?;
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
        let held = match self.reserve(n, set, requested)? {
            Some(held) => held,
            None => self.take_from_the_gone(n, set, requested)?,
        };
        self.taken.push(held);
        self.locked()?.set_cursor(n, held.ip).map_err(crate::failed)?;
        Ok(held)
    }

    /// Nothing is free: has somebody something who does not live any more?
    fn take_from_the_gone(&mut self, n: usize, set: &RangeSet, requested: Option<IpAddr>) -> Result<Held, Error> {
        let request = self.request;
        let locked = self.locked()?;
        let tally = match requested {
            Some(ip) => reclaim::from_holder(locked, request, ip),
            None => reclaim::from_all(locked, request, set)?,
        };
        let held = if tally.freed > 0 { self.reserve(n, set, requested)? } else { None };
        held.ok_or_else(|| self.unavailable(set, requested, tally))
    }

    /// `None`: no address is free.
    fn reserve(&mut self, n: usize, set: &RangeSet, requested: Option<IpAddr>) -> Result<Option<Held>, Error> {
        let owner = self.owner.clone();
        let locked = self.locked()?;
        let draft = locked.draft(&owner).map_err(crate::failed)?;
        let found = match requested {
            Some(ip) => take_requested(locked, &draft, set, ip),
            None => take_next(locked, &draft, set, n),
        };
        locked.discard(&draft);
        found.map_err(crate::failed)
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

    fn write_record(&mut self, addresses: Vec<Recorded>, before: Option<Record>) -> Result<(), Error> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let Request { attachment, present, pod, plugin, .. } = self.request;
        let record = Record {
            container_id: attachment.container_id.clone(),
            ifname: attachment.ifname.clone(),
            addresses,
            time: now.as_secs(),
            boot_id: present.boot_id.clone(),
            netns: present.netns.clone(),
            netns_cookie: present.cookie,
            pod: pod.clone(),
            plugin: plugin.clone(),
            host_cookie: here(),
        };
        self.before = Some(before);
        let identity = self.identity.clone();
        self.locked()?.write_record(&identity, &record).map_err(crate::failed)
    }

    fn undo(&mut self) -> Result<(), crate::store::Error> {
        if self.taken.is_empty() && self.before.is_none() {
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
            Some(Some(record)) => locked.write_record(&self.identity, &record),
            Some(None) => locked.remove_record(&self.identity),
            None => Ok(()),
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

    /// What the record says about addresses that none of the sets has: they stay reserved.
    fn addresses_elsewhere(&self, sets: &[RangeSet]) -> Vec<Recorded> {
        let recorded = self.record.iter().flat_map(|record| &record.addresses);
        let held = |a: &Recorded| self.held.iter().any(|(_, held)| (held.ip, held.stamp) == (a.ip, a.stamp));
        recorded.filter(|a| held(a) && !sets.iter().any(|set| set.contains(a.ip))).copied().collect()
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

type Found = Result<Option<Held>, crate::store::Error>;

fn take_requested(locked: &mut Locked<'_>, draft: &Draft, set: &RangeSet, ip: IpAddr) -> Found {
    if !set.contains(ip) {
        return Ok(None);
    }
    if let Some(held) = locked.reserve(draft, ip)? {
        return Ok(Some(held));
    }
    take_torn(locked, draft, ip)
}

fn take_next(locked: &mut Locked<'_>, draft: &Draft, set: &RangeSet, n: usize) -> Found {
    let candidates = Candidates::new(set, locked.cursor(n));
    for (ip, _) in candidates.iter().take(TRIES) {
        if let Some(held) = locked.reserve(draft, ip)? {
            return Ok(Some(held));
        }
    }
    // A long run of taken addresses: list the names once and go to the next gap.
    let inside = |ip: &IpAddr| set.contains(*ip);
    let mut occupied: Vec<u128> = locked.occupied()?.into_iter().filter(inside).map(number).collect();
    occupied.sort_unstable();
    while let Some((ip, _)) = candidates.first_free(&occupied) {
        if let Some(held) = locked.reserve(draft, ip)? {
            return Ok(Some(held));
        }
        // Made meanwhile by someone who heeds no lock.
        let at = occupied.partition_point(|n| *n < number(ip));
        occupied.insert(at, number(ip));
    }
    // Full, unless some files are nobody's.
    for (ip, _) in candidates.iter() {
        if let Some(held) = take_torn(locked, draft, ip)? {
            return Ok(Some(held));
        }
    }
    Ok(None)
}

fn take_torn(locked: &mut Locked<'_>, draft: &Draft, ip: IpAddr) -> Found {
    match locked.read(ip)? {
        Some(reservation) if reservation.content == Content::Torn => locked.take_over(draft, ip),
        Some(_) => Ok(None),
        None => locked.reserve(draft, ip),
    }
}

#[cfg(test)]
pub(crate) mod tests;
