//! A node with podman on it.

use std::{
    env::consts::ARCH,
    fmt::Write as _,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::Command,
    sync::{Mutex, OnceLock},
    thread,
};

use serde_json::Value;
use tests::{Host, Machine, NetNs, Place, Snapshot, case, docs, host::SCRATCH, image, report::Subject, settings, skip};

/// Podman's own files that are of no interest to a snapshot: what a boot ends, locks, logs.
const STATE: &str = "/run/test/podman";
/// Where the programs are called by: with their libraries.
const PROGRAMS: &str = "/run/test/podman/bin";
/// What an operator writes for podman to use the plugins.
const OPERATORS: &str = "/etc/containers/containers.conf.d/50-oxbridge.conf";
/// A command of podman that takes longer is stuck: it is killed, and its test fails. Seconds.
const STUCK: &str = "60";
/// How much of the log a failure shows, in lines.
const TAIL: usize = 60;

/// Debian's podman, as it says itself.
pub(crate) fn subject() -> Subject {
    static VERSION: OnceLock<String> = OnceLock::new();
    let version = VERSION.get_or_init(|| {
        // `podman version 4.3.1`, `crun version 1.8.1` and more lines
        let (podman, crun) = (ask("podman"), ask("crun"));
        format!("{} with crun {}", podman.as_deref().unwrap_or("none"), crun.as_deref().unwrap_or("none"))
    });
    Subject { kind: "runtime", name: "podman (network backend cni)".to_owned(), version: version.clone() }
}

fn ask(name: &str) -> Option<String> {
    let output = Command::new(program(name)).env("LD_LIBRARY_PATH", libraries()).arg("--version").output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).split_whitespace().nth(2)?.to_owned())
}

fn program(name: &str) -> PathBuf {
    settings::podman().join("usr/bin").join(name)
}

/// Where the libraries are that came with the programs.
fn libraries() -> String {
    let triple = format!("{ARCH}-linux-gnu");
    ["usr/lib", "lib"].map(|folder| settings::podman().join(folder).join(&triple).display().to_string()).join(":")
}

/// A machine with podman and the image.
pub(crate) struct Node {
    machine: Machine,
    log: Mutex<String>,
}

impl Node {
    /// One on which no container has run yet. Skips the test where there is no podman.
    pub(crate) fn new() -> Self {
        if !["podman", "conmon", "crun"].iter().all(|name| program(name).exists()) {
            skip("there is no podman (make runtimes fetches it)");
        }
        for plugin in ["bridge", "portmap", "firewall", "tuning", "host-local"] {
            settings::require(plugin);
        }
        let archive = image::archive();
        let machine = Machine::new();
        configure(&machine);
        let node = Self { machine, log: Mutex::default() };
        node.host().write(&format!("{SCRATCH}/image.tar"), archive);
        node.podman(&format!("load -q -i {SCRATCH}/image.tar"));
        node
    }

    /// The power fails, and comes back.
    pub(crate) fn reboot(&mut self) {
        self.machine.reboot();
        install(&self.machine);
    }

    pub(crate) fn machine(&self) -> &Machine {
        &self.machine
    }

    pub(crate) fn host(&self) -> &Host {
        &self.machine().host
    }

    /// Runs podman with these words, and returns what it prints.
    ///
    /// # Panics
    /// When it fails.
    pub(crate) fn podman(&self, words: &str) -> String {
        self.try_podman(words).unwrap_or_else(|error| panic!("`podman {words}`: {error}"))
    }

    /// Runs podman with these words. Error: what it prints to stderr.
    pub(crate) fn try_podman(&self, words: &str) -> Result<String, String> {
        let result = self.machine().try_run(&format!("timeout -s KILL {STUCK} {PROGRAMS}/podman {words}"));
        let (Ok(text) | Err(text)) = &result;
        _ = writeln!(self.log.lock().unwrap(), "$ podman {words}\n{text}");
        result.map(|text| text.trim().to_owned())
    }

    /// Types commands of a document.
    pub(crate) fn type_commands(&self, commands: &str) {
        let script = format!("PATH={PROGRAMS}:$PATH\n{commands}");
        self.host().write(&format!("{SCRATCH}/commands"), script);
        let result = self.machine().try_run(&format!("timeout -s KILL {STUCK} sh -ex {SCRATCH}/commands"));
        let (Ok(text) | Err(text)) = &result;
        _ = writeln!(self.log.lock().unwrap(), "{commands}{text}");
        result.unwrap_or_else(|error| panic!("{commands}{error}"));
    }

    /// Starts a container of the image, in which a server runs. `options` are those of `podman run`.
    pub(crate) fn start(&self, name: &str, options: &str) -> NetNs {
        self.try_start(name, options).unwrap_or_else(|error| panic!("{name} ({options}) does not start: {error}"))
    }

    /// The same. Error: what podman says.
    pub(crate) fn try_start(&self, name: &str, options: &str) -> Result<NetNs, String> {
        self.try_podman(&format!("run -d --name {name} {options} {}", image::NAME))?;
        Ok(self.netns(name))
    }

    /// Removes containers without waiting for them to end by themselves.
    pub(crate) fn remove(&self, containers: &str) {
        self.podman(&format!("rm -f -t 0 {containers}"));
    }

    /// The network namespace of a container that runs.
    pub(crate) fn netns(&self, container: &str) -> NetNs {
        self.machine().netns(self.inspect(container)["NetworkSettings"]["SandboxKey"].as_str().unwrap())
    }

    /// What podman says of a container.
    pub(crate) fn inspect(&self, container: &str) -> Value {
        serde_json::from_str::<Value>(&self.podman(&format!("inspect {container}"))).unwrap()[0].take()
    }

    /// The state of the node after containers have come and gone that these options start: what stays for good is there.
    pub(crate) fn warm_up(&self, options: &[&str]) -> Snapshot {
        for options in options {
            self.start("first", options);
            self.remove("first");
        }
        self.host().snapshot()
    }

    /// Writes down what was done and how the node is now, for whoever looks into a failure.
    fn keep_log(&self) {
        let mut log = self.log.lock().map(|log| log.clone()).unwrap_or_default();
        for line in ["ip address", "ip route", "ip -6 route", "nft list ruleset", "find /var/lib/cni /etc/cni"] {
            _ = writeln!(log, "$ {line}\n{}", self.machine().try_run(line).unwrap_or_else(|error| error));
        }
        case::keep("podman", &log, TAIL);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if thread::panicking() {
            self.keep_log();
        }
    }
}

/// What an operator writes, and what follows from the programs not being installed.
fn configure(machine: &Machine) {
    let own = format!(
        r#"
        [engine]
        cgroup_manager = "cgroupfs"
        events_logger = "none"
        # Not in the machine's own /dev/shm.
        lock_type = "file"
        tmp_dir = "{STATE}/tmp"
        conmon_path = ["{PROGRAMS}/conmon"]
        runtime = "crun"
        [engine.runtimes]
        crun = ["{PROGRAMS}/crun"]
        [containers]
        # Not every root may make these, and no network needs them.
        cgroups = "disabled"
        default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
        log_driver = "k8s-file"
        "#
    );
    let storage =
        format!("[storage]\ndriver = \"overlay\"\ngraphroot = \"/var/lib/containers\"\nrunroot = \"{STATE}/run\"\n");
    let policy = r#"{"default":[{"type":"insecureAcceptAnything"}]}"#;
    let operators = docs::file("runtimes.md", OPERATORS);
    machine.run("mkdir -p /etc/containers/containers.conf.d");
    for (path, text) in [
        (OPERATORS, &operators),
        ("/etc/containers/containers.conf.d/99-test.conf", &own),
        ("/etc/containers/storage.conf", &storage),
        ("/etc/containers/policy.json", &policy.to_owned()),
    ] {
        machine.enter(|| fs::write(path, text).unwrap());
    }
    install(machine);
}

/// What a boot needs: the programs, findable with their libraries, as podman gives those that it starts no environment.
/// And no cgroups, of which crun does not know all kinds.
fn install(machine: &Machine) {
    machine.run("mount -t tmpfs tmpfs /sys/fs/cgroup");
    for name in ["podman", "conmon", "crun"] {
        let (path, real) = (format!("{PROGRAMS}/{name}"), program(name));
        // Crun keeps its state below XDG_RUNTIME_DIR.
        let environment = format!("LD_LIBRARY_PATH={} XDG_RUNTIME_DIR={STATE}", libraries());
        let script = format!("#!/bin/sh\n{environment} exec {} \"$@\"\n", real.display());
        machine.host.write(&path, script);
        machine.enter(|| fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap());
    }
}
