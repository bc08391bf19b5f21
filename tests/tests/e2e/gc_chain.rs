//! GC of a whole chain: exactly what no attachment of this network needs any more goes, whoever made it.

use serde_json::{Value, json};
use tests::{
    Host, Place, Pod, case,
    chained::{Chain, Suite, everything, valid},
    config::with,
    host::NETNS_DIR,
    settings::not_for_reference,
    syslog::Syslog,
};

/// The chain with ports that no other pod has.
fn chain<'h>(host: &'h Host, pod: &Pod) -> Chain<'h> {
    let number: u16 = pod.id.trim_start_matches("pod-").parse().unwrap();
    let ports = json!({ "portMappings": [
        { "hostPort": 9000 + number, "containerPort": 80, "protocol": "tcp" },
        { "hostPort": 9000 + number, "containerPort": 53, "protocol": "udp" },
    ] });
    let mut plugins = everything();
    for plugin in plugins.iter_mut().filter(|plugin| plugin["type"] == "portmap") {
        plugin["runtimeConfig"] = ports.clone();
    }
    Chain::new(host, plugins)
}

/// The same for another network.
fn other<'h>(host: &'h Host, pod: &Pod) -> Chain<'h> {
    let ranges = json!([[{ "subnet": "10.77.0.0/24" }], [{ "subnet": "fd00:77::/64" }]]);
    let mut chain = chain(host, pod).with(&json!({ "name": "other" }));
    chain.plugins[0] = with(&chain.plugins[0], json!({ "bridge": "br1", "ipam": { "ranges": ranges } }));
    chain
}

/// What the reference leaves of this pod that does not say of which network it is.
fn is_unknowable(line: &str, pod: &Pod, address: &[String]) -> bool {
    line.contains(" bwp")
        || line.contains(&format!("/run/cni/tuning/{}_eth0.json", pod.id))
        || line.contains("CNI-FORWARD") && address.iter().any(|a| line.contains(a.split('/').next().unwrap()))
        || address.iter().any(|a| line.contains(a.split('/').next().unwrap())) && line.contains("conntrack")
}

#[test]
fn exactly_the_stale_of_this_network_go() {
    case(|| {
        not_for_reference("its GC of this version does nothing");
        let host = Host::new();
        host.outside();
        host.run(&format!("mkdir {NETNS_DIR}"));
        for _ in 0..2 {
            let pod = host.pod();
            chain(&host, &pod).warm_up();
            chain(&host, &pod).by(Suite::Reference).warm_up();
        }
        let pods: Vec<Pod> = (0..4).map(|_| host.pod()).collect();
        let [ours, theirs, others, others_of_theirs] = &pods[..] else { unreachable!() };
        let result = chain(&host, ours).add(ours);
        chain(&host, theirs).by(Suite::Reference).add(theirs);
        let of_others = other(&host, others).add(others);
        other(&host, others_of_theirs).by(Suite::Reference).add(others_of_theirs);
        let before = host.snapshot();

        // Of ours: one that is alive, one whose namespace is gone. Of the reference's: one whose namespace is gone.
        let [alive, lost, lost_of_theirs] = [host.pod(), host.named_pod(), host.named_pod()];
        chain(&host, &alive).add(&alive);
        chain(&host, &lost).add(&lost);
        let by_reference = chain(&host, &lost_of_theirs).by(Suite::Reference);
        let stale_result = by_reference.add(&lost_of_theirs);
        let addresses = lost_of_theirs.addresses();
        let ends = Pod { id: lost_of_theirs.id.clone(), ifname: lost_of_theirs.ifname.clone(), ..host.pod() };
        host.lose(lost);
        host.lose(lost_of_theirs);
        let all = host.snapshot();

        // Without a list, and with everybody in it, nothing goes.
        let chain_of = |pod: &Pod| chain(&host, pod);
        chain_of(ours).gc(&Value::Null);
        host.assert_as(&all);
        chain_of(ours).gc(&valid(&[ours, theirs]));
        let diff = before.diff(&host.snapshot());
        let unexpected: Vec<&str> = diff.lines().filter(|line| !is_unknowable(line, &ends, &addresses)).collect();
        assert!(unexpected.is_empty(), "the host is not as before (- before, + now):\n{}", unexpected.join("\n"));
        chain_of(ours).check(ours, &result);
        other(&host, others).check(others, &of_others);
        // The runtime's DEL finds the rest.
        for plugin in by_reference.plugins.iter().rev() {
            let call = host.plugin(plugin["type"].as_str().unwrap()).id(&ends.id).netns("/run/netns/none");
            call.config_with(plugin, &stale_result).del().ok();
        }
        host.assert_as(&before);

        // An empty list frees all, of this network alone.
        chain_of(ours).gc(&json!([]));
        other(&host, others).check(others, &of_others);
        let now = host.snapshot();
        assert!(!now.lines("element").any(|l| l.contains(&ours.id)) && now.mentions(&others.id));
        assert!(!host.files("/var/lib/cni/networks/net").iter().any(|name| name.starts_with("10.")));
    });
}

/// Runtimes drop what plugins say.
#[test]
fn whose_interface_was_up_is_in_the_systems_log() {
    case(|| {
        not_for_reference("it tells nobody");
        let host = Host::new();
        host.outside();
        let log = Syslog::of(&host);
        let pod = host.pod();
        let chain = chain(&host, &pod);
        chain.add(&pod);
        assert_eq!(log.lines(), [""; 0]);
        for plugin in chain.plugins.iter().rev() {
            tests::chained::gc(chain.call(plugin), plugin, &json!([])).ok();
            let name = plugin["type"].as_str().unwrap();
            let lines = log.lines();
            let is_told = |line: &&String| line.contains("GC") && line.contains(&pod.id) && line.contains(" up");
            // The addresses go last, when the interface is gone.
            assert_eq!(lines.iter().filter(is_told).count(), 1, "{name}: {lines:?}");
            // Facility daemon, severity notice.
            assert!(lines.iter().all(|line| line.starts_with(&format!("<29>{name}["))), "{name}: {lines:?}");
        }
    });
}
