//! flannel: what the delegate is told, and that an ADD that fails leaves nothing.

use std::thread;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tests::{
    Host, Place, Pod, Reply, Snapshot, case,
    config::with,
    plugin::full,
    settings::versions,
    traffic::{assert_reaches, outside::SERVER4},
};

use crate::delegate::{path, script};

/// Where flanneld says what it leased.
pub(crate) const SUBNET_ENV: &str = "/run/flannel/subnet.env";
/// Where delegates' configs are kept.
pub(crate) const DATA_DIR: &str = "/var/lib/cni/flannel";
/// Ours of the network `cbr0`.
pub(crate) const OWN: &str = "/var/lib/cni/flannel/.oxbridge/cbr0";

/// A lease of IPv4 alone, as flanneld writes it.
pub(crate) const LEASE4: &str =
    "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.3.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
/// One of both families.
pub(crate) const LEASE46: &str = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.3.1/24\n\
    FLANNEL_IPV6_NETWORK=fd01::/48\nFLANNEL_IPV6_SUBNET=fd01:0:0:3::1/64\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
/// One of IPv6 alone.
const LEASE6: &str =
    "FLANNEL_IPV6_NETWORK=fd01::/48\nFLANNEL_IPV6_SUBNET=fd01:0:0:3::1/64\nFLANNEL_MTU=1420\nFLANNEL_IPMASQ=false\n";

/// The flannel manifest's config.
pub(crate) fn config() -> Value {
    json!({ "cniVersion": "1.0.0", "name": "cbr0", "type": "flannel",
            "delegate": { "hairpinMode": true, "isDefaultGateway": true } })
}

/// The same with a script as the delegate.
pub(crate) fn fake() -> Value {
    with(&config(), json!({ "delegate": { "type": "fake" } }))
}

/// A node with this lease.
pub(crate) fn node(lease: &str) -> Host {
    let host = Host::new();
    host.write(SUBNET_ENV, lease);
    host
}

/// What is there when nothing is left of a pod. Not before the second ADD is the bridge's MTU more than its ports'.
pub(crate) fn warm_up(host: &Host, config: &Value) -> Snapshot {
    host.warm_up(config);
    host.warm_up(config)
}

fn add(host: &Host, pod: &Pod, config: &Value) -> Reply {
    host.plugin("flannel").pod(pod).config(config).env("CNI_PATH", &path()).add()
}

const ANSWER: &str = r#"echo '{"cniVersion":"1.0.0","ips":[{"address":"10.244.3.9/24"}]}'"#;
/// Writes down what it is asked, and answers.
pub(crate) const RECORDER: &str = r#"printf %s "$stdin" >/run/test/stdin.$CNI_COMMAND; env >/run/test/env.$CNI_COMMAND
    echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME" >>/run/test/calls
    if [ $CNI_COMMAND = ADD ]; then echo '{"cniVersion":"1.0.0","ips":[{"address":"10.244.3.9/24"}]}'; fi"#;

#[test]
fn pods_of_both_families_reach_each_other_and_the_world() {
    case(|| {
        for (lease, addresses, mtu) in [
            (LEASE4, &["10.244.3.2/24"][..], 1450),
            (LEASE6, &["fd01:0:0:3::2/64"], 1420),
            (LEASE46, &["10.244.3.2/24", "fd01:0:0:3::2/64"], 1450),
        ] {
            let host = node(lease);
            host.outside();
            let (one, two) = (host.pod(), host.pod());
            let result = add(&host, &one, &config()).result();
            add(&host, &two, &config()).ok();
            assert_eq!(one.addresses(), addresses);
            assert_eq!(one.interface()["mtu"], mtu);
            assert_eq!(result["interfaces"][0]["name"], "cni0");
            for address in addresses {
                let address = address.split('/').next().unwrap();
                assert_reaches(&two, address);
                assert_reaches(&two, &format!("{}1", address.strip_suffix('2').unwrap()));
            }
            let networks: Vec<_> =
                (result["routes"].as_array().unwrap().iter()).map(|r| r["dst"].to_string()).collect();
            assert_eq!(networks.iter().any(|dst| dst.contains("10.244.0.0/16")), lease != LEASE6, "{networks:?}");
            assert_eq!(networks.iter().any(|dst| dst.contains("fd01::/48")), lease != LEASE4, "{networks:?}");
        }
    });
}

#[test]
fn one_of_the_two_masquerades() {
    case(|| {
        for masquerades in [true, false] {
            let host = node(&LEASE4.replace("true", &masquerades.to_string()));
            host.outside();
            let pod = host.pod();
            add(&host, &pod, &config()).ok();
            // The world knows no way back to a pod.
            assert_eq!(tests::traffic::reaches(&pod, SERVER4), !masquerades);
        }
    });
}

#[test]
fn the_delegate_gets_the_config_of_the_reference() {
    case(|| {
        let host = node(LEASE46);
        script(&host, "fake", RECORDER);
        let config = with(
            &fake(),
            json!({ "runtimeConfig": { "mac": "02:00:00:00:00:01" }, "prevResult": { "ips": [] },
                    "ipam": { "dataDir": "/run/test/store", "routes": [{ "dst": "0.0.0.0/0" }] } }),
        );
        let pod = host.pod();
        let call = host.plugin("flannel").pod(&pod).config(&config).env("CNI_PATH", &path());
        let reply = call.args("IgnoreUnknown=1;A=b").env("TRACEPARENT", "00-ab").add();
        let expected = concat!(
            r#"{"cniVersion":"1.0.0","hairpinMode":true,"ipMasq":false,"ipam":{"dataDir":"/run/test/store","#,
            r#""ranges":[[{"subnet":"10.244.3.0/24"}],[{"subnet":"fd01:0:0:3::/64"}]],"#,
            r#""routes":[{"dst":"0.0.0.0/0"},{"dst":"10.244.0.0/16"},{"dst":"fd01::/48"}],"type":"host-local"},"#,
            r#""isDefaultGateway":true,"mtu":1450,"name":"cbr0","runtimeConfig":{"mac":"02:00:00:00:00:01"},"type":"fake"}"#
        );
        assert_eq!(host.read("/run/test/stdin.ADD").unwrap(), expected);
        assert_eq!(reply.result()["ips"][0]["address"], "10.244.3.9/24");
        assert_eq!(reply.stderr, "", "no config on stderr");
        let env = host.read("/run/test/env.ADD").unwrap();
        for line in ["CNI_COMMAND=ADD", "CNI_ARGS=IgnoreUnknown=1;A=b", "TRACEPARENT=00-ab"] {
            assert!(env.lines().any(|l| l == line), "{line} in {env}");
        }
        // Kept for later, where nobody else reads it; the reference's file for a way back.
        for file in [format!("{OWN}/{}:eth0", pod.id), format!("{DATA_DIR}/{}", pod.id)] {
            assert_eq!(host.read(&file).unwrap(), expected);
            assert_eq!(host.run(&format!("stat -c %a {file}")).trim(), "600");
        }
        assert_eq!(host.run(&format!("stat -c %a {DATA_DIR} {OWN}")), "700\n700\n");
    });
}

#[test]
fn every_version_is_answered_in_its_shape() {
    case(|| {
        let host = node(LEASE4);
        for version in versions() {
            let pod = host.pod();
            let config = with(&config(), json!({ "cniVersion": version }));
            let result = add(&host, &pod, &config).result();
            assert_eq!(result["cniVersion"], *version);
            let address = pod.addresses().remove(0);
            if *version < "0.3.0" {
                assert_eq!(result["ip4"]["ip"], address);
            } else {
                assert_eq!(result["ips"][0]["address"], address);
            }
            host.plugin("flannel").pod(&pod).config(&config).del().ok();
        }
        // Without one it is the oldest, for the delegate too.
        let result = add(&host, &host.pod(), &with(&config(), json!({ "cniVersion": null }))).result();
        assert_eq!(result["cniVersion"], "0.1.0");
        assert!(result["ip4"].is_object(), "{result}");
    });
}

#[test]
fn a_subnet_file_that_cannot_be_used_says_where_to_look() {
    case(|| {
        let host = Host::new();
        let before = host.snapshot();
        let failure = |config: &Value| add(&host, &host.pod(), config).failure();
        failure(&config()).is(
            11,
            "/run/flannel/subnet.env|no such file or directory|Check the flannel pod log for this node|kubectl -n kube-flannel",
        );
        host.assert_as(&before);
        for (contents, code, fragments) in [
            ("", 11, "is missing FLANNEL_NETWORK, FLANNEL_IPV6_NETWORK, FLANNEL_SUBNET|try again"),
            (
                "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.3.1/24\n",
                11,
                "is missing FLANNEL_MTU, FLANNEL_IPMASQ",
            ),
            ("FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.24", 11, "FLANNEL_SUBNET=10.24|try again"),
            ("FLANNEL_NETWORK=10.244.0.0/33\n", 999, "FLANNEL_NETWORK=10.244.0.0/33|invalid CIDR"),
            ("FLANNEL_MTU=-1\n", 999, "FLANNEL_MTU=-1"),
        ] {
            host.write("/run/test/subnet.env", contents);
            failure(&with(&config(), json!({ "subnetFile": "/run/test/subnet.env" }))).is(code, fragments);
        }
        failure(&with(&config(), json!({ "subnetFile": "/run" }))).is(999, "/run");
        host.assert_as(&before);
    });
}

#[test]
fn a_config_that_cannot_work_is_refused_with_nothing_done() {
    case(|| {
        let host = node(LEASE4);
        let before = host.snapshot();
        for (patch, fragments) in [
            (json!({ "delegate": { "name": "x" } }), "must not have 'name' field"),
            (json!({ "delegate": { "ipam": {} } }), "must not have 'ipam' field"),
            (json!({ "delegate": { "type": 5 } }), "must have (string) 'type' field"),
            (json!({ "delegate": { "type": "flannel" } }), "cannot delegate to itself"),
            (json!({ "delegate": { "type": "nowhere" } }), "failed to find plugin|nowhere"),
            (json!({ "delegate": [] }), "delegate"),
            (json!({ "ipam": { "routes": [{}] } }), "ipam.routes"),
            (json!({ "dataDir": "/run/flannel/subnet.env/x" }), "/run/flannel/subnet.env"),
        ] {
            add(&host, &host.pod(), &with(&config(), patch)).failure().is(999, fragments);
            host.assert_as(&before);
        }
    });
}

#[test]
fn a_delegate_that_fails_leaves_no_file() {
    case(|| {
        let host = node(LEASE4);
        script(&host, "fake", r#"echo $CNI_COMMAND >>/run/test/calls; echo '{"code":117,"msg":"no luck"}'; exit 1"#);
        add(&host, &host.pod(), &fake()).failure().is(117, "no luck");
        assert_eq!(host.read("/run/test/calls").unwrap(), "ADD", "what failed has nothing to take back");
        assert!(host.files(OWN).is_empty());
        assert_eq!(host.files(DATA_DIR), [".oxbridge"]);
    });
}

#[test]
fn a_second_add_is_refused_and_the_first_can_still_be_deleted() {
    case(|| {
        let host = node(LEASE4);
        let before = warm_up(&host, &config());
        let pod = host.pod();
        add(&host, &pod, &config()).ok();
        let running = host.snapshot();
        add(&host, &pod, &with(&config(), json!({ "delegate": { "bridge": "other" } }))).failure();
        host.assert_as(&running);
        assert_reaches(&pod, "10.244.3.1");
        host.plugin("flannel").pod(&pod).config(&config()).del().ok();
        host.assert_as(&before);
    });
}

#[test]
fn a_result_that_nobody_can_read_undoes_everything() {
    case(|| {
        let host = node(LEASE4);
        let before = warm_up(&host, &config());
        let pod = host.pod();
        let reply = host.plugin("flannel").pod(&pod).config(&config()).stdout(full()).add();
        assert!(!reply.status.success(), "{reply}");
        host.assert_as(&before);
        assert!(pod.link("eth0").is_none());
        // Nor does a delegate's answer that is none.
        script(&host, "fake", "echo $CNI_COMMAND >>/run/test/calls; echo nonsense");
        add(&host, &pod, &fake()).failure().is(999, "invalid result");
        assert_eq!(host.read("/run/test/calls").unwrap(), "ADD\nDEL");
        host.assert_as(&before);
    });
}

#[test]
fn sigterm_undoes_everything() {
    case(|| {
        let host = node(LEASE4);
        let before = warm_up(&host, &config());
        script(
            &host,
            "fake",
            &format!("echo $CNI_COMMAND >>/run/test/calls; [ $CNI_COMMAND = DEL ] || sleep 0.5; {ANSWER}"),
        );
        let pod = host.pod();
        let call = host.plugin("flannel").pod(&pod).config(&fake()).env("CNI_PATH", &path());
        let reply = call.signal(Signal::SIGTERM, || host.exists("/run/test/calls")).add();
        reply.failure().is(11, "interrupted by SIGTERM");
        assert_eq!(host.read("/run/test/calls").unwrap(), "ADD\nDEL");
        host.assert_as(&before);
    });
}

#[test]
fn what_a_delegate_cannot_take_back_is_remembered() {
    case(|| {
        let host = node(LEASE4);
        script(&host, "fake", r#"[ $CNI_COMMAND = ADD ] || exit 3; echo nonsense"#);
        let pod = host.pod();
        add(&host, &pod, &fake()).failure();
        assert_eq!(host.files(OWN), [format!("{}:eth0", pod.id)]);
        script(&host, "fake", RECORDER);
        host.plugin("flannel").pod(&pod).config(&fake()).env("CNI_PATH", &path()).del().ok();
        assert_eq!(host.read("/run/test/calls").unwrap(), format!("DEL {} eth0", pod.id));
        assert!(host.files(OWN).is_empty());
    });
}

#[test]
fn killed_while_the_delegate_works_del_still_knows_what_to_ask() {
    case(|| {
        let host = node(LEASE4);
        // It goes on by itself.
        script(&host, "fake", &format!("[ $CNI_COMMAND = DEL ] || {{ : >/run/test/began; sleep 0.3; }}\n{RECORDER}"));
        let pod = host.pod();
        let config = with(&fake(), json!({ "delegate": { "marker": "mine" } }));
        let call = host.plugin("flannel").pod(&pod).config(&config).env("CNI_PATH", &path());
        let reply = call.signal(Signal::SIGKILL, || host.exists("/run/test/began")).add();
        assert!(reply.status.code().is_none() && reply.stdout.is_empty(), "{reply}");
        assert!(!host.exists("/run/test/calls"), "killed too late");
        host.run(&format!("rm {SUBNET_ENV}"));
        host.plugin("flannel").pod(&pod).config(&fake()).env("CNI_PATH", &path()).del().ok();
        assert!(host.read("/run/test/stdin.DEL").unwrap().contains("\"marker\":\"mine\""));
        assert!(host.files(OWN).is_empty());
    });
}

#[test]
fn many_at_once_do_not_disturb_each_other() {
    case(|| {
        let host = node(LEASE46);
        let before = warm_up(&host, &config());
        let pods: Vec<Pod> = (0..8).map(|_| host.pod()).collect();
        let all = |verb: &'static str| {
            thread::scope(|s| {
                let calls: Vec<_> = (pods.iter())
                    .map(|pod| {
                        let call = host.plugin("flannel").verb(verb).pod(pod).config(&config());
                        s.spawn(move || call.run())
                    })
                    .collect();
                calls.into_iter().for_each(|call| _ = call.join().unwrap().ok());
            });
        };
        all("ADD");
        assert_eq!(host.files(OWN).len(), 8);
        assert_reaches(&pods[0], &pods[7].addresses()[0].replace("/24", ""));
        all("DEL");
        host.assert_as(&before);
    });
}
