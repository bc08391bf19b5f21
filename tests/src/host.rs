//! The node: a network namespace with mounts of its own.

use std::{
    fs::{self, File},
    panic,
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};
use serde_json::Value;

use crate::{
    Call, NetNs, Network, Place, Pod, Snapshot,
    settings::{self, bin_dir},
    traffic::PATIENCE,
    userns::{self, UserNs, Users},
};

/// Where the tests keep their own files on a host; not part of its snapshot.
pub const SCRATCH: &str = "/run/test";
/// Where named pods are found by path.
pub const NETNS_DIR: &str = "/run/netns";
/// Where a host in a user namespace has the plugins under test.
const PLUGINS: &str = "/run/test/bin";
/// Where it has `cnitool`.
const CNITOOL: &str = "/run/test/cnitool";
/// Where plugins keep when they last looked for what was left behind.
const SWEPT: &str = "/run/oxbridge";

/// A pod that is gone, as its runtime remembers it.
pub struct Lost {
    /// Container id.
    pub id: String,
    /// Name of its interface.
    pub ifname: String,
    /// Where its namespace was.
    pub path: String,
}

/// A node with empty `/run` and `/var/lib/cni`, its own `/sys`, `lo` up and nothing else.
pub struct Host {
    net: NetNs,
    mounts: File,
    /// In whose root commands and plugins run, if not as the machine's.
    userns: Option<UserNs>,
    pods: AtomicU32,
    outside: OnceLock<NetNs>,
}

impl Place for Host {
    fn move_thread(&self) {
        // Threads share their root and working directory, and so their mounts, until told not to.
        unshare(CloneFlags::CLONE_FS).unwrap();
        setns(&self.mounts, CloneFlags::CLONE_NEWNS).unwrap();
        self.net.move_thread();
        if self.userns.is_some() {
            // What it writes is to belong to the host's root.
            userns::own_files(true);
        }
    }

    fn wrapper(&self) -> Vec<String> {
        self.userns.as_ref().map(UserNs::wrapper).unwrap_or_default()
    }
}

impl Host {
    /// A new one.
    #[allow(clippy::new_without_default, reason = "it asks the kernel for something")]
    pub fn new() -> Self {
        Self::made_by(|| {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("making a host needs root");
            private_mounts();
        })
    }

    /// Another one with what this one has on disk, and nothing else of it.
    pub fn rebooted(&self) -> Self {
        Self::made_by(|| {
            self.move_thread();
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
            for folder in ["/run", "/sys"] {
                umount2(folder, MntFlags::MNT_DETACH).unwrap();
            }
            volatile_mounts();
        })
    }

    /// `make` moves its thread there.
    fn made_by(make: impl FnOnce() + Send) -> Self {
        let make = || {
            make();
            (NetNs::current(), File::open("/proc/thread-self/ns/mnt").unwrap())
        };
        let (net, mounts) = thread::scope(|s| s.spawn(make).join()).unwrap_or_else(|cause| panic::resume_unwind(cause));
        Self::of(net, mounts, None)
    }

    /// A new one in a user namespace, as programs make it that run containers without root: what is not of its namespaces,
    /// it may not touch. Skips the test where the machine does not let users make one.
    pub fn rootless(users: Users) -> Self {
        let (userns, net, mounts) = UserNs::new(users);
        let host = Self::of(net, mounts, Some(userns));
        for folder in ["/run", state()] {
            host.run(&format!("mount -t tmpfs -o mode=0755 tmpfs {folder}"));
        }
        host.run(&format!("mkdir -p {SCRATCH}/netns /var/lib/cni"));
        // The workspace may be where only root can go.
        for (from, to) in [(bin_dir(), PLUGINS), (settings::cnitool(), CNITOOL)] {
            host.run(&format!("{} {to}", if from.is_dir() { "mkdir" } else { "touch" }));
            host.enter(|| {
                userns::own_files(false);
                mount(Some(&from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
            });
        }
        host
    }

    fn of(net: NetNs, mounts: File, userns: Option<UserNs>) -> Self {
        let host = Self { net, mounts, userns, pods: AtomicU32::new(0), outside: OnceLock::new() };
        host.run("ip link set lo up");
        host
    }

    /// Where the plugins under test are.
    pub fn bin_dir(&self) -> PathBuf {
        if self.userns.is_some() { PLUGINS.into() } else { bin_dir() }
    }

    /// Where `cnitool` is.
    pub fn cnitool(&self) -> PathBuf {
        if self.userns.is_some() { CNITOOL.into() } else { settings::cnitool() }
    }

    /// The host's own network namespace.
    pub fn netns(&self) -> &NetNs {
        &self.net
    }

    /// A new pod with a namespace known by a path that always works.
    pub fn pod(&self) -> Pod {
        let (id, ifname) = (self.next_id(), "eth0".to_owned());
        if self.userns.is_some() {
            let path = format!("{SCRATCH}/netns/{id}");
            self.run(&format!("touch {path}"));
            self.run(&format!("unshare --net={path} true"));
            return Pod { ns: NetNs::of(self.enter(|| File::open(&path).unwrap())), id, ifname, path };
        }
        let ns = NetNs::new();
        Pod { id, ifname, path: ns.path(), ns }
    }

    /// A new pod whose namespace is mounted at `/run/netns/<id>`, as runtimes do: that path can go away.
    pub fn named_pod(&self) -> Pod {
        let mut pod = self.pod();
        pod.path = format!("{NETNS_DIR}/{}", pod.id);
        self.mount_netns(&pod.ns, &pod.path);
        pod
    }

    /// Makes the namespace known by this path, instead of whatever was there.
    pub fn mount_netns(&self, ns: &NetNs, path: &str) {
        self.unmount(path);
        let source = ns.path();
        self.enter(|| {
            fs::create_dir_all(NETNS_DIR).unwrap();
            File::create(path).unwrap();
            mount(Some(source.as_str()), path, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        });
    }

    /// Removes this path, a mount or not.
    pub fn unmount(&self, path: &str) {
        self.enter(|| {
            _ = umount2(path, MntFlags::MNT_DETACH);
            _ = fs::remove_file(path);
        });
    }

    /// Writes a file there, with the folders above it.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]> + Sync) {
        self.enter(|| {
            fs::create_dir_all(Path::new(path).parent().unwrap()).unwrap();
            fs::write(path, content.as_ref()).unwrap();
        });
    }

    /// Whether there is such a file.
    pub fn exists(&self, path: &str) -> bool {
        self.enter(|| Path::new(path).exists())
    }

    /// The names in a folder, sorted; none if there is no such folder.
    pub fn files(&self, folder: &str) -> Vec<String> {
        let list = || -> std::io::Result<Vec<String>> {
            fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
        };
        let mut names = self.enter(|| list().unwrap_or_default());
        names.sort();
        names
    }

    /// A plugin under test, to be called directly; skips the test if the reference has none of that name.
    pub fn plugin(&self, name: &str) -> Call<'_> {
        settings::require(name);
        Call::new(self, &self.bin_dir(), name)
    }

    /// The same plugin of the reference, for tests in which both take turns; skips the test without one.
    pub fn reference(&self, name: &str) -> Call<'_> {
        match settings::reference_dir() {
            Some(dir) => Call::new(self, &dir, name),
            None => crate::skip("there are no reference plugins (CNI_REFERENCE_DIR)"),
        }
    }

    /// A network of one plugin, to be driven by `cnitool`.
    pub fn network(&self, config: &Value) -> Network<'_> {
        Network::of_plugin(self, config)
    }

    /// The world outside, connected by the host's `uplink` (see [`crate::traffic::outside`]); made when first asked for.
    pub fn outside(&self) -> &NetNs {
        self.outside.get_or_init(|| crate::traffic::outside::connect(self))
    }

    /// Puts the old kind of iptables, which keeps its rules in x_tables, before the new one; skips the test where there is
    /// none.
    pub fn use_legacy_iptables(&self) {
        if ["iptables", "ip6tables"].iter().any(|p| self.try_run(&format!("{p}-legacy -t nat -S")).is_err()) {
            crate::skip("there is no iptables-legacy, or the kernel has no x_tables");
        }
        // The first folder of a call's PATH.
        let folder = "/usr/local/sbin";
        self.run(&format!("mount -t tmpfs tmpfs {folder}"));
        for program in ["iptables", "ip6tables"] {
            for suffix in ["", "-save", "-restore"] {
                self.run(&format!("ln -s /usr/sbin/{program}-legacy{suffix} {folder}/{program}{suffix}"));
            }
        }
    }

    /// The state of everything that plugins change.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::of(self)
    }

    /// One ADD and DEL, after which what plugins leave for good (the bridge, empty tables) is there; and the
    /// snapshot then.
    pub fn warm_up(&self, config: &Value) -> Snapshot {
        let pod = self.pod();
        let call = || self.plugin_of(config).pod(&pod).config(config);
        call().add().result();
        call().del().ok();
        self.snapshot()
    }

    /// The plugin that the config is for.
    pub fn plugin_of(&self, config: &Value) -> Call<'_> {
        self.plugin(config["type"].as_str().unwrap())
    }

    /// # Panics
    /// When the host is not as in the snapshot: shows what differs.
    pub fn assert_as(&self, before: &Snapshot) {
        let diff = before.diff(&self.snapshot());
        assert!(diff.is_empty(), "the host is not as before (- before, + now):\n{diff}");
    }

    /// # Panics
    /// When a failed call left more than folders and locks: shows what.
    pub fn assert_nothing_made(&self, before: &Snapshot) {
        let diff = before.diff_without_skeleton(&self.snapshot());
        assert!(diff.is_empty(), "the host is not as before (- before, + now):\n{diff}");
    }

    /// Makes what plugins do once a minute due again.
    pub fn pass_a_minute(&self) {
        for name in self.files(SWEPT).iter().filter(|name| name.contains("-swept-")) {
            self.run(&format!("touch -d -2minutes {SWEPT}/{name}"));
        }
    }

    /// Ends a pod as a crash does: its namespace and its path are gone, and no plugin was told.
    pub fn lose(&self, pod: Pod) -> Lost {
        let ports = self.ports();
        let Pod { id, ifname, path, ns } = pod;
        self.unmount(&path);
        drop(ns);
        self.wait_for_ports(ports.saturating_sub(1));
        Lost { id, ifname, path }
    }

    /// The pod after its namespace has ended: another one, empty and of no path, has taken its place.
    #[must_use]
    pub fn end(&self, pod: Pod) -> Pod {
        let Lost { id, ifname, path } = self.lose(pod);
        Pod { id, ifname, path, ns: NetNs::new() }
    }

    fn ports(&self) -> usize {
        self.json("ip -j link show type veth").as_array().unwrap().len()
    }

    /// Waits until the host has so many pods' links: the kernel removes those of a namespace some time after its end.
    pub fn wait_for_ports(&self, count: usize) {
        let deadline = Instant::now() + PATIENCE * settings::slowness();
        while self.ports() != count && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn next_id(&self) -> String {
        format!("pod-{}", self.pods.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

/// Mounts that nobody else sees.
fn private_mounts() {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).unwrap();
    volatile_mounts();
    tmpfs(state());
    fs::create_dir_all("/var/lib/cni").unwrap();
}

/// What does not outlive a boot.
fn volatile_mounts() {
    tmpfs("/run");
    fs::create_dir_all(SCRATCH).unwrap();
    // Shows the links of the namespace it is mounted in.
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), None::<&str>).unwrap();
}

/// The folder to put an empty one over: that of the plugins' state may not exist, and is not to be made on the machine
/// itself.
fn state() -> &'static str {
    if Path::new("/var/lib/cni").is_dir() {
        return "/var/lib/cni";
    }
    assert!(!bin_dir().starts_with("/var/lib"), "make a folder /var/lib/cni, so that an empty one can be put over it");
    "/var/lib"
}

fn tmpfs(path: &str) {
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some("mode=0755")).unwrap();
}
