//! The store on disk, shared with the reference's host-local under the same lock.
//!
//! | file | whose |
//! |---|---|
//! | `<dataDir>/<network>/<ip>` | a [reservation], in the reference's form |
//! | `<dataDir>/<network>/last_reserved_ip.<N>` | the address given last from range set N |
//! | `<dataDir>/<network>/lock` | locked by flock(2) by whoever reads or writes the folder |
//! | `<dataDir>/.oxbridge/<network>/<identity>` | our [record] of an attachment |
//! | `<dataDir>/.oxbridge/<network>/index` | our [index] of the folder |
//! | `<dataDir>/.oxbridge/<network>/draft` | a reservation before it gets its address |
//! | `<dataDir>/.oxbridge/<network>/new` | another file being made, before it gets its name |
//!
//! `dataDir` and the network's folder may be symbolic links: administrators move stores. Inside of them, and in our own
//! folder, none is followed, so that nothing outside of the store is read or written.
//!
//! [`Store`] is the place, [`Locked`] the store while this process holds the lock: only that can read or change it.

mod files;
pub(crate) mod index;
pub(crate) mod record;
pub(crate) mod reservation;
pub(crate) mod stop;

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use host::fsutil;
use host::lock::{self, Lock};
use thiserror::Error;

use self::files::{cannot_link, mtime, stamp, write_exclusively, write_in_place};
use self::index::{Index, Key};
use self::record::Record;
use self::reservation::{Content, FileStamp, Owner, Reservation};

/// More than any address needs, with white space around it.
const CURSOR_MAX: u64 = 128;
/// Bytes of a file's name (limits.h).
const NAME_MAX: usize = 255;
/// How long another process may keep the lock.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// What the store could not do.
#[derive(Debug, Error)]
pub(crate) enum Error {
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error(transparent)]
    Lock(#[from] lock::Error),
    #[error("network name {0:?} cannot be the name of a folder, which holds the network's reservations")]
    Name(String),
}

/// Where a network's reservations are.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    folder: PathBuf,
    own: PathBuf,
}

/// The store while this process holds its lock; dropping it gives the lock back.
#[derive(Debug)]
pub(crate) struct Locked<'s> {
    store: &'s Store,
    _lock: Option<Lock>,
    /// Our own folder is there, and no link to another: otherwise there are neither records nor an index.
    has_own: bool,
    known: Known,
    boot: Option<[u8; 16]>,
    /// The folder was changed since the index got its stamp.
    changed: bool,
}

/// What is known about who has what.
#[derive(Debug)]
enum Known {
    Index(Index),
    /// The folder was read, and no index can be kept.
    Scanned(Vec<(Key, IpAddr)>),
}

/// An address with the file that reserves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) ip: IpAddr,
    pub(crate) stamp: FileStamp,
}

/// A finished reservation file without an address yet.
#[derive(Debug)]
pub(crate) struct Draft {
    path: PathBuf,
    stamp: FileStamp,
    key: Key,
    content: String,
}

impl Store {
    /// `data_dir`: the root of all networks' stores. Error: the name would lead out of it.
    pub(crate) fn new(data_dir: &Path, network: &str) -> Result<Self, Error> {
        if network.is_empty() || network.len() > NAME_MAX || network.starts_with('.') || network.contains(['/', '\0']) {
            return Err(Error::Name(network.to_owned()));
        }
        Ok(Self { folder: data_dir.join(network), own: data_dir.join(".oxbridge").join(network) })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn lock_path(&self) -> PathBuf {
        self.folder.join("lock")
    }

    /// Our own folder of this network.
    pub(crate) fn own_folder(&self) -> &Path {
        &self.own
    }

    /// Takes the lock, making the folders where they are missing.
    pub(crate) fn lock(&self) -> Result<Locked<'_>, Error> {
        let lock = match self.take_lock() {
            Err(lock::Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                make_dirs(&self.folder, 0o755)?;
                self.take_lock()?
            }
            other => other?,
        };
        if !self.has_own()? {
            make_dirs(&self.own, 0o700)?;
        }
        self.locked(Some(lock), true)
    }

    /// Takes the lock of a store that is there; `None`, and nothing made, where it is not.
    pub(crate) fn lock_existing(&self) -> Result<Option<Locked<'_>>, Error> {
        let has_own = self.has_own().unwrap_or(false);
        match self.take_lock() {
            Ok(lock) => self.locked(Some(lock), has_own).map(Some),
            Err(lock::Error::Io { source, .. }) if fsutil::is_missing(&source) => Ok(None),
            // A lock file that cannot be made (read-only, no space) is held by nobody.
            Err(lock::Error::Io { .. }) if fs::symlink_metadata(self.lock_path()).is_err() => {
                self.locked(None, has_own).map(Some)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn take_lock(&self) -> Result<Lock, lock::Error> {
        let path = self.lock_path();
        if fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_symlink()) {
            return Err(lock::Error::Io { path, source: io::Error::other("it is not a plain file") });
        }
        Lock::exclusive(&path, 0o750, LOCK_WAIT)
    }

    /// Whether our own folder is there. Error: something else is in its place.
    pub(crate) fn has_own(&self) -> Result<bool, Error> {
        for path in [self.own.parent().unwrap_or(&self.own), &self.own] {
            match fs::symlink_metadata(path) {
                Ok(meta) if meta.is_dir() => {}
                Ok(_) => return Err(io_error("use", path, io::Error::other("it is not a folder"))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(io_error("inspect", path, error)),
            }
        }
        Ok(true)
    }

    /// Forgets the record of an attachment whose network has no folder (any more), and hence no lock.
    pub(crate) fn forget_without_folder(&self, identity: &str) -> Result<(), Error> {
        if !self.has_own().unwrap_or(false) {
            return Ok(());
        }
        let path = self.own.join(identity);
        fsutil::remove(&path).map(drop).map_err(|e| io_error("remove", &path, e))
    }

    fn locked(&self, lock: Option<Lock>, has_own: bool) -> Result<Locked<'_>, Error> {
        let boot = host::boot::id().and_then(|id| u128::from_str_radix(&id.replace('-', ""), 16).ok());
        let boot = boot.filter(|_| has_own).map(u128::to_le_bytes);
        let mut locked =
            Locked { store: self, _lock: lock, has_own, known: Known::Scanned(Vec::new()), boot, changed: false };
        locked.load()?;
        Ok(locked)
    }

    fn path_of(&self, ip: IpAddr) -> PathBuf {
        self.folder.join(ip.to_string())
    }

    fn cursor_path(&self, set: usize) -> PathBuf {
        self.folder.join(format!("last_reserved_ip.{set}"))
    }

    fn draft_path(&self) -> PathBuf {
        self.own.join("draft")
    }

    fn temporary(&self) -> PathBuf {
        self.own.join("new")
    }

    fn index_path(&self) -> PathBuf {
        self.own.join("index")
    }
}

impl Draft {
    /// The file's: as long as it is linked to its address, and not written there anew, that of the reservation.
    pub(crate) fn stamp(&self) -> FileStamp {
        self.stamp
    }
}

impl Locked<'_> {
    /// What exactly this owner has, each file read again.
    pub(crate) fn find(&self, owner: &Owner) -> Result<Vec<Held>, Error> {
        let key = Key::of(owner);
        let mut ips = match &self.known {
            Known::Index(index) => match index.find(key) {
                Ok(ips) => ips,
                Err(_) => find_in(&self.scan()?, key),
            },
            Known::Scanned(entries) => find_in(entries, key),
        };
        ips.sort_unstable();
        ips.dedup();
        let mut held = Vec::with_capacity(ips.len());
        for ip in ips {
            match self.read(ip)? {
                Some(Reservation { stamp, content: Content::Owner(found) }) if found == *owner => {
                    held.push(Held { ip, stamp });
                }
                // To forget it would be to leave it reserved for ever.
                Some(Reservation { content: Content::Unreadable(reason), .. }) => {
                    return Err(self.unreadable(ip, reason));
                }
                _ => {}
            }
        }
        Ok(held)
    }

    /// A reservation that the system cannot read, for this reason.
    pub(crate) fn unreadable(&self, ip: IpAddr, reason: String) -> Error {
        io_error("read", &self.store.path_of(ip), io::Error::other(reason))
    }

    /// Some addresses that have an owner, at most `wanted`; who goes on asking, in this process or the next, sees all.
    /// None where no index can be kept.
    pub(crate) fn look_round(&mut self, wanted: usize) -> Vec<IpAddr> {
        match &mut self.known {
            Known::Index(index) => index.look_round(wanted).unwrap_or_default(),
            Known::Scanned(_) => Vec::new(),
        }
    }

    /// The reservation of an address; `None`: it is free.
    pub(crate) fn read(&self, ip: IpAddr) -> Result<Option<Reservation>, Error> {
        let path = self.store.path_of(ip);
        reservation::read(&path).map_err(|e| io_error("read", &path, e))
    }

    /// Whether the address has no file.
    pub(crate) fn is_free(&self, ip: IpAddr) -> Result<bool, Error> {
        let path = self.store.path_of(ip);
        match fs::symlink_metadata(&path) {
            Ok(_) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(io_error("inspect", &path, error)),
        }
    }

    /// Every address that has a file, whatever is in it.
    pub(crate) fn occupied(&self) -> Result<Vec<IpAddr>, Error> {
        let failed = |e| io_error("list", &self.store.folder, e);
        let mut ips = Vec::new();
        for entry in fs::read_dir(&self.store.folder).map_err(failed)? {
            ips.extend(reservation::address_of(&entry.map_err(failed)?.file_name()));
        }
        Ok(ips)
    }

    /// Prepares a reservation; nothing is reserved yet.
    pub(crate) fn draft(&self, owner: &Owner) -> Result<Draft, Error> {
        let path = self.store.draft_path();
        let content = owner.content();
        let failed = |e| io_error("write", &path, e);
        let file = fsutil::write_new(&path, content.as_bytes(), 0o600).map_err(failed)?;
        let meta = file.metadata().inspect_err(|_| _ = fsutil::remove(&path)).map_err(failed)?;
        let stamp = FileStamp::of(&meta);
        stop::point("drafted");
        Ok(Draft { path, stamp, key: Key::of(owner), content })
    }

    /// Gives the draft this address; `None` where the address has a file already.
    pub(crate) fn reserve(&mut self, draft: &Draft, ip: IpAddr) -> Result<Option<Held>, Error> {
        let path = self.store.path_of(ip);
        let stamp = match fs::hard_link(&draft.path, &path) {
            Ok(()) => Some(draft.stamp),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => None,
            Err(error) if cannot_link(&error) => write_exclusively(&path, &draft.content)?,
            Err(error) => return Err(io_error("make", &path, error)),
        };
        let Some(stamp) = stamp else { return Ok(None) };
        self.changed = true;
        stop::point("linked");
        self.index_insert(draft.key, ip);
        stop::point("indexed");
        Ok(Some(Held { ip, stamp }))
    }

    /// Gives the draft an address whose file was found [`Content::Torn`].
    pub(crate) fn take_over(&mut self, draft: &Draft, ip: IpAddr) -> Result<Option<Held>, Error> {
        let path = self.store.path_of(ip);
        match fs::rename(&draft.path, &path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                fsutil::remove(&path).map_err(|e| io_error("remove", &path, e))?;
                return self.reserve(draft, ip);
            }
            Err(error) => return Err(io_error("replace", &path, error)),
        }
        self.changed = true;
        self.index_insert(draft.key, ip);
        Ok(Some(Held { ip, stamp: draft.stamp }))
    }

    /// Removes the draft; a reservation made of it stays.
    pub(crate) fn discard(&self, draft: &Draft) {
        // What stays behind is removed before the next draft.
        let _ = fsutil::remove(&draft.path);
    }

    /// Removes what an ADD that was killed has left unfinished.
    pub(crate) fn tidy(&self) {
        // The next ADD would remove it as well.
        let _ = fs::remove_file(self.store.draft_path());
        let _ = fs::remove_file(self.store.temporary());
    }

    /// Frees an address if its file is still the one that was seen. `owner`: whose it was; `None` for a torn file.
    pub(crate) fn release(&mut self, owner: Option<&Owner>, held: Held) -> Result<(), Error> {
        let path = self.store.path_of(held.ip);
        let failed = |e| io_error("remove", &path, e);
        match fs::symlink_metadata(&path) {
            Ok(meta) if FileStamp::of(&meta) != held.stamp => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(failed)?,
        };
        fsutil::remove(&path).map_err(failed)?;
        self.changed = true;
        stop::point("unlinked");
        if let Some(owner) = owner {
            self.index_remove(Key::of(owner), held.ip);
        }
        stop::point("unindexed");
        Ok(())
    }

    /// The address given last from this range set; anything unreadable counts as none.
    pub(crate) fn cursor(&self, set: usize) -> Option<IpAddr> {
        let file = fsutil::open_plain(&self.store.cursor_path(set), OpenOptions::new().read(true)).ok()?;
        let mut text = String::new();
        file.take(CURSOR_MAX).read_to_string(&mut text).ok()?;
        text.trim().parse().ok()
    }

    /// Remembers the address given last from this range set.
    pub(crate) fn set_cursor(&mut self, set: usize, ip: IpAddr) -> Result<(), Error> {
        let path = self.store.cursor_path(set);
        let text = ip.to_string();
        write_in_place(&path, text.as_bytes()).map_err(|e| io_error("write", &path, e))?;
        // A cursor's first writing makes a file.
        self.changed = true;
        stop::point("cursor");
        Ok(())
    }

    /// The record of an attachment, by its identity in hex.
    pub(crate) fn record(&self, identity: &str) -> Option<Record> {
        if self.has_own { Record::read(&self.store.own.join(identity)) } else { None }
    }

    /// Whether one of the record's reservations is still the one that it was made with.
    pub(crate) fn speaks_for_any(&self, identity: &str) -> bool {
        let record = match Record::look(&self.store.own.join(identity)) {
            Ok(Some(record)) => record,
            Ok(None) => return false,
            // Not shown to be stale.
            Err(_) => return true,
        };
        record.addresses.iter().any(|a| match self.read(a.ip) {
            Ok(Some(reservation)) => reservation.stamp == a.stamp,
            Ok(None) => false,
            // Unreadable: not shown to be stale.
            Err(_) => true,
        })
    }

    pub(crate) fn write_record(&self, identity: &str, record: &Record) -> Result<(), Error> {
        let path = self.store.own.join(identity);
        record.write(&path, &self.store.temporary()).map_err(|e| io_error("write", &path, e))?;
        stop::point("recorded");
        Ok(())
    }

    pub(crate) fn remove_record(&self, identity: &str) -> Result<(), Error> {
        if !self.has_own {
            // Perhaps it could only not be looked at, and now can be: a record that stays would be no success.
            match self.store.has_own() {
                Ok(true) => {}
                Err(error @ Error::Io { action: "inspect", .. }) => return Err(error),
                Ok(false) | Err(_) => return Ok(()),
            }
        }
        let path = self.store.own.join(identity);
        fsutil::remove(&path).map_err(|e| io_error("remove", &path, e))?;
        stop::point("forgotten");
        Ok(())
    }

    /// The identities of all records.
    pub(crate) fn records(&self) -> Vec<String> {
        if !self.has_own {
            return Vec::new();
        }
        let Ok(entries) = fs::read_dir(&self.store.own) else { return Vec::new() };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.filter(|name| name.len() == 32 && name.bytes().all(|b| b.is_ascii_hexdigit())).collect()
    }

    /// Marks the index as telling the present state of the folder, if anything was changed.
    ///
    /// A failure costs the next call a reading of the folder, and nothing else: the stamp no longer matches.
    fn commit(&mut self) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        if let Known::Index(index) = &mut self.known {
            let _ = stamp(&self.store.folder, index);
        }
    }

    /// Opens the index if it is fresh; reads the folder and builds it anew otherwise.
    fn load(&mut self) -> Result<(), Error> {
        let folder = mtime(&self.store.folder).map_err(|e| io_error("inspect", &self.store.folder, e))?;
        let found = if self.has_own { Index::open(&self.store.index_path()) } else { None };
        let next = found.as_ref().map_or(0, Index::next);
        if let Some(index) = found
            && index.is_fresh(folder, self.boot)
        {
            self.known = Known::Index(index);
            return Ok(());
        }
        let entries = self.scan()?;
        self.known = self.rebuild(entries, next);
        self.changed = true;
        self.commit();
        Ok(())
    }

    fn rebuild(&self, entries: Vec<(Key, IpAddr)>, next: u32) -> Known {
        let Some(boot) = self.boot else { return Known::Scanned(entries) };
        match Index::create(&self.store.index_path(), &self.store.temporary(), &entries, boot, next) {
            Ok(index) => Known::Index(index),
            Err(_) => Known::Scanned(entries),
        }
    }

    /// Reads every reservation in the folder.
    fn scan(&self) -> Result<Vec<(Key, IpAddr)>, Error> {
        let mut entries = Vec::new();
        for ip in self.occupied()? {
            if let Some(Reservation { content: Content::Owner(owner), .. }) = self.read(ip)? {
                entries.push((Key::of(&owner), ip));
            }
        }
        Ok(entries)
    }

    fn index_insert(&mut self, key: Key, ip: IpAddr) {
        if let Known::Index(index) = &self.known
            && index.is_crowded(1)
            && let Ok(entries) = index.entries()
        {
            self.known = self.rebuild(entries, index.next());
        }
        match &mut self.known {
            Known::Index(index) => {
                if index.insert(key, ip).is_err() {
                    self.abandon_index();
                }
            }
            Known::Scanned(entries) => entries.push((key, ip)),
        }
    }

    fn index_remove(&mut self, key: Key, ip: IpAddr) {
        match &mut self.known {
            Known::Index(index) => {
                if index.remove(key, ip).is_err() {
                    self.abandon_index();
                }
            }
            Known::Scanned(entries) => entries.retain(|entry| *entry != (key, ip)),
        }
    }

    /// The index could not be written: read the folder instead, and let the next call build another.
    fn abandon_index(&mut self) {
        self.known = Known::Scanned(self.scan().unwrap_or_default());
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // A panic may have come between a file and its entry.
        if !std::thread::panicking() {
            self.commit();
        }
    }
}

fn find_in(entries: &[(Key, IpAddr)], key: Key) -> Vec<IpAddr> {
    entries.iter().filter(|(k, _)| *k == key).map(|(_, ip)| *ip).collect()
}

fn make_dirs(path: &Path, mode: u32) -> Result<(), Error> {
    fsutil::make_dirs(path, mode).map_err(|e| io_error("make the folder", path, e))
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Io { action, path: path.to_path_buf(), source }
}

#[cfg(test)]
mod tests;
