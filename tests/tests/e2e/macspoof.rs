//! `macspoofchk`: only frames with the pod's own MAC address pass.

use serde_json::json;
use tests::{
    Host, Place, Pod, case,
    config::{self, GATEWAY4, GATEWAY6, with},
    traffic::{assert_reaches, assert_silent},
};

const OTHER: &str = "02:00:00:00:00:99";

/// Gives the pod's link another MAC: from now on each of its frames is forged. Returns the old one.
fn forge(pod: &Pod) -> String {
    let own = pod.interface()["address"].as_str().unwrap().to_owned();
    set(pod, OTHER);
    own
}

fn set(pod: &Pod, mac: &str) {
    pod.run(&format!("ip link set dev eth0 address {mac}"));
}

#[test]
fn forged_frames_are_dropped_and_own_ones_pass() {
    case(|| {
        let host = Host::new();
        let config = with(&config::dual_stack(), json!({ "macspoofchk": true }));
        let (a, b) = (host.pod(), host.pod());
        host.plugin("bridge").pod(&a).config(&config).add().ok();
        host.plugin("bridge").pod(&b).config(&config).add().ok();
        for target in [GATEWAY4, GATEWAY6, "10.22.0.3", "fd00:22::3"] {
            assert_reaches(&a, target);
        }
        let own = forge(&a);
        for target in [GATEWAY4, GATEWAY6, "10.22.0.3", "fd00:22::3"] {
            assert_silent(&a, target);
        }
        set(&a, &own);
        assert_reaches(&a, GATEWAY4);
        assert_reaches(&a, "10.22.0.3");
    });
}

#[test]
fn another_pods_mac_is_forged_too() {
    case(|| {
        let host = Host::new();
        let config = with(&config::bridge(), json!({ "macspoofchk": true }));
        let (a, b) = (host.pod(), host.pod());
        host.plugin("bridge").pod(&a).config(&config).add().ok();
        host.plugin("bridge").pod(&b).config(&config).add().ok();
        set(&a, b.interface()["address"].as_str().unwrap());
        assert_silent(&a, GATEWAY4);
        assert_reaches(&b, GATEWAY4);
    });
}

#[test]
fn without_it_forged_frames_pass() {
    case(|| {
        let host = Host::new();
        let pod = host.pod();
        host.plugin("bridge").pod(&pod).config(&config::dual_stack()).add().ok();
        forge(&pod);
        assert_reaches(&pod, GATEWAY4);
        assert_reaches(&pod, GATEWAY6);
    });
}

#[test]
fn it_holds_before_the_pod_can_send() {
    case(|| {
        let host = Host::new();
        let config = with(&config::fixed(&[("10.22.0.5/24", GATEWAY4)]), json!({ "macspoofchk": true }));
        host.warm_up(&config);
        // strace writes down the order of what the kernel is asked for.
        let pod = host.pod();
        if host.try_run("strace -V").is_err() {
            tests::skip("there is no strace");
        }
        let strace = ["strace", "-f", "-e", "trace=sendto,sendmsg", "-o", "/run/test/trace", "-v", "-s", "4096"];
        host.plugin("bridge").pod(&pod).config(&config).under(&strace).add().ok();
        let trace = host.read("/run/test/trace").unwrap();
        let lines: Vec<&str> = trace.lines().collect();
        // Attributes that strace does not know are printed byte by byte.
        let name: String = "macspoof-ports".bytes().map(|b| format!("\\x{b:02x}")).collect();
        let filter = lines.iter().position(|l| l.contains(&name)).expect("the filter is set by the plugin itself");
        // The request that sets the pod's end up begins with its address: RTM_NEWADDR is 0x14.
        let has_address = |l: &&str| l.contains("nlmsg_type=0x14 ") || l.contains("nlmsg_type=RTM_NEWADDR");
        let up = lines.iter().position(has_address).expect("the pod gets its address");
        assert!(filter < up, "{trace}");
    });
}

#[test]
fn it_is_gone_after_del_without_the_namespace() {
    case(|| {
        let host = Host::new();
        let config = with(&config::bridge(), json!({ "macspoofchk": true }));
        let before = host.warm_up(&config);
        let pod = host.pod();
        host.plugin("bridge").pod(&pod).config(&config).add().ok();
        let id = pod.id.clone();
        drop(pod);
        host.plugin("bridge").id(&id).netns("").config(&config).del().ok();
        host.assert_as(&before);
    });
}

#[test]
fn it_works_without_addresses() {
    case(|| {
        let host = Host::new();
        let config = with(&config::layer2(), json!({ "macspoofchk": true }));
        let (a, b) = (host.pod(), host.pod());
        for (pod, address) in [(&a, "10.9.0.1"), (&b, "10.9.0.2")] {
            host.plugin("bridge").pod(pod).config(&config).add().ok();
            pod.run(&format!("ip address add {address}/24 dev eth0"));
        }
        assert_reaches(&a, "10.9.0.2");
        let own = forge(&a);
        assert_silent(&a, "10.9.0.2");
        set(&a, &own);
        assert_reaches(&a, "10.9.0.2");
    });
}
