//! Each chained plugin's DEL and GC: whatever is missing or wrong by then, the host is as before.

use serde_json::{Value, json};
use tests::{
    Host, Place, Pod, case,
    chained::{self, Chain, attributes, bandwidth, firewall, portmap, tuning, valid},
    config::with,
    host::NETNS_DIR,
    settings::is_reference,
};

/// What has become of the pod's namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Namespace {
    Alive,
    Gone,
    /// `CNI_NETNS` is empty.
    Empty,
    /// The path leads to a plain file.
    File,
}

/// The result that DEL gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Previous {
    There,
    None,
    Garbage,
}

const FILE: &str = "/run/test/file";

/// The first of each chain: only the others are under test here.
fn bridge() -> Value {
    with(&chained::bridge(), json!({ "ipMasq": false }))
}

/// A node on which the plugin has been used before, with `bridge` in front of it.
fn node(plugin: &Value) -> Host {
    let host = Host::new();
    host.outside();
    host.write(FILE, "");
    host.run(&format!("mkdir {NETNS_DIR}"));
    let chain = Chain::new(&host, vec![bridge(), plugin.clone()]);
    // Twice: not before the second ADD is the bridge's MTU more than its ports'.
    chain.warm_up();
    chain.warm_up();
    host
}

/// The config with other values, of which none can be used.
fn invalid(plugin: &Value) -> Value {
    let patch = match plugin["type"].as_str().unwrap() {
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

fn matrix(plugin: &Value, namespaces: &[Namespace], previous: &[Previous], configs: &[bool]) {
    let host = node(plugin);
    let before = host.snapshot();
    let chain = Chain::new(&host, vec![bridge()]);
    let mut wrong = Vec::new();
    for namespace in namespaces {
        for result_is in previous {
            for config_is_valid in configs {
                let pod = host.named_pod();
                let first = chain.add(&pod);
                let without = (host.snapshot(), attributes(&pod));
                let result = chain.call(plugin).pod(&pod).config_with(plugin, &first).add().result();
                let config = if *config_is_valid { plugin.clone() } else { invalid(plugin) };
                let config = match result_is {
                    Previous::There => with(&config, json!({ "prevResult": result })),
                    Previous::None => config,
                    Previous::Garbage => with(&config, json!({ "prevResult": { "ips": 5, "interfaces": "x" } })),
                };
                let pod = match namespace {
                    Namespace::Gone => host.end(pod),
                    _ => pod,
                };
                let netns = match namespace {
                    Namespace::Alive | Namespace::Gone => pod.path.as_str(),
                    Namespace::Empty => "",
                    Namespace::File => FILE,
                };
                let mut note = |what: &str| {
                    wrong.push(format!(
                        "{namespace:?}, prevResult {result_is:?}, config valid {config_is_valid}: {what}"
                    ));
                };
                // Runtimes call DEL until it succeeds, and sometimes after it.
                for turn in ["DEL", "second DEL"] {
                    let reply = chain.call(&config).pod(&pod).netns(netns).config(&config).del();
                    if !reply.status.success() {
                        note(&format!("{turn}: {reply}"));
                    }
                }
                if *namespace == Namespace::Alive && attributes(&pod) != without.1 {
                    note(&format!("the pod has {} instead of {}", attributes(&pod), without.1));
                }
                if *namespace != Namespace::Gone && !(is_reference() && plugin["type"] == "bandwidth") {
                    // The reference leaves what is on the pod's own link until that goes.
                    let diff = without.0.diff(&host.snapshot());
                    if !diff.is_empty() {
                        note(&diff);
                    }
                }
                chain.call(&bridge()).pod(&pod).config_with(&bridge(), &first).del().ok();
                host.unmount(&pod.path);
                let diff = before.diff(&host.snapshot());
                if !diff.is_empty() {
                    note(&format!("left:\n{diff}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of the cases:\n{}", wrong.len(), wrong.join("\n"));
}

const NAMESPACES: &[Namespace] = &[Namespace::Alive, Namespace::Gone, Namespace::Empty, Namespace::File];
const RESULTS: &[Previous] = &[Previous::There, Previous::None, Previous::Garbage];

/// All that can be wrong, alone and together.
fn whole_matrix(plugin: &Value) {
    matrix(plugin, NAMESPACES, RESULTS, &[true, false]);
}

/// The same for another way of the plugin, with fewer combinations.
fn part_of_the_matrix(plugin: &Value) {
    let namespaces = [Namespace::Alive, Namespace::Gone];
    matrix(plugin, &namespaces, &[Previous::There, Previous::None], &[true, false]);
}

/// What the reference should be able to do.
fn usual(plugin: &Value) {
    matrix(plugin, &[Namespace::Alive, Namespace::Gone, Namespace::Empty], &[Previous::There], &[true]);
}

fn with_iptables(plugin: &Value) -> Value {
    with(plugin, json!({ "backend": "iptables" }))
}

fn with_policy(policy: &str) -> Value {
    with(&firewall(), json!({ "ingressPolicy": policy }))
}

#[test]
fn portmap_with_the_result() {
    case(|| usual(&portmap()));
}

#[test]
fn portmap_whatever_is_missing() {
    case(|| whole_matrix(&portmap()));
}

#[test]
fn portmap_with_iptables_whatever_is_missing() {
    case(|| part_of_the_matrix(&with_iptables(&portmap())));
}

#[test]
fn firewall_with_the_result() {
    case(|| usual(&firewall()));
}

#[test]
fn firewall_whatever_is_missing() {
    case(|| whole_matrix(&firewall()));
}

#[test]
fn firewall_with_iptables_whatever_is_missing() {
    case(|| part_of_the_matrix(&with_iptables(&firewall())));
}

#[test]
fn firewall_same_bridge_whatever_is_missing() {
    case(|| part_of_the_matrix(&with_policy("same-bridge")));
}

#[test]
fn firewall_isolated_whatever_is_missing() {
    case(|| part_of_the_matrix(&with_policy("isolated")));
}

#[test]
fn tuning_with_the_result() {
    case(|| matrix(&tuning(), &[Namespace::Alive], &[Previous::There], &[true]));
}

#[test]
fn tuning_whatever_is_missing() {
    case(|| whole_matrix(&tuning()));
}

#[test]
fn bandwidth_with_the_result() {
    case(|| usual(&bandwidth()));
}

#[test]
fn bandwidth_whatever_is_missing() {
    case(|| whole_matrix(&bandwidth()));
}

/// Two pods' worth of the plugin, of which GC is told to keep one, then none.
fn gc_of(plugin: &Value) {
    let host = node(plugin);
    let chain = Chain::new(&host, vec![bridge(), plugin.clone()]);
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
