//! Our record of an attachment: what the reservation file has no room for.
//!
//! `<dataDir>/.oxbridge/<network>/<32 hex digits of the attachment's identity>`, JSON, mode 0600. A record never makes a
//! reservation; it speaks for one only while the reservation file is the very one that was made with it. Other suites
//! free addresses and reserve them anew without touching our records.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use host::alive::Process;
use host::fsutil::{self, is_missing};
use host::netns::own_cookie;
use plugin::liveness::Trace;
use serde::{Deserialize, Serialize};

use super::reservation::FileStamp;

/// An attachment with its addresses, and where and when it was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    pub(crate) container_id: String,
    pub(crate) ifname: String,
    pub(crate) addresses: Vec<Recorded>,
    /// Seconds since 1970, by the clock of that moment.
    pub(crate) time: u64,
    /// Kernel's id of the boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) boot_id: Option<String>,
    /// CNI_NETNS as it was given.
    #[serde(default)]
    pub(crate) netns: String,
    /// The kernel's number of that namespace, unique in one boot (SO_NETNS_COOKIE).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) netns_cookie: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pod: Option<Pod>,
    /// The interface plugin that asked, where it is one of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) plugin: Option<String>,
    /// The kernel's number of the network namespace that is the host's for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) host_cookie: Option<u64>,
    /// The process of that plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) caller: Option<Caller>,
}

/// A process, told from later ones of its number: see [`Process`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Caller {
    pid: u32,
    start: u64,
    namespace: u64,
}

/// One address of an attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Recorded {
    pub(crate) ip: IpAddr,
    /// The reservation file that this is about, and no later one of that name.
    #[serde(flatten)]
    pub(crate) stamp: FileStamp,
    /// Number of the range set it was taken from.
    #[serde(rename = "rangeSet")]
    pub(crate) set: usize,
}

/// The pod, as Kubernetes' runtimes name it in CNI_ARGS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// Far more than a record needs: a file beyond it is none.
const MAX_LENGTH: u64 = 1 << 16;

impl Record {
    /// Reads a record; one that cannot be read or understood counts as none.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        Self::look(path).ok().flatten()
    }

    /// Reads a record, if there is one that can be understood. Error: the system's, by which nothing is known of it.
    pub(crate) fn look(path: &Path) -> io::Result<Option<Self>> {
        let file = match fsutil::open_plain(path, OpenOptions::new().read(true)) {
            Err(error) if is_missing(&error) => return Ok(None),
            file => file?,
        };
        let mut text = Vec::with_capacity(512);
        file.take(MAX_LENGTH).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text).ok())
    }

    pub(crate) fn write(&self, path: &Path, temporary: &Path) -> io::Result<()> {
        fsutil::replace(path, temporary, &serde_json::to_vec(self)?, 0o600)
    }

    /// Whether it speaks for this reservation.
    pub(crate) fn counts_for(&self, ip: IpAddr, stamp: FileStamp) -> bool {
        self.addresses.iter().any(|a| a.ip == ip && a.stamp == stamp)
    }

    /// By the present clock; `None`: made in the future, before a clock was set back.
    pub(crate) fn age(&self) -> Option<Duration> {
        SystemTime::now().duration_since(self.trace().made_at).ok()
    }

    /// What it tells of where and when it was made.
    pub(crate) fn trace(&self) -> Trace<'_> {
        let since_epoch = Duration::from_secs(self.time);
        Trace {
            netns: &self.netns,
            netns_cookie: self.netns_cookie,
            boot_id: self.boot_id.as_deref(),
            made_at: SystemTime::UNIX_EPOCH.checked_add(since_epoch).unwrap_or(SystemTime::UNIX_EPOCH),
            by_bridge: self.plugin.as_deref() == Some("bridge") && self.host_cookie == here(),
            maker: self.caller.map(|Caller { pid, start, namespace }| Process { pid, start, namespace }),
        }
    }
}

impl Caller {
    /// The process of this number, if it is there.
    pub(crate) fn look(pid: u32) -> Option<Self> {
        Process::look(pid).map(|Process { pid, start, namespace }| Self { pid, start, namespace })
    }
}

/// The kernel's number of this process' namespace; `None` before Linux 5.14.
pub(crate) fn here() -> Option<u64> {
    static HERE: OnceLock<Option<u64>> = OnceLock::new();
    *HERE.get_or_init(own_cookie)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;

    use super::*;

    pub(crate) fn record() -> Record {
        let stamp = FileStamp { inode: 42, mtime: (1_700_000_000, 123_456_789) };
        Record {
            container_id: "c1".to_owned(),
            ifname: "eth0".to_owned(),
            addresses: vec![Recorded { ip: "10.0.0.2".parse().unwrap(), stamp, set: 0 }],
            time: 1_700_000_000,
            boot_id: Some("0f0e".to_owned()),
            netns: "/run/netns/x".to_owned(),
            netns_cookie: Some(4098),
            pod: Some(Pod { namespace: "default".to_owned(), name: "web-0".to_owned() }),
            plugin: Some("bridge".to_owned()),
            host_cookie: here(),
            caller: Caller::look(std::process::id()),
        }
    }

    #[test]
    fn written_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let (path, new) = (dir.path().join("r"), dir.path().join("new"));
        record().write(&path, &new).unwrap();
        assert_eq!(Record::read(&path), Some(record()));
        let stamp = record().addresses[0].stamp;
        assert!(record().counts_for("10.0.0.2".parse().unwrap(), stamp));
        assert!(!record().counts_for("10.0.0.3".parse().unwrap(), stamp));
        assert!(!record().counts_for("10.0.0.2".parse().unwrap(), FileStamp { inode: 43, ..stamp }));
    }

    #[test]
    fn anything_else_is_no_record() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r");
        assert_eq!(Record::read(&path), None);
        for text in ["", "{}", "[]", "{\"containerId\":1}", "\u{0}\u{0}"] {
            fs::write(&path, text).unwrap();
            assert_eq!(Record::read(&path), None, "{text}");
        }
    }
}
