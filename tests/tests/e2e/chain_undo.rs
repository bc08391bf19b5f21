//! Each chained plugin's ADD that fails: it undoes what it made, or DEL does. (Faults at every system call are a test program
//! of their own.)

use std::{process::Stdio, thread};

use serde_json::{Value, json};
use tests::{
    Call, Host, Place, Pod, Snapshot, case,
    chained::{self, Chain, attributes, bandwidth, everything, firewall, portmap, tuning},
    config::{self, with},
    plugin::{full, unread},
    traffic::assert_reaches,
};

/// The first of each chain: only the others are under test here.
fn bridge() -> Value {
    with(&chained::bridge(), json!({ "ipMasq": false }))
}

/// Each plugin, in each of the ways that make something else.
fn plugins() -> Vec<Value> {
    let policy = |policy: &str| with(&firewall(), json!({ "ingressPolicy": policy }));
    vec![portmap(), firewall(), policy("same-bridge"), policy("isolated"), tuning(), bandwidth()]
}

/// A pod behind `bridge`, before the plugin has done anything to it.
struct Attached<'h> {
    host: &'h Host,
    plugin: &'h Value,
    pod: Pod,
    config: Value,
    before: Snapshot,
    pod_before: String,
}

impl<'h> Attached<'h> {
    fn new(host: &'h Host, plugin: &'h Value) -> Self {
        let chain = Chain::new(host, vec![bridge(), plugin.clone()]);
        // What stays for good is there; twice, for the bridge's MTU.
        chain.warm_up();
        chain.warm_up();
        let pod = host.pod();
        let first = Chain::new(host, vec![bridge()]).add(&pod);
        let config = with(plugin, json!({ "prevResult": first }));
        let (before, pod_before) = (host.snapshot(), state(&pod));
        Self { host, plugin, pod, config, before, pod_before }
    }

    fn call(&self) -> Call<'h> {
        self.host.plugin_of(self.plugin).pod(&self.pod).config(&self.config)
    }

    fn assert_as_before(&self, what: &str) {
        let name = &self.plugin;
        let diff = self.before.diff(&self.host.snapshot());
        assert!(diff.is_empty(), "{name}: {what}: the host is not as before:\n{diff}");
        assert_eq!(state(&self.pod), self.pod_before, "{name}: {what}");
    }

    /// DEL, which leaves sysctls as they are, and after which there may be a qdisc of the pod's own link, until that goes.
    fn del(&self, what: &str) {
        let reply = self.call().del();
        assert!(reply.status.success(), "{}: {what}: {reply}", self.plugin);
        let diff = self.before.diff(&self.host.snapshot());
        let left: Vec<&str> =
            diff.lines().filter(|line| self.plugin["type"] != "bandwidth" || !is_of_the_link(line)).collect();
        assert!(left.is_empty(), "{}: {what}, then DEL: {left:#?}", self.plugin);
        self.pod.run("sysctl -q -w net.ipv4.conf.eth0.arp_filter=0");
        assert_eq!(state(&self.pod), self.pod_before, "{}: {what}", self.plugin);
    }
}

fn is_of_the_link(line: &str) -> bool {
    line[2..].starts_with("link veth") || line[2..].starts_with("qdisc veth")
}

/// What `tuning` changes in a pod.
fn state(pod: &Pod) -> String {
    let sysctl = pod.read(&format!("/proc/sys/net/ipv4/conf/{}/arp_filter", pod.ifname));
    format!("{}\n{sysctl:?}", attributes(pod))
}

#[test]
fn a_result_that_nobody_can_read_undoes_everything() {
    case(|| {
        for plugin in plugins() {
            let host = Host::new();
            let attached = Attached::new(&host, &plugin);
            let outputs: [fn() -> Stdio; 2] = [|| full().into(), unread];
            for output in outputs {
                let reply = attached.call().stdout(output()).add();
                assert!(reply.status.code().is_some_and(|code| code != 0), "{plugin}: {reply}");
                attached.assert_as_before("nobody reads");
            }
            let reply = attached.call().under(&["sh", "-c", "exec \"$0\" >&-"]).add();
            assert!(!reply.status.success(), "{plugin}: {reply}");
            attached.assert_as_before("stdout is closed");
            attached.call().add().ok();
            attached.del("ADD");
        }
    });
}

#[test]
fn an_invalid_config_is_refused_with_nothing_done() {
    case(|| {
        let ports = |port: Value| json!({ "runtimeConfig": { "portMappings": [{ "hostPort": 7000, "containerPort": 7, "protocol": "tcp" }, port] } });
        for (plugin, patches) in [
            (
                portmap(),
                vec![
                    ports(json!({ "hostPort": 0, "containerPort": 80, "protocol": "tcp" })),
                    ports(json!({ "hostPort": 80, "containerPort": -1, "protocol": "tcp" })),
                    ports(json!({ "hostPort": 70_000, "containerPort": 80, "protocol": "tcp" })),
                    ports(json!({ "hostPort": 80, "containerPort": 80, "protocol": "icmp" })),
                    ports(json!({ "hostPort": 80, "containerPort": 80, "protocol": "tcp", "hostIP": "nonsense" })),
                    json!({ "backend": "nonsense" }),
                    json!({ "markMasqBit": 32 }),
                    json!({ "runtimeConfig": { "portMappings": "x" } }),
                ],
            ),
            (
                firewall(),
                vec![json!({ "ingressPolicy": "nonsense" }), json!({ "ingressPolicy": 1 }), json!({ "backend": [] })],
            ),
            (
                tuning(),
                vec![
                    json!({ "mac": "nonsense" }),
                    json!({ "mtu": "x" }),
                    json!({ "sysctl": { "net.ipv4.conf.IFNAME.arp_filter": "1", "kernel.panic": "1" } }),
                    json!({ "sysctl": { "net.ipv4.conf.IFNAME.arp_filter": "1", "net.ipv4.no.such": "1" } }),
                    json!({ "sysctl": { "net.ipv4.conf.IFNAME.arp_filter": "1", "net.ipv4.conf.IFNAME.forwarding": "nonsense" } }),
                    json!({ "mtu": 70_000 }),
                ],
            ),
            (
                bandwidth(),
                vec![
                    json!({ "ingressBurst": null }),
                    json!({ "egressRate": null }),
                    json!({ "egressRate": -1 }),
                    json!({ "egressBurst": 1_u64 << 40 }),
                ],
            ),
        ] {
            let host = Host::new();
            let attached = Attached::new(&host, &plugin);
            for patch in patches {
                let failure = attached.call().config(&with(&attached.config, patch.clone())).add().failure();
                assert_eq!(failure.code, 999, "{patch}: {failure:?}");
                attached.assert_as_before(&patch.to_string());
            }
        }
    });
}

#[test]
fn whatever_a_second_add_does_del_leaves_nothing() {
    case(|| {
        for plugin in plugins() {
            let host = Host::new();
            let attached = Attached::new(&host, &plugin);
            attached.call().add().ok();
            let running = host.snapshot();
            let again = attached.call().add();
            if !again.status.success() {
                let diff = running.diff(&host.snapshot());
                assert!(diff.is_empty(), "{plugin}: a second ADD that is refused changes nothing: {diff}");
            }
            attached.del("two ADDs");
        }
    });
}

#[test]
fn many_chains_at_once_do_not_disturb_each_other() {
    case(|| {
        let host = Host::new();
        host.outside();
        Chain::new(&host, everything()).warm_up();
        Chain::new(&host, everything()).warm_up();
        let before = host.snapshot();
        let pods: Vec<Pod> = (0..6).map(|_| host.pod()).collect();
        let all = |f: &(dyn Fn(&Chain<'_>, usize) + Sync)| {
            thread::scope(|s| {
                for number in 0..pods.len() {
                    let host = &host;
                    s.spawn(move || {
                        let port = json!({ "hostPort": 7000 + number, "containerPort": 80, "protocol": "tcp" });
                        let mut chain = Chain::new(host, everything());
                        chain.plugins[1] = with(&portmap(), json!({ "runtimeConfig": { "portMappings": [port] } }));
                        f(&chain, number);
                    });
                }
            });
        };
        let results: Vec<std::sync::Mutex<Value>> = pods.iter().map(|_| Value::Null.into()).collect();
        all(&|chain, number| *results[number].lock().unwrap() = chain.add(&pods[number]));
        all(&|chain, number| chain.check(&pods[number], &results[number].lock().unwrap()));
        for pod in &pods {
            assert_reaches(pod, config::GATEWAY4);
        }
        all(&|chain, number| chain.del(&pods[number], &results[number].lock().unwrap()));
        host.assert_as(&before);
    });
}

/// A container on two networks, and with two interfaces on one of them.
#[test]
fn del_takes_only_its_own_attachment() {
    case(|| {
        for plugin in plugins() {
            let host = Host::new();
            host.outside();
            let plain = with(&bridge(), json!({ "ipam": { "routes": null } }));
            let other = json!({ "name": "other", "bridge": "br1" });
            let other_ipam = config::host_local(&["10.23.0.0/24", "fd00:23::/64"]);
            let other_bridge =
                with(&with(&plain, other), json!({ "ipam": with(&other_ipam, json!({ "routes": null })) }));
            let of = |port: u16| {
                json!({ "runtimeConfig": if plugin["type"] == "portmap" {
                json!({ "portMappings": [{ "hostPort": port, "containerPort": 80, "protocol": "tcp" }, { "hostPort": port, "containerPort": 80, "protocol": "udp" }] })
            } else { Value::Null } })
            };
            let network = |first: &Value, port: u16| {
                let name = json!({ "name": first["name"] });
                Chain::new(&host, vec![first.clone(), with(&with(&plugin, of(port)), name)])
            };
            let chains = [
                (network(&plain, 7001), "eth0"),
                (network(&plain, 7002), "net1"),
                (network(&other_bridge, 7003), "net2"),
            ];
            for (chain, _) in &chains {
                chain.warm_up();
                chain.warm_up();
            }
            let mut pod = host.pod();
            let mut states = vec![host.snapshot()];
            let mut results = Vec::new();
            for (chain, ifname) in &chains {
                (*ifname).clone_into(&mut pod.ifname);
                results.push(chain.add(&pod));
                states.push(host.snapshot());
            }
            // The last one first, so that each time it is as it was before.
            for (number, (chain, ifname)) in chains.iter().enumerate().rev() {
                (*ifname).clone_into(&mut pod.ifname);
                chain.del(&pod, &results[number]);
                let diff = states[number].diff(&host.snapshot());
                assert!(diff.is_empty(), "{plugin}: DEL of {ifname}:\n{diff}");
            }
        }
    });
}
