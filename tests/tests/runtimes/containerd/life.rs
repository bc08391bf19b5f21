//! What becomes of pods on a node that is busy, whose daemon is killed, or that is rebooted.

use std::{collections::BTreeSet, thread};

use serde_json::json;
use tests::{
    Host,
    config::{self, with},
    published::{CONTAINER_PORT, PUBLISHED, at},
    reported, settings,
    traffic::{self, http, outside::HOST4},
};

use super::daemon::{Node, STORE, Sandbox, bridge, list, portmap, published, subject};

/// The addresses of the small pool: all of 10.22.0.0/29 but the network's, the gateway's and the broadcast's.
const SMALL: usize = 5;

#[test]
fn twenty_pods_in_parallel() {
    reported(
        &subject(),
        "20 pods started, asked and removed in parallel: 20 addresses of each family, nothing left",
        || {
            let node = Node::new(&list("1.0.0", &[bridge(), portmap()]));
            node.host().outside();
            let before = node.warm_up(|pod| pod.port_mappings = vec![published(8000)]);
            let all = in_parallel(0..20, |n| {
                node.run(&format!("pod-{n}"), |pod| pod.port_mappings = vec![published(8000 + n)])
            });
            let addresses: BTreeSet<_> = all.iter().flat_map(|pod| pod.addresses.clone()).collect();
            assert_eq!(addresses.len(), 40, "{addresses:?}");
            for (pod, n) in all.iter().zip(0..) {
                for address in &pod.addresses {
                    assert_served(node.host(), address, CONTAINER_PORT, &format!("pod-{n}"));
                }
                assert_served(node.host(), HOST4, 8000 + n, &format!("pod-{n}"));
            }
            in_parallel(all, Sandbox::end);
            node.host().assert_as(&before);
        },
    );
}

#[test]
fn the_daemon_is_killed() {
    reported(
        &subject(),
        "containerd killed and started again with pods running: they answer, stop, remove, nothing left",
        || {
            let node = Node::new(&list("1.0.0", &[bridge(), portmap()]));
            node.host().outside();
            let before = node.warm_up(|pod| pod.port_mappings = vec![published(8000)]);
            let run = |n: u16| node.run(&format!("pod-{n}"), |pod| pod.port_mappings = vec![published(8000 + n)]);
            let mut pods: Vec<_> = (0..3).map(run).collect();
            node.restart();
            pods.push(run(3));
            for (pod, n) in pods.iter().zip(0..) {
                assert_eq!(node.cri().pod(&pod.id).unwrap().addresses, pod.addresses);
                assert_served(node.host(), pod.address(false), CONTAINER_PORT, &format!("pod-{n}"));
                assert_served(node.host(), HOST4, 8000 + n, &format!("pod-{n}"));
            }
            pods.into_iter().for_each(Sandbox::end);
            node.host().assert_as(&before);
        },
    );
}

#[test]
fn the_node_is_rebooted() {
    let what = "the node loses its power with a full pool and comes back: new pods get all the addresses; the old ones are \
                stopped and removed afterwards and take nothing with them";
    reported(&subject(), what, || {
        settings::not_for_reference("reservations of an earlier boot stay there until somebody removes them");
        let pool = with(&bridge(), json!({ "ipam": null }));
        let pool = with(&pool, json!({ "ipam": config::host_local(&["10.22.0.0/29"]) }));
        let mut node = Node::new(&list("1.0.0", &[pool, portmap()]));
        let old: Vec<_> = (0..).take(SMALL).map(|n| run(&node, "old", n).id).collect();
        let error = node.try_run("one-too-many", |_| {}).map(drop).unwrap_err();
        assert!(error.message().contains("no IP addresses available"), "{error}");

        node.reboot();
        node.host().outside();
        let fresh: Vec<_> = (0..).take(SMALL).map(|n| run(&node, "new", n)).collect();
        let addresses: BTreeSet<_> = fresh.iter().map(|pod| pod.address(false)).collect();
        let now = node.host().snapshot();
        for text in addresses.iter().copied().chain([PUBLISHED]) {
            assert!(now.mentions(text), "{text}");
        }
        assert_eq!(addresses.len(), SMALL, "{addresses:?}");
        // As kubelet does with pods that it finds dead. Their addresses and ports are others' by now.
        for id in &old {
            node.cri().stop(id).unwrap();
            node.cri().remove(id).unwrap();
        }
        for (pod, n) in fresh.iter().zip(0..) {
            assert_served(node.host(), pod.address(false), CONTAINER_PORT, &format!("new-{n}"));
            assert_served(node.host(), HOST4, 8000 + n, &format!("new-{n}"));
            assert!(node.host().files(STORE).iter().any(|name| name == pod.address(false)));
        }
        let fresh_addresses: Vec<_> = fresh.iter().flat_map(|pod| pod.addresses.clone()).collect();
        fresh.into_iter().for_each(Sandbox::end);
        node.host().snapshot().assert_lacks(fresh_addresses.iter().map(String::as_str).chain([PUBLISHED]));
        let left: Vec<_> = node.host().files(STORE).into_iter().filter(|name| name.starts_with("10.")).collect();
        assert!(left.is_empty(), "{left:?}");
    });
}

fn run<'n>(node: &'n Node, name: &str, n: u16) -> Sandbox<'n> {
    node.run(&format!("{name}-{n}"), |pod| pod.port_mappings = vec![published(8000 + n)])
}

/// # Panics
/// When it is not this pod that answers there.
fn assert_served(host: &Host, address: &str, port: u16, pod: &str) {
    traffic::assert_reaches(host, address);
    let answer =
        http::who(host, at(address, port)).unwrap_or_else(|| panic!("{pod} does not answer at {address}:{port}"));
    assert_eq!(answer.server, pod, "at {address}:{port}");
}

fn in_parallel<I: Send, T: Send>(all: impl IntoIterator<Item = I>, work: impl Fn(I) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = all.into_iter().map(|item| scope.spawn(move || work(item))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}
