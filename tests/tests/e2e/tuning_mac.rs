//! tuning: a pod with another MAC address talks at once, behind a spoof filter, too.

use std::{net::IpAddr, time::Duration};

use serde_json::{Value, json};
use tests::{
    Call, Host, Network, Place, Pod, case,
    config::{self, GATEWAY4, GATEWAY6, with},
    plugin::full,
    snapshot,
    traffic::{assert_reaches, assert_silent},
};

use crate::{
    announce::first_answers,
    tuning_link::{linked, needs_countable_requests, tuning},
};

const MAC: &str = "02:aa:bb:cc:dd:01";
const V4: &str = "10.22.0.2";
const V6: &str = "fd00:22::2";
const LIMIT: Duration = Duration::from_millis(100);
/// Longer than this nobody has to wait here.
const GIVE_UP: Duration = Duration::from_millis(1500);

fn filtered() -> Value {
    with(&config::dual_stack(), json!({ "macspoofchk": true }))
}

/// A pod of 10.22.0.2 and its result.
fn attached(host: &Host, config: &Value) -> (Pod, Value) {
    let pod = host.pod();
    let result = host.plugin("bridge").pod(&pod).config(config).add().result();
    (pod, result)
}

fn tune<'h>(host: &'h Host, pod: &Pod, result: &Value) -> Call<'h> {
    host.plugin("tuning").pod(pod).config_with(&with(&tuning(), json!({ "mac": MAC })), result)
}

fn mac(pod: &Pod) -> String {
    pod.interface()["address"].as_str().unwrap().to_owned()
}

fn assert_talks(host: &Host, pod: &Pod, sibling: &Pod) {
    for target in [GATEWAY4, GATEWAY6, "10.22.0.3", "fd00:22::3"] {
        assert_reaches(pod, target);
    }
    for from in [V4, V6] {
        assert_reaches(host, from);
        assert_reaches(sibling, from);
    }
}

#[test]
fn in_a_chain_behind_the_spoof_filter_the_pod_talks() {
    case(|| {
        let host = Host::new();
        let bridge = filtered();
        let list =
            json!({ "cniVersion": "1.0.0", "name": "net", "plugins": [bridge, { "type": "tuning", "mac": MAC }] });
        let network = Network::of_list(&host, &list);
        let warm_up = host.pod();
        network.add(&warm_up).ok();
        network.del(&warm_up).ok();
        let before = host.snapshot();
        let pod = host.pod();
        let result = network.add(&pod).result();
        assert_eq!(result["interfaces"][2]["mac"], MAC);
        let (sibling, _) = attached(&host, &bridge);
        // The pool goes on where it was.
        let address = |pod: &Pod| pod.addresses()[0].split('/').next().unwrap().to_owned();
        let (own, other) = (address(&pod), address(&sibling));
        for target in [GATEWAY4, GATEWAY6, &other] {
            assert_reaches(&pod, target);
        }
        assert_reaches(&host, &own);
        assert_reaches(&sibling, &own);
        network.check(&pod).ok();
        // No other address, the old one included.
        pod.run("ip link set dev eth0 address 02:00:00:00:00:99");
        assert_silent(&pod, GATEWAY4);
        pod.run(&format!("ip link set dev eth0 address {MAC}"));
        assert_reaches(&pod, GATEWAY4);
        network.del(&pod).ok();
        host.plugin("bridge").pod(&sibling).config(&bridge).del().ok();
        host.assert_as(&before);
    });
}

#[test]
fn check_of_the_chain_takes_a_smaller_mtu_for_what_it_is() {
    case(|| {
        let host = Host::new();
        let bridge = with(&config::bridge(), json!({ "mtu": 1400 }));
        let list =
            json!({ "cniVersion": "1.0.0", "name": "net", "plugins": [bridge, { "type": "tuning", "mtu": 1300 }] });
        let network = Network::of_list(&host, &list);
        let pod = host.pod();
        network.add(&pod).ok();
        network.check(&pod).ok();
        assert_reaches(&pod, GATEWAY4);
    });
}

#[test]
fn the_filter_follows_and_goes_back() {
    case(|| {
        let host = Host::new();
        let (pod, result) = attached(&host, &filtered());
        let (sibling, _) = attached(&host, &filtered());
        let before = host.snapshot();
        let own = mac(&pod);
        let allowed = |mac: &str| snapshot::elements(&host, mac).len();
        let tuned = tune(&host, &pod, &result).add().result();
        assert_eq!((allowed(&own), allowed(MAC)), (0, 1));
        assert_talks(&host, &pod, &sibling);
        pod.run(&format!("ip link set dev eth0 address {own}"));
        assert_silent(&pod, GATEWAY4);
        pod.run(&format!("ip link set dev eth0 address {MAC}"));
        // Once more, as after a lost answer.
        tune(&host, &pod, &result).add().ok();
        host.plugin("bridge").pod(&pod).config_with(&filtered(), &tuned).check().ok();
        tune(&host, &pod, &tuned).check().ok();
        tune(&host, &pod, &tuned).del().ok();
        assert_eq!(mac(&pod), own);
        assert_talks(&host, &pod, &sibling);
        let diff = before.diff(&host.snapshot());
        let left: Vec<_> = diff.lines().filter(|line| !line.contains("folder /run/cni")).collect();
        assert!(left.is_empty(), "{left:#?}");
    });
}

#[test]
fn a_failed_add_gives_the_filter_its_address_back() {
    case(|| {
        let host = Host::new();
        let (pod, result) = attached(&host, &filtered());
        let (sibling, _) = attached(&host, &filtered());
        let own = mac(&pod);
        let reply = tune(&host, &pod, &result).stdout(full()).add();
        assert!(!reply.status.success(), "{reply}");
        assert_eq!(mac(&pod), own);
        assert_eq!((snapshot::elements(&host, &own).len(), snapshot::elements(&host, MAC).len()), (1, 0));
        assert_talks(&host, &pod, &sibling);
    });
}

/// Each of the plugin's requests is refused once, that for the address among them.
#[test]
fn whichever_request_fails_the_filter_is_the_address() {
    case(|| {
        let host = Host::new();
        needs_countable_requests(&host);
        let (pod, result) = attached(&host, &filtered());
        let own = mac(&pod);
        let mut refused = 0;
        for request in 1..40 {
            let inject = format!("inject=sendto:error=EBUSY:when={request}");
            let strace = ["strace", "-qq", "-e", "trace=sendto", "-e", &inject, "-o", "/dev/null"];
            let reply = tune(&host, &pod, &result).under(&strace).add();
            let is_own = mac(&pod) == own;
            assert_eq!(is_own, !reply.status.success(), "request {request}: {reply}");
            let allowed = |mac: &str| snapshot::elements(&host, mac).len();
            let expected = if is_own { (1, 0) } else { (0, 1) };
            assert_eq!((allowed(&own), allowed(MAC)), expected, "request {request}: {reply}");
            refused += usize::from(is_own);
            tune(&host, &pod, &result).del().ok();
            assert_eq!((mac(&pod), allowed(&own), allowed(MAC)), (own.clone(), 1, 0), "request {request}");
        }
        assert!(refused > 1, "{refused}");
    });
}

#[test]
fn whoever_knew_the_old_address_learns_of_the_new_one_at_once() {
    case(|| {
        let host = Host::new();
        // The pod's own settings for announcing are off: it is tuning that announces.
        let config = with(&config::dual_stack(), json!({ "announce": false }));
        let (pod, result) = attached(&host, &config);
        let (sibling, _) = attached(&host, &config);
        let (v4, v6): (IpAddr, IpAddr) = (V4.parse().unwrap(), V6.parse().unwrap());
        // Each way: to the new address and back to the old one.
        let mut best = [GIVE_UP; 8];
        for _ in 0..5 {
            for (verb, best) in ["ADD", "DEL"].into_iter().zip(best.chunks_mut(4)) {
                assert_talks(&host, &pod, &sibling);
                tune(&host, &pod, &result).verb(verb).run().ok();
                let first = first_answers(&host, &sibling, v4, v6, GIVE_UP);
                for (best, first) in best.iter_mut().zip(first) {
                    *best = first.min(*best);
                }
            }
            if best.iter().all(|time| *time < LIMIT) {
                return;
            }
        }
        panic!("first answers [host v4, host v6, sibling v4, sibling v6], after ADD and DEL: {best:?}");
    });
}

#[test]
fn the_host_forgets_the_old_address_of_a_pod_that_says_nothing() {
    case(|| {
        let host = Host::new();
        let (pod, result) = attached(&host, &config::dual_stack());
        pod.run("ip link set dev eth0 down");
        for address in [V4, V6] {
            host.run(&format!("ip neighbour replace {address} lladdr {} dev br0 nud reachable", mac(&pod)));
        }
        tune(&host, &pod, &result).add().ok();
        for address in [V4, V6] {
            let known = host.run(&format!("ip neighbour show {address} dev br0"));
            assert!(!known.contains("lladdr"), "{known}");
        }
    });
}

#[test]
fn announcing_leaves_no_setting_behind() {
    case(|| {
        let host = Host::new();
        let (pod, previous) = linked(&host);
        tune(&host, &pod, &previous).add().ok();
        for setting in ["net/ipv4/conf/eth0/arp_notify", "net/ipv6/conf/eth0/ndisc_notify"] {
            assert_eq!(pod.read(&format!("/proc/sys/{setting}")).as_deref(), Some("0"), "{setting}");
        }
    });
}
