//! `ingressPolicy`: who may reach whom.

use serde_json::{Value, json};
use tests::{
    Host, Place, Pod, case,
    config::{self, with},
    traffic::{
        PATIENCE, SILENCE, assert_reaches, assert_silent,
        outside::{HOST4, HOST6, SERVER4, SERVER6},
    },
};

use crate::firewall::{Chain, address, connects, elements, publish, route_to_pods};

/// Two bridges with two pods each.
struct Scene<'h> {
    host: &'h Host,
    /// On br22.
    here: [(Pod, Value); 2],
    /// On br23.
    there: [(Pod, Value); 2],
    chains: [Chain<'h>; 2],
}

/// `keys` of the firewall on each of the two bridges.
fn scene<'h>(host: &'h Host, keys: [Value; 2]) -> Scene<'h> {
    let [first, second] = keys;
    let base = Chain::new(host, json!({}));
    let chains = [base.other("n22", 22).with(first), base.other("n23", 23).with(second)];
    for number in [22, 23] {
        route_to_pods(host, number);
    }
    let attach = |chain: &Chain<'_>| {
        [(); 2].map(|()| {
            let pod = host.pod();
            let result = chain.add(&pod);
            chain.call(&pod, &result).check().ok();
            (pod, result)
        })
    };
    let (here, there) = (attach(&chains[0]), attach(&chains[1]));
    Scene { host, here, there, chains }
}

/// Sets whether frames between ports of a bridge pass by the hooks of IP; skips the test where they never do.
fn set_bridge_nf(host: &Host, value: u8) {
    for name in ["iptables", "ip6tables"] {
        if host.try_run(&format!("sysctl -w net.bridge.bridge-nf-call-{name}={value}")).is_err() {
            tests::skip("the kernel has no br_netfilter");
        }
    }
}

fn assert_who(from: &impl Place, to: &Value, reaches: bool) {
    for family in [4, 6] {
        if reaches {
            assert_reaches(from, &address(to, family));
        } else {
            assert_silent(from, &address(to, family));
        }
    }
}

/// What holds for every policy: the host and the outside reach the pods, and these them.
fn assert_outside_passes(scene: &Scene<'_>) {
    for (pod, result) in scene.here.iter().chain(&scene.there) {
        assert_who(scene.host, result, true);
        assert_who(scene.host.outside(), result, true);
        for server in [SERVER4, SERVER6, HOST4, HOST6] {
            assert_reaches(pod, server);
        }
    }
}

/// Who reaches whom with this policy on both bridges: a sibling, and a pod of the other bridge.
fn matrix(policy: &str, sibling: bool, across: bool) {
    for bridge_nf in [0, 1] {
        let host = Host::new();
        set_bridge_nf(&host, bridge_nf);
        let keys = || json!({ "ingressPolicy": policy });
        let scene = scene(&host, [keys(), keys()]);
        assert_outside_passes(&scene);
        for [(one, one_result), (other, other_result)] in [&scene.here, &scene.there] {
            assert_who(one, other_result, sibling);
            assert_who(other, one_result, sibling);
        }
        assert_who(&scene.here[0].0, &scene.there[0].1, across);
        assert_who(&scene.there[1].0, &scene.here[1].1, across);
    }
}

#[test]
fn open_lets_everyone_in() {
    case(|| matrix("open", true, true));
}

#[test]
fn same_bridge_keeps_other_bridges_out() {
    case(|| matrix("same-bridge", true, false));
}

#[test]
fn isolated_keeps_siblings_out_too() {
    case(|| matrix("isolated", false, false));
}

#[test]
fn a_bridge_without_policy_reaches_one_that_has_one() {
    case(|| {
        let host = Host::new();
        let scene = scene(&host, [json!({ "ingressPolicy": "same-bridge" }), json!({})]);
        assert_who(&scene.there[0].0, &scene.here[0].1, true);
        assert_who(&scene.here[0].0, &scene.there[0].1, true);
    });
}

#[test]
fn policies_of_different_kinds_meet() {
    case(|| {
        let host = Host::new();
        let scene = scene(&host, [json!({ "ingressPolicy": "same-bridge" }), json!({ "ingressPolicy": "isolated" })]);
        assert_outside_passes(&scene);
        assert_who(&scene.here[0].0, &scene.here[1].1, true);
        assert_who(&scene.there[0].0, &scene.there[1].1, false);
        assert_who(&scene.here[0].0, &scene.there[0].1, false);
        assert_who(&scene.there[0].0, &scene.here[0].1, false);
    });
}

/// The way by the gateway, which frames between ports do not take.
#[test]
fn isolated_pods_do_not_reach_each_other_by_way_of_the_gateway() {
    case(|| {
        let host = Host::new();
        let scene = scene(&host, [json!({ "ingressPolicy": "isolated" }), json!({})]);
        let [(one, one_result), (other_pod, other)] = &scene.here;
        host.run("sysctl -qw net.ipv4.conf.all.send_redirects=0");
        for (pod, to) in [(one, other), (other_pod, one_result)] {
            pod.run(&format!("ip route add {}/32 via 10.22.0.1", address(to, 4)));
            pod.run(&format!("ip -6 route add {}/128 via fd00:22::1", address(to, 6)));
        }
        assert_who(one, other, false);
    });
}

#[test]
fn published_ports_of_policed_pods_are_reached_from_outside() {
    case(|| {
        for policy in ["same-bridge", "isolated"] {
            let host = Host::new();
            // The policy is not the backend's affair.
            host.run("iptables -P FORWARD DROP");
            host.run("ip6tables -P FORWARD DROP");
            let keys = || json!({ "ingressPolicy": policy });
            let scene = scene(&host, [keys(), keys()]);
            let pod = &scene.here[0].0;
            publish(&host, 8080, pod, 80);
            for of_host in [HOST4, HOST6] {
                assert!(connects(host.outside(), of_host, 8080, (pod, 80), PATIENCE), "{policy} {of_host}");
                // What the reference drops: a published port is no way around the policy.
                assert!(!connects(&scene.there[0].0, of_host, 8080, (pod, 80), SILENCE), "{policy} {of_host}");
            }
        }
    });
}

#[test]
fn the_last_pod_takes_its_bridge_with_it() {
    case(|| {
        let host = Host::new();
        let scene = scene(&host, [json!({ "ingressPolicy": "same-bridge" }), json!({ "ingressPolicy": "isolated" })]);
        let sets = |set: &str| {
            [elements(&host, "ip", set), elements(&host, "ip6", set)].map(|mut names| {
                names.sort();
                names
            })
        };
        assert_eq!(sets("fw-bridges"), [["br22", "br23"], ["br22", "br23"]]);
        assert_eq!(sets("fw-siblings"), [["br22 . br22"], ["br22 . br22"]]);
        assert_eq!(elements(&host, "bridge", "fw-isolated-ports").len(), 2);
        let [(first, first_result), (last, last_result)] = &scene.here;
        scene.chains[0].del(first, first_result);
        assert_eq!(sets("fw-bridges"), [["br22", "br23"], ["br22", "br23"]]);
        assert_who(last, &scene.there[0].1, false);
        // Without the result of ADD.
        scene.chains[0].bare(last).del().ok();
        assert_eq!(sets("fw-bridges"), [["br23"], ["br23"]]);
        assert_who(last, &scene.there[0].1, true);
        scene.chains[0].call(last, last_result).del().ok();
        for (pod, _) in &scene.there {
            scene.chains[1].bare(pod).del().ok();
        }
        for set in ["fw-bridges", "fw-siblings", "fw-same-bridge", "fw-isolated", "fw-pods"] {
            assert_eq!(sets(set), [[""; 0]; 2], "{set}");
        }
        assert!(elements(&host, "bridge", "fw-isolated-ports").is_empty());
    });
}

#[test]
fn the_stricter_policy_of_a_bridge_holds_while_it_has_pods() {
    case(|| {
        let host = Host::new();
        set_bridge_nf(&host, 1);
        let chain = Chain::new(&host, json!({ "ingressPolicy": "same-bridge" }));
        let strict = chain.with(json!({ "ingressPolicy": "isolated" }));
        let (one, two, three) = (host.pod(), host.pod(), host.pod());
        let (one_result, two_result, three_result) = (chain.add(&one), chain.add(&two), strict.add(&three));
        assert_who(&one, &two_result, false);
        strict.del(&three, &three_result);
        assert_who(&one, &two_result, true);
        chain.del(&one, &one_result);
        assert_eq!(elements(&host, "ip", "fw-siblings"), ["br0 . br0"]);
    });
}

/// As after a change of the config: those attached before it keep what they had.
#[test]
fn isolated_pods_are_so_from_all_pods_of_their_bridge() {
    case(|| {
        for bridge_nf in [0, 1] {
            let host = Host::new();
            set_bridge_nf(&host, bridge_nf);
            route_to_pods(&host, 22);
            let open = Chain::new(&host, json!({}));
            let (same, isolated) = (json!({ "ingressPolicy": "same-bridge" }), json!({ "ingressPolicy": "isolated" }));
            let (any, friend, alone) = (host.pod(), host.pod(), host.pod());
            let any_result = open.add(&any);
            let friend_result = open.with(same).add(&friend);
            let alone_result = open.with(isolated).add(&alone);
            for (pod, result) in [(&any, &any_result), (&friend, &friend_result)] {
                assert_who(pod, &alone_result, false);
                assert_who(&alone, result, false);
            }
            // br_netfilter shows these to a chain that cannot tell the ports of a bridge.
            assert_who(&any, &friend_result, bridge_nf == 0);
            assert_who(&friend, &any_result, bridge_nf == 0);
            assert_who(&host, &alone_result, true);
            for server in [SERVER4, SERVER6, HOST4, HOST6] {
                assert_reaches(&alone, server);
            }
        }
    });
}

#[test]
fn a_second_add_takes_the_place_of_the_first() {
    case(|| {
        let host = Host::new();
        let chain = Chain::new(&host, json!({ "ingressPolicy": "isolated" }));
        let pod = host.pod();
        let result = chain.add(&pod);
        let sets = || {
            let of = |family: &str, set: &str| elements(&host, family, set).len();
            let ip = ["fw-isolated", "fw-same-bridge", "fw-siblings", "fw-bridges", "fw-pods"];
            let mut all: Vec<usize> = ip.iter().map(|set| of("ip", set) + of("ip6", set)).collect();
            all.push(of("bridge", "fw-isolated-ports"));
            all
        };
        assert_eq!(sets(), [2, 0, 0, 2, 2, 1]);
        for (policy, expected) in
            [("same-bridge", [0, 2, 2, 2, 2, 0]), ("open", [0, 0, 0, 0, 2, 0]), ("isolated", [2, 0, 0, 2, 2, 1])]
        {
            let changed = chain.with(json!({ "ingressPolicy": policy }));
            changed.call(&pod, &result).add().ok();
            assert_eq!(sets(), expected, "{policy}");
            changed.call(&pod, &result).check().ok();
        }
        // Without one of its addresses.
        let one = with(&result, json!({ "ips": [result["ips"][0]] }));
        chain.call(&pod, &one).add().ok();
        assert_eq!(sets(), [1, 0, 0, 1, 1, 1]);
        chain.bare(&pod).del().ok();
        assert_eq!(sets(), [0; 6]);
    });
}

#[test]
fn what_is_mended_is_there_once() {
    case(|| {
        let host = Host::new();
        let chain = Chain::new(&host, json!({ "ingressPolicy": "isolated" }));
        let pod = host.pod();
        let result = chain.add(&pod);
        let chains = [("ip", "fw-forward"), ("ip6", "fw-ingress"), ("bridge", "fw-isolation")];
        let list = || chains.map(|(family, chain)| host.run(&format!("nft -s list chain {family} oxbridge {chain}")));
        let before = list();
        host.run("nft insert rule ip oxbridge fw-forward counter comment mine");
        for (family, chain) in chains {
            let listed = host.run(&format!("nft -a list chain {family} oxbridge {chain}"));
            let last = listed.lines().rfind(|line| line.contains("comment")).unwrap();
            let handle = last.rsplit(' ').next().unwrap();
            host.run(&format!("nft delete rule {family} oxbridge {chain} handle {handle}"));
        }
        chain.call(&pod, &result).add().ok();
        chain.call(&pod, &result).check().ok();
        let now = list();
        assert!(now[0].contains("comment \"mine\""), "what is not ours stays: {}", now[0]);
        let without_it: String =
            now[0].lines().filter(|line| !line.contains("mine")).map(|line| format!("{line}\n")).collect();
        assert_eq!([without_it.trim(), now[1].trim(), now[2].trim()], before.each_ref().map(|text| text.trim()));
    });
}

#[test]
fn a_set_of_another_type_is_said_to_be_one() {
    case(|| {
        let host = Host::new();
        host.run("nft add table ip oxbridge");
        host.run("nft add set ip oxbridge fw-pods { type inet_service ; }");
        let chain = Chain::new(&host, json!({}));
        let pod = host.pod();
        let result = chain.connect(&pod);
        chain.call(&pod, &result).add().failure().is(999, "another type|nft list ruleset");
    });
}

#[test]
fn what_is_no_bridge_is_refused_with_nothing_done() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let chain = Chain::new(&host, json!({ "ingressPolicy": "isolated" }));
        let result = chain.connect(&pod);
        let before = host.snapshot();
        let without = |keys: Value| with(&result, keys);
        let reversed: Vec<Value> = result["interfaces"].as_array().unwrap().iter().rev().cloned().collect();
        for (previous, fragment) in [
            (without(json!({ "interfaces": null, "ips": [{ "address": "10.22.0.2/24" }] })), "no bridge"),
            (without(json!({ "interfaces": [{ "name": "br-none" }], "ips": [] })), "br-none"),
            (without(json!({ "interfaces": reversed, "ips": [] })), "is no bridge"),
            (without(json!({ "interfaces": [{ "name": "br0" }], "ips": [] })), "no port"),
        ] {
            chain.call(&pod, &previous).add().failure().is(999, fragment);
            host.assert_nothing_made(&before);
        }
        let wrong = chain.with(json!({ "ingressPolicy": "closed" }));
        wrong.call(&pod, &result).add().failure().is(999, "closed|same-bridge");
        host.assert_nothing_made(&before);
        wrong.call(&pod, &result).del().ok();
    });
}

#[test]
fn check_sees_what_is_missing_of_a_policy() {
    case(|| {
        let host = Host::new();
        let chain = Chain::new(&host, json!({ "ingressPolicy": "isolated" }));
        let pod = host.pod();
        let result = chain.add(&pod);
        let check = || chain.call(&pod, &result).check();
        check().ok();
        for (harm, fragment) in [
            ("nft flush set ip oxbridge fw-bridges", "fw-bridges"),
            ("nft flush set ip oxbridge fw-isolated", "fw-isolated"),
            ("nft flush set bridge oxbridge fw-isolated-ports", "fw-isolated-ports"),
            ("nft flush chain ip6 oxbridge fw-ingress", "fw-ingress"),
            ("nft flush chain bridge oxbridge fw-isolation", "fw-isolation"),
        ] {
            host.run(harm);
            check().failure().is(999, fragment);
            // And ADD mends it.
            chain.call(&pod, &result).add().ok();
            check().ok();
        }
        host.run("nft add element ip oxbridge fw-siblings { br0 . br0 }");
        check().failure().is(999, "fw-siblings has an");
        let siblings = chain.with(json!({ "ingressPolicy": "same-bridge" }));
        siblings.call(&pod, &result).add().ok();
        host.run("nft flush set ip oxbridge fw-siblings");
        siblings.call(&pod, &result).check().failure().is(999, "fw-siblings has no");
        siblings.call(&pod, &result).add().ok();
        siblings.call(&pod, &result).check().ok();
    });
}

/// Rules of the reference stay in force for the pods it attached.
#[test]
fn pods_of_the_reference_with_a_policy_pass_check() {
    case(|| {
        let host = Host::new();
        let chain = Chain::new(&host, json!({ "ingressPolicy": "same-bridge" }));
        let pod = host.pod();
        let result = chain.connect(&pod);
        host.reference("firewall").pod(&pod).config_with(&chain.firewall, &result).add().ok();
        chain.call(&pod, &result).check().ok();
        chain.call(&pod, &result).del().ok();
        let left = host.run("iptables -S CNI-FORWARD");
        assert!(!left.contains(&address(&result, 4)), "{left}");
    });
}

#[test]
fn a_pod_without_addresses_can_be_isolated() {
    case(|| {
        let host = Host::new();
        let mut chain = Chain::new(&host, json!({ "ingressPolicy": "isolated" }));
        chain.network = config::layer2();
        let pods: [Pod; 2] = [host.pod(), host.pod()];
        let results = pods.each_ref().map(|pod| chain.add(pod));
        let own = |pod: &Pod, address: &str| pod.run(&format!("ip address add {address}/24 dev eth0"));
        own(&pods[0], "10.9.0.1");
        own(&pods[1], "10.9.0.2");
        assert_silent(&pods[0], "10.9.0.2");
        chain.call(&pods[1], &results[1]).del().ok();
        assert_silent(&pods[0], "10.9.0.2");
        chain.call(&pods[0], &results[0]).del().ok();
        assert_reaches(&pods[0], "10.9.0.2");
    });
}
