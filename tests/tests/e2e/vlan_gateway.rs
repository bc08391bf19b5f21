//! The gateway of a VLAN: a port of its own, which comes with the first pod of the VLAN and goes with the last.

use std::{sync::Barrier, thread};

use serde_json::{Value, json};
use tests::{
    Host, Place, Pod, case,
    config::{self, BRIDGE, with},
    kernel::Part,
    published::at,
    settings::not_for_reference,
    traffic::{
        Server, Transport, ask, assert_reaches, assert_silent,
        outside::{HOST4, HOST6, SERVER4, SERVER6},
        source_seen,
    },
};

use crate::vlan::{node, vlans};

/// A network of its own subnets with a gateway, in a VLAN: 10.x.0.0/24 and fd00:x::/64.
pub(crate) fn network(vlan: u16) -> Value {
    let subnets = [format!("10.{vlan}.0.0/24"), format!("fd00:{vlan}::/64")];
    let ranges: Vec<_> = subnets.iter().map(|subnet| json!([{ "subnet": subnet }])).collect();
    let ipam = json!({ "ranges": ranges, "routes": null });
    with(
        &config::dual_stack(),
        json!({ "name": format!("vlan{vlan}"), "vlan": vlan, "isDefaultGateway": true, "ipMasq": true,
                "ipMasqBackend": backend(), "ipam": ipam }),
    )
}

/// What rules are made by: the default, where the kernel has that.
fn backend() -> Option<&'static str> {
    (!Part::NfTables.works()).then_some("iptables")
}

/// Its gateways.
fn gateways(vlan: u16) -> [String; 2] {
    [format!("10.{vlan}.0.1"), format!("fd00:{vlan}::1")]
}

/// The name of its link.
pub(crate) fn gateway(vlan: u16) -> String {
    format!("{BRIDGE}.{vlan}")
}

fn add(host: &Host, config: &Value) -> Pod {
    let pod = host.pod();
    host.plugin("bridge").pod(&pod).config(config).add().ok();
    pod
}

fn del(host: &Host, config: &Value, pod: &Pod) {
    host.plugin("bridge").pod(pod).config(config).del().ok();
}

fn has_gateway(host: &Host, vlan: u16) -> bool {
    host.link(&gateway(vlan)).is_some()
}

/// The bridge's end of a gateway's pair.
pub(crate) fn gateway_port(host: &Host, vlan: u16) -> String {
    host.link(&gateway(vlan)).unwrap()["link"].as_str().unwrap().to_owned()
}

/// A network of the same VLAN that has no gateway of its own.
fn guests(vlan: u16) -> Value {
    with(&config::layer2(), json!({ "name": "guests", "vlan": vlan }))
}

#[test]
fn each_vlan_has_a_gateway_and_the_world_behind_it() {
    case(|| {
        let host = node();
        host.outside();
        let configs = [100, 200].map(network);
        let pods = [0, 1].map(|i| {
            let pod = host.pod();
            let result = host.plugin("bridge").pod(&pod).config(&configs[i]).add().result();
            // At once, while everything is new.
            assert_reaches(&pod, SERVER4);
            assert_reaches(&pod, SERVER6);
            (pod, result)
        });
        for ((pod, result), vlan) in pods.iter().zip([100, 200]) {
            let link = host.link(&gateway(vlan)).unwrap();
            assert_eq!(result["interfaces"].as_array().unwrap().len(), 4);
            let told = &result["interfaces"][3];
            assert_eq!((&told["name"], &told["mac"]), (&link["ifname"], &link["address"]));
            let kept = |vlans: &String| vlans.starts_with("1 ") && tests::settings::is_reference();
            let mut found = vlans(&host, &gateway_port(&host, vlan));
            found.retain(|vlan| !kept(vlan));
            assert_eq!(found, [format!("{vlan} PVID Egress Untagged")]);
            for to in gateways(vlan) {
                assert_reaches(pod, &to);
            }
            for to in pod.addresses() {
                assert_reaches(&host, to.split('/').next().unwrap());
            }
            for (server, own) in [(SERVER4, HOST4), (SERVER6, HOST6)] {
                assert_eq!(source_seen(pod, host.outside(), server), own.parse::<std::net::IpAddr>().ok());
            }
            if !tests::settings::is_reference() {
                host.plugin("bridge").pod(pod).config_with(&configs[usize::from(vlan == 200)], result).check().ok();
            }
        }
        // Nothing but the gateways' ports: a pod cannot take another VLAN's address and its gateway.
        let (intruder, _) = &pods[0];
        intruder.run("ip address add 10.200.0.99/24 dev eth0");
        intruder.run("ip address add fd00:200::99/64 dev eth0 nodad");
        for family in [4, 6] {
            intruder.run(&format!("ip -{family} route del default"));
        }
        for to in gateways(200).iter().map(String::as_str).chain(["10.200.0.2", "fd00:200::2"]) {
            assert_silent(intruder, to);
        }
    });
}

/// What the kernel may take of whatever is announced on the gateway's link.
#[test]
fn no_pod_is_the_hosts_router_by_the_gateway() {
    case(|| {
        let host = node();
        add(&host, &network(100));
        let read = |key: &str| host.read(&format!("/proc/sys/net/ipv6/conf/{BRIDGE}.100/{key}"));
        assert_eq!(read("accept_ra").as_deref(), Some("0"));
        host.run(&format!("sysctl -q -w net/ipv6/conf/{BRIDGE}.100/accept_ra=2"));
        add(&host, &network(100));
        assert_eq!(read("accept_ra").as_deref(), Some("0"));
    });
}

#[test]
fn it_goes_with_the_last_pod_of_its_vlan() {
    case(|| {
        let host = node();
        let config = network(100);
        host.warm_up(&network(200));
        let before = host.warm_up(&config);
        // Twice: what is made again works again.
        for _ in 0..2 {
            let (first, last, other) = (add(&host, &config), add(&host, &config), add(&host, &network(200)));
            del(&host, &config, &first);
            gateways(100).iter().for_each(|to| assert_reaches(&last, to));
            del(&host, &config, &last);
            assert!(!has_gateway(&host, 100) && has_gateway(&host, 200), "each VLAN for itself");
            gateways(200).iter().for_each(|to| assert_reaches(&other, to));
            del(&host, &network(200), &other);
            assert!(!has_gateway(&host, 200));
            // Of a pod that is gone as well.
            let gone = host.lose(add(&host, &config));
            host.plugin("bridge").lost(&gone).netns("").config(&with(&config, json!({ "vlan": null }))).del().ok();
            assert!(!has_gateway(&host, 100));
        }
        host.assert_as(&before);
    });
}

#[test]
fn it_stays_for_whoever_else_is_in_its_vlan() {
    case(|| {
        let host = node();
        let config = network(100);
        let trunk = with(&config::layer2(), json!({ "name": "trunk", "vlanTrunk": [{ "minID": 90, "maxID": 110 }] }));
        for others in [guests(100), trunk] {
            let (pod, other) = (add(&host, &config), add(&host, &others));
            del(&host, &config, &pod);
            assert!(has_gateway(&host, 100), "{} is there", others["name"]);
            del(&host, &others, &other);
            assert!(!has_gateway(&host, 100), "{} was the last", others["name"]);
        }
        // A port that an operator put into the VLAN: what is behind it may use the gateway.
        let pod = add(&host, &config);
        host.run("ip link add cable type veth peer name far");
        host.run(&format!("ip link set cable master {BRIDGE}"));
        host.run("bridge vlan add dev cable vid 100");
        del(&host, &config, &pod);
        assert!(has_gateway(&host, 100));
        host.run("bridge vlan del dev cable vid 100");
        let pod = add(&host, &config);
        del(&host, &config, &pod);
        assert!(!has_gateway(&host, 100));
    });
}

#[test]
fn gc_and_the_sweep_remove_it_too() {
    case(|| {
        not_for_reference("it has neither GC nor a sweep");
        let host = node();
        let config = with(&network(100), json!({ "cniVersion": "1.1.0" }));
        let (gone, running) = (host.lose(add(&host, &config)), add(&host, &network(200)));
        assert!(has_gateway(&host, 100));
        let valid = with(&config, json!({ "cni.dev/valid-attachments": [] }));
        host.plugin("bridge").config(&valid).verb("GC").run().ok();
        assert!(!has_gateway(&host, 100) && has_gateway(&host, 200), "of {}", gone.id);
        host.lose(add(&host, &config));
        host.pass_a_minute();
        let other = add(&host, &network(200));
        assert!(!has_gateway(&host, 100));
        [running, other].iter().for_each(|pod| gateways(200).iter().for_each(|to| assert_reaches(pod, to)));
    });
}

#[test]
fn one_that_nobody_finishes_or_whose_bridge_is_gone_goes_too() {
    case(|| {
        not_for_reference("it leaves them");
        let host = node();
        let config = with(&network(100), json!({ "cniVersion": "1.1.0", "ipMasq": false }));
        let pod = add(&host, &config);
        let port = host.link(&gateway_port(&host, 100)).unwrap();
        del(&host, &config, &pod);
        // What an ADD leaves that is killed as soon as the pair is there.
        let (name, mac) = (port["ifname"].as_str().unwrap(), port["address"].as_str().unwrap());
        host.run(&format!("ip link add {name} address {mac} type veth peer name br0.100"));
        host.run(&format!("ip link set {name} master {BRIDGE}"));
        del(&host, &config, &pod);
        assert!(!has_gateway(&host, 100), "half-made");
        // Its maker is gone, and an ADD that found it fails.
        host.lose(add(&host, &config));
        let broken = with(&config, json!({ "ipam": { "routes": [{ "dst": "192.168.2.0/24", "gw": "172.31.0.1" }] } }));
        host.plugin("bridge").pod(&host.pod()).config(&broken).add().failure().is(999, "172.31.0.1");
        assert!(!has_gateway(&host, 100), "left for the one that failed");
        add(&host, &config);
        host.run(&format!("ip link del {BRIDGE}"));
        let valid = with(&config, json!({ "cni.dev/valid-attachments": [] }));
        host.plugin("bridge").config(&valid).verb("GC").run().ok();
        assert!(!has_gateway(&host, 100), "without a bridge");
    });
}

#[test]
fn pods_come_and_go_at_the_same_time() {
    case(|| {
        not_for_reference("it never removes a gateway");
        let host = node();
        let config = with(&network(100), json!({ "ipMasq": false }));
        host.warm_up(&config);
        let (callers, rounds) = (4, 13);
        let start = Barrier::new(callers);
        thread::scope(|s| {
            for _ in 0..callers {
                s.spawn(|| {
                    let pod = host.pod();
                    start.wait();
                    for _ in 0..rounds {
                        host.plugin("bridge").pod(&pod).config(&config).add().ok();
                        // It is there as long as the pod is.
                        assert_reaches(&pod, &gateways(100)[0]);
                        del(&host, &config, &pod);
                    }
                });
            }
        });
        assert!(!has_gateway(&host, 100));
        let ports = host.json(&format!("ip -j link show master {BRIDGE}"));
        assert_eq!(ports, json!([]));
    });
}

#[test]
fn an_add_that_fails_takes_back_its_own_gateway_alone() {
    case(|| {
        not_for_reference("it undoes next to nothing");
        let host = node();
        let config = network(100);
        let before = host.warm_up(&config);
        let config = with(&config, json!({ "ipMasq": false }));
        let broken = with(&config, json!({ "ipam": { "routes": [{ "dst": "192.168.2.0/24", "gw": "172.31.0.1" }] } }));
        let fail = |config| host.plugin("bridge").pod(&host.pod()).config(config).add().failure();
        fail(&broken).is(999, "172.31.0.1");
        host.assert_as(&before);
        // Made by another pod's ADD: with the address that this one adds to it, and without the pod in the end.
        let pod = add(&host, &config);
        let between = host.snapshot();
        let subnet = json!({ "ranges": [[{ "subnet": "10.101.0.0/24" }]], "routes": broken["ipam"]["routes"] });
        fail(&broken).is(999, "172.31.0.1");
        fail(&with(&broken, json!({ "name": "more", "ipam": subnet, "forceAddress": true }))).is(999, "172.31.0.1");
        assert_eq!(between.diff_without_skeleton(&host.snapshot()), "");
        gateways(100).iter().for_each(|to| assert_reaches(&pod, to));
        del(&host, &config, &pod);
        assert!(!has_gateway(&host, 100));
    });
}

#[test]
fn an_operators_link_of_its_name_is_refused_and_left_alone() {
    case(|| {
        not_for_reference("it puts the gateway's address on whatever has the name");
        let host = node();
        let config = network(100);
        host.warm_up(&config);
        // Another kind; the port of nothing; a port of the bridge in another VLAN.
        let mut links: Vec<&[&str]> = vec![
            &["ip link add br0.100 type bridge"],
            &["ip link add br0.100 type veth peer name far"],
            &[
                "ip link add br0.100 type veth peer name far",
                "ip link set far master br0",
                "bridge vlan add dev far vid 99 pvid untagged",
            ],
        ];
        // The bridge itself is not in it. Not every kernel has links of that kind.
        let tagged = ["ip link add link br0 name br0.100 type vlan id 100"];
        if host.try_run(tagged[0]).is_ok() {
            host.run("ip link del br0.100");
            links.push(&tagged);
        }
        for lines in links {
            lines.iter().for_each(|line| _ = host.run(line));
            let before = host.snapshot();
            let failure = host.plugin("bridge").pod(&host.pod()).config(&config).add().failure();
            failure.is(999, "br0.100|a link of this name exists");
            assert_eq!(before.diff_without_skeleton(&host.snapshot()), "", "{lines:?}");
            host.run("ip link del br0.100");
        }
    });
}

/// `line` makes `br0.100`, the others what it takes to be the gateway of VLAN 100.
fn is_used_and_stays(line: &str, others: &[&str]) {
    let host = node();
    let config = network(100);
    host.warm_up(&config);
    // The reference leaves it.
    if host.link(&gateway(100)).is_some() {
        host.run("ip link del br0.100");
    }
    if let Err(error) = host.try_run(line) {
        tests::skip(format!("this kernel has no links of that kind: {error}"));
    }
    others.iter().for_each(|line| _ = host.run(line));
    host.run("sysctl -q -w net/ipv6/conf/br0.100/accept_ra=2");
    let pod = add(&host, &config);
    let accepted = host.read("/proc/sys/net/ipv6/conf/br0.100/accept_ra");
    assert!(accepted.as_deref() == Some("2") || tests::settings::is_reference(), "its router is the operator's");
    gateways(100).iter().for_each(|to| assert_reaches(&pod, to));
    let again = add(&host, &config);
    gateways(100).iter().for_each(|to| assert_reaches(&again, to));
    [again, pod].iter().for_each(|pod| del(&host, &config, pod));
    assert!(has_gateway(&host, 100));
}

#[test]
fn an_operators_gateway_is_used_and_stays() {
    case(|| {
        is_used_and_stays(
            "ip link add br0.100 type veth peer name far",
            &[
                "ip link set far master br0",
                "bridge vlan del dev far vid 1",
                "bridge vlan add dev far vid 100 pvid untagged",
                "ip link set far up",
                "ip link set br0.100 up",
            ],
        );
    });
}

#[test]
fn so_does_one_of_the_kind_vlan() {
    case(|| {
        is_used_and_stays(
            "ip link add link br0 name br0.100 type vlan id 100",
            &["bridge vlan add dev br0 vid 100 self", "ip link set br0.100 up"],
        );
    });
}

#[test]
fn ours_is_mended_by_the_next_add() {
    case(|| {
        not_for_reference("it does not look at what is there");
        let host = node();
        let config = network(100);
        let pod = add(&host, &config);
        let port = gateway_port(&host, 100);
        for line in [
            format!("ip link set {port} down"),
            "ip link set br0.100 down".to_owned(),
            format!("ip link set {port} nomaster"),
            format!("bridge vlan del dev {port} vid 100"),
            format!("bridge vlan add dev {port} vid 100"),
            format!("bridge vlan add dev {port} vid 1 untagged"),
            format!("bridge vlan add dev {port} vid 99 pvid untagged"),
            "ip address flush dev br0.100".to_owned(),
            "ip link del br0.100".to_owned(),
        ] {
            host.run(&line);
            let next = add(&host, &config);
            // A gateway that was made anew has another address.
            pod.run("ip neighbour flush all");
            for pod in [&pod, &next] {
                gateways(100).iter().for_each(|to| assert_reaches(pod, to));
            }
            assert_eq!(vlans(&host, &gateway_port(&host, 100)), ["100 PVID Egress Untagged"], "{line}");
            del(&host, &config, &next);
        }
    });
}

#[test]
fn it_is_no_larger_than_the_bridge() {
    case(|| {
        let host = node();
        let mtu = |host: &Host| host.link(&gateway(100)).unwrap()["mtu"].clone();
        let other = with(&config::layer2(), json!({ "name": "other", "mtu": 1400 }));
        let _other = add(&host, &other);
        let large = add(&host, &network(100));
        assert_eq!(mtu(&host), 1400, "the bridge's");
        not_for_reference("it leaves the MTU of what is there");
        let small = add(&host, &with(&network(100), json!({ "mtu": 1300 })));
        assert_eq!(mtu(&host), 1300, "what does not fit through a pod's port gets lost");
        [large, small].iter().for_each(|pod| del(&host, &network(100), pod));
    });
}

#[test]
fn pods_of_both_suites_share_it() {
    case(|| {
        not_for_reference("the pods of both take turns");
        let host = node();
        // The reference's DEL fails where it finds no chain of its own.
        let config = with(&network(100), json!({ "ipMasq": false }));
        let reference = || host.reference("bridge");
        let check =
            |pod: &Pod, result: &Value| _ = host.plugin("bridge").pod(pod).config_with(&config, result).check().ok();
        // The reference's first: its gateway is taken over, and goes with the last pod of either.
        let (old, own) = (host.pod(), host.pod());
        let result = reference().pod(&old).config(&config).add().result();
        check(&old, &result);
        del(&host, &config, &add(&host, &config));
        assert!(has_gateway(&host, 100), "the reference's pod needs it");
        host.plugin("bridge").pod(&own).config(&config).add().ok();
        let peer = own.addresses()[0].split('/').next().unwrap().to_owned();
        assert_reaches(&old, &peer);
        check(&old, &result);
        host.plugin("bridge").pod(&old).config_with(&config, &result).del().ok();
        assert!(old.link("eth0").is_none());
        gateways(100).iter().for_each(|to| assert_reaches(&own, to));
        // The reference removes our pod: it leaves the gateway, which the next DEL of ours removes.
        reference().pod(&own).config(&config).del().ok();
        assert!(has_gateway(&host, 100) && own.link("eth0").is_none());
        del(&host, &config, &own);
        assert!(!has_gateway(&host, 100));
        // Ours first: the reference's pod has the gateway that it finds, and keeps it.
        let (own, old) = (add(&host, &config), host.pod());
        reference().pod(&old).config(&config).add().ok();
        del(&host, &config, &own);
        gateways(100).iter().for_each(|to| assert_reaches(&old, to));
        reference().pod(&old).config(&config).del().ok();
        del(&host, &config, &old);
        assert!(!has_gateway(&host, 100));
    });
}

#[test]
fn published_ports_hairpin_and_isolation_work_in_a_vlan() {
    case(|| {
        let host = node();
        host.outside();
        let keys = json!({ "hairpinMode": true, "portIsolation": true, "macspoofchk": true });
        let bridge = with(&network(100), keys);
        let portmap = json!({ "cniVersion": "1.0.0", "name": "vlan100", "type": "portmap", "backend": backend(),
            "runtimeConfig": { "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }] } });
        let chain = tests::chained::Chain::new(&host, vec![bridge, portmap]);
        let (pod, other) = (host.pod(), host.pod());
        let result = chain.add(&pod);
        host.plugin("bridge").pod(&other).config(&chain.plugins[0]).add().ok();
        if !tests::settings::is_reference() {
            chain.check(&pod, &result);
        }
        let _servers = pod
            .addresses()
            .iter()
            .map(|a| Server::start(&pod, "it", at(a.split('/').next().unwrap(), 80)))
            .collect::<Vec<_>>();
        for address in [HOST4, HOST6] {
            for (from, whose) in [(host.outside(), "outside"), (&pod.ns, "itself"), (&other.ns, "its neighbour")] {
                let answer = ask(from, Transport::Tcp, at(address, 8080)).map(|a| a.server);
                assert_eq!(answer.as_deref(), Some("it"), "{address} from {whose}");
            }
        }
        let answer = ask(&host, Transport::Tcp, at("127.0.0.1", 8080)).map(|a| a.server);
        assert_eq!(answer.as_deref(), Some("it"), "127.0.0.1");
        gateways(100).iter().for_each(|to| assert_reaches(&pod, to));
        if !tests::settings::is_reference() {
            assert_silent(&pod, other.addresses()[0].split('/').next().unwrap());
        }
        chain.del(&pod, &result);
        del(&host, &chain.plugins[0], &other);
    });
}
