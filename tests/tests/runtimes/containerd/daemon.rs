//! A node with containerd on it.

use std::{
    env,
    path::PathBuf,
    process::{Command, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tests::{
    Host, Machine, NetNs, Place, Snapshot, config,
    host::SCRATCH,
    image,
    machine::NETWORKS,
    report::Subject,
    settings::{self, workspace},
};
use tonic::Status;

use super::cri::{Cri, Linux, Metadata, PodConfig, PodStatus, PortMapping};

/// A daemon that is not ready after this will not be.
const START: Duration = Duration::from_secs(60);
/// Where the reservations of [`bridge()`] are.
pub(crate) const STORE: &str = "/var/lib/cni/networks/pods";
const DAEMON: &str = "containerd";
/// Where a reboot leaves it.
const LOG: &str = "/var/lib/containerd.log";
/// A command of `ctr` that takes longer is stuck: it is killed, and its test fails. Seconds.
const STUCK: &str = "60";
/// How much of the log a failure shows, in lines.
const TAIL: usize = 25;

/// Where its programs are: in the folder that `CONTAINERD_DIR` names, or else in Debian's packages.
fn folders() -> impl Iterator<Item = PathBuf> {
    let debian = ["bin", "sbin"].map(|name| workspace().join(".build/containerd/usr").join(name));
    env::var_os("CONTAINERD_DIR").map(PathBuf::from).into_iter().chain(debian)
}

fn program(name: &str) -> Option<PathBuf> {
    folders().map(|folder| folder.join(name)).find(|path| path.exists())
}

/// What the rows of the matrix are about.
pub(crate) fn subject() -> Subject {
    static VERSION: OnceLock<Option<String>> = OnceLock::new();
    let ask = |name: &str| {
        let output = Command::new(program(name)?).arg("--version").output().ok()?;
        Some(String::from_utf8(output.stdout).unwrap())
    };
    let version = VERSION.get_or_init(|| {
        // `containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3`, `runc version 1.1.5+ds1`
        let (containerd, runc) = (ask("containerd")?, ask("runc")?);
        let word = |text: &str| text.split_whitespace().nth(2).unwrap_or("?").to_owned();
        Some(format!(
            "{} with runc {}",
            word(&containerd).trim_start_matches('v').trim_end_matches("+unknown"),
            word(&runc)
        ))
    });
    // Where there is none, its tests are skipped and leave no row.
    let version = version.clone().unwrap_or_else(|| "none".to_owned());
    let name = if version.starts_with("2.") { "containerd 2" } else { "containerd" };
    Subject { kind: "runtime", name: name.to_owned(), version }
}

/// Whether its libcni knows CNI 1.1.0, and so STATUS: from 2.0 on.
pub(crate) fn knows_status() -> bool {
    subject().name.ends_with('2')
}

/// A machine, and the daemon on it.
pub(crate) struct Node {
    machine: Machine,
}

/// A pod that runs.
pub(crate) struct Sandbox<'n> {
    node: &'n Node,
    /// The runtime's id of it, which is the plugins' container id.
    pub(crate) id: String,
    /// By the runtime's status.
    pub(crate) addresses: Vec<String>,
    /// Where its namespace is.
    pub(crate) netns: String,
}

impl Node {
    /// With this network configured; skips the test where there is no containerd.
    pub(crate) fn new(network: &Value) -> Self {
        if ["containerd", "ctr", "containerd-shim-runc-v2", "runc"].iter().any(|name| program(name).is_none()) {
            tests::skip("there is no containerd (make runtimes fetches it)");
        }
        for plugin in network["plugins"].as_array().unwrap() {
            settings::require(plugin["type"].as_str().unwrap());
        }
        let image = image::archive();
        let node = Self { machine: Machine::new() };
        node.host().write(&format!("{NETWORKS}/10-pods.conflist"), network.to_string());
        node.start();
        node.host().write(&format!("{SCRATCH}/image.tar"), image);
        node.import("k8s.io");
        node
    }

    /// Makes the image known in one of containerd's own namespaces: Kubernetes' is `k8s.io`.
    pub(crate) fn import(&self, namespace: &str) {
        self.ctr(&["--namespace", namespace, "images", "import", &format!("{SCRATCH}/image.tar")]);
    }

    fn start(&self) {
        let config = format!(
            r#"
            version = 2
            root = "/var/lib/containerd"
            state = "{SCRATCH}/containerd"
            disabled_plugins = [
                "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
                "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
                "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp",
            ]
            [grpc]
            address = "{SCRATCH}/containerd.sock"
            [ttrpc]
            address = "{SCRATCH}/containerd.ttrpc"
            [plugins."io.containerd.grpc.v1.cri"]
            sandbox_image = "{}"
            # Not every machine has it, nor may every root do these.
            disable_apparmor = true
            restrict_oom_score_adj = true
            "#,
            image::NAME
        );
        self.host().write(&format!("{SCRATCH}/containerd.toml"), config);
        self.launch();
        self.wait_until_ready();
    }

    fn launch(&self) {
        let mut command = Command::new(program("containerd").unwrap());
        command.args(["--config", &format!("{SCRATCH}/containerd.toml")]).env_clear().env("PATH", path());
        self.machine.start(DAEMON, command, LOG)
    }

    /// # Panics
    /// When it does not get ready in time.
    fn wait_until_ready(&self) {
        let deadline = Instant::now() + START;
        loop {
            let answer = self.cri().conditions();
            // There may be others, of what it is unhappy with.
            let is_true = |kind: &str| {
                answer.as_ref().is_ok_and(|all| all.iter().any(|condition| condition.kind == kind && condition.status))
            };
            if is_true("RuntimeReady") && is_true("NetworkReady") {
                return;
            }
            assert!(Instant::now() < deadline, "containerd is not ready after {START:?}: {answer:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills the daemon, and nothing else, and starts it again.
    pub(crate) fn restart(&self) {
        self.machine.kill(DAEMON);
        self.launch();
        self.wait_until_ready();
    }

    /// The power fails, and comes back.
    pub(crate) fn reboot(&mut self) {
        self.machine.reboot();
        self.start();
    }

    pub(crate) fn machine(&self) -> &Machine {
        &self.machine
    }

    pub(crate) fn host(&self) -> &Host {
        &self.machine.host
    }

    pub(crate) fn cri(&self) -> Cri<'_> {
        Cri { host: self.host(), address: format!("unix:{SCRATCH}/containerd.sock") }
    }

    /// Runs containerd's own client there, and returns what it prints.
    ///
    /// # Panics
    /// When it fails.
    pub(crate) fn ctr(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("timeout");
        command.args(["-s", "KILL", STUCK]).arg(program("ctr").unwrap());
        command.args(["--address", &format!("{SCRATCH}/containerd.sock")]).args(arguments).stdin(Stdio::null());
        let output = self.machine.enter(|| command.output()).unwrap();
        assert!(output.status.success(), "{command:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts a pod.
    ///
    /// # Panics
    /// When that fails.
    pub(crate) fn run(&self, name: &str, change: impl FnOnce(&mut PodConfig)) -> Sandbox<'_> {
        self.try_run(name, change).unwrap_or_else(|error| panic!("{name} does not start: {error}"))
    }

    /// Starts a pod. Error: the runtime's.
    pub(crate) fn try_run(&self, name: &str, change: impl FnOnce(&mut PodConfig)) -> Result<Sandbox<'_>, Status> {
        let metadata = Metadata { name: name.to_owned(), uid: format!("uid-{name}"), namespace: "default".to_owned() };
        let mut config = PodConfig {
            metadata: Some(metadata),
            hostname: name.to_owned(),
            log_directory: format!("{SCRATCH}/logs/{name}"),
            linux: Some(Linux { cgroup_parent: self.machine.cgroup.clone() }),
            ..PodConfig::default()
        };
        change(&mut config);
        let id = self.cri().run(config)?;
        let PodStatus { addresses, info } = self.cri().pod(&id)?;
        let namespaces = info["runtimeSpec"]["linux"]["namespaces"].as_array().unwrap();
        let netns = namespaces.iter().find(|namespace| namespace["type"] == "network").unwrap();
        Ok(Sandbox { node: self, id, addresses, netns: netns["path"].as_str().unwrap().to_owned() })
    }

    /// The state of the node after it has had a pod: what stays for good is there.
    pub(crate) fn warm_up(&self, change: impl FnOnce(&mut PodConfig)) -> Snapshot {
        self.run("first", change).end();
        self.host().snapshot()
    }

    /// Shows the end of the daemon's log, and where all of it is.
    fn keep_log(&self) {
        let Some(log) = self.host().read(LOG) else { return };
        tests::case::keep("containerd", &log, TAIL);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if thread::panicking() {
            self.keep_log();
        }
    }
}

impl Sandbox<'_> {
    /// StopPodSandbox.
    pub(crate) fn stop(&self) {
        self.node.cri().stop(&self.id).unwrap_or_else(|error| panic!("{} does not stop: {error}", self.id));
    }

    /// StopPodSandbox and RemovePodSandbox.
    pub(crate) fn end(self) {
        self.stop();
        self.node.cri().remove(&self.id).unwrap_or_else(|error| panic!("{} stays: {error}", self.id));
    }

    /// Its namespace, to be in it. While the value lives, so does the namespace.
    pub(crate) fn ns(&self) -> NetNs {
        self.node.machine.netns(&self.netns)
    }

    /// Its address of one family.
    pub(crate) fn address(&self, is_v6: bool) -> &str {
        let found = self.addresses.iter().find(|address| address.contains(':') == is_v6);
        found.unwrap_or_else(|| panic!("the pod has no such address: {:?}", self.addresses))
    }
}

/// The list of a network of these plugins.
pub(crate) fn list(version: &str, plugins: &[Value]) -> Value {
    json!({ "cniVersion": version, "name": "pods", "plugins": plugins })
}

/// `bridge` with all that Kubernetes wants of it: 10.22.0.0/24 and fd00:22::/64.
pub(crate) fn bridge() -> Value {
    json!({
        "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
        "ipam": config::host_local(&["10.22.0.0/24", "fd00:22::/64"]),
    })
}

/// `portmap` for the ports of a pod.
pub(crate) fn portmap() -> Value {
    json!({ "type": "portmap", "capabilities": { "portMappings": true } })
}

/// A published port.
pub(crate) fn published(host_port: u16) -> PortMapping {
    PortMapping { container_port: tests::published::CONTAINER_PORT.into(), host_port: host_port.into() }
}

/// With the daemon's helpers, which it finds by it.
fn path() -> String {
    let rest = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
    env::join_paths(folders().chain(rest)).unwrap().into_string().unwrap()
}
