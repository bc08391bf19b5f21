//! What is kept of an attachment while it lives: the delegate's config, so that later verbs ask the delegate about what
//! ADD made even when the lease or the config has changed.
//!
//! Ours is `<dataDir>/.oxbridge/<network>/<container id>:<interface>`; a colon can be in none of the three. The
//! reference's is `<dataDir>/<container id>`, one for all attachments of a container. It is read where ours is missing
//! (the pod is older than our suite), and written as well: should the operator go back to the reference, its DEL needs
//! it. It is the first attachment's of the container: one that is another network's or another attachment's is left alone,
//! and nobody takes it for that of an attachment beside one of which we have a file. No fsync: after a power loss no pod lives, and what was lost is
//! built anew from the lease.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cni::{Attachment, Call, Error, ValidAttachment};
use host::fsutil;

use crate::plan::Delegate;

/// Whoever reads a config of a delegate may read secrets in it.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;
/// Begins the name of a file that is being written; no container id begins so.
const TEMPORARY: &str = ".new-";

/// The files of one network.
#[derive(Debug)]
pub(crate) struct Scratch {
    data_dir: PathBuf,
    network: String,
}

/// The files as they were before a call.
#[derive(Debug, Default)]
pub(crate) struct Before {
    own: Option<Vec<u8>>,
    references: Option<Vec<u8>>,
}

/// What was found of an attachment.
#[derive(Debug, PartialEq)]
pub(crate) enum Kept {
    /// Its delegate.
    Delegate(Delegate),
    /// A file that is cut off or no config at all.
    Unreadable(PathBuf),
    /// Nothing.
    Nothing,
}

impl Scratch {
    pub(crate) fn new(call: &Call, data_dir: PathBuf) -> Self {
        Self { data_dir, network: call.network.clone() }
    }

    /// The file of an attachment.
    pub(crate) fn path(&self, attachment: &Attachment) -> PathBuf {
        self.folder().join(format!("{}:{}", attachment.container_id, attachment.ifname))
    }

    /// What was kept of it.
    pub(crate) fn read(&self, attachment: &Attachment) -> Kept {
        let mut found = Kept::Nothing;
        // With another attachment there, it is not known whose the reference's file is.
        let references = self.sibling(attachment).is_none().then(|| self.references_path(attachment));
        for path in [self.path(attachment)].into_iter().chain(references) {
            let contents = match fsutil::read_small(&path) {
                Err(error) if fsutil::is_missing(&error) => continue,
                contents => contents.unwrap_or_default(),
            };
            match Delegate::from_json(&contents, &self.network) {
                Some(delegate) => return Kept::Delegate(delegate),
                None if self.is_foreign(&contents) => {}
                None => found = Kept::Unreadable(path),
            }
        }
        found
    }

    /// Keeps the delegate's config. Returns what [`restore`](Self::restore) needs; nothing has changed if it fails.
    pub(crate) fn write(&self, attachment: &Attachment, delegate: &Delegate) -> Result<Before, Error> {
        let before = Before {
            own: fs::read(self.path(attachment)).ok(),
            references: fs::read(self.references_path(attachment)).ok(),
        };
        let json = delegate.to_json();
        let write = || {
            fsutil::make_dirs(&self.folder(), FOLDER_MODE)?;
            self.replace(attachment, &self.path(attachment), &json)?;
            if before.references == before.own || !self.is_used(before.references.as_deref()) {
                self.replace(attachment, &self.references_path(attachment), &json)?;
            }
            Ok(())
        };
        write().map_err(|error: io::Error| {
            if let Err(error) = self.restore(attachment, &before) {
                host::syslog::warn("flannel", format_args!("undoing: {error}"));
            }
            Error::internal(format!(
                "failed to save the delegate's config {}: {error}",
                self.path(attachment).display()
            ))
            .with_details("the file system may be full or read-only; dataDir of flannel's config names another folder")
        })?;
        Ok(before)
    }

    /// Puts the files back as they were.
    pub(crate) fn restore(&self, attachment: &Attachment, before: &Before) -> io::Result<()> {
        let files = [(self.path(attachment), &before.own), (self.references_path(attachment), &before.references)];
        let put_back = |(path, contents): (PathBuf, &Option<Vec<u8>>)| match contents {
            Some(contents) if fs::read(&path).ok().as_ref() == Some(contents) => Ok(()),
            Some(contents) => self.replace(attachment, &path, contents),
            None => fsutil::remove(&path).map(drop),
        };
        files.into_iter().map(put_back).fold(Ok(()), io::Result::and)
    }

    /// Forgets the attachment. The reference's file becomes that of an attachment that the container still has in this
    /// network, and goes with the last one.
    pub(crate) fn remove(&self, attachment: &Attachment) -> Result<(), Error> {
        let own = fs::read(self.path(attachment)).ok();
        // Of an ADD that was killed; nobody looks for what is in it.
        let _ = fs::remove_file(self.temporary(attachment));
        let path = self.references_path(attachment);
        let references = fs::read(&path);
        remove(&self.path(attachment))?;
        match (references, self.sibling(attachment)) {
            (Err(error), _) if fsutil::is_missing(&error) => Ok(()),
            (Ok(contents), _) if self.is_foreign(&contents) => Ok(()),
            (Ok(contents), Some(sibling)) if Some(&contents) == own.as_ref() => {
                let written = fs::read(self.path(&sibling)).and_then(|json| self.replace(attachment, &path, &json));
                if let Err(error) = written {
                    host::syslog::warn("flannel", format_args!("failed to write {}: {error}", path.display()));
                }
                Ok(())
            }
            (_, Some(_)) => Ok(()),
            (_, None) => remove(&path),
        }
    }

    /// Another attachment of the container of which we have a file.
    fn sibling(&self, attachment: &Attachment) -> Option<Attachment> {
        self.attachments().find(|a| a.container_id == attachment.container_id && a.ifname != attachment.ifname)
    }

    /// The attachments of which we have a file.
    pub(crate) fn attachments(&self) -> impl Iterator<Item = Attachment> {
        names(&self.folder()).into_iter().filter_map(|name| {
            let (container_id, ifname) = name.split_once(':')?;
            Some(Attachment {
                network: self.network.clone(),
                container_id: container_id.to_owned(),
                ifname: ifname.to_owned(),
            })
        })
    }

    /// Removes what no attachment will ask for: the reference's files of this network's containers that are not
    /// alive, and what a killed ADD was writing for one that is not.
    pub(crate) fn remove_leftovers(&self, alive: &[ValidAttachment]) -> Vec<Error> {
        // Those of ours that are still there could not be taken back.
        let kept: Vec<Attachment> = self.attachments().collect();
        let is_alive =
            |id: &str| alive.iter().any(|a| a.container_id == id) || kept.iter().any(|kept| kept.container_id == id);
        let containers = names(&self.data_dir).into_iter().filter(|name| !name.starts_with('.') && !is_alive(name));
        let references = containers.map(|name| self.data_dir.join(name)).filter(|path| {
            let contents = fs::read(path).unwrap_or_default();
            Delegate::from_json(&contents, &self.network).is_some()
        });
        let identities: Vec<String> = alive.iter().map(|a| self.attachment(a).identity_hex()).collect();
        let unfinished = names(&self.folder()).into_iter().filter(|name| {
            name.strip_prefix(TEMPORARY).is_some_and(|of| !identities.iter().any(|identity| identity == of))
        });
        let unfinished = unfinished.map(|name| self.folder().join(name));
        references.chain(unfinished).filter_map(|path| remove(&path).err()).collect()
    }

    /// As GC names it.
    pub(crate) fn attachment(&self, valid: &ValidAttachment) -> Attachment {
        Attachment {
            network: self.network.clone(),
            container_id: valid.container_id.clone(),
            ifname: valid.ifname.clone(),
        }
    }

    fn folder(&self) -> PathBuf {
        self.data_dir.join(".oxbridge").join(&self.network)
    }

    fn references_path(&self, attachment: &Attachment) -> PathBuf {
        self.data_dir.join(&attachment.container_id)
    }

    fn replace(&self, attachment: &Attachment, path: &Path, contents: &[u8]) -> io::Result<()> {
        fsutil::replace(path, &self.temporary(attachment), contents, FILE_MODE)
    }

    fn temporary(&self, attachment: &Attachment) -> PathBuf {
        self.folder().join(format!("{TEMPORARY}{}", attachment.identity_hex()))
    }

    /// Whether somebody may ask for a file with these contents: it is a config of a delegate, or another network's.
    fn is_used(&self, contents: Option<&[u8]>) -> bool {
        contents.is_some_and(|json| self.is_foreign(json) || Delegate::from_json(json, &self.network).is_some())
    }

    /// Whether these are the contents of another network's file.
    fn is_foreign(&self, contents: &[u8]) -> bool {
        let name = cni::decode::parse(contents).ok().and_then(|document| document.text(&["name"]).map(str::to_owned));
        name.is_some_and(|name| name != self.network)
    }
}

fn remove(path: &Path) -> Result<(), Error> {
    fsutil::remove(path)
        .map(drop)
        .map_err(|error| Error::internal(format!("failed to remove {}: {error}", path.display())))
}

/// The UTF-8 names in a folder; none where there is no folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| OsStr::to_str(&entry.file_name()).map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn attachment(id: &str, ifname: &str) -> Attachment {
        Attachment { network: "n".into(), container_id: id.into(), ifname: ifname.into() }
    }

    fn delegate(network: &str, more: &str) -> Delegate {
        let json = format!("{{\"name\":\"{network}\",\"type\":\"bridge\",\"more\":\"{more}\"}}");
        Delegate::from_json(json.as_bytes(), network).unwrap()
    }

    fn scratch(dir: &tempfile::TempDir, network: &str) -> Scratch {
        Scratch { data_dir: dir.path().join("data"), network: network.into() }
    }

    fn files(scratch: &Scratch) -> Vec<String> {
        let mut all = names(&scratch.data_dir);
        all.retain(|name| name != ".oxbridge");
        all.extend(names(&scratch.folder()));
        all.sort();
        all
    }

    #[test]
    fn attachments_of_a_container_do_not_disturb_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = scratch(&dir, "n");
        let (first, second) = (attachment("c", "eth0"), attachment("c", "net.1"));
        scratch.write(&first, &delegate("n", "1")).unwrap();
        scratch.write(&second, &delegate("n", "2")).unwrap();
        assert_eq!(files(&scratch), ["c", "c:eth0", "c:net.1"]);
        assert_eq!(scratch.read(&first), Kept::Delegate(delegate("n", "1")));
        assert_eq!(scratch.read(&second), Kept::Delegate(delegate("n", "2")));
        for (path, mode) in
            [(scratch.path(&first), 0o600), (scratch.data_dir.join("c"), 0o600), (scratch.folder(), 0o700)]
        {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, mode);
        }
        let references = || fs::read(scratch.data_dir.join("c")).unwrap();
        assert_eq!(references(), delegate("n", "1").to_json());
        scratch.write(&first, &delegate("n", "3")).unwrap();
        assert_eq!(references(), delegate("n", "3").to_json());
        scratch.remove(&first).unwrap();
        assert_eq!(files(&scratch), ["c", "c:net.1"]);
        assert_eq!(scratch.read(&first), Kept::Nothing);
        assert_eq!(references(), delegate("n", "2").to_json());
        scratch.remove(&second).unwrap();
        scratch.remove(&second).unwrap();
        assert!(files(&scratch).is_empty());
    }

    #[test]
    fn other_networks_keep_theirs() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (scratch(&dir, "n"), scratch(&dir, "m"));
        let (a, b) = (attachment("c", "eth0"), Attachment { network: "m".into(), ..attachment("c", "eth0") });
        one.write(&a, &delegate("n", "1")).unwrap();
        two.write(&b, &delegate("m", "2")).unwrap();
        assert_eq!(one.read(&a), Kept::Delegate(delegate("n", "1")));
        assert_eq!(two.read(&b), Kept::Delegate(delegate("m", "2")));
        two.remove(&b).unwrap();
        assert_eq!(two.read(&b), Kept::Nothing);
        assert_eq!(files(&one), ["c", "c:eth0"]);
    }

    #[test]
    fn the_references_file_stands_in() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = scratch(&dir, "n");
        let of = attachment("c", "eth0");
        assert_eq!(scratch.read(&of), Kept::Nothing);
        fs::create_dir(&scratch.data_dir).unwrap();
        let theirs = scratch.data_dir.join("c");
        fs::write(&theirs, delegate("n", "theirs").to_json()).unwrap();
        assert_eq!(scratch.read(&of), Kept::Delegate(delegate("n", "theirs")));
        // Ours cut off, theirs whole.
        fs::create_dir_all(scratch.folder()).unwrap();
        fs::write(scratch.path(&of), "{\"name\":\"n\",").unwrap();
        assert_eq!(scratch.read(&of), Kept::Delegate(delegate("n", "theirs")));
        fs::write(&theirs, delegate("m", "").to_json()).unwrap();
        assert_eq!(scratch.read(&of), Kept::Unreadable(scratch.path(&of)));
        fs::write(&theirs, "").unwrap();
        assert_eq!(scratch.read(&of), Kept::Unreadable(theirs));
        scratch.remove(&of).unwrap();
        assert!(files(&scratch).is_empty());
    }

    #[test]
    fn the_references_own_attachment_keeps_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = scratch(&dir, "n");
        fs::create_dir(&scratch.data_dir).unwrap();
        let theirs = delegate("n", "theirs").to_json();
        fs::write(scratch.data_dir.join("c"), &theirs).unwrap();
        scratch.write(&attachment("c", "net1"), &delegate("n", "ours")).unwrap();
        assert_eq!(fs::read(scratch.data_dir.join("c")).unwrap(), theirs);
        scratch.remove(&attachment("c", "eth0")).unwrap();
        assert_eq!(scratch.read(&attachment("c", "net1")), Kept::Delegate(delegate("n", "ours")));
    }

    #[test]
    fn of_names_that_cannot_be_there_is_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        for (folder, id) in [("file", "c".to_owned()), ("a\0b", "c".to_owned()), ("data", "c".repeat(300))] {
            let scratch = Scratch { data_dir: dir.path().join(folder), network: "n".into() };
            let of = attachment(&id, "eth0");
            assert_eq!(scratch.read(&of), Kept::Nothing, "{folder}");
            scratch.remove(&of).unwrap();
        }
    }

    #[test]
    fn what_was_there_before_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = scratch(&dir, "n");
        let of = attachment("c", "eth0");
        let before = scratch.write(&of, &delegate("n", "1")).unwrap();
        let old = scratch.write(&of, &delegate("n", "2")).unwrap();
        scratch.restore(&of, &old).unwrap();
        assert_eq!(scratch.read(&of), Kept::Delegate(delegate("n", "1")));
        scratch.restore(&of, &before).unwrap();
        assert!(files(&scratch).is_empty());
    }

    #[test]
    fn leftovers_are_those_of_this_network_that_nobody_has() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = scratch(&dir, "n");
        scratch.write(&attachment("alive", "eth0"), &delegate("n", "")).unwrap();
        let file = |name: &str, contents: &[u8]| fs::write(scratch.data_dir.join(name), contents).unwrap();
        file("gone", &delegate("n", "").to_json());
        file("other", &delegate("m", "").to_json());
        file("note", b"mine");
        for of in [attachment("alive", "eth0"), attachment("gone", "eth0")] {
            fs::write(scratch.folder().join(format!("{TEMPORARY}{}", of.identity_hex())), "").unwrap();
        }
        let alive = [ValidAttachment { container_id: "alive".into(), ifname: "eth0".into() }];
        assert!(scratch.remove_leftovers(&alive).is_empty());
        let unfinished = format!("{TEMPORARY}{}", attachment("alive", "eth0").identity_hex());
        assert_eq!(files(&scratch), [unfinished.as_str(), "alive", "alive:eth0", "note", "other"]);
    }
}
