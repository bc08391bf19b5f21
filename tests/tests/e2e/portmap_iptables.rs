//! `backend: "iptables"`: the reference's chains and rules, made by one program call.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tests::{
    Host, Place, Pod, case,
    config::{self, with},
};

use crate::portmap_add::{add, at, attach, call, tcp, udp};

fn of(mappings: &[Value]) -> Value {
    with(&crate::portmap_add::config(mappings), json!({ "backend": "iptables" }))
}

/// The rules of the nat table, of both families.
fn saved(host: &Host) -> BTreeSet<String> {
    let both = ["iptables-save", "ip6tables-save"].map(|program| host.run(&format!("{program} -t nat")));
    let is_rule = |line: &&str| line.starts_with("-A ") || line.starts_with(":CNI");
    both.iter().flat_map(|text| text.lines().filter(is_rule)).map(str::to_owned).collect()
}

#[test]
fn the_rules_are_the_references() {
    case(|| {
        let mappings = [
            tcp(8080, 80),
            udp(8053, 53),
            at("10.1.2.3", tcp(8443, 443)),
            with(&at("::1", tcp(9000, 900)), json!({ "protocol": "sctp" })),
            at("0.0.0.0", tcp(9001, 901)),
        ];
        for patch in [
            json!({}),
            json!({ "snat": false }),
            json!({ "markMasqBit": 5 }),
            json!({ "externalSetMarkChain": "PREROUTING-X" }),
            json!({ "conditionsV4": ["!", "-d", "192.0.2.0/24"], "conditionsV6": ["-i", "eth0", "!", "-d", "fd01::/64"] }),
        ] {
            let config = with(&of(&mappings), patch.clone());
            let rules = |reference: bool| {
                let host = Host::new();
                for program in ["iptables", "ip6tables"] {
                    host.run(&format!("{program} -t nat -N PREROUTING-X"));
                }
                let pod = host.pod();
                let plugin = |name| if reference { host.reference(name) } else { host.plugin(name) };
                let result = plugin("bridge").pod(&pod).config(&config::dual_stack()).add().result();
                plugin("portmap").pod(&pod).config_with(&config, &result).add().ok();
                call(&host, &pod, &config, &result).check().ok();
                saved(&host)
            };
            assert_eq!(rules(false), rules(true), "{patch}");
        }
    });
}

#[test]
fn the_reference_removes_the_rules_too() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = host.plugin("bridge").pod(&pod).config(&config::bridge()).add().result();
        let config = of(&[tcp(8080, 80), udp(53, 53)]);
        add(&host, &pod, &config, &result).ok();
        // Its CHECK of 1.1.1 fails for its own pods as well.
        host.reference("portmap").pod(&pod).config_with(&config, &result).del().ok();
        assert!(!saved(&host).iter().any(|l| l.contains("CNI-DN-")));
    });
}

#[test]
fn a_second_add_changes_nothing_and_another_replaces() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        add(&host, &pod, &of(&[tcp(8080, 80), udp(53, 53)]), &result).ok();
        let before = host.run("iptables-save -t nat");
        let rules = |text: &str| text.lines().filter(|l| l.starts_with("-A")).map(str::to_owned).collect::<Vec<_>>();
        add(&host, &pod, &of(&[tcp(8080, 80), udp(53, 53)]), &result).ok();
        assert_eq!(rules(&host.run("iptables-save -t nat")), rules(&before));
        add(&host, &pod, &of(&[tcp(8081, 81)]), &result).ok();
        let after = saved(&host);
        assert!(!after.iter().any(|l| l.contains("8080") || l.contains("dport 53")), "{after:#?}");
        assert!(after.iter().any(|l| l.contains("--dports 8081")), "{after:#?}");
    });
}

#[test]
fn many_at_once_make_the_shared_rules_once() {
    case(|| {
        if tests::settings::is_reference() {
            tests::skip("the reference makes them several times, most of the time");
        }
        let host = Host::new();
        let pods: Vec<_> = (0..24).map(|_| host.pod()).collect();
        let results: Vec<_> = pods.iter().map(|pod| attach(&host, pod)).collect();
        std::thread::scope(|s| {
            for (number, (pod, result)) in pods.iter().zip(&results).enumerate() {
                let port = 8000 + u16::try_from(number).unwrap();
                let host = &host;
                s.spawn(move || _ = add(host, pod, &of(&[tcp(port, 80)]), result).ok());
            }
        });
        let saved = host.run("iptables-save -t nat");
        let count = |text: &str| saved.lines().filter(|l| l.starts_with("-A") && l.contains(text)).count();
        assert_eq!(count("-j MARK --set-xmark"), 1, "{saved}");
        assert_eq!(count("-j MASQUERADE"), 1, "{saved}");
        assert_eq!(count("-j CNI-HOSTPORT-DNAT"), 2, "{saved}");
        assert_eq!(count("--dports 80"), 24, "{saved}");
        for (number, (pod, result)) in pods.iter().zip(&results).enumerate() {
            call(&host, pod, &of(&[tcp(8000 + u16::try_from(number).unwrap(), 80)]), result).check().ok();
        }
    });
}

#[test]
fn check_misses_each_rule() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        let config = of(&[tcp(8080, 80), at("192.0.2.1", udp(53, 53))]);
        add(&host, &pod, &config, &result).ok();
        let rules: Vec<_> =
            host.run("iptables-save -t nat").lines().filter(|l| l.contains("CNI-")).map(str::to_owned).collect();
        let rules: Vec<_> = rules.into_iter().filter(|l| l.starts_with("-A ")).collect();
        assert!(rules.len() > 10, "{rules:#?}");
        for rule in rules {
            host.write("/run/test/script", format!("*nat\n{}\nCOMMIT\n", rule.replacen("-A", "-D", 1)));
            host.run("iptables-restore --noflush /run/test/script");
            call(&host, &pod, &config, &result).check().failure().is(999, "missing");
            add(&host, &pod, &config, &result).ok();
            call(&host, &pod, &config, &result).check().ok();
        }
    });
}

#[test]
fn what_only_iptables_can_say_is_said_to_iptables() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        let patch = json!({ "conditionsV4": ["-m", "comment", "--comment", "a \"quoted\" word"] });
        let config = with(&crate::portmap_add::config(&[tcp(8080, 80)]), patch);
        add(&host, &pod, &config, &result).ok();
        let rules = saved(&host);
        assert!(rules.iter().any(|l| l.contains(r#"--comment "a \"quoted\" word""#)), "{rules:#?}");
        call(&host, &pod, &config, &result).check().ok();
        call(&host, &pod, &config, &result).del().ok();
        assert!(!saved(&host).iter().any(|l| l.contains("CNI-DN-")));
    });
}

#[test]
fn without_the_program_nothing_is_done() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        let before = host.snapshot();
        let config = of(&[tcp(8080, 80)]);
        let reply = call(&host, &pod, &config, &result).env("PATH", "/nowhere").add();
        reply.failure().is(999, "iptables-save|nftables");
        host.assert_nothing_made(&before);
    });
}

#[test]
fn rules_of_legacy_iptables_are_removed() {
    case(|| {
        let host = Host::new();
        if host.try_run("iptables-legacy -t nat -S").is_err() {
            tests::skip("iptables-legacy does not work here");
        }
        let pod = host.pod();
        let result = attach(&host, &pod);
        let config = of(&[tcp(8080, 80)]);
        // As if legacy were this host's iptables.
        host.run("mkdir -p /run/test/bin");
        for program in ["iptables", "ip6tables"] {
            for suffix in ["", "-save", "-restore"] {
                let to = host.run(&format!("which {program}-legacy{suffix}"));
                host.run(&format!("ln -s {} /run/test/bin/{program}{suffix}", to.trim()));
            }
        }
        let legacy = || call(&host, &pod, &config, &result).env("PATH", "/run/test/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        legacy().add().ok();
        legacy().check().ok();
        assert!(host.run("iptables-legacy-save -t nat").contains("--to-destination 10.22.0.2:80"));
        assert!(host.run("ip6tables-legacy-save -t nat").contains("--to-destination [fd00:22::2]:80"));
        // The default backend, and the other iptables, by now.
        call(&host, &pod, &crate::portmap_add::config(&[]), &result).del().ok();
        let left = host.run("iptables-legacy-save -t nat");
        assert!(!left.contains("CNI-DN-") && left.contains("CNI-HOSTPORT-MASQ"), "{left}");
        assert!(!host.run("ip6tables-legacy-save -t nat").contains("CNI-DN-"));
    });
}

/// kubernetes#90259: what `route_localnet` opens is closed to the neighbours, with this backend as well.
#[test]
fn the_loopback_is_guarded_by_the_same_chain_as_with_our_own_tables() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        let guard = || host.try_run("nft list chain ip oxbridge ports-guard").unwrap_or_default();
        let config = of(&[tcp(8080, 80)]);
        add(&host, &pod, &with(&config, json!({ "snat": false })), &result).ok();
        assert_eq!(guard(), "");
        add(&host, &pod, &config, &result).ok();
        let whole = guard();
        assert!(whole.matches("drop").count() == 2 && whole.contains("127.0.0.0/8"), "{whole}");
        call(&host, &pod, &config, &result).check().ok();
        for change in ["nft flush chain ip oxbridge ports-guard", "nft delete table ip oxbridge"] {
            host.run(change);
            call(&host, &pod, &config, &result).check().failure().is(999, "127.0.0.0/8|ports-guard");
            add(&host, &pod, &config, &result).ok();
            assert_eq!(guard(), whole);
            call(&host, &pod, &config, &result).check().ok();
        }
        // The other backend finds it whole.
        let second = host.pod();
        let of_second = attach(&host, &second);
        add(&host, &second, &crate::portmap_add::config(&[tcp(8081, 80)]), &of_second).ok();
        assert_eq!(guard(), whole);
    });
}

/// The pod's address may be behind the link of the default route: the whole LAN would be let in.
#[test]
fn no_link_to_a_gateway_is_opened_for_the_loopback() {
    case(|| {
        for backend in ["nftables", "iptables"] {
            let host = Host::new();
            let pod = host.pod();
            host.outside();
            let uplink = tests::traffic::outside::UPLINK;
            let result = json!({ "cniVersion": "1.0.0", "interfaces": [{ "name": "eth0", "sandbox": pod.path }],
                "ips": [{ "address": "10.99.0.2/24", "interface": 0 }] });
            let config = with(&of(&[tcp(8080, 80)]), json!({ "backend": backend }));
            add(&host, &pod, &config, &result).ok();
            call(&host, &pod, &config, &result).check().ok();
            let path = format!("/proc/sys/net/ipv4/conf/{uplink}/route_localnet");
            assert_eq!(host.enter(|| std::fs::read_to_string(&path).unwrap()), "0\n", "{backend}");
        }
    });
}

/// The reference names its chain for the container alone, whatever the interface's name is.
#[test]
fn the_references_chain_of_another_interface_than_eth0_goes() {
    case(|| {
        for is_alive in [true, false] {
            let host = Host::new();
            let pod = Pod { ifname: "net0".to_owned(), ..host.named_pod() };
            let result = attach(&host, &pod);
            host.reference("portmap").pod(&pod).config_with(&of(&[tcp(8080, 80)]), &result).add().ok();
            assert!(saved(&host).iter().any(|l| l.contains("CNI-DN-")));
            if !is_alive {
                host.unmount(&pod.path);
            }
            host.plugin("portmap").pod(&pod).config(&of(&[])).del().ok();
            let left = saved(&host);
            assert!(!left.iter().any(|l| l.contains("CNI-DN-")), "alive {is_alive}: {left:#?}");
        }
    });
}

/// The interface of the pod that was there before it was restarted had another address.
#[test]
fn a_stale_address_in_the_chain_is_not_another_interfaces() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        let before = with(&result, json!({ "ips": [{ "address": "10.22.0.99/24", "interface": 2 }] }));
        let config = of(&[tcp(8080, 80)]);
        host.reference("portmap").pod(&pod).config_with(&config, &before).add().ok();
        assert!(saved(&host).iter().any(|l| l.contains("10.22.0.99:80")));
        call(&host, &pod, &config, &result).del().ok();
        let left = saved(&host);
        assert!(!left.iter().any(|l| l.contains("CNI-DN-")), "{left:#?}");
        // What leads to another interface of the pod stays.
        host.reference("portmap").pod(&pod).config_with(&config, &before).add().ok();
        pod.run("ip address add 10.22.0.99/24 dev lo");
        call(&host, &pod, &config, &result).del().ok();
        assert!(saved(&host).iter().any(|l| l.contains("10.22.0.99:80")));
    });
}

#[test]
fn a_port_that_is_another_attachments_by_either_backend_is_refused() {
    case(|| {
        for backend in ["iptables", "nftables"] {
            let host = Host::new();
            let (holder, pod) = (host.pod(), host.pod());
            let of_holder = attach(&host, &holder);
            let held = with(&of(&[tcp(8080, 80), at("192.0.2.1", tcp(8081, 80))]), json!({ "backend": backend }));
            add(&host, &holder, &held, &of_holder).ok();
            let result = attach(&host, &pod);
            let before = host.snapshot();
            let name = format!("already published by|{}|net", holder.id);
            for mapping in [tcp(8080, 81), at("192.0.2.1", tcp(8080, 81)), at("192.0.2.1", tcp(8081, 80))] {
                add(&host, &pod, &of(&[tcp(9999, 80), mapping]), &result).failure().is(999, &name);
                host.assert_as(&before);
            }
            // Another protocol, another address.
            let free = [udp(8080, 80), at("192.0.2.2", tcp(8081, 80))];
            add(&host, &pod, &of(&free), &result).ok();
            call(&host, &pod, &of(&free), &result).del().ok();
            call(&host, &holder, &held, &of_holder).check().ok();
            call(&host, &holder, &held, &of_holder).del().ok();
            add(&host, &pod, &of(&[tcp(8080, 80)]), &result).ok();
        }
    });
}

#[test]
fn what_our_own_tables_have_of_one_that_is_gone_is_no_obstacle() {
    case(|| {
        let host = Host::new();
        let holder = host.named_pod();
        let of_holder = attach(&host, &holder);
        add(&host, &holder, &crate::portmap_add::config(&[tcp(8080, 80), udp(53, 53)]), &of_holder).ok();
        host.unmount(&holder.path);
        let link = of_holder["interfaces"][1]["name"].as_str().unwrap();
        host.run(&format!("ip link del {link}"));
        let pod = host.pod();
        let result = attach(&host, &pod);
        let told = add(&host, &pod, &of(&[tcp(8080, 80)]), &result).ok().stderr.clone();
        assert!(told.contains("8080/tcp") && told.contains(&holder.id) && told.contains("taken over"), "{told}");
        assert_eq!(crate::portmap_add::elements(&host, "ip", "ports-any"), [""; 0]);
    });
}

#[test]
fn the_references_pods_keep_their_ports() {
    case(|| {
        let host = Host::new();
        let (holder, pod) = (host.pod(), host.pod());
        let of_holder = attach(&host, &holder);
        host.reference("portmap").pod(&holder).config_with(&of(&[tcp(8080, 80)]), &of_holder).add().ok();
        let result = attach(&host, &pod);
        add(&host, &pod, &of(&[tcp(8080, 80)]), &result).failure().is(999, &holder.id);
        // The same container again is no other.
        add(&host, &holder, &of(&[tcp(8080, 80)]), &of_holder).ok();
    });
}

#[test]
fn check_compares_ports_under_any_conditions() {
    case(|| {
        for words in [json!(["-m", "mark", "--mark", "1"]), json!(["! -d 192.0.2.0/24", "-m", "mark", "--mark", "1"])] {
            let host = Host::new();
            let pod = host.pod();
            let result = attach(&host, &pod);
            let config = with(&of(&[tcp(8080, 80)]), json!({ "conditionsV4": words }));
            add(&host, &pod, &config, &result).ok();
            call(&host, &pod, &config, &result).check().ok();
            let rules = host.run("iptables-save -t nat");
            let entry = rules.lines().find(|l| l.contains("--dports 8080")).unwrap();
            let other = entry.replace("--dports 8080", "--dports 8081");
            host.write("/run/test/script", format!("*nat\n{}\n{other}\nCOMMIT\n", entry.replacen("-A", "-D", 1)));
            host.run("iptables-restore --noflush /run/test/script");
            call(&host, &pod, &config, &result).check().failure().is(999, "--dports 8080");
        }
    });
}

/// The reference, or a plugin that does not share our lock, makes the shared chain after we have looked.
#[test]
fn shared_chains_that_somebody_made_in_between_keep_their_rules() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        let result = attach(&host, &pod);
        host.run("mkdir -p /run/test/bin");
        let save = host.run("which iptables-save");
        host.write(
            "/run/test/bin/iptables-save",
            format!(
                "#!/bin/sh\n{} \"$@\"\n[ -e /run/test/done ] && exit\n: >/run/test/done\n\
                 iptables -t nat -N CNI-HOSTPORT-DNAT && iptables -t nat -A CNI-HOSTPORT-DNAT -p tcp --dport 1 -j RETURN\n",
                save.trim()
            ),
        );
        host.run("chmod +x /run/test/bin/iptables-save");
        let config = of(&[tcp(8080, 80)]);
        let path = "/run/test/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        call(&host, &pod, &config, &result).env("PATH", path).add().ok();
        let rules = saved(&host);
        assert!(rules.iter().any(|l| l.contains("--dport 1 ")), "{rules:#?}");
        call(&host, &pod, &config, &result).check().ok();
    });
}
