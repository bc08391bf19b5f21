//! bandwidth, with traffic: what gets through is what the config says.

use std::{net::IpAddr, time::Duration};

use serde_json::{Value, json};
use tests::{
    Host, Place, Pod, case, config,
    config::Merge,
    pod::ips,
    traffic::{PATIENCE, ping, rate},
};

/// How far a rate may be off.
const TOLERANCE: f64 = 0.1;

/// A host with two pods on a bridge, of which the first is limited.
struct Scene {
    host: Host,
    limited: Pod,
    free: Pod,
    limited_ips: Vec<IpAddr>,
    free_ips: Vec<IpAddr>,
}

impl Scene {
    fn new(limits: Value) -> Self {
        let host = Host::new();
        let (limited, free) = (host.pod(), host.pod());
        let attach = |pod: &Pod| host.plugin("bridge").pod(pod).config(&config::dual_stack()).add().result();
        let (result, other) = (attach(&limited), attach(&free));
        let config = crate::bandwidth_add::config(limits);
        host.plugin("bandwidth").pod(&limited).config_with(&config, &result).add().ok();
        Self { limited_ips: ips(&result), free_ips: ips(&other), host, limited, free }
    }

    /// The rate by a protocol and a family (0: IPv4, 1: IPv6), to or from the limited pod.
    fn measure(&self, to_it: bool, tcp: bool, family: usize, limit: f64) -> f64 {
        let (from, to, address) = if to_it {
            (&self.free, &self.limited, self.limited_ips[family])
        } else {
            (&self.limited, &self.free, self.free_ips[family])
        };
        if tcp { rate::tcp(from, to, address) } else { rate::udp(from, to, address, limit * 1.3) }
    }

    /// # Panics
    /// When the rate is off in each of three measurements: on a busy machine, one may be disturbed.
    fn assert_limited(&self, limit: f64, tcp: bool, family: usize) {
        for to_it in [true, false] {
            let mut rates = Vec::new();
            while !rates.last().is_some_and(|rate: &f64| (rate / limit - 1.0).abs() < TOLERANCE) {
                let qdiscs = || self.host.run("tc -s qdisc");
                assert!(
                    rates.len() < 3,
                    "{limit} bit/s to it {to_it}, TCP {tcp}, family {family}: {rates:?}\n{}",
                    qdiscs()
                );
                rates.push(self.measure(to_it, tcp, family, limit));
            }
        }
    }
}

/// Buckets of 40 ms: what is not sent while a process waits for its turn is made up for.
fn symmetric(rate: u64, burst: u64) -> Value {
    json!({ "ingressRate": rate, "ingressBurst": burst, "egressRate": rate, "egressBurst": burst })
}

#[test]
fn a_megabit() {
    case(|| {
        let scene = Scene::new(symmetric(1_000_000, 40_000));
        scene.assert_limited(1e6, true, 0);
        scene.assert_limited(1e6, false, 1);
    });
}

#[test]
fn ten_megabits() {
    case(|| {
        let scene = Scene::new(symmetric(10_000_000, 400_000));
        scene.assert_limited(1e7, true, 1);
        scene.assert_limited(1e7, false, 0);
    });
}

#[test]
fn a_hundred_megabits() {
    case(|| {
        let scene = Scene::new(symmetric(100_000_000, 4_000_000));
        scene.assert_limited(1e8, true, 0);
        scene.assert_limited(1e8, true, 1);
        scene.assert_limited(1e8, false, 0);
    });
}

/// The smallest bucket that is not refused still lets packets through, also those that were to be segmented later. Whenever
/// the kernel is late, some of the rate is lost.
#[test]
fn a_bucket_of_one_packet() {
    case(|| {
        let scene = Scene::new(symmetric(10_000_000, 1514 * 8));
        for to_it in [true, false] {
            let rate = scene.measure(to_it, true, 0, 1e7);
            assert!((4e6..1.1e7).contains(&rate), "{rate}");
        }
    });
}

/// Told in the kernel's ticks of 64 ns, it would hold 800 bytes.
#[test]
fn a_bucket_of_one_packet_at_a_rate_beyond_32_bits() {
    case(|| {
        let scene = Scene::new(symmetric(100_000_000_000, 1514 * 8));
        for to_it in [true, false] {
            let rate = scene.measure(to_it, true, 0, 1e11);
            assert!(rate > 1e6, "{rate}");
        }
    });
}

#[test]
fn each_direction_has_its_own_limit() {
    case(|| {
        let scene = Scene::new(json!({ "ingressRate": 4_000_000, "ingressBurst": 80_000 }));
        let to_it = scene.measure(true, true, 0, 4e6);
        let from_it = scene.measure(false, true, 0, 4e6);
        assert!(to_it < 4.4e6 && from_it > 4e7, "{to_it} {from_it}");
        let scene = Scene::new(json!({ "egressRate": 4_000_000, "egressBurst": 80_000 }));
        let to_it = scene.measure(true, true, 0, 4e6);
        let from_it = scene.measure(false, true, 0, 4e6);
        assert!(from_it < 4.4e6 && to_it > 4e7, "{to_it} {from_it}");
    });
}

/// A runtime's bucket of 256 MB, the queue of which holds minutes of traffic (kubernetes/kubernetes#90838).
#[test]
fn the_queue_and_the_bucket_can_be_bounded() {
    case(|| {
        let limits =
            json!({ "runtimeConfig": { "bandwidth": { "ingressRate": 10_000_000, "ingressBurst": i32::MAX } } });
        let wait = |more: Value| {
            let scene = Scene::new(limits.clone().merge(more));
            let address = scene.limited_ips[0];
            let waits = rate::under_load(&scene.free, &scene.limited, address, || {
                (0..5).map(|_| ping(&scene.free, address, PATIENCE).unwrap()).max().unwrap()
            });
            (waits, scene.measure(true, true, 0, 1e7))
        };
        // A packet that came whole may wait for 64 KiB, which are 52 ms.
        let (short, rate) = wait(json!({ "maxBurst": 160_000, "latency": 10 }));
        assert!(short < Duration::from_millis(60) && rate < 1.1e7, "{short:?} {rate}");
        let (long, rate) = wait(json!({ "maxBurst": 160_000, "latency": 400 }));
        assert!(long > Duration::from_millis(100) && rate < 1.1e7, "{long:?} {rate}");
    });
}
