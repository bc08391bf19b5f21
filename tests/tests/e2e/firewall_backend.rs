//! Where pods are let in: what forwards, what drops, and what is done about it.

use serde_json::{Value, json};
use tests::{
    Host, Place, case,
    traffic::{
        PATIENCE, assert_reaches, assert_silent,
        outside::{HOST4, HOST6, SERVER4, SERVER6},
    },
};

use crate::firewall::{CHAIN, Chain, address, connects, elements, publish, route_to_pods, rules};

/// Docker's way, and ufw's.
fn drop_by_iptables(host: &Host) {
    for program in ["iptables", "ip6tables"] {
        host.run(&format!("{program} -P FORWARD DROP"));
    }
}

#[test]
fn a_host_that_drops_nothing_needs_no_program() {
    case(|| {
        let host = Host::new();
        host.outside();
        let chain = Chain::new(&host, json!({}));
        let pod = host.pod();
        let result = chain.connect(&pod);
        assert_eq!(chain.call(&pod, &result).env("PATH", "").add().result(), result);
        chain.call(&pod, &result).env("PATH", "").check().ok();
        for server in [SERVER4, SERVER6] {
            assert_reaches(&pod, server);
        }
        assert_eq!(elements(&host, "ip", "fw-pods"), [address(&result, 4)]);
        assert_eq!(elements(&host, "ip6", "fw-pods"), [address(&result, 6)]);
        assert!(host.try_run("iptables -S CNI-FORWARD").is_err(), "nothing is written into ip filter");
        chain.call(&pod, &result).env("PATH", "").del().ok();
        assert!(elements(&host, "ip", "fw-pods").is_empty());
    });
}

#[test]
fn with_dockers_forward_policy_pods_pass() {
    case(|| {
        let host = Host::new();
        drop_by_iptables(&host);
        route_to_pods(&host, 22);
        let chain = Chain::new(&host, json!({}));
        let pod = host.pod();
        let result = chain.connect(&pod);
        assert_silent(&pod, SERVER4);
        chain.call(&pod, &result).add().ok();
        chain.call(&pod, &result).check().ok();
        for server in [SERVER4, SERVER6] {
            assert_reaches(&pod, server);
        }
        // Nobody has asked for what comes from outside, but for what is published.
        assert_silent(host.outside(), &address(&result, 4));
        assert_silent(host.outside(), &address(&result, 6));
        publish(&host, 8080, &pod, 80);
        for of_host in [HOST4, HOST6] {
            assert!(connects(host.outside(), of_host, 8080, (&pod, 80), PATIENCE), "{of_host}: the published port");
        }
        chain.call(&pod, &result).del().ok();
        assert_silent(&pod, SERVER4);
        for program in ["iptables", "ip6tables"] {
            assert_eq!(rules(&host, program, CHAIN).len(), 1, "the jump to the administrator's chain stays");
        }
    });
}

#[test]
fn in_front_of_the_chains_of_ufw_and_docker_pods_pass() {
    case(|| {
        for chains in [
            &[
                "-N ufw-before-forward",
                "-N ufw-reject-forward",
                "-A ufw-before-forward -p icmp -j DROP",
                "-A FORWARD -j ufw-before-forward",
                "-A ufw-reject-forward -j REJECT",
                "-A FORWARD -j ufw-reject-forward",
            ][..],
            &[
                "-N DOCKER-USER",
                "-N DOCKER-FORWARD",
                "-A FORWARD -j DOCKER-USER",
                "-A FORWARD -j DOCKER-FORWARD",
                "-A DOCKER-USER -j RETURN",
                "-A DOCKER-FORWARD -i docker0 -j ACCEPT",
            ][..],
        ] {
            let host = Host::new();
            host.outside();
            drop_by_iptables(&host);
            for rule in chains {
                host.run(&format!("iptables {rule}"));
            }
            let chain = Chain::new(&host, json!({}));
            let pod = host.pod();
            let result = chain.connect(&pod);
            assert_silent(&pod, SERVER4);
            chain.call(&pod, &result).add().ok();
            assert_reaches(&pod, SERVER4);
            chain.call(&pod, &result).del().ok();
            assert_silent(&pod, SERVER4);
        }
    });
}

#[test]
fn the_chains_are_the_references() {
    case(|| {
        let host = Host::new();
        drop_by_iptables(&host);
        host.run("iptables -A FORWARD -s 192.168.77.0/24 -j ACCEPT");
        let chain = Chain::new(&host, json!({}));
        let (pod, other) = (host.pod(), host.pod());
        let result = chain.add(&pod);
        chain.add(&other);
        // Again, as a runtime may that was interrupted.
        chain.call(&pod, &result).add().ok();
        let ip = address(&result, 4);
        let forward = rules(&host, "iptables", "FORWARD");
        assert_eq!(forward.len(), 2, "{forward:#?}");
        assert_eq!(forward[0], "-A FORWARD -m comment --comment \"CNI firewall plugin rules\" -j CNI-FORWARD");
        let pods = rules(&host, "iptables", CHAIN);
        assert_eq!(pods[0], "-A CNI-FORWARD -m comment --comment \"CNI firewall plugin admin overrides\" -j CNI-ADMIN");
        let of_pod: Vec<_> = pods.iter().filter(|rule| rule.contains(&format!(" {ip}/32 "))).collect();
        assert_eq!(of_pod.len(), 3, "{pods:#?}");
        for (start, end) in [
            (format!("-A CNI-FORWARD -d {ip}/32 "), "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"),
            (format!("-A CNI-FORWARD -d {ip}/32 "), "-m conntrack --ctstate DNAT -j ACCEPT"),
            (format!("-A CNI-FORWARD -s {ip}/32 "), "-j ACCEPT"),
        ] {
            assert!(of_pod.iter().any(|rule| rule.starts_with(&start) && rule.ends_with(end)), "{of_pod:#?}");
        }
        assert!(of_pod.iter().all(|rule| rule.contains(&pod.id)), "they say whose they are: {of_pod:#?}");
    });
}

#[test]
fn the_administrators_chain_comes_first_and_is_never_touched() {
    case(|| {
        let host = Host::new();
        host.outside();
        drop_by_iptables(&host);
        host.run("iptables -N CNI-ADMIN");
        host.run(&format!("iptables -A CNI-ADMIN -d {SERVER4} -j DROP"));
        host.run("iptables -N MY-ADMIN");
        host.run(&format!("iptables -A MY-ADMIN -d {HOST4} -j RETURN"));
        let before = [rules(&host, "iptables", "CNI-ADMIN"), rules(&host, "iptables", "MY-ADMIN")];
        let chain = Chain::new(&host, json!({}));
        let pod = host.pod();
        let result = chain.add(&pod);
        assert_silent(&pod, SERVER4);
        assert_reaches(&pod, SERVER6);
        // Another name adds a jump in front, the old one stays.
        let renamed = chain.with(json!({ "iptablesAdminChainName": "MY-ADMIN" }));
        renamed.call(&pod, &result).add().ok();
        renamed.call(&pod, &result).check().ok();
        let jumps: Vec<String> = rules(&host, "iptables", CHAIN).into_iter().take(2).collect();
        assert!(jumps[0].ends_with("MY-ADMIN") && jumps[1].ends_with("CNI-ADMIN"), "{jumps:#?}");
        chain.del(&pod, &result);
        assert_eq!([rules(&host, "iptables", "CNI-ADMIN"), rules(&host, "iptables", "MY-ADMIN")], before);
        host.run("iptables -F CNI-ADMIN");
        let pod = host.pod();
        chain.add(&pod);
        assert_reaches(&pod, SERVER4);
    });
}

#[test]
fn an_ipv4_pod_needs_no_ip6tables() {
    case(|| {
        let host = Host::new();
        host.outside();
        drop_by_iptables(&host);
        host.run("mkdir -p /run/test/bin");
        for program in ["iptables-restore", "iptables-nft-restore"] {
            let path = host.run(&format!("readlink -f /usr/sbin/{program}"));
            host.run(&format!("ln -s {} /run/test/bin/{program}", path.trim()));
        }
        let mut chain = Chain::new(&host, json!({}));
        chain.network = tests::config::with(&tests::config::bridge(), json!({ "ipMasq": true }));
        let pod = host.pod();
        let result = chain.connect(&pod);
        chain.call(&pod, &result).env("PATH", "/run/test/bin").add().ok();
        assert_reaches(&pod, SERVER4);
        chain.call(&pod, &result).env("PATH", "/run/test/bin").check().ok();
        chain.call(&pod, &result).env("PATH", "/run/test/bin").del().ok();
        assert_eq!(rules(&host, "ip6tables", CHAIN), [""; 0]);
    });
}

#[test]
fn an_unknown_chain_that_drops_is_named() {
    case(|| {
        let host = Host::new();
        host.outside();
        for (table, chain) in [("inet myfw", "forward"), ("ip mangle", "FORWARD"), ("ip6 other", "onward")] {
            host.run(&format!("nft add table {table}"));
            host.run(&format!(
                "nft add chain {table} {chain} {{ type filter hook forward priority 5 ; policy drop ; }}"
            ));
            let firewall = Chain::new(&host, json!({}));
            let pod = host.pod();
            let result = firewall.connect(&pod);
            let before = host.snapshot();
            let reply = firewall.call(&pod, &result).add();
            reply.failure().is(999, &format!("{table} {chain}|policy drop|nftables"));
            host.assert_nothing_made(&before);
            // Who says so has let the pods pass there.
            host.run(&format!("nft add rule {table} {chain} accept"));
            let said = firewall.with(json!({ "backend": "nftables" }));
            let reply = said.call(&pod, &result).add();
            assert!(reply.ok().stderr.contains(&format!("{table} {chain}")), "{reply}");
            let server = if table == "ip6 other" { SERVER6 } else { SERVER4 };
            assert_reaches(&pod, server);
            said.del(&pod, &result);
            host.run(&format!("nft delete table {table}"));
        }
    });
}

#[test]
fn a_chain_of_the_other_family_does_not_matter() {
    case(|| {
        let host = Host::new();
        host.outside();
        host.run("nft add table ip6 other");
        host.run("nft add chain ip6 other onward { type filter hook forward priority 5 ; policy drop ; }");
        let mut chain = Chain::new(&host, json!({}));
        chain.network = tests::config::with(&tests::config::bridge(), json!({ "ipMasq": true }));
        let pod = host.pod();
        chain.add(&pod);
        assert_reaches(&pod, SERVER4);
    });
}

#[test]
fn a_dormant_table_drops_nothing() {
    case(|| {
        let host = Host::new();
        host.outside();
        host.run("nft add table inet asleep { flags dormant ; }");
        host.run("nft add chain inet asleep forward { type filter hook forward priority 5 ; policy drop ; }");
        let chain = Chain::new(&host, json!({}));
        let pod = host.pod();
        chain.add(&pod);
        assert_reaches(&pod, SERVER4);
    });
}

#[test]
fn a_jump_with_conditions_is_none() {
    case(|| {
        let host = Host::new();
        host.outside();
        drop_by_iptables(&host);
        host.run("iptables -N CNI-FORWARD");
        host.run("iptables -A FORWARD -i nosuch -j CNI-FORWARD");
        let chain = Chain::new(&host, json!({}));
        let pod = host.pod();
        let result = chain.add(&pod);
        assert_reaches(&pod, SERVER4);
        chain.call(&pod, &result).check().ok();
        host.run("iptables -D FORWARD 1");
        assert_eq!(rules(&host, "iptables", "FORWARD"), ["-A FORWARD -i nosuch -j CNI-FORWARD"]);
        chain.call(&pod, &result).check().failure().is(999, "no jump to CNI-FORWARD");
    });
}

/// Rules in x_tables, as `iptables-legacy` makes them; skips the test where there is none.
fn legacy(host: &Host, rule: &str) {
    if host.try_run(&format!("iptables-legacy {rule}")).is_err() {
        tests::skip("there is no iptables-legacy, or the kernel has no x_tables");
    }
}

/// A firewall behind a bridge of IPv4 alone.
fn ipv4<'h>(host: &'h Host, keys: Value) -> Chain<'h> {
    let mut chain = Chain::new(host, keys);
    chain.network = tests::config::with(&tests::config::bridge(), json!({ "ipMasq": true }));
    chain
}

#[test]
fn rules_in_either_place_do_where_nothing_drops() {
    case(|| {
        let host = Host::new();
        legacy(&host, "-N mine");
        let chain = ipv4(&host, json!({ "backend": "iptables" }));
        let pod = host.pod();
        let result = chain.add(&pod);
        assert_eq!(rules(&host, "iptables-legacy", CHAIN).len(), 4);
        host.run("iptables-nft -A FORWARD -s 192.168.77.0/24 -j ACCEPT");
        chain.call(&pod, &result).check().ok();
        // It drops: now it has to be there.
        host.run("iptables-nft -P FORWARD DROP");
        chain.call(&pod, &result).check().failure().is(999, "no jump to CNI-FORWARD");
        host.run("iptables-nft -P FORWARD ACCEPT");
        host.run("iptables-legacy -F FORWARD");
        chain.call(&pod, &result).check().failure().is(999, "no jump to CNI-FORWARD");
    });
}

#[test]
fn x_tables_that_nobody_can_read_are_said_to_be_there() {
    case(|| {
        let host = Host::new();
        legacy(&host, "-P FORWARD DROP");
        host.run("mkdir -p /run/test/nft");
        for program in ["iptables-save", "iptables-restore", "iptables-nft-restore"] {
            host.run(&format!("ln -s /usr/sbin/xtables-nft-multi /run/test/nft/{program}"));
        }
        let chain = ipv4(&host, json!({}));
        let pod = host.pod();
        let result = chain.connect(&pod);
        for path in ["/run/test/nft", ""] {
            let reply = chain.call(&pod, &result).env("PATH", path).add();
            assert!(reply.ok().stderr.contains("x_tables has a table ip filter"), "{reply}");
            let reply = chain.call(&pod, &result).env("PATH", path).del();
            assert!(reply.ok().stderr.contains("x_tables has a table ip filter"), "{reply}");
        }
    });
}

#[test]
fn a_program_that_cannot_be_started_is_not_one_that_is_missing() {
    case(|| {
        let host = Host::new();
        legacy(&host, "-P FORWARD DROP");
        let chain = ipv4(&host, json!({}));
        let pod = host.pod();
        chain.add(&pod);
        host.write("/run/test/bad/iptables-legacy-save", "no program");
        host.run("chmod 644 /run/test/bad/iptables-legacy-save");
        chain.bare(&pod).env("PATH", "/run/test/bad").del().failure().is(999, "iptables-legacy-save");
        chain.bare(&pod).del().ok();
        assert_eq!(rules(&host, "iptables-legacy", CHAIN).len(), 1);
    });
}

#[test]
fn backend_nftables_does_not_hide_that_iptables_drops() {
    case(|| {
        let host = Host::new();
        drop_by_iptables(&host);
        let chain = Chain::new(&host, json!({ "backend": "nftables" }));
        let pod = host.pod();
        let result = chain.connect(&pod);
        chain.call(&pod, &result).add().failure().is(999, "ip filter|policy DROP|iptables");
        assert!(elements(&host, "ip", "fw-pods").is_empty());
    });
}

#[test]
fn backend_iptables_has_its_rules_wherever_nothing_drops() {
    case(|| {
        let host = Host::new();
        host.outside();
        let chain = Chain::new(&host, json!({ "backend": "iptables" }));
        let pod = host.pod();
        let result = chain.add(&pod);
        chain.call(&pod, &result).check().ok();
        assert_eq!(rules(&host, "iptables", CHAIN).len(), 4);
        assert_eq!(rules(&host, "ip6tables", CHAIN).len(), 4);
        chain.del(&pod, &result);
        assert_eq!(rules(&host, "iptables", CHAIN).len(), 1);
    });
}

#[test]
fn iptables_of_the_kernels_own_tables_is_seen_and_used() {
    case(|| {
        let host = Host::new();
        host.outside();
        if host.try_run("iptables-legacy -P FORWARD DROP").is_err() {
            tests::skip("there is no iptables-legacy, or the kernel has no x_tables");
        }
        let mut chain = Chain::new(&host, json!({}));
        chain.network = tests::config::with(&tests::config::bridge(), json!({ "ipMasq": true }));
        let pod = host.pod();
        let result = chain.connect(&pod);
        assert_silent(&pod, SERVER4);
        chain.call(&pod, &result).add().ok();
        chain.call(&pod, &result).check().ok();
        assert_reaches(&pod, SERVER4);
        let pods = rules(&host, "iptables-legacy", CHAIN);
        assert_eq!(pods.len(), 4, "{pods:#?}");
        chain.bare(&pod).del().ok();
        assert_eq!(rules(&host, "iptables-legacy", CHAIN).len(), 1);
    });
}

#[test]
fn sixteen_pods_at_once_have_one_jump() {
    case(|| {
        let host = Host::new();
        drop_by_iptables(&host);
        for program in ["iptables", "ip6tables"] {
            // As after a reload of ufw, which has flushed FORWARD alone.
            host.run(&format!("{program} -N CNI-FORWARD"));
            host.run(&format!("{program} -N CNI-ADMIN"));
        }
        let chain = Chain::new(&host, json!({}));
        let pods: Vec<_> = (0..16).map(|_| host.pod()).collect();
        let results: Vec<Value> = pods.iter().map(|pod| chain.connect(pod)).collect();
        std::thread::scope(|s| {
            for (pod, result) in pods.iter().zip(&results) {
                let chain = &chain;
                s.spawn(move || chain.call(pod, result).add().ok().status);
            }
        });
        for program in ["iptables", "ip6tables"] {
            assert_eq!(rules(&host, program, "FORWARD").len(), 1);
            assert_eq!(rules(&host, program, CHAIN).len(), 1 + 16 * 3);
        }
        std::thread::scope(|s| {
            for pod in &pods {
                let chain = &chain;
                s.spawn(move || chain.bare(pod).del().ok().status);
            }
        });
        assert_eq!(rules(&host, "iptables", CHAIN).len(), 1);
        assert!(elements(&host, "ip", "fw-pods").is_empty());
    });
}

#[test]
fn two_backends_side_by_side_do_not_forbid_iptables_its_table() {
    case(|| {
        let host = Host::new();
        let chain = Chain::new(&host, json!({ "ingressPolicy": "same-bridge" }));
        chain.add(&host.pod());
        chain.other("other", 23).with(json!({ "ingressPolicy": "isolated" })).add(&host.pod());
        // Native rules in `ip filter` would make iptables refuse it.
        for program in ["iptables", "ip6tables"] {
            host.run(&format!("{program} -A FORWARD -j ACCEPT"));
            host.run(&format!("{program} -S"));
        }
        let saved = host.run("nft list ruleset");
        host.write("/run/test/ruleset", &saved);
        host.run("nft -c -f /run/test/ruleset");
    });
}

#[test]
fn our_own_chain_may_be_given_the_policy_drop() {
    case(|| {
        let host = Host::new();
        route_to_pods(&host, 22);
        let chain = Chain::new(&host, json!({}));
        let (pod, other) = (host.pod(), host.pod());
        let result = chain.add(&pod);
        for family in ["ip", "ip6"] {
            host.run(&format!("nft add chain {family} oxbridge fw-forward {{ policy drop ; }}"));
        }
        let other_result = chain.connect(&other);
        assert_silent(&other, SERVER4);
        for server in [SERVER4, SERVER6] {
            assert_reaches(&pod, server);
        }
        publish(&host, 8080, &pod, 80);
        for (of_host, family) in [(HOST4, 4), (HOST6, 6)] {
            assert!(connects(host.outside(), of_host, 8080, (&pod, 80), PATIENCE), "{of_host}");
            assert_silent(host.outside(), &address(&result, family));
        }
        chain.call(&other, &other_result).add().ok();
        assert_reaches(&other, SERVER4);
    });
}
