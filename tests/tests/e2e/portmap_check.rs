//! CHECK of portmap: everything that ADD made, one by one.

use serde_json::{Value, json};
use tests::{
    Host, Place, case,
    config::{BRIDGE, with},
};

use crate::portmap_add::{add, at, attach, call, config, tcp, udp};

#[test]
fn every_rule_and_element_that_is_gone_is_noticed() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        let config = with(
            &config(&[tcp(8080, 80), udp(53, 53), at("192.0.2.1", tcp(443, 443))]),
            json!({ "masqAll": true, "conditionsV6": ["ip6", "saddr", "!=", "fd01::/64"] }),
        );
        let add = || add(&host, &pod, &config, &result);
        let check = || call(&host, &pod, &config, &result).check();
        add().ok();
        check().ok();
        let whole = host.snapshot();
        // Handles change when a rule is made again.
        let commands = || -> Vec<String> {
            let listed = host.json("nft -j -a list ruleset");
            listed["nftables"].as_array().unwrap().iter().filter_map(removal).flatten().collect()
        };
        let count = commands().len();
        for number in 0..count {
            let command = &commands()[number];
            host.run(command);
            let failure = check().failure();
            assert!(failure.code == 999 && failure.msg.contains("missing"), "{command}: {failure:?}");
            // ADD mends it.
            add().ok();
            check().ok();
        }
        assert!(count >= 30, "{count}");
        host.assert_as(&whole);
    });
}

/// The commands that remove a rule, or each element of a set, of portmap.
fn removal(object: &Value) -> Option<Vec<String>> {
    let of = |kind: &str| object.get(kind).filter(|o| o["table"] == "oxbridge").cloned();
    if let Some(rule) = of("rule") {
        let chain = rule["chain"].as_str().unwrap();
        // What is for later addresses comes and goes with the links of the host.
        let is_optional = rule["comment"].as_str().is_some_and(|c| c.starts_with("to the host in "));
        if !chain.starts_with("ports") || is_optional {
            return None;
        }
        let family = rule["family"].as_str().unwrap();
        return Some(vec![format!("nft delete rule {family} oxbridge {chain} handle {}", rule["handle"])]);
    }
    let set = of("set").or_else(|| of("map"))?;
    let name = set["name"].as_str().unwrap();
    if !name.starts_with("ports-") || name == "ports-hosts" {
        return None;
    }
    let (family, is_map) = (set["family"].as_str().unwrap(), set.get("map").is_some());
    let elements = set["elem"].as_array()?;
    let key = |element: &Value| {
        let element = if is_map { &element[0] } else { element };
        let value = &element["elem"]["val"];
        let parts = value["concat"].as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
        let text = |part: &Value| part.as_str().map_or_else(|| part.to_string(), str::to_owned);
        parts.iter().map(text).collect::<Vec<_>>().join(" . ")
    };
    Some(elements.iter().map(|e| format!("nft delete element {family} oxbridge {name} {{ {} }}", key(e))).collect())
}

#[test]
fn other_values_are_said() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        add(&host, &pod, &config(&[tcp(8080, 80)]), &result).ok();
        let check = |mapping: Value| call(&host, &pod, &config(&[mapping]), &result).check();
        check(tcp(8080, 81)).failure().is(999, "10.22.0.2:80|10.22.0.2:81");
        check(tcp(8081, 80)).failure().is(999, "8081/tcp|missing");
        // Another pod's.
        let other = host.pod();
        let of_other = attach(&host, &other);
        call(&host, &other, &config(&[tcp(8080, 80)]), &of_other).check().failure().is(999, "8080/tcp|pod-1");
    });
}

#[test]
fn the_setting_for_127_0_0_1_is_looked_at() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        let config = config(&[tcp(8080, 80)]);
        add(&host, &pod, &config, &result).ok();
        let path = format!("/proc/sys/net/ipv4/conf/{BRIDGE}/route_localnet");
        host.enter(|| std::fs::write(&path, "0").unwrap());
        call(&host, &pod, &config, &result).check().failure().is(999, "route_localnet");
        call(&host, &pod, &with(&config, json!({ "snat": false })), &result).check().ok();
        // Open is what either says.
        host.enter(|| std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap());
        call(&host, &pod, &config, &result).check().ok();
    });
}

#[test]
fn the_references_pods_pass() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        let config = config(&[tcp(8080, 80), udp(53, 53), at("192.0.2.1", tcp(443, 443))]);
        host.reference("portmap").pod(&pod).config_with(&config, &result).add().ok();
        call(&host, &pod, &config, &result).check().ok();
        host.run("iptables -t nat -D PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT");
        call(&host, &pod, &config, &result).check().failure();
    });
}
