//! What a link was before it was tuned, kept for DEL.
//!
//! `<dataDir>/<container id>_<interface>.json` is the reference's, to the byte: it restores what we tuned, and we what it
//! tuned. Beside it, in `<dataDir>/.oxbridge/`, stands a record of ours under the same name, of what the file does not
//! tell: whose it is (GC goes by network), and which link it is of. An interface that was made anew under the old name
//! must not get the values of its predecessor. It is no key of the file, because others compare that, and no part of
//! it: what the reference's second ADD overwrites with tuned values, the record still has.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cni::{Attachment, decode};
use host::fsutil::{self, is_missing};
use host::netns::NetNs;
use plugin::liveness::Trace;
use serde::{Deserialize, Serialize};

use crate::attributes::Attributes;

/// Our own folder below the one of the backups.
const OWN: &str = ".oxbridge";
const SUFFIX: &str = ".json";
/// Of a file that is being written.
const UNFINISHED: &str = "new";
/// No ADD takes as long to write a file.
const ABANDONED: Duration = Duration::from_secs(3600);

/// The backups of a `dataDir`.
#[derive(Debug)]
pub(crate) struct Store {
    folder: PathBuf,
}

/// What is known of an attachment's link before it was tuned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    network: String,
    #[serde(rename = "containerID")]
    container_id: String,
    ifname: String,
    /// `CNI_NETNS`.
    netns: String,
    #[serde(flatten)]
    link: LinkId,
    originals: Attributes,
    /// Seconds since 1970, by the clock of that moment.
    #[serde(default)]
    time: u64,
    /// The kernel's number of the host's namespace, if our `bridge`'s end of the pair was in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bridge_netns_cookie: Option<u64>,
}

/// A link that no other is taken for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LinkId {
    ifindex: u32,
    /// Of its namespace; indices are unique in one only. `None` before Linux 5.14, or where there was no descriptor left
    /// to ask by.
    netns_cookie: Option<u64>,
    /// Cookies are unique in one boot only.
    boot_id: Option<String>,
}

impl LinkId {
    /// The link of this index in the namespace.
    pub(crate) fn new(netns: &NetNs, ifindex: u32) -> Self {
        Self { ifindex, netns_cookie: netns.cookie(), boot_id: host::boot::id() }
    }
}

impl Record {
    /// Of now. `bridge_netns_cookie` is that of the host's namespace, if our `bridge`'s end of the pair is in it.
    pub(crate) fn new(
        attachment: &Attachment,
        netns: &str,
        link: LinkId,
        originals: Attributes,
        bridge_netns_cookie: Option<u64>,
    ) -> Self {
        let Attachment { network, container_id, ifname } = attachment.clone();
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let netns = netns.to_owned();
        Self { network, container_id, ifname, netns, link, originals, time, bridge_netns_cookie }
    }

    /// What it tells of where and when it was made, to one in the network namespace of this cookie: what became of links
    /// can only be seen where they were.
    pub(crate) fn trace(&self, here: Option<u64>) -> Trace<'_> {
        Trace {
            netns: &self.netns,
            netns_cookie: self.link.netns_cookie,
            boot_id: self.link.boot_id.as_deref(),
            made_at: UNIX_EPOCH.checked_add(Duration::from_secs(self.time)).unwrap_or(UNIX_EPOCH),
            by_bridge: here.is_some() && self.bridge_netns_cookie == here,
            // bridge has answered before tuning is called.
            maker: None,
        }
    }

    /// Whose it is.
    pub(crate) fn attachment(&self) -> Attachment {
        Attachment {
            network: self.network.clone(),
            container_id: self.container_id.clone(),
            ifname: self.ifname.clone(),
        }
    }

    /// The namespace's path at ADD.
    pub(crate) fn netns(&self) -> &str {
        &self.netns
    }

    /// Whether it is of this link. What one of the two does not know tells them no more apart than the attachment does,
    /// which is the same.
    pub(crate) fn is_of(&self, link: &LinkId) -> bool {
        fn agree<T: PartialEq>(one: Option<&T>, other: Option<&T>) -> bool {
            one.zip(other).is_none_or(|(one, other)| one == other)
        }
        self.link.ifindex == link.ifindex
            && agree(self.link.netns_cookie.as_ref(), link.netns_cookie.as_ref())
            && agree(self.link.boot_id.as_ref(), link.boot_id.as_ref())
    }
}

/// What is found under an attachment's name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    record: Option<Record>,
    backup: Option<Attributes>,
    /// Files that say nothing, and why.
    pub(crate) undecodable: Vec<String>,
}

impl Found {
    /// Whether nothing is kept.
    pub(crate) fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Whether it belongs to another attachment: of another network, or one whose names make the same file name. The
    /// record alone does, if the reference has written the backup since.
    pub(crate) fn is_anothers(&self, attachment: &Attachment) -> bool {
        self.others_record(attachment).is_some_and(|record| !self.is_backup_newer(record))
    }

    /// The record, if it is another attachment's.
    pub(crate) fn others_record(&self, attachment: &Attachment) -> Option<&Record> {
        self.record.as_ref().filter(|record| record.attachment() != *attachment)
    }

    /// Whether the reference has written since, which keeps no record.
    fn is_backup_newer(&self, record: &Record) -> bool {
        self.backup.as_ref().is_some_and(|backup| *backup != record.originals)
    }

    /// What the link was before any of our calls, if that is known.
    pub(crate) fn of_earlier_add(&self, link: &LinkId) -> Option<&Attributes> {
        self.record.as_ref().filter(|record| record.is_of(link)).map(|record| &record.originals)
    }

    /// What the link is to be restored to.
    pub(crate) fn originals(&self, link: &LinkId) -> Option<&Attributes> {
        let Some(record) = &self.record else { return self.backup.as_ref() };
        // Of another link; unless the backup is not its.
        let newer = || self.backup.as_ref().filter(|_| self.is_backup_newer(record));
        self.of_earlier_add(link).or_else(newer)
    }
}

impl Store {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Looks for what is kept of an attachment.
    pub(crate) fn find(&self, attachment: &Attachment) -> Found {
        let mut found = Found::default();
        let [backup, record] = self.files(attachment);
        match fsutil::read_small(&backup) {
            // As leniently as Go reads it.
            Ok(json) => match decode::from_slice(&json) {
                Ok(attributes) => found.backup = Some(attributes),
                Err(error) => found.undecodable.push(format!("{}: {error}", backup.display())),
            },
            Err(error) if is_missing(&error) => {}
            Err(error) => found.undecodable.push(format!("{}: {error}", backup.display())),
        }
        match read_record(&record) {
            Ok(record) => found.record = Some(record),
            Err(error) if is_missing(&error) => {}
            Err(error) => found.undecodable.push(format!("{}: {error}", record.display())),
        }
        found
    }

    /// Keeps the record, and its originals for the reference. Each file is there whole or not at all.
    pub(crate) fn save(&self, record: &Record) -> io::Result<()> {
        let [backup, own] = self.files(&record.attachment());
        fsutil::make_dirs(&self.folder.join(OWN), 0o700)?;
        let temporary = own.with_extension(UNFINISHED);
        fsutil::replace(&own, &temporary, &serde_json::to_vec(record)?, 0o600)?;
        fsutil::replace(&backup, &temporary, &indented(&record.originals)?, 0o600)
    }

    /// Removes what is kept of an attachment; nothing there is a success.
    pub(crate) fn remove(&self, attachment: &Attachment) -> io::Result<()> {
        let [backup, record] = self.files(attachment);
        // The record last: without it nobody would know whose the backup is.
        [backup, record.with_extension(UNFINISHED), record].iter().try_for_each(|file| remove(file))
    }

    /// Removes a record and its backup, if they still are what they were. Returns whether it did.
    pub(crate) fn remove_if_unchanged(&self, record: &Record) -> io::Result<bool> {
        let attachment = record.attachment();
        let found = self.find(&attachment);
        let is_unchanged = found.record.as_ref() == Some(record) && !found.is_backup_newer(record);
        if is_unchanged {
            self.remove(&attachment)?;
        }
        Ok(is_unchanged)
    }

    /// Whether there may be any records.
    pub(crate) fn keeps_records(&self) -> bool {
        self.folder.join(OWN).is_dir()
    }

    /// Removes the backup of an attachment beside which another's record stands.
    pub(crate) fn remove_backup(&self, attachment: &Attachment) -> io::Result<()> {
        remove(&self.files(attachment)[0])
    }

    /// Removes what killed ADDs were writing, of whichever network: the file may not tell yet.
    pub(crate) fn remove_abandoned(&self) -> io::Result<()> {
        let entries = fs::read_dir(self.folder.join(OWN)).into_iter().flatten().flatten();
        let is_abandoned = |path: &PathBuf| {
            let age = fs::symlink_metadata(path).and_then(|m| m.modified()).ok().and_then(|time| time.elapsed().ok());
            path.extension().is_some_and(|e| e == UNFINISHED) && age.is_some_and(|age| age > ABANDONED)
        };
        entries.map(|entry| entry.path()).filter(is_abandoned).try_for_each(|path| remove(&path))
    }

    /// The contents of both files, to be put back by [`Store::put_back`].
    pub(crate) fn snapshot(&self, attachment: &Attachment) -> [Option<Vec<u8>>; 2] {
        self.files(attachment).map(|file| fs::read(file).ok())
    }

    /// Makes both files what they were.
    pub(crate) fn put_back(&self, attachment: &Attachment, before: &[Option<Vec<u8>>; 2]) -> io::Result<()> {
        let files = self.files(attachment);
        let temporary = files[1].with_extension(UNFINISHED);
        for (file, contents) in files.iter().zip(before) {
            match contents {
                Some(contents) => fsutil::replace(file, &temporary, contents, 0o600)?,
                None => remove(file)?,
            }
        }
        Ok(())
    }

    /// All records; what is none is passed over.
    pub(crate) fn records(&self) -> io::Result<Vec<Record>> {
        let entries = match fs::read_dir(self.folder.join(OWN)) {
            Err(error) if is_missing(&error) => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut records = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if let Ok(record) = read_record(&path)
                // Nobody else's file is to be removed in its name.
                && self.files(&record.attachment())[1] == path
            {
                records.push(record);
            }
        }
        Ok(records)
    }

    /// The folder of the backups.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The reference's file and our own.
    fn files(&self, attachment: &Attachment) -> [PathBuf; 2] {
        let name = format!("{}_{}{SUFFIX}", attachment.container_id, attachment.ifname);
        [self.folder.join(&name), self.folder.join(OWN).join(&name)]
    }
}

fn read_record(path: &Path) -> io::Result<Record> {
    Ok(serde_json::from_slice(&fsutil::read_small(path)?)?)
}

fn remove(file: &Path) -> io::Result<()> {
    match fsutil::remove(file) {
        Err(error) => Err(io::Error::new(error.kind(), format!("{}: {error}", file.display()))),
        Ok(_) => Ok(()),
    }
}

/// As Go's `json.MarshalIndent(…, "", " ")` writes it.
fn indented(attributes: &Attributes) -> io::Result<Vec<u8>> {
    let mut json = Vec::new();
    let format = serde_json::ser::PrettyFormatter::with_indent(b" ");
    attributes.serialize(&mut serde_json::Serializer::with_formatter(&mut json, format))?;
    Ok(json)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment() -> Attachment {
        Attachment { network: "net".into(), container_id: "c1".into(), ifname: "eth0".into() }
    }

    fn attributes() -> Attributes {
        Attributes {
            mac: Some([0xfa, 0xe6, 0xb9, 0xa8, 0xc7, 0xc0]),
            promiscuous: Some(false),
            mtu: Some(1500),
            all_multicast: Some(false),
            tx_queue_len: Some(1000),
        }
    }

    fn link(ifindex: u32) -> LinkId {
        LinkId { ifindex, netns_cookie: Some(7), boot_id: Some("b".into()) }
    }

    fn record(link: LinkId, originals: Attributes) -> Record {
        Record::new(&attachment(), "/ns", link, originals, Some(1))
    }

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().join("a/tuning"));
        (dir, store)
    }

    #[test]
    fn the_file_is_the_references_to_the_byte() {
        let (_dir, store) = store();
        store.save(&record(link(2), attributes())).unwrap();
        let text = fs::read_to_string(store.folder().join("c1_eth0.json")).unwrap();
        assert_eq!(
            text,
            "{\n \"mac\": \"fa:e6:b9:a8:c7:c0\",\n \"promisc\": false,\n \"mtu\": 1500,\n \"allmulti\": false,\n \"txQLen\": 1000\n}"
        );
        let some = Attributes { mtu: Some(1500), ..Attributes::default() };
        store.save(&record(link(2), some)).unwrap();
        assert_eq!(fs::read_to_string(store.folder().join("c1_eth0.json")).unwrap(), "{\n \"mtu\": 1500\n}");
        assert_eq!(fs::read_dir(store.folder().join(OWN)).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn a_record_is_of_one_link() {
        let (_dir, store) = store();
        assert!(store.find(&attachment()).is_nothing());
        store.save(&record(link(2), attributes())).unwrap();
        let found = store.find(&attachment());
        assert_eq!(found.originals(&link(2)), Some(&attributes()));
        assert_eq!(found.originals(&link(3)), None);
        assert_eq!(found.originals(&LinkId { netns_cookie: Some(8), ..link(2) }), None);
        assert_eq!(found.originals(&LinkId { boot_id: Some("c".into()), ..link(2) }), None);
        assert!(!found.is_anothers(&attachment()));
        assert!(found.is_anothers(&Attachment { network: "other".into(), ..attachment() }));
        store.remove(&attachment()).unwrap();
        store.remove(&attachment()).unwrap();
        assert!(store.find(&attachment()).is_nothing());
    }

    #[test]
    fn what_the_reference_wrote_counts_where_no_record_is_of_the_link() {
        let (_dir, store) = store();
        fs::create_dir_all(store.folder()).unwrap();
        let file = store.folder().join("c1_eth0.json");
        fs::write(&file, "{\n \"MTU\": 1400, \"other\": 1\n}").unwrap();
        let theirs = Attributes { mtu: Some(1400), ..Attributes::default() };
        assert_eq!(store.find(&attachment()).originals(&link(9)), Some(&theirs));
        assert_eq!(store.find(&attachment()).of_earlier_add(&link(9)), None);
        store.save(&record(link(2), attributes())).unwrap();
        fs::write(&file, "{\n \"mtu\": 1400\n}").unwrap();
        let found = store.find(&attachment());
        assert_eq!(found.originals(&link(2)), Some(&attributes()));
        assert_eq!(found.originals(&link(3)), Some(&theirs));
    }

    #[test]
    fn garbage_is_told_and_removed() {
        let (_dir, store) = store();
        fs::create_dir_all(store.folder().join(OWN)).unwrap();
        for (file, garbage) in
            [("c1_eth0.json", "{"), (".oxbridge/c1_eth0.json", "[1]"), ("c1_eth0.json", "{\"mtu\":\"x\"}")]
        {
            fs::write(store.folder().join(file), garbage).unwrap();
            let found = store.find(&attachment());
            assert!(found.undecodable.iter().any(|text| text.contains(file)), "{found:?}");
            assert_eq!(found.originals(&link(2)), None);
        }
        store.remove(&attachment()).unwrap();
        assert!(store.find(&attachment()).is_nothing());
        // A folder that is none.
        let store = Store::new(store.folder().join("file"));
        fs::write(store.folder(), "").unwrap();
        assert!(store.find(&attachment()).is_nothing());
        store.remove(&attachment()).unwrap();
        assert!(store.records().unwrap().is_empty());
    }

    #[test]
    fn both_files_can_be_put_back() {
        let (_dir, store) = store();
        let nothing = store.snapshot(&attachment());
        store.save(&record(link(2), attributes())).unwrap();
        let saved = store.snapshot(&attachment());
        store.save(&record(link(3), Attributes::default())).unwrap();
        store.put_back(&attachment(), &saved).unwrap();
        assert_eq!(store.find(&attachment()).originals(&link(2)), Some(&attributes()));
        assert_eq!(store.records().unwrap().len(), 1);
        store.put_back(&attachment(), &nothing).unwrap();
        assert!(store.find(&attachment()).is_nothing());
    }

    #[test]
    fn what_became_something_else_is_not_removed() {
        let (_dir, store) = store();
        let judged = record(link(2), attributes());
        assert!(!store.remove_if_unchanged(&judged).unwrap());
        store.save(&record(link(3), attributes())).unwrap();
        assert!(!store.remove_if_unchanged(&judged).unwrap(), "of another link");
        store.save(&judged).unwrap();
        fs::write(store.folder().join("c1_eth0.json"), "{\n \"mtu\": 1400\n}").unwrap();
        assert!(!store.remove_if_unchanged(&judged).unwrap(), "the reference has written since");
        store.save(&judged).unwrap();
        assert!(store.remove_if_unchanged(&judged).unwrap());
        assert!(store.find(&attachment()).is_nothing());
    }

    #[test]
    fn a_record_tells_of_links_only_where_they_were() {
        let record = record(link(2), attributes());
        assert!(record.trace(Some(1)).by_bridge && !record.trace(Some(2)).by_bridge && !record.trace(None).by_bridge);
        let unknown = Record { bridge_netns_cookie: None, ..record };
        assert!(!unknown.trace(None).by_bridge && !unknown.trace(Some(1)).by_bridge);
        // One of before there were times.
        let json = serde_json::to_string(&unknown).unwrap().replace(&format!(",\"time\":{}", unknown.time), "");
        assert!(!json.contains("time"), "{json}");
        assert_eq!(serde_json::from_str::<Record>(&json).unwrap().time, 0);
    }
}
