//! User namespaces, as programs make them that run containers without root: root inside, an ordinary user outside.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    os::{fd::AsRawFd, unix::process::CommandExt},
    process::{self, Command, Stdio},
};

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

use crate::{NetNs, skip};

/// Who is root inside: a user that no machine knows.
const USER: u32 = 54_321;

/// Whether files that the calling thread makes belong to the root inside, or to that of the machine: with that one's, a
/// file system from inside has nothing to do.
pub fn own_files(inside: bool) {
    let id = if inside { USER } else { 0 };
    setfsgid(Gid::from_raw(id));
    setfsuid(Uid::from_raw(id));
}

/// Which users there are inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Users {
    /// Root alone, as by `unshare --map-root-user`.
    Root,
    /// All that a file system may know, as podman and nerdctl have them from `/etc/subuid`.
    Many,
}

impl Users {
    /// The text of `/proc/<pid>/uid_map`: first inside, first outside, how many.
    fn map(self) -> String {
        match self {
            Self::Root => format!("0 {USER} 1"),
            Self::Many => format!("0 {USER} 1\n1 1000000 65536"),
        }
    }
}

/// A user namespace; it ends with this value, or with the last of what is in it.
pub struct UserNs {
    file: File,
}

impl UserNs {
    /// A new one, with a network namespace and mounts of its own. Skips the test where users may not make any.
    pub fn new(users: Users) -> (Self, NetNs, File) {
        let mut maker = Command::new("unshare")
            .args(["--user", "--net", "--mount", "sh", "-c", "echo; read _"])
            .uid(USER)
            .gid(USER)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut made = String::new();
        BufReader::new(maker.stdout.take().unwrap()).read_line(&mut made).unwrap();
        if made.is_empty() {
            let mut reason = String::new();
            maker.stderr.take().unwrap().read_to_string(&mut reason).unwrap();
            maker.wait().unwrap();
            skip(format!("users may not make user namespaces here: {}", reason.trim()));
        }
        let of_maker = |name: &str| format!("/proc/{}/{name}", maker.id());
        let open = |kind: &str| File::open(of_maker(&format!("ns/{kind}"))).unwrap();
        let (file, net, mounts) = (open("user"), open("net"), open("mnt"));
        if users == Users::Root {
            // Else a user could leave a group that keeps it from something: see user_namespaces(7).
            fs::write(of_maker("setgroups"), "deny").unwrap();
        }
        for map in ["uid_map", "gid_map"] {
            fs::write(of_maker(map), users.map()).unwrap();
        }
        // It reads to the end.
        drop(maker.stdin.take());
        maker.wait().unwrap();
        (Self { file }, NetNs::of(net), mounts)
    }

    /// The words before a command that is to be run by root inside; the other namespaces stay those of the caller.
    pub fn wrapper(&self) -> Vec<String> {
        let file = format!("--user=/proc/{}/fd/{}", process::id(), self.file.as_raw_fd());
        ["nsenter", &file, "--"].map(str::to_owned).into()
    }
}
