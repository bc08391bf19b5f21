//! firewalld: a real bus of the test's own, and on it something that answers as firewalld does.

use std::{
    collections::BTreeMap,
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use rustbus::{
    RpcConn,
    connection::{Timeout, get_system_bus_path, ll_conn::force_finish_on_error},
    message_builder::MarshalledMessage,
    standard_messages,
};
use serde_json::json;
use tests::{Host, Place, case, config::with, traffic::assert_reaches, traffic::outside::SERVER4};

use crate::firewall::{Chain, address, elements, rules};

const SOCKET: &str = "/run/dbus/system_bus_socket";
const CONFIG: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=/run/dbus/system_bus_socket</listen>
  <policy context="default">
    <allow user="*"/><allow own="*"/><allow send_type="method_call"/><allow send_destination="*"/>
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
            daemon.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0).spawn()
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
    let mut bus = host.enter(|| RpcConn::connect_to_path(get_system_bus_path().unwrap(), Timeout::Infinite)).unwrap();
    let mut name = standard_messages::request_name("org.fedoraproject.FirewallD1", 0);
    let serial = bus.send_message(&mut name).unwrap().write_all().map_err(force_finish_on_error).unwrap();
    bus.wait_response(serial, Timeout::Infinite).unwrap();
    thread::spawn(move || {
        while let Ok(call) = bus.wait_call(Timeout::Infinite) {
            let mut reply = answer(&call, &of_service);
            if bus.send_message(&mut reply).unwrap().write_all().map_err(force_finish_on_error).is_err() {
                break;
            }
        }
    });
    sources
}

/// As `firewall/core/fw_zone.py` and `firewall/server/firewalld.py` answer.
fn answer(call: &MarshalledMessage, sources: &Sources) -> MarshalledMessage {
    let header = &call.dynheader;
    let known = header.interface.as_deref() == Some("org.fedoraproject.FirewallD1.zone")
        && header.object.as_deref() == Some("/org/fedoraproject/FirewallD1");
    let member = header.member.as_deref().unwrap_or_default();
    let mut texts = call.body.parser();
    let mut next = || texts.get::<&str>().unwrap_or_default().to_owned();
    let refuse = |text: String| header.make_error_response("org.fedoraproject.FirewallD1.Exception", Some(text));
    let mut sources = sources.lock().unwrap();
    let mut reply = header.make_response();
    if member == "getZoneOfSource" && known {
        reply.body.push_param(sources.get(&next()).cloned().unwrap_or_default()).unwrap();
        return reply;
    }
    let (zone, source) = (next(), next());
    if !known || !["addSource", "removeSource", "querySource"].contains(&member) {
        return standard_messages::unknown_method(header);
    }
    if !["trusted", "public"].contains(&zone.as_str()) {
        return refuse(format!("INVALID_ZONE: {zone}"));
    }
    let has = sources.get(&source).cloned();
    match (member, has) {
        ("querySource", has) => {
            reply.body.push_param(has.as_ref() == Some(&zone)).unwrap();
            return reply;
        }
        ("addSource", Some(has)) if has == zone => {
            return refuse(format!("ZONE_ALREADY_SET: '{source}' already bound to '{zone}'"));
        }
        ("removeSource", None) => return refuse(format!("UNKNOWN_SOURCE: '{source}' is not in any zone")),
        (_, Some(has)) if has != zone => return refuse(format!("ZONE_CONFLICT: '{source}' already bound to a zone")),
        ("addSource", _) => _ = sources.insert(source, zone.clone()),
        _ => _ = sources.remove(&source),
    }
    reply.body.push_param(zone).unwrap();
    reply
}

fn list(sources: &Sources) -> Vec<String> {
    sources.lock().unwrap().iter().map(|(source, zone)| format!("{source} {zone}")).collect()
}

fn in_zone(result: &serde_json::Value, zone: &str) -> Vec<String> {
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
        let _silent = host.enter(|| std::os::unix::net::UnixListener::bind(SOCKET).unwrap());
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
