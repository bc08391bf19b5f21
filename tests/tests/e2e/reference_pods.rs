//! Pods that the reference attached, on a node whose binaries were replaced since.

use serde_json::{Value, json};
use tests::{
    Host, Place, Pod, case,
    config::{self, with},
    traffic::{assert_reaches, outside::SERVER4},
};

fn config() -> Value {
    with(&config::everything(), json!({ "name": "tn" }))
}

/// Pods of the reference, and what is there when nothing is left of them.
fn attached(host: &Host) -> (Pod, Value) {
    let pod = host.pod();
    let result = host.reference("bridge").pod(&pod).config(&config()).add().result();
    (pod, result)
}

/// What must not be there after DEL.
fn assert_gone(host: &Host, id: &str) {
    let now = host.snapshot();
    for text in ["CNI-", "cni-br-iface", id, "link veth"] {
        let left: Vec<_> = now.lines(text).filter(|line| !line.contains("\"chain\":\"POSTROUTING\"")).collect();
        assert!(left.is_empty(), "{text}: {left:#?}");
    }
    for program in ["iptables-save", "ip6tables-save"] {
        assert!(!host.run(&format!("{program} -t nat")).contains("CNI-"));
    }
    assert!(
        !host.files("/var/lib/cni/networks/tn").iter().any(|name| name.starts_with("10.") || name.starts_with("fd"))
    );
}

#[test]
fn are_removed_by_del() {
    case(|| {
        let host = Host::new();
        for with_result in [true, false] {
            let (pod, result) = attached(&host);
            let call = host.plugin("bridge").pod(&pod);
            let call = if with_result { call.config_with(&config(), &result) } else { call.config(&config()) };
            call.del().ok();
            assert_gone(&host, &pod.id);
            assert!(pod.link("eth0").is_none());
        }
    });
}

#[test]
fn are_removed_by_del_without_the_namespace() {
    case(|| {
        let host = Host::new();
        let (pod, result) = attached(&host);
        let id = pod.id.clone();
        drop(pod);
        host.plugin("bridge").id(&id).netns("").config_with(&config(), &result).del().ok();
        host.wait_for_ports(0);
        assert_gone(&host, &id);
    });
}

#[test]
fn pass_check() {
    case(|| {
        let host = Host::new();
        let (pod, result) = attached(&host);
        host.plugin("bridge").pod(&pod).config_with(&config(), &result).check().ok();
    });
}

#[test]
fn run_beside_ours_and_stay_when_ours_go() {
    case(|| {
        let host = Host::new();
        host.outside();
        let (theirs, _) = attached(&host);
        let ours = host.pod();
        host.plugin("bridge").pod(&ours).config(&config()).add().ok();
        for pod in [&theirs, &ours] {
            assert_reaches(pod, config::GATEWAY4);
            assert_reaches(pod, SERVER4);
        }
        assert_reaches(&theirs, &ours.addresses()[0].replace("/24", ""));
        host.plugin("bridge").pod(&ours).config(&config()).del().ok();
        assert_reaches(&theirs, SERVER4);
        // And back: the operator changes his mind.
        let ours = host.pod();
        host.plugin("bridge").pod(&ours).config(&config()).add().ok();
        host.reference("bridge").pod(&theirs).config(&config()).del().ok();
        assert_reaches(&ours, SERVER4);
    });
}

/// What releases from 1.7 on leave with `ipMasqBackend: nftables`.
#[test]
fn of_newer_releases_lose_their_nftables_rules_too() {
    case(|| {
        let host = Host::new();
        let rule = |ifname: &str, hash: &str, ip: &str| {
            format!(
                "ip saddr {ip} ip daddr != 10.22.0.0/24 masquerade comment \"bcc05d298e683559-{hash}, net: tn, if: {ifname}, id: c1\""
            )
        };
        host.write(
            "/run/test/rules",
            format!(
                "table inet cni_plugins_masquerade {{
               chain masq_checks {{
                 {}
                 {}
               }}
               chain postrouting {{
                 type nat hook postrouting priority srcnat
                 ip daddr 224.0.0.0/4 return
                 goto masq_checks
               }}
             }}",
                rule("eth0", "f4d01f2ef4b92245", "10.22.0.4"),
                rule("eth1", "ce22e8fef5c0a4f4", "10.22.0.5")
            ),
        );
        host.run("nft -f /run/test/rules");
        host.plugin("bridge").id("c1").netns("").config(&config()).del().ok();
        let text = host.run("nft list table inet cni_plugins_masquerade");
        assert!(!text.contains("10.22.0.4") && text.contains("10.22.0.5"), "{text}");
    });
}
