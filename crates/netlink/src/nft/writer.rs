//! Who changes the ruleset: the kernel tells it with every commit.

use std::fmt;

use super::uapi::*;
use crate::wire::{Attrs, Message, u32_be};

const NFGENMSG_LEN: usize = 4;
const NFTA_GEN_PROC_PID: u16 = 2;
const NFTA_GEN_PROC_NAME: u16 = 3;

/// A process that has committed a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writer {
    /// Its process id, as the machine's first namespace of processes counts.
    pub pid: u32,
    /// Its short name.
    pub name: String,
}

impl Writer {
    /// From the message that ends the notifications of a commit.
    pub(crate) fn read(message: &Message<'_>) -> Option<Self> {
        let attrs = (message.kind == SUBSYS | NFT_MSG_NEWGEN).then(|| Attrs::behind(message.body, NFGENMSG_LEN))?;
        Some(Self { pid: attrs.find(NFTA_GEN_PROC_PID).and_then(u32_be)?, name: attrs.string(NFTA_GEN_PROC_NAME)? })
    }
}

impl fmt::Display for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}
