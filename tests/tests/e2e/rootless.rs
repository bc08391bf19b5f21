//! Without root: in a user namespace, as podman and nerdctl call plugins there. Inside, the plugins are root; outside, an
//! ordinary user runs them.

use serde_json::{Value, json};
use tests::{
    Host, Network, Place, Pod, case,
    chained::{self, Chain, everything, valid},
    config::{self, STORE, with},
    netns::Process,
    published::{CONTAINER_PORT, NAME, Node, V4, V6, at, mapping},
    report::Subject,
    reported,
    settings::{is_reference, not_for_reference},
    snapshot::Snapshot,
    traffic::{
        Server, Transport, ask, assert_reaches,
        outside::{HOST4, HOST6, SERVER4, SERVER6},
    },
    userns::Users,
};

/// With the versions of what makes the namespaces.
fn rootless() -> Subject {
    let said = |line: &str| tests::NetNs::current().run(line).trim().to_owned();
    let version = format!("{}, kernel {}", said("unshare --version"), said("uname -r"));
    Subject { kind: "runtime", name: "rootless user namespace".to_owned(), version }
}

/// The pods reach the host, each other and, by the host's address, the world.
fn assert_connected(pod: &Pod, other: &Pod) {
    for to in [config::GATEWAY4, config::GATEWAY6, SERVER4, SERVER6] {
        assert_reaches(pod, to);
    }
    for address in other.addresses() {
        assert_reaches(pod, address.split('/').next().unwrap());
    }
}

/// Not by the reference, of which portmap's CHECK wants the rules of one family in the other one's table.
fn check(chain: &Chain<'_>, pod: &Pod, result: &Value) {
    if !is_reference() {
        chain.check(pod, result);
    }
}

/// A host on which each of these plugins has been at work once.
fn host_of(users: Users, plugins: &[Value]) -> (Host, Snapshot) {
    let host = Host::rootless(users);
    host.outside();
    Chain::new(&host, plugins.to_vec()).warm_up();
    let before = host.snapshot();
    (host, before)
}

/// Two pods are attached, checked, connected and detached.
fn lives(users: Users, plugins: &[Value]) {
    let (host, before) = host_of(users, plugins);
    let (chain, second) = (Chain::new(&host, plugins.to_vec()), Chain::new(&host, vec![plugins[0].clone()]));
    let [pod, other] = [host.pod(), host.pod()];
    let (result, of_other) = (chain.add(&pod), second.add(&other));
    check(&chain, &pod, &result);
    assert_connected(&pod, &other);
    chain.del(&pod, &result);
    second.del(&other, &of_other);
    host.assert_as(&before);
}

#[test]
fn the_whole_chain() {
    let what =
        "bridge, host-local, portmap, firewall, tuning, bandwidth: ADD, CHECK, DEL, ping and masquerading, dual stack";
    reported(&rootless(), what, || lives(Users::Many, &everything()));
}

#[test]
fn root_is_the_only_user() {
    let what = "the same with a single user (unshare -Ur)";
    reported(&rootless(), what, || lives(Users::Root, &everything()));
}

#[test]
fn iptables() {
    let what =
        "bridge, portmap, firewall with the iptables backend: ADD, CHECK, DEL, ping and masquerading, dual stack";
    reported(&rootless(), what, || {
        let backend = |plugin| with(&plugin, json!({ "backend": "iptables" }));
        let bridge = with(&chained::bridge(), json!({ "ipMasqBackend": "iptables" }));
        lives(Users::Many, &[bridge, backend(chained::portmap()), backend(chained::firewall())]);
    });
}

#[test]
fn published_ports() {
    let what = "portmap: ports published at 127.0.0.1, at the host's addresses, for pods and from outside";
    reported(&rootless(), what, || {
        let mappings = Transport::ALL.map(|transport| mapping(transport, 8080));
        let node = Node::on(
            Host::rootless(Users::Many),
            &mappings,
            &json!({ "ipMasq": true }),
            &[tests::published::portmap(&json!({}))],
        );
        let outside = node.host.outside();
        for transport in Transport::ALL {
            for (family, host) in [(V4, HOST4), (V6, HOST6)] {
                assert_eq!(ask(&node.host, transport, at(host, 8080)).unwrap().server, NAME);
                assert_eq!(ask(outside, transport, at(host, 8080)).unwrap().server, NAME);
                assert_eq!(ask(&node.sibling, transport, at(family.gateway, 8080)).unwrap().server, NAME);
                assert_eq!(ask(&node.sibling, transport, at(family.pod, CONTAINER_PORT)).unwrap().server, NAME);
            }
            assert_eq!(ask(&node.host, transport, at("127.0.0.1", 8080)).unwrap().server, NAME);
        }
        if !is_reference() {
            node.check().ok();
        }
        node.withdraw();
    });
}

#[test]
fn examples() {
    let what = "conf-examples by cnitool: podman, Kubernetes, flannel, static, tuning, loopback";
    reported(&rootless(), what, || {
        not_for_reference("it has no flannel plugin in this version");
        for file in [
            "87-podman.conflist",
            "10-kubernetes.conflist",
            "10-flannel.conflist",
            "40-static.conflist",
            "60-tuning.conflist",
            "99-loopback.conflist",
        ] {
            crate::examples::works(&Host::rootless(Users::Many), file);
        }
    });
}

#[test]
fn gc_and_status() {
    let what = "STATUS of all plugins; GC removes exactly what is not in the list; a lost pod's rules are reclaimed";
    reported(&rootless(), what, || {
        not_for_reference("it does not speak 1.1.0 in this version");
        let (host, before) = host_of(Users::Many, &everything());
        let chain = Chain::new(&host, everything());
        for plugin in &chain.plugins {
            let config = with(plugin, json!({ "cniVersion": "1.1.0" }));
            host.plugin_of(plugin).verb("STATUS").config(&config).run().ok();
        }
        let (pod, stale) = (host.pod(), host.pod());
        let portless = chain.with(&json!({ "runtimeConfig": null }));
        let result = chain.add(&pod);
        portless.add(&stale);
        chain.gc(&valid(&[&pod]));
        assert!(!host.snapshot().mentions(&stale.id));
        assert_reaches(&pod, config::GATEWAY4);
        check(&chain, &pod, &result);
        host.lose(pod);
        host.pass_a_minute();
        let next = host.pod();
        let result = chain.add(&next);
        check(&chain, &next, &result);
        chain.del(&next, &result);
        chain.gc(&json!([]));
        host.assert_nothing_made(&before);
    });
}

/// nerdctl's hook and podman name it so.
#[test]
fn a_namespace_by_its_process() {
    let what = "CNI_NETNS is /proc/<pid>/ns/net, and the process is gone at DEL";
    reported(&rootless(), what, || {
        let (host, before) = host_of(Users::Many, &everything());
        let chain = Chain::new(&host, everything());
        let process = Process::with_netns(&host, &[]);
        let pod = Pod { path: process.path(), ns: process.netns(), ..host.pod() };
        let result = chain.add(&pod);
        check(&chain, &pod, &result);
        assert_reaches(&pod, config::GATEWAY6);
        drop(process);
        let gone = host.end(pod);
        chain.del(&gone, &result);
        host.assert_as(&before);
    });
}

/// As by `podman run --userns=…`.
#[test]
fn a_pod_with_a_user_namespace_of_its_own() {
    let what = "a pod whose namespace belongs to a user namespace of its own: ADD, CHECK, DEL of the whole chain";
    reported(&rootless(), what, || {
        for host in [Host::rootless(Users::Many), Host::new()] {
            let chain = Chain::new(&host, everything());
            chain.warm_up();
            let before = host.snapshot();
            let process = Process::with_netns(&host, &["--user", "--map-root-user"]);
            let pod = Pod { path: process.path(), ns: process.netns(), ..host.pod() };
            let result = chain.add(&pod);
            check(&chain, &pod, &result);
            assert_reaches(&pod, config::GATEWAY4);
            chain.del(&pod, &result);
            assert!(pod.link("eth0").is_none() && !host.files(STORE).iter().any(|name| name.starts_with("10.")));
            host.assert_as(&before);
        }
    });
}

/// A network as nerdctl writes them, under the version and the arguments of its hook.
#[test]
fn as_nerdctl_calls_it() {
    case(|| {
        let host = Host::rootless(Users::Many);
        host.outside();
        let config = json!({ "cniVersion": "1.0.0", "name": "bridge", "nerdctlID": "17f29b07", "nerdctlLabels": {},
            "plugins": [
                { "type": "bridge", "bridge": "nerdctl0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
                  "ipam": { "type": "host-local", "routes": [{ "dst": "0.0.0.0/0" }],
                            "ranges": [[{ "subnet": "10.4.0.0/24", "gateway": "10.4.0.1" }]] } },
                { "type": "portmap", "capabilities": { "portMappings": true } },
                { "type": "firewall", "ingressPolicy": "same-bridge" },
                { "type": "tuning" },
            ] });
        let network = Network::of_list(&host, &config);
        let process = Process::with_netns(&host, &[]);
        let pod = Pod { path: process.path(), ns: process.netns(), ..host.pod() };
        let call = |command: &str| {
            let ports = json!({ "portMappings": [
                { "hostPort": 8080, "containerPort": CONTAINER_PORT, "protocol": "tcp", "hostIP": "0.0.0.0" }] });
            let args = "IgnoreUnknown=1;NERDCTL_CNI_DHCP_HOSTNAME=web";
            network.call(command, &pod).env("CAP_ARGS", &ports.to_string()).env("CNI_ARGS", args).run()
        };
        call("add").ok();
        assert_reaches(&pod, SERVER4);
        let _server = Server::start(&pod, NAME, at("10.4.0.2", CONTAINER_PORT));
        // RootlessKit's port driver connects inside.
        assert_eq!(ask(&host, Transport::Tcp, at("127.0.0.1", 8080)).unwrap().server, NAME);
        if !is_reference() {
            call("check").ok();
        }
        call("del").ok();
        call("del").ok();
        assert!(
            pod.link("eth0").is_none() && host.files("/var/lib/cni/networks/bridge").iter().all(|f| f != "10.4.0.2")
        );
    });
}
