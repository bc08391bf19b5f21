//! bandwidth: the ifb of a pod that went without a DEL is taken back by a later ADD, and no other.

use serde_json::{Value, json};
use tests::{Host, Place, Pod, case, config, settings::not_for_reference};

use crate::bandwidth_add::{attach, config, limits};

/// The names of the ifbs.
fn ifbs(host: &Host) -> Vec<String> {
    let links = crate::bandwidth_add::ifbs(host);
    links.iter().map(|link| link["ifname"].as_str().unwrap().to_owned()).collect()
}

fn attach_limited(host: &Host, pod: &Pod) -> Value {
    let result = attach(host, pod);
    host.plugin("bandwidth").pod(pod).config_with(&config(limits()), &result).add().result()
}

/// The host's end of a pod's pair, and its ifb.
fn links(result: &Value) -> [String; 2] {
    let name = |index: usize| result["interfaces"][index]["name"].as_str().unwrap().to_owned();
    [name(1), name(3)]
}

/// One more ADD, a minute later; what it says.
fn add_later(host: &Host) -> String {
    host.pass_a_minute();
    let pod = host.pod();
    let result = attach(host, &pod);
    let reply = host.plugin("bandwidth").pod(&pod).config_with(&config(json!({})), &result).add();
    host.plugin("bridge").pod(&pod).config_with(&config::dual_stack(), &result).del().ok();
    reply.ok();
    reply.stderr
}

#[test]
fn the_ifb_of_a_pod_that_is_gone_is_taken_back() {
    case(|| {
        not_for_reference("it never takes anything back");
        let host = Host::new();
        let [lost, alive, renamed] = [host.named_pod(), host.named_pod(), host.named_pod()];
        let of_lost = attach_limited(&host, &lost);
        let of_alive = attach_limited(&host, &alive);
        let [end, _] = links(&attach_limited(&host, &renamed));
        host.run(&format!("ip link set dev {end} down"));
        host.rename(&end, "renamed0");
        // Those of which nobody says whom they serve.
        host.run("ip link add bwp0123456789ab type ifb");
        host.run("ip link add operators type ifb");
        let lost = host.lose(lost);
        let everybody = ifbs(&host);
        let [_, ifb] = links(&of_lost);
        let said = add_later(&host);
        assert!(said.contains(&format!("reclaimed {ifb}")) && said.contains(&lost.id), "{said}");
        let rest: Vec<String> = everybody.into_iter().filter(|name| *name != ifb).collect();
        assert_eq!(ifbs(&host), rest);
        assert_eq!(add_later(&host), "");
        assert_eq!(ifbs(&host), rest);
        host.plugin("bandwidth").pod(&alive).config_with(&config(limits()), &of_alive).check().ok();
        // A DEL that comes after all.
        for (plugin, config) in [("bandwidth", config(limits())), ("bridge", config::dual_stack())] {
            host.plugin(plugin).lost(&lost).config_with(&config, &of_lost).del().ok();
        }
        assert_eq!(ifbs(&host), rest);
    });
}

#[test]
fn it_is_looked_for_once_a_minute() {
    case(|| {
        not_for_reference("it never takes anything back");
        let host = Host::new();
        let [lost, pod] = [host.named_pod(), host.pod()];
        attach_limited(&host, &lost);
        host.lose(lost);
        assert_eq!(ifbs(&host).len(), 1);
        attach_limited(&host, &pod);
        assert_eq!(ifbs(&host).len(), 2, "the first ADD was less than a minute ago");
        add_later(&host);
        assert_eq!(ifbs(&host).len(), 1);
    });
}

#[test]
fn a_link_that_could_be_its_pods_keeps_it() {
    case(|| {
        not_for_reference("it never takes anything back");
        let host = Host::new();
        let lost = host.named_pod();
        let [end, _] = links(&attach_limited(&host, &lost));
        host.lose(lost);
        host.run(&format!("ip link add {end} type bridge"));
        add_later(&host);
        assert_eq!(ifbs(&host).len(), 1);
        host.run(&format!("ip link delete {end}"));
        add_later(&host);
        assert!(ifbs(&host).is_empty());
    });
}

/// It says nothing of whom it serves.
#[test]
fn the_references_stay() {
    case(|| {
        not_for_reference("it never takes anything back");
        let host = Host::new();
        let lost = host.named_pod();
        let result = host.reference("bridge").pod(&lost).config(&config::dual_stack()).add().result();
        host.reference("bandwidth").pod(&lost).config_with(&config(limits()), &result).add().ok();
        let lost = host.lose(lost);
        assert_eq!(add_later(&host), "");
        assert_eq!(ifbs(&host).len(), 1);
        host.plugin("bandwidth").lost(&lost).config(&config(limits())).del().ok();
        assert!(ifbs(&host).is_empty());
    });
}
