//! What `docs/runtimes.md` says, done.

use tests::{
    Place, docs, image,
    published::{CONTAINER_PORT, at},
    reported,
    traffic::{
        assert_reaches, http,
        outside::{HOST4, HOST6, SERVER4, SERVER6},
    },
};

use crate::{
    containerd::daemon::{self, published},
    podman::node,
};

const DOCUMENT: &str = "runtimes.md";

#[test]
fn containerd() {
    reported(&daemon::subject(), "the conflist of docs/runtimes.md", || {
        let conflist = docs::file(DOCUMENT, "/etc/cni/net.d/10-pods.conflist");
        let node = daemon::Node::new(&serde_json::from_str(&conflist).unwrap());
        node.host().outside();
        let pod = node.run("web", |pod| pod.port_mappings = vec![published(8080)]);
        for to in [SERVER4, SERVER6] {
            assert_reaches(&pod.ns(), to);
        }
        for to in [HOST4, HOST6] {
            assert_eq!(http::who(node.host().outside(), at(to, 8080)).unwrap().server, "web");
        }
        pod.end();
    });
}

#[test]
fn podman() {
    reported(&node::subject(), "the files and commands of docs/runtimes.md", || {
        let node = node::Node::new();
        node.host().outside();
        let commands = |name: &str| docs::command(DOCUMENT, name).replace("IMAGE", image::NAME);
        node.type_commands(&commands("podman network"));
        node.type_commands(&commands("podman container"));
        let web = node.netns("web");
        assert_eq!(web.link("eth0").unwrap()["address"], "02:11:22:33:44:55");
        for (address, to) in [("10.44.0.50", HOST4), ("fd00:44::50", HOST6)] {
            assert_reaches(node.host(), address);
            assert!(http::who(node.host(), at(address, CONTAINER_PORT)).is_some());
            assert!(http::who(node.host().outside(), at(to, 8080)).is_some(), "{to}");
        }
        node.type_commands(&commands("podman connect"));
        assert!(web.link("eth1").is_some());
        node.host().run("nft flush ruleset");
        node.type_commands(&commands("podman reload"));
        assert!(http::who(node.host().outside(), at(HOST4, 8080)).is_some());
        node.type_commands(&commands("podman remove"));
        assert_eq!(node.podman("network ls -q"), "podman");
    });
}
