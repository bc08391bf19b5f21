//! A kernel that has x_tables alone: what needs nf_tables is refused, the iptables backend does all of its work.
//!
//! `scripts/kernels` runs these in kernels of that kind; elsewhere they are skipped.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde_json::{Value, json};
use tests::{
    Host, Place, Pod, Reply, case_without,
    chained::{self, Chain, HOST_PORT, gc, valid},
    config::{self, with},
    kernel::Part,
    settings::not_for_reference,
    traffic::{
        Server, Transport, ask, assert_reaches,
        outside::{HOST4, HOST6, SERVER4, SERVER6},
        source_seen,
    },
};

/// Those of a usual chain that use nf_tables: firewall only when told to, it takes what the host has.
fn by_nf_tables() -> [Value; 3] {
    [chained::bridge(), chained::portmap(), with(&chained::firewall(), json!({ "backend": "nftables" }))]
}

/// A usual chain where it is told otherwise.
fn by_iptables() -> Vec<Value> {
    let [bridge, portmap, firewall] = by_nf_tables();
    vec![
        with(&bridge, json!({ "ipMasqBackend": "iptables" })),
        with(&portmap, json!({ "backend": "iptables" })),
        with(&firewall, json!({ "backend": "iptables" })),
        chained::tuning(),
        chained::bandwidth(),
    ]
}

fn node() -> Host {
    not_for_reference("it has no such errors");
    let host = Host::new();
    host.use_legacy_iptables();
    host
}

fn status(host: &Host, config: &Value) -> Reply {
    let newest = with(config, json!({ "cniVersion": "1.1.0" }));
    host.plugin_of(config).verb("STATUS").id("").netns("").ifname("").config(&newest).run()
}

/// The result of a bridge that needs no rules.
fn attach(host: &Host, pod: &Pod) -> Value {
    host.plugin("bridge").pod(pod).config(&config::dual_stack()).add().result()
}

#[test]
fn add_is_refused_with_nothing_left_and_names_the_other_backend() {
    case_without(Part::NfTables, || {
        let host = node();
        let before = host.warm_up(&config::dual_stack());
        let [bridge, portmap, firewall] = by_nf_tables();
        let failure = host.plugin("bridge").pod(&host.pod()).config(&bridge).add().failure();
        failure.is(999, "nf_tables|ipMasqBackend|\"iptables\"");
        host.assert_as(&before);
        for config in [portmap, firewall] {
            let pod = host.pod();
            let result = attach(&host, &pod);
            let attached = host.snapshot();
            let call = || host.plugin_of(&config).pod(&pod).config_with(&config, &result);
            call().add().failure().is(999, "nf_tables|backend|\"iptables\"");
            host.assert_as(&attached);
            call().del().ok();
            host.assert_as(&attached);
            host.plugin("bridge").pod(&pod).config_with(&config::dual_stack(), &result).del().ok();
        }
    });
}

#[test]
fn status_says_so_and_is_content_with_the_other_backend() {
    case_without(Part::NfTables, || {
        let host = node();
        let before = host.snapshot();
        for config in by_nf_tables() {
            status(&host, &config).failure().is(50, "nf_tables|iptables");
        }
        for config in by_iptables() {
            status(&host, &config).ok();
        }
        host.assert_as(&before);
    });
}

#[test]
fn del_and_gc_of_what_never_was_succeed() {
    case_without(Part::NfTables, || {
        let host = node();
        let before = host.warm_up(&config::dual_stack());
        let pod = host.pod();
        for config in by_nf_tables() {
            host.plugin_of(&config).pod(&pod).config(&config).del().ok();
            gc(host.plugin_of(&config), &config, &json!([])).ok();
        }
        host.assert_as(&before);
    });
}

/// A pod of the chain reaches the world and is reached, by each of these families: the host's address, a server's outside.
pub(crate) fn does_all_of_its_work(host: &Host, chain: &Chain<'_>, families: &[(&str, &str)]) {
    let outside = host.outside();
    chain.warm_up();
    let before = host.snapshot();
    let pod = host.pod();
    let result = chain.add(&pod);
    chain.check(&pod, &result);
    let any: IpAddr = if families.len() == 1 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let _server = Server::start(&pod, "pod", (any, 80));
    for (of_host, server) in families {
        assert_reaches(&pod, server);
        // Those outside know no way to a pod's own address.
        assert_eq!(source_seen(&pod, outside, server), Some(of_host.parse().unwrap()), "masqueraded");
        let at = SocketAddr::new(of_host.parse().unwrap(), HOST_PORT);
        assert!(ask(outside, Transport::Tcp, at).is_some(), "{at} from outside");
        assert!(ask(&pod, Transport::Tcp, at).is_some(), "{at} from the pod itself");
    }
    let local = ([127, 0, 0, 1], HOST_PORT).into();
    assert!(ask(host, Transport::Tcp, local).is_some(), "{local} from the host");
    chain.with(&json!({ "cniVersion": "1.1.0" })).gc(&valid(&[&pod]));
    chain.check(&pod, &result);
    chain.del(&pod, &result);
    host.assert_as(&before);
}

#[test]
fn a_chain_by_iptables_carries_all_traffic_and_leaves_nothing() {
    case_without(Part::NfTables, || {
        let host = node();
        does_all_of_its_work(&host, &Chain::new(&host, by_iptables()), &[(HOST4, SERVER4), (HOST6, SERVER6)]);
    });
}

/// As most configs are: what the host has is taken.
#[test]
fn a_firewall_that_is_told_nothing_takes_iptables() {
    case_without(Part::NfTables, || {
        let host = node();
        let mut plugins = by_iptables();
        plugins[2] = chained::firewall();
        status(&host, &plugins[2]).ok();
        let chain = Chain::new(&host, plugins);
        let families = [(HOST4, SERVER4), (HOST6, SERVER6)];
        does_all_of_its_work(&host, &chain, &families);
        for program in ["iptables", "ip6tables"] {
            host.run(&format!("{program} -P FORWARD DROP"));
        }
        does_all_of_its_work(&host, &chain, &families);
    });
}

/// The namespace is gone and nobody kept the result.
#[test]
fn gc_removes_what_was_made_by_iptables() {
    case_without(Part::NfTables, || {
        let host = node();
        let chain = Chain::new(&host, by_iptables());
        chain.warm_up();
        let before = host.snapshot();
        let pod = host.pod();
        chain.add(&pod);
        host.lose(pod);
        chain.with(&json!({ "cniVersion": "1.1.0" })).gc(&json!([]));
        host.assert_as(&before);
    });
}
