//! The state of a host, as independent readers print it, in lines that can be compared.
//!
//! Left out is what differs from call to call although nothing was left: indices, handles, counters, timers,
//! carrier, the kernel's own link-local addresses, how far the store's cursors have got, when what was swept.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::{Map, Value};

use crate::{Host, Place, Pod, host::SCRATCH, kernel::Part};

/// Lines, each starting with what it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot(BTreeSet<String>);

/// Lines as they are found: of two that are equal, as two rules may be, the second says so.
#[derive(Default)]
struct Lines(BTreeSet<String>);

impl Lines {
    fn insert(&mut self, mut line: String) {
        while self.0.contains(&line) {
            line += " (again)";
        }
        self.0.insert(line);
    }
}

impl Snapshot {
    /// Of now.
    pub fn of(host: &Host) -> Self {
        let mut lines = Lines::default();
        addresses_and_routes(host, &mut lines);
        qdiscs(host, &mut lines);
        nftables(host, &mut lines);
        iptables(host, &mut lines);
        for name in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            lines.insert(format!("sysctl {name} = {:?}", host.read(&format!("/proc/sys/{name}"))));
        }
        host.enter(|| {
            for folder in ["/run", "/var/lib/cni"] {
                files(Path::new(folder), &mut lines);
            }
        });
        Self(lines.0)
    }

    /// Of now, with what plugins change in this pod's links.
    pub fn with_pod(host: &Host, pod: &Pod) -> Self {
        let mut lines = Lines::default();
        links(pod.json("ip -d -j address"), &mut lines);
        qdiscs(pod, &mut lines);
        if let Some(value) = pod.read(&format!("/proc/sys/net/ipv4/conf/{}/arp_filter", pod.ifname)) {
            lines.insert(format!("sysctl arp_filter {value}"));
        }
        let mut all = Self::of(host);
        all.0.extend(lines.0.into_iter().map(|line| format!("pod {line}")));
        all
    }

    /// What differs in a later one: a line for each thing that is gone (`-`) or new (`+`). Empty if nothing does.
    pub fn diff(&self, later: &Self) -> String {
        let gone = self.0.difference(&later.0).map(|line| format!("- {line}\n"));
        let new = later.0.difference(&self.0).map(|line| format!("+ {line}\n"));
        gone.chain(new).collect()
    }

    /// [`diff`](Self::diff) without what stays once it was made, also by an ADD that failed: folders, locks and
    /// cursors of the store, lock files. Reservations count.
    pub fn diff_without_skeleton(&self, later: &Self) -> String {
        let diff = self.diff(later);
        let is_skeleton = |line: &str| {
            let path =
                line.contains(" folder /") || line.contains("/last_reserved_ip.") || line.contains("/.oxbridge/");
            path || line.starts_with("+ file /") && line.ends_with(": \"\"")
        };
        diff.lines().filter(|line| !is_skeleton(line)).map(|line| format!("{line}\n")).collect()
    }

    /// # Panics
    /// When some line has one of these texts: shows the lines.
    pub fn assert_lacks<'t>(&self, texts: impl IntoIterator<Item = &'t str>) {
        for text in texts {
            assert!(!self.mentions(text), "{text}: {:?}", self.lines(text).collect::<Vec<_>>());
        }
    }

    /// Whether some line has this text.
    pub fn mentions(&self, text: &str) -> bool {
        self.lines(text).next().is_some()
    }

    /// The lines that have this text.
    pub fn lines<'a>(&'a self, text: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().map(String::as_str).filter(move |line| line.contains(text))
    }
}

/// By one run of `ip`: snapshots are what the tests do most of.
fn addresses_and_routes(host: &Host, lines: &mut Lines) {
    let batch = format!("{SCRATCH}/ip.batch");
    host.write(&batch, "address\nroute show table all\nrule\n");
    let text = host.run(&format!("ip -d -j -batch {batch}"));
    let mut answers = serde_json::Deserializer::from_str(&text).into_iter::<Value>().map(Result::unwrap);
    links(answers.next().unwrap(), lines);
    routes(answers.next().unwrap(), lines);
    policies(4, answers.next().unwrap(), lines);
    if Part::Ipv6.works() {
        policies(6, host.json("ip -6 -d -j rule"), lines);
    }
}

fn links(links: Value, lines: &mut Lines) {
    const CARRIER: [&str; 3] = ["NO-CARRIER", "LOWER_UP", "M-DOWN"];
    for mut link in array(links) {
        let keys = link.as_object_mut().unwrap();
        let name = text(&keys["ifname"]);
        for address in array(keys.remove("addr_info").unwrap_or_default()) {
            if !text(&address["local"]).starts_with("fe80:") {
                let (local, prefix, scope) = (text(&address["local"]), &address["prefixlen"], &address["scope"]);
                lines.insert(format!("address {name} {local}/{prefix} scope {scope}"));
            }
        }
        for key in ["ifindex", "link_index", "link_netnsid", "operstate"] {
            keys.remove(key);
        }
        if let Some(flags) = keys.get_mut("flags").and_then(Value::as_array_mut) {
            flags.retain(|flag| !CARRIER.contains(&flag.as_str().unwrap()));
        }
        for part in ["info_data", "info_slave_data"] {
            if let Some(data) = keys.get_mut("linkinfo").and_then(|info| info.get_mut(part)?.as_object_mut()) {
                data.retain(|key, _| !key.ends_with("_timer"));
            }
        }
        lines.insert(format!("link {name} {link}"));
    }
}

/// Of both families.
fn routes(routes: Value, lines: &mut Lines) {
    for mut route in array(routes) {
        let dst = text(&route["dst"]);
        // The kernel makes these for every link that is up, when it gets to it.
        // Those of the table local go with the addresses, of which there is a line each.
        if !dst.starts_with("fe80:") && !dst.starts_with("ff00:") && route["table"] != "local" {
            route.as_object_mut().unwrap().remove("flags");
            lines.insert(format!("route {route}"));
        }
    }
}

fn policies(family: u8, rules: Value, lines: &mut Lines) {
    for rule in array(rules) {
        lines.insert(format!("rule -{family} {rule}"));
    }
}

/// All but those that a link has by itself.
fn qdiscs(place: &impl Place, lines: &mut Lines) {
    for qdisc in array(place.json("tc -j qdisc show")) {
        let (kind, device) = (text(&qdisc["kind"]), text(&qdisc["dev"]));
        if !["noqueue", "fq_codel", "pfifo_fast", "mq"].contains(&kind.as_str()) {
            lines.insert(format!("qdisc {device} {kind} {}", qdisc["options"]));
        }
    }
}

fn nftables(host: &Host, lines: &mut Lines) {
    for mut object in ruleset(host) {
        forget(&mut object);
        for kind in ["set", "map"] {
            let Some(set) = object.get_mut(kind) else { continue };
            let elements = set.as_object_mut().unwrap().remove("elem").unwrap_or_default();
            let name = format!("{} {} {}", text(&set["family"]), text(&set["table"]), text(&set["name"]));
            // What packets have taught a set counts like their number.
            let learned = name.ends_with("oxbridge ports-hosts");
            for element in array(elements).into_iter().filter(|_| !learned) {
                lines.insert(format!("nft element {name} {element}"));
            }
        }
        lines.insert(format!("nft {object}"));
    }
}

/// The objects of `nft -j list ruleset`.
pub fn ruleset(host: &Host) -> Vec<Value> {
    match host.try_run("nft -j list ruleset") {
        Ok(text) => array(serde_json::from_str::<Value>(&text).unwrap()["nftables"].take()),
        Err(_) if !Part::NfTables.works() => Vec::new(),
        Err(error) => panic!("`nft -j list ruleset`: {error}"),
    }
}

/// Removes handles and counts, wherever they are.
fn forget(value: &mut Value) {
    match value {
        Value::Object(keys) => {
            keys.remove("handle");
            if let Some(counter) = keys.get_mut("counter") {
                *counter = Value::Null;
            }
            keys.values_mut().for_each(forget);
        }
        Value::Array(values) => values.iter_mut().for_each(forget),
        _ => {}
    }
}

fn iptables(host: &Host, lines: &mut Lines) {
    for program in ["iptables-save", "ip6tables-save"] {
        let saved = match host.try_run(program) {
            Ok(saved) => saved,
            // Without x_tables, or without IPv6, there is nothing to be saved; else it fails each time alike.
            Err(error) => {
                lines.insert(format!("{program} fails: {}", error.trim()));
                continue;
            }
        };
        for line in saved.lines().filter(|line| line.starts_with([':', '-'])) {
            let line = line.split(" [").next().unwrap_or(line);
            lines.insert(format!("{program} {line}"));
        }
    }
}

fn files(path: &Path, lines: &mut Lines) {
    let name = path.display().to_string();
    // Stamps, and the lock of those who were disturbed by others.
    let is_stamp = name.starts_with("/run/oxbridge/") && (name.contains("-swept-") || name.contains("/nftables-turn-"));
    if path.starts_with(SCRATCH) || is_stamp || !path.exists() {
        return;
    }
    if path.is_dir() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            files(&entry.path(), lines);
        }
        lines.insert(format!("folder {name}"));
    } else if name.contains("/.") || name.contains("/last_reserved_ip.") {
        // What is inside is the plugin's own affair; that it is there is not.
        lines.insert(format!("file {name}"));
    } else {
        lines.insert(format!("file {name}: {:?}", fs::read_to_string(path).unwrap_or_default()));
    }
}

fn array(value: Value) -> Vec<Value> {
    if let Value::Array(values) = value { values } else { Vec::new() }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// An element of an nftables set or map, and where it is.
#[derive(Debug, Clone)]
pub struct Element {
    /// `set` or `map`.
    pub kind: &'static str,
    /// Family, table and name of the set, as `nft` wants them.
    pub set: String,
    /// The element's own document.
    pub json: Value,
}

/// The elements whose comment (or key) has this text.
pub fn elements(host: &Host, text: &str) -> Vec<Element> {
    let mut found = Vec::new();
    for object in ruleset(host) {
        for kind in ["set", "map"] {
            let Some(set) = object.get(kind).and_then(Value::as_object) else { continue };
            let name = ["family", "table", "name"].map(|key| set[key].as_str().unwrap()).join(" ");
            for json in array(set.get("elem").cloned().unwrap_or_default()) {
                if json.to_string().contains(text) {
                    found.push(Element { kind, set: name.clone(), json });
                }
            }
        }
    }
    found
}

/// The rules and chains of which the document has this text.
pub fn rules(host: &Host, text: &str) -> Vec<Map<String, Value>> {
    let objects = ruleset(host).into_iter().filter_map(|object| {
        let object = object.as_object()?.clone();
        (object.contains_key("rule") || object.contains_key("chain")).then_some(object)
    });
    objects.filter(|object| Value::Object(object.clone()).to_string().contains(text)).collect()
}
