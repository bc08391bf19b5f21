//! Published ports.

use tests::{
    NetNs, Place,
    published::{at, ip},
    reported,
    traffic::{
        Server, Transport, ask, ask_briefly, assert_reaches,
        outside::{HOST4, HOST6, SERVER4, SERVER6},
    },
};

use super::{
    networks::{BLUE, GREEN},
    node::{Node, subject},
};

/// The ports that are published: any address, one of the host's, the loopback's, a range; of both families.
const PORTS: &str = "-p 8080:7000 -p [::]:8080:7000 -p 8080:7000/udp -p [::]:8080:7000/udp -p 192.0.2.1:8081:7000 \
                     -p 127.0.0.1:8082:7000/tcp -p [::1]:8083:7000 -p 9000-9002:7000-7002";

/// Servers in a container that listen on the published ports.
fn serve(container: &NetNs, addresses: [&str; 2]) -> Vec<Server> {
    let first = addresses.map(|address| Server::start(container, "7000", at(address, 7000)));
    let range = [7001, 7002].map(|port| Server::start(container, &port.to_string(), at(addresses[0], port)));
    first.into_iter().chain(range).collect()
}

/// # Panics
/// When it is not that server that answers there.
fn assert_answers(from: &impl Place, transport: Transport, address: &str, port: u16, server: &str) {
    let answer = ask(from, transport, at(address, port));
    assert_eq!(answer.map(|answer| answer.server).as_deref(), Some(server), "{transport} {address} {port}");
}

/// # Panics
/// When a published port does not answer somebody who may ask.
fn assert_published(node: &Node, container: &NetNs) {
    let outside = node.host().outside();
    for transport in Transport::ALL {
        for address in ["127.0.0.1", HOST4, HOST6] {
            assert_answers(node.host(), transport, address, 8080, "7000");
        }
        for address in [HOST4, HOST6] {
            assert_answers(outside, transport, address, 8080, "7000");
            assert_answers(container, transport, address, 8080, "7000");
        }
    }
    for (port, server) in [(8081, "7000"), (9000, "7000"), (9001, "7001"), (9002, "7002")] {
        assert_answers(outside, Transport::Tcp, HOST4, port, server);
    }
    assert_answers(node.host(), Transport::Tcp, "127.0.0.1", 8082, "7000");
    assert_answers(node.host(), Transport::Tcp, "127.0.0.1", 9002, "7002");
    // Whom the server sees.
    for (address, client) in [(HOST4, SERVER4), (HOST6, SERVER6)] {
        assert_eq!(ask(outside, Transport::Tcp, at(address, 8080)).unwrap().seen, ip(client));
    }
}

#[test]
fn published_ports() {
    reported(
        &subject(),
        "published ports: TCP, UDP, a range, host addresses, both families; from the host, the outside and the container",
        || {
            let node = Node::new();
            node.host().outside();
            node.podman(&format!("{BLUE} blue"));
            let before = node.warm_up(&[&format!("--network blue {PORTS}")]);
            let a = node.start("a", &format!("--network blue:ip=10.44.0.50,ip6=fd00:44::50 {PORTS}"));
            let servers = serve(&a, ["10.44.0.50", "fd00:44::50"]);
            assert_published(&node, &a);
            // Other addresses than the published one.
            for (address, port) in [(HOST4, 8082), ("127.0.0.1", 8081), (HOST6, 8083)] {
                assert!(ask_briefly(node.host(), Transport::Tcp, at(address, port)).is_none(), "{address} {port}");
            }
            for (address, port) in [(HOST4, 8082), (HOST6, 8082), (HOST4, 8083), (HOST6, 8083)] {
                let answer = ask_briefly(node.host().outside(), Transport::Tcp, at(address, port));
                assert!(answer.is_none(), "{address} {port} from outside");
            }
            drop(servers);
            node.remove("a");
            assert!(ask_briefly(node.host(), Transport::Tcp, at("127.0.0.1", 8080)).is_none());
            node.host().assert_as(&before);
        },
    );
}

#[test]
fn reload_after_the_rules_were_flushed() {
    reported(
        &subject(),
        "`network reload` after `nft flush ruleset`: published ports and the way outside are back",
        || {
            let node = Node::new();
            node.host().outside();
            node.podman(&format!("{BLUE} blue"));
            // With a MAC address, as `reload` keeps the one that there was.
            let before = node.warm_up(&[&format!("--network blue:mac=02:11:22:33:44:55 {PORTS}")]);
            let a = node.start("a", &format!("--network blue:ip=10.44.0.50,ip6=fd00:44::50 {PORTS}"));
            let _servers = serve(&a, ["10.44.0.50", "fd00:44::50"]);
            node.host().run("nft flush ruleset");
            assert!(ask_briefly(node.host(), Transport::Tcp, at(HOST4, 8080)).is_none());
            node.podman("network reload a");
            assert_published(&node, &a);
            for to in [SERVER4, SERVER6] {
                assert_reaches(&a, to);
            }
            // With nothing to repair.
            node.podman("network reload -a");
            assert_published(&node, &a);
            node.remove("a");
            node.host().assert_as(&before);
        },
    );
}

#[test]
fn published_by_two_networks() {
    reported(
        &subject(),
        "a published port of a container in two networks, also after `network disconnect` of either",
        || {
            let node = Node::new();
            node.host().outside();
            node.podman(&format!("{BLUE} blue"));
            node.podman(&format!("{GREEN} green"));
            let options = "--network blue:ip=10.44.0.50 --network green:ip=10.45.0.50 -p 8080:7000";
            let before = node.warm_up(&[options]);
            let a = node.start("a", options);
            let answers = |addresses: &[&str]| {
                let _servers: Vec<_> = addresses.iter().map(|ip| Server::start(&a, "a", at(ip, 7000))).collect();
                for (from, to) in [(node.host().netns(), "127.0.0.1"), (node.host().outside(), HOST4)] {
                    assert_answers(from, Transport::Tcp, to, 8080, "a");
                }
            };
            answers(&["10.44.0.50", "10.45.0.50"]);
            for (network, ip, other) in [("blue", "10.44.0.51", "10.45.0.50"), ("green", "10.45.0.51", "10.44.0.51")] {
                node.podman(&format!("network disconnect {network} a"));
                answers(&[other]);
                node.podman(&format!("network connect --ip {ip} {network} a"));
                answers(&[other, ip]);
            }
            node.remove("a");
            node.host().assert_as(&before);
        },
    );
}
