//! What happens to one attachment.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{
    LIMIT, Node, Random,
    network::{Attachment, OfHost, State, either},
};
use crate::{Call, NetNs, Place, Pod, Reply, chained::Suite, pod::ips};

impl Node<'_> {
    /// One of the things that happen to a pod.
    pub(super) fn disturb(&self, network: &OfHost, slot: &mut Option<Attachment>, random: &mut Random) {
        let Some(attachment) = slot else { return };
        match random.below(100) {
            0..45 => self.check(attachment),
            45..80 => self.detach(network, slot, random),
            80..92 => self.vanish(attachment),
            92..96 => self.restart(network, slot, random),
            // Its life goes on.
            _ => {}
        }
    }

    pub(super) fn attach(&self, network: &OfHost, slot: &mut Option<Attachment>, random: &mut Random) {
        let attachment = slot.insert(Attachment::new(self.host, network, random));
        self.add(network, attachment, random);
    }

    /// ADD by all plugins. Whatever happens, the slot is occupied until DEL.
    fn add(&self, network: &OfHost, attachment: &mut Attachment, random: &mut Random) {
        let _turn = network.turn.read().unwrap();
        let since = Instant::now();
        self.books.begin(&attachment.pod.id, network.name);
        attachment.state = State::Unfinished;
        attachment.result = Value::Null;
        // Only ours: what the reference leaves then is its own affair.
        let killed = (attachment.is_ours() && random.chance(6)).then(|| random.below(attachment.plugins.len()));
        let mut result = Value::Null;
        for number in 0..attachment.plugins.len() {
            let (config, by) = (attachment.plugins[number].clone(), attachment.by[number]);
            let mut call = attachment.call(self.host, number, by).config_with(&config, &result).limit(LIMIT);
            if killed == Some(number) {
                self.log.disturbed("ADD killed, then DEL");
                call = kill(call, random);
            }
            let reply = call.add();
            let plugin = config["type"].as_str().unwrap();
            if !reply.status.success() {
                if killed != Some(number) {
                    self.failed("ADD", plugin, by, attachment, &reply, |what| {
                        self.log.refused(what, &reply, network, &self.books, since);
                    });
                }
                self.books.vanish(&attachment.pod.id);
                return;
            }
            self.log.time("ADD", plugin, by, reply.time);
            result = reply.result();
            if number == 0 {
                attachment.given = ips(&result);
                self.claim(&attachment.pod, &attachment.given);
            }
            if killed == Some(number) {
                // It has ended before; nobody has read what it said.
                self.books.vanish(&attachment.pod.id);
                return;
            }
        }
        attachment.result = result;
        attachment.state = State::Attached;
    }

    fn check(&self, attachment: &Attachment) {
        for number in 0..attachment.plugins.len() {
            let (config, by) = (&attachment.plugins[number], attachment.by[number]);
            let reply =
                attachment.call(self.host, number, by).config_with(config, &attachment.result).limit(LIMIT).check();
            let plugin = config["type"].as_str().unwrap();
            self.log.time("CHECK", plugin, by, reply.time);
            if !reply.status.success() {
                self.failed("CHECK", plugin, by, attachment, &reply, |what| self.log.fault(format!("{what}: {reply}")));
            }
        }
    }

    /// The namespace is destroyed, and nobody says so for now.
    fn vanish(&self, attachment: &mut Attachment) {
        self.log.disturbed("namespace destroyed without DEL");
        self.books.vanish(&attachment.pod.id);
        self.destroy(attachment);
        attachment.state = State::Vanished;
    }

    fn destroy(&self, attachment: &mut Attachment) {
        if attachment.is_named {
            self.host.unmount(&attachment.pod.path);
        }
        let pod = &attachment.pod;
        let (id, ifname, path) = (pod.id.clone(), pod.ifname.clone(), pod.path.clone());
        // Its place is taken by the host's, which no plugin gets to see; the path may be another pod's from now on.
        attachment.pod = Arc::new(Pod { id, ifname, path, ns: self.host.enter(NetNs::current) });
    }

    /// The container dies, and is started again in a new namespace: without a DEL, under its old name and path.
    fn restart(&self, network: &OfHost, slot: &mut Option<Attachment>, random: &mut Random) {
        let Some(attachment) = slot.as_mut().filter(|a| a.is_named && a.is_ours()) else { return };
        self.log.disturbed("container started again without DEL");
        self.books.vanish(&attachment.pod.id);
        let old = ips(&attachment.result);
        self.destroy(attachment);
        let ns = NetNs::new();
        let pod = &attachment.pod;
        self.host.mount_netns(&ns, &pod.path);
        attachment.pod = Arc::new(Pod { id: pod.id.clone(), ifname: pod.ifname.clone(), path: pod.path.clone(), ns });
        self.add(network, attachment, random);
        let new = ips(&attachment.result);
        // Somebody else may have got the old one: it was certainly gone.
        if attachment.state == State::Attached && old == new {
            self.log.disturbed("… which got its addresses back");
        }
    }

    /// DEL by all plugins, the last one first, in one of the ways in which runtimes do it.
    pub(super) fn detach(&self, network: &OfHost, slot: &mut Option<Attachment>, random: &mut Random) {
        let Some(attachment) = slot else { return };
        let _turn = network.turn.read().unwrap();
        let by = attachment.by.iter().map(|made_by| match made_by {
            // What the reference cannot know of stays behind: only a few.
            Suite::Tested => {
                if attachment.state == State::Attached && random.chance(1) {
                    Suite::Reference
                } else {
                    Suite::Tested
                }
            }
            // Killed halfway, or gone: what it leaves then is its own affair.
            Suite::Reference => {
                if attachment.state == State::Attached {
                    either(random)
                } else {
                    Suite::Tested
                }
            }
        });
        let by: Vec<_> = by.collect();
        let ips = ips(&attachment.result);
        if attachment.state == State::Attached {
            self.books.leave_with(&attachment.pod, by[0], &ips);
        } else {
            self.books.leave(&attachment.pod, by[0]);
        }
        by.iter().for_each(|by| self.books.leave(&attachment.pod, *by));
        let with_result = random.chance(80);
        if !with_result {
            self.log.disturbed("DEL without prevResult");
        }
        if !with_result || attachment.state == State::Unfinished {
            let given = attachment.given.clone();
            self.books.forget(&given);
        }
        let times = if random.chance(10) { 2 } else { 1 };
        if times == 2 {
            self.log.disturbed("DEL twice");
        }
        let without_netns = attachment.state == State::Vanished && random.chance(50);
        let all_ours = by.iter().all(|by| *by == Suite::Tested);
        if all_ours && random.chance(6) {
            self.log.disturbed("DEL killed, then DEL");
            let number = random.below(attachment.plugins.len());
            self.del(attachment, number, by[number], with_result, without_netns, Some(random));
        }
        for _ in 0..times {
            for number in (0..attachment.plugins.len()).rev() {
                self.del(attachment, number, by[number], with_result, without_netns, None);
            }
        }
        self.books.end(&attachment.pod.id);
        if attachment.is_named && attachment.state != State::Vanished {
            self.host.unmount(&attachment.pod.path);
        }
        *slot = None;
    }

    fn del(
        &self,
        attachment: &Attachment,
        number: usize,
        by: Suite,
        with_result: bool,
        without_netns: bool,
        killed: Option<&mut Random>,
    ) {
        let config = &attachment.plugins[number];
        let result = if with_result { &attachment.result } else { &Value::Null };
        let mut call = attachment.call(self.host, number, by).config_with(config, result).limit(LIMIT);
        if without_netns {
            call = call.netns("");
        }
        if let Some(random) = killed {
            kill(call, random).del();
            return;
        }
        let reply = call.del();
        let plugin = config["type"].as_str().unwrap();
        self.log.time("DEL", plugin, by, reply.time);
        if !reply.status.success() {
            self.failed("DEL", plugin, by, attachment, &reply, |what| self.log.fault(format!("{what}: {reply}")));
            if by == Suite::Reference {
                // The runtime tries again, and its plugins are others by then.
                self.del(attachment, number, Suite::Tested, with_result, without_netns, None);
            }
        }
    }

    fn failed(
        &self,
        verb: &str,
        plugin: &str,
        by: Suite,
        attachment: &Attachment,
        reply: &Reply,
        ours: impl FnOnce(&str),
    ) {
        let what =
            format!("{verb} {plugin} of {} ({:?}, made by {:?})", attachment.pod.id, attachment.state, attachment.by);
        match by {
            Suite::Tested => ours(&what),
            Suite::Reference => self.log.reference_failed(&format!("{verb} {plugin}"), reply),
        }
    }
}

/// Kills the plugin at a moment between its start and about its end.
fn kill<'h>(call: Call<'h>, random: &mut Random) -> Call<'h> {
    let start = Instant::now();
    // Sooner as often as later: most of what can be cut in two is short.
    let after = Duration::from_micros(1 << random.below(19));
    call.signal(Signal::SIGKILL, move || start.elapsed() >= after)
}
