//! The measured series.
//!
//! Limits are those the project set itself, against Debian's build of the reference.

use crate::{
    Size,
    call::{Call, Suite},
    netns::NetNs,
    scale::silence,
    table::{Table, within},
};
use serde_json::{Value, json};
use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;

/// Ours and the peer's.
pub(crate) type Pair<'a> = [&'a Suite; 2];

/// The samples of one suite.
#[derive(Default)]
struct Samples {
    add: Vec<Duration>,
    del: Vec<Duration>,
}

/// A host of one suite: its network namespace and its reservations.
struct Host<'a> {
    suite: &'a Suite,
    netns: NetNs,
    plugin: &'static str,
    config: String,
}

/// Bridge and host-local, nothing else: ADD of all pods, then DEL of all.
pub(crate) fn attachments(suites: Pair<'_>, size: Size, table: &mut Table) -> Outcome<()> {
    progress("bridge + host-local");
    let [ours, peer] = fill_and_empty(&hosts(suites, "plain", "bridge", |store| bridge_config(store, ""))?, size.pods)?;
    table.compare("bridge + host-local ADD", &ours.add, &peer.add, Some(0.45));
    table.compare("bridge + host-local DEL", &ours.del, &peer.del, None);
    Ok(())
}

/// The same with `ipMasq`.
pub(crate) fn masqueraded(suites: Pair<'_>, size: Size, table: &mut Table) -> Outcome<()> {
    progress("bridge + host-local with ipMasq");
    let [ours, peer] = fill_and_empty(&hosts(suites, "masq", "bridge", masq_config)?, size.pods)?;
    table.compare("the same with ipMasq, ADD", &ours.add, &peer.add, Some(0.16));
    table.compare("the same with ipMasq, DEL", &ours.del, &peer.del, Some(0.36));
    Ok(())
}

/// host-local alone, with an empty store and with a full one.
pub(crate) fn host_local(suites: Pair<'_>, size: Size, table: &mut Table, own: &mut Table) -> Outcome<()> {
    progress("host-local");
    let empty = hosts(suites, "ipam-empty", "host-local", ipam_config)?;
    let full = hosts(suites, "ipam-full", "host-local", ipam_config)?;
    for suite in 0..2 {
        reserve(&store("ipam-full", suite).join("bench"), 30, size.reservations)?;
    }
    let pods = size.pods * 2;
    let [ours, peer] = in_turns(&empty, pods)?;
    let [ours_full, peer_full] = in_turns(&full, pods)?;
    let many = thousands(size.reservations);
    table.compare("host-local alone, ADD", &ours.add, &peer.add, Some(0.40));
    table.compare("host-local alone, DEL", &ours.del, &peer.del, Some(0.40));
    table.compare(format!("host-local with {many} reservations, ADD"), &ours_full.add, &peer_full.add, Some(0.40));
    table.compare(format!("host-local with {many} reservations, DEL"), &ours_full.del, &peer_full.del, Some(0.40));
    own.compare(format!("host-local ADD with {many} reservations, against none"), &ours_full.add, &ours.add, Some(1.5));
    own.compare(format!("host-local DEL with {many} reservations, against none"), &ours_full.del, &ours.del, Some(1.5));
    Ok(())
}

/// Ours with far more reservations than a node has pods, and with none: every verb.
pub(crate) fn many_reservations(ours: &Suite, size: Size, own: &mut Table) -> Outcome<()> {
    let many = thousands(size.many_reservations);
    progress(&format!("host-local with {many} reservations"));
    // STATUS and GC are of 1.1.0.
    let config = |store| ipam_config(store).replace("1.0.0", "1.1.0");
    reserve(&store("ipam-many", 0).join("bench"), 30, size.many_reservations)?;
    let hosts = hosts([ours, ours], "ipam-many", "host-local", config)?;
    hosts.iter().try_for_each(Host::warm_up)?;
    let verbs = ["ADD", "CHECK", "STATUS", "DEL"];
    let mut samples: [[Vec<Duration>; 2]; 4] = Default::default();
    for (turn, pod) in NetNs::many(size.pods * 2)?.iter().enumerate() {
        for side in turns(turn) {
            for (verb, samples) in verbs.iter().zip(&mut samples) {
                samples[side].push(hosts[side].time(verb, &format!("pod-{turn}"), pod)?);
            }
        }
    }
    for (verb, [full, empty]) in verbs.iter().zip(&samples) {
        own.compare(format!("host-local {verb} with {many} reservations, against none"), full, empty, Some(1.5));
    }
    let [mut host, _] = hosts;
    let pod = NetNs::new()?;
    for (what, alive) in [("all", size.many_reservations), ("none", 0)] {
        let valid: Vec<_> =
            (2..alive + 2).map(|n| json!({ "containerID": format!("reserved-{n}"), "ifname": "eth0" })).collect();
        let mut document: Value = serde_json::from_str(&config(store("ipam-many", 0)))?;
        document["cni.dev/valid-attachments"] = valid.into();
        host.config = document.to_string();
        own.single(format!("host-local GC of {many} reservations, {what} alive"), &[host.time("GC", "", &pod)?]);
    }
    Ok(())
}

/// A few pods more on a bridge with many. ADD of all comes before DEL of all: the kernel goes on for a while after it
/// has deleted a link, which the next ADD would pay for.
pub(crate) fn crowded(suites: Pair<'_>, size: Size, table: &mut Table, own: &mut Table) -> Outcome<()> {
    let Size { pods, attached, .. } = size;
    progress(&format!("filling two hosts with {attached} pods each"));
    let hosts = hosts(suites, "crowded", "bridge", masq_config)?;
    let residents: [Vec<NetNs>; 2] = [NetNs::many(attached)?, NetNs::many(attached)?];
    thread::scope(|scope| {
        let fills: Vec<_> = hosts
            .iter()
            .zip(&residents)
            .map(|(host, pods)| scope.spawn(|| host.fill(pods).map_err(|error| error.to_string())))
            .collect();
        fills
            .into_iter()
            .try_for_each(|fill| fill.join().unwrap_or_else(|_| Err("the filling thread panicked".to_owned())))
    })?;
    progress(&format!("{pods} pods more at {attached}"));
    let [ours, peer] = fill_and_empty(&hosts, pods)?;
    table.compare(format!("ipMasq ADD at {attached} attachments"), &ours.add, &peer.add, Some(0.20));
    table.compare(format!("ipMasq DEL at {attached} attachments"), &ours.del, &peer.del, None);

    // Telling the neighbours floods every port, and so does what young links with IPv6 say by themselves: that is the
    // kernel's time, not ours.
    let silent = pairs(pods)?;
    residents.iter().flatten().chain(silent.iter().flatten()).try_for_each(silence)?;
    let [mut crowded, _] = hosts;
    crowded.config = quiet_config(store("crowded", 0));
    let first = Host::new(suites[0], "bridge", quiet_config(store("first", 0)))?;
    let [crowded, first] = fill_and_empty_with(&[crowded, first], &silent)?;
    own.compare(
        format!("ipMasq ADD at {attached} attachments without announcements, against the first"),
        &crowded.add,
        &first.add,
        Some(1.2),
    );
    Ok(())
}

/// Calls that do next to nothing: what starting a plugin costs.
pub(crate) fn small_calls(suites: Pair<'_>, size: Size, table: &mut Table) -> Outcome<()> {
    progress("loopback and VERSION");
    let config = r#"{"cniVersion":"1.0.0","name":"bench","type":"loopback"}"#;
    let [ours, peer] = in_turns(&hosts(suites, "small", "loopback", |_| config.to_owned())?, size.pods * 2)?;
    table.compare("loopback ADD", &ours.add, &peer.add, None);
    let mut versions: [Vec<Duration>; 2] = Default::default();
    for turn in 0..size.pods * 2 {
        for side in turns(turn) {
            let call = Call { plugin: "bridge", command: "VERSION", container_id: "", netns: "", config };
            versions[side].push(suites[side].time(&call)?);
        }
    }
    let [ours, peer] = versions;
    table.compare("bridge VERSION", &ours, &peer, None);
    Ok(())
}

/// STATUS, which the kubelet asks for every five seconds. A peer that has none (before 1.6.0) is measured by what it could
/// not do without: starting the same two programs.
pub(crate) fn status(suites: Pair<'_>, size: Size, table: &mut Table) -> Outcome<()> {
    progress("STATUS");
    let hosts = hosts(suites, "status", "bridge", |store| {
        masq_config(store).replace("\"cniVersion\":\"1.0.0\"", "\"cniVersion\":\"1.1.0\"")
    })?;
    let call = |command, plugin, config| Call { plugin, command, container_id: "", netns: "", config };
    let ask = |side: usize, calls: &[(&'static str, &'static str)]| -> Outcome<Duration> {
        let host: &Host<'_> = &hosts[side];
        host.netns.enter()?;
        calls.iter().map(|(command, plugin)| host.suite.time(&call(command, plugin, &host.config))).sum()
    };
    let asks: &[(&str, &str)] = &[("STATUS", "bridge")];
    let starts: &[(&str, &str)] = &[("VERSION", "bridge"), ("VERSION", "host-local")];
    let has_status = ask(1, asks).is_ok();
    let mut samples: [Vec<Duration>; 2] = Default::default();
    for turn in 0..size.pods * 2 {
        for side in turns(turn) {
            samples[side].push(ask(side, if side == 0 || has_status { asks } else { starts })?);
        }
    }
    let [ours, peer] = samples;
    let what = if has_status { "" } else { " (the peer has none: VERSION of both)" };
    table.compare(format!("bridge + host-local STATUS{what}"), &ours, &peer, Some(0.5));
    Ok(())
}

/// Memory, binary size and further programs of each plugin.
pub(crate) fn footprint(suites: Pair<'_>, table: &mut Table) -> Outcome<()> {
    progress("memory, size, programs");
    let static_config = r#"{"cniVersion":"1.0.0","name":"bench","type":"bridge","ipam":{"type":"static","addresses":[{"address":"10.40.0.2/16"}]}}"#;
    for plugin in ["bridge", "host-local", "static", "loopback"] {
        let mut peaks = Vec::new();
        let mut programs = Vec::new();
        for (side, suite) in suites.into_iter().enumerate() {
            let store = store("footprint", side);
            let config = match plugin {
                "bridge" => masq_config(store),
                "host-local" => ipam_config(store),
                _ => static_config.to_owned(),
            };
            let host = Host::new(suite, plugin, config)?;
            host.netns.enter()?;
            let pod = NetNs::new()?;
            let add = host.call("ADD", "pod", &pod);
            let add = add.borrowed(plugin, &host.config);
            let del = Call { command: "DEL", ..add.clone() };
            suite.time(&add)?;
            suite.time(&del)?;
            peaks.push(suite.peak_memory(&add)?.max(suite.peak_memory(&del)?));
            programs.push(format!("ADD {}, DEL {}", suite.programs(&add)?, suite.programs(&del)?));
        }
        table.row(footprint_row(suites, plugin, &peaks, &programs)?);
    }
    Ok(())
}

/// Plugin, peak memory and size of ours and of the peer's, programs that they start.
pub(crate) fn footprint_row(
    [ours, peer]: Pair<'_>,
    plugin: &str,
    peaks: &[u64],
    programs: &[String],
) -> Outcome<Vec<String>> {
    const MEMORY_LIMIT: u64 = 4_000_000;
    // D-Bus is a part of firewall.
    let size_limit = if plugin == "firewall" { 3_000_000 } else { 2_200_000 };
    let megabytes = |bytes: u64| format!("{}.{:02} MB", bytes / 1_000_000, bytes % 1_000_000 / 10_000);
    let size = fs::metadata(ours.binary(plugin))?.len();
    Ok(vec![
        plugin.to_owned(),
        within(megabytes(peaks[0]), peaks[0] < MEMORY_LIMIT),
        megabytes(peaks[1]),
        within(megabytes(size), size < size_limit),
        megabytes(fs::metadata(peer.binary(plugin))?.len()),
        format!("{} (peer: {})", programs[0], programs[1]),
    ])
}

/// What a call needs of a pod, owned.
struct PodCall {
    command: &'static str,
    container_id: String,
    netns: String,
}

impl PodCall {
    fn borrowed<'a>(&'a self, plugin: &'a str, config: &'a str) -> Call<'a> {
        Call { plugin, command: self.command, container_id: &self.container_id, netns: &self.netns, config }
    }
}

impl<'a> Host<'a> {
    fn new(suite: &'a Suite, plugin: &'static str, config: String) -> Outcome<Self> {
        Ok(Self { suite, netns: NetNs::new()?, plugin, config })
    }

    fn call(&self, command: &'static str, id: &str, pod: &NetNs) -> PodCall {
        PodCall { command, container_id: id.to_owned(), netns: pod.path() }
    }

    fn time(&self, command: &'static str, id: &str, pod: &NetNs) -> Outcome<Duration> {
        self.netns.enter()?;
        self.suite.time(&self.call(command, id, pod).borrowed(self.plugin, &self.config))
    }

    /// Attaches all pods and leaves them.
    fn fill(&self, pods: &[NetNs]) -> Outcome<()> {
        for (number, pod) in pods.iter().enumerate() {
            self.time("ADD", &format!("resident-{number}"), pod)?;
        }
        Ok(())
    }

    /// The first attachment makes what stays: the bridge, its address, tables.
    fn warm_up(&self) -> Outcome<()> {
        let pod = NetNs::new()?;
        self.time("ADD", "warm-up", &pod)?;
        self.time("DEL", "warm-up", &pod)?;
        Ok(())
    }
}

/// A host for each suite, with a store of its own.
fn hosts<'a>(
    suites: Pair<'a>,
    series: &str,
    plugin: &'static str,
    config: impl Fn(PathBuf) -> String,
) -> Outcome<[Host<'a>; 2]> {
    let host = |side: usize| Host::new(suites[side], plugin, config(store(series, side)));
    Ok([host(0)?, host(1)?])
}

/// ADD of `count` pods on both hosts in turns, then DEL of all.
fn fill_and_empty(hosts: &[Host<'_>; 2], count: usize) -> Outcome<[Samples; 2]> {
    fill_and_empty_with(hosts, &pairs(count)?)
}

/// The same with these pods, one for each host a turn.
fn fill_and_empty_with(hosts: &[Host<'_>; 2], pods: &[[NetNs; 2]]) -> Outcome<[Samples; 2]> {
    let mut samples: [Samples; 2] = Default::default();
    for host in hosts {
        host.warm_up()?;
    }
    for (turn, pod) in pods.iter().enumerate() {
        for side in turns(turn) {
            samples[side].add.push(hosts[side].time("ADD", &format!("pod-{turn}"), &pod[side])?);
        }
    }
    for (turn, pod) in pods.iter().enumerate() {
        for side in turns(turn) {
            samples[side].del.push(hosts[side].time("DEL", &format!("pod-{turn}"), &pod[side])?);
        }
    }
    Ok(samples)
}

/// Pods, one for each host a turn.
pub(crate) fn pairs(count: usize) -> Outcome<Vec<[NetNs; 2]>> {
    (0..count).map(|_| Ok([NetNs::new()?, NetNs::new()?])).collect()
}

/// ADD and DEL of one pod after the other, the hosts in turns: what is attached stays the same.
fn in_turns(hosts: &[Host<'_>; 2], count: usize) -> Outcome<[Samples; 2]> {
    let mut samples: [Samples; 2] = Default::default();
    let pods = NetNs::many(count)?;
    for host in hosts {
        host.warm_up()?;
    }
    for (turn, pod) in pods.iter().enumerate() {
        for side in turns(turn) {
            let id = format!("pod-{turn}");
            samples[side].add.push(hosts[side].time("ADD", &id, pod)?);
            samples[side].del.push(hosts[side].time("DEL", &id, pod)?);
        }
    }
    Ok(samples)
}

/// Who goes first changes from turn to turn.
pub(crate) fn turns(turn: usize) -> [usize; 2] {
    if turn.is_multiple_of(2) { [0, 1] } else { [1, 0] }
}

/// The reservation store of one suite in one series.
pub(crate) fn store(series: &str, side: usize) -> PathBuf {
    PathBuf::from(format!("/run/bench/{series}-{side}"))
}

/// Fills the store of a network of 10.`subnet`.0.0/16 with reservations, as host-local leaves them; the next ADD goes on
/// behind.
pub(crate) fn reserve(network: &Path, subnet: usize, count: usize) -> Outcome<()> {
    fs::create_dir_all(network)?;
    let mut last = String::new();
    for number in 2..count + 2 {
        last = format!("10.{subnet}.{}.{}", number / 256, number % 256);
        fs::write(network.join(&last), format!("reserved-{number}\r\neth0"))?;
    }
    fs::write(network.join("last_reserved_ip.0"), last)?;
    Ok(())
}

fn ipam(store: &Path) -> String {
    format!(
        r#""ipam":{{"type":"host-local","dataDir":"{}","ranges":[[{{"subnet":"10.30.0.0/16"}}]],"routes":[{{"dst":"0.0.0.0/0"}}]}}"#,
        store.display()
    )
}

fn ipam_config(store: PathBuf) -> String {
    format!(r#"{{"cniVersion":"1.0.0","name":"bench","type":"bridge",{}}}"#, ipam(&store))
}

/// A bridge with its gateway address; `keys` are further ones, each with a comma behind.
pub(crate) fn bridge_config(store: PathBuf, keys: &str) -> String {
    format!(
        r#"{{"cniVersion":"1.0.0","name":"bench","type":"bridge","bridge":"cni0","isGateway":true,{keys}{}}}"#,
        ipam(&store)
    )
}

pub(crate) fn masq_config(store: PathBuf) -> String {
    bridge_config(store, r#""ipMasq":true,"#)
}

/// With the announcements of new addresses left out: a key of ours, unknown to the reference.
fn quiet_config(store: PathBuf) -> String {
    bridge_config(store, r#""ipMasq":true,"announce":false,"#)
}

/// 16000 -> "16,000".
pub(crate) fn thousands(number: usize) -> String {
    if number < 1000 { number.to_string() } else { format!("{},{:03}", number / 1000, number % 1000) }
}

pub(crate) fn progress(what: &str) {
    eprintln!("measuring {what}");
}
