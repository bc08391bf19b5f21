//! CHECK: whatever single thing of ADD's is gone or changed, the plugin that made it says so and names it, and nobody
//! else does.
//!
//! What there is to be removed is not written down here: it is read from the kernel, after an ADD of the whole chain.
//! What CHECK may pass over, with reasons, is [`IGNORED`].

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tests::{
    Failure, Host, Place, Pod, case,
    chained::{self, Chain},
    config::{self, BRIDGE, STORE, with},
    published,
    snapshot::ruleset,
    traffic::Capture,
};

/// What ADD makes and CHECK does not miss, by a part of the command that removes it, and why it need not.
const IGNORED: &[(&str, &str)] = &[
    ("ports-hosts", "learned from packets, and learned again"),
    (
        "comment=\"to the host in ",
        "portmap's for addresses that the host may get later; they come and go with its links",
    ),
];

/// One thing that goes wrong behind the plugins' backs.
struct Damage {
    /// Commands of the host (`host …`) or the pod (`pod …`).
    commands: Vec<String>,
    /// Who has to notice: the plugins that rely on it.
    by: Vec<&'static str>,
    /// What each of them has to say, in any case: alternatives.
    says: Vec<String>,
    /// A command of the host that mends what the next ADD does not.
    mend: Option<String>,
}

impl Damage {
    fn new(command: impl Into<String>, by: &[&'static str], says: &[&str]) -> Self {
        let says = says.iter().map(|text| text.to_lowercase()).collect();
        Self { commands: vec![command.into()], by: by.to_vec(), says, mend: None }
    }

    fn is_ignored(&self) -> bool {
        IGNORED.iter().any(|(part, _)| self.commands.iter().any(|command| command.contains(part)))
    }

    fn inflict(&self, host: &Host, pod: &Pod) {
        for command in &self.commands {
            match command.split_once(' ').unwrap() {
                ("pod", line) => _ = pod.run(line),
                (_, line) => _ = host.run(line),
            }
        }
    }

    /// What is wrong with what the plugins said; empty if nothing is.
    fn judge(&self, complaints: &[(&'static str, Failure)]) -> String {
        let found: BTreeSet<_> = complaints.iter().map(|(name, _)| *name).collect();
        let expected: BTreeSet<_> = self.by.iter().copied().collect();
        let mut wrong = String::new();
        if found != expected {
            wrong += &format!("\n  {:?}: noticed by {found:?}, expected {expected:?}", self.commands);
        }
        for (name, failure) in complaints.iter().filter(|(name, _)| expected.contains(name)) {
            let text = format!("{} {}", failure.msg, failure.details).to_lowercase();
            let is_named = self.says.is_empty() || self.says.iter().any(|part| text.contains(part));
            if failure.code != 999 || !is_named {
                wrong += &format!("\n  {:?}: {name} names none of {:?}: {failure:?}", self.commands, self.says);
            }
        }
        wrong
    }
}

/// The names of plugins, as they are compared here.
fn name(plugin: &Value) -> &'static str {
    let name = plugin["type"].as_str().unwrap();
    ["bridge", "portmap", "firewall", "tuning", "bandwidth"].into_iter().find(|known| *known == name).unwrap()
}

/// CHECK of every plugin of the chain: who complains, and how.
fn complaints(chain: &Chain<'_>, pod: &Pod, result: &Value) -> Vec<(&'static str, Failure)> {
    let check = |plugin: &Value| {
        let reply = chain.call(plugin).pod(pod).config_with(plugin, result).check();
        (!reply.status.success()).then(|| (name(plugin), reply.failure()))
    };
    chain.plugins.iter().filter_map(check).collect()
}

/// A chain whose `bridge` has these keys, and its `firewall`, with a port of each kind.
fn plugins(bridge: Value, portmap: Value, firewall: Value) -> Vec<Value> {
    let bridge =
        with(&config::dual_stack(), with(&json!({ "ipMasq": true, "macspoofchk": true, "mtu": 1450 }), bridge));
    let portmap = with(&chained::portmap(), portmap);
    vec![bridge, portmap, with(&chained::firewall(), firewall), chained::tuning(), chained::bandwidth()]
}

/// Our chains and sets, by the beginning of their names.
fn maker(name: &str) -> &'static str {
    let of = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
    match name {
        _ if of(&["masq", "pods-", "macspoof"]) => "bridge",
        _ if of(&["ports"]) => "portmap",
        _ if of(&["fw-"]) => "firewall",
        _ => panic!("whose is {name}?"),
    }
}

/// The key of an element as `nft` wants it.
fn key(element: &Value) -> String {
    let element = if element.is_array() { &element[0] } else { element };
    let value = element.get("elem").map_or(element, |element| &element["val"]);
    let parts = value["concat"].as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
    let text = |part: &Value| match part.get("prefix") {
        Some(prefix) => format!("{}/{}", prefix["addr"].as_str().unwrap(), prefix["len"]),
        None => part.as_str().map_or_else(|| part.to_string(), str::to_owned),
    };
    parts.iter().map(text).collect::<Vec<_>>().join(" . ")
}

/// The removal of every rule and every element in our tables, one at a time.
fn in_our_tables(host: &Host) -> Vec<Damage> {
    let mut all = Vec::new();
    for object in ruleset(host) {
        if let Some(rule) = object.get("rule").filter(|rule| rule["table"] == "oxbridge") {
            let [family, chain] = ["family", "chain"].map(|key| rule[key].as_str().unwrap());
            let comment = rule["comment"].as_str().unwrap_or_default();
            let command = format!("host nft delete rule {family} oxbridge {chain} handle {}", rule["handle"]);
            let about = comment.rsplit(' ').next().filter(|word| !word.is_empty()).unwrap_or(chain);
            let mut damage = Damage::new(command, &[maker(chain)], &[chain, about]);
            if comment.starts_with("to the host in ") {
                // Not for the kernel, for the list above.
                damage.commands.push(format!("host true comment=\"{comment}\""));
            }
            all.push(damage);
        }
        for kind in ["set", "map"] {
            let Some(set) = object.get(kind).filter(|set| set["table"] == "oxbridge") else { continue };
            let [family, name] = ["family", "name"].map(|key| set[key].as_str().unwrap());
            for element in set["elem"].as_array().into_iter().flatten() {
                let key = key(element);
                let command = format!("host nft delete element {family} oxbridge {name} {{ {key} }}");
                all.push(Damage::new(command, &[maker(name)], &[name, &key]));
            }
        }
    }
    all
}

/// Commands that put our tables back as they are now.
fn backup(host: &Host) {
    let mut script = String::new();
    for family in ["ip", "ip6", "bridge"] {
        script += &format!("add table {family} oxbridge\ndelete table {family} oxbridge\n");
        script += &host.try_run(&format!("nft list table {family} oxbridge")).unwrap_or_default();
    }
    host.write("/run/test/tables.nft", script);
    for program in ["iptables", "ip6tables"] {
        host.write(&format!("/run/test/{program}.rules"), host.run(&format!("{program}-save")));
    }
}

fn restore(host: &Host) {
    for program in ["iptables", "ip6tables"] {
        host.run(&format!("{program}-restore /run/test/{program}.rules"));
    }
    host.run("nft -f /run/test/tables.nft");
}

/// The removal of every rule of iptables that is ours, one at a time.
fn in_iptables(host: &Host) -> Vec<Damage> {
    let mut all = Vec::new();
    for program in ["iptables", "ip6tables"] {
        let saved = host.run(&format!("{program}-save"));
        let (mut table, mut chain, mut number) = ("", "", 0);
        for line in saved.lines() {
            if let Some(name) = line.strip_prefix('*') {
                (table, chain) = (name, "");
            }
            let Some(rule) = line.strip_prefix("-A ") else { continue };
            let of = rule.split(' ').next().unwrap();
            number = if of == chain { number + 1 } else { 1 };
            chain = of;
            let target = rule.rsplit("-j ").next().unwrap().split(' ').next().unwrap();
            let is_shared = |name: &str| name.starts_with("CNI-HOSTPORT") || name.starts_with("CNI-DN-");
            let maker = match (table, of, target) {
                ("filter", ..) => "firewall",
                (_, of, to) if is_shared(of) || is_shared(to) => "portmap",
                _ => "bridge",
            };
            let command = format!("host {program} -t {table} -D {chain} {number}");
            all.push(Damage::new(command, &[maker], &[of, target]));
        }
    }
    all
}

/// All of a kind at once.
fn at_once(plugins: &[Value], iptables: bool) -> Vec<Damage> {
    let of = |name: &'static str| plugins.iter().any(|plugin| plugin["type"] == name).then_some(name);
    let natives: Vec<_> = ["bridge", "portmap", "firewall"].into_iter().filter_map(of).collect();
    let mut all = vec![Damage::new("host nft flush ruleset", &natives, &[])];
    if iptables {
        for program in ["iptables", "ip6tables"] {
            all.push(Damage::new(format!("host {program} -t nat -F"), &["bridge", "portmap"], &[]));
            all.push(Damage::new(format!("host {program} -F"), &["firewall"], &[]));
        }
    } else {
        for family in ["ip", "ip6"] {
            all.push(Damage::new(format!("host nft delete table {family} oxbridge"), &natives, &[]));
        }
    }
    all
}

/// Removes everything in the ruleset, one thing after the other, from a chain of plugins with these keys.
fn every_rule_is_missed(host: &Host, plugins: Vec<Value>, iptables: bool, least: usize) {
    if tests::settings::is_reference() {
        tests::skip("it is about our tables");
    }
    let pod = host.pod();
    let chain = Chain::new(host, plugins);
    let result = chain.add(&pod);
    backup(host);
    let enumerate = || {
        let mut all = in_our_tables(host);
        all.extend(in_iptables(host));
        all.retain(|damage| !damage.is_ignored());
        all
    };
    let (count, mut wrong) = (enumerate().len(), String::new());
    assert!(count >= least, "only {count}");
    for number in 0..count {
        // Anew: handles change when a rule is made again.
        let damage = enumerate().swap_remove(number);
        wrong += &played(&chain, &pod, &result, &damage);
        restore(host);
    }
    for damage in at_once(&chain.plugins, iptables) {
        wrong += &played(&chain, &pod, &result, &damage);
        restore(host);
    }
    assert!(wrong.is_empty(), "of {count}:{wrong}");
    chain.check(&pod, &result);
    chain.del(&pod, &result);
}

fn played(chain: &Chain<'_>, pod: &Pod, result: &Value, damage: &Damage) -> String {
    damage.inflict(chain.host(), pod);
    damage.judge(&complaints(chain, pod, result))
}

#[test]
fn every_rule_with_same_bridge() {
    case(|| {
        let keys = json!({ "hairpinMode": true });
        every_rule_is_missed(
            &Host::new(),
            plugins(keys, json!({}), json!({ "ingressPolicy": "same-bridge" })),
            false,
            40,
        );
    });
}

#[test]
fn every_rule_with_isolated() {
    case(|| {
        let (keys, ports) = (json!({ "portIsolation": true }), json!({ "masqAll": true }));
        every_rule_is_missed(&Host::new(), plugins(keys, ports, json!({ "ingressPolicy": "isolated" })), false, 40);
    });
}

/// All with their iptables backends.
fn iptables() -> Vec<Value> {
    let iptables = json!({ "backend": "iptables" });
    plugins(json!({ "ipMasqBackend": "iptables" }), iptables.clone(), iptables)
}

#[test]
fn every_rule_of_the_iptables_backends() {
    case(|| every_rule_is_missed(&Host::new(), iptables(), true, 40));
}

#[test]
fn every_rule_of_the_iptables_backends_of_the_old_kind() {
    case(|| {
        let host = Host::new();
        host.use_legacy_iptables();
        every_rule_is_missed(&host, iptables(), true, 40);
    });
}

/// The lines of `ip -j …`, of a pod or (`None`) the host.
fn listed(host: &Host, pod: Option<&Pod>, line: &str) -> Vec<Value> {
    let value = pod.map_or_else(|| host.json(line), |pod| pod.json(line));
    value.as_array().cloned().unwrap_or_default()
}

/// Each address and each route that leads by a link, of a pod or (`None`) the host.
fn addresses_and_routes(host: &Host, pod: Option<&Pod>, link: &str) -> Vec<Damage> {
    let (mut all, place) = (Vec::new(), if pod.is_some() { "pod" } else { "host" });
    let addresses = listed(host, pod, &format!("ip -j address show dev {link}"));
    for address in addresses[0]["addr_info"].as_array().into_iter().flatten().filter(|a| a["scope"] == "global") {
        let address = address["local"].as_str().unwrap().to_owned() + "/" + &address["prefixlen"].to_string();
        all.push(Damage::new(format!("{place} ip address del {address} dev {link}"), &["bridge"], &[&address]));
    }
    for family in [4, 6] {
        for route in listed(host, pod, &format!("ip -{family} -j route show table main")) {
            let (dst, metric) = (route["dst"].as_str().unwrap(), route["metric"].as_u64());
            if route["dev"] != link || dst.starts_with("fe80:") {
                continue;
            }
            let metric = metric.map(|metric| format!(" metric {metric}")).unwrap_or_default();
            let named = if dst == "default" { ["0.0.0.0/0", "::/0"][usize::from(family == 6)] } else { dst };
            let line = format!("{place} ip -{family} route del {dst} dev {link}{metric}");
            let mut damage = Damage::new(line, &["bridge"], &[named]);
            if pod.is_none() {
                damage.mend = Some(format!("ip -{family} route add {dst} dev {link} proto kernel{metric}"));
            }
            all.push(damage);
        }
    }
    all
}

/// What is set on links, in settings and files.
fn in_links_and_files(host: &Host, pod: &Pod, plugins: &[Value], result: &Value) -> Vec<Damage> {
    let port = result["interfaces"][1]["name"].as_str().unwrap();
    let ifb = result["interfaces"].as_array().unwrap().last().unwrap()["name"].as_str().unwrap().to_owned();
    let bridge = &plugins[0];
    let one = |command: String, by: &'static str, says: &str| Damage::new(command, &[by], &[says]);
    let mut all = vec![
        // The pod's end. Its MAC address is what tuning and bridge both answer for.
        Damage::new("pod ip link set eth0 address 02:00:00:00:00:99", &["bridge", "tuning"], &["02:00:00:00:00:99"]),
        Damage::new("pod ip link del eth0", &["bridge", "tuning", "bandwidth"], &["eth0", port]),
        one("pod ip link set eth0 down".to_owned(), "bridge", "eth0"),
        one("pod ip link set eth0 mtu 1399".to_owned(), "tuning", "1399"),
        one("pod ip link set eth0 promisc off".to_owned(), "tuning", "promisc"),
        one("pod ip link set eth0 allmulticast off".to_owned(), "tuning", "all-multicast"),
        one("pod ip link set eth0 txqueuelen 78".to_owned(), "tuning", "78"),
        one("pod sysctl -q -w net.ipv4.conf.eth0.arp_filter=0".to_owned(), "tuning", "arp_filter"),
        // The host's end.
        one(format!("host ip link set {port} down"), "bridge", port),
        one(format!("host ip link set {port} nomaster"), "bridge", BRIDGE),
        one(format!("host ip link set {port} mtu 1440"), "bridge", "1440"),
        // The bridge.
        one(format!("host ip link set {BRIDGE} down"), "bridge", BRIDGE),
        // Bandwidth.
        one(format!("host ip link set {ifb} down"), "bandwidth", &ifb),
        one(format!("host ip link del {ifb}"), "bandwidth", &ifb),
        one(format!("host tc qdisc del dev {port} root"), "bandwidth", port),
        one(format!("host tc qdisc del dev {ifb} root"), "bandwidth", &ifb),
        one(format!("host tc qdisc del dev {port} ingress"), "bandwidth", port),
        one(format!("host tc filter del dev {port} ingress"), "bandwidth", port),
        one(
            format!("host tc qdisc replace dev {ifb} root tbf rate 9mbit burst 200kb latency 25ms"),
            "bandwidth",
            "9000000",
        ),
        one(
            format!(
                "host tc filter add dev {port} ingress protocol all prio 1 handle ::1 u32 match u32 0 0 flowid 1:1"
            ),
            "bandwidth",
            port,
        ),
        // The host's settings.
        one("host sysctl -q -w net.ipv4.ip_forward=0".to_owned(), "bridge", "ip_forward"),
        one("host sysctl -q -w net.ipv6.conf.all.forwarding=0".to_owned(), "bridge", "forwarding"),
        one(format!("host sysctl -q -w net.ipv4.conf.{BRIDGE}.route_localnet=0"), "portmap", "route_localnet"),
    ];
    for (key, option, says) in [("hairpinMode", "hairpin off", "hairpin"), ("portIsolation", "isolated off", "isolat")]
    {
        if bridge[key] == true {
            all.push(one(format!("host bridge link set dev {port} {option}"), "bridge", says));
        } else if key == "portIsolation" {
            all.push(one(format!("host bridge link set dev {port} isolated on"), "bridge", says));
        }
    }
    if bridge["promiscMode"] == true {
        all.push(one(format!("host ip link set {BRIDGE} promisc off"), "bridge", "promisc"));
    }
    for address in pod.addresses() {
        let address = address.split('/').next().unwrap();
        all.push(one(format!("host rm {STORE}/{address}"), "bridge", address));
    }
    all.extend(addresses_and_routes(host, Some(pod), "eth0"));
    all.extend(addresses_and_routes(host, None, BRIDGE));
    all
}

/// Each thing that is not in the ruleset, with a pod of its own: the next ADD has to mend what is the host's.
fn everything_else_is_missed(bridge: Value, firewall: Value) {
    if tests::settings::is_reference() {
        tests::skip("it is about what our plugins say");
    }
    let host = Host::new();
    // With it, portmap answers for hairpin mode, too.
    for name in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
        _ = host.try_run(&format!("sysctl -q -w net.bridge.{name}=0"));
    }
    let chain = Chain::new(&host, plugins(bridge, json!({}), firewall));
    let (mut number, mut wrong) = (0, String::new());
    loop {
        let pod = host.pod();
        let result = chain.add(&pod);
        chain.check(&pod, &result);
        let mut all = in_links_and_files(&host, &pod, &chain.plugins, &result);
        if number == all.len() {
            break;
        }
        let damage = all.swap_remove(number);
        wrong += &played(&chain, &pod, &result, &damage);
        damage.mend.iter().for_each(|command| _ = host.run(command));
        chain.del(&pod, &result);
        number += 1;
    }
    assert!(wrong.is_empty(), "of {number}:{wrong}");
}

#[test]
fn every_link_setting_and_file_with_hairpin() {
    case(|| everything_else_is_missed(json!({ "hairpinMode": true }), json!({})));
}

#[test]
fn every_link_setting_and_file_with_promiscuity() {
    case(|| {
        let keys = json!({ "promiscMode": true, "portIsolation": true, "isDefaultGateway": true });
        everything_else_is_missed(keys, json!({ "ingressPolicy": "same-bridge" }));
    });
}

/// Every config that the tests begin with (those of `conf-examples/` are checked where they are played).
fn configs() -> Vec<Vec<Value>> {
    let bridges = [
        config::bridge(),
        config::dual_stack(),
        config::ipv6_only(),
        config::everything(),
        config::layer2(),
        config::fixed(&[("10.22.0.5/24", "10.22.0.1"), ("fd00:22::5/64", "fd00:22::1")]),
        with(&config::dual_stack(), json!({ "promiscMode": true, "ipMasq": true, "ipMasqBackend": "iptables" })),
        with(&config::dual_stack(), json!({ "mtu": 1400, "portIsolation": true, "enabledad": true })),
        published::other_bridge(&json!({ "ipMasq": true })),
    ];
    let mut all: Vec<_> = bridges.into_iter().map(|bridge| vec![bridge]).collect();
    all.push(chained::everything());
    for policy in ["open", "same-bridge", "isolated"] {
        all.push(plugins(json!({}), json!({ "masqAll": true }), json!({ "ingressPolicy": policy })));
    }
    all.push(iptables());
    let tuning = json!({ "type": "tuning", "sysctl": { "net.ipv4.conf.IFNAME.arp_filter": "1 2",
                         "net.ipv4.ip_local_port_range": "2000 3000" } });
    all.push(vec![config::dual_stack(), with(&chained::tuning(), tuning)]);
    all.push(vec![config::bridge(), with(&chained::bandwidth(), json!({ "egressRate": null, "egressBurst": null }))]);
    all
}

#[test]
fn every_config_passes_right_after_add_whoever_looks_at_packets() {
    case(|| {
        let host = Host::new();
        for plugins in configs() {
            let pod = host.pod();
            let before = Capture::of(&host);
            let chain = Chain::new(&host, plugins);
            let result = chain.add(&pod);
            chain.check(&pod, &result);
            let _captures = (before, Capture::of(&host), Capture::of(&pod));
            chain.check(&pod, &result);
            chain.del(&pod, &result);
        }
    });
}
