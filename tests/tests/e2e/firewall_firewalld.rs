//! firewalld: a real bus of the test's own, and on it something that answers as firewalld does.

use std::{
    collections::BTreeMap,
    fs::File,
    os::fd::{AsRawFd, OwnedFd},
    os::unix::{net::UnixListener, net::UnixStream, process::CommandExt},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
use serde_json::{Value, json};
use tests::{Host, Place, case, config::with, settings, skip, traffic::assert_reaches, traffic::outside::SERVER4};
use zbus::{
    blocking::{MessageIterator, connection},
    message,
};

use crate::firewall::{Chain, address, elements, rules};
use crate::sweep::make_due;

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

/// A system bus in the host's own `/run`; ends with this value, and leaves its socket behind.
struct Bus(Child);

impl Bus {
    /// Skips the test where there is no `dbus-daemon`.
    fn start(host: &Host) -> Self {
        Self::with_policy(host, "")
    }

    /// What is denied is refused with `AccessDenied`.
    fn with_policy(host: &Host, denied: &str) -> Self {
        host.write("/run/test/bus.conf", CONFIG.replace("</policy>", &format!("{denied}</policy>")));
        host.run("mkdir -p /run/dbus");
        host.run(&format!("rm -f {SOCKET}"));
        let child = host.enter(|| {
            let mut daemon = Command::new("dbus-daemon");
            daemon.args(["--config-file=/run/test/bus.conf", "--nofork", "--nopidfile", "--nosyslog"]);
            daemon.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).spawn()
        });
        let Ok(child) = child else { tests::skip("there is no dbus-daemon (package dbus)") };
        let bus = Self(child);
        wait_until(|| host.enter(|| UnixStream::connect(SOCKET).is_ok()));
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

/// Joins the bus as firewalld, with zones `trusted`, `public` and `mute`, into which it adds without end; goes when the
/// bus does.
fn firewalld(host: &Host) -> Sources {
    let sources = Sources::default();
    join(host, Arc::clone(&sources), Duration::ZERO);
    sources
}

/// The same with these sources; each answer takes that long.
fn join(host: &Host, sources: Sources, answers_after: Duration) {
    let stream = host.enter(|| UnixStream::connect(SOCKET).unwrap());
    let bus = connection::Builder::async_io_unix_stream(stream).build().unwrap();
    let calls = MessageIterator::from(&bus);
    bus.request_name("org.fedoraproject.FirewallD1").unwrap();
    thread::spawn(move || {
        for call in calls.flatten().filter(|message| message.message_type() == message::Type::MethodCall) {
            thread::sleep(answers_after);
            let (header, body) = (call.header(), call.body());
            let texts = body.deserialize::<(String, String)>().map(|(first, second)| vec![first, second]);
            let texts = texts.or_else(|_| body.deserialize().map(|only: String| vec![only])).unwrap_or_default();
            let member = header.member().unwrap().as_str();
            _ = match answer(member, &texts, &mut sources.lock().unwrap()) {
                Ok(Value::Null) => Ok(()),
                Ok(Value::Bool(yes)) => bus.reply(&header, &yes),
                Ok(value) => bus.reply(&header, &value.as_str().unwrap()),
                Err(said) => bus.reply_error(&header, "org.fedoraproject.FirewallD1.Exception", &said),
            };
        }
    });
}

/// As `firewall/core/fw_zone.py` and `firewall/server/firewalld.py` answer. Error: what its exception says; null: it
/// does not answer.
fn answer(member: &str, texts: &[String], sources: &mut BTreeMap<String, String>) -> Result<Value, String> {
    if let ("getZoneOfSource", [source]) = (member, texts) {
        return Ok(sources.get(source).cloned().unwrap_or_default().into());
    }
    let [zone, source] = texts else { return Err(format!("what is {member}?")) };
    if !["trusted", "public", "mute"].contains(&zone.as_str()) {
        return Err(format!("INVALID_ZONE: {zone}"));
    }
    match (member, sources.get(source)) {
        ("querySource", has) => return Ok((has == Some(zone)).into()),
        ("addSource", None) if zone == "mute" => return Ok(Value::Null),
        ("addSource", Some(has)) if has == zone => return Err(format!("ZONE_ALREADY_SET: '{source}' in '{zone}'")),
        ("removeSource", None) => return Err(format!("UNKNOWN_SOURCE: '{source}' is not in any zone")),
        (_, Some(has)) if has != zone => return Err(format!("ZONE_CONFLICT: '{source}' already bound to a zone")),
        ("addSource", _) => _ = sources.insert(source.clone(), zone.clone()),
        ("removeSource", _) => _ = sources.remove(source),
        _ => return Err(format!("what is {member}?")),
    }
    Ok(zone.clone().into())
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
fn sources_of_a_pod_that_ended_without_a_del_go_at_a_later_add() {
    case(|| {
        if settings::is_reference() {
            skip("the reference has nothing of the kind");
        }
        let host = Host::new();
        let _bus = Bus::start(&host);
        let sources = firewalld(&host);
        let chain = Chain::new(&host, json!({}));
        let (gone, next) = (host.pod(), host.pod());
        chain.add(&gone);
        drop(gone);
        host.wait_for_ports(0);
        make_due(&host);
        let result = chain.add(&next);
        assert_eq!(list(&sources), in_zone(&result, "trusted"));
        assert_eq!(elements(&host, "ip", "fw-firewalld"), [address(&result, 4)]);
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
        // Nothing of the pod is there: nobody is asked.
        drop(_bus);
        auto.bare(&pod).del().ok();
        assert!(elements(&host, "ip", "fw-pods").is_empty());
    });
}

#[test]
fn what_was_stopped_has_forgotten_its_sources() {
    case(|| {
        let host = Host::new();
        let chain = Chain::new(&host, json!({}));
        for has_bus in [false, true] {
            let bus = Bus::start(&host);
            let sources = firewalld(&host);
            let pod = host.pod();
            chain.add(&pod);
            assert_eq!(list(&sources).len(), 2);
            drop(bus);
            let _bus = if has_bus { Some(Bus::start(&host)) } else { None };
            if !has_bus {
                host.run(&format!("rm {SOCKET}"));
            }
            chain.bare(&pod).del().ok();
            assert!(elements(&host, "ip", "fw-firewalld").is_empty());
        }
    });
}

#[test]
fn del_keeps_what_it_cannot_ask_for() {
    case(|| {
        let host = Host::new();
        let bus = Bus::start(&host);
        let sources = firewalld(&host);
        let chain = Chain::new(&host, json!({}));
        let pod = host.pod();
        let result = chain.add(&pod);
        let stale = json!({ "cniVersion": "1.1.0", "cni.dev/valid-attachments": [] });
        let gc = || host.plugin("firewall").verb("GC").config(&with(&chain.firewall, stale.clone())).run();
        let is_kept = || {
            assert_eq!(elements(&host, "ip", "fw-firewalld"), [address(&result, 4)]);
            assert_eq!(elements(&host, "ip6", "fw-firewalld"), [address(&result, 6)]);
        };
        // A socket at which nobody listens: a bus that has died.
        drop(bus);
        chain.bare(&pod).del().failure().is(999, "whether firewalld runs|refused");
        gc().failure().is(999, "whether firewalld runs");
        is_kept();
        // A bus that does not say who is there.
        let bus =
            Bus::with_policy(&host, r#"<deny send_interface="org.freedesktop.DBus" send_member="GetNameOwner"/>"#);
        chain.bare(&pod).del().failure().is(999, "whether firewalld runs|AccessDenied");
        is_kept();
        // One that does not let the question through.
        drop(bus);
        let bus = Bus::with_policy(
            &host,
            r#"<deny send_interface="org.fedoraproject.FirewallD1.zone" send_member="removeSource"/>"#,
        );
        join(&host, Arc::clone(&sources), Duration::ZERO);
        chain.bare(&pod).del().failure().is(999, "failed to take|AccessDenied");
        is_kept();
        drop(bus);
        let _bus = Bus::start(&host);
        join(&host, Arc::clone(&sources), Duration::ZERO);
        chain.bare(&pod).del().ok();
        assert_eq!(list(&sources), [""; 0]);
        assert!(elements(&host, "ip", "fw-firewalld").is_empty());
    });
}

#[test]
fn add_without_an_answer_is_told() {
    case(|| {
        let host = Host::new();
        let _bus =
            Bus::with_policy(&host, r#"<deny send_interface="org.freedesktop.DBus" send_member="GetNameOwner"/>"#);
        let chain = Chain::new(&host, json!({}));
        let pod = host.pod();
        let result = chain.connect(&pod);
        let reply = chain.call(&pod, &result).add();
        assert!(reply.ok().stderr.contains("whether firewalld runs"), "{reply}");
        let explicit = chain.with(json!({ "backend": "firewalld" }));
        explicit.call(&pod, &result).add().failure().is(999, "firewalld|AccessDenied");
    });
}

#[test]
fn an_administrators_own_source_is_not_taken_over() {
    case(|| {
        let host = Host::new();
        let _bus = Bus::start(&host);
        let sources = firewalld(&host);
        let chain = Chain::new(&host, json!({}));
        let pod = host.pod();
        let result = chain.connect(&pod);
        let theirs = format!("{}/32", address(&result, 4));
        sources.lock().unwrap().insert(theirs.clone(), "trusted".to_owned());
        let call = || chain.call(&pod, &result);
        assert!(!call().stdout(tests::plugin::full()).add().status.success());
        assert_eq!(list(&sources), [format!("{theirs} trusted")]);
        call().add().ok();
        call().add().ok();
        call().check().ok();
        call().del().ok();
        assert_eq!(list(&sources), [format!("{theirs} trusted")]);
    });
}

#[test]
fn a_source_that_was_moved_since_stays_there() {
    case(|| {
        let host = Host::new();
        let _bus = Bus::start(&host);
        let sources = firewalld(&host);
        let chain = Chain::new(&host, json!({}));
        let pod = host.pod();
        let result = chain.add(&pod);
        let moved = format!("{}/32", address(&result, 4));
        sources.lock().unwrap().insert(moved.clone(), "public".to_owned());
        chain.bare(&pod).del().ok();
        assert_eq!(list(&sources), [format!("{moved} public")]);
        assert!(elements(&host, "ip", "fw-firewalld").is_empty());
    });
}

#[test]
fn status_knows_the_zones() {
    case(|| {
        let host = Host::new();
        let _bus = Bus::start(&host);
        let _sources = firewalld(&host);
        let status = |zone: &str| {
            let keys = json!({ "cniVersion": "1.1.0", "firewalldZone": zone });
            host.plugin("firewall").verb("STATUS").config(&with(&crate::firewall::config(), keys)).run()
        };
        status("public").ok();
        status("nosuch").failure().is(50, "\"nosuch\"|INVALID_ZONE|--get-zones");
    });
}

#[test]
fn a_firewalld_that_hangs_is_named_with_what_it_did_not_answer() {
    case(|| {
        let host = Host::new();
        let _bus = Bus::start(&host);
        let sources = firewalld(&host);
        let chain = Chain::new(&host, json!({ "firewalldZone": "mute" }));
        let pod = host.pod();
        let result = chain.connect(&pod);
        let reply = chain.call(&pod, &result).add();
        reply.failure().is(11, "into its zone \"mute\"|addSource within 10s|hangs|systemctl status firewalld dbus");
        assert!(reply.time < Duration::from_secs(13), "{:?}", reply.time);
        assert_eq!(list(&sources), [""; 0]);
        assert!(elements(&host, "ip", "fw-firewalld").is_empty());
    });
}

#[test]
fn waiting_for_other_calls_takes_nothing_from_firewallds_time() {
    case(|| {
        let host = Host::new();
        let _bus = Bus::start(&host);
        let sources = Sources::default();
        join(&host, Arc::clone(&sources), Duration::from_millis(950));
        let chain = Chain::new(&host, json!({}));
        let (first, pod) = (host.pod(), host.pod());
        chain.add(&first);
        let result = chain.connect(&pod);
        let files = host.files("/run/oxbridge");
        let path = format!("/run/oxbridge/{}", files.iter().find(|name| name.starts_with("firewall-")).unwrap());
        let lock = host.enter(|| Flock::lock(File::open(&path).unwrap(), FlockArg::LockExclusive).unwrap());
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(7000));
            drop(lock);
        });
        let reply = chain.call(&pod, &result).add();
        reply.ok();
        assert!(reply.time > Duration::from_secs(10), "{:?}", reply.time);
        assert_eq!(list(&sources).len(), 4);
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

#[test]
fn a_bus_that_takes_no_connection_is_not_waited_for_long() {
    case(|| {
        let host = Host::new();
        let bus = Bus::start(&host);
        let _sources = firewalld(&host);
        let chain = Chain::new(&host, json!({}));
        let pod = host.pod();
        let result = chain.add(&pod);
        drop(bus);
        host.run(&format!("rm {SOCKET}"));
        let _full = host.enter(full_queue);
        let reply = chain.call(&pod, &result).add();
        reply.failure().is(11, "whether firewalld runs|connect within 10s|hangs");
        assert!(reply.time < Duration::from_secs(13), "{:?}", reply.time);
        chain.bare(&pod).del().failure().is(11, "connect within 10s");
        assert_eq!(elements(&host, "ip", "fw-firewalld"), [address(&result, 4)]);
    });
}

/// A bus that hangs so long already that no more fit into its queue.
fn full_queue() -> Vec<OwnedFd> {
    let address = UnixAddr::new(SOCKET).unwrap();
    let new = || socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_NONBLOCK, None).unwrap();
    let bus = new();
    bind(bus.as_raw_fd(), &address).unwrap();
    listen(&bus, Backlog::new(1).unwrap()).unwrap();
    let mut all = vec![bus];
    loop {
        let socket = new();
        let result = connect(socket.as_raw_fd(), &address);
        all.push(socket);
        if result.is_err() {
            return all;
        }
    }
}
