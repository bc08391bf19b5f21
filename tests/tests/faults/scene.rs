//! A host and a pod for the rows of one subject.

use std::{cell::Cell, fs};

use serde_json::Value;
use tests::{Call, Host, Place, Pod, Reply, Snapshot, chained::Chain, host::SCRATCH, settings::bin_dir};

use crate::{
    strace::{self, Row, SystemCall, Verb},
    subjects::Subject,
};

/// Where `strace` writes.
const TRACE: &str = "/run/test/trace";
/// Where the delegate under fault is found in its own place.
const WRAPPERS: &str = "/run/test/wrappers";
/// How often an ADD is tried again that asks for it: on a machine with much to do, duplicate address detection may not
/// end in time.
const TRIES: usize = 4;

pub(crate) struct Scene<'s> {
    pub(crate) subject: &'s Subject,
    host: Host,
    pod: Pod,
    /// The result of the plugins that stay.
    first: Value,
    /// How all is when the plugins of a row have done nothing, or left nothing.
    before: Snapshot,
    is_worn: Cell<bool>,
}

impl<'s> Scene<'s> {
    pub(crate) fn new(subject: &'s Subject) -> Self {
        let host = Host::new();
        (subject.prepare)(&host);
        if let Some(delegate) = subject.delegate {
            wrap(&host, delegate);
        }
        if subject.is_first {
            let pod = host.pod();
            let before = Snapshot::with_pod(&host, &pod);
            return Self { subject, host, pod, first: Value::Null, before, is_worn: Cell::new(false) };
        }
        let all = [&subject.before[..], &subject.plugins].concat();
        // What stays for good is there; twice, for the bridge's MTU.
        for _ in 0..2 {
            let pod = host.pod();
            let result = add(&host, &pod, &all, &Value::Null).unwrap();
            Chain::new(&host, all.clone()).del(&pod, &result);
        }
        let pod = host.pod();
        let first = add(&host, &pod, &subject.before, &Value::Null).unwrap();
        let mut scene = Self { before: host.snapshot(), subject, host, pod, first, is_worn: Cell::new(false) };
        // Links of the pod's own, as `lo`, are not as before either once they were up.
        let result = scene.add(0..scene.plugins(), scene.first()).unwrap();
        scene.del(0..scene.plugins(), &result).unwrap();
        scene.difference_after_del();
        scene.before = Snapshot::with_pod(&scene.host, &scene.pod);
        scene
    }

    fn call(&self, plugin: usize, previous: &Value) -> Call<'_> {
        let config = &self.subject.plugins[plugin];
        self.host.plugin_of(config).pod(&self.pod).config_with(config, previous)
    }

    /// ADD of these plugins, each with the result of the one before.
    ///
    /// # Errors
    /// What the first that fails says.
    pub(crate) fn add(&self, plugins: std::ops::Range<usize>, previous: &Value) -> Result<Value, String> {
        add(&self.host, &self.pod, &self.subject.plugins[plugins], previous)
    }

    /// DEL of these plugins, the last one first.
    ///
    /// # Errors
    /// What the first that fails says.
    pub(crate) fn del(&self, plugins: std::ops::Range<usize>, result: &Value) -> Result<(), String> {
        for plugin in plugins.rev() {
            let reply = self.call(plugin, result).del();
            if !reply.status.success() {
                return Err(format!("DEL without a fault fails: {reply}"));
            }
        }
        Ok(())
    }

    /// CHECK of the plugin that is faulted.
    ///
    /// # Errors
    /// What it says.
    pub(crate) fn check(&self, result: &Value) -> Result<(), String> {
        let reply = self.call(self.subject.target, result).check();
        if reply.status.success() { Ok(()) } else { Err(format!("CHECK fails: {reply}")) }
    }

    /// Whether the pod is no longer what it was before the rows.
    pub(crate) fn is_worn(&self) -> bool {
        self.is_worn.get()
    }

    pub(crate) fn set_worn(&self, is_worn: bool) {
        self.is_worn.set(is_worn);
    }

    /// What the plugins of a row get from those before them.
    pub(crate) fn first(&self) -> &Value {
        &self.first
    }

    /// The number of plugins of a row.
    pub(crate) fn plugins(&self) -> usize {
        self.subject.plugins.len()
    }

    /// Calls the plugin with a fault (`None`: traced alone).
    pub(crate) fn faulted(&self, verb: Verb, previous: &Value, row: Option<&Row>) -> (Reply, String) {
        self.fault(self.call(self.subject.target, previous), verb, row)
    }

    /// ADD with a fault for a container of this id, whose namespace has ended afterwards.
    pub(crate) fn add_and_lose(&self, id: &str, row: &Row) -> (Reply, String) {
        let pod = self.host.named_pod();
        let answer = self.fault(self.call_for(id, &pod.path), Verb::Add, Some(row));
        self.host.unmount(&pod.path);
        answer
    }

    /// ADD for a container of this id, and its DEL.
    ///
    /// # Errors
    /// What they say.
    pub(crate) fn add_and_del(&self, id: &str) -> Result<(), String> {
        for verb in ["ADD", "DEL"] {
            let reply = self.call_for(id, &self.pod.path).verb(verb).run();
            if !reply.status.success() {
                return Err(format!("{verb} of {id} fails: {reply}"));
            }
        }
        Ok(())
    }

    /// As bridge calls its delegate.
    fn call_for(&self, id: &str, netns: &str) -> Call<'_> {
        self.call(self.subject.target, &Value::Null).id(id).netns(netns).env("OXBRIDGE_PLUGIN", "bridge")
    }

    fn fault(&self, call: Call<'_>, verb: Verb, row: Option<&Row>) -> (Reply, String) {
        let arguments: Vec<String> = row.map(Row::arguments).into_iter().flatten().collect();
        let mut call = call.verb(verb.name());
        if self.subject.delegate.is_some() {
            call = call
                .env("CNI_PATH", &format!("{WRAPPERS}:{}", bin_dir().display()))
                .env("FAULT_VERB", verb.name())
                .env("FAULT", &arguments.join(" "));
        } else {
            let mut strace = vec!["strace", "-q", "-o", TRACE];
            strace.extend(arguments.iter().map(String::as_str));
            call = call.under(&strace);
        }
        self.host.enter(|| _ = fs::remove_file(TRACE));
        let reply = call.run();
        reply.wait_for_orphans();
        (reply, self.host.read(TRACE).unwrap_or_default())
    }

    /// The calls of a run without a fault: the shortest of some, as a look that others disturb is taken again.
    pub(crate) fn calls(&self, verb: Verb) -> Vec<SystemCall> {
        // The first on a host has no second.
        let count = if self.subject.is_first { 1 } else { TRIES };
        (0..count).map(|_| self.trace(verb)).min_by_key(Vec::len).unwrap()
    }

    fn trace(&self, verb: Verb) -> Vec<SystemCall> {
        let target = self.subject.target;
        let result = self.add(0..target, &self.first).unwrap();
        let (reply, mut trace) = self.faulted(Verb::Add, &result, None);
        let result = self.add(target + 1..self.plugins(), &reply.result()).unwrap();
        self.del(target + 1..self.plugins(), &result).unwrap();
        if verb == Verb::Del {
            let reply;
            (reply, trace) = self.faulted(verb, &result, None);
            reply.ok();
        }
        self.del(0..self.plugins(), &result).unwrap();
        self.difference_after_del();
        strace::calls(&trace)
    }

    /// How all is now, compared with how it was before: a line for each difference.
    pub(crate) fn difference(&self) -> Vec<String> {
        let now = Snapshot::with_pod(&self.host, &self.pod);
        if self.subject.is_first {
            let diff = self.before.diff_without_skeleton(&now);
            // Empty tables, and forwarding, stay.
            let is_skeleton = |line: &&str| line[2..].starts_with("nft {") || line[2..].starts_with("sysctl ");
            return diff.lines().filter(|line| !is_skeleton(line)).map(str::to_owned).collect();
        }
        self.before.diff(&now).lines().map(str::to_owned).collect()
    }

    /// The same after DEL, which forgives what DEL leaves on purpose to the pod's end: sysctls, and a queueing
    /// discipline of the pod's own link.
    pub(crate) fn difference_after_del(&self) -> Vec<String> {
        let mut lines = self.difference();
        if lines.iter().any(|line| line.contains("pod sysctl")) {
            self.pod.run("sysctl -q -w net.ipv4.conf.eth0.arp_filter=0");
            lines.retain(|line| !line.contains("pod sysctl"));
        }
        if self.subject.is_first {
            // So does the bridge.
            lines.retain(|line| !line.contains("br0"));
        }
        let target = &self.subject.plugins[self.subject.target];
        if target["type"] == "bandwidth" {
            lines.retain(|line| !line[2..].starts_with("link veth") && !line[2..].starts_with("qdisc veth"));
        }
        lines
    }
}

/// ADD of these plugins, each with the result of the one before; tried again where it is said to help, as runtimes do.
fn add(host: &Host, pod: &Pod, plugins: &[Value], previous: &Value) -> Result<Value, String> {
    let mut result = previous.clone();
    for config in plugins {
        let call = || host.plugin_of(config).pod(pod).config_with(config, &result).add();
        let mut reply = call();
        for _ in 0..TRIES {
            if reply.status.success() || reply.failure().code != 11 {
                break;
            }
            reply = call();
        }
        if !reply.status.success() {
            return Err(format!("ADD without a fault fails: {reply}"));
        }
        result = reply.result();
    }
    Ok(result)
}

/// Puts a script in the delegate's place that starts it under `strace`, with the arguments that its caller is given.
fn wrap(host: &Host, delegate: &str) {
    let plugin = bin_dir().join(delegate);
    let (path, plugin) = (format!("{WRAPPERS}/{delegate}"), plugin.display());
    let lines = format!(
        "#!/bin/sh\n[ \"$CNI_COMMAND\" = \"$FAULT_VERB\" ] || exec {plugin}\nexec strace -q -o {TRACE} $FAULT {plugin}\n"
    );
    host.write(&path, lines);
    host.run(&format!("chmod 755 {path}"));
    assert!(path.starts_with(SCRATCH), "the snapshots leave it out");
}
