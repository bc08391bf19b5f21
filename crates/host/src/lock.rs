//! Whole-file locks with a deadline.
//!
//! flock(2) has no time limit of its own, and a plugin that waits for ever keeps a pod (and with it a runtime's worker)
//! waiting for ever. Here a wait ends at its deadline, or at SIGTERM/SIGINT, and the error names who holds the lock.
//! The lock goes with the open file: closing it, or dying, releases it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use fs2::FileExt;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, pthread_sigmask, sigaction};
use nix::sys::stat::Mode;
use thiserror::Error;

/// A lock on a file, held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Why a lock was not taken.
#[derive(Debug, Error)]
pub enum Error {
    /// The lock file could not be opened, or flock(2) failed.
    #[error("cannot lock {}: {source}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Someone else held it until the deadline.
    #[error("{} is still locked after {} s, by {}", path.display(), waited.as_secs_f32(), held_by(holders))]
    Timeout {
        /// The lock file.
        path: PathBuf,
        /// How long this call waited.
        waited: Duration,
        /// The processes that /proc/locks shows for it; empty where it shows none (no /proc, another pid namespace).
        holders: Vec<Holder>,
    },
    /// A signal asked this process to stop.
    #[error("interrupted by {signal} while waiting for the lock {}", path.display())]
    Interrupted {
        /// The lock file.
        path: PathBuf,
        /// The signal's name, e.g. `SIGTERM`.
        signal: &'static str,
    },
}

impl Error {
    /// The same, after so long a wait in all.
    fn after(self, waited: Duration) -> Self {
        match self {
            Self::Timeout { path, holders, .. } => Self::Timeout { path, waited, holders },
            other => other,
        }
    }
}

/// A process that holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its process id, as this process' /proc shows it.
    pub pid: u32,
    /// Its command line, or its short name where that is empty; empty if unreadable.
    pub command: String,
}

impl Lock {
    /// Locks `path` exclusively, creating it with `mode` (less the umask) where it is missing; its folder must exist.
    ///
    /// Waits at most `wait`. Errors: [`Error::Timeout`], [`Error::Interrupted`], [`Error::Io`].
    pub fn exclusive(path: &Path, mode: u32, wait: Duration) -> Result<Self, Error> {
        Self::take(path, mode, wait, Kind::Exclusive)
    }

    fn take(path: &Path, mode: u32, wait: Duration, kind: Kind) -> Result<Self, Error> {
        let failed = |source| Error::Io { path: path.to_path_buf(), source };
        let started = Instant::now();
        loop {
            let file = open(path, mode).map_err(failed)?;
            let tried = match kind {
                Kind::Exclusive => file.try_lock_exclusive(),
                Kind::Shared => FileExt::try_lock_shared(&file),
            };
            match tried {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait_for(&file, path, started, wait, kind)?,
                Err(error) => return Err(failed(error)),
            }
            if is_named(&file, path).map_err(failed)? {
                return Ok(Self { _file: file });
            }
            // Removed, with its folder perhaps, while we opened it or waited: the next caller locks another file.
            if started.elapsed() >= wait {
                return Err(failed(io::Error::other("it is removed again and again")));
            }
        }
    }
}

/// Beside whom a lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Nobody.
    Exclusive,
    /// Others of this kind.
    Shared,
}

impl Lock {
    /// Locks what has this name in the network namespace of the calling thread; as [`Lock::exclusive`].
    pub fn in_namespace(name: &str, wait: Duration) -> Result<Self, Error> {
        Self::exclusive(&path_in_namespace(name), 0o600, wait)
    }

    /// The same, where others may hold it by [`Lock::beside_others_in_namespace`].
    pub fn alone_in_namespace(name: &str, wait: Duration) -> Result<Self, Error> {
        Self::in_turn(name, wait, Kind::Exclusive)
    }

    /// The same, for what goes on without it, too: `None` if it was not had in time, or has no file of its own.
    pub fn turn_in_namespace(name: &str, wait: Duration) -> Option<Self> {
        Self::exclusive(&file_in_namespace(name)?, 0o600, wait).ok()
    }

    /// The same beside others who hold it so; nobody has it alone meanwhile.
    pub fn beside_others_in_namespace(name: &str, wait: Duration) -> Result<Self, Error> {
        Self::in_turn(name, wait, Kind::Shared)
    }

    /// After those who began to wait for it earlier, as far as they are done in time.
    fn in_turn(name: &str, wait: Duration, kind: Kind) -> Result<Self, Error> {
        let started = Instant::now();
        let _turn = turn(name, wait)?;
        let left = wait.saturating_sub(started.elapsed());
        Self::take(&path_in_namespace(name), 0o600, left, kind).map_err(|error| error.after(wait))
    }
}

/// Passed on the way to a lock that can be shared, and held while that is waited for: else those who share it could take
/// turns for ever while somebody wants it alone. `None` where there is no file for it, and where it is waited for in vain:
/// not who waits before us is to be named, but who holds the lock.
fn turn(name: &str, wait: Duration) -> Result<Option<Lock>, Error> {
    let Some(path) = file_in_namespace(&format!("{name}-next")) else { return Ok(None) };
    match Lock::exclusive(&path, 0o600, wait) {
        Err(Error::Timeout { .. }) => Ok(None),
        turn => turn.map(Some),
    }
}

/// The file to lock. Without a /run of its own (a chroot) the namespace's file serves: it is there for all who share the
/// namespace.
fn path_in_namespace(name: &str) -> PathBuf {
    file_in_namespace(name).unwrap_or_else(|| PathBuf::from(crate::run::NAMESPACE))
}

/// The file to lock, which is there: an empty one is left behind.
fn file_in_namespace(name: &str) -> Option<PathBuf> {
    let path = crate::run::path(name)?;
    // Opened twice, here and by whoever locks it, only where it is missing.
    let writable = path.exists() || fs::OpenOptions::new().create(true).append(true).mode(0o600).open(&path).is_ok();
    writable.then_some(path)
}

/// Opened read-only, so that a lock file which only root may write still serves; std has no such mode together with
/// O_CREAT. Opening a FIFO would wait for a writer without O_NONBLOCK.
fn open(path: &Path, mode: u32) -> io::Result<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_CREAT | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = File::from(nix::fcntl::open(path, flags, Mode::from_bits_truncate(mode))?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a plain file")) }
}

/// Whether the path still leads to the file that was opened by it.
fn is_named(file: &File, path: &Path) -> io::Result<bool> {
    let opened = file.metadata()?;
    match fs::metadata(path) {
        Ok(named) => Ok((named.dev(), named.ino()) == (opened.dev(), opened.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn wait_for(file: &File, path: &Path, started: Instant, wait: Duration, kind: Kind) -> Result<(), Error> {
    let failed = |source| Error::Io { path: path.to_path_buf(), source };
    let _ticks = Ticks::start().map_err(failed)?;
    loop {
        let locked = match kind {
            Kind::Exclusive => file.lock_exclusive(),
            Kind::Shared => FileExt::lock_shared(file),
        };
        match locked {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
        if let Some(signal) = crate::signal::pending() {
            return Err(Error::Interrupted { path: path.to_path_buf(), signal });
        }
        if started.elapsed() >= wait {
            return Err(Error::Timeout { path: path.to_path_buf(), waited: wait, holders: holders(file) });
        }
    }
}

/// A timer that interrupts the blocking calls of the thread that started it every [`TICK`], until dropped.
///
/// It repeats: a single alarm that fires just before the call it is to interrupt would be lost.
struct Ticks {
    before_action: SigAction,
    before_mask: SigSet,
    /// The timer and the handler belong to the whole process: one waiter at a time.
    _only: std::sync::MutexGuard<'static, ()>,
}

const TICK: Duration = Duration::from_millis(100);
static ONE_WAITER: Mutex<()> = Mutex::new(());
static WAITER: AtomicI32 = AtomicI32::new(0);

impl Ticks {
    fn start() -> io::Result<Self> {
        let only = ONE_WAITER.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        WAITER.store(nix::unistd::gettid().as_raw(), Ordering::SeqCst);
        // Without SA_RESTART: flock(2) has to come back with EINTR.
        let action = SigAction::new(SigHandler::Handler(on_alarm), SaFlags::empty(), SigSet::empty());
        // SAFETY: on_alarm is async-signal-safe: an atomic load, gettid, getpid and tgkill.
        let before_action = unsafe { sigaction(Signal::SIGALRM, &action) }?;
        // The caller's parent may have left SIGALRM blocked.
        let mut before_mask = SigSet::empty();
        let mut alarm = SigSet::empty();
        alarm.add(Signal::SIGALRM);
        pthread_sigmask(SigmaskHow::SIG_UNBLOCK, Some(&alarm), Some(&mut before_mask))?;
        let ticks = Self { before_action, before_mask, _only: only };
        set_timer(TICK)?;
        Ok(ticks)
    }
}

impl Drop for Ticks {
    fn drop(&mut self) {
        // Nothing can be done about a failure here, and none is possible with these arguments.
        let _ = set_timer(Duration::ZERO);
        let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&self.before_mask), None);
        // SAFETY: puts back the disposition that was in force before.
        let _ = unsafe { sigaction(Signal::SIGALRM, &self.before_action) };
    }
}

/// The alarm goes to any thread of the process; only the waiting one has use for it.
extern "C" fn on_alarm(signal: libc::c_int) {
    let waiter = WAITER.load(Ordering::SeqCst);
    // SAFETY: system calls without memory arguments; both are async-signal-safe.
    unsafe {
        if libc::syscall(libc::SYS_gettid) != libc::c_long::from(waiter) {
            libc::syscall(libc::SYS_tgkill, libc::getpid(), waiter, signal);
        }
    }
}

fn set_timer(every: Duration) -> io::Result<()> {
    let every = libc::timeval { tv_sec: 0, tv_usec: every.subsec_micros().into() };
    let timer = libc::itimerval { it_interval: every, it_value: every };
    // SAFETY: `timer` is a whole itimerval that lives over the call; no old value is asked for.
    let code = unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Who holds the lock of another program, for messages; `None` if nobody that is shown does.
#[must_use]
pub fn holders_of(path: &Path) -> Option<String> {
    let holders = holders(&File::open(path).ok()?);
    (!holders.is_empty()).then(|| held_by(&holders))
}

fn holders(file: &File) -> Vec<Holder> {
    let (Ok(meta), Ok(table)) = (file.metadata(), fs::read_to_string("/proc/locks")) else {
        return Vec::new();
    };
    pids(&table, meta.dev(), meta.ino()).into_iter().map(|pid| Holder { pid, command: command(pid) }).collect()
}

/// The processes that hold a flock on the file, from the text of /proc/locks (kernel: fs/locks.c, lock_get_status).
fn pids(table: &str, device: u64, inode: u64) -> Vec<u32> {
    let file = format!("{:02x}:{:02x}:{inode}", libc::major(device), libc::minor(device));
    let mut pids = Vec::new();
    for line in table.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        // "1: FLOCK ADVISORY WRITE 4711 08:01:131 0 EOF"; a waiter's line has "->" in second place.
        if let [_, "FLOCK", _, _, pid, id, ..] = words[..]
            && id == file
            && let Ok(pid) = pid.parse()
            && pid != 0
        {
            pids.push(pid);
        }
    }
    pids
}

fn command(pid: u32) -> String {
    let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let mut text = read("cmdline");
    if text.is_empty() {
        text = read("comm");
    }
    text.truncate(200);
    let text = String::from_utf8_lossy(&text).replace(|c: char| c.is_control(), " ");
    text.trim().to_owned()
}

fn held_by(holders: &[Holder]) -> String {
    if holders.is_empty() {
        return "a process that /proc/locks does not show".to_owned();
    }
    let shown = |holder: &Holder| match holder.command.as_str() {
        // The lock went to its children with the open file.
        "" => format!("pid {} (not running any more: a process started by it)", holder.pid),
        command => format!("pid {} ({command})", holder.pid),
    };
    holders.iter().map(shown).collect::<Vec<_>>().join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_lock_is_taken_and_its_file_made_with_the_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        drop(Lock::exclusive(&path, 0o750, Duration::ZERO).unwrap());
        let meta = fs::metadata(&path).unwrap();
        assert_eq!((meta.mode() & 0o7777 & !0o027, meta.len()), (0o750 & !0o027, 0));
        Lock::exclusive(&path, 0o750, Duration::ZERO).unwrap();
    }

    #[test]
    fn a_wait_ends_at_its_deadline_and_names_the_holder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = Lock::exclusive(&path, 0o750, Duration::ZERO).unwrap();
        let started = Instant::now();
        let error = Lock::exclusive(&path, 0o750, Duration::from_millis(250)).unwrap_err();
        assert!(started.elapsed() >= Duration::from_millis(250) && started.elapsed() < Duration::from_secs(5));
        let Error::Timeout { holders, .. } = &error else { panic!("{error}") };
        assert_eq!(holders.iter().map(|h| h.pid).collect::<Vec<_>>(), [std::process::id()], "{error}");
        drop(held);
        Lock::exclusive(&path, 0o750, Duration::ZERO).unwrap();
    }

    #[test]
    fn a_lock_given_back_in_time_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = Lock::exclusive(&path, 0o750, Duration::ZERO).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| Lock::exclusive(&path, 0o750, Duration::from_secs(10)).map(drop));
            // Long enough for the waiter to be in its blocking call and to have been interrupted once.
            std::thread::sleep(Duration::from_millis(150));
            drop(held);
            waiter.join().unwrap().unwrap();
        });
    }

    #[test]
    fn a_shared_lock_is_held_beside_others_of_its_kind_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let shared = |wait| Lock::take(&path, 0o600, wait, Kind::Shared);
        let held = [shared(Duration::ZERO).unwrap(), shared(Duration::ZERO).unwrap()];
        let error = Lock::exclusive(&path, 0o600, Duration::ZERO).unwrap_err();
        assert!(error.to_string().contains(&format!("pid {}", std::process::id())), "{error}");
        drop(held);
        let _exclusive = Lock::exclusive(&path, 0o600, Duration::ZERO).unwrap();
        assert!(matches!(shared(Duration::from_millis(150)), Err(Error::Timeout { .. })));
    }

    #[test]
    fn a_lock_file_that_was_removed_meanwhile_is_not_the_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = Lock::exclusive(&path, 0o750, Duration::ZERO).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| Lock::exclusive(&path, 0o750, Duration::from_secs(10)));
            std::thread::sleep(Duration::from_millis(150));
            fs::remove_file(&path).unwrap();
            drop(held);
            let lock = waiter.join().unwrap().unwrap();
            assert_eq!(lock._file.metadata().unwrap().ino(), fs::metadata(&path).unwrap().ino());
        });
    }

    #[test]
    fn what_is_no_plain_file_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        for path in [&fifo, Path::new("/dev/null")] {
            let error = Lock::exclusive(path, 0o750, Duration::from_secs(10)).unwrap_err();
            assert!(error.to_string().ends_with("it is not a plain file"), "{error}");
        }
        assert!(Lock::exclusive(dir.path(), 0o750, Duration::from_secs(10)).is_err());
    }

    #[test]
    fn proc_locks_is_read_for_holders_only() {
        let table = "1: POSIX  ADVISORY  WRITE 11 08:01:5 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 22 08:01:5 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 33 08:01:5 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 44 08:01:6 0 EOF\n\
                     4: FLOCK  ADVISORY  READ  0 08:01:5 0 EOF\n";
        assert_eq!(pids(table, libc::makedev(8, 1), 5), [22]);
    }
}
