//! Pods whose chain the reference made, on a node whose binaries were replaced since.

use serde_json::{Value, json};
use tests::{
    Host, Place, case,
    chained::{Chain, Suite, attributes, bandwidth, bridge, everything, firewall, portmap, tuning},
    config::with,
    host::NETNS_DIR,
};

/// A node on which the reference, and then our suite, has made and removed a pod.
fn node(chain: &Chain<'_>) {
    chain.by(Suite::Reference).warm_up();
    chain.warm_up();
    chain.warm_up();
}

/// Pods that the reference made of this chain are removed by our DEL.
fn removed(plugins: Vec<Value>, without_result: bool, without_namespace: bool) {
    let host = Host::new();
    host.outside();
    host.run(&format!("mkdir {NETNS_DIR}"));
    let chain = Chain::new(&host, plugins);
    node(&chain);
    let before = host.snapshot();
    let pod = host.named_pod();
    let result = chain.by(Suite::Reference).add(&pod);
    let result = if without_result { Value::Null } else { result };
    let pod = if without_namespace { host.end(pod) } else { pod };
    chain.del(&pod, &result);
    host.unmount(&pod.path);
    host.assert_as(&before);
}

/// Of the first plugin only what the others need.
fn behind_bridge(plugin: Value) -> Vec<Value> {
    vec![with(&bridge(), json!({ "ipMasq": false })), plugin]
}

#[test]
fn portmap_is_removed() {
    case(|| {
        for without_result in [false, true] {
            removed(behind_bridge(portmap()), without_result, false);
            removed(behind_bridge(portmap()), without_result, true);
        }
    });
}

#[test]
fn portmap_is_removed_without_the_ports() {
    case(|| {
        let host = Host::new();
        let chain = Chain::new(&host, behind_bridge(portmap()));
        node(&chain);
        let before = host.snapshot();
        let pod = host.pod();
        chain.by(Suite::Reference).add(&pod);
        chain.with(&json!({ "runtimeConfig": null })).del(&pod, &Value::Null);
        host.assert_as(&before);
    });
}

#[test]
fn firewall_is_removed() {
    case(|| {
        for without_result in [false, true] {
            removed(behind_bridge(firewall()), without_result, false);
            removed(behind_bridge(firewall()), without_result, true);
        }
    });
}

#[test]
fn tuning_is_removed() {
    case(|| {
        [false, true].into_iter().for_each(|without_result| removed(behind_bridge(tuning()), without_result, false))
    });
}

#[test]
fn tuning_is_removed_without_the_namespace() {
    case(|| {
        [false, true].into_iter().for_each(|without_result| removed(behind_bridge(tuning()), without_result, true))
    });
}

#[test]
fn what_the_references_tuning_changed_is_put_back() {
    case(|| {
        let host = Host::new();
        let plugin = tuning();
        let pod = host.pod();
        let first = Chain::new(&host, vec![bridge()]).add(&pod);
        let before = attributes(&pod);
        let result = host.reference("tuning").pod(&pod).config_with(&plugin, &first).add().result();
        assert_ne!(attributes(&pod), before);
        host.plugin("tuning").pod(&pod).config_with(&plugin, &result).del().ok();
        assert_eq!(attributes(&pod), before);
    });
}

#[test]
fn bandwidth_is_removed() {
    case(|| {
        for without_result in [false, true] {
            removed(behind_bridge(bandwidth()), without_result, false);
            removed(behind_bridge(bandwidth()), without_result, true);
        }
    });
}

#[test]
fn the_whole_chain_is_removed() {
    case(|| [false, true].into_iter().for_each(|without_result| removed(everything(), without_result, false)));
}

#[test]
fn the_whole_chain_is_removed_without_the_namespace() {
    case(|| [false, true].into_iter().for_each(|without_result| removed(everything(), without_result, true)));
}

/// Both suites' pods on one node: each DEL takes its own, whoever made the other.
#[test]
fn pods_of_both_suites_live_side_by_side() {
    case(|| {
        let host = Host::new();
        host.outside();
        let chain = Chain::new(&host, everything());
        node(&chain);
        let before = host.snapshot();
        let other_port = json!({ "runtimeConfig": { "portMappings": [{ "hostPort": 9090, "containerPort": 80, "protocol": "tcp" }] } });
        let (theirs, ours) = (host.pod(), host.pod());
        let their_result = chain.by(Suite::Reference).add(&theirs);
        let with_theirs = host.snapshot();
        let our_chain = chain.with(&other_port);
        let our_result = our_chain.add(&ours);
        our_chain.check(&ours, &our_result);
        our_chain.del(&ours, &our_result);
        host.assert_as(&with_theirs);
        chain.del(&theirs, &their_result);
        host.assert_as(&before);
    });
}
