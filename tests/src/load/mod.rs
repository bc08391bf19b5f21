//! A host under load: many attachments, ADD, CHECK, DEL and GC of them at the same time and in any order, by ours and by
//! the reference's plugins, with everything in between that a node does to its plugins.
//!
//! What must hold is watched all the time: no address belongs to two pods (by the results of ADD, and by what the pods
//! really have), ours fails for honest reasons alone, and CHECK of what ours made passes. Chance decides what is done, by a
//! seed; how calls meet is the machine's affair, so a seed does not bring back a run, only its choices.

mod books;
mod left;
mod life;
mod log;
mod network;
mod random;
mod watch;

use std::{
    env,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};

use crate::{Host, Reply, chained::Suite, config::with, snapshot::Snapshot};
pub use books::Books;
pub use left::Left;
pub use log::{Log, Report};
use network::{Attachment, OfHost, State};
pub use random::Random;

/// A call that takes longer hangs: all workers wait for two CPUs.
const LIMIT: Duration = Duration::from_secs(60);

/// How much.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Attachments at most.
    pub attachments: usize,
    /// Calls at a time.
    pub workers: usize,
    /// Until the last ones are detached.
    pub time: Duration,
    /// Of all choices.
    pub seed: u64,
}

impl Load {
    /// As the caller says by `LOAD_ATTACHMENTS`, `LOAD_WORKERS`, `LOAD_SECONDS` and `LOAD_SEED`, or this.
    #[must_use]
    pub fn from_env(attachments: usize, workers: usize, seconds: u64) -> Self {
        let number = |name: &str| env::var(name).ok().filter(|text| !text.is_empty()).map(|text| text.parse().unwrap());
        let count = |name: &str, default: usize| number(name).map_or(default, |n: u64| n.try_into().unwrap());
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        Self {
            attachments: count("LOAD_ATTACHMENTS", attachments),
            workers: count("LOAD_WORKERS", workers),
            time: Duration::from_secs(number("LOAD_SECONDS").unwrap_or(seconds)),
            seed: number("LOAD_SEED").unwrap_or_else(now),
        }
    }
}

/// A host, its networks, and what the runtime knows of them.
struct Node<'h> {
    host: &'h Host,
    networks: [OfHost; 2],
    slots: Vec<Slot>,
    books: Books,
    log: Log,
    is_over: AtomicBool,
}

/// A place for one attachment at a time.
struct Slot {
    network: usize,
    attachment: Mutex<Option<Attachment>>,
}

/// Runs the load and detaches everything; how it went, and the host before and after.
///
/// # Panics
/// When there are no plugins of the reference: skips the test.
pub fn run(host: &Host, load: &Load) -> (Report, Books, [Snapshot; 2]) {
    let networks = [OfHost::large(), OfHost::small()];
    // A fifth of them on the small network, whose addresses do not suffice for all.
    let slot = |n: usize| Slot { network: usize::from(n.is_multiple_of(5)), attachment: Mutex::default() };
    let slots = (0..load.attachments).map(slot).collect();
    let node = Node { host, networks, slots, books: Books::default(), log: Log::default(), is_over: false.into() };
    node.warm_up();
    let before = host.snapshot();
    let deadline = Instant::now() + load.time;
    thread::scope(|s| {
        let workers: Vec<_> = (0..load.workers)
            .map(|n| {
                let node = &node;
                s.spawn(move || node.work(&mut Random::new(load.seed, u64::try_from(n).unwrap()), deadline))
            })
            .collect();
        s.spawn(|| node.collect_garbage(&mut Random::new(load.seed, 1000)));
        s.spawn(|| node.watch());
        let ends: Vec<_> = workers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        node.is_over.store(true, Ordering::Relaxed);
        ends.into_iter().for_each(|end| end.unwrap());
    });
    node.detach_all(load);
    host.wait_for_ports(0);
    let after = host.snapshot();
    (node.log.into_report(), node.books, [before, after])
}

/// What GC of ours, without anything that is valid, leaves of both networks.
pub fn clean(host: &Host) -> Snapshot {
    for network in [OfHost::large(), OfHost::small()] {
        for plugin in network.plugins().iter().rev() {
            gc(host, plugin, &json!([])).ok();
        }
    }
    host.snapshot()
}

fn gc(host: &Host, plugin: &Value, valid: &Value) -> Reply {
    let call = host.plugin(plugin["type"].as_str().unwrap());
    crate::chained::gc(call.limit(LIMIT), plugin, valid)
}

impl Node<'_> {
    /// Both suites make what stays.
    fn warm_up(&self) {
        for network in &self.networks {
            for by in [Suite::Reference, Suite::Tested] {
                let mut attachment = Attachment::new(self.host, network, &mut Random::new(0, 0));
                attachment.by.fill(by);
                attachment.other_ipam = false;
                for plugin in attachment.plugins.iter_mut().filter(|plugin| plugin["type"] == "portmap") {
                    let mapping = |protocol| json!({ "hostPort": 19_999, "containerPort": 80, "protocol": protocol });
                    plugin["runtimeConfig"]["portMappings"] = ["tcp", "udp"].into_iter().map(mapping).collect();
                }
                for number in 0..attachment.plugins.len() {
                    let config = with(&attachment.plugins[number], json!({ "prevResult": attachment.result }));
                    attachment.result = attachment.call(self.host, number, by).config(&config).add().result();
                }
                for number in (0..attachment.plugins.len()).rev() {
                    let config = with(&attachment.plugins[number], json!({ "prevResult": attachment.result }));
                    attachment.call(self.host, number, by).config(&config).del().ok();
                }
            }
        }
    }

    fn work(&self, random: &mut Random, deadline: Instant) {
        while Instant::now() < deadline {
            let slot = &self.slots[random.below(self.slots.len())];
            let Ok(mut attachment) = slot.attachment.try_lock() else { continue };
            let network = &self.networks[slot.network];
            if random.chance(2) {
                self.status(network, random);
            }
            match &*attachment {
                None => self.attach(network, &mut attachment, random),
                Some(a) if a.state == State::Attached => self.disturb(network, &mut attachment, random),
                Some(_) => self.detach(network, &mut attachment, random),
            }
        }
    }

    fn status(&self, network: &OfHost, random: &mut Random) {
        let plugin = &network.plugins()[random.below(network.plugins().len())];
        let config = with(plugin, json!({ "cniVersion": "1.1.0" }));
        let name = plugin["type"].as_str().unwrap();
        let reply = self.host.plugin(name).verb("STATUS").config(&config).limit(LIMIT).run();
        self.log.time("STATUS", name, Suite::Tested, reply.time);
        if !reply.status.success() {
            self.log.fault(format!("STATUS {name}: {reply}"));
        }
    }

    /// GC of one network after the other, with the list of those that are valid at that time. The spec: no ADD and no DEL
    /// meanwhile. Those of the other network go on, and CHECKs do.
    fn collect_garbage(&self, random: &mut Random) {
        while !self.is_over.load(Ordering::Relaxed) {
            let network = &self.networks[random.below(self.networks.len())];
            {
                let _turn = network.turn.write().unwrap();
                let attachment = |id: &String| json!({ "containerID": id, "ifname": "eth0" });
                let valid: Value = self.books.valid(network.name).iter().map(attachment).collect();
                for plugin in network.plugins().iter().rev() {
                    let reply = gc(self.host, plugin, &valid);
                    let name = plugin["type"].as_str().unwrap();
                    self.log.time("GC", name, Suite::Tested, reply.time);
                    if !reply.status.success() {
                        self.log.fault(format!("GC {name}: {reply}"));
                    }
                }
            }
            thread::sleep(Duration::from_secs(2));
        }
    }

    /// The end of all that are left.
    fn detach_all(&self, load: &Load) {
        thread::scope(|s| {
            for n in 0..load.workers {
                s.spawn(move || {
                    let mut random = Random::new(load.seed, 2000 + u64::try_from(n).unwrap());
                    for slot in &self.slots[..] {
                        let Ok(mut attachment) = slot.attachment.try_lock() else { continue };
                        self.detach(&self.networks[slot.network], &mut attachment, &mut random);
                    }
                });
            }
        });
        let left: Vec<_> = self.slots.iter().filter(|slot| slot.attachment.lock().unwrap().is_some()).collect();
        assert!(left.is_empty(), "{} attachments were not detached", left.len());
    }
}
