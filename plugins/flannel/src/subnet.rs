//! `subnet.env`: what flanneld says of the node's lease, as lines of `KEY=value`.
//!
//! flanneld puts the file there whole, by renaming. Others (scripts, images that bring their own) write it in place,
//! so that a part of it may be read: a key that is still missing, or a last line without its end.
//!
//! The fuzz target compiles this file on its own; its tests are in `tests.rs`.

use std::fmt;

use cni::Cidr;

/// The node's lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SubnetEnv {
    /// What pods of all nodes have their addresses from: IPv4's networks in the file's order, then IPv6's.
    pub(crate) networks: Vec<Cidr>,
    /// What pods of this node have theirs from, IPv4's first; without host bits.
    pub(crate) subnets: Vec<Cidr>,
    /// MTU in bytes that leaves room for the encapsulation.
    pub(crate) mtu: u32,
    /// Whether flanneld masquerades what leaves the networks, so that the delegate need not.
    pub(crate) masquerades: bool,
}

/// Why a file's contents are not a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Problem {
    /// Not all is there, or the last line may have been cut: somebody may still be writing.
    Unfinished(String),
    /// A value that is none, on a whole line.
    Invalid(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Unfinished(text) | Self::Invalid(text)) = self;
        f.write_str(text)
    }
}

/// What the lines have said so far.
#[derive(Default)]
struct Lines {
    networks_v4: Vec<Cidr>,
    networks_v6: Vec<Cidr>,
    subnet_v4: Option<Cidr>,
    subnet_v6: Option<Cidr>,
    mtu: Option<u32>,
    masquerades: Option<bool>,
}

impl SubnetEnv {
    /// Reads the contents of a file. Unknown keys are ignored, the last of equal keys counts, and a key without a value
    /// is as if it were not there.
    pub(crate) fn parse(contents: &[u8]) -> Result<Self, Problem> {
        let text = String::from_utf8_lossy(contents);
        let mut lines = Lines::default();
        for line in text.split_inclusive('\n') {
            let whole = line.ends_with('\n');
            lines.read(line.trim(), whole).map_err(|problem| {
                let text = format!("{:?}: {problem}", line.trim());
                if whole { Problem::Invalid(text) } else { Problem::Unfinished(format!("{text}, the line has no end")) }
            })?;
        }
        lines.finish()
    }
}

impl Lines {
    /// Takes one line in; the error is what is wrong with its value.
    fn read(&mut self, line: &str, whole: bool) -> Result<(), String> {
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        if value.is_empty() {
            return Ok(());
        }
        match key {
            "FLANNEL_NETWORK" => self.networks_v4 = networks(value)?,
            "FLANNEL_IPV6_NETWORK" => self.networks_v6 = networks(value)?,
            "FLANNEL_SUBNET" => self.subnet_v4 = Some(network(value)?),
            "FLANNEL_IPV6_SUBNET" => self.subnet_v6 = Some(network(value)?),
            "FLANNEL_MTU" => self.mtu = Some(number(value)?),
            // Whatever is not true is false, as with the reference; but "tr" may yet become so.
            "FLANNEL_IPMASQ" if !whole && !matches!(value, "true" | "false") => return Err("not true or false".into()),
            "FLANNEL_IPMASQ" => self.masquerades = Some(value == "true"),
            _ => {}
        }
        Ok(())
    }

    fn finish(self) -> Result<SubnetEnv, Problem> {
        let mut missing = Vec::new();
        if self.networks_v4.is_empty() && self.networks_v6.is_empty() {
            missing.extend(["FLANNEL_NETWORK", "FLANNEL_IPV6_NETWORK"]);
        }
        if self.subnet_v4.is_none() && self.subnet_v6.is_none() {
            missing.extend(["FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET"]);
        }
        missing.extend(self.mtu.is_none().then_some("FLANNEL_MTU"));
        missing.extend(self.masquerades.is_none().then_some("FLANNEL_IPMASQ"));
        let (Some(mtu), Some(masquerades), []) = (self.mtu, self.masquerades, missing.as_slice()) else {
            return Err(Problem::Unfinished(format!("is missing {}", missing.join(", "))));
        };
        Ok(SubnetEnv {
            networks: [self.networks_v4, self.networks_v6].concat(),
            subnets: [self.subnet_v4, self.subnet_v6].into_iter().flatten().collect(),
            mtu,
            masquerades,
        })
    }
}

/// A list of networks, each once.
fn networks(value: &str) -> Result<Vec<Cidr>, String> {
    let mut networks = Vec::new();
    for part in value.split(',') {
        let network = network(part)?;
        if !networks.contains(&network) {
            networks.push(network);
        }
    }
    Ok(networks)
}

fn network(value: &str) -> Result<Cidr, String> {
    value.trim().parse::<Cidr>().map(|cidr| cidr.network()).map_err(|e| e.to_string())
}

/// Digits only: std would take a sign.
fn number(value: &str) -> Result<u32, String> {
    let digits = value.bytes().all(|b| b.is_ascii_digit());
    value.parse().ok().filter(|_| digits).ok_or_else(|| "not a number of bytes".to_owned())
}
