//! What attachments leave whose namespace ended and for which no DEL came: the next ADD removes it, once a minute.

use std::{
    fs::File,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};
use tests::{
    Host, NetNs, Place, Pod, Reply, case,
    chained::{self, Chain},
    config::{self, with},
    settings, skip,
    snapshot::elements,
};

/// Where the stamps are.
const STAMPS: &str = "/run/oxbridge";

/// `bridge` with all that is in our tables.
fn bridge() -> Value {
    with(&chained::bridge(), json!({ "macspoofchk": true }))
}

fn firewall(policy: &str) -> Value {
    with(&chained::firewall(), json!({ "ingressPolicy": policy }))
}

/// `portmap` with ports that nobody else of the test has.
fn portmap(number: u16) -> Value {
    let mapping = |port: u16, protocol| json!({ "hostPort": port, "containerPort": 80, "protocol": protocol });
    let ports = json!([mapping(8000 + number, "tcp"), mapping(9000 + number, "udp")]);
    with(&chained::portmap(), json!({ "runtimeConfig": { "portMappings": ports } }))
}

/// The chain for a pod that publishes ports of its own.
fn numbered<'h>(host: &'h Host, plugins: &[Value], number: u16) -> Chain<'h> {
    let own = |plugin: &Value| if plugin["type"] == "portmap" { portmap(number) } else { plugin.clone() };
    Chain::new(host, plugins.iter().map(own).collect())
}

/// Makes the next sweep due, as if a minute had gone by.
pub(crate) fn make_due(host: &Host) {
    host.enter(|| {
        for name in std::fs::read_dir(STAMPS).unwrap().flatten().map(|entry| entry.path()) {
            if name.to_string_lossy().contains("-swept-") {
                let file = File::options().write(true).open(name).unwrap();
                file.set_modified(SystemTime::now() - Duration::from_secs(120)).unwrap();
            }
        }
    });
}

/// Whether one is due still.
fn is_due(host: &Host) -> bool {
    let stamp = host.files(STAMPS).into_iter().find(|name| name.contains("-swept-")).unwrap();
    let modified = || std::fs::metadata(format!("{STAMPS}/{stamp}")).unwrap().modified().unwrap();
    host.enter(modified).elapsed().is_ok_and(|age| age > Duration::from_secs(60))
}

fn wait_until(condition: impl Fn() -> bool) {
    let deadline = SystemTime::now() + Duration::from_secs(20);
    while !condition() {
        assert!(SystemTime::now() < deadline, "it takes too long");
        thread::sleep(Duration::from_millis(1));
    }
}

/// ADD of all plugins; what each of them answers.
fn add(chain: &Chain<'_>, pod: &Pod) -> (Value, Vec<Reply>) {
    let mut result = Value::Null;
    let mut replies = Vec::new();
    for plugin in &chain.plugins {
        let reply = chain.call(plugin).pod(pod).config_with(plugin, &result).add();
        result = reply.result();
        replies.push(reply);
    }
    (result, replies)
}

/// The namespace ends, and nobody calls DEL. What remains is who the runtime says it was.
fn end(host: &Host, pod: Pod) -> Pod {
    let ports = || host.json("ip -j link show type veth").as_array().unwrap().len();
    let before = ports();
    host.unmount(&pod.path);
    let Pod { id, ifname, path, ns } = pod;
    drop(ns);
    host.wait_for_ports(before - 1);
    Pod { id, ifname, path, ns: NetNs::new() }
}

/// How many elements name the pod.
fn count(host: &Host, pod: &Pod) -> usize {
    elements(host, &format!(" {} ", pod.id)).len()
}

fn only_ours() {
    if settings::is_reference() {
        skip("the reference has nothing of the kind");
    }
}

/// What differs in the plugins' places, each with the plugins that have something there.
fn each_chain(test: impl Fn(&Host, &[Value], &[&str])) {
    only_ours();
    test(&Host::new(), &[bridge()], &["bridge"]);
    test(&Host::new(), &[bridge(), portmap(0)], &["bridge", "portmap"]);
    test(&Host::new(), &[bridge(), firewall("isolated")], &["bridge", "firewall"]);
    let drops = Host::new();
    for program in ["iptables", "ip6tables"] {
        drops.run(&format!("{program} -P FORWARD DROP"));
    }
    test(&drops, &[bridge(), firewall("same-bridge")], &["bridge", "firewall"]);
    let all = [bridge(), portmap(0), firewall("same-bridge"), chained::tuning(), chained::bandwidth()];
    test(&Host::new(), &all, &["bridge", "portmap", "firewall"]);
}

#[test]
fn what_a_gone_pod_has_left_goes_and_nothing_else() {
    case(|| {
        each_chain(|host, plugins, sweepers| {
            numbered(host, plugins, 0).warm_up();
            let (live, next) = (host.named_pod(), host.pod());
            let of = |number| numbered(host, plugins, number);
            let (of_live, _) = add(&of(1), &live);
            let before = host.snapshot();
            let gone = host.named_pod();
            let (of_gone, _) = add(&of(2), &gone);
            let had = count(host, &gone);
            let gone = end(host, gone);

            // Within a minute of the last look nobody looks.
            let (result, _) = add(&of(3), &next);
            assert_eq!(count(host, &gone), had);
            of(3).del(&next, &result);

            make_due(host);
            let (result, replies) = add(&of(3), &next);
            assert_eq!(elements(host, &format!(" {} ", gone.id)).iter().map(|e| &e.set).collect::<Vec<_>>(), [""; 0]);
            for (plugin, reply) in plugins.iter().zip(&replies) {
                let told = format!("removed what container {} (network net, interface eth0) had in ", gone.id);
                let times = reply.stderr.matches(&told).count();
                let is_sweeper = sweepers.contains(&plugin["type"].as_str().unwrap());
                assert_eq!(times, usize::from(is_sweeper), "{reply}");
                assert!(!is_sweeper || reply.stderr.contains("its host link is gone, and no DEL came"), "{reply}");
                assert!(!reply.stderr.contains(&live.id), "{reply}");
            }
            of(1).check(&live, &of_live);
            of(3).check(&next, &result);

            // As after a DEL in time; a late one still does the rest.
            of(3).del(&next, &result);
            of(2).del(&gone, &of_gone);
            host.assert_nothing_made(&before);
        });
    });
}

#[test]
fn who_may_be_alive_loses_nothing() {
    case(|| {
        only_ours();
        let host = Host::new();
        let plugins = [bridge(), portmap(0), firewall("isolated")];
        let of = |number| numbered(&host, &plugins, number);
        of(0).warm_up();
        let pods: Vec<Pod> = (1..=4).map(|_| host.named_pod()).collect();
        for (number, pod) in (1..).zip(&pods) {
            add(&of(number), pod);
        }
        let name = |pod: &Pod| {
            let links = host.json("ip -j -d link show type veth");
            let is_it = |link: &&Value| link["ifalias"].as_str().unwrap().contains(&format!(" {} ", pod.id));
            links.as_array().unwrap().iter().find(is_it).unwrap()["ifname"].as_str().unwrap().to_owned()
        };
        // The host's ends have other names: one of them is known by its address, the other by its alias.
        for (pod, patch) in [(&pods[0], "alias nobody"), (&pods[1], "address 02:00:00:00:00:09")] {
            let link = name(pod);
            host.run(&format!("ip link set {link} down"));
            host.rename(&link, &format!("renamed{}", &pod.id[4..]));
            host.run(&format!("ip link set renamed{} {patch} up", &pod.id[4..]));
        }
        // The pods' ends: another name, another namespace.
        pods[2].run("ip link set eth0 down");
        pods[2].rename("eth0", "net7");
        let other = NetNs::new();
        let fd = other.path();
        pods[3].run(&format!("ip link set eth0 netns {fd}"));
        // Of no plugin of ours.
        let stranger = host.named_pod();
        let result = json!({ "cniVersion": "1.0.0", "ips": [{ "address": "10.99.0.2/24" }] });
        for plugin in [portmap(8), chained::firewall()] {
            host.plugin_of(&plugin).pod(&stranger).config_with(&plugin, &result).add().ok();
        }
        // No path leads to them any more.
        pods.iter().chain([&stranger]).for_each(|pod| host.unmount(&pod.path));
        let before = host.snapshot();
        make_due(&host);
        let next = host.pod();
        let (result, replies) = add(&of(9), &next);
        for reply in replies {
            assert!(!reply.stderr.contains("removed what"), "{reply}");
        }
        of(9).del(&next, &result);
        host.assert_as(&before);
    });
}

/// Of the reference's pair nobody knows how to look for it.
#[test]
fn a_pod_behind_the_references_bridge_loses_nothing() {
    case(|| {
        only_ours();
        let host = Host::new();
        let plugins = [bridge(), portmap(0), firewall("same-bridge")];
        numbered(&host, &plugins, 0).warm_up();
        let pod = host.named_pod();
        let mut result = host.reference("bridge").pod(&pod).config(&chained::bridge()).add().result();
        for plugin in [portmap(1), firewall("same-bridge")] {
            result = host.plugin_of(&plugin).pod(&pod).config_with(&plugin, &result).add().result();
        }
        let pod = end(&host, pod);
        let before = host.snapshot();
        assert_ne!(count(&host, &pod), 0);
        make_due(&host);
        let next = host.pod();
        let (of_next, _) = add(&numbered(&host, &plugins, 9), &next);
        numbered(&host, &plugins, 9).del(&next, &of_next);
        host.assert_as(&before);
    });
}

/// A link that vanished under a living namespace: a published port has two signs, and one of them speaks for the pod.
#[test]
fn a_living_namespace_keeps_its_ports() {
    case(|| {
        only_ours();
        let host = Host::new();
        let plugins = [bridge(), portmap(0)];
        numbered(&host, &plugins, 0).warm_up();
        let pod = host.named_pod();
        add(&numbered(&host, &plugins, 1), &pod);
        pod.run("ip link del eth0");
        make_due(&host);
        add(&numbered(&host, &plugins, 9), &host.named_pod());
        let left = elements(&host, &format!(" {} ", pod.id));
        assert!(!left.is_empty() && left.iter().all(|element| element.set.contains("ports-")), "{left:?}");
    });
}

#[test]
fn a_restarted_container_is_none_that_is_gone() {
    case(|| {
        only_ours();
        let host = Host::new();
        let plugins = [bridge(), portmap(0), firewall("isolated")];
        let chain = numbered(&host, &plugins, 1);
        chain.warm_up();
        let pod = host.named_pod();
        add(&chain, &pod);
        let pod = end(&host, pod);
        host.mount_netns(&pod.ns, &pod.path);
        make_due(&host);
        let (result, _) = add(&chain, &pod);
        chain.check(&pod, &result);
        make_due(&host);
        add(&numbered(&host, &plugins, 9), &host.named_pod());
        chain.check(&pod, &result);
    });
}

/// After a crash of the node's runtime there may be hundreds: one transaction takes them all.
#[test]
fn five_hundred_at_once() {
    case(|| {
        only_ours();
        let host = Host::new();
        let config = with(&bridge(), json!({ "ipam": config::host_local(&["10.22.0.0/16"]), "macspoofchk": false }));
        let (live, next) = (host.pod(), host.pod());
        host.plugin_of(&config).pod(&live).config(&config).add().ok();
        let before = host.snapshot();
        let of =
            |n: u32| format!("10.22.{}.{} comment \"{n:08x}{n:024x} net gone-{n} eth0\"", 2 + n / 250, 1 + n % 250);
        let list: Vec<_> = (0..500).map(of).collect();
        host.write(
            "/run/test/elements",
            format!("add element ip oxbridge pods-10.22.0.0/16 {{ {} }}", list.join(", ")),
        );
        host.run("nft -f /run/test/elements");
        make_due(&host);
        let reply = host.plugin_of(&config).pod(&next).config(&config).add();
        assert_eq!(reply.ok().stderr.matches("removed what container gone-").count(), 500);
        host.plugin_of(&config).pod(&next).config(&config).del().ok();
        host.assert_as(&before);
    });
}

/// A call that is slow between its looks and what it does about them, and a container that comes back meanwhile, a little
/// later each time.
#[test]
fn who_comes_back_while_a_slow_call_looks_loses_nothing() {
    case(|| {
        only_ours();
        if !Path::new("/usr/bin/strace").exists() {
            skip("there is no strace");
        }
        if settings::slowness() > 1 {
            skip("28 calls at once under strace end in time on no emulated machine");
        }
        thread::scope(|s| {
            for after in (0..28).map(|step| Duration::from_millis(25 * step)) {
                s.spawn(move || come_back(after));
            }
        });
    });
}

fn come_back(after: Duration) {
    let host = Host::new();
    let config = bridge();
    host.warm_up(&config);
    let call = |pod: &Pod| host.plugin_of(&config).pod(pod).config(&config);
    let (pod, other) = (host.named_pod(), host.pod());
    call(&pod).add().ok();
    let pod = end(&host, pod);
    make_due(&host);
    let slow = ["strace", "-qq", "-e", "trace=sendto", "-e", "inject=sendto:delay_enter=40000", "-o", "/dev/null"];
    let result = thread::scope(|s| {
        let looking = s.spawn(|| call(&other).under(&slow).add());
        wait_until(|| !is_due(&host));
        thread::sleep(after);
        host.mount_netns(&pod.ns, &pod.path);
        let result = call(&pod).add().result();
        looking.join().unwrap().ok();
        result
    });
    host.plugin_of(&config).pod(&pod).config_with(&config, &result).check().ok();
}

/// Whoever is being attached has a link before it has anything else, and what is removed depends on nothing having
/// changed since that was looked at: so nobody who lives ever loses anything.
#[test]
fn sweeps_all_the_time_take_nothing_from_the_living() {
    case(|| {
        only_ours();
        let host = Host::new();
        let plugins = [bridge(), portmap(0), firewall("same-bridge")];
        numbered(&host, &plugins, 0).warm_up();
        let before = host.snapshot();
        let done = AtomicBool::new(false);
        let gone = Mutex::new(Vec::new());
        thread::scope(|s| {
            s.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    make_due(&host);
                    thread::sleep(Duration::from_millis(1));
                }
            });
            let workers: Vec<_> = (1..=4)
                .map(|w| {
                    s.spawn({
                        let (host, plugins, gone) = (&host, &plugins, &gone);
                        move || live_and_die(host, plugins, 100 * w, gone)
                    })
                })
                .collect();
            let results: Vec<_> = workers.into_iter().map(thread::ScopedJoinHandle::join).collect();
            done.store(true, Ordering::Relaxed);
            results.into_iter().for_each(|result| result.unwrap());
        });
        host.wait_for_ports(0);
        make_due(&host);
        let (last, chain) = (host.pod(), numbered(&host, &plugins, 9));
        let (result, _) = add(&chain, &last);
        let gone = gone.into_inner().unwrap();
        assert!(gone.iter().all(|(pod, _)| count(&host, pod) == 0));
        chain.del(&last, &result);
        // Their addresses.
        gone.iter().for_each(|(pod, result)| numbered(&host, &plugins, 0).del(pod, result));
        host.assert_nothing_made(&before);
    });
}

/// Attaches pods of few names, each of which ends with a DEL, or without and is attached again under its name, or without
/// for good. Their ports are those from this number on.
fn live_and_die(host: &Host, plugins: &[Value], mut number: u16, gone: &Mutex<Vec<(Pod, Value)>>) {
    let mut id = host.named_pod().id;
    for round in 0..9 {
        let chain = numbered(host, plugins, number);
        let mut pod = Pod { path: format!("/run/netns/{id}"), id: id.clone(), ..host.pod() };
        host.mount_netns(&pod.ns, &pod.path);
        let (result, _) = add(&chain, &pod);
        chain.check(&pod, &result);
        if round % 3 == 0 {
            chain.del(&pod, &result);
        }
        host.unmount(&pod.path);
        pod.ns = NetNs::new();
        if round % 3 == 2 {
            gone.lock().unwrap().push((pod, result));
            number += 1;
            id = host.named_pod().id;
        }
    }
}
