//! Each plugin's DEL and GC, alone behind `bridge` and in the full chain: whatever is missing or wrong by then, and whoever
//! made the pod, the host is as before.
//!
//! By default each pair of circumstances occurs together at least once; with `OXBRIDGE_WHOLE` set, all with all.

use std::{collections::HashSet, env};

use serde_json::{Value, json};
use tests::{
    Host, Place, Pod, Snapshot, case,
    chained::{self, Chain, Suite, attributes, bandwidth, firewall, portmap, tuning, valid},
    config::with,
    host::NETNS_DIR,
    settings::{self, is_reference},
};

/// What has become of the pod's namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Namespace {
    Alive,
    Gone,
    /// `CNI_NETNS` is empty.
    Empty,
    /// The path leads to a plain file.
    File,
    /// Nothing is at the path; the namespace lives on.
    Unmounted,
}

/// What has become of the pod's interface, where that has not gone with the namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Interface {
    There,
    Gone,
    Renamed,
}

/// The result that DEL gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Previous {
    There,
    None,
    Garbage,
}

/// The config that DEL gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Config {
    Same,
    /// Of its values none can be used.
    Invalid,
    OtherBackend,
    /// The runtime has forgotten which ports were published.
    WithoutPorts,
}

/// One of everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Circumstances {
    namespace: Namespace,
    interface: Interface,
    previous: Previous,
    config: Config,
    made_by: Suite,
}

impl Circumstances {
    /// Numbers that are the same for the same things.
    fn parts(self) -> [u8; 5] {
        let made_by = u8::from(self.made_by == Suite::Reference);
        [self.namespace as u8, self.interface as u8, self.previous as u8, self.config as u8, made_by]
    }

    /// Each two of the parts, with their places.
    fn pairs(self) -> HashSet<[(usize, u8); 2]> {
        let parts = self.parts();
        let of =
            |first: usize| (first + 1..parts.len()).map(move |second| [(first, parts[first]), (second, parts[second])]);
        (0..parts.len()).flat_map(of).collect()
    }

    /// Why not all can be as before while the namespace lives.
    fn exception(self) -> Option<&'static str> {
        let is_reached = self.namespace == Namespace::Alive && self.interface == Interface::There;
        let is_there = self.namespace != Namespace::Gone && self.interface != Interface::Gone;
        let is_nameless = self.made_by == Suite::Reference && self.previous != Previous::There;
        (is_there && is_nameless && !is_reached).then_some(
            "the reference gives its links random names and no mark: without the result only the pod's interface leads to \
             the host's end, which goes with the namespace; and what it has for all interfaces of a container (ifb, chain of \
             ports) may be that of another one, as long as there is another interface in the namespace",
        )
    }
}

const FILE: &str = "/run/test/file";

const NAMESPACES: &[Namespace] =
    &[Namespace::Alive, Namespace::Gone, Namespace::Empty, Namespace::File, Namespace::Unmounted];
const INTERFACES: &[Interface] = &[Interface::There, Interface::Gone, Interface::Renamed];
const RESULTS: &[Previous] = &[Previous::There, Previous::None, Previous::Garbage];
const CONFIGS: &[Config] = &[Config::Same, Config::Invalid, Config::OtherBackend, Config::WithoutPorts];

/// Circumstances to be combined.
#[derive(Clone, Copy)]
struct Matrix {
    namespaces: &'static [Namespace],
    interfaces: &'static [Interface],
    results: &'static [Previous],
    configs: &'static [Config],
    makers: &'static [Suite],
}

/// All that can be.
const WHOLE: Matrix = Matrix {
    namespaces: NAMESPACES,
    interfaces: INTERFACES,
    results: RESULTS,
    configs: CONFIGS,
    makers: &[Suite::Tested, Suite::Reference],
};
/// For another way of a plugin.
const PART: Matrix = Matrix {
    namespaces: &[Namespace::Alive, Namespace::Gone],
    interfaces: &[Interface::There],
    results: &[Previous::There, Previous::None],
    configs: &[Config::Same, Config::Invalid],
    makers: &[Suite::Tested],
};
/// What the reference should be able to do.
const USUAL: Matrix = Matrix {
    namespaces: &[Namespace::Alive, Namespace::Gone, Namespace::Empty],
    interfaces: &[Interface::There],
    results: &[Previous::There],
    configs: &[Config::Same],
    makers: &[Suite::Tested],
};

impl Matrix {
    /// All combinations that make sense for these plugins.
    fn all(self, plugins: &[Value]) -> Vec<Circumstances> {
        let has = |names: &[&str]| plugins.iter().any(|p| names.contains(&p["type"].as_str().unwrap()));
        let makers: Vec<Suite> =
            self.makers.iter().copied().filter(|m| *m == Suite::Tested || can_be_reference()).collect();
        let mut all = Vec::new();
        for &namespace in self.namespaces {
            for &interface in self.interfaces {
                for &previous in self.results {
                    for &config in self.configs {
                        for &made_by in &makers {
                            let is_sound = match config {
                                Config::WithoutPorts => has(&["portmap"]),
                                Config::OtherBackend => has(&["portmap", "firewall", "bridge"]),
                                Config::Same | Config::Invalid => true,
                            };
                            if is_sound && (namespace != Namespace::Gone || interface == Interface::There) {
                                all.push(Circumstances { namespace, interface, previous, config, made_by });
                            }
                        }
                    }
                }
            }
        }
        all
    }

    /// All of them if that was asked for; else so many that each pair is among them.
    fn chosen(self, plugins: &[Value]) -> Vec<Circumstances> {
        let all = self.all(plugins);
        if env::var_os("OXBRIDGE_WHOLE").is_some() {
            return all;
        }
        let mut open: HashSet<_> = all.iter().flat_map(|c| c.pairs()).collect();
        let mut chosen = Vec::new();
        while !open.is_empty() {
            // The first of the best: every run chooses the same.
            let worth = |c: &Circumstances| c.pairs().intersection(&open).count();
            let best = all.iter().rev().max_by_key(|c| worth(c)).unwrap();
            open.retain(|pair| !best.pairs().contains(pair));
            chosen.push(*best);
        }
        chosen
    }
}

fn can_be_reference() -> bool {
    !is_reference() && settings::reference_dir().is_some()
}

/// The first of each chain where only the others are under test.
fn bridge() -> Value {
    with(&chained::bridge(), json!({ "ipMasq": false }))
}

/// A node on which the plugins have been used before.
fn node(plugins: &[Value], makers: &[Suite]) -> Host {
    let host = Host::new();
    host.outside();
    host.write(FILE, "");
    host.run(&format!("mkdir {NETNS_DIR}"));
    let chain = Chain::new(&host, plugins.to_vec());
    if makers.contains(&Suite::Reference) && can_be_reference() {
        chain.by(Suite::Reference).warm_up();
    }
    // Twice: not before the second ADD is the bridge's MTU more than its ports'.
    chain.warm_up();
    chain.warm_up();
    host
}

/// The config that DEL gets in the place of this one.
fn by_then(plugin: &Value, config: Config) -> Value {
    match config {
        Config::Same => plugin.clone(),
        Config::Invalid => invalid(plugin),
        Config::WithoutPorts => with(plugin, json!({ "runtimeConfig": null })),
        Config::OtherBackend => {
            let other = |key: &str| if plugin[key] == "iptables" { "nftables" } else { "iptables" };
            match plugin["type"].as_str().unwrap() {
                "bridge" => with(plugin, json!({ "ipMasqBackend": other("ipMasqBackend") })),
                _ => with(plugin, json!({ "backend": other("backend") })),
            }
        }
    }
}

/// The config with other values, of which none can be used.
fn invalid(plugin: &Value) -> Value {
    let patch = match plugin["type"].as_str().unwrap() {
        "bridge" => json!({ "vlan": 5000, "mtu": -3, "ipMasqBackend": "ebpf", "promiscMode": true }),
        "portmap" => {
            json!({ "backend": "nonsense", "markMasqBit": 99, "runtimeConfig": { "portMappings": [{ "hostPort": -1 }] } })
        }
        "firewall" => json!({ "backend": 5, "ingressPolicy": "nonsense" }),
        "tuning" => json!({ "mtu": "x", "sysctl": { "kernel.panic": "1" }, "mac": "nonsense" }),
        "bandwidth" => json!({ "ingressBurst": null, "egressRate": -1, "runtimeConfig": { "bandwidth": 7 } }),
        other => panic!("{other}"),
    };
    with(plugin, patch)
}

/// DEL of these plugins behind `first`, whose config stays as it is where one alone is under test.
fn matrix(first: &Value, plugins: &[Value], matrix: Matrix) {
    let all: Vec<Value> = [first].into_iter().chain(plugins).cloned().collect();
    let under_test = if plugins.len() == 1 { plugins } else { &all[..] };
    let host = node(&all, matrix.makers);
    let mut before = host.snapshot();
    let mut wrong = Vec::new();
    let chosen = matrix.chosen(under_test);
    for circumstances in &chosen {
        let notes = Case { host: &host, first, plugins, circumstances: *circumstances }.run(&before);
        if !notes.is_empty() {
            wrong.push(format!("{circumstances:?}:\n{}", notes.join("\n")));
            // The next one's fault is its own.
            before = host.snapshot();
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), chosen.len(), wrong.join("\n"));
}

struct Case<'a> {
    host: &'a Host,
    first: &'a Value,
    plugins: &'a [Value],
    circumstances: Circumstances,
}

impl Case<'_> {
    /// What was wrong.
    fn run(&self, before: &Snapshot) -> Vec<String> {
        let Circumstances { namespace, interface, previous, config, made_by } = self.circumstances;
        let host = self.host;
        let mut notes = Vec::new();
        let maker = |plugins: &[Value]| Chain::new(host, plugins.to_vec()).by(made_by);
        let pod = host.named_pod();
        let attached = maker(std::slice::from_ref(self.first)).add(&pod);
        let without = (host.snapshot(), attributes(&pod));
        let last =
            |result, plugin: &Value| maker(&[]).call(plugin).pod(&pod).config_with(plugin, &result).add().result();
        let result = self.plugins.iter().fold(attached, last);
        match interface {
            Interface::There => {}
            Interface::Gone => _ = pod.run("ip link del eth0"),
            Interface::Renamed => pod.rename("eth0", "eth7"),
        }
        let pod = if namespace == Namespace::Gone { host.end(pod) } else { pod };
        if namespace == Namespace::Unmounted {
            host.unmount(&pod.path);
        }
        let netns = match namespace {
            Namespace::Alive | Namespace::Gone | Namespace::Unmounted => pod.path.as_str(),
            Namespace::Empty => "",
            Namespace::File => FILE,
        };
        let patch = match previous {
            Previous::There => json!({ "prevResult": result }),
            Previous::None => json!({}),
            Previous::Garbage => json!({ "prevResult": { "ips": 5, "interfaces": "x" } }),
        };
        let del = |plugin: &Value, netns: &str, notes: &mut Vec<String>| {
            // Runtimes call DEL until it succeeds, and sometimes after it.
            for turn in ["DEL", "second DEL"] {
                let config = with(plugin, patch.clone());
                let reply = Chain::new(host, Vec::new()).call(plugin).pod(&pod).netns(netns).config(&config).del();
                if !reply.status.success() {
                    notes.push(format!("{turn} of {}: {reply}", plugin["type"]));
                }
            }
        };
        for plugin in self.plugins.iter().rev() {
            del(&by_then(plugin, config), netns, &mut notes);
        }
        // What the reference puts on a link goes with the link.
        let is_undone_alone = !is_reference() && made_by == Suite::Tested && interface == Interface::There;
        if namespace == Namespace::Alive && is_undone_alone && attributes(&pod) != without.1 {
            notes.push(format!("the pod has {} instead of {}", attributes(&pod), without.1));
        }
        if ![Namespace::Gone, Namespace::Unmounted].contains(&namespace) && is_undone_alone {
            notes.extend(Some(without.0.diff(&host.snapshot())).filter(|diff| !diff.is_empty()));
        }
        let first = if self.plugins.len() == 1 { self.first.clone() } else { by_then(self.first, config) };
        // Without the namespace the reference's bridge removes nothing but addresses: another plugin is under test here.
        let is_helper = is_reference() && self.plugins.len() == 1;
        del(&first, if is_helper { &pod.path } else { netns }, &mut notes);
        match self.circumstances.exception() {
            Some(_) => self.del_after_the_end(pod, &mut notes),
            None => host.unmount(&pod.path),
        }
        let diff = before.diff(&host.snapshot());
        notes.extend(Some(format!("left:\n{diff}")).filter(|_| !diff.is_empty()));
        notes
    }
}

impl Case<'_> {
    /// Where something has to be left as long as the namespace is there.
    fn del_after_the_end(&self, pod: Pod, notes: &mut Vec<String>) {
        let pod = self.host.end(pod);
        for plugin in self.plugins.iter().rev().chain([self.first]) {
            let reply = Chain::new(self.host, Vec::new()).call(plugin).pod(&pod).config(plugin).del();
            notes.extend(Some(format!("last DEL: {reply}")).filter(|_| !reply.status.success()));
        }
    }
}

fn with_iptables(plugin: &Value) -> Value {
    with(plugin, json!({ "backend": "iptables" }))
}

fn with_policy(policy: &str) -> Value {
    with(&firewall(), json!({ "ingressPolicy": policy }))
}

/// The plugin alone behind `bridge`.
fn behind_bridge(plugin: Value, of: Matrix) {
    matrix(&bridge(), &[plugin], of);
}

#[test]
fn bridge_whatever_is_missing() {
    case(|| matrix(&chained::bridge(), &[], WHOLE));
}

#[test]
fn bridge_with_iptables_whatever_is_missing() {
    case(|| matrix(&with(&chained::bridge(), json!({ "ipMasqBackend": "iptables" })), &[], PART));
}

#[test]
fn bridge_with_a_spoof_filter_whatever_is_missing() {
    case(|| matrix(&with(&chained::bridge(), json!({ "macspoofchk": true })), &[], PART));
}

#[test]
fn the_whole_chain_whatever_is_missing() {
    case(|| {
        let all = chained::everything();
        matrix(&all[0], &all[1..], WHOLE);
    });
}

#[test]
fn portmap_with_the_result() {
    case(|| behind_bridge(portmap(), USUAL));
}

#[test]
fn portmap_whatever_is_missing() {
    case(|| behind_bridge(portmap(), WHOLE));
}

#[test]
fn portmap_with_iptables_whatever_is_missing() {
    case(|| behind_bridge(with_iptables(&portmap()), PART));
}

#[test]
fn firewall_with_the_result() {
    case(|| behind_bridge(firewall(), USUAL));
}

#[test]
fn firewall_whatever_is_missing() {
    case(|| behind_bridge(firewall(), WHOLE));
}

#[test]
fn firewall_with_iptables_whatever_is_missing() {
    case(|| behind_bridge(with_iptables(&firewall()), PART));
}

#[test]
fn firewall_same_bridge_whatever_is_missing() {
    case(|| behind_bridge(with_policy("same-bridge"), PART));
}

#[test]
fn firewall_isolated_whatever_is_missing() {
    case(|| behind_bridge(with_policy("isolated"), PART));
}

#[test]
fn tuning_with_the_result() {
    case(|| behind_bridge(tuning(), Matrix { namespaces: &[Namespace::Alive], ..USUAL }));
}

#[test]
fn tuning_whatever_is_missing() {
    case(|| behind_bridge(tuning(), WHOLE));
}

#[test]
fn bandwidth_with_the_result() {
    case(|| behind_bridge(bandwidth(), USUAL));
}

#[test]
fn bandwidth_whatever_is_missing() {
    case(|| behind_bridge(bandwidth(), WHOLE));
}

/// Two pods' worth of the plugin, of which GC is told to keep one, then none.
fn gc_of(plugin: &Value) {
    let plugins = [bridge(), plugin.clone()];
    let host = node(&plugins, &[]);
    let chain = Chain::new(&host, plugins.to_vec());
    let before = host.snapshot();
    let alive = host.pod();
    let result = chain.add(&alive);
    let with_one = host.snapshot();
    let stale = [host.pod(), host.pod()];
    // The same container's other interface is stale as well.
    let second = Pod { id: alive.id.clone(), ifname: "net1".to_owned(), ..host.pod() };
    for pod in stale.iter().chain([&second]) {
        let patch = if plugin["type"] == "portmap" { other_port(pod) } else { json!({}) };
        let plugins = vec![with(&bridge(), json!({ "isDefaultGateway": null })), with(plugin, patch)];
        Chain::new(&host, plugins).add(pod);
    }
    let with_all = host.snapshot();
    chain.gc(&Value::Null);
    host.assert_as(&with_all);
    chain.gc(&valid(&[&alive]));
    host.assert_as(&with_one);
    chain.check(&alive, &result);
    // Another network's list is not about these.
    chain.with(&json!({ "name": "other" })).gc(&json!([]));
    host.assert_as(&with_one);
    chain.gc(&json!([]));
    host.assert_as(&before);
}

/// A port for each pod: nobody else has it.
fn other_port(pod: &Pod) -> Value {
    let number: u16 = pod.id.trim_start_matches("pod-").parse().unwrap();
    let offset = if pod.ifname == "eth0" { 0 } else { 100 };
    json!({ "runtimeConfig": { "portMappings": [{ "hostPort": 9000 + number + offset, "containerPort": 80, "protocol": "tcp" }] } })
}

#[test]
fn gc_of_portmap_takes_exactly_the_stale() {
    case(|| gc_of(&portmap()));
}

#[test]
fn gc_of_portmap_with_iptables_takes_exactly_the_stale() {
    case(|| gc_of(&with_iptables(&portmap())));
}

#[test]
fn gc_of_firewall_takes_exactly_the_stale() {
    case(|| gc_of(&firewall()));
}

#[test]
fn gc_of_firewall_with_iptables_takes_exactly_the_stale() {
    case(|| gc_of(&with_iptables(&firewall())));
}

#[test]
fn gc_of_firewall_same_bridge_takes_exactly_the_stale() {
    case(|| gc_of(&with_policy("same-bridge")));
}

#[test]
fn gc_of_tuning_takes_exactly_the_stale() {
    case(|| gc_of(&tuning()));
}

#[test]
fn gc_of_bandwidth_takes_exactly_the_stale() {
    case(|| gc_of(&bandwidth()));
}
