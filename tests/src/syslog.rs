//! The log of a host: what plugins tell it, where else the machine's own would hear them.

use std::{
    fs,
    os::unix::{fs::symlink, net::UnixDatagram},
};

use crate::{Host, Place, host::SCRATCH};

/// Of the machine's devices, those that programs need.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "fd"];

/// A log daemon without a daemon: lines wait in its socket until they are read.
pub struct Syslog(UnixDatagram);

impl Syslog {
    /// Listens on the host's `/dev/log`.
    pub fn of(host: &Host) -> Self {
        let machines = format!("{SCRATCH}/machines-dev");
        host.run(&format!("mkdir -p {machines}"));
        host.run(&format!("mount --bind /dev {machines}"));
        host.run("mount -t tmpfs tmpfs /dev");
        host.enter(|| {
            for device in DEVICES {
                symlink(format!("{machines}/{device}"), format!("/dev/{device}")).unwrap();
            }
            _ = fs::remove_file("/dev/log");
            let socket = UnixDatagram::bind("/dev/log").unwrap();
            socket.set_nonblocking(true).unwrap();
            Self(socket)
        })
    }

    /// What was said since it was last asked.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut line = [0; 4096];
        while let Ok(length) = self.0.recv(&mut line) {
            lines.push(String::from_utf8_lossy(&line[..length]).into_owned());
        }
        lines
    }
}
