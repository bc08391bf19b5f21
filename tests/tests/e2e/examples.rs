//! Every config in `conf-examples/` works as it is.

use std::{
    collections::BTreeSet,
    fs,
    net::{TcpListener, TcpStream},
    time::Instant,
};

use serde_json::Value;
use tests::{
    Host, Network, Place, case, cnitool,
    published::set_bridge_nf,
    reported,
    settings::{require, workspace},
    traffic::{Capture, PATIENCE, assert_reaches, assert_silent, outside::SERVER4, outside::SERVER6},
};

use crate::flannel_add::{LEASE46, SUBNET_ENV};

/// The text of an example.
pub(crate) fn text(file: &str) -> String {
    fs::read_to_string(workspace().join("conf-examples").join(file)).unwrap()
}

/// Two pods are attached by `cnitool`, do what the config promises, and are detached.
pub(crate) fn works(host: &Host, file: &str) {
    let text = text(file);
    let config: Value = serde_json::from_str(&text).unwrap();
    let plugin = config["plugins"].get(0).unwrap_or(&config);
    for plugin in config["plugins"].as_array().unwrap_or(&vec![config.clone()]) {
        require(plugin["type"].as_str().unwrap());
    }
    host.outside();
    let flannel = plugin["type"] == "flannel";
    if flannel {
        // What flanneld would have written; it leaves it to the delegate to masquerade.
        host.write(SUBNET_ENV, LEASE46.replace("true", "false"));
    }
    let network = Network::of_file(host, config["name"].as_str().unwrap(), file, &text);
    let lo = plugin["type"] == "loopback";
    let single = plugin["ipam"]["type"] == "static";
    let pods = || {
        let mut pods = vec![host.pod(), host.pod()];
        // Its address can be given once.
        pods.truncate(if single { 1 } else { 2 });
        for pod in &mut pods {
            if lo {
                pod.ifname = "lo".to_owned();
            }
        }
        pods
    };
    let warm_up = pods();
    // Twice: not before the second ADD is the bridge's MTU more than its ports'.
    for _ in 0..2 {
        network.add(&warm_up[0]).ok();
        network.del(&warm_up[0]).ok();
    }
    let before = host.snapshot();
    let pods = pods();
    for pod in &pods {
        network.add(pod).ok();
        if has_check(&config) {
            network.check(pod).ok();
            // Who looks at packets changes nothing.
            let _captures = (Capture::of(host), Capture::of(pod));
            network.check(pod).ok();
        }
    }
    if lo {
        assert_reaches(&pods[0], "127.0.0.1");
    }
    let policies = config["plugins"].as_array().map_or(&[][..], Vec::as_slice);
    let is_isolated =
        plugin["portIsolation"] == true || policies.iter().any(|plugin| plugin["ingressPolicy"] == "isolated");
    let bridge = plugin["bridge"].as_str().unwrap_or("cni0").to_owned();
    let gateway = plugin["vlan"].as_u64().map_or_else(|| bridge.clone(), |vlan| format!("{bridge}.{vlan}"));
    let addresses = |place: &dyn Fn() -> Vec<String>| -> Vec<String> {
        place().iter().map(|a| a.split('/').next().unwrap().to_owned()).collect()
    };
    let of_pod = addresses(&|| if lo { Vec::new() } else { pods[0].addresses() });
    if plugin["isGateway"] == true || flannel {
        for gateway in gateways(host, &gateway) {
            assert_reaches(&pods[0], &gateway);
        }
        if of_pod.iter().any(|a| !a.contains(':')) {
            assert_reaches(&pods[0], SERVER4);
        }
        if of_pod.iter().any(|a| a.contains(':')) {
            assert_reaches(&pods[0], SERVER6);
        }
    }
    if !single {
        for address in of_pod {
            if is_isolated {
                assert_silent(&pods[1], &address);
            } else {
                assert_reaches(&pods[1], &address);
            }
        }
    }
    for pod in &pods {
        network.del(pod).ok();
    }
    host.assert_as(&before);
}

fn gateways(host: &Host, link: &str) -> Vec<String> {
    let link = host.link(link).unwrap();
    let addresses = link["addr_info"].as_array().unwrap().iter().filter(|a| a["scope"] == "global");
    addresses.map(|a| a["local"].as_str().unwrap().to_owned()).collect()
}

/// What [`works`] does with an example, in words.
fn what(file: &str) -> String {
    let config: Value = serde_json::from_str(&text(file)).unwrap();
    let check = if has_check(&config) { "CHECK, " } else { "" };
    format!("ADD, {check}traffic, DEL of conf-examples/{file}")
}

/// Whether the version of a config has CHECK.
fn has_check(config: &Value) -> bool {
    config["cniVersion"].as_str().unwrap() >= "0.4.0"
}

macro_rules! examples {
    ($($name:ident: $file:literal,)*) => {
        $(
            #[test]
            fn $name() {
                reported(&cnitool::subject(), &what($file), || works(&Host::new(), $file));
            }
        )*
        pub(crate) const FILES: &[&str] = &[$($file),*];
    };
}

examples! {
    tutorial_as_a_single_plugin: "10-mynet.conf",
    tutorial: "10-tutorial.conflist",
    flannel: "10-flannel.conflist",
    kubernetes: "10-kubernetes.conflist",
    dual_stack: "20-dual-stack.conflist",
    ipv6_only: "21-ipv6-only.conflist",
    several_ranges: "22-several-ranges.conflist",
    layer2: "31-layer2.conflist",
    static_addresses: "40-static.conflist",
    macspoofchk: "50-macspoofchk.conflist",
    isolation: "51-isolation.conflist",
    ingress_policy: "52-ingress-policy.conflist",
    tuning: "60-tuning.conflist",
    bandwidth: "61-bandwidth.conflist",
    portmap: "62-portmap.conflist",
    podman: "87-podman.conflist",
    loopback: "99-loopback.conflist",
}

#[test]
fn portmap_leads_from_a_port_of_the_host_to_the_pod() {
    case(|| {
        let host = Host::new();
        let network = Network::of_file(&host, "portmap", "62-portmap.conflist", &text("62-portmap.conflist"));
        let pod = host.pod();
        let ports = r#"{"portMappings":[{"hostPort":8062,"containerPort":80,"protocol":"tcp"}]}"#;
        network.call("add", &pod).env("CAP_ARGS", ports).run().ok();
        let _server = pod.enter(|| TcpListener::bind("[::]:80").unwrap());
        for address in ["127.0.0.1:8062", "10.62.0.1:8062", "[fd00:62::1]:8062"] {
            let address = address.parse().unwrap();
            let deadline = Instant::now() + PATIENCE * 2;
            // Until the pod is known as a neighbour, which with the reference's plugins takes a while.
            while host.enter(|| TcpStream::connect_timeout(&address, PATIENCE).is_err()) {
                assert!(Instant::now() < deadline, "no connection to {address}");
            }
        }
        network.call("del", &pod).env("CAP_ARGS", ports).run().ok();
    });
}

const VLANS: [&str; 2] = ["30-vlan.conflist", "32-vlan-gateway.conflist"];

#[test]
fn vlan() {
    case(|| works_where_vlans_are_filtered("vlan", VLANS[0]));
}

#[test]
fn vlan_gateway() {
    case(|| works_where_vlans_are_filtered("vlan-gateway", VLANS[1]));
}

/// Where the kernel cannot filter VLANs, [`crate::vlan`] says what has to happen.
fn works_where_vlans_are_filtered(name: &str, file: &str) {
    if crate::vlan::can_filter(&Host::new()) {
        // Masquerading and the gateway of a VLAN do not go together with it.
        let host = Host::new();
        set_bridge_nf(&host, false);
        works(&host, file);
        return;
    }
    let host = Host::new();
    let before = host.snapshot();
    let network = Network::of_file(&host, name, file, &text(file));
    let reply = network.add(&host.pod());
    assert!(!reply.status.success() && reply.stderr.to_lowercase().contains("vlan"), "{reply}");
    host.assert_nothing_made(&before);
}

#[test]
fn each_one_has_a_test_and_a_line_in_the_readme() {
    case(|| {
        let folder = fs::read_dir(workspace().join("conf-examples")).unwrap();
        let names = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let there: BTreeSet<String> = names.filter(|name| name != "README.md").collect();
        let tested: BTreeSet<String> = FILES.iter().copied().chain(VLANS).map(str::to_owned).collect();
        assert_eq!(there, tested);
        let readme = text("README.md");
        assert!(there.iter().all(|name| readme.contains(&format!("({name})"))));
    });
}
