//! What containerd says to plugins, call by call: that it does what the plugins' own tests play.

use std::os::unix::fs::PermissionsExt;
use std::{collections::BTreeMap, fs, path::Path};

use serde_json::{Value, json};
use tests::{Place, host::SCRATCH, image, machine::PLUGINS, report::Subject, reported, settings};

use super::daemon::{Node, bridge, list, portmap, published, subject};

/// Where each call leaves a file.
const CALLS: &str = "/run/test/calls";

/// One call, in the order in which they began.
#[derive(Debug)]
struct Call {
    plugin: String,
    env: BTreeMap<String, String>,
    config: Value,
}

impl Call {
    fn env(&self, name: &str) -> &str {
        self.env.get(name).map_or("", String::as_str)
    }

    /// `bridge ADD`
    fn title(&self) -> String {
        format!("{} {}", self.plugin, self.env("CNI_COMMAND"))
    }
}

#[test]
fn a_pod() {
    let what =
        "what it calls: ADD of the chain and of loopback, DEL with the result, DEL again without namespace and result";
    reported(&subject(), what, || {
        let node = Node::new(&list("1.0.0", &[bridge(), portmap()]));
        record(&node);
        let pod = node.run("web", |pod| pod.port_mappings = vec![published(8080)]);
        let (id, netns) = (pod.id.clone(), pod.netns.clone());

        let (loopback, calls) = calls(&node);
        assert_eq!(titles(&loopback), ["loopback ADD"]);
        assert_eq!(titles(&calls), ["bridge ADD", "host-local ADD", "portmap ADD"]);
        for call in loopback.iter().chain(&calls) {
            assert_eq!((call.env("CNI_CONTAINERID"), call.env("CNI_NETNS")), (&*id, &*netns), "{call:?}");
            assert_eq!(call.env("CNI_PATH"), PLUGINS);
            // In any order.
            let args: BTreeMap<_, _> =
                call.env("CNI_ARGS").split(';').filter_map(|pair| pair.split_once('=')).collect();
            let expected = [
                ("IgnoreUnknown", "1"),
                ("K8S_POD_INFRA_CONTAINER_ID", &*id),
                ("K8S_POD_NAME", "web"),
                ("K8S_POD_NAMESPACE", "default"),
                ("K8S_POD_UID", "uid-web"),
            ];
            assert_eq!(args, expected.into(), "{call:?}");
        }
        assert_eq!(loopback[0].env("CNI_IFNAME"), "lo");
        assert!(calls.iter().all(|call| call.env("CNI_IFNAME") == "eth0"));
        let portmap = &calls[2].config;
        assert_eq!(portmap["prevResult"]["ips"].as_array().unwrap().len(), 2);
        let mapping = &portmap["runtimeConfig"]["portMappings"][0];
        // Keys as Go spells them without being told, as Debian's build of it is not.
        let of = |lower: &str, upper: &str| if mapping[lower].is_null() { &mapping[upper] } else { &mapping[lower] };
        let found = (of("hostPort", "HostPort"), of("containerPort", "ContainerPort"));
        assert_eq!(found, (&json!(8080), &json!(80)), "{mapping}");

        pod.stop();
        let (loopback, calls) = self::calls(&node);
        assert_eq!(titles(&loopback), ["loopback DEL"]);
        assert_eq!(titles(&calls), ["portmap DEL", "bridge DEL", "host-local DEL"]);
        for call in &calls {
            assert_eq!(call.env("CNI_NETNS"), netns, "{call:?}");
            assert!(call.config["prevResult"].is_object(), "{call:?}");
        }
        assert_eq!(calls[0].config["runtimeConfig"], portmap["runtimeConfig"]);

        pod.end();
        let (_, calls) = self::calls(&node);
        // StopPodSandbox once more, of a pod that is stopped, and RemovePodSandbox.
        assert!(titles(&calls).starts_with(&["portmap DEL".to_owned(), "bridge DEL".to_owned()]), "{calls:?}");
        for call in &calls {
            assert_eq!(call.env("CNI_NETNS"), "", "{call:?}");
            assert!(call.config["prevResult"].is_null(), "{call:?}");
        }
    });
}

#[test]
fn a_container_of_ctr() {
    let subject = Subject { name: subject().name.replace("containerd", "ctr"), ..subject() };
    reported(&subject, "what it calls: ADD by the path of a process, DEL without a namespace, no loopback", || {
        let node = Node::new(&list("1.0.0", &[bridge()]));
        record(&node);
        node.import("default");
        let cgroup = format!("{}/one", node.machine().cgroup);
        node.ctr(&["run", "--rm", "--cni", "--cgroup", &cgroup, image::NAME, "one", "/bin/true"]);
        let (loopback, calls) = calls(&node);
        assert!(loopback.is_empty(), "{loopback:?}");
        assert_eq!(titles(&calls), ["bridge ADD", "host-local ADD", "bridge DEL", "host-local DEL"]);
        let netns = calls[0].env("CNI_NETNS");
        assert!(netns.starts_with("/proc/") && netns.ends_with("/ns/net"), "{netns}");
        assert_eq!(calls[2].env("CNI_NETNS"), "");
    });
}

/// Puts scripts in the place of the plugins that write down what they are told and then call them.
fn record(node: &Node) {
    let host = node.host();
    host.run(&format!("mkdir -p {CALLS} {SCRATCH}/recorders"));
    let script = |real: &Path| {
        format!(
            "#!/bin/sh\ninput=$(cat)\ncall={CALLS}/$(date +%s%N)-${{0##*/}}\n{{ env | grep ^CNI_; echo; echo \"$input\"; }} >$call.part\n\
             mv $call.part $call\nprintf %s \"$input\" | exec {}\n",
            real.display()
        )
    };
    for name in node
        .machine()
        .enter(|| fs::read_dir(PLUGINS).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>())
    {
        let path = format!("{SCRATCH}/recorders/{}", name.display());
        host.write(&path, script(&settings::bin_dir().join(&name)));
        host.enter(|| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap());
    }
    node.machine().run(&format!("mount --bind {SCRATCH}/recorders {PLUGINS}"));
}

/// The calls since the last time, those of `loopback`, which are made beside the others, apart.
fn calls(node: &Node) -> (Vec<Call>, Vec<Call>) {
    let parse = |name: String| {
        let text = node.host().read(&format!("{CALLS}/{name}")).unwrap();
        let (env, config) = text.split_once("\n\n").unwrap();
        let env = env.lines().map(|line| line.split_once('=').unwrap());
        Call {
            plugin: name.split_once('-').unwrap().1.to_owned(),
            env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            config: serde_json::from_str(config).unwrap(),
        }
    };
    let all: Vec<_> = node.host().files(CALLS).into_iter().map(parse).collect();
    node.host().run(&format!("rm -r {CALLS}"));
    node.host().run(&format!("mkdir {CALLS}"));
    all.into_iter().partition(|call| call.plugin == "loopback")
}

fn titles(calls: &[Call]) -> Vec<String> {
    calls.iter().map(Call::title).collect()
}
