//! One port, published by pods of both suites one after the other: whoever came last has it, whatever is left of others.

use serde_json::{Value, json};
use tests::{
    Host, Place, Pod, case,
    chained::{Chain, Suite},
    published::{CONTAINER_PORT, at, bridge, mapping, mapping_at, portmap},
    settings::is_reference,
    snapshot::elements,
    traffic::{
        Answer, Server, Transport, ask,
        outside::{HOST4, HOST6},
    },
};

const PORT: u16 = 8080;

fn chain<'h>(host: &'h Host, mappings: &[Value]) -> Chain<'h> {
    let ports = json!({ "name": "net", "cniVersion": "1.0.0", "runtimeConfig": { "portMappings": mappings } });
    Chain::new(host, vec![bridge(&json!({ "ipMasq": true })), portmap(&ports)])
}

fn both() -> Vec<Value> {
    Transport::ALL.map(|transport| mapping(transport, PORT)).to_vec()
}

/// The pod's servers.
fn serve(pod: &Pod) -> Vec<Server> {
    let addresses = pod.addresses();
    let start = |a: &String| Server::start(pod, &pod.id, at(a.split('/').next().unwrap(), CONTAINER_PORT));
    addresses.iter().map(start).collect()
}

/// Everybody who asks at the port gets this pod.
fn assert_has_the_port(host: &Host, pod: &Pod) {
    let _servers = serve(pod);
    let who = |answer: Option<Answer>| answer.map(|a| a.server);
    for address in [HOST4, HOST6] {
        for transport in Transport::ALL {
            let outside = ask(host.outside(), transport, at(address, PORT));
            assert_eq!(who(outside).as_deref(), Some(&*pod.id), "outside asks {address}, {transport}");
            let own = ask(host, transport, at(address, PORT));
            assert_eq!(who(own).as_deref(), Some(&*pod.id), "the host asks {address}, {transport}");
        }
    }
    let loopback = ask(host, Transport::Tcp, at("127.0.0.1", PORT));
    assert_eq!(who(loopback).as_deref(), Some(&*pod.id), "the host asks itself");
}

/// Our binaries were replaced by the reference's, whose DEL knows nothing of our tables.
#[test]
fn what_is_left_of_ours_does_not_win_over_a_later_pod_of_the_reference() {
    case(|| {
        if is_reference() {
            tests::skip("about what is left of ours");
        }
        for mappings in [both(), Transport::ALL.map(|t| mapping_at(t, PORT, HOST4)).to_vec()] {
            let host = Host::new();
            host.outside();
            let (gone, pod) = (host.pod(), host.pod());
            let result = chain(&host, &mappings).add(&gone);
            chain(&host, &mappings).by(Suite::Reference).del_until_done(&gone, &result);
            assert!(!elements(&host, "tcp").is_empty(), "nothing is left of ours");
            chain(&host, &both()).by(Suite::Reference).add(&pod);
            assert_has_the_port(&host, &pod);
        }
    });
}

/// The node's iptables for those who call it by its name.
fn make_legacy(host: &Host) -> &'static str {
    const FOLDER: &str = "/run/test/legacy";
    if host.try_run("iptables-legacy -t nat -S").is_err() || host.try_run("ip6tables-legacy -t nat -S").is_err() {
        tests::skip("this kernel has no iptables-legacy");
    }
    host.run(&format!("mkdir {FOLDER}"));
    for program in ["iptables", "ip6tables"] {
        for suffix in ["", "-save", "-restore"] {
            let to = host.run(&format!("which {program}-legacy{suffix}"));
            host.run(&format!("ln -s {} {FOLDER}/{program}{suffix}", to.trim()));
        }
    }
    "/run/test/legacy:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
}

fn later_pod_has_the_port(path: Option<&str>, host: &Host, stale: &[Value], ours: &[Value]) {
    let (gone, pod) = (host.pod(), host.pod());
    let before = chain(host, stale).by(Suite::Reference);
    let mut result = Value::Null;
    for plugin in &before.plugins {
        let call = before.call(plugin).pod(&gone).config_with(plugin, &result);
        result = path.into_iter().fold(call, |call, path| call.env("PATH", path)).add().result();
    }
    // Gone without a DEL.
    gone.run("ip link del eth0");
    let result = chain(host, ours).add(&pod);
    assert_has_the_port(host, &pod);
    chain(host, ours).check(&pod, &result);
    if !is_reference() {
        assert!(!elements(host, &format!(" {} eth0", pod.id)).is_empty());
    }
    chain(host, ours).del(&pod, &result);
    assert!(elements(host, &format!(" {} eth0", pod.id)).is_empty());
}

#[test]
fn what_is_left_of_the_reference_does_not_win_over_a_later_pod_of_ours() {
    case(|| {
        let at_one = Transport::ALL.map(|t| mapping_at(t, PORT, HOST4)).to_vec();
        for stale in [both(), at_one] {
            let host = Host::new();
            host.outside();
            later_pod_has_the_port(None, &host, &stale, &both());
        }
    });
}

#[test]
fn what_is_left_of_the_reference_in_legacy_iptables_does_not_win_either() {
    case(|| {
        let host = Host::new();
        host.outside();
        let path = make_legacy(&host);
        later_pod_has_the_port(Some(path), &host, &both(), &both());
    });
}

/// The rule that comes before the others' is looked for by CHECK, and goes with DEL.
#[test]
fn check_tells_when_a_port_would_be_lost_to_a_stale_rule() {
    case(|| {
        if is_reference() {
            tests::skip("about our tables");
        }
        let host = Host::new();
        let (gone, pod) = (host.pod(), host.pod());
        chain(&host, &both()).by(Suite::Reference).add(&gone);
        gone.run("ip link del eth0");
        let ours = chain(&host, &both());
        let result = ours.add(&pod);
        ours.check(&pod, &result);
        let first: Vec<_> =
            elements(&host, &pod.id).into_iter().filter(|e| e.set == "ip oxbridge ports-first").collect();
        assert_eq!(first.len(), 2, "{first:?}");
        host.run("nft delete element ip oxbridge ports-first { tcp . 8080 }");
        let plugin = &ours.plugins[1];
        let check = ours.call(plugin).pod(&pod).config_with(plugin, &result).check();
        check.failure().is(999, "ports-first of table ip oxbridge is missing");
        // Another ADD makes it again.
        ours.call(plugin).pod(&pod).config_with(plugin, &result).add().ok();
        ours.check(&pod, &result);
        ours.del(&pod, &result);
        assert!(elements(&host, &pod.id).is_empty());
    });
}

/// Chains as builds made them that had nothing but this before the reference's rules: of a name that is no more, and
/// without what came later.
fn make_older(host: &Host) {
    let mut text = String::new();
    for family in ["ip", "ip6"] {
        for chain in [
            "ports-first-prerouting",
            "ports-first-output",
            "ports-last-prerouting",
            "ports-last-output",
            "ports-in",
            "ports-out",
        ] {
            text += &format!("flush chain {family} oxbridge {chain}\ndelete chain {family} oxbridge {chain}\n");
        }
        for set in ["ports-first", "ports-first-at"] {
            text += &format!("delete set {family} oxbridge {set}\n");
        }
        for hook in ["prerouting", "output"] {
            text += &format!(
                "table {family} oxbridge {{ chain ports-{hook} {{ type nat hook {hook} priority -101; policy accept\n\
                 fib daddr type local {family} daddr @ports-hosts jump ports comment \"to the host, not to a service\"\n\
                 }}\n}}\n"
            );
        }
    }
    load(host, &text);
}

fn load(host: &Host, rules: &str) {
    host.write("/run/test/rules", rules);
    host.run("nft -f /run/test/rules");
}

#[test]
fn tables_of_an_earlier_build_are_made_over() {
    case(|| {
        if is_reference() {
            tests::skip("about our tables");
        }
        let host = Host::new();
        host.outside();
        let (before, pod) = (host.pod(), host.pod());
        let other = Transport::ALL.map(|transport| mapping(transport, PORT + 1)).to_vec();
        let first = chain(&host, &other);
        let of_first = first.add(&before);
        make_older(&host);
        // Its CHECK tells what to do.
        let plugin = &first.plugins[1];
        let check = first.call(plugin).pod(&before).config_with(plugin, &of_first).check();
        check.failure().is(999, "is missing|the next ADD");
        let ours = chain(&host, &both());
        let result = ours.add(&pod);
        assert_has_the_port(&host, &pod);
        ours.check(&pod, &result);
        first.check(&before, &of_first);
        // The earlier build was put back for a while: its chains beside ours.
        load(
            &host,
            "table ip oxbridge { chain ports-output { type nat hook output priority -101; policy accept\n\
             jump ports comment \"x\"\n}\n}\n",
        );
        ours.call(plugin).pod(&pod).config_with(&ours.plugins[1], &result).add().ok();
        let rules = host.run("nft list ruleset");
        for retired in ["ports-prerouting", "ports-output"] {
            assert!(!rules.contains(&format!("chain {retired} ")), "{rules}");
        }
        assert_eq!(rules.matches("priority -101").count() + rules.matches("dstnat - 1;").count(), 4, "{rules}");
    });
}

#[test]
fn a_chain_of_another_version_is_named_as_the_cause() {
    case(|| {
        if is_reference() {
            tests::skip("about our tables");
        }
        let host = Host::new();
        let pod = host.pod();
        load(
            &host,
            "table ip oxbridge { chain ports-last-prerouting { type nat hook prerouting priority -42; policy accept; }\n}\n",
        );
        let ours = chain(&host, &both());
        let (bridge, portmap) = (&ours.plugins[0], &ours.plugins[1]);
        let result = ours.call(bridge).pod(&pod).config(bridge).add().result();
        let add = ours.call(portmap).pod(&pod).config_with(portmap, &result).add();
        add.failure().is(999, "another version|delete|nft -f -");
    });
}
