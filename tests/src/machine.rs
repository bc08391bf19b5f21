//! A node on which programs run that start others: daemons, their shims, containers.
//!
//! They have an own view of processes, in which they are all there is, and `/etc`, `/opt`, `/var/lib` of their own.
//! When the machine is dropped, or whoever made it ends in whatever way, its first process ends, and by that the kernel
//! ends all the others and gives up their mounts.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufRead, BufReader},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{self, Child, ChildStdin, Command, Stdio},
    sync::{
        Mutex, Once, PoisonError,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};

use serde_json::{Value, json};

use crate::{Host, NetNs, Place, case, config::with, host::SCRATCH, settings::bin_dir};

/// Where runtimes look for plugins by default.
pub const PLUGINS: &str = "/opt/cni/bin";
/// Where runtimes look for configured networks by default.
pub const NETWORKS: &str = "/etc/cni/net.d";
/// What plugins and runtimes know a boot by.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// host-local's own records of reservations, a folder for each network.
const RECORDS: &str = "/var/lib/cni/networks/.oxbridge";
const CGROUPS: &str = "/sys/fs/cgroup";
/// How the names of ours begin; the process id of the tests follows.
const CGROUP: &str = "oxbridge-test";
/// A first process that says nothing for so long is stuck.
const BOOT: Duration = Duration::from_secs(60);
/// A control group that has just lost its last process may be busy for a moment.
const CGROUP_GONE: Duration = Duration::from_secs(10);

/// The first process: collects those that have lost their parents, and ends when nobody holds its standard input.
const INIT: &str = "mount -t proc proc /proc && echo ready && while read -r _; do :; done";

/// The node, its view of processes, and the folders that outlive a boot.
pub struct Machine {
    /// Its network, `/run` and `/var/lib/cni`, as seen from outside of its processes.
    pub host: Host,
    /// Below this all containers belong, for those who are asked for a parent of control groups: a path from the root of
    /// each hierarchy.
    pub cgroup: String,
    init: Child,
    _held: ChildStdin,
    /// By the names that they were started with.
    programs: Mutex<BTreeMap<String, Child>>,
    mounts: File,
    processes: File,
}

impl Place for Machine {
    /// Threads cannot be made there, only processes.
    fn move_thread(&self) {
        self.host.netns().move_thread();
        unshare(CloneFlags::CLONE_FS).unwrap();
        setns(&self.mounts, CloneFlags::CLONE_NEWNS).unwrap();
        setns(&self.processes, CloneFlags::CLONE_NEWPID).unwrap();
    }
}

impl Machine {
    /// A new one, with the plugins under test installed and no network configured.
    #[allow(clippy::new_without_default, reason = "it asks the kernel for something")]
    pub fn new() -> Self {
        let host = Host::new();
        host.enter(folders);
        host.enter(cgroups);
        Self::boot(host)
    }

    /// Power fails and comes back: all processes, namespaces, and `/run` are gone, all that was on disk is there, and the
    /// boot has another id.
    pub fn reboot(&mut self) {
        self.halt();
        let host = self.host.rebooted();
        host.enter(cgroups);
        *self = Self::boot(host);
        let id = format!("{SCRATCH}/boot_id");
        self.host.write(&id, "11111111-2222-3333-4444-555555555555\n");
        self.run(&format!("mount --bind {id} {BOOT_ID}"));
        self.age_reservations();
    }

    /// As if all attachments had been made before the machine was last started: the kernel's clock goes on.
    fn age_reservations(&self) {
        for network in self.host.files(RECORDS) {
            let folder = format!("{RECORDS}/{network}");
            // Beside them is the index.
            for name in self.host.files(&folder).iter().filter(|name| name.len() == 32) {
                let path = format!("{folder}/{name}");
                let record: Value = serde_json::from_str(&self.host.read(&path).unwrap()).unwrap();
                self.host.write(&path, with(&record, json!({ "time": 1_000_000_000 })).to_string());
            }
        }
    }

    /// Starts the first process.
    fn boot(host: Host) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        static SWEPT: Once = Once::new();
        SWEPT.call_once(sweep_cgroups);
        let cgroup = format!("/{CGROUP}-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let start = || {
            unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID).expect("a machine needs root");
            Command::new("bash").args(["-c", INIT]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
        };
        let mut init = host.enter(start);
        let (said, line) = mpsc::channel();
        let stdout = init.stdout.take().unwrap();
        thread::spawn(move || _ = said.send(BufReader::new(stdout).lines().next()));
        let line = line.recv_timeout(BOOT);
        if !matches!(&line, Ok(Some(Ok(line))) if line == "ready") {
            _ = init.kill();
            panic!("the machine did not boot within {BOOT:?}: {line:?}, {:?}", init.wait());
        }
        let namespace = |name: &str| File::open(format!("/proc/{}/ns/{name}", init.id())).unwrap();
        let (mounts, processes) = (namespace("mnt"), namespace("pid"));
        Self { host, cgroup, _held: init.stdin.take().unwrap(), init, programs: Mutex::default(), mounts, processes }
    }

    /// Starts a program there that goes on running, with what it says in this file of the machine.
    pub fn start(&self, name: &str, mut command: Command, log: &str) {
        let child = self.enter(move || {
            let log = File::options().create(true).append(true).open(log).unwrap();
            command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
            command.spawn().unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program()))
        });
        let other = self.programs.lock().unwrap().insert(name.to_owned(), child);
        assert!(other.is_none(), "{name} runs already");
    }

    /// Kills what was started by this name, and nothing that it has started itself.
    pub fn kill(&self, name: &str) {
        let mut child = self.programs.lock().unwrap().remove(name).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// The network namespace that has this path there. While the value lives, so does the namespace.
    pub fn netns(&self, path: &str) -> NetNs {
        self.enter(|| NetNs::open(path))
    }

    /// Ends all processes at once.
    fn halt(&mut self) {
        _ = self.init.kill();
        // The first process ends last, when all others have been collected by whoever started them.
        for child in self.programs.get_mut().unwrap_or_else(PoisonError::into_inner).values_mut() {
            _ = child.wait();
        }
        _ = self.init.wait();
        remove_cgroups(&self.cgroup);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.halt();
    }
}

/// Puts the control groups back, which a new `/sys` hides.
fn cgroups() {
    let aside = aside("cgroups");
    umount2("/sys", MntFlags::empty()).unwrap();
    bind(CGROUPS, &aside);
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), None::<&str>).unwrap();
    bind(&aside, CGROUPS);
}

/// What a node has on its disk.
fn folders() {
    // The folder may be in one of those that get another content.
    let plugins = aside("plugins");
    bind(bin_dir().to_str().unwrap(), &plugins);

    // With all that programs are configured by.
    let etc = aside("etc");
    assert!(Command::new("cp").args(["-a", "/etc/.", &etc]).status().unwrap().success());
    bind(&etc, "/etc");
    _ = fs::remove_dir_all("/etc/cni");
    fs::create_dir_all(NETWORKS).unwrap();

    for folder in ["/opt", "/var/lib"] {
        mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), Some("mode=0755")).unwrap();
    }
    fs::create_dir("/var/lib/cni").unwrap();
    // Plugins have no business in the folder that they are in.
    fs::create_dir_all(PLUGINS).unwrap();
    bind(&plugins, PLUGINS);
    let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(None::<&str>, PLUGINS, None::<&str>, read_only, None::<&str>).unwrap();
    // A path that configs in the field still use.
    _ = symlink("/run", "/var/run");
}

fn aside(name: &str) -> String {
    let path = format!("{SCRATCH}/{name}");
    fs::create_dir_all(&path).unwrap();
    path
}

fn bind(from: &str, to: &str) {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .unwrap_or_else(|error| panic!("binding {from} to {to}: {error}"));
}

/// Removes the group from each hierarchy. What is still in it after a while is left, and said.
fn remove_cgroups(group: &str) {
    for root in hierarchies() {
        let group = root.join(group.trim_start_matches('/'));
        let deadline = Instant::now() + CGROUP_GONE;
        while let Err(error) = remove_group(&group) {
            if Instant::now() > deadline {
                case::say(&format!("{}: {error}", group.display()));
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Removes the groups of tests that were killed.
fn sweep_cgroups() {
    for root in hierarchies() {
        for entry in fs::read_dir(root).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let owner = name.strip_prefix(&format!("{CGROUP}-")).and_then(|rest| rest.split('-').next());
            if owner.is_some_and(|id| !Path::new(&format!("/proc/{id}")).exists()) {
                // The machine of a killed test may be ending still.
                _ = remove_group(&entry.path());
            }
        }
    }
}

/// The folders of all hierarchies, version 1 and 2.
fn hierarchies() -> impl Iterator<Item = PathBuf> {
    let inner = fs::read_dir(CGROUPS).into_iter().flatten().flatten().map(|entry| entry.path());
    inner.chain([CGROUPS.into()])
}

/// A group goes by removing its folder, when it has no folders left; its files are the kernel's.
fn remove_group(group: &Path) -> std::io::Result<()> {
    if !group.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(group)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_group(&entry.path())?;
        }
    }
    match fs::remove_dir(group) {
        Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => Ok(()),
        result => result,
    }
}
