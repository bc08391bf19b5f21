//! What the running kernel lacks: tests of what it lacks, and tests that cannot be run without it.

use std::{sync::OnceLock, thread};

use crate::{NetNs, Place};

/// A part that kernels may be built or booted without, or whose module may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// nf_tables of the families ip and ip6.
    NfTables,
    /// IPv6 (`ipv6.disable=1`).
    Ipv6,
    /// Links of the kind ifb.
    Ifb,
    /// The queueing discipline tbf.
    Tbf,
}

/// All of them.
const PARTS: [Part; 4] = [Part::NfTables, Part::Ipv6, Part::Ifb, Part::Tbf];

impl Part {
    /// Whether it works here: it is tried, once.
    pub fn works(self) -> bool {
        static FOUND: [OnceLock<bool>; PARTS.len()] = [const { OnceLock::new() }; PARTS.len()];
        *FOUND[self as usize].get_or_init(|| {
            let try_it = move || {
                let ns = NetNs::new();
                match self {
                    Self::NfTables => ns.try_run("nft add table ip probe").is_ok(),
                    Self::Ipv6 => ns.read("/proc/sys/net/ipv6/conf/all/forwarding").is_some(),
                    Self::Ifb => ns.try_run("ip link add probe type ifb").is_ok(),
                    Self::Tbf => ns.try_run("tc qdisc add dev lo root tbf rate 1mbit burst 10kb latency 10ms").is_ok(),
                }
            };
            // A test may have moved its thread.
            thread::spawn(try_it).join().unwrap()
        })
    }

    /// What a failure says that comes of its absence.
    fn signs(self) -> &'static [&'static str] {
        match self {
            Self::NfTables => &["nf_tables", "`nft ", "nft:"],
            Self::Ipv6 => &[],
            Self::Ifb => &["modprobe ifb"],
            Self::Tbf => &["modprobe sch_tbf"],
        }
    }
}

/// Why a test that failed so could not be run on this kernel; nothing if the kernel has all that the failure speaks of.
pub fn excuse(failure: &str) -> Option<String> {
    let line_of = |part: &Part| failure.lines().find(|line| part.signs().iter().any(|sign| line.contains(sign)));
    let (part, line) = PARTS.iter().find_map(|part| Some((part, line_of(part)?)).filter(|_| !part.works()))?;
    Some(format!("this kernel lacks {part:?}, and so: {}", line.trim()))
}
