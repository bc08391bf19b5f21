//! Chains: what `portmap` and its like take behind `bridge`.

use crate::{
    Size,
    call::{Call, Suite},
    netns::NetNs,
    scenario::{Outcome, Pair, footprint_row, masq_config, progress, store, turns},
    table::Table,
};
use serde_json::{Value, json};
use std::time::Duration;

/// One plugin of a chain, with its config.
type Link = (&'static str, Value);

/// A host of one suite, whose pods go through all plugins.
pub(crate) struct Chain<'a> {
    suite: &'a Suite,
    pub(crate) netns: NetNs,
    links: Vec<Link>,
}

/// The time of each plugin's calls, in the order of the chain.
#[derive(Default)]
struct Samples {
    add: Vec<Vec<Duration>>,
    del: Vec<Vec<Duration>>,
}

impl<'a> Chain<'a> {
    /// `bridge` with `ipMasq` and host-local, and these plugins behind it.
    pub(crate) fn new(suite: &'a Suite, series: &str, side: usize, behind: Vec<Link>) -> Outcome<Self> {
        let bridge = serde_json::from_str(&masq_config(store(series, side)))?;
        Ok(Self { suite, netns: NetNs::new()?, links: [vec![("bridge", bridge)], behind].concat() })
    }

    /// Has these plugins behind `bridge` from now on.
    pub(crate) fn replace_behind(&mut self, behind: Vec<Link>) {
        self.links.splice(1.., behind);
    }

    /// ADD by each plugin; the time of each, and the last one's result.
    pub(crate) fn add(&self, id: &str, pod: &NetNs) -> Outcome<(Vec<Duration>, Value)> {
        self.netns.enter()?;
        let (mut times, mut result) = (Vec::new(), Value::Null);
        for (plugin, config) in &self.links {
            let (time, answer) = self.call("ADD", plugin, id, pod, config, &result)?;
            times.push(time);
            result = serde_json::from_str(&answer)?;
        }
        Ok((times, result))
    }

    /// DEL by each plugin, the last one first; the times in the order of the chain.
    fn del(&self, id: &str, pod: &NetNs, result: &Value) -> Outcome<Vec<Duration>> {
        self.netns.enter()?;
        let mut times = Vec::new();
        for (plugin, config) in self.links.iter().rev() {
            times.push(self.call("DEL", plugin, id, pod, config, result)?.0);
        }
        times.reverse();
        Ok(times)
    }

    fn call(
        &self,
        command: &str,
        plugin: &str,
        id: &str,
        pod: &NetNs,
        config: &Value,
        result: &Value,
    ) -> Outcome<(Duration, String)> {
        let (config, netns) = (with_result(config, result), pod.path());
        self.suite.run(&Call { plugin, command, container_id: id, netns: &netns, config: &config })
    }

    /// The first attachment makes what stays: bridge, tables, chains.
    fn warm_up(&self) -> Outcome<()> {
        let pod = NetNs::new()?;
        let (_, result) = self.add("warm-up", &pod)?;
        self.del("warm-up", &pod, &result).map(drop)
    }
}

/// `portmap` behind `bridge`, and all that may be chained there.
pub(crate) fn attachments(suites: Pair<'_>, size: Size, table: &mut Table) -> Outcome<()> {
    for (what, ports, add, del) in [("one port", 1, 0.15, Some(0.20)), ("ten ports", 10, 0.05, None)] {
        progress(&format!("portmap with {what}"));
        let [ours, peer] = series(suites, &format!("portmap-{ports}"), size.pods, |id| vec![portmap(ports, id)])?;
        table.compare(format!("portmap with {what}, ADD"), &ours.add[1], &peer.add[1], Some(add));
        table.compare(format!("portmap with {what}, DEL"), &ours.del[1], &peer.del[1], del);
    }
    progress("the whole chain");
    let behind = |id| vec![portmap(1, id), firewall(), tuning(), bandwidth()];
    let [ours, peer] = series(suites, "chain", size.pods, behind)?;
    for (position, plugin) in [(2, "firewall"), (3, "tuning"), (4, "bandwidth")] {
        table.compare(format!("{plugin} ADD"), &ours.add[position], &peer.add[position], None);
        table.compare(format!("{plugin} DEL"), &ours.del[position], &peer.del[position], None);
    }
    let what = "bridge (ipMasq) + portmap + firewall + tuning + bandwidth";
    table.compare(format!("{what}, ADD"), &whole(&ours.add), &whole(&peer.add), Some(0.14));
    table.compare(format!("{what}, DEL"), &whole(&ours.del), &whole(&peer.del), None);
    Ok(())
}

/// Memory, size and further programs of each chained plugin.
pub(crate) fn footprint(suites: Pair<'_>, table: &mut Table) -> Outcome<()> {
    for (plugin, config) in [portmap(1, 0), firewall(), tuning(), bandwidth()] {
        let (mut peaks, mut programs) = (Vec::new(), Vec::new());
        for (side, suite) in suites.into_iter().enumerate() {
            let chain = Chain::new(suite, &format!("footprint-{plugin}"), side, Vec::new())?;
            // A pod for each: not everyone's DEL leaves a link on which a second ADD works.
            let (measured, counted) = (NetNs::new()?, NetNs::new()?);
            for (id, pod) in [("measured", &measured), ("counted", &counted)] {
                let (_, result) = chain.add(id, pod)?;
                let (config, netns) = (with_result(&config, &result), pod.path());
                let add = Call { plugin, command: "ADD", container_id: id, netns: &netns, config: &config };
                let del = Call { command: "DEL", ..add.clone() };
                if id == "measured" {
                    let peak = suite.peak_memory(&add)?;
                    peaks.push(peak.max(suite.peak_memory(&del)?));
                } else {
                    programs.push(format!("ADD {}, DEL {}", suite.programs(&add)?, suite.programs(&del)?));
                }
            }
        }
        table.row(footprint_row(suites, plugin, &peaks, &programs)?);
    }
    Ok(())
}

/// ADD of `count` pods on a host of each suite in turns, then DEL of all.
fn series(suites: Pair<'_>, name: &str, count: usize, behind: impl Fn(usize) -> Vec<Link>) -> Outcome<[Samples; 2]> {
    let mut samples: [Samples; 2] = Default::default();
    let mut chains = [Chain::new(suites[0], name, 0, behind(0))?, Chain::new(suites[1], name, 1, behind(0))?];
    let pods: Vec<[NetNs; 2]> = (0..count).map(|_| Ok([NetNs::new()?, NetNs::new()?])).collect::<Outcome<_>>()?;
    chains.iter().try_for_each(Chain::warm_up)?;
    let mut results: [Vec<Value>; 2] = Default::default();
    for (turn, pod) in pods.iter().enumerate() {
        for side in turns(turn) {
            chains[side].replace_behind(behind(turn));
            let (times, result) = chains[side].add(&format!("pod-{turn}"), &pod[side])?;
            push(&mut samples[side].add, times);
            results[side].push(result);
        }
    }
    for (turn, pod) in pods.iter().enumerate() {
        for side in turns(turn) {
            chains[side].replace_behind(behind(turn));
            push(&mut samples[side].del, chains[side].del(&format!("pod-{turn}"), &pod[side], &results[side][turn])?);
        }
    }
    Ok(samples)
}

fn push(samples: &mut Vec<Vec<Duration>>, times: Vec<Duration>) {
    samples.resize_with(times.len(), Vec::new);
    for (of_plugin, time) in samples.iter_mut().zip(times) {
        of_plugin.push(time);
    }
}

/// The time of the whole chain for each pod.
fn whole(samples: &[Vec<Duration>]) -> Vec<Duration> {
    let pods = samples.first().map_or(0, Vec::len);
    (0..pods).map(|pod| samples.iter().map(|of_plugin| of_plugin[pod]).sum()).collect()
}

fn with_result(config: &Value, result: &Value) -> String {
    let mut config = config.clone();
    if !result.is_null() {
        config["prevResult"] = result.clone();
    }
    config.to_string()
}

/// `portmap` with so many ports of its own for each pod.
pub(crate) fn portmap(ports: usize, pod: usize) -> Link {
    let mapping =
        |n: usize| json!({ "hostPort": 10_000 + pod * ports + n, "containerPort": 80 + n, "protocol": "tcp" });
    let mappings: Vec<Value> = (0..ports).map(mapping).collect();
    (
        "portmap",
        json!({ "cniVersion": "1.0.0", "name": "bench", "type": "portmap", "capabilities": { "portMappings": true },
            "runtimeConfig": { "portMappings": mappings } }),
    )
}

fn firewall() -> Link {
    ("firewall", json!({ "cniVersion": "1.0.0", "name": "bench", "type": "firewall" }))
}

fn tuning() -> Link {
    let sysctl = json!({ "net.ipv4.conf.IFNAME.arp_filter": "1" });
    ("tuning", json!({ "cniVersion": "1.0.0", "name": "bench", "type": "tuning", "sysctl": sysctl, "mtu": 1400 }))
}

fn bandwidth() -> Link {
    (
        "bandwidth",
        json!({ "cniVersion": "1.0.0", "name": "bench", "type": "bandwidth", "ingressRate": 100_000_000,
            "ingressBurst": 8_000_000, "egressRate": 100_000_000, "egressBurst": 8_000_000 }),
    )
}
