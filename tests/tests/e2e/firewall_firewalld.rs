//! firewalld: a real bus of the test's own, and on it something that answers as firewalld does.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    os::unix::{net::UnixListener, net::UnixStream, process::CommandExt},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tests::{Host, Place, case, config::with, traffic::assert_reaches, traffic::outside::SERVER4};

use crate::firewall::{Chain, address, elements, rules};

const SOCKET: &str = "/run/dbus/system_bus_socket";
const CONFIG: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <policy context="default">
    <allow user="*"/><allow own="*"/><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/>
  </policy>
</busconfig>
"#;

/// A system bus in the host's own `/run`; ends with this value.
struct Bus(Child);

impl Bus {
    /// Skips the test where there is no `dbus-daemon`.
    fn start(host: &Host) -> Self {
        host.write("/run/test/bus.conf", CONFIG);
        host.run("mkdir -p /run/dbus");
        let child = host.enter(|| {
            let mut daemon = Command::new("dbus-daemon");
            daemon.args(["--config-file=/run/test/bus.conf", "--nofork", "--nopidfile", "--nosyslog"]);
            daemon.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).spawn()
        });
        let Ok(child) = child else { tests::skip("there is no dbus-daemon (package dbus)") };
        let bus = Self(child);
        wait_until(|| host.exists(SOCKET));
        bus
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

fn wait_until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "it takes too long");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Sources with their zones.
type Sources = Arc<Mutex<BTreeMap<String, String>>>;

/// Joins the bus as firewalld, with zones `trusted` and `public`; goes when the bus does.
fn firewalld(host: &Host) -> Sources {
    let sources = Sources::default();
    let of_service = Arc::clone(&sources);
    let mut bus = Peer::join(host.enter(|| UnixStream::connect(SOCKET).unwrap()));
    thread::spawn(move || {
        while let Some(call) = bus.receive() {
            if call.is_call {
                let answer = answer(&call, &mut of_service.lock().unwrap());
                bus.reply(&call, answer);
            }
        }
    });
    sources
}

/// As `firewall/core/fw_zone.py` and `firewall/server/firewalld.py` answer. Error: what its exception says.
fn answer(call: &Incoming, sources: &mut BTreeMap<String, String>) -> Result<Value, String> {
    if let ("getZoneOfSource", [source]) = (call.member.as_str(), &call.texts[..]) {
        return Ok(sources.get(source).cloned().unwrap_or_default().into());
    }
    let [zone, source] = &call.texts[..] else { return Err(format!("what is {}?", call.member)) };
    if !["trusted", "public"].contains(&zone.as_str()) {
        return Err(format!("INVALID_ZONE: {zone}"));
    }
    match (call.member.as_str(), sources.get(source)) {
        ("querySource", has) => return Ok((has == Some(zone)).into()),
        ("addSource", Some(has)) if has == zone => return Err(format!("ZONE_ALREADY_SET: '{source}' in '{zone}'")),
        ("removeSource", None) => return Err(format!("UNKNOWN_SOURCE: '{source}' is not in any zone")),
        (_, Some(has)) if has != zone => return Err(format!("ZONE_CONFLICT: '{source}' already bound to a zone")),
        ("addSource", _) => _ = sources.insert(source.clone(), zone.clone()),
        ("removeSource", _) => _ = sources.remove(source),
        _ => return Err(format!("what is {}?", call.member)),
    }
    Ok(zone.clone().into())
}

/// A program on the bus, as far as it takes to be called with texts. The bus refuses who does not keep to the format.
struct Peer(UnixStream);

/// A message with texts, or none.
struct Incoming {
    is_call: bool,
    serial: u32,
    sender: String,
    member: String,
    texts: Vec<String>,
}

impl Peer {
    fn join(mut stream: UnixStream) -> Self {
        stream.write_all(b"\0AUTH EXTERNAL 30\r\n").unwrap();
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            line.push(byte[0]);
        }
        assert!(line.starts_with(b"OK"), "{}", String::from_utf8_lossy(&line));
        stream.write_all(b"BEGIN\r\n").unwrap();
        let mut peer = Self(stream);
        let bus = "org.freedesktop.DBus";
        let to_bus = |member| [(1, 'o', "/org/freedesktop/DBus"), (2, 's', bus), (3, 's', member), (6, 's', bus)];
        peer.send(1, &to_bus("Hello"), None, "", &[]);
        peer.send(1, &to_bus("RequestName"), None, "su", &{
            let mut body = text("org.fedoraproject.FirewallD1");
            body.resize(body.len().next_multiple_of(4) + 4, 0);
            body
        });
        // Hello's answer, the two names' signals, and the answer that the name is its own.
        for _ in 0..4 {
            assert!(!peer.receive().unwrap().is_call);
        }
        peer
    }

    fn reply(&mut self, call: &Incoming, answer: Result<Value, String>) {
        let to = (6, 's', call.sender.as_str());
        let serial = Some(call.serial);
        match answer {
            Ok(Value::Bool(yes)) => self.send(2, &[to], serial, "b", &u32::from(yes).to_le_bytes()),
            Ok(value) => self.send(2, &[to], serial, "s", &text(value.as_str().unwrap())),
            Err(said) => {
                let name = (4, 's', "org.fedoraproject.FirewallD1.Exception");
                self.send(3, &[to, name], serial, "s", &text(&said));
            }
        }
    }

    fn send(&mut self, kind: u8, fields: &[(u8, char, &str)], of: Option<u32>, signature: &str, body: &[u8]) {
        let mut list = Vec::new();
        for (code, of_type, value) in fields {
            list.resize(list.len().next_multiple_of(8), 0);
            list.extend([*code, 1, *of_type as u8, 0]);
            list.extend(text(value));
        }
        if let Some(serial) = of {
            list.resize(list.len().next_multiple_of(8), 0);
            list.extend([5, 1, b'u', 0]);
            list.extend(serial.to_le_bytes());
        }
        if !signature.is_empty() {
            list.resize(list.len().next_multiple_of(8), 0);
            list.extend([8, 1, b'g', 0, u8::try_from(signature.len()).unwrap()]);
            list.extend(signature.bytes().chain([0]));
        }
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap().to_le_bytes();
        let mut message = vec![b'l', kind, 0, 1];
        message.extend(length(body));
        message.extend(7_u32.to_le_bytes());
        message.extend(length(&list));
        message.extend(list);
        message.resize(message.len().next_multiple_of(8), 0);
        message.extend(body);
        _ = self.0.write_all(&message);
    }

    /// `None`: the bus has ended.
    fn receive(&mut self) -> Option<Incoming> {
        let mut fixed = [0; 16];
        self.0.read_exact(&mut fixed).ok()?;
        assert_eq!(fixed[0], b'l', "the machine's own byte order");
        let fields_len = number(&fixed, 12);
        let mut rest = vec![0; fields_len.next_multiple_of(8) + number(&fixed, 4)];
        self.0.read_exact(&mut rest).ok()?;
        let body = rest.split_off(fields_len.next_multiple_of(8));
        let mut incoming = Incoming {
            is_call: fixed[1] == 1,
            serial: u32::from_le_bytes(fixed[8..12].try_into().unwrap()),
            sender: String::new(),
            member: String::new(),
            texts: Vec::new(),
        };
        let (mut at, mut texts) = (0, 0);
        while at < fields_len {
            at = at.next_multiple_of(8);
            let (code, of_type) = (rest[at], rest[at + 2]);
            at += 4;
            match of_type {
                b'g' => {
                    texts = rest[at + 1..][..usize::from(rest[at])].iter().filter(|c| **c == b's').count();
                    at += usize::from(rest[at]) + 2;
                }
                b'u' => at += 4,
                _ => {
                    let value = text_at(&rest, at);
                    at += value.len() + 5;
                    match code {
                        3 => incoming.member = value,
                        7 => incoming.sender = value,
                        _ => {}
                    }
                }
            }
        }
        let mut at = 0_usize;
        for _ in 0..texts {
            at = at.next_multiple_of(4);
            incoming.texts.push(text_at(&body, at));
            at += incoming.texts.last().unwrap().len() + 5;
        }
        Some(incoming)
    }
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = u32::try_from(text.len()).unwrap().to_le_bytes().to_vec();
    bytes.extend(text.bytes().chain([0]));
    bytes
}

fn text_at(bytes: &[u8], at: usize) -> String {
    String::from_utf8(bytes[at + 4..][..number(bytes, at)].to_vec()).unwrap()
}

fn number(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()).try_into().unwrap()
}

fn list(sources: &Sources) -> Vec<String> {
    sources.lock().unwrap().iter().map(|(source, zone)| format!("{source} {zone}")).collect()
}

fn in_zone(result: &Value, zone: &str) -> Vec<String> {
    let mut all = vec![format!("{}/32 {zone}", address(result, 4)), format!("{}/128 {zone}", address(result, 6))];
    all.sort();
    all
}

#[test]
fn its_zone_gets_the_pods_addresses_and_loses_them() {
    case(|| {
        let host = Host::new();
        let _bus = Bus::start(&host);
        let sources = firewalld(&host);
        for keys in [json!({}), json!({ "backend": "firewalld" }), json!({ "firewalldZone": "public" })] {
            let zone = keys["firewalldZone"].as_str().unwrap_or("trusted").to_owned();
            let chain = Chain::new(&host, keys);
            let pod = host.pod();
            let result = chain.add(&pod);
            assert_eq!(list(&sources), in_zone(&result, &zone));
            // Again: what is there already is no error.
            chain.call(&pod, &result).add().ok();
            chain.call(&pod, &result).check().ok();
            chain.call(&pod, &result).env("PATH", "").del().ok();
            assert_eq!(list(&sources), [""; 0]);
            chain.call(&pod, &result).del().ok();
            assert!(elements(&host, "ip", "fw-firewalld").is_empty());
        }
    });
}

#[test]
fn del_knows_the_sources_without_a_result_or_the_same_config() {
    case(|| {
        let host = Host::new();
        let _bus = Bus::start(&host);
        let sources = firewalld(&host);
        let chain = Chain::new(&host, json!({}));
        let (pod, other) = (host.pod(), host.pod());
        chain.add(&pod);
        let other_result = chain.add(&other);
        chain.with(json!({ "backend": "nftables", "firewalldZone": "public" })).bare(&pod).netns("").del().ok();
        assert_eq!(list(&sources), in_zone(&other_result, "trusted"));
        let keys = json!({ "cniVersion": "1.1.0", "cni.dev/valid-attachments": [] });
        host.plugin("firewall").verb("GC").config(&with(&chain.firewall, keys)).run().ok();
        assert_eq!(list(&sources), [""; 0]);
    });
}

#[test]
fn a_late_del_leaves_the_source_to_the_new_pod() {
    case(|| {
        let host = Host::new();
        let _bus = Bus::start(&host);
        let sources = firewalld(&host);
        let chain = Chain::new(&host, json!({}));
        let (old, new) = (host.pod(), host.pod());
        let result = chain.add(&old);
        // The same address, of another pod.
        chain.call(&new, &result).add().ok();
        chain.call(&old, &result).del().ok();
        assert_eq!(list(&sources), in_zone(&result, "trusted"));
        chain.bare(&new).del().ok();
        assert_eq!(list(&sources), [""; 0]);
    });
}

#[test]
fn check_looks_at_the_answer() {
    case(|| {
        let host = Host::new();
        let _bus = Bus::start(&host);
        let sources = firewalld(&host);
        let chain = Chain::new(&host, json!({}));
        let pod = host.pod();
        let result = chain.add(&pod);
        // `firewall-cmd --reload`
        sources.lock().unwrap().clear();
        chain.call(&pod, &result).check().failure().is(999, "trusted|in none");
        chain.call(&pod, &result).add().ok();
        chain.call(&pod, &result).check().ok();
    });
}

#[test]
fn a_source_that_somebody_has_put_elsewhere_stays_there() {
    case(|| {
        let host = Host::new();
        let _bus = Bus::start(&host);
        let sources = firewalld(&host);
        let chain = Chain::new(&host, json!({}));
        let pod = host.pod();
        let result = chain.connect(&pod);
        let theirs = format!("{}/32", address(&result, 4));
        sources.lock().unwrap().insert(theirs.clone(), "public".to_owned());
        let reply = chain.call(&pod, &result).add();
        assert!(reply.ok().stderr.contains("\"public\""), "{reply}");
        chain.call(&pod, &result).check().ok();
        chain.call(&pod, &result).del().ok();
        assert_eq!(list(&sources), [format!("{theirs} public")]);
    });
}

#[test]
fn a_zone_that_is_none_undoes_everything() {
    case(|| {
        let host = Host::new();
        let _bus = Bus::start(&host);
        let sources = firewalld(&host);
        Chain::new(&host, json!({})).warm_up();
        let chain = Chain::new(&host, json!({ "firewalldZone": "none" }));
        let pod = host.pod();
        let result = chain.connect(&pod);
        let before = host.snapshot();
        chain.call(&pod, &result).add().failure().is(999, "INVALID_ZONE|\"none\"");
        host.assert_as(&before);
        // The first of two addresses is in, the second is refused by somebody's rule; all goes back.
        let full = chain.with(json!({ "firewalldZone": "trusted" }));
        let reply = full.call(&pod, &result).stdout(tests::plugin::full()).add();
        assert!(!reply.status.success());
        host.assert_as(&before);
        assert_eq!(list(&sources), [""; 0]);
    });
}

#[test]
fn what_the_reference_added_is_removed_by_ours() {
    case(|| {
        let host = Host::new();
        let _bus = Bus::start(&host);
        let sources = firewalld(&host);
        let chain = Chain::new(&host, json!({}));
        let (pod, ours) = (host.pod(), host.pod());
        let result = chain.connect(&pod);
        host.reference("firewall").pod(&pod).config_with(&chain.firewall, &result).add().ok();
        assert_eq!(list(&sources), in_zone(&result, "trusted"));
        let our_result = chain.add(&ours);
        chain.call(&pod, &result).check().ok();
        chain.call(&pod, &result).del().ok();
        assert_eq!(list(&sources), in_zone(&our_result, "trusted"));
    });
}

#[test]
fn where_docker_drops_too_the_pod_is_let_in_at_both() {
    case(|| {
        let host = Host::new();
        host.outside();
        let _bus = Bus::start(&host);
        let sources = firewalld(&host);
        host.run("iptables -P FORWARD DROP");
        // firewalld's own tables are its own affair.
        host.run("nft add table inet firewalld_policy_drop");
        host.run(
            "nft add chain inet firewalld_policy_drop filter_forward { type filter hook forward priority 9 ; policy drop ; }",
        );
        let chain = Chain::new(&host, json!({}));
        let pod = host.pod();
        let result = chain.add(&pod);
        host.run("nft delete table inet firewalld_policy_drop");
        assert_reaches(&pod, SERVER4);
        assert_eq!(list(&sources).len(), 2);
        assert_eq!(rules(&host, "iptables", crate::firewall::CHAIN).len(), 4);
        chain.bare(&pod).del().ok();
        assert_eq!(list(&sources), [""; 0]);
        let said = chain.with(json!({ "backend": "firewalld" })).call(&pod, &result).add();
        assert!(said.ok().stderr.contains("ip filter FORWARD"), "{said}");
    });
}

#[test]
fn without_it_the_host_decides_and_by_name_it_is_an_error() {
    case(|| {
        let host = Host::new();
        let chain = Chain::new(&host, json!({ "backend": "firewalld" }));
        let pod = host.pod();
        let result = chain.connect(&pod);
        chain.call(&pod, &result).add().failure().is(999, "firewalld|system_bus_socket");
        chain.call(&pod, &result).del().ok();
        let _bus = Bus::start(&host);
        chain.call(&pod, &result).add().failure().is(999, "firewalld|NameHasNoOwner");
        chain.call(&pod, &result).del().ok();
        let auto = chain.with(json!({ "backend": null }));
        auto.call(&pod, &result).add().ok();
        auto.call(&pod, &result).check().ok();
        assert!(elements(&host, "ip", "fw-firewalld").is_empty());
        // It is stopped between ADD and DEL: its sources are gone with it.
        drop(_bus);
        auto.bare(&pod).del().ok();
        assert!(elements(&host, "ip", "fw-pods").is_empty());
    });
}

#[test]
fn the_bus_is_where_the_environment_says() {
    case(|| {
        let host = Host::new();
        let _bus = Bus::start(&host);
        let sources = firewalld(&host);
        host.run(&format!("mv {SOCKET} /run/test/bus"));
        let chain = Chain::new(&host, json!({ "backend": "firewalld" }));
        let pod = host.pod();
        let result = chain.connect(&pod);
        let call =
            || chain.call(&pod, &result).env("DBUS_SYSTEM_BUS_ADDRESS", "tcp:host=x;unix:path=%2frun/test/bus,guid=0");
        call().add().ok();
        assert_eq!(list(&sources).len(), 2);
        call().del().ok();
        assert_eq!(list(&sources), [""; 0]);
    });
}

#[test]
fn a_bus_that_never_answers_is_not_waited_for_long() {
    case(|| {
        let host = Host::new();
        host.run("mkdir -p /run/dbus");
        // It takes connections, and that is all.
        let _silent = host.enter(|| UnixListener::bind(SOCKET).unwrap());
        let chain = Chain::new(&host, json!({}));
        let pod = host.pod();
        let result = chain.connect(&pod);
        let reply = chain.call(&pod, &result).add();
        reply.failure().is(11, "firewalld|no answer");
        assert!(reply.time < Duration::from_secs(13), "{:?}", reply.time);
        // No pod of ours has a source there: nobody is asked.
        let reply = chain.bare(&pod).del();
        reply.ok();
        assert!(reply.time < Duration::from_secs(2), "{:?}", reply.time);
    });
}
