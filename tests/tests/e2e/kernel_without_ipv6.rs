//! A kernel that was booted with `ipv6.disable=1`: IPv4 works as ever, and IPv6 is refused by its name.
//!
//! `scripts/kernels` runs these in such a kernel; elsewhere they are skipped.

use serde_json::{Value, json};
use tests::{
    Host, Place, case_without,
    chained::{self, Chain},
    config::{self, with},
    kernel::Part,
    settings::not_for_reference,
    traffic::{
        assert_reaches,
        outside::{HOST4, SERVER4},
    },
};

use crate::{
    flannel_add::{LEASE4, LEASE46, config as flannel, node},
    kernel_without_nf_tables::does_all_of_its_work,
};

const IPV4: &[(&str, &str)] = &[(HOST4, SERVER4)];

/// All plugins with whatever they do for IPv4.
fn chain() -> Vec<Value> {
    let mut chain = chained::everything();
    chain[0] = with(
        &config::bridge(),
        json!({ "isDefaultGateway": true, "ipMasq": true, "hairpinMode": true,
                                               "macspoofchk": true }),
    );
    chain
}

#[test]
fn a_chain_of_ipv4_does_all_of_its_work() {
    case_without(Part::Ipv6, || {
        not_for_reference("it is about ours");
        let host = Host::new();
        does_all_of_its_work(&host, &Chain::new(&host, chain()), IPV4);
    });
}

#[test]
fn so_does_one_by_iptables() {
    case_without(Part::Ipv6, || {
        not_for_reference("it is about ours");
        let host = Host::new();
        let mut plugins = chain();
        for (plugin, key) in [(0, "ipMasqBackend"), (1, "backend"), (2, "backend")] {
            plugins[plugin][key] = json!("iptables");
        }
        plugins[0].as_object_mut().unwrap().remove("macspoofchk");
        does_all_of_its_work(&host, &Chain::new(&host, plugins), IPV4);
    });
}

#[test]
fn loopback_is_127_0_0_1_alone() {
    case_without(Part::Ipv6, || {
        let host = Host::new();
        let pod = host.pod();
        let network = host.network(&json!({ "cniVersion": "1.0.0", "name": "lo", "type": "loopback" }));
        let result = network.add(&pod).result();
        let addresses: Vec<_> = result["ips"].as_array().unwrap().iter().map(|ip| ip["address"].clone()).collect();
        assert_eq!(addresses, ["127.0.0.1/8"]);
        assert_reaches(&pod, "127.0.0.1");
        network.check(&pod).ok();
        network.del(&pod).ok();
    });
}

#[test]
fn flannel_attaches_pods_of_ipv4() {
    case_without(Part::Ipv6, || {
        let host = node(LEASE4);
        let pod = host.pod();
        let call = || host.plugin("flannel").pod(&pod).config(&flannel());
        call().add().ok();
        assert_reaches(&pod, "10.244.3.1");
        call().del().ok();
        assert!(pod.link("eth0").is_none());
    });
}

/// Addresses that nobody can have: nothing is made of them, also not by half.
#[test]
fn an_ipv6_address_is_refused_and_ipv6_named() {
    case_without(Part::Ipv6, || {
        not_for_reference("its errors are the kernel's");
        let host = node(LEASE46);
        let before = host.warm_up(&config::bridge());
        for config in [config::dual_stack(), config::ipv6_only(), flannel()] {
            let failure = host.plugin_of(&config).pod(&host.pod()).config(&config).add().failure();
            failure.is(999, "IPv6|ipv6.disable=1");
            host.assert_nothing_made(&before);
        }
    });
}
