//! containerd's own client, `ctr`, which attaches a container by itself.

use serde_json::json;
use tests::{image, report::Subject, reported, settings, traffic::outside::SERVER4};

use super::daemon::{Node, bridge, list, subject};

#[test]
fn run_and_remove() {
    let subject = Subject { name: subject().name.replace("containerd", "ctr"), ..subject() };
    reported(&subject, "`ctr run --rm --cni`: bridge + firewall: addresses, the world outside, nothing left", || {
        settings::not_for_reference("it leaves its rules where DEL comes without a namespace");
        let node = Node::new(&list("1.0.0", &[bridge(), json!({ "type": "firewall" })]));
        node.host().outside();
        node.import("default");
        let run = |name: &str| {
            let cgroup = format!("{}/{name}", node.machine().cgroup);
            let script = format!("ip address show dev eth0; ping -c 1 -W 5 {SERVER4}");
            node.ctr(&["run", "--rm", "--cni", "--cgroup", &cgroup, image::NAME, name, "/bin/sh", "-c", &script])
        };
        run("first");
        let before = node.host().snapshot();
        let said = run("second");
        for part in ["inet 10.22.0.3/24", "inet6 fd00:22::3/64", " 0% packet loss"] {
            assert!(said.contains(part), "{part}: {said}");
        }
        node.host().assert_as(&before);
    });
}
