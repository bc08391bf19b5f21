//! Containers that stop, start, and end in other ways than they should.

use std::{collections::BTreeSet, thread};

use tests::{
    Place,
    published::{PUBLISHED, at},
    reported, settings,
    traffic::{Server, Transport, ask, assert_reaches, assert_silent, outside::HOST4, reaches},
};

use super::{
    networks::{BLUE, GREEN},
    node::{Node, subject},
};

/// A container with all that there is to take away.
const OPTIONS: &str = "--network blue:ip=10.44.0.50,ip6=fd00:44::50,mac=02:11:22:33:44:55 -p 8080:7000";

/// A node with two networks and the world outside.
fn node() -> Node {
    let node = Node::new();
    node.host().outside();
    node.podman(&format!("{BLUE} blue"));
    node.podman(&format!("{GREEN} green"));
    node
}

/// # Panics
/// When the container of [`OPTIONS`] has not its addresses, or its port is not published.
fn assert_works(node: &Node) {
    let container = node.netns("a");
    for to in ["10.44.0.50", "fd00:44::50"] {
        assert_reaches(node.host(), to);
    }
    assert_eq!(container.link("eth0").unwrap()["address"], "02:11:22:33:44:55");
    for to in ["10.44.0.1", "fd00:44::1"] {
        assert_reaches(&container, to);
    }
    let _server = Server::start(&container, "a", at("10.44.0.50", 7000));
    for from in [node.host().netns(), node.host().outside()] {
        assert_eq!(ask(from, Transport::Tcp, at(HOST4, 8080)).map(|answer| answer.server).as_deref(), Some("a"));
    }
}

#[test]
fn stopped_and_started_again() {
    reported(
        &subject(),
        "`stop`, `start`, `restart`, `rm -f`: works each time with the same addresses, leaves nothing",
        || {
            let node = node();
            let before = node.warm_up(&[OPTIONS]);
            node.start("a", OPTIONS);
            assert_works(&node);
            node.podman("stop -t 0 a");
            assert_silent(node.host(), "10.44.0.50");
            node.host().assert_as(&before);
            node.podman("start a");
            assert_works(&node);
            node.podman("restart -t 0 a");
            assert_works(&node);
            node.remove("a");
            node.host().assert_as(&before);
        },
    );
}

#[test]
fn its_watcher_is_killed() {
    reported(&subject(), "conmon killed: `rm -f` takes everything away, and `start` works", || {
        let node = node();
        let before = node.warm_up(&[OPTIONS]);
        node.start("a", OPTIONS);
        kill(&node, "ConmonPid");
        node.remove("a");
        node.host().assert_as(&before);

        // The container too: nobody is left who would call DEL.
        node.start("a", OPTIONS);
        kill(&node, "ConmonPid");
        kill(&node, "Pid");
        node.podman("start a");
        assert_works(&node);
        node.remove("a");
        node.host().assert_as(&before);
    });
}

/// Kills a process that podman knows of a container.
fn kill(node: &Node, which: &str) {
    let pid = node.inspect("a")["State"][which].as_u64().unwrap();
    // To kill(2), 0 is whoever calls it and all of its group.
    assert_ne!(pid, 0, "{which} of a container that has ended by itself");
    node.machine().run(&format!("kill -KILL {pid}"));
}

#[test]
fn the_node_is_rebooted() {
    reported(
        &subject(),
        "the node loses its power: containers start again with their static addresses, no address is lost",
        || {
            settings::not_for_reference("a reservation of an earlier boot is refused to its own container");
            let mut node = node();
            node.start("a", OPTIONS);
            node.start("b", "--network blue");
            node.reboot();
            node.host().outside();
            node.podman("start a b");
            assert_works(&node);
            assert_reaches(&node.netns("b"), "10.44.0.50");
            // Two containers are all that ever was here.
            let texts = ["10.44.0.50", "fd00:44::50", PUBLISHED];
            let running = node.host().snapshot();
            texts.iter().for_each(|text| assert!(running.mentions(text), "{text}"));
            node.remove("a b");
            node.host().snapshot().assert_lacks(texts);
            let leases = node.host().files("/var/lib/cni/networks/blue");
            assert!(!leases.iter().any(|name| name.starts_with("10.") || name.starts_with("fd00")), "{leases:?}");
        },
    );
}

#[test]
fn many_at_once() {
    reported(&subject(), "ten containers started at once, and removed at once", || {
        let node = node();
        let before = node.warm_up(&["--network blue -p 8000:81"]);
        let names: Vec<_> = (0..10).map(|n| format!("c{n}")).collect();
        thread::scope(|s| {
            for (n, name) in names.iter().enumerate() {
                let node = &node;
                s.spawn(move || node.start(name, &format!("--network blue -p {}:81", 8000 + n)));
            }
        });
        let mut addresses = BTreeSet::new();
        for (name, port) in names.iter().zip(8000..) {
            let container = node.netns(name);
            assert!(reaches(&container, "fd00:44::1"), "{name}");
            let own = super::networks::addresses(&container, "eth0");
            let _server = Server::start(&container, name, at(&own[0], 81));
            addresses.extend(own);
            let answer = ask(node.host().outside(), Transport::Tcp, at(HOST4, port));
            assert_eq!(answer.map(|answer| answer.server).as_deref(), Some(name.as_str()), "port {port}");
        }
        assert_eq!(addresses.len(), 20, "{addresses:?}");
        node.remove(&names.join(" "));
        node.host().assert_as(&before);
    });
}

#[test]
fn its_network_is_removed() {
    reported(
        &subject(),
        "`network rm` of all networks: bridges, leases and rules of their containers are gone",
        || {
            let node = node();
            node.start("a", OPTIONS);
            node.podman("network connect green a");
            let texts = ["10.44.0.50", "fd00:44::50", "10.45.0.2", "cni-podman"];
            let before = node.host().snapshot();
            texts.iter().for_each(|text| assert!(before.mentions(text), "{text}"));
            node.podman("network rm -f -t 0 blue green");
            node.host().snapshot().assert_lacks(texts);
        },
    );
}
