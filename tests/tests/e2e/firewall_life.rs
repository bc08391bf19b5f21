//! The life of a pod's rules: whose they are, what takes them away, what notices that they are gone.

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::{
    Host, Place, Pod, Reply, case,
    config::{self, with},
    plugin::{full, unread},
    settings::not_for_reference,
    traffic::{assert_reaches, assert_silent, outside::SERVER4, outside::SERVER6},
};

use crate::firewall::{CHAIN, Chain, address, elements, rules};

fn drop_by_iptables(host: &Host) {
    for program in ["iptables", "ip6tables"] {
        host.run(&format!("{program} -P FORWARD DROP"));
    }
}

/// Lines of the pods in all chains and sets.
fn left(host: &Host) -> Vec<String> {
    let mut all = Vec::new();
    for program in ["iptables", "ip6tables"] {
        all.extend(rules(host, program, CHAIN).into_iter().filter(|rule| !rule.contains("CNI-ADMIN")));
    }
    for family in ["ip", "ip6"] {
        for set in ["fw-pods", "fw-firewalld"] {
            all.extend(elements(host, family, set));
        }
    }
    all
}

/// GC with this list of valid attachments (`null`: without a list).
fn gc(chain: &Chain<'_>, valid: Value) -> Reply {
    let keys = json!({ "cniVersion": "1.1.0", "cni.dev/valid-attachments": valid });
    let reply = chain.host.plugin("firewall").verb("GC").config(&with(&chain.firewall, keys)).run();
    assert_eq!(reply.ok().stdout, "");
    reply
}

/// On a host that drops nothing, and on one where iptables does.
fn on_both_hosts(test: impl Fn(&Host)) {
    for drops in [false, true] {
        let host = Host::new();
        host.outside();
        if drops {
            drop_by_iptables(&host);
        }
        test(&host);
    }
}

/// A way to call DEL.
type Form<'a> = Box<dyn Fn(&Pod, &Value) -> Reply + 'a>;

#[test]
fn del_needs_neither_result_nor_namespace_nor_a_valid_config() {
    case(|| {
        on_both_hosts(|host| {
            let chain = &Chain::new(host, json!({}));
            chain.warm_up();
            let before = host.snapshot();
            let mut forms: Vec<Form<'_>> = Vec::new();
            forms.push(Box::new(|pod, result| chain.call(pod, result).del()));
            forms.push(Box::new(|pod, _| chain.bare(pod).del()));
            forms.push(Box::new(|pod, _| chain.bare(pod).netns("").del()));
            forms.push(Box::new(|pod, _| chain.bare(pod).netns("/run/netns/nowhere").del()));
            forms.push(Box::new(|pod, _| chain.call(pod, &json!({ "ips": "none" })).del()));
            forms.push(Box::new(|pod, _| chain.call(pod, &json!(7)).del()));
            let keys =
                json!({ "backend": "none", "ingressPolicy": 5, "iptablesAdminChainName": [], "firewalldZone": {} });
            forms.push(Box::new(move |pod, _| chain.with(keys.clone()).bare(pod).del()));
            for form in forms {
                let pod = host.pod();
                let result = chain.add(&pod);
                assert!(!left(host).is_empty());
                form(&pod, &result).ok();
                assert!(left(host).is_empty(), "{:#?}", left(host));
                // Once more.
                form(&pod, &result).ok();
                chain.host.plugin("bridge").pod(&pod).config(&chain.network).del().ok();
            }
            host.assert_as(&before);
        });
    });
}

#[test]
fn a_late_del_leaves_the_address_to_its_new_pod() {
    case(|| {
        on_both_hosts(|host| {
            let chain = Chain::new(host, json!({}));
            let (old, new) = (host.pod(), host.pod());
            let result = chain.add(&old);
            // The old one is gone, and its address is given again; nobody has called DEL of the firewall.
            host.plugin("bridge").pod(&old).config(&chain.network).del().ok();
            let ipam = json!({ "ipam": { "type": "static", "ranges": null, "addresses":
                result["ips"].as_array().unwrap().iter().map(|ip| json!({ "address": ip["address"], "gateway": ip["gateway"] })).collect::<Vec<_>>() } });
            let again = host.plugin("bridge").pod(&new).config(&with(&chain.network, ipam)).add().result();
            assert_eq!(address(&again, 4), address(&result, 4));
            chain.call(&new, &again).add().ok();
            chain.call(&old, &result).del().ok();
            chain.bare(&old).del().ok();
            chain.call(&new, &again).check().ok();
            for server in [SERVER4, SERVER6] {
                assert_reaches(&new, server);
            }
            assert!(!left(host).iter().any(|line| line.contains(&format!(" {} ", old.id))));
            chain.bare(&new).del().ok();
            assert!(left(host).is_empty(), "{:#?}", left(host));
        });
    });
}

#[test]
fn one_of_two_attachments_can_go() {
    case(|| {
        on_both_hosts(|host| {
            let chain = Chain::new(host, json!({}));
            let mut pod = host.pod();
            let first = chain.add(&pod);
            pod.ifname = "net1".to_owned();
            let mut second_network = Chain::new(host, json!({}));
            second_network.network = with(&chain.network, json!({ "ipam": { "routes": null } }));
            let second = second_network.add(&pod);
            "eth0".clone_into(&mut pod.ifname);
            assert_reaches(&pod, SERVER4);
            pod.ifname = "net1".to_owned();
            chain.call(&pod, &second).del().ok();
            "eth0".clone_into(&mut pod.ifname);
            chain.call(&pod, &first).check().ok();
            assert_reaches(&pod, SERVER4);
            let left = left(host);
            assert!(left.iter().any(|line| line.contains(&address(&first, 4))), "{left:#?}");
            assert!(!left.iter().any(|line| line.contains(&address(&second, 4))), "{left:#?}");
        });
    });
}

#[test]
fn gc_takes_exactly_what_is_not_in_the_list() {
    case(|| {
        on_both_hosts(|host| {
            let chain = Chain::new(host, json!({ "ingressPolicy": "same-bridge" }));
            let other = chain.other("other", 23);
            let pods: Vec<Pod> = (0..3).map(|_| host.pod()).collect();
            let results: Vec<Value> = pods.iter().map(|pod| chain.add(pod)).collect();
            let foreign = host.pod();
            let foreign_result = other.add(&foreign);
            gc(&chain, Value::Null);
            assert_eq!(elements(host, "ip", "fw-pods").len(), 4);
            let said = gc(&chain, json!([{ "containerID": pods[1].id, "ifname": "eth0" }])).stderr;
            // They were alive: somebody will want to know.
            assert!(said.contains(&pods[0].id) && said.contains(&pods[2].id) && !said.contains(&pods[1].id), "{said}");
            chain.call(&pods[1], &results[1]).check().ok();
            other.call(&foreign, &foreign_result).check().ok();
            assert_reaches(&pods[1], SERVER4);
            for gone in [0, 2] {
                let ip = address(&results[gone], 4);
                assert!(!left(host).iter().any(|line| line.contains(&ip)), "{:#?}", left(host));
            }
            gc(&chain, json!([]));
            assert_eq!(elements(host, "ip", "fw-pods"), [address(&foreign_result, 4)]);
            assert_eq!(elements(host, "ip", "fw-bridges"), ["br23"]);
            assert_reaches(&foreign, SERVER4);
        });
    });
}

#[test]
fn check_sees_what_is_missing() {
    case(|| {
        let host = Host::new();
        drop_by_iptables(&host);
        let chain = Chain::new(&host, json!({}));
        let pod = host.pod();
        let result = chain.add(&pod);
        let check = || chain.call(&pod, &result).check();
        let ip = address(&result, 4);
        for (harm, fragment) in [
            ("nft flush set ip oxbridge fw-pods".to_owned(), "fw-pods"),
            ("nft flush chain ip6 oxbridge fw-forward".to_owned(), "fw-forward"),
            ("iptables -D CNI-FORWARD 2".to_owned(), ip.as_str()),
            ("ip6tables -D FORWARD 1".to_owned(), "no jump to CNI-FORWARD"),
            ("iptables -D CNI-FORWARD 1".to_owned(), "no jump to CNI-ADMIN"),
        ] {
            check().ok();
            host.run(&harm);
            check().failure().is(999, fragment);
            chain.call(&pod, &result).add().ok();
        }
        check().ok();
        // Docker is installed while the pod runs.
        let host = Host::new();
        let chain = Chain::new(&host, json!({}));
        let result = chain.add(&pod_of(&host));
        drop_by_iptables(&host);
        chain.call(&pod_of(&host), &result).check().failure().is(999, "CNI-FORWARD");
    });
}

/// Always the same pod of a host that has no other.
fn pod_of(host: &Host) -> Pod {
    let mut pod = host.pod();
    "the-pod".clone_into(&mut pod.id);
    pod
}

#[test]
fn a_result_is_needed_and_passes_through_in_every_version() {
    case(|| {
        let host = Host::new();
        for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
            let mut chain = Chain::new(&host, json!({ "cniVersion": version }));
            chain.network = with(&chain.network, json!({ "cniVersion": version }));
            let pod = host.pod();
            let bare = chain.bare(&pod).add();
            bare.failure().is(999, "missing prevResult from earlier plugin");
            let result = chain.add(&pod);
            if version >= "0.4.0" {
                chain.call(&pod, &result).check().ok();
                chain.bare(&pod).check().failure().is(999, "missing prevResult from earlier plugin");
            }
            assert_eq!(elements(&host, "ip", "fw-pods").len(), 1, "{version}");
            chain.del(&pod, &result);
            assert!(left(&host).is_empty());
        }
    });
}

#[test]
fn an_add_that_fails_leaves_nothing() {
    case(|| {
        on_both_hosts(|host| {
            let chain = Chain::new(host, json!({ "ingressPolicy": "isolated" }));
            chain.warm_up();
            let pod = host.pod();
            let result = chain.connect(&pod);
            let before = host.snapshot();
            let filter = || [rules(host, "iptables", CHAIN), rules(host, "ip6tables", CHAIN)];
            let filter_before = filter();
            chain.call(&pod, &result).stdout(full()).add();
            host.assert_as(&before);
            chain.call(&pod, &result).stdout(unread()).add();
            host.assert_as(&before);
            let closed = chain.call(&pod, &result).under(&["sh", "-c", "exec \"$0\" >&-"]).add();
            assert!(!closed.status.success());
            host.assert_as(&before);
            assert_eq!(filter(), filter_before);
            // An earlier ADD of the same attachment has succeeded: its rules stay.
            chain.call(&pod, &result).add().ok();
            chain.call(&pod, &result).stdout(full()).add();
            chain.call(&pod, &result).check().ok();
        });
    });
}

#[test]
fn a_program_that_is_missing_or_fails_undoes_everything() {
    case(|| {
        let host = Host::new();
        drop_by_iptables(&host);
        let chain = Chain::new(&host, json!({}));
        chain.warm_up();
        let pod = host.pod();
        let result = chain.connect(&pod);
        let before = host.snapshot();
        chain.call(&pod, &result).env("PATH", "").add().failure().is(999, "ip filter|iptables");
        host.assert_as(&before);
        host.write("/run/test/bin/iptables-nft-restore", "#!/bin/sh\necho no room >&2\nexit 1\n");
        host.run("chmod +x /run/test/bin/iptables-nft-restore");
        chain.call(&pod, &result).env("PATH", "/run/test/bin:/usr/bin:/bin").add().failure().is(999, "no room");
        host.assert_as(&before);
    });
}

#[test]
fn the_plain_program_works_where_the_other_cannot_be_started() {
    case(|| {
        not_for_reference("it starts the plain programs only");
        let host = Host::new();
        drop_by_iptables(&host);
        let chain = Chain::new(&host, json!({}));
        let pod = host.pod();
        let result = chain.connect(&pod);
        for stem in ["iptables", "ip6tables"] {
            // 0644: none may run it.
            host.write(&format!("/run/test/bin/{stem}-nft-restore"), "no program\n");
            host.run(&format!("ln -s /usr/sbin/{stem}-nft-restore /run/test/bin/{stem}-restore"));
        }
        let call = || chain.call(&pod, &result).env("PATH", "/run/test/bin");
        call().add().ok();
        assert!(left(&host).iter().any(|line| line.contains(&pod.id)));
        call().del().ok();
        assert!(left(&host).is_empty());
    });
}

#[test]
fn sigterm_undoes_everything() {
    case(|| {
        let host = Host::new();
        drop_by_iptables(&host);
        let chain = Chain::new(&host, json!({}));
        chain.warm_up();
        let pod = host.pod();
        let result = chain.connect(&pod);
        let before = host.snapshot();
        let slow = "#!/bin/sh\ntouch /run/test/started\nsleep 0.3\nexec /usr/sbin/iptables-nft-restore \"$@\"\n";
        host.write("/run/test/bin/iptables-nft-restore", slow);
        host.run("chmod +x /run/test/bin/iptables-nft-restore");
        let call = chain.call(&pod, &result).env("PATH", "/run/test/bin:/usr/sbin:/usr/bin:/bin");
        call.signal(Signal::SIGTERM, || host.exists("/run/test/started")).add().failure().is(11, "SIGTERM");
        host.assert_as(&before);
        assert!(!left(&host).iter().any(|line| line.contains(&pod.id)));
    });
}

#[test]
fn killed_at_any_moment_del_cleans() {
    case(|| {
        if std::process::Command::new("strace").arg("-V").output().is_err() {
            tests::skip("there is no strace");
        }
        let host = Host::new();
        let chain = Chain::new(&host, json!({ "ingressPolicy": "isolated" }));
        chain.warm_up();
        let pod = host.pod();
        let result = chain.connect(&pod);
        let before = host.snapshot();
        let mut killed = 0;
        for call in 1.. {
            let inject = format!("inject=sendto,sendmsg:signal=KILL:when={call}");
            let strace = ["strace", "-qq", "-e", "trace=sendto,sendmsg", "-e", &inject, "-o", "/dev/null"];
            let reply = chain.call(&pod, &result).under(&strace).add();
            chain.bare(&pod).del().ok();
            let diff = before.diff(&host.snapshot());
            assert!(diff.is_empty(), "killed at request {call}:\n{diff}");
            if reply.status.success() {
                break;
            }
            killed = call;
        }
        assert!(killed > 5, "it was killed {killed} times only");
    });
}

#[test]
fn what_the_reference_made_for_a_pod_is_removed_by_ours() {
    case(|| {
        on_both_hosts(|host| {
            let chain = Chain::new(host, json!({}));
            let (theirs, other, ours) = (host.pod(), host.pod(), host.pod());
            let result = chain.connect(&theirs);
            let reference = |pod: &Pod, result: &Value| {
                host.reference("firewall").pod(pod).config_with(&chain.firewall, result).add().ok();
            };
            reference(&theirs, &result);
            let other_result = chain.connect(&other);
            reference(&other, &other_result);
            chain.call(&theirs, &result).check().ok();
            let our_result = chain.add(&ours);
            chain.call(&theirs, &result).del().ok();
            let now = rules(host, "iptables", CHAIN);
            assert!(!now.iter().any(|rule| rule.contains(&address(&result, 4))), "{now:#?}");
            assert_eq!(now.iter().filter(|rule| rule.contains(&address(&other_result, 4))).count(), 2, "{now:#?}");
            chain.call(&other, &other_result).check().ok();
            chain.call(&ours, &our_result).check().ok();
            assert_reaches(&ours, SERVER4);
            assert_reaches(&other, SERVER4);
        });
    });
}

#[test]
fn an_administrators_rule_about_a_pod_is_not_the_references() {
    case(|| {
        let host = Host::new();
        drop_by_iptables(&host);
        let chain = Chain::new(&host, json!({}));
        let pod = host.pod();
        let result = chain.add(&pod);
        let ip = address(&result, 4);
        let mut made = 0;
        for rule in [
            "-s IP -j DROP",
            "-s IP -p tcp -j ACCEPT",
            "-i br0 -s IP -j ACCEPT",
            "-s IP -m limit --limit 1/s -j ACCEPT",
            "! -d IP -j ACCEPT",
            "-d IP -j ACCEPT",
            "-d IP -m conntrack --ctstate NEW -j ACCEPT",
            "-d IP -m conntrack --ctstate NEW,RELATED,ESTABLISHED -j ACCEPT",
            "-d IP -m conntrack ! --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "-s IP -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            "-s IP -m comment --comment mine -j ACCEPT",
            "-d IP -m time --timestart 10:00 -j ACCEPT",
            "-d IP -m connlimit --connlimit-upto 3 -j ACCEPT",
        ] {
            made += usize::from(host.try_run(&format!("iptables -A {CHAIN} {}", rule.replace("IP", &ip))).is_ok());
        }
        assert!(made >= 9, "{made} only");
        host.run("nft flush set ip oxbridge fw-pods");
        host.run("nft flush set ip6 oxbridge fw-pods");
        host.run(&format!("iptables -D {CHAIN} 2"));
        chain.call(&pod, &result).check().failure().is(999, "of the 3 rules");
        let before = rules(&host, "iptables", CHAIN).len();
        // Its own two that are left; by the next call, which has only the address to go by, nothing.
        for _ in 0..2 {
            chain.call(&pod, &result).del().ok();
            let now = rules(&host, "iptables", CHAIN);
            assert_eq!(now.len(), before - 2, "{now:#?}");
        }
    });
}

#[test]
fn a_late_del_leaves_the_references_rules_to_its_new_pod() {
    case(|| {
        on_both_hosts(|host| {
            let chain = Chain::new(host, json!({}));
            let (old, new) = (host.pod(), host.pod());
            let result = chain.add(&old);
            // Nobody has called DEL; the reference, which knows nothing of it, has given the address again.
            host.reference("firewall").pod(&new).config_with(&chain.firewall, &result).add().ok();
            let of_reference = || {
                let ip = address(&result, 4);
                rules(host, "iptables", CHAIN).iter().filter(|r| r.contains(&ip) && !r.contains("comment")).count()
            };
            assert_eq!(of_reference(), 2);
            chain.call(&old, &result).del().ok();
            assert_eq!(of_reference(), 2);
            assert!(!left(host).iter().any(|line| line.contains(&old.id)));
            chain.call(&new, &result).del().ok();
            assert_eq!(of_reference(), 0);
        });
    });
}

#[test]
fn status_says_whether_pods_could_be_let_in() {
    case(|| {
        let host = Host::new();
        let status = |keys: Value, path: &str| {
            let config = with(&crate::firewall::config(), with(&json!({ "cniVersion": "1.1.0" }), keys));
            host.plugin("firewall").verb("STATUS").config(&config).env("PATH", path).run()
        };
        let path = "/usr/sbin:/usr/bin:/sbin:/bin";
        status(json!({}), "").ok();
        status(json!({ "ingressPolicy": "isolated", "backend": "nftables" }), "").ok();
        status(json!({ "ingressPolicy": "none" }), path).failure().is(50, "none");
        status(json!({ "backend": "firewalld" }), path).failure().is(50, "firewalld");
        host.run("nft add table ip6 myfw");
        host.run("nft add chain ip6 myfw onward { type filter hook forward priority 0 ; policy drop ; }");
        // No reason for a runtime to take the node for one that cannot run pods.
        let reply = status(json!({}), path);
        assert!(reply.ok().stderr.contains("ip6 myfw onward"), "{reply}");
        host.run("mkdir -p /run/test/ip4");
        for program in ["iptables-restore", "iptables-nft-restore"] {
            let path = host.run(&format!("readlink -f /usr/sbin/{program}"));
            host.run(&format!("ln -s {} /run/test/ip4/{program}", path.trim()));
        }
        status(json!({ "backend": "iptables" }), "/run/test/ip4").ok();
        status(json!({ "backend": "iptables" }), "").failure().is(50, "ip filter|install iptables");
        host.run("iptables -P FORWARD DROP");
        status(json!({}), "").failure().is(50, "ip filter|install iptables");
        status(json!({ "backend": "nftables" }), path).failure().is(50, "ip filter FORWARD|iptables");
        host.run("nft add table inet myfw");
        host.run("nft add chain inet myfw forward { type filter hook forward priority 0 ; policy drop ; }");
        status(json!({}), path).failure().is(50, "inet myfw forward");
    });
}

#[test]
fn few_programs_are_started() {
    case(|| {
        if std::process::Command::new("strace").arg("-V").output().is_err() {
            tests::skip("there is no strace");
        }
        on_both_hosts(|host| {
            let is_dropping = host.run("iptables -S FORWARD").contains("DROP");
            let chain = Chain::new(host, json!({ "ingressPolicy": "isolated" }));
            let pod = host.pod();
            let result = chain.connect(&pod);
            let strace = ["strace", "-f", "-qq", "-e", "trace=execve", "-e", "signal=none", "-o", "/run/test/trace"];
            for (verb, expected) in [("ADD", if is_dropping { 2 } else { 0 }), ("CHECK", 0), ("DEL", 0)] {
                chain.call(&pod, &result).under(&strace).verb(verb).run().ok();
                let trace = host.read("/run/test/trace").unwrap();
                let started = trace.lines().filter(|line| line.ends_with(" = 0")).count();
                assert_eq!(started - 1, expected, "{verb}: {trace}");
            }
        });
    });
}

#[test]
fn an_unknown_backend_is_taken_as_none_and_said() {
    case(|| {
        let host = Host::new();
        let chain = Chain::new(&host, json!({ "backend": "ipvs" }));
        let pod = host.pod();
        let result = chain.connect(&pod);
        let reply = chain.call(&pod, &result).add();
        assert!(reply.ok().stderr.contains("ipvs"), "{reply}");
        chain.call(&pod, &result).check().ok();
    });
}

#[test]
fn values_that_cannot_be_are_refused_with_nothing_done() {
    case(|| {
        let host = Host::new();
        let chain = Chain::new(&host, json!({}));
        let pod = host.pod();
        let result = chain.connect(&pod);
        let before = host.snapshot();
        for (keys, code, fragment) in [
            (json!({ "ingressPolicy": "closed" }), 999, "closed|same-bridge"),
            (json!({ "iptablesAdminChainName": "a chain" }), 999, "a chain"),
            (json!({ "iptablesAdminChainName": "CNI-FORWARD" }), 999, "CNI-FORWARD"),
            (json!({ "iptablesAdminChainName": 5 }), 999, "iptablesAdminChainName"),
            (json!({ "backend": true }), 999, "backend"),
            (json!({ "firewalldZone": [] }), 999, "firewalldZone"),
            (json!({ "prevResult": { "ips": [{ "address": "nonsense" }] } }), 999, "prevResult"),
        ] {
            let config = with(&with(&chain.firewall, json!({ "prevResult": result })), keys);
            host.plugin("firewall").pod(&pod).config(&config).add().failure().is(code, fragment);
            host.assert_nothing_made(&before);
        }
    });
}

/// The whole chain of podman, by `cnitool`.
#[test]
fn a_chain_runs_under_cnitool() {
    case(|| {
        let host = Host::new();
        host.outside();
        drop_by_iptables(&host);
        let list = json!({ "cniVersion": "1.1.0", "name": "net", "plugins": [
            with(&config::everything(), json!({ "cniVersion": null, "name": null })),
            { "type": "firewall", "ingressPolicy": "same-bridge" },
        ] });
        let network = tests::Network::of_list(&host, &list);
        let pod = host.pod();
        network.call("status", &pod).run().ok();
        network.add(&pod).ok();
        network.check(&pod).ok();
        assert_reaches(&pod, SERVER4);
        network.del(&pod).ok();
        assert!(left(&host).is_empty());
        let pod = host.pod();
        network.add(&pod).ok();
        network.call("gc", &pod).run().ok();
        network.del(&pod).ok();
        assert!(left(&host).is_empty());
    });
}

#[test]
fn a_pod_goes_silent_where_the_policy_drops_and_it_was_deleted() {
    case(|| {
        let host = Host::new();
        host.outside();
        drop_by_iptables(&host);
        let chain = Chain::new(&host, json!({}));
        let pod = host.pod();
        chain.add(&pod);
        assert_reaches(&pod, SERVER4);
        gc(&chain, json!([]));
        assert_silent(&pod, SERVER4);
    });
}
