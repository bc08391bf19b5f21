//! What others do to the whole ruleset: what of a pod's network survives it, that CHECK says what does not, and that the
//! next ADD works. The table in `docs/coexistence.md` is what is expected here.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tests::{
    Host, Place, Pod, case,
    chained::Chain,
    config::{self, GATEWAY4, GATEWAY6, with},
    published::{at, mapping},
    traffic::{
        Server, Transport, ask, ask_briefly,
        outside::{HOST4, HOST6, SERVER4, SERVER6},
    },
};

const PUBLISHED: u16 = 8080;
const OUTSIDE: u16 = 7;

/// What an event does, as commands of the host's shell.
#[derive(Debug, Clone, Copy)]
struct Event {
    name: &'static str,
    /// Before the pod is attached.
    before: &'static str,
    commands: &'static str,
    /// What an operator has to do before iptables works again.
    after: &'static str,
}

const EVENTS: [Event; 7] = [
    Event { name: "nft flush ruleset", before: "", commands: "nft flush ruleset", after: "" },
    Event {
        name: "a listed ruleset loaded again",
        before: "",
        commands: "nft list ruleset >/run/test/listed; nft flush ruleset; nft -f /run/test/listed",
        after: "nft flush ruleset",
    },
    Event {
        name: "iptables-restore of a backup",
        before: "iptables-save >/run/test/v4; ip6tables-save >/run/test/v6",
        commands: "iptables-restore /run/test/v4; ip6tables-restore /run/test/v6",
        after: "",
    },
    Event {
        name: "iptables-save and iptables-restore",
        before: "",
        commands: "iptables-save >/run/test/v4; iptables-restore /run/test/v4
                   ip6tables-save >/run/test/v6; ip6tables-restore /run/test/v6",
        after: "",
    },
    Event { name: "iptables -t nat -F", before: "", commands: "iptables -t nat -F", after: "" },
    Event { name: "ip6tables -F", before: "", commands: "ip6tables -F", after: "" },
    Event {
        name: "firewall-cmd --reload",
        before: "nft add table inet firewalld",
        commands: "nft delete table inet firewalld; nft add table inet firewalld",
        after: "",
    },
];

/// A way to have the rules: its plugins, and what stands on the host before.
struct Backend {
    before: &'static str,
    plugins: [Value; 3],
}

/// For each of [`EVENTS`]: what survives of a pod's connections (`P`: published port, `E`: out into the world), and who
/// complains at CHECK.
type Expected = [(&'static str, &'static [&'static str]); 7];

const ALL: &str = "P4 P6 E4 E6";
/// As Docker does.
const DROP: &str = "iptables -P FORWARD DROP; ip6tables -P FORWARD DROP";

fn only_ours() {
    if tests::settings::is_reference() {
        tests::skip("it is about where our plugins have their rules");
    }
}

fn plugins(bridge: Value, portmap: Value, firewall: Value) -> [Value; 3] {
    let pod = [("10.22.0.50/24", GATEWAY4), ("fd00:22::50/64", GATEWAY6)];
    let of = |name: &str| json!({ "cniVersion": "1.0.0", "name": "net", "type": name });
    let ports = json!({ "runtimeConfig": { "portMappings": [mapping(Transport::Tcp, PUBLISHED)] } });
    [
        with(&with(&config::fixed(&pod), json!({ "ipMasq": true })), bridge),
        with(&with(&of("portmap"), ports), portmap),
        with(&of("firewall"), firewall),
    ]
}

/// The same for another pod, with another port.
fn other_pods(plugins: &[Value; 3]) -> Vec<Value> {
    let [mut bridge, mut portmap, firewall] = plugins.clone();
    for (number, address) in ["10.22.0.60/24", "fd00:22::60/64"].into_iter().enumerate() {
        bridge["ipam"]["addresses"][number]["address"] = json!(address);
    }
    portmap["runtimeConfig"]["portMappings"][0]["hostPort"] = json!(PUBLISHED + 1);
    vec![bridge, portmap, firewall]
}

/// Those of these connections that come about: expected ones are waited for.
fn surviving(host: &Host, pod: &Pod, expected: &str) -> String {
    let probe = |name: &str, of: &dyn Fn(bool) -> bool| of(expected.contains(name)).then(|| name.to_owned());
    let outside = host.outside();
    let published = |address| {
        move |waits| {
            let to = at(address, PUBLISHED);
            if waits { ask(outside, Transport::Tcp, to) } else { ask_briefly(outside, Transport::Tcp, to) }.is_some()
        }
    };
    let egress = |address| {
        move |waits| {
            let to = at(address, OUTSIDE);
            if waits { ask(pod, Transport::Udp, to) } else { ask_briefly(pod, Transport::Udp, to) }.is_some()
        }
    };
    [
        probe("P4", &published(HOST4)),
        probe("P6", &published(HOST6)),
        probe("E4", &egress(SERVER4)),
        probe("E6", &egress(SERVER6)),
    ]
    .into_iter()
    .flatten()
    .collect::<Vec<_>>()
    .join(" ")
}

/// Who complains at CHECK.
fn complaints(chain: &Chain<'_>, pod: &Pod, result: &Value) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for plugin in &chain.plugins {
        let reply = chain.call(plugin).pod(pod).config_with(plugin, result).check();
        if !reply.status.success() {
            assert_eq!(reply.failure().code, 999);
            names.insert(plugin["type"].as_str().unwrap().to_owned());
        }
    }
    names
}

fn shell(host: &Host, commands: &str) {
    host.write("/run/test/event.sh", format!("set -e\n{commands}\n"));
    host.run("sh /run/test/event.sh");
}

fn survives(host: &Host, backend: &Backend, expected: &Expected) {
    let _outside = [SERVER4, SERVER6].map(|address| Server::start(host.outside(), "outside", at(address, OUTSIDE)));
    shell(host, backend.before);
    let chain = Chain::new(host, backend.plugins.to_vec());
    let (pod, other) = (host.pod(), host.pod());
    let _server = Server::start(&pod, "pod", at("::", 80));
    let others = Chain::new(host, other_pods(&backend.plugins));
    let mut wrong = String::new();
    for (event, (survivors, complainers)) in EVENTS.into_iter().zip(expected) {
        shell(host, event.before);
        let result = chain.add(&pod);
        assert_eq!(complaints(&chain, &pod, &result), BTreeSet::new(), "before {event:?}");
        assert_eq!(surviving(host, &pod, ALL), ALL, "before {event:?}");
        shell(host, event.commands);
        let found = surviving(host, &pod, survivors);
        let names = complaints(&chain, &pod, &result);
        let expected: BTreeSet<_> = complainers.iter().map(|name| (*name).to_owned()).collect();
        if found != *survivors || names != expected {
            wrong += &format!("\n{}: {found:?}, {names:?} instead of {survivors:?}, {expected:?}", event.name);
        }
        shell(host, event.after);
        shell(host, backend.before);
        // The next ADD mends what all pods share.
        let of_other = others.add(&other);
        let mended = surviving(host, &other, "E4 E6");
        let names = complaints(&others, &other, &of_other);
        if !mended.ends_with("E4 E6") || !names.is_empty() {
            wrong += &format!("\n{}: the next pod has {mended:?}, {names:?}", event.name);
        }
        others.del(&other, &of_other);
        chain.del(&pod, &result);
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn natively() {
    case(|| {
        only_ours();
        let backend = Backend { before: "", plugins: plugins(json!({}), json!({}), json!({})) };
        let nothing: (_, &[_]) = ("", &["bridge", "portmap", "firewall"]);
        let all: (_, &[_]) = (ALL, &[]);
        survives(&Host::new(), &backend, &[nothing, all, all, all, all, all, all]);
    });
}

#[test]
fn natively_beside_an_iptables_that_drops() {
    case(|| {
        only_ours();
        let backend = Backend { before: DROP, plugins: plugins(json!({}), json!({}), json!({})) };
        let nothing: (_, &[_]) = ("", &["bridge", "portmap", "firewall"]);
        let (all, v4, none): ((_, &[_]), (_, &[_]), (_, &[_])) =
            ((ALL, &[]), ("P4 E4", &["firewall"]), ("", &["firewall"]));
        survives(&Host::new(), &backend, &[nothing, (ALL, &["firewall"]), none, all, all, v4, all]);
    });
}

fn iptables() -> [Value; 3] {
    let backend = json!({ "backend": "iptables" });
    plugins(json!({ "ipMasqBackend": "iptables" }), backend.clone(), backend)
}

#[test]
fn with_iptables() {
    case(|| {
        only_ours();
        let nothing: (_, &[_]) = ("", &["bridge", "portmap", "firewall"]);
        let all: (_, &[_]) = (ALL, &[]);
        let expected = [
            nothing,
            ("P4 E4", nothing.1),
            nothing,
            all,
            ("P6 E6", &["bridge", "portmap"]),
            ("P4 E4", &["firewall"]),
            all,
        ];
        survives(&Host::new(), &Backend { before: DROP, plugins: iptables() }, &expected);
    });
}

#[test]
fn with_iptables_of_the_old_kind() {
    case(|| {
        only_ours();
        // Its guard of 127.0.0.0/8 is in our table, and so are the elements that the firewall goes by.
        let flushed: (_, &[_]) = (ALL, &["portmap", "firewall"]);
        let nothing: (_, &[_]) = ("", &["bridge", "portmap", "firewall"]);
        let all: (_, &[_]) = (ALL, &[]);
        let expected = [flushed, all, nothing, all, ("P6 E6", &["bridge", "portmap"]), ("P4 E4", &["firewall"]), all];
        let host = Host::new();
        host.use_legacy_iptables();
        survives(&host, &Backend { before: DROP, plugins: iptables() }, &expected);
    });
}

#[test]
fn a_table_that_iptables_cannot_read_is_said_to_be_one() {
    case(|| {
        only_ours();
        let host = Host::new();
        let chain = Chain::new(&host, iptables().to_vec());
        let (pod, other) = (host.pod(), host.pod());
        let result = chain.add(&pod);
        shell(&host, "nft list ruleset >/run/test/listed; nft flush ruleset; nft -f /run/test/listed");
        let others = Chain::new(&host, other_pods(&iptables()));
        let first = others.call(&others.plugins[0]).pod(&other).config(&others.plugins[0]).add().result();
        let portmap = &others.plugins[1];
        let call = || others.call(portmap).pod(&other).config_with(portmap, &first);
        call().add().failure().is(999, "cannot read its table nat|nft delete table ip nat");
        call().del().ok();
        // What is said to help does.
        shell(&host, "for f in ip ip6; do nft delete table $f nat; done");
        call().add().ok();
        chain.del(&pod, &result);
    });
}
