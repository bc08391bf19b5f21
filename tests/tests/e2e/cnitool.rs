//! STATUS and GC as the CNI project's `cnitool` asks for them. Of GC it knows no list of what is valid: it detaches what it
//! remembers to have attached, and calls the plugins without a list. What others have attached must stay.

use serde_json::{Value, json};
use tests::{
    Host, Network, Place,
    chained::{Chain, everything},
    cnitool::subject,
    config::{self, with},
    host::SCRATCH,
    reported,
    settings::not_for_reference,
    traffic::assert_reaches,
};

use crate::{
    examples,
    flannel_add::{self, LEASE46, SUBNET_ENV},
};

const REASON: &str = "it does not speak 1.1.0 in this version";

/// A list in the version that has GC and STATUS.
fn list(name: &str, plugins: &[Value]) -> Value {
    json!({ "cniVersion": "1.1.0", "name": name, "plugins": plugins })
}

fn status(host: &Host, list: &Value) -> tests::Reply {
    Network::of_list(host, list).call("status", &host.pod()).run()
}

#[test]
fn status_of_the_examples_is_good() {
    reported(&subject(), "STATUS of all conf-examples", || {
        not_for_reference(REASON);
        let host = Host::new();
        host.write(SUBNET_ENV, LEASE46);
        for file in examples::FILES {
            let config: Value = serde_json::from_str(&examples::text(file)).unwrap();
            let plugins = config["plugins"].as_array().cloned().unwrap_or_else(|| vec![config.clone()]);
            let before = host.snapshot();
            status(&host, &list(config["name"].as_str().unwrap(), &plugins)).ok();
            host.assert_as(&before);
        }
    });
}

#[test]
fn status_says_what_is_missing() {
    reported(&subject(), "STATUS of what cannot work says what is missing", || {
        not_for_reference(REASON);
        let host = Host::new();
        host.run("ip link add br-taken type veth peer name other");
        host.write("/run/test/file", "");
        let bridge = |patch: Value| with(&config::bridge(), patch);
        let chained = |plugin: Value| with(&plugin, json!({ "name": null, "cniVersion": null }));
        let before = host.snapshot();
        for (plugins, fragments) in [
            (
                vec![bridge(json!({ "bridge": "br-taken" }))],
                "\"br-taken\" already exists but is not a bridge|name another",
            ),
            (vec![bridge(json!({ "ipam": { "type": "nowhere" } }))], "nowhere|install it into one of these folders"),
            (
                vec![bridge(json!({ "ipam": { "dataDir": "/run/test/file/x" } }))],
                "/run/test/file is not a folder|dataDir",
            ),
            (vec![bridge(json!({ "ipam": { "resolvConf": "/run/test/none" } }))], "/run/test/none"),
            (vec![bridge(json!({ "hairpinMode": true, "promiscMode": true }))], "promiscMode"),
            (
                vec![bridge(json!({})), json!({ "type": "tuning", "mtu": 1400, "dataDir": "/run/test/file/x" })],
                "/run/test/file|dataDir",
            ),
            (vec![bridge(json!({})), json!({ "type": "portmap", "backend": "ebtables" })], "ebtables"),
            (vec![chained(flannel_add::config())], "subnet.env"),
        ] {
            let reply = status(&host, &list("net", &plugins));
            assert!(!reply.status.success(), "{fragments}: {reply}");
            for fragment in fragments.split('|') {
                assert!(reply.stderr.contains(fragment), "{fragment} is not in {reply}");
            }
            host.assert_as(&before);
        }
    });
}

/// The plugins, each behind a script that keeps what it is told, in a folder beside which that is then.
fn recorded(host: &Host, network: &str, names: &[&str]) -> String {
    let folder = format!("{SCRATCH}/{network}");
    for name in names {
        let program = host.bin_dir().join(name);
        let script = format!("#!/bin/sh\ntee -a {folder}.$CNI_COMMAND | exec {}\n", program.display());
        host.write(&format!("{folder}/{name}"), script);
        host.run(&format!("chmod 755 {folder}/{name}"));
    }
    folder
}

#[test]
fn gc_without_a_list_changes_nothing() {
    reported(&subject(), "GC, which sends no list: nothing of other runtimes' pods changes, for all plugins", || {
        not_for_reference(REASON);
        let host = flannel_add::node(LEASE46);
        let loopback = json!({ "cniVersion": "1.0.0", "name": "lo", "type": "loopback" });
        let fixed = with(&config::fixed(&[("10.40.0.9/24", "10.40.0.1")]), json!({ "name": "fixed", "bridge": "br4" }));
        let networks = [everything(), vec![flannel_add::config()], vec![fixed], vec![loopback]];
        let pods: Vec<_> = networks
            .iter()
            .map(|plugins| {
                let (chain, pod) = (Chain::new(&host, plugins.clone()), host.pod());
                let result = chain.add(&pod);
                (chain, pod, result)
            })
            .collect();
        let before = host.snapshot();
        for (chain, pod, result) in &pods {
            let names: Vec<_> = chain.plugins.iter().map(|plugin| plugin["type"].as_str().unwrap()).collect();
            let name = chain.plugins[0]["name"].as_str().unwrap();
            let network = Network::of_list(&host, &list(name, &chain.plugins));
            let recorded = recorded(&host, name, &names);
            let path = format!("{recorded}:{}", host.bin_dir().display());
            network.call("gc", pod).env("CNI_PATH", &path).run().ok();
            let told = host.read(&format!("{recorded}.GC")).unwrap();
            assert!(!told.contains("attachments"), "{told}");
            let configs = serde_json::Deserializer::from_str(&told).into_iter::<Value>();
            let called: Vec<_> = configs.map(|config| config.unwrap()["type"].as_str().unwrap().to_owned()).collect();
            assert_eq!(called, names);
            chain.check(pod, result);
        }
        host.assert_as(&before);
        assert_reaches(&pods[0].1, config::GATEWAY4);
        assert_reaches(&pods[0].1, config::GATEWAY6);
    });
}

#[test]
fn gc_detaches_what_it_attached_itself() {
    reported(&subject(), "GC of a network detaches the pods that it attached, and no other", || {
        not_for_reference(REASON);
        let host = Host::new();
        let chain = Chain::new(&host, everything());
        chain.warm_up();
        let (pod, own) = (host.pod(), host.pod());
        let result = chain.add(&pod);
        let without_ports: Vec<_> =
            chain.plugins.iter().map(|plugin| with(plugin, json!({ "runtimeConfig": null }))).collect();
        let network = Network::of_list(&host, &list("net", &without_ports));
        host.run("mkdir -p /var/lib/cni/results");
        let before = host.snapshot();
        network.add(&own).ok();
        network.call("gc", &own).run().ok();
        assert!(own.link("eth0").is_none());
        host.assert_as(&before);
        chain.check(&pod, &result);
        assert_reaches(&pod, config::GATEWAY4);
    });
}
