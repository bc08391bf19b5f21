//! How much dearer a call is on a full host than on an empty one: ours against ours.
//!
//! Both hosts are measured in turns, so that whatever else the machine does hits both. Announcements are left out, ours and
//! those that the kernel makes for a young link with IPv6: they go to every port of a bridge, which is what they are for.

use crate::{
    Full,
    call::{Call, Suite},
    netns::NetNs,
    scenario::{Outcome, pairs, progress, reserve, store, thousands, turns},
    table::Table,
};
use serde_json::{Value, json};
use std::{fs, io, path::Path, thread, time::Duration};

/// A call on a full host may take so much longer than on an empty one.
const LIMIT: f64 = 1.5;
/// The kernel allows 1,023 ports of a bridge.
const BRIDGES: usize = 3;
/// So many are attached at a time when a host is filled.
const FILLERS: usize = 4;
/// Ports of one pod that fills a host with them.
const PORTS_OF_A_POD: usize = 100;
/// The first network has 10.50.0.0/16.
const FIRST_SUBNET: usize = 50;
/// Of those that fill a host.
const FIRST_PORT: usize = 20_000;
/// Of those that are measured.
const FIRST_MEASURED_PORT: usize = 10_000;
/// The verbs that are measured, in this order: first of all pods, then the next one.
const VERBS: [&str; 4] = ["ADD", "CHECK", "STATUS", "DEL"];

/// A host, and a chain of plugins that its pods go through.
struct Host<'a> {
    suite: &'a Suite,
    netns: NetNs,
    chain: Vec<Value>,
}

/// What one verb took, for each plugin of the chain.
type Times = Vec<Vec<Duration>>;

/// Every series.
pub(crate) fn all(ours: &Suite, full: Full, pods: usize, table: &mut Table) -> Outcome<()> {
    reservations(ours, full.reservations, pods, table)?;
    ports(ours, full.ports, pods, table)?;
    attachments(ours, full.attached, pods, table)
}

/// `bridge` with a store full of reservations.
fn reservations(ours: &Suite, count: usize, measured: usize, table: &mut Table) -> Outcome<()> {
    progress(&format!("{} reservations, through bridge", thousands(count)));
    let hosts = [0, 1].map(|side| Host::new(ours, vec![bridge(0, &store("scale-reservations", side))]));
    let [full, empty] = hosts;
    let hosts = [full?, empty?];
    reserve(&store("scale-reservations", 0).join("scale0"), FIRST_SUBNET, count)?;
    let times = measure(&hosts, measured)?;
    compare(table, &times, 0, &format!("bridge with {} reservations", thousands(count)));
    Ok(())
}

/// `portmap` where many ports are published.
fn ports(ours: &Suite, count: usize, measured: usize, table: &mut Table) -> Outcome<()> {
    progress(&format!("{} published ports", thousands(count)));
    let host = |side| Host::new(ours, vec![bridge(0, &store("scale-ports", side)), portmap(0, 0, 1)]);
    let hosts = [host(0)?, host(1)?];
    let pods = NetNs::many(count / PORTS_OF_A_POD)?;
    let chain = |n: usize| vec![hosts[0].chain[0].clone(), portmap(0, n, PORTS_OF_A_POD)];
    // One after the other: many ports at once are looked at before they are published, which others' commits undo.
    hosts[0].fill(&pods, 1, &chain)?;
    let times = measure(&hosts, measured)?;
    compare(table, &times, 1, &format!("portmap with {} ports published", thousands(count)));
    Ok(())
}

/// The whole chain where many are attached.
fn attachments(ours: &Suite, count: usize, measured: usize, table: &mut Table) -> Outcome<()> {
    progress(&format!("{} attachments on {BRIDGES} bridges", thousands(count)));
    let chain = |side: usize, number: usize, pod: usize| {
        let store = store("scale-attachments", side);
        vec![bridge(number, &store), portmap(number, pod, 1), firewall(number), tuning(number)]
    };
    let whole = |side| [chain(side, 0, 0), vec![bandwidth(0)]].concat();
    let hosts = [Host::new(ours, whole(0))?, Host::new(ours, whole(1))?];
    let pods = NetNs::many(count)?;
    pods.iter().try_for_each(silence)?;
    hosts[0].fill(&pods, FILLERS, &|n| chain(0, n % BRIDGES, n))?;
    let times = measure(&hosts, measured)?;
    let what = format!("among {} attachments", thousands(count));
    for (position, plugin) in hosts[0].chain.iter().enumerate() {
        compare(table, &times, position, &format!("{} {what}", plugin["type"].as_str().unwrap_or_default()));
    }
    Ok(())
}

/// A row for each verb.
fn compare(table: &mut Table, [full, empty]: &[Vec<Times>; 2], position: usize, what: &str) {
    for (number, verb) in VERBS.into_iter().enumerate() {
        table.compare(
            format!("{what}, {verb}, against an empty host"),
            &full[number][position],
            &empty[number][position],
            Some(LIMIT),
        );
    }
}

/// Each verb of all pods before the next one, the hosts in turns: the kernel goes on for a while after it has deleted a
/// link, which the next ADD would pay for.
fn measure(hosts: &[Host<'_>; 2], count: usize) -> Outcome<[Vec<Times>; 2]> {
    let pods = pairs(count)?;
    pods.iter().flatten().try_for_each(silence)?;
    for (side, host) in hosts.iter().enumerate() {
        let pod = &NetNs::new()?;
        let result = &mut Value::Null;
        for verb in VERBS {
            host.call(verb, &host.chain_of(count), &format!("warm-up-{side}"), pod, result)?;
        }
    }
    let mut results: [Vec<Value>; 2] = Default::default();
    for of_side in &mut results {
        of_side.resize(count, Value::Null);
    }
    let mut times: [Vec<Times>; 2] = Default::default();
    for verb in VERBS {
        for of_side in &mut times {
            of_side.push(vec![Vec::new(); hosts[0].chain.len()]);
        }
        for (turn, pod) in pods.iter().enumerate() {
            for side in turns(turn) {
                let result = &mut results[side][turn];
                let chain = hosts[side].chain_of(turn);
                let took = hosts[side].call(verb, &chain, &format!("pod-{turn}"), &pod[side], result)?;
                for (of_plugin, time) in times[side].last_mut().into_iter().flatten().zip(took) {
                    of_plugin.push(time);
                }
            }
        }
    }
    Ok(times)
}

impl<'a> Host<'a> {
    fn new(suite: &'a Suite, chain: Vec<Value>) -> Outcome<Self> {
        Ok(Self { suite, netns: NetNs::new()?, chain })
    }

    /// The chain for the measured pod of this number, which has a port of its own.
    fn chain_of(&self, pod: usize) -> Vec<Value> {
        let mut chain = self.chain.clone();
        for plugin in chain.iter_mut().filter(|plugin| plugin["type"] == "portmap") {
            plugin["runtimeConfig"]["portMappings"] = mappings(FIRST_MEASURED_PORT + pod, 1);
        }
        chain
    }

    /// One verb by all plugins of the chain; DEL begins with the last. The time of each, in the order of the chain.
    fn call(&self, verb: &str, chain: &[Value], id: &str, pod: &NetNs, result: &mut Value) -> Outcome<Vec<Duration>> {
        self.netns.enter()?;
        let mut times = vec![Duration::ZERO; chain.len()];
        let order: Vec<usize> =
            if verb == "DEL" { (0..chain.len()).rev().collect() } else { (0..chain.len()).collect() };
        for position in order {
            let mut config = chain[position].clone();
            if !result.is_null() && verb != "STATUS" {
                config["prevResult"] = result.clone();
            }
            let plugin = config["type"].as_str().unwrap_or_default().to_owned();
            let (netns, config) = (pod.path(), config.to_string());
            let call = Call { plugin: &plugin, command: verb, container_id: id, netns: &netns, config: &config };
            let (time, answer) = self.suite.run(&call)?;
            times[position] = time;
            if verb == "ADD" {
                *result = serde_json::from_str(&answer)?;
            }
        }
        Ok(times)
    }

    /// Attaches the pods, so many at a time, each by the chain of its number, and leaves them.
    fn fill(&self, pods: &[NetNs], fillers: usize, chain: &(dyn Fn(usize) -> Vec<Value> + Sync)) -> Outcome<()> {
        let attach = |filler: usize| -> Outcome<()> {
            for (n, pod) in pods.iter().enumerate().skip(filler).step_by(fillers) {
                self.call("ADD", &chain(n), &format!("resident-{n}"), pod, &mut Value::Null)?;
            }
            Ok(())
        };
        thread::scope(|scope| {
            let threads: Vec<_> =
                (0..fillers).map(|n| scope.spawn(move || attach(n).map_err(|error| error.to_string()))).collect();
            threads
                .into_iter()
                .try_for_each(|filler| filler.join().unwrap_or_else(|_| Err("the filling thread panicked".to_owned())))
        })?;
        Ok(())
    }
}

/// Lets a pod ask for no routers and report no multicast groups: that goes to all ports of its bridge, often while it is
/// young, and two thousand young pods keep a machine busy with it for minutes.
pub(crate) fn silence(pod: &NetNs) -> Outcome<()> {
    pod.enter()?;
    for links in ["default", "all"] {
        match fs::write(format!("/proc/sys/net/ipv6/conf/{links}/disable_ipv6"), "1") {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

/// A plugin's config, in the network of this number.
fn plugin(network: usize, keys: Value) -> Value {
    let mut config = json!({ "cniVersion": "1.1.0", "name": format!("scale{network}") });
    if let (Some(config), Value::Object(keys)) = (config.as_object_mut(), keys) {
        config.extend(keys);
    }
    config
}

/// With `ipMasq`, and the announcements of new addresses left out.
fn bridge(network: usize, store: &Path) -> Value {
    let ipam = json!({ "type": "host-local", "dataDir": store, "routes": [{ "dst": "0.0.0.0/0" }],
        "ranges": [[{ "subnet": format!("10.{}.0.0/16", FIRST_SUBNET + network) }]] });
    let name = format!("scale{network}");
    plugin(
        network,
        json!({ "type": "bridge", "bridge": name, "isGateway": true, "ipMasq": true,
        "announce": false, "ipam": ipam }),
    )
}

/// With so many ports of its own for each pod.
fn portmap(network: usize, pod: usize, ports: usize) -> Value {
    plugin(
        network,
        json!({ "type": "portmap", "capabilities": { "portMappings": true },
        "runtimeConfig": { "portMappings": mappings(FIRST_PORT + pod * ports, ports) } }),
    )
}

fn mappings(first: usize, count: usize) -> Value {
    (0..count).map(|n| json!({ "hostPort": first + n, "containerPort": 80 + n, "protocol": "tcp" })).collect()
}

fn firewall(network: usize) -> Value {
    plugin(network, json!({ "type": "firewall" }))
}

fn tuning(network: usize) -> Value {
    plugin(network, json!({ "type": "tuning", "mtu": 1400, "sysctl": { "net.ipv4.conf.IFNAME.arp_filter": "1" } }))
}

fn bandwidth(network: usize) -> Value {
    plugin(
        network,
        json!({ "type": "bandwidth", "ingressRate": 100_000_000, "ingressBurst": 8_000_000,
        "egressRate": 100_000_000, "egressBurst": 8_000_000 }),
    )
}
