//! What the runtime knows: who lives, who has which address. Kept by the test itself, and never read from a host.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Instant,
};

use crate::{Pod, chained::Suite};

/// Shared by all workers.
#[derive(Default)]
pub struct Books(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    lives: HashMap<String, Life>,
    claims: HashMap<IpAddr, String>,
    leaving: HashMap<IpAddr, Leaving>,
    forgotten: HashSet<IpAddr>,
    /// For each network: since when there are how many attachments that may have something.
    counts: HashMap<&'static str, Vec<(Instant, usize)>>,
}

/// From the beginning of its ADD to the end of its DEL.
struct Life {
    network: &'static str,
    end: Option<Instant>,
    /// Is to be kept by GC.
    is_valid: bool,
    /// A plugin of the reference has had its DEL.
    del_by_reference: bool,
}

/// Somebody who is being detached, and had an address.
#[derive(Clone)]
pub struct Leaving {
    /// Its namespace.
    pub pod: Arc<Pod>,
    /// By whom.
    pub by: Suite,
}

impl Books {
    /// An ADD begins.
    pub fn begin(&self, id: &str, network: &'static str) {
        let mut inner = self.inner();
        let life = Life { network, end: None, is_valid: true, del_by_reference: false };
        if inner.lives.insert(id.to_owned(), life).is_none_or(|old| old.end.is_some()) {
            inner.count(network, |n| n + 1);
        }
    }

    /// An ADD has given these addresses. What is returned: who has them too, or is leaving with them.
    pub fn claim(&self, id: &str, ips: &[IpAddr]) -> (Vec<String>, Vec<(IpAddr, Leaving)>) {
        let mut inner = self.inner();
        let twice = ips.iter().filter_map(|ip| Some(format!("{ip} of {}", inner.claims.get(ip)?))).collect();
        let leaving = ips.iter().filter_map(|ip| Some((*ip, inner.leaving.get(ip)?.clone()))).collect();
        for ip in ips {
            inner.claims.insert(*ip, id.to_owned());
        }
        (twice, leaving)
    }

    /// Who has the address.
    pub fn holder(&self, ip: IpAddr) -> Option<String> {
        self.inner().claims.get(&ip).cloned()
    }

    /// Its namespace is being destroyed: its addresses may be given to another from now on, and GC may take the rest.
    pub fn vanish(&self, id: &str) {
        let mut inner = self.inner();
        inner.claims.retain(|_, holder| holder != id);
        if let Some(life) = inner.lives.get_mut(id) {
            life.is_valid = false;
        }
    }

    /// A DEL begins: from now on its addresses may be another's.
    pub fn leave(&self, pod: &Arc<Pod>, by: Suite) {
        self.vanish(&pod.id);
        let mut inner = self.inner();
        if let Some(life) = inner.lives.get_mut(&pod.id) {
            life.del_by_reference |= by == Suite::Reference;
        }
    }

    /// The same, for one that may still have these addresses in its namespace.
    pub fn leave_with(&self, pod: &Arc<Pod>, by: Suite, ips: &[IpAddr]) {
        self.leave(pod, by);
        let mut inner = self.inner();
        for ip in ips {
            inner.leaving.insert(*ip, Leaving { pod: Arc::clone(pod), by });
        }
    }

    /// Nobody has told a DEL that these addresses were the pod's.
    pub fn forget(&self, ips: &[IpAddr]) {
        self.inner().forgotten.extend(ips);
    }

    /// Whether that was so of this address.
    pub fn is_forgotten(&self, ip: IpAddr) -> bool {
        self.inner().forgotten.contains(&ip)
    }

    /// Nothing of it is left.
    pub fn end(&self, id: &str) {
        let mut inner = self.inner();
        inner.leaving.retain(|_, leaving| leaving.pod.id != id);
        let Some(life) = inner.lives.get_mut(id) else { return };
        life.is_valid = false;
        if life.end.replace(Instant::now()).is_none() {
            let network = life.network;
            inner.count(network, |n| n - 1);
        }
    }

    /// The ids that GC is to keep.
    pub fn valid(&self, network: &str) -> Vec<String> {
        let inner = self.inner();
        inner.lives.iter().filter(|(_, l)| l.network == network && l.is_valid).map(|(id, _)| id.clone()).collect()
    }

    /// Whether it may have had something at or after `since`, or the reference's DEL may have left something of ours.
    pub fn may_have_lived(&self, id: &str, since: Instant) -> bool {
        let inner = self.inner();
        inner.lives.get(id).is_some_and(|l| l.end.is_none_or(|end| end >= since) || l.del_by_reference)
    }

    /// Whether a plugin of the reference has had its DEL.
    pub fn was_detached_by_reference(&self, id: &str) -> bool {
        self.inner().lives.get(id).is_some_and(|l| l.del_by_reference)
    }

    /// The most attachments of the network that there were at a time since then.
    pub fn most(&self, network: &str, since: Instant) -> usize {
        let inner = self.inner();
        let counts = inner.counts.get(network).map_or(&[][..], Vec::as_slice);
        let before = counts.iter().rev().find(|(at, _)| *at < since);
        counts.iter().filter(|(at, _)| *at >= since).chain(before).map(|(_, n)| *n).max().unwrap_or_default()
    }

    /// How many attachments there were at all.
    pub fn len(&self) -> usize {
        self.inner().lives.len()
    }

    /// Whether there were none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }
}

impl Inner {
    fn count(&mut self, network: &'static str, change: impl FnOnce(usize) -> usize) {
        let counts = self.counts.entry(network).or_default();
        let now = change(counts.last().map_or(0, |(_, n)| *n));
        counts.push((Instant::now(), now));
    }
}
