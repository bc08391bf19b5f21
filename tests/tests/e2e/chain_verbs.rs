//! What every chained plugin has in common: versions, results that pass through, clean errors.

use serde_json::{Value, json};
use tests::{
    Host, Pod, case,
    chained::{self, Chain, HOST_PORT, MAC, bandwidth, bridge, everything, firewall, portmap, tuning},
    config::with,
    published::{at, chain},
    settings::versions,
    traffic::{Server, Transport, ask, outside::HOST4, outside::HOST6},
};

fn plugins() -> [Value; 4] {
    [portmap(), firewall(), tuning(), bandwidth()]
}

fn name(plugin: &Value) -> &str {
    plugin["type"].as_str().unwrap()
}

#[test]
fn without_a_previous_result_add_and_check_say_so() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let before = host.snapshot();
        for plugin in plugins() {
            for verb in ["ADD", "CHECK"] {
                for none in [json!({}), json!({ "prevResult": null })] {
                    let failure =
                        host.plugin_of(&plugin).verb(verb).pod(&pod).config(&with(&plugin, none)).run().failure();
                    let text = failure.msg.to_lowercase();
                    assert!(
                        failure.code == 999 && (text.contains("prevresult") || text.contains("chained")),
                        "{} {verb}: {failure:?}",
                        name(&plugin)
                    );
                }
            }
            // Nor is garbage one.
            for garbage in [json!(7), json!([]), json!({ "ips": 5 }), json!({ "cniVersion": "0.2.0" })] {
                for verb in ["ADD", "CHECK"] {
                    let config = with(&plugin, json!({ "prevResult": garbage }));
                    host.plugin_of(&plugin).verb(verb).pod(&pod).config(&config).run().failure().is(999, "");
                }
            }
        }
        host.assert_as(&before);
    });
}

#[test]
fn with_nothing_to_do_a_missing_previous_result_is_an_error_too() {
    case(|| {
        let host = Host::new();
        for plugin in ["portmap", "firewall", "tuning", "bandwidth"] {
            let config = json!({ "cniVersion": "1.0.0", "name": "net", "type": plugin });
            for verb in ["ADD", "CHECK"] {
                host.plugin(plugin).verb(verb).pod(&host.pod()).config(&config).run().failure().is(999, "");
            }
            host.plugin(plugin).pod(&host.pod()).config(&config).del().ok();
        }
    });
}

#[test]
fn the_result_passes_through_but_for_what_a_plugin_adds() {
    case(|| {
        let host = Host::new();
        let bridge = with(&bridge(), json!({ "dns": { "nameservers": ["192.0.2.53"], "search": ["a", "b"] } }));
        let (pod, other) = (host.pod(), host.pod());
        let first = Chain::new(&host, vec![bridge]).add(&pod);
        // A result of somebody else may have more than ours, and interfaces that are nobody's here.
        let foreign = with(
            &first,
            json!({ "routes": [{ "dst": "192.0.2.0/24", "gw": "10.22.0.1", "mtu": 1300, "table": 7, "scope": 253, "priority": 4, "advmss": 1200 }] }),
        );
        for previous in [&first, &foreign] {
            for plugin in plugins() {
                let result = host.plugin_of(&plugin).pod(&pod).config_with(&plugin, previous).add().result();
                let mut expected = previous.clone();
                let interfaces = expected["interfaces"].as_array_mut().unwrap();
                match name(&plugin) {
                    "tuning" => {
                        for interface in interfaces.iter_mut().filter(|i| i["name"] == "eth0") {
                            interface["mac"] = json!(MAC);
                        }
                    }
                    // A link of its own, if it needs one.
                    "bandwidth" => {
                        let found = result["interfaces"].as_array().unwrap();
                        interfaces.extend(found.iter().skip(interfaces.len()).cloned());
                        assert!(found.len() <= previous["interfaces"].as_array().unwrap().len() + 1, "{result}");
                    }
                    _ => {}
                }
                // tuning says the MTU it has set, or not.
                let mtu = result["interfaces"].as_array().unwrap().iter().map(|i| i["mtu"].clone());
                for (interface, mtu) in expected["interfaces"].as_array_mut().unwrap().iter_mut().zip(mtu) {
                    if name(&plugin) == "tuning" && !mtu.is_null() {
                        interface["mtu"] = json!(1400);
                    }
                }
                assert_eq!(result, expected, "{}", name(&plugin));
                host.plugin_of(&plugin).pod(&pod).config_with(&plugin, &result).del().ok();
            }
        }
        // Without addresses there is nothing to do for some, which is no error.
        let none = json!({ "cniVersion": "1.0.0", "interfaces": [{ "name": "eth0", "sandbox": other.path }] });
        for plugin in [portmap(), firewall()] {
            host.plugin_of(&plugin).pod(&other).config_with(&plugin, &none).add().ok();
            host.plugin_of(&plugin).pod(&other).config_with(&plugin, &none).del().ok();
        }
    });
}

#[test]
fn check_passes_right_after_add() {
    case(|| {
        let host = Host::new();
        let chain = Chain::new(&host, everything());
        for _ in 0..2 {
            let pod = host.pod();
            let result = chain.add(&pod);
            chain.check(&pod, &result);
            chain.del(&pod, &result);
        }
    });
}

/// Every plugin with one limit or setting less.
#[test]
fn check_passes_with_parts_of_the_configs() {
    case(|| {
        let host = Host::new();
        for plugin in [
            with(&portmap(), json!({ "snat": false })),
            with(&portmap(), json!({ "masqAll": true })),
            with(&portmap(), json!({ "backend": "iptables" })),
            with(&portmap(), json!({ "runtimeConfig": null })),
            with(&firewall(), json!({ "backend": "iptables" })),
            with(&bandwidth(), json!({ "egressRate": null, "egressBurst": null })),
            with(&bandwidth(), json!({ "ingressRate": null, "ingressBurst": null })),
            json!({ "cniVersion": "1.0.0", "name": "net", "type": "bandwidth" }),
            json!({ "cniVersion": "1.0.0", "name": "net", "type": "tuning" }),
            json!({ "cniVersion": "1.0.0", "name": "net", "type": "tuning", "mtu": 1300 }),
        ] {
            let pod = host.pod();
            let chain = Chain::new(&host, vec![bridge(), plugin]);
            let result = chain.add(&pod);
            chain.check(&pod, &result);
            chain.del(&pod, &result);
        }
    });
}

#[test]
fn status_is_fine_where_add_would_work() {
    case(|| {
        let host = Host::new();
        let status = || {
            for plugin in everything() {
                let config = with(&plugin, json!({ "cniVersion": "1.1.0" }));
                assert_eq!(
                    host.plugin_of(&config).verb("STATUS").config(&config).run().ok().stdout,
                    "",
                    "{}",
                    name(&plugin)
                );
            }
        };
        let before = host.snapshot();
        status();
        host.assert_as(&before);
        Chain::new(&host, everything()).warm_up();
        status();
    });
}

#[test]
fn status_says_why_add_could_not_work() {
    case(|| {
        let host = Host::new();
        for (plugin, patch) in [
            (portmap(), json!({ "backend": "nonsense" })),
            (firewall(), json!({ "ingressPolicy": "nonsense" })),
            (tuning(), json!({ "mac": "nonsense" })),
            (bandwidth(), json!({ "ingressBurst": null })),
        ] {
            let config = with(&with(&plugin, patch), json!({ "cniVersion": "1.1.0" }));
            host.plugin_of(&config).verb("STATUS").config(&config).run().failure().is(50, "");
        }
    });
}

#[test]
fn every_version_is_spoken_by_every_plugin() {
    case(|| {
        let host = Host::new();
        let list = versions().iter().map(|v| format!("\"{v}\"")).collect::<Vec<_>>().join(",");
        for plugin in plugins() {
            let line = host.plugin_of(&plugin).verb("VERSION").run().ok().stdout.clone();
            assert!(line.contains(&format!("\"supportedVersions\":[{list}]")), "{}: {line}", name(&plugin));
        }
    });
}

/// The chain in one version, by `cnitool`, with a published port that answers.
fn chain_in(version: &str, checked: bool) {
    let host = Host::new();
    host.outside();
    let published = with(&portmap(), json!({ "runtimeConfig": null, "capabilities": { "portMappings": true } }));
    let plugins =
        [bridge(), published, firewall(), tuning(), bandwidth()].map(|p| with(&p, json!({ "cniVersion": version })));
    let network = chain(&host, &plugins);
    let ports = json!({ "portMappings": portmap()["runtimeConfig"]["portMappings"] }).to_string();
    let call = |verb: &str, pod: &Pod| network.call(verb, pod).env("CAP_ARGS", &ports).run();
    for _ in 0..2 {
        let pod = host.pod();
        call("add", &pod).ok();
        call("del", &pod).ok();
    }
    let before = host.snapshot();
    let pod = host.pod();
    let result = call("add", &pod).result();
    assert_eq!(result["cniVersion"], version);
    if checked {
        call("check", &pod).ok();
    }
    let addresses = pod.addresses();
    let _servers: Vec<Server> = (addresses.iter())
        .map(|address| Server::start(&pod, "pod", at(address.split('/').next().unwrap(), 80)))
        .collect();
    for target in [HOST4, HOST6] {
        assert!(
            ask(host.outside(), Transport::Tcp, at(target, HOST_PORT)).is_some(),
            "{version}: {target} from outside"
        );
        assert!(ask(&host, Transport::Tcp, at(target, HOST_PORT)).is_some(), "{version}: {target} from the host");
    }
    assert!(ask(&host, Transport::Tcp, at("127.0.0.1", HOST_PORT)).is_some(), "{version}: 127.0.0.1");
    assert!(chained::attributes(&pod).contains(MAC));
    call("del", &pod).ok();
    host.assert_as(&before);
}

/// All versions of a range.
fn chain_since(since: &str, until: &str, checked: bool) {
    versions()
        .iter()
        .filter(|version| since <= **version && **version < until)
        .for_each(|version| chain_in(version, checked));
}

#[test]
fn the_whole_chain_in_newer_versions() {
    case(|| chain_since("0.4.0", "9", false));
}

#[test]
fn the_whole_chain_passes_check_in_newer_versions() {
    case(|| chain_since("0.4.0", "9", true));
}

#[test]
fn the_whole_chain_in_older_versions() {
    case(|| chain_since("", "0.4.0", false));
}
