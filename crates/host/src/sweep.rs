//! When to look for what was left behind: seldom enough to cost nothing, often enough that it does not pile up.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use fs2::FileExt;

/// How long a sweep serves.
const PAUSE: Duration = Duration::from_secs(60);

/// Whether a sweep of this name is due in the network namespace of the calling thread: once a minute at most, and for
/// one of all the processes that ask at the same time. Whoever is told so should sweep; should it fail, the next one
/// does in a minute.
///
/// The time is that of a file, `/run/oxbridge/<name>-swept-<inode of the namespace>`. Where there can be none (no
/// `/run`, or one that is full or read-only), nothing is ever due.
#[must_use]
pub fn is_due(name: &str) -> bool {
    crate::run::path(&format!("{name}-swept")).is_some_and(|stamp| claim(&stamp).unwrap_or(false))
}

/// Makes the stamp one of now, unless it is young or another process is about to.
fn claim(stamp: &Path) -> io::Result<bool> {
    if fs::metadata(stamp).and_then(|m| m.modified()).is_ok_and(is_young) {
        return Ok(false);
    }
    let file = match open(stamp, true) {
        Ok(_) => return Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => open(stamp, false)?,
        Err(error) => return Err(error),
    };
    // Whoever holds it decides for all.
    file.try_lock_exclusive()?;
    if is_young(file.metadata()?.modified()?) {
        return Ok(false);
    }
    file.set_modified(SystemTime::now())?;
    Ok(true)
}

fn open(stamp: &Path, new: bool) -> io::Result<File> {
    File::options().write(true).create_new(new).mode(0o600).open(stamp)
}

/// A time to come is none: the clock was set back.
fn is_young(time: SystemTime) -> bool {
    time.elapsed().is_ok_and(|age| age < PAUSE)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn one_of_many_and_once_a_minute() {
        let dir = tempfile::tempdir().unwrap();
        let stamp = dir.path().join("x-swept-1");
        let winners = || {
            thread::scope(|s| {
                let all: Vec<_> = (0..16).map(|_| s.spawn(|| claim(&stamp).unwrap_or(false))).collect();
                all.into_iter().filter_map(|t| t.join().ok()).filter(|won| *won).count()
            })
        };
        let set = |time: SystemTime| File::options().write(true).open(&stamp).unwrap().set_modified(time).unwrap();
        assert_eq!(winners(), 1, "the first time");
        assert_eq!(winners(), 0);
        set(SystemTime::now() - PAUSE + Duration::from_secs(30));
        assert_eq!(winners(), 0, "half a minute later");
        set(SystemTime::now() - PAUSE);
        assert_eq!(winners(), 1, "a minute later");
        set(SystemTime::now() + 100 * PAUSE);
        assert_eq!(winners(), 1, "the clock was set back");
        assert_eq!(winners(), 0);
        assert!(claim(&dir.path().join("none/x")).is_err());
    }
}
