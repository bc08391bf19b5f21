//! The conflists of flannel's manifest and of podman, as they are, under `cnitool`: a published port answers from
//! everywhere, and DEL leaves nothing.

use serde_json::{Value, json};
use tests::{
    Host, Network, Place, Pod, Reply, Snapshot, case,
    chained::HOST_PORT,
    published::{at, set_bridge_nf},
    settings,
    traffic::{Server, Transport, ask, assert_reaches, outside::HOST4, outside::HOST6, outside::SERVER4},
};

use crate::flannel_add::{LEASE46, OWN, SUBNET_ENV};

const FLANNEL: &str = r#"{"name":"cbr0","cniVersion":"0.3.1","plugins":[{"type":"flannel","delegate":{"hairpinMode":true,"isDefaultGateway":true}},{"type":"portmap","capabilities":{"portMappings":true}}]}"#;

/// What podman writes for its default network.
const PODMAN: &str = r#"{
   "cniVersion": "0.4.0",
   "name": "p",
   "plugins": [
      {
         "type": "bridge",
         "bridge": "cni-podman0",
         "isGateway": true,
         "ipMasq": true,
         "hairpinMode": true,
         "ipam": {
            "type": "host-local",
            "routes": [{ "dst": "0.0.0.0/0" }],
            "ranges": [[{ "subnet": "10.88.0.0/16", "gateway": "10.88.0.1" }]]
         }
      },
      { "type": "portmap", "capabilities": { "portMappings": true } },
      { "type": "firewall" },
      { "type": "tuning" }
   ]
}"#;

/// A node with a network and what is there when it has no pods.
struct Node<'h> {
    host: &'h Host,
    network: Network<'h>,
    before: Snapshot,
}

impl<'h> Node<'h> {
    fn new(host: &'h Host, conflist: &str) -> Self {
        let parsed: Value = serde_json::from_str(conflist).unwrap();
        for plugin in parsed["plugins"].as_array().unwrap() {
            settings::require(plugin["type"].as_str().unwrap());
        }
        host.outside();
        let name = parsed["name"].as_str().unwrap();
        let network = Network::of_file(host, name, &format!("{name}.conflist"), conflist);
        let mut node = Self { host, network, before: host.snapshot() };
        // Twice: not before the second ADD is the bridge's MTU more than its ports'.
        for _ in 0..2 {
            let pod = host.pod();
            node.call("add", &pod).ok();
            node.call("del", &pod).ok();
        }
        node.before = host.snapshot();
        node
    }

    fn call(&self, verb: &str, pod: &Pod) -> Reply {
        let ports = json!({ "portMappings": [
            { "hostPort": HOST_PORT, "containerPort": 80, "protocol": "tcp" },
            { "hostPort": HOST_PORT, "containerPort": 80, "protocol": "udp" },
        ] });
        self.network.call(verb, pod).env("CAP_ARGS", &ports.to_string()).run()
    }

    /// The published pod answers the world, the host, itself, and a sibling without ports.
    fn serves(&self, pod: &Pod, targets: &[&str]) {
        let addresses = pod.addresses();
        let _servers: Vec<Server> = (addresses.iter())
            .map(|address| Server::start(pod, "pod", at(address.split('/').next().unwrap(), 80)))
            .collect();
        let sibling = self.host.pod();
        self.network.add(&sibling).ok();
        let mut wrong = Vec::new();
        for bridge_nf in [false, true] {
            set_bridge_nf(self.host, bridge_nf);
            for transport in Transport::ALL {
                for target in targets {
                    let to = at(target, HOST_PORT);
                    let answers = [
                        ("outside", ask(self.host.outside(), transport, to)),
                        ("the host", ask(self.host, transport, to)),
                        ("the pod itself", ask(pod, transport, to)),
                        ("a sibling", ask(&sibling, transport, to)),
                    ];
                    wrong.extend(
                        answers
                            .into_iter()
                            .filter(|(_, answer)| answer.is_none())
                            .map(|(who, _)| format!("{transport} {to} does not answer {who}, bridge-nf {bridge_nf}")),
                    );
                }
                if ask(self.host, transport, at("127.0.0.1", HOST_PORT)).is_none() {
                    wrong.push(format!("{transport} 127.0.0.1 does not answer the host"));
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        self.network.del(&sibling).ok();
    }
}

#[test]
fn flannels() {
    case(|| {
        let host = Host::new();
        host.write(SUBNET_ENV, LEASE46.replace("true", "false"));
        let node = Node::new(&host, FLANNEL);
        let pod = host.pod();
        let result = node.call("add", &pod).result();
        assert_eq!(result["cniVersion"], "0.3.1");
        assert_eq!(result["ips"].as_array().unwrap().len(), 2, "{result}");
        assert_reaches(&pod, SERVER4);
        node.serves(&pod, &[HOST4, HOST6]);
        // flanneld is gone by then.
        host.run(&format!("rm {SUBNET_ENV}"));
        node.call("del", &pod).ok();
        assert!(host.files(OWN).is_empty());
        host.write(SUBNET_ENV, LEASE46.replace("true", "false"));
        host.assert_as(&node.before);
    });
}

#[test]
fn podmans() {
    case(|| podman(false));
}

#[test]
fn podmans_with_check() {
    case(|| podman(true));
}

fn podman(checked: bool) {
    let host = Host::new();
    let node = Node::new(&host, PODMAN);
    let pod = host.pod();
    let result = node.call("add", &pod).result();
    assert_eq!(result["cniVersion"], "0.4.0");
    if checked {
        node.call("check", &pod).ok();
    }
    assert_reaches(&pod, SERVER4);
    node.serves(&pod, &[HOST4]);
    node.call("del", &pod).ok();
    host.assert_as(&node.before);
}

#[test]
fn podmans_after_the_namespace_is_gone() {
    case(|| {
        let host = Host::new();
        let node = Node::new(&host, PODMAN);
        host.run("mkdir -p /run/netns");
        let before = host.snapshot();
        let pod = host.named_pod();
        node.call("add", &pod).ok();
        host.unmount(&pod.path);
        let call = node.call("del", &pod);
        call.ok();
        host.assert_as(&before);
    });
}
