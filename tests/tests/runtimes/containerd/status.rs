//! STATUS, which containerd 2 asks whenever kubelet asks for its own.

use tests::{Place, reported, settings};

use super::daemon::{Node, bridge, knows_status, list, portmap, subject};

#[test]
fn a_node_that_cannot_attach_is_not_ready() {
    let what = "STATUS: a node whose store cannot be written is not ready and says why in our words, and is ready again \
                afterwards";
    reported(&subject(), what, || {
        if !knows_status() {
            tests::skip("containerd 1 does not ask for STATUS");
        }
        settings::not_for_reference("its STATUS does not look");
        let node = Node::new(&list("1.1.0", &[bridge(), portmap()]));
        let network = || {
            let all = node.cri().conditions().unwrap();
            let network = all.into_iter().find(|condition| condition.kind == "NetworkReady").unwrap();
            (network.status, network.message)
        };
        node.machine().run("mount -t tmpfs -o ro tmpfs /var/lib/cni");
        let (ready, message) = network();
        assert!(!ready && message.contains("/var/lib/cni"), "{ready} {message}");
        node.machine().run("umount /var/lib/cni");
        assert_eq!(network(), (true, String::new()));
        node.run("web", |_| {}).end();
    });
}
