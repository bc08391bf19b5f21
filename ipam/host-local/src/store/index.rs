//! The index: which addresses an owner has, without reading the network's folder.
//!
//! A hash table of fixed slots in a file of our own. It is a hint and nothing more: whoever uses it reads the reservation
//! file that it points to, and nothing is refused because of what it says or lacks.
//!
//! It is *fresh* while the folder's modification time is the stamp that was put there, and written here, after our own
//! last change, with random nanoseconds. Everyone who adds or removes a file moves the folder's time; the index is then
//! built anew. A crash between two of our steps does the same, whichever they are: the stamp is written last. Of another
//! boot it is never fresh, since nothing here waits for the disk.
//!
//! Little-endian, 64 bytes of header, then the slots:
//!
//! | bytes | header |
//! |---|---|
//! | 0..8 | `oxbridge` |
//! | 8..12, 12..16 | version, slots (a power of two) |
//! | 16..20 | slots in use, deleted ones included |
//! | 20..24 | slot at which the next look round begins |
//! | 24..32, 32..36 | stamp: seconds, nanoseconds (all ones: none) |
//! | 40..56 | boot id |
//!
//! | bytes | slot |
//! |---|---|
//! | 0..16 | key of the owner: all zero, never used; all ones, deleted |
//! | 16..32 | address, IPv4 as IPv4-mapped IPv6 |

use std::fs::{File, OpenOptions};
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::FileExt;
use std::path::Path;

use host::fsutil;

use super::reservation::Owner;

/// What the index knows an owner by: the first 16 bytes of SHA-512 of the reservation's contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key([u8; 16]);

/// A time as a file has it: seconds, nanoseconds.
pub(crate) type Time = (i64, i64);

/// The open index. Changes are in the file at once, but count for the next call only after [`Index::set_stamp`].
#[derive(Debug)]
pub(crate) struct Index {
    file: File,
    slots: u32,
    used: u32,
    /// Where [`Index::look_round`] goes on.
    next: u32,
    stamp: Option<Time>,
    boot: [u8; 16],
}

const MAGIC: &[u8; 8] = b"oxbridge";
const VERSION: u32 = 1;
const HEADER: usize = 64;
const SLOT: usize = 32;
const MIN_SLOTS: u32 = 64;
/// 2^26 slots are 2 GiB, more than any folder can fill.
const MAX_SLOTS: u32 = 1 << 26;
/// Slots read at once: a chain is seldom longer.
const CHUNK: u32 = 8;
/// Slots passed by one look round: 8 KiB, less than a system call costs.
const ROUND: u32 = 256;
const NO_STAMP: u32 = u32::MAX;
const NEVER: [u8; 16] = [0; 16];
const DELETED: [u8; 16] = [0xff; 16];

impl Key {
    pub(crate) fn of(owner: &Owner) -> Self {
        let digits = cni::attachment::sha512_hex(&owner.content(), 32);
        Self(u128::from_str_radix(&digits, 16).unwrap_or_default().to_be_bytes())
    }
}

impl Index {
    /// Opens an index that is whole and of this version; `None` where there is none, whatever else is there.
    pub(crate) fn open(path: &Path) -> Option<Self> {
        let file = fsutil::open_plain(path, OpenOptions::new().read(true).write(true)).ok()?;
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0).ok()?;
        let u32_at = |at: usize| u32::from_le_bytes(array(&header[at..at + 4]));
        let slots = u32_at(12);
        let sound = header[..8] == *MAGIC
            && u32_at(8) == VERSION
            && slots.is_power_of_two()
            && (MIN_SLOTS..=MAX_SLOTS).contains(&slots)
            && u32_at(16) <= slots
            && file.metadata().ok()?.len() == offset(slots);
        let stamp = (i64::from_le_bytes(array(&header[24..32])), i64::from(u32_at(32)));
        let stamp = (u32_at(32) != NO_STAMP).then_some(stamp);
        sound.then(|| Self { file, slots, used: u32_at(16), next: u32_at(20), stamp, boot: array(&header[40..56]) })
    }

    /// Writes a new index over whatever is at `path`. It has no stamp yet. `next`: where the one before it would go on
    /// looking round.
    pub(crate) fn create(
        path: &Path,
        temporary: &Path,
        entries: &[(Key, IpAddr)],
        boot: [u8; 16],
        next: u32,
    ) -> io::Result<Self> {
        // Room to double before it has to grow.
        let wanted = u32::try_from(entries.len()).unwrap_or(u32::MAX).saturating_mul(4).clamp(MIN_SLOTS, MAX_SLOTS);
        let slots = wanted.next_power_of_two();
        let mut bytes = vec![0; HEADER + slots as usize * SLOT];
        let mut used = 0;
        for (key, ip) in entries {
            let mut at = start(*key, slots);
            // At most half of the slots are taken.
            while bytes[HEADER + at as usize * SLOT..][..16] != NEVER {
                at = (at + 1) & (slots - 1);
            }
            bytes[HEADER + at as usize * SLOT..][..SLOT].copy_from_slice(&slot(*key, *ip));
            used += 1;
            if used > slots / 2 {
                return Err(io::Error::other("more reservations than the index can hold"));
            }
        }
        let file = fsutil::write_new(temporary, &[], 0o600)?;
        let index = Self { file, slots, used, next, stamp: None, boot };
        bytes[..HEADER].copy_from_slice(&index.header());
        let written = index.file.write_all_at(&bytes, 0).and_then(|()| std::fs::rename(temporary, path));
        if let Err(error) = written {
            let _ = fsutil::remove(temporary);
            return Err(error);
        }
        Ok(index)
    }

    /// Whether nobody has changed the folder since our last change. `boot`: `None` where it cannot be known.
    pub(crate) fn is_fresh(&self, folder: Time, boot: Option<[u8; 16]>) -> bool {
        self.stamp == Some(folder) && boot == Some(self.boot)
    }

    /// What this owner has, if the index is fresh.
    pub(crate) fn find(&self, key: Key) -> io::Result<Vec<IpAddr>> {
        let mut found = Vec::new();
        self.probe(key, |_, held, ip| {
            if held == key.0 {
                found.push(ip);
            }
            held == NEVER
        })?;
        Ok(found)
    }

    pub(crate) fn insert(&mut self, key: Key, ip: IpAddr) -> io::Result<()> {
        if self.used >= self.slots / 2 {
            return Err(io::Error::other("the index is full"));
        }
        let mut place = None;
        self.probe(key, |at, held, _| {
            if held == NEVER || held == DELETED {
                place = Some((at, held == NEVER));
            }
            place.is_some()
        })?;
        let (at, unused) = place.ok_or_else(|| io::Error::other("the index has no free slot"))?;
        self.used += u32::from(unused);
        self.file.write_all_at(&slot(key, ip), offset(at))
    }

    pub(crate) fn remove(&mut self, key: Key, ip: IpAddr) -> io::Result<()> {
        let mut place = None;
        self.probe(key, |at, held, held_ip| {
            if held == key.0 && held_ip == ip {
                place = Some(at);
            }
            place.is_some() || held == NEVER
        })?;
        place.map_or(Ok(()), |at| self.file.write_all_at(&DELETED, offset(at)))
    }

    /// Whether it has to be built anew, larger or without its deleted slots, before `more` entries are added.
    pub(crate) fn is_crowded(&self, more: u32) -> bool {
        self.used.saturating_add(more) >= self.slots / 2
    }

    /// The entries behind those of the last look round, at most `wanted`: whoever goes on asking sees all of them, each
    /// once, before the first comes again.
    ///
    /// The place is kept by [`Index::set_stamp`].
    pub(crate) fn look_round(&mut self, wanted: usize) -> io::Result<Vec<IpAddr>> {
        let first = self.next & (self.slots - 1);
        let mut bytes = vec![0; ROUND.min(self.slots - first) as usize * SLOT];
        self.file.read_exact_at(&mut bytes, offset(first))?;
        let mut found = Vec::with_capacity(wanted);
        let mut at = first;
        for slot in bytes.chunks_exact(SLOT) {
            if found.len() == wanted {
                break;
            }
            at += 1;
            if slot[..16] != NEVER && slot[..16] != DELETED {
                found.push(unmapped(array(&slot[16..])));
            }
        }
        self.next = at & (self.slots - 1);
        Ok(found)
    }

    /// See [`Index::create`].
    pub(crate) fn next(&self) -> u32 {
        self.next
    }

    /// Everything in it.
    pub(crate) fn entries(&self) -> io::Result<Vec<(Key, IpAddr)>> {
        let mut bytes = vec![0; self.slots as usize * SLOT];
        self.file.read_exact_at(&mut bytes, offset(0))?;
        let slots = bytes.chunks_exact(SLOT).map(|slot| (array::<16>(&slot[..16]), array::<16>(&slot[16..])));
        Ok(slots
            .filter(|(key, _)| *key != NEVER && *key != DELETED)
            .map(|(key, ip)| (Key(key), unmapped(ip)))
            .collect())
    }

    /// Says that the folder's modification time is now `stamp`; `None`: that it cannot be relied on.
    pub(crate) fn set_stamp(&mut self, stamp: Option<Time>) -> io::Result<()> {
        self.stamp = stamp;
        self.file.write_all_at(&self.header(), 0)
    }

    fn header(&self) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[..8].copy_from_slice(MAGIC);
        let (seconds, nanoseconds) = self.stamp.unwrap_or_default();
        let nanoseconds = if self.stamp.is_some() { u32::try_from(nanoseconds).unwrap_or(NO_STAMP) } else { NO_STAMP };
        for (at, number) in [(8, VERSION), (12, self.slots), (16, self.used), (20, self.next), (32, nanoseconds)] {
            header[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
        header[24..32].copy_from_slice(&seconds.to_le_bytes());
        header[40..56].copy_from_slice(&self.boot);
        header
    }

    /// Shows the slots of a key's chain (number, key, address) to `done` until it says so, each slot at most once.
    fn probe(&self, key: Key, mut done: impl FnMut(u32, [u8; 16], IpAddr) -> bool) -> io::Result<()> {
        let mut at = start(key, self.slots);
        let mut left = self.slots;
        let mut bytes = [0; CHUNK as usize * SLOT];
        while left > 0 {
            let count = CHUNK.min(self.slots - at).min(left);
            let chunk = &mut bytes[..count as usize * SLOT];
            self.file.read_exact_at(chunk, offset(at))?;
            for (number, slot) in (at..).zip(chunk.chunks_exact(SLOT)) {
                if done(number, array(&slot[..16]), unmapped(array(&slot[16..]))) {
                    return Ok(());
                }
            }
            at = (at + count) & (self.slots - 1);
            left -= count;
        }
        Ok(())
    }
}

/// Where the chain of a key begins: the keys are hashes, any four bytes will do.
fn start(key: Key, slots: u32) -> u32 {
    u32::from_le_bytes(array(&key.0[..4])) & (slots - 1)
}

fn offset(slot: u32) -> u64 {
    (HEADER + slot as usize * SLOT) as u64
}

fn slot(key: Key, ip: IpAddr) -> [u8; SLOT] {
    let ip = match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut slot = [0; SLOT];
    slot[..16].copy_from_slice(&key.0);
    slot[16..].copy_from_slice(&ip.octets());
    slot
}

fn unmapped(octets: [u8; 16]) -> IpAddr {
    let ip = Ipv6Addr::from(octets);
    ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4)
}

/// The first `N` bytes; zeros where there are fewer, which no caller asks for.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.first_chunk().copied().unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    fn key(n: u8) -> Key {
        Key::of(&Owner::new(&format!("c{n}"), "eth0"))
    }

    fn ip(n: u8) -> IpAddr {
        if n.is_multiple_of(2) { IpAddr::from([10, 0, 0, n]) } else { IpAddr::V6(Ipv6Addr::from(u128::from(n))) }
    }

    fn new(dir: &Path) -> Index {
        Index::create(&dir.join("index"), &dir.join("new"), &[], [7; 16], 0).unwrap()
    }

    #[test]
    fn survives_closing_and_knows_its_stamp_and_boot() {
        let dir = tempfile::tempdir().unwrap();
        let mut index = new(dir.path());
        index.insert(key(1), ip(1)).unwrap();
        index.insert(key(1), ip(2)).unwrap();
        assert!(!Index::open(&dir.path().join("index")).unwrap().is_fresh((5, 6), Some([7; 16])));
        index.set_stamp(Some((5, 6))).unwrap();
        let index = Index::open(&dir.path().join("index")).unwrap();
        assert!(index.is_fresh((5, 6), Some([7; 16])));
        assert!(!index.is_fresh((5, 7), Some([7; 16])));
        assert!(!index.is_fresh((5, 6), Some([8; 16])));
        assert!(!index.is_fresh((5, 6), None));
        assert_eq!(index.find(key(1)).unwrap(), [ip(1), ip(2)]);
        assert!(!dir.path().join("new").exists());
    }

    #[test]
    fn what_is_no_index_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        drop(new(dir.path()));
        let good = fs::read(&path).unwrap();
        assert!(Index::open(&path).is_some());
        type Damage = fn(&mut Vec<u8>);
        let cases: [(&str, Damage); 7] = [
            ("empty", Vec::clear),
            ("cut off", |b| b.truncate(100)),
            ("too long", |b| b.push(0)),
            ("magic", |b| b[0] = b'x'),
            ("version", |b| b[8] = 9),
            ("slots", |b| b[12] = 63),
            ("in use", |b| b[16..20].copy_from_slice(&[255; 4])),
        ];
        for (name, damage) in cases {
            let mut bytes = good.clone();
            damage(&mut bytes);
            fs::write(&path, bytes).unwrap();
            assert!(Index::open(&path).is_none(), "{name}");
        }
    }

    #[test]
    fn a_table_without_an_empty_slot_ends_the_search() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        drop(new(dir.path()));
        let mut bytes = fs::read(&path).unwrap();
        bytes[HEADER..].fill(0xff);
        fs::write(&path, bytes).unwrap();
        let mut index = Index::open(&path).unwrap();
        assert_eq!(index.find(key(1)).unwrap(), Vec::<IpAddr>::new());
        index.remove(key(1), ip(1)).unwrap();
        index.insert(key(1), ip(1)).unwrap();
        assert_eq!(index.find(key(1)).unwrap(), [ip(1)]);
    }

    #[test]
    fn a_look_round_sees_everything_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let entries: Vec<_> = (0..200).map(|n| (key(n), IpAddr::from([10, 0, 1, n]))).collect();
        for next in [0, 7, 1023, u32::MAX] {
            let mut index = Index::create(&path, &dir.path().join("new"), &entries, [7; 16], next).unwrap();
            assert_eq!(index.slots, 1024);
            let (mut seen, mut rounds) = (Vec::new(), 0);
            while seen.len() < entries.len() {
                let found = index.look_round(2).unwrap();
                assert!(found.len() <= 2);
                seen.extend(found);
                rounds += 1;
                // Each call reads the place from the file.
                index.set_stamp(None).unwrap();
                index = Index::open(&path).unwrap();
            }
            assert!(rounds <= 200 / 2 + 1024 / ROUND + 1, "{rounds}");
            seen.truncate(entries.len());
            seen.sort();
            assert_eq!(seen, entries.iter().map(|(_, ip)| *ip).collect::<Vec<_>>(), "from {next}");
        }
    }

    proptest! {
        #[test]
        fn answers_as_a_set_does(steps in prop::collection::vec((any::<bool>(), 0u8..40, 0u8..4), 0..150)) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("index");
            let mut index = new(dir.path());
            let mut model = BTreeSet::new();
            for (add, n, which) in steps {
                if index.is_crowded(1) {
                    let entries = index.entries().unwrap();
                    index = Index::create(&path, &dir.path().join("new"), &entries, [7; 16], 0).unwrap();
                }
                if add && model.insert((n, which)) {
                    index.insert(key(n), ip(which)).unwrap();
                } else if !add && model.remove(&(n, which)) {
                    index.remove(key(n), ip(which)).unwrap();
                }
                let mut found = index.find(key(n)).unwrap();
                found.sort();
                let mut expected: Vec<IpAddr> = model.iter().filter(|(m, _)| *m == n).map(|(_, w)| ip(*w)).collect();
                expected.sort();
                prop_assert_eq!(found, expected);
            }
            prop_assert_eq!(index.entries().unwrap().len(), model.len());
        }
    }
}
