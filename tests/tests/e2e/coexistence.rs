//! Beside others who have rules: kube-proxy, Docker, an operator who saves and restores, and the reference's leftovers.
//!
//! The others are played by their rules, as they write them (kube-proxy 1.34, Docker 28).

use std::{collections::BTreeSet, fs};

use serde_json::{Value, json};
use tests::{
    Host, NetNs, Place, case,
    config::with,
    published::{
        CONTAINER_PORT, Family, NAME, Node, V4, V6, at, bridge, chain, ip, mapping, portmap, publish, route_back,
        set_bridge_nf,
    },
    settings::workspace,
    traffic::{
        Answer, Server, Transport, ask, ask_briefly,
        outside::{HOST4, SERVER4, SERVER6},
    },
};

/// Published by `portmap`.
const PUBLISHED: u16 = 8080;
/// The port of the Service, and of its node port.
const SERVICE: u16 = 80;
const NODE_PORT: u16 = 30_080;

fn answer(seen: &str) -> Option<Answer> {
    Some(Answer { server: NAME.to_owned(), seen: ip(seen) })
}

fn mappings() -> Vec<Value> {
    Transport::ALL.map(|transport| mapping(transport, PUBLISHED)).to_vec()
}

/// What the document says of our chains is what is there.
#[test]
fn the_document_names_every_chain_that_packets_pass() {
    case(|| {
        let chained = [portmap(&json!({})), with(&firewall(), json!({ "ingressPolicy": "isolated" }))];
        let node = Node::on(Host::new(), &mappings(), &json!({ "ipMasq": true, "macspoofchk": true }), &chained);
        let text = fs::read_to_string(workspace().join("docs/coexistence.md")).unwrap();
        let documented: BTreeSet<_> = text
            .lines()
            .filter(|line| line.starts_with("| `"))
            .filter_map(|line| <[&str; 5]>::try_from(line.split('|').skip(1).take(5).collect::<Vec<_>>()).ok())
            .flat_map(|[name, families, kind, hook, priority]| {
                let rest = [name.trim().trim_matches('`'), kind.trim(), hook.trim(), priority.trim()].join(" ");
                families.split(',').map(move |family| format!("{} {rest}", family.trim())).collect::<Vec<_>>()
            })
            .collect();
        let listed = node.host.json("nft -j list chains");
        let found: BTreeSet<_> = listed["nftables"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| &item["chain"])
            .filter(|chain| chain["table"] == "oxbridge" && chain["hook"].is_string())
            .map(|chain| {
                let text = |key: &str| chain[key].as_str().unwrap().to_owned();
                let priority = chain["prio"].to_string();
                [text("family"), text("name"), text("type"), text("hook"), priority].join(" ")
            })
            .collect();
        assert_eq!(found, documented);
        assert!(!found.is_empty());
    });
}

/// Feeds a program of the host.
fn feed(host: &Host, program: &str, text: &str) {
    host.write("/run/test/rules", text);
    host.run(&format!("{program} /run/test/rules"));
}

fn service_of(f: Family) -> &'static str {
    if f == V4 { "10.96.0.10" } else { "fd00:96::10" }
}

/// The program that loads rules; `flavour`: `` or `-legacy`.
fn restore(f: Family, flavour: &str) -> String {
    format!("{}{flavour}-restore --noflush", if f == V4 { "iptables" } else { "ip6tables" })
}

/// Skips the test on a kernel without the old kind of iptables.
fn needs_legacy(host: &Host) {
    if host.try_run("iptables-legacy -t nat -S").is_err() || host.try_run("ip6tables-legacy -t nat -S").is_err() {
        tests::skip("this kernel has no iptables-legacy");
    }
}

fn kube_proxy_iptables(host: &Host) {
    kube_proxy(host, "");
}

fn kube_proxy_legacy(host: &Host) {
    needs_legacy(host);
    kube_proxy(host, "-legacy");
}

/// What kube-proxy (iptables) writes for a Service of type `NodePort` with the pod as its endpoint.
fn kube_proxy(host: &Host, flavour: &str) {
    for (f, pods, pod) in [(V4, "10.22.0.0/15", V4.pod.to_owned()), (V6, "fd00:22::/31", format!("[{}]", V6.pod))] {
        let (service, length) = (service_of(f), if f == V4 { 32 } else { 128 });
        let ports: String = Transport::ALL
            .into_iter()
            .map(|t| {
                format!(
                    "-A KUBE-SERVICES -d {service}/{length} -p {t} -m {t} --dport {SERVICE} -j KUBE-SVC-{t}\n\
                     -A KUBE-NODEPORTS -p {t} -m {t} --dport {NODE_PORT} -j KUBE-EXT-{t}\n\
                     -A KUBE-EXT-{t} -j KUBE-MARK-MASQ\n\
                     -A KUBE-EXT-{t} -j KUBE-SVC-{t}\n\
                     -A KUBE-SVC-{t} ! -s {pods} -d {service}/{length} -p {t} -m {t} --dport {SERVICE} -j KUBE-MARK-MASQ\n\
                     -A KUBE-SVC-{t} -j KUBE-SEP-{t}\n\
                     -A KUBE-SEP-{t} -s {}/{length} -j KUBE-MARK-MASQ\n\
                     -A KUBE-SEP-{t} -p {t} -m {t} -j DNAT --to-destination {pod}:{CONTAINER_PORT}\n",
                    f.pod
                )
            })
            .collect();
        let chains: String = Transport::ALL
            .into_iter()
            .flat_map(|t| ["SVC", "EXT", "SEP"].map(|kind| format!(":KUBE-{kind}-{t} - [0:0]\n")))
            .collect();
        let rules = format!(
            "*filter\n\
             :KUBE-FORWARD - [0:0]\n\
             -I FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD\n\
             -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
             -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
             -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
             COMMIT\n\
             *nat\n\
             :KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n\
             {chains}\
             -I PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
             -I OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
             -I POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING\n\
             -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n\
             -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
             -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n\
             -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n\
             {ports}\
             -A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n\
             COMMIT\n"
        );
        feed(host, &restore(f, flavour), &rules);
    }
}

/// The same as kube-proxy (nftables) writes it.
fn kube_proxy_nftables(host: &Host) {
    for (f, family, pods, pod) in
        [(V4, "ip", "10.22.0.0/15", V4.pod.to_owned()), (V6, "ip6", "fd00:22::/31", format!("[{}]", V6.pod))]
    {
        let service = service_of(f);
        let chains: String = Transport::ALL
            .into_iter()
            .map(|t| {
                format!(
                    "chain service-{t} {{\n\
                       {family} daddr {service} {t} dport {SERVICE} {family} saddr != {pods} jump mark-for-masquerade\n\
                       goto endpoint-{t}\n\
                     }}\n\
                     chain external-{t} {{\njump mark-for-masquerade\ngoto service-{t}\n}}\n\
                     chain endpoint-{t} {{\n\
                       {family} saddr {} jump mark-for-masquerade\n\
                       meta l4proto {t} dnat to {pod}:{CONTAINER_PORT}\n\
                     }}\n",
                    f.pod
                )
            })
            .collect();
        let rules = format!(
            "table {family} kube-proxy {{\n\
             chain mark-for-masquerade {{\nmeta mark set meta mark or 0x4000\n}}\n\
             chain masquerading {{\n\
               meta mark & 0x4000 == 0 return\n\
               meta mark set meta mark xor 0x4000\n\
               masquerade fully-random\n\
             }}\n\
             {chains}\
             map service-ips {{\n\
               type {family}v_addr . inet_proto . inet_service : verdict\n\
               elements = {{ {service} . tcp . {SERVICE} : goto service-tcp, {service} . udp . {SERVICE} : goto service-udp }}\n\
             }}\n\
             map service-nodeports {{\n\
               type inet_proto . inet_service : verdict\n\
               elements = {{ tcp . {NODE_PORT} : goto external-tcp, udp . {NODE_PORT} : goto external-udp }}\n\
             }}\n\
             chain services {{\n\
               {family} daddr . meta l4proto . th dport vmap @service-ips\n\
               {family} daddr {{ {}, {} }} meta l4proto . th dport vmap @service-nodeports\n\
             }}\n\
             chain nat-prerouting {{\ntype nat hook prerouting priority dstnat\njump services\n}}\n\
             chain nat-output {{\ntype nat hook output priority -100\njump services\n}}\n\
             chain nat-postrouting {{\ntype nat hook postrouting priority srcnat\njump masquerading\n}}\n\
             }}\n",
            f.host, f.gateway
        )
        .replace("ip6v_addr", "ipv6_addr")
        .replace("ipv_addr", "ipv4_addr");
        feed(host, "nft -f", &rules);
    }
}

/// What has to work beside kube-proxy, whoever came first.
fn beside_kube_proxy(kube_proxy: fn(&Host), backend: &str) {
    for kube_proxy_is_first in [true, false] {
        let host = Host::new();
        if kube_proxy_is_first {
            kube_proxy(&host);
        }
        // kube-proxy wants both: endpoints that reach themselves, and answers between ports of a bridge.
        let patch_of_bridge = json!({ "ipMasq": true, "hairpinMode": true });
        let patch = if backend.is_empty() { json!({}) } else { json!({ "backend": backend }) };
        let node = Node::on(host, &mappings(), &patch_of_bridge, &[portmap(&patch)]);
        if !kube_proxy_is_first {
            kube_proxy(&node.host);
        }
        set_bridge_nf(&node.host, true);
        for (f, transport) in [(V4, Transport::Tcp), (V4, Transport::Udp), (V6, Transport::Tcp), (V6, Transport::Udp)] {
            let what = format!("kube-proxy first: {kube_proxy_is_first}, {transport}");
            let (service, node_port) = (at(service_of(f), SERVICE), at(f.host, NODE_PORT));
            let published = at(f.host, PUBLISHED);
            let outside = node.host.outside();
            assert_eq!(ask(&node.sibling, transport, service), answer(f.sibling), "Service, sibling, {what}");
            assert_eq!(ask(&node.pod, transport, service), answer(f.gateway), "Service, endpoint itself, {what}");
            // By the other network's ipMasq.
            assert_eq!(ask(&node.stranger, transport, service), answer(f.gateway), "Service, other bridge, {what}");
            assert_eq!(ask(&node.host, transport, service), answer(f.gateway), "Service, host, {what}");
            assert_eq!(ask(outside, transport, node_port), answer(f.gateway), "node port, outside, {what}");
            assert_eq!(ask(&node.sibling, transport, node_port), answer(f.gateway), "node port, sibling, {what}");
            assert_eq!(ask(&node.host, transport, node_port), answer(f.gateway), "node port, host, {what}");
            assert_eq!(ask(outside, transport, published), answer(f.outside), "published, outside, {what}");
            assert_eq!(ask(&node.sibling, transport, published), answer(f.gateway), "published, sibling, {what}");
            assert_eq!(ask(&node.pod, transport, published), answer(f.gateway), "published, itself, {what}");
            assert_eq!(ask(&node.host, transport, published), answer(f.host), "published, host, {what}");
        }
        let localhost = at("127.0.0.1", PUBLISHED);
        assert_eq!(ask(&node.host, Transport::Tcp, localhost), answer(V4.gateway), "published, 127.0.0.1");
        egress(&node);
    }
}

/// Pods go out as the host.
fn egress(node: &Node) {
    let outside = node.host.outside();
    for f in [V4, V6] {
        let _server = Server::start(outside, "outside", at(f.outside, 7));
        let seen = Answer { server: "outside".to_owned(), seen: ip(f.host) };
        for transport in Transport::ALL {
            assert_eq!(ask(&node.sibling, transport, at(f.outside, 7)), Some(seen.clone()), "egress");
        }
    }
}

#[test]
fn kube_proxy_of_iptables() {
    case(|| beside_kube_proxy(kube_proxy_iptables, ""));
}

#[test]
fn kube_proxy_of_iptables_with_the_iptables_backend() {
    case(|| beside_kube_proxy(kube_proxy_iptables, "iptables"));
}

#[test]
fn kube_proxy_of_legacy_iptables() {
    case(|| beside_kube_proxy(kube_proxy_legacy, ""));
}

#[test]
fn kube_proxy_of_nftables() {
    case(|| beside_kube_proxy(kube_proxy_nftables, ""));
}

#[test]
fn a_node_port_wins_over_a_published_port_of_the_same_number() {
    case(|| node_port_wins(kube_proxy_iptables));
}

#[test]
fn a_node_port_in_nftables_wins_over_a_published_port_of_the_same_number() {
    case(|| node_port_wins(kube_proxy_nftables));
}

/// Whoever came first. Everything else of the published port stays.
fn node_port_wins(kube_proxy: fn(&Host)) {
    for kube_proxy_is_first in [true, false] {
        let host = Host::new();
        if kube_proxy_is_first {
            kube_proxy(&host);
        }
        host.outside();
        let network = chain(&host, &[bridge(&json!({ "ipMasq": true })), portmap(&json!({}))]);
        // The first has the Service's endpoint's address.
        let (endpoint, own) = (host.pod(), host.pod());
        network.add(&endpoint).ok();
        publish(&network, &own, &[mapping(Transport::Tcp, NODE_PORT), mapping(Transport::Udp, PUBLISHED)]).ok();
        if !kube_proxy_is_first {
            kube_proxy(&host);
        }
        let _servers = [
            Server::start(&endpoint, "endpoint", at(V4.pod, CONTAINER_PORT)),
            Server::start(&own, "published", at(V4.sibling, CONTAINER_PORT)),
        ];
        let who = |transport, port| ask(host.outside(), transport, at(HOST4, port)).map(|a| a.server);
        assert_eq!(who(Transport::Tcp, NODE_PORT).as_deref(), Some("endpoint"));
        assert_eq!(who(Transport::Udp, PUBLISHED).as_deref(), Some("published"));
    }
}

/// Docker's rules, its bridge, and one container of it that publishes its port 90 as 9090.
fn docker(host: &Host, flavour: &str) -> (NetNs, Server) {
    host.outside();
    host.run("sysctl -q -w net.ipv4.ip_forward=1");
    host.run("sysctl -q -w net.ipv6.conf.all.forwarding=1");
    let container = NetNs::new();
    host.run("ip link add docker0 type bridge");
    host.run("ip address add 172.17.0.1/16 dev docker0");
    host.run("ip link set docker0 up");
    host.run(&format!("ip link add vethd master docker0 type veth peer name eth0 netns {}", container.path()));
    host.run("ip link set vethd up");
    container.run("ip address add 172.17.0.2/16 dev eth0");
    container.run("ip link set eth0 up");
    container.run("ip route add default via 172.17.0.1");
    let filter = "*filter\n:FORWARD DROP [0:0]\n:DOCKER - [0:0]\n:DOCKER-USER - [0:0]\n:DOCKER-FORWARD - [0:0]\n\
                  -A FORWARD -j DOCKER-USER\n\
                  -A FORWARD -j DOCKER-FORWARD\n\
                  -A DOCKER-FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
                  -A DOCKER-FORWARD -o docker0 -j DOCKER\n\
                  -A DOCKER-FORWARD -i docker0 -j ACCEPT\n";
    let published = "-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 90 -j ACCEPT\n\
                     -A DOCKER ! -i docker0 -o docker0 -j DROP\n";
    let nat = "*nat\n:DOCKER - [0:0]\n\
               -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n\
               -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER\n\
               -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE\n\
               -A DOCKER ! -i docker0 -p tcp -m tcp --dport 9090 -j DNAT --to-destination 172.17.0.2:90\nCOMMIT\n";
    feed(host, &restore(V4, flavour), &format!("{filter}{published}COMMIT\n{nat}"));
    feed(host, &restore(V6, flavour), &format!("{filter}COMMIT\n"));
    let server = Server::start(&container, "docker", at("172.17.0.2", 90));
    (container, server)
}

fn assert_docker_works(host: &Host, container: &NetNs) {
    let who = |from: &NetNs, to| ask(from, Transport::Tcp, to).map(|a| a.server);
    assert_eq!(who(host.outside(), at(HOST4, 9090)).as_deref(), Some("docker"), "Docker's published port");
    let _server = Server::start(host.outside(), "outside", at(SERVER4, 7));
    assert_eq!(who(container, at(SERVER4, 7)).as_deref(), Some("outside"), "egress of Docker's container");
}

/// A node with Docker's rules, and pods of this chain behind `bridge`.
fn beside_docker(chained: &[Value], flavour: &str) -> (Node, NetNs, Server) {
    let host = Host::new();
    let (container, server) = docker(&host, flavour);
    let node = Node::on(host, &mappings(), &json!({ "ipMasq": true }), chained);
    (node, container, server)
}

fn firewall() -> Value {
    json!({ "type": "firewall" })
}

#[test]
fn dockers_policy_drops_what_no_firewall_plugin_accepts() {
    case(|| {
        let (node, container, _server) = beside_docker(&[portmap(&json!({}))], "");
        let outside = node.host.outside();
        for f in [V4, V6] {
            assert_eq!(ask_briefly(outside, Transport::Tcp, at(f.host, PUBLISHED)), None);
            let _server = Server::start(outside, "outside", at(f.outside, 7));
            assert_eq!(ask_briefly(&node.pod, Transport::Udp, at(f.outside, 7)), None);
        }
        // From the host itself nothing is forwarded.
        assert_eq!(ask(&node.host, Transport::Tcp, at(V4.host, PUBLISHED)), answer(V4.host));
        assert_docker_works(&node.host, &container);
    });
}

fn pods_get_out(flavour: &str) {
    let (node, container, _server) = beside_docker(&[portmap(&json!({})), firewall()], flavour);
    egress(&node);
    assert_docker_works(&node.host, &container);
}

fn published_ports_work(flavour: &str) {
    let (node, container, _server) = beside_docker(&[portmap(&json!({})), firewall()], flavour);
    let outside = node.host.outside();
    for f in [V4, V6] {
        for transport in Transport::ALL {
            let published = at(f.host, PUBLISHED);
            assert_eq!(ask(outside, transport, published), answer(f.outside));
            assert_eq!(ask(&node.stranger, transport, published), answer(f.gateway));
            assert_eq!(ask(&node.sibling, transport, published), answer(f.gateway));
            assert_eq!(ask(&node.host, transport, published), answer(f.host));
        }
    }
    // What nobody published stays closed: the way to the pod is known, the port is not open.
    route_back(&node.host);
    let _other = Server::start(&node.pod, "private", at(V4.pod, 81));
    assert_eq!(ask_briefly(outside, Transport::Tcp, at(V4.pod, 81)), None);
    assert_docker_works(&node.host, &container);
    node.withdraw();
    assert_eq!(ask_briefly(outside, Transport::Tcp, at(V4.host, PUBLISHED)), None);
    assert_docker_works(&node.host, &container);
}

#[test]
fn with_the_firewall_plugin_pods_get_out_beside_docker() {
    case(|| pods_get_out(""));
}

#[test]
fn with_the_firewall_plugin_published_ports_work_beside_docker() {
    case(|| published_ports_work(""));
}

#[test]
fn with_the_firewall_plugin_pods_get_out_beside_docker_of_legacy_iptables() {
    case(|| {
        needs_legacy(&Host::new());
        pods_get_out("-legacy");
    });
}

#[test]
fn with_the_firewall_plugin_published_ports_work_beside_docker_of_legacy_iptables() {
    case(|| {
        needs_legacy(&Host::new());
        published_ports_work("-legacy");
    });
}

/// Where Docker may come later, `firewall` is told beforehand where to write.
#[test]
fn with_the_iptables_backend_of_firewall_docker_may_start_later() {
    case(|| {
        let plugins = [portmap(&json!({})), with(&firewall(), json!({ "backend": "iptables" }))];
        let node = Node::on(Host::new(), &mappings(), &json!({ "ipMasq": true }), &plugins);
        let (container, _server) = docker(&node.host, "");
        egress(&node);
        assert_docker_works(&node.host, &container);
    });
}

/// firewalld 2.3's tables, without the zones that nothing here is in: what it does not know is rejected.
#[test]
fn firewalld_lets_published_ports_pass() {
    case(|| {
        let rules = "table inet firewalld {\n\
             chain mangle_PREROUTING {\n\
               type filter hook prerouting priority mangle + 10\n\
             }\n\
             chain nat_PREROUTING {\ntype nat hook prerouting priority dstnat + 10\n}\n\
             chain nat_POSTROUTING {\ntype nat hook postrouting priority srcnat + 10\n}\n\
             chain filter_FORWARD {\n\
               type filter hook forward priority filter + 10; policy accept;\n\
               ct state { established, related } accept\n\
               ct status dnat accept\n\
               iifname \"lo\" accept\n\
               ct state invalid drop\n\
               reject with icmpx admin-prohibited\n\
             }\n\
             }\n";
        let node = Node::new(&mappings(), &json!({ "ipMasq": true }), &json!({}));
        set_bridge_nf(&node.host, false);
        feed(&node.host, "nft -f", rules);
        for f in [V4, V6] {
            for transport in Transport::ALL {
                let published = at(f.host, PUBLISHED);
                assert_eq!(ask(node.host.outside(), transport, published), answer(f.outside));
                assert_eq!(ask(&node.sibling, transport, published), answer(f.gateway));
            }
            // Out of a zone that does not forward; the firewall plugin puts pods in one that does.
            let _server = Server::start(node.host.outside(), "outside", at(f.outside, 7));
            assert_eq!(ask_briefly(&node.pod, Transport::Tcp, at(f.outside, 7)), None);
        }
    });
}

/// All that a node's published ports are for, in a few questions.
fn assert_works(node: &Node) {
    for f in [V4, V6] {
        for transport in Transport::ALL {
            let published = at(f.host, PUBLISHED);
            assert_eq!(ask(node.host.outside(), transport, published), answer(f.outside));
            assert_eq!(ask(&node.sibling, transport, published), answer(f.gateway));
            assert_eq!(ask(&node.host, transport, published), answer(f.host));
        }
    }
    assert_eq!(ask(&node.host, Transport::Udp, at("127.0.0.1", PUBLISHED)), answer(V4.gateway));
    egress(node);
}

/// k3s#8793: rules of the ports came back mangled.
#[test]
fn iptables_save_and_restore_change_nothing() {
    case(|| {
        for kube_proxy in [false, true] {
            let node = Node::new(&mappings(), &json!({ "ipMasq": true }), &json!({}));
            if kube_proxy {
                kube_proxy_iptables(&node.host);
            }
            for (save, restore) in [("iptables-save", "iptables-restore"), ("ip6tables-save", "ip6tables-restore")] {
                let text = node.host.run(save);
                feed(&node.host, restore, &text);
            }
            assert_works(&node);
            node.withdraw();
            assert_eq!(ask_briefly(node.host.outside(), Transport::Tcp, at(HOST4, PUBLISHED)), None);
        }
    });
}

#[test]
fn the_ruleset_that_nft_lists_can_be_loaded_again() {
    case(|| {
        let node = Node::new(&mappings(), &json!({ "ipMasq": true, "macspoofchk": true }), &json!({}));
        // Traffic may leave traces in the ruleset: they are read back, too.
        assert_works(&node);
        let text = node.host.run("nft list ruleset");
        feed(&node.host, "nft -f", &format!("flush ruleset\n{text}"));
        assert_works(&node);
        node.withdraw();
        for f in [V4, V6] {
            assert_eq!(ask_briefly(node.host.outside(), Transport::Tcp, at(f.host, PUBLISHED)), None);
        }
    });
}

/// What the reference (or our iptables backend) left of a pod that is gone sends the port nowhere; ours comes before it.
#[test]
fn a_stale_rule_of_the_reference_does_not_win() {
    case(|| {
        let host = Host::new();
        host.outside();
        let dead = host.pod();
        let result = json!({
            "cniVersion": "1.0.0",
            "interfaces": [{ "name": "eth0", "sandbox": dead.path }],
            "ips": [{ "address": "10.22.0.99/24", "interface": 0 }, { "address": "fd00:22::99/64", "interface": 0 }],
        });
        let config = json!({
            "cniVersion": "1.0.0", "name": "old", "type": "portmap", "prevResult": result,
            "runtimeConfig": { "portMappings": mappings() },
        });
        host.reference("portmap").pod(&dead).config(&config).add().ok();
        let node = Node::on(host, &mappings(), &json!({ "ipMasq": true }), &[portmap(&json!({}))]);
        assert!(node.host.run("iptables-save").contains("10.22.0.99"), "the stale rules are still there");
        assert_works(&node);
    });
}

/// A firewall that begins with `flush ruleset` takes everybody's tables away: that is seen, and a new ADD repairs it.
#[test]
fn a_flushed_ruleset_is_noticed_by_check_and_repaired_by_the_next_add() {
    case(|| {
        let node = Node::new(&mappings(), &json!({ "ipMasq": true }), &json!({}));
        node.check().ok();
        node.host.run("nft flush ruleset");
        assert_eq!(ask_briefly(node.host.outside(), Transport::Tcp, at(HOST4, PUBLISHED)), None);
        assert!(!node.check().status.success());
        node.withdraw();
        let network = chain(&node.host, &[bridge(&json!({ "ipMasq": true })), portmap(&json!({}))]);
        let pod = node.host.pod();
        publish(&network, &pod, &mappings()).ok();
        let address = pod.addresses()[0].split('/').next().unwrap().to_owned();
        let _server = Server::start(&pod, NAME, at(&address, CONTAINER_PORT));
        assert_eq!(ask(node.host.outside(), Transport::Tcp, at(HOST4, PUBLISHED)), answer(SERVER4));
        assert_eq!(ask(&node.host, Transport::Tcp, at("127.0.0.1", PUBLISHED)), answer(V4.gateway));
    });
}

#[test]
fn an_operators_drop_stays_a_drop() {
    case(|| {
        let node = Node::new(&mappings(), &json!({ "ipMasq": true }), &json!({}));
        let drop = "table inet operator {\nchain forward {\ntype filter hook forward priority filter\n\
                    iifname uplink th dport 80 drop\n}\n}\n";
        feed(&node.host, "nft -f", drop);
        for f in [V4, V6] {
            assert_eq!(ask_briefly(node.host.outside(), Transport::Tcp, at(f.host, PUBLISHED)), None);
            assert_eq!(ask(&node.sibling, Transport::Tcp, at(f.host, PUBLISHED)), answer(f.gateway));
        }
        let _server = Server::start(node.host.outside(), "outside", at(SERVER6, 7));
        assert!(ask(&node.pod, Transport::Tcp, at(SERVER6, 7)).is_some());
    });
}

#[test]
fn an_operator_can_name_published_ports_where_packets_are_forwarded() {
    case(|| {
        let ports: Vec<_> = [PUBLISHED, 8081].iter().flat_map(|p| Transport::ALL.map(|t| mapping(t, *p))).collect();
        let node = Node::new(&ports, &json!({ "ipMasq": true }), &json!({}));
        let rules = |rule: &str| {
            format!(
                "table inet operator\ndelete table inet operator\ntable inet operator {{\nchain forward {{\n\
                 type filter hook forward priority filter; policy drop;\n\
                 ct state established,related accept\n{rule} accept\n}}\n}}\n"
            )
        };
        let outside = node.host.outside();
        for f in [V4, V6] {
            let asked = |port| ask(outside, Transport::Tcp, at(f.host, port));
            let silent = |port| ask_briefly(outside, Transport::Tcp, at(f.host, port)).is_none();
            feed(&node.host, "nft -f", &rules("iifname \"uplink\" meta l4proto tcp ct original proto-dst 8080"));
            assert_eq!(asked(PUBLISHED), answer(f.outside));
            assert!(silent(8081));
            feed(&node.host, "nft -f", &rules("iifname \"uplink\" ct status dnat"));
            assert_eq!((asked(PUBLISHED), asked(8081)), (answer(f.outside), answer(f.outside)));
        }
    });
}
