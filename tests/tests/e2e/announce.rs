//! An address that moves to a new pod answers at once.

use std::{net::IpAddr, thread, time::Duration};

use serde_json::json;
use tests::{
    Host, Place, Pod, case,
    config::{self, with},
    traffic::{assert_reaches, outside::SERVER6, ping},
};

const V4: &str = "10.22.0.50";
const V6: &str = "fd00:22::50";
const LIMIT: Duration = Duration::from_millis(100);
/// Longer than this nobody has to wait here.
const GIVE_UP: Duration = Duration::from_millis(1500);
const TRIES: usize = 5;

/// When the first answers come: to the host by IPv4 and IPv6, to a sibling of the pod by both.
pub(crate) fn first_answers(host: &Host, sibling: &Pod, v4: IpAddr, v6: IpAddr, give_up: Duration) -> [Duration; 4] {
    thread::scope(|s| {
        let asking = [
            s.spawn(|| ping(host, v4, give_up)),
            s.spawn(|| ping(host, v6, give_up)),
            s.spawn(|| ping(sibling, v4, give_up)),
            s.spawn(|| ping(sibling, v6, give_up)),
        ];
        asking.map(|thread| thread.join().unwrap().unwrap_or(give_up))
    })
}

#[test]
fn a_reused_address_answers_the_host_and_a_sibling_at_once() {
    case(|| {
        let host = Host::new();
        let config = config::fixed(&[("10.22.0.50/24", "10.22.0.1"), ("fd00:22::50/64", "fd00:22::1")]);
        let sibling = host.pod();
        host.plugin("bridge").pod(&sibling).config(&config::dual_stack()).add().ok();
        let (v4, v6): (IpAddr, IpAddr) = (V4.parse().unwrap(), V6.parse().unwrap());
        let mut pod = host.pod();
        host.plugin("bridge").pod(&pod).config(&config).add().ok();
        let mut best = [GIVE_UP; 4];
        for _ in 0..TRIES {
            // Everybody knows the old pod's MAC.
            for address in [V4, V6] {
                assert_reaches(&host, address);
                assert_reaches(&sibling, address);
            }
            host.plugin("bridge").pod(&pod).config(&config).del().ok();
            pod = host.pod();
            host.plugin("bridge").pod(&pod).config(&config).add().ok();
            let first = first_answers(&host, &sibling, v4, v6, GIVE_UP);
            best = [0, 1, 2, 3].map(|i| best[i].min(first[i]));
            if best.iter().all(|time| *time < LIMIT) {
                return;
            }
        }
        panic!("first answers [host v4, host v6, sibling v4, sibling v6], best of {TRIES}: {best:?}");
    });
}

#[test]
fn the_first_pod_of_a_bridge_is_reached_from_outside_at_once() {
    case(|| {
        let best = (0..TRIES).map(|_| {
            let host = Host::new();
            let outside = host.outside();
            outside.run("ip -6 route add fd00:22::/64 via 2001:db8:1::1");
            host.run("sysctl -q -w net.ipv6.conf.all.forwarding=1");
            assert_reaches(&host, SERVER6);
            let pod = host.pod();
            host.plugin("bridge").pod(&pod).config(&config::ipv6_only()).add().ok();
            ping(outside, "fd00:22::2".parse().unwrap(), GIVE_UP).unwrap_or(GIVE_UP)
        });
        let best = best.min().unwrap();
        assert!(best < LIMIT, "{best:?}");
    });
}

#[test]
fn announcements_can_be_left_out() {
    case(|| {
        let host = Host::new();
        let config = with(&config::everything(), json!({ "announce": false }));
        let pod = host.pod();
        host.plugin("bridge").pod(&pod).config(&config).add().ok();
        assert_reaches(&pod, config::GATEWAY4);
        assert_reaches(&host, "10.22.0.2");
    });
}
