//! What is in iptables' table `filter`, in whichever of its two places: nf_tables, where it is read and changed without
//! a program, or x_tables ("legacy"), where only iptables' own programs can.

use std::net::IpAddr;

use cni::Error;
use netlink::nft::{Family, Nft, Rule};
use ruleset::bytes;

/// The table.
pub(crate) const TABLE: &str = "filter";
/// The chain of what is forwarded.
pub(crate) const FORWARD: &str = "FORWARD";
/// Digits of an identity.
const IDENTITY: usize = 32;

/// Where iptables keeps its rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// As `ip filter` and `ip6 filter` of nf_tables.
    NfTables,
    /// In x_tables.
    Xtables,
}

/// The parts of the table that this plugin and the reference's know, of one family in one place.
#[derive(Debug, Default)]
pub(crate) struct Table {
    chains: Vec<String>,
    entries: Vec<Entry>,
}

/// A rule.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Its chain.
    pub(crate) chain: String,
    /// What it jumps to.
    pub(crate) target: Option<String>,
    /// The comment of the attachment that it is for, if it is one of ours.
    pub(crate) owner: Option<String>,
    /// Whether it looks as the reference's rules for pods do, which tell nobody whose they are.
    pub(crate) is_anonymous: bool,
    /// What it compares with: addresses and names.
    values: Vec<Vec<u8>>,
    /// How to delete it.
    pub(crate) handle: Handle,
}

/// What a rule is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Handle {
    /// The kernel's number of it.
    Number(u64),
    /// Its line as `iptables-save` writes it, beginning with `-A`.
    Line(String),
}

impl Table {
    /// Reads the rules of the chains named.
    pub(crate) fn read(nft: &mut Nft, family: Family, place: Place, chains: &[&str]) -> Result<Self, Error> {
        match place {
            Place::NfTables => Self::of_nf_tables(nft, family, chains)
                .map_err(|e| Error::internal(format!("failed to read the rules of {family} {TABLE}: {e}"))),
            Place::Xtables => Ok(Self::of_text(&ruleset::iptables::save(family, TABLE)?.unwrap_or_default())),
        }
    }

    pub(super) fn of_nf_tables(nft: &mut Nft, family: Family, chains: &[&str]) -> netlink::Result<Self> {
        let mut table = Self::default();
        for chain in chains {
            match nft.has_chain(family, TABLE, chain) {
                Ok(true) => {
                    table.chains.push((*chain).to_owned());
                    table.entries.extend(nft.rules(family, TABLE, Some(chain))?.iter().map(entry_of_rule));
                }
                Err(error) if !ruleset::is_unsupported(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(table)
    }

    pub(super) fn of_text(saved: &str) -> Self {
        let name = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
        Self {
            chains: saved.lines().filter_map(|line| line.strip_prefix(':')).map(name).collect(),
            entries: saved.lines().filter_map(entry_of_line).collect(),
        }
    }

    /// Whether there is such a chain.
    pub(crate) fn has(&self, chain: &str) -> bool {
        self.chains.iter().any(|c| c == chain)
    }

    /// Whether a rule of the chain jumps to the target.
    pub(crate) fn jumps(&self, chain: &str, target: &str) -> bool {
        self.entries.iter().any(|e| e.chain == chain && e.target.as_deref() == Some(target))
    }

    /// The rules of a chain.
    pub(crate) fn rules(&self, chain: &str) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |e| e.chain == chain)
    }
}

impl Entry {
    /// Whether it is about this address.
    pub(crate) fn is_about(&self, address: IpAddr) -> bool {
        self.values.contains(&bytes(address))
    }

    /// Whether it is about a link of this name.
    pub(crate) fn is_about_link(&self, name: &str) -> bool {
        self.values.iter().any(|value| value.split(|byte| *byte == 0).next() == Some(name.as_bytes()))
    }
}

fn entry_of_rule(rule: &Rule) -> Entry {
    let comment = rule.comment.clone().filter(|c| owner_at(c.as_bytes(), 0).is_some());
    let owner = comment.or_else(|| owner_in(&rule.expressions));
    let values = rule.compared_values();
    let has_comment = rule.comment.is_some() || contains(&rule.expressions, b"comment\0");
    Entry {
        chain: rule.chain.clone(),
        target: rule.target(),
        is_anonymous: !has_comment && values.len() == 1 && rule.expressions.ends_with(&accept()),
        owner,
        values,
        handle: Handle::Number(rule.handle),
    }
}

fn entry_of_line(line: &str) -> Option<Entry> {
    let words: Vec<&str> = line.split(' ').collect();
    let after = |option: &str| words.iter().position(|w| *w == option).and_then(|at| words.get(at + 1)).copied();
    let comment = line.split_once("--comment ").map(|(_, rest)| match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next().unwrap_or_default(),
        None => rest.split(' ').next().unwrap_or_default(),
    });
    let address = |option| Some(bytes(after(option)?.split('/').next()?.parse::<IpAddr>().ok()?));
    let chain = line.strip_prefix("-A ")?.split(' ').next()?;
    let rest = words.get(4..).unwrap_or_default().join(" ");
    let is_as_the_references = match words.get(2) {
        Some(&"-d") => rest == "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        Some(&"-s") => rest == "-j ACCEPT",
        _ => false,
    };
    let names = ["-i", "-o"].into_iter().filter_map(|option| Some(after(option)?.as_bytes().to_vec()));
    Some(Entry {
        chain: chain.to_owned(),
        target: after("-j").or_else(|| after("-g")).map(ToOwned::to_owned),
        owner: comment.filter(|c| owner_at(c.as_bytes(), 0).is_some()).map(ToOwned::to_owned),
        is_anonymous: is_as_the_references,
        values: ["-s", "-d"].into_iter().filter_map(address).chain(names).collect(),
        handle: Handle::Line(line.to_owned()),
    })
}

/// How the expressions of a rule end that accepts: `NFTA_VERDICT_CODE`, 8 bytes with its header, and `NF_ACCEPT`.
fn accept() -> [u8; 8] {
    let ([a, b], [c, d]) = (8_u16.to_ne_bytes(), 1_u16.to_ne_bytes());
    [a, b, c, d, 0, 0, 0, 1]
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// The comment of an attachment, wherever it is in a rule's expressions: iptables has its comments in a match of
/// their own, whose inside only iptables knows.
fn owner_in(expressions: &[u8]) -> Option<String> {
    (0..expressions.len()).find_map(|at| owner_at(expressions, at))
}

/// The comment that begins here, if it is one of an attachment.
fn owner_at(bytes: &[u8], at: usize) -> Option<String> {
    let rest = bytes.get(at..)?;
    let identity = rest.get(..IDENTITY)?;
    let is_hex = identity.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !is_hex || rest.get(IDENTITY) != Some(&b' ') {
        return None;
    }
    let end = rest.iter().position(|b| *b == 0).unwrap_or(rest.len());
    Some(String::from_utf8_lossy(rest.get(..end)?).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = "*filter\n:FORWARD DROP [0:0]\n:CNI-FORWARD - [0:0]\n\
        -A FORWARD -m comment --comment \"CNI firewall plugin rules\" -j CNI-FORWARD\n\
        -A CNI-FORWARD -d 10.0.0.2/32 -m comment --comment \"0123456789abcdef0123456789abcdef n c eth0\" -m conntrack --ctstate DNAT -j ACCEPT\n\
        -A CNI-FORWARD -d 10.0.0.3/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
        -A CNI-FORWARD -s fd00::3/128 -j ACCEPT\nCOMMIT\n";

    #[test]
    fn what_iptables_save_says_is_understood() {
        let table = Table::of_text(SAVED);
        assert!(table.has("CNI-FORWARD") && !table.has("CNI-ADMIN"));
        assert!(table.jumps("FORWARD", "CNI-FORWARD") && !table.jumps("FORWARD", "CNI-ADMIN"));
        let [ours, reference, v6] = table.rules("CNI-FORWARD").collect::<Vec<_>>()[..] else { panic!() };
        assert_eq!(ours.owner.as_deref(), Some("0123456789abcdef0123456789abcdef n c eth0"));
        assert!(ours.is_about("10.0.0.2".parse().unwrap()) && !ours.is_anonymous);
        assert!(reference.is_about("10.0.0.3".parse().unwrap()) && reference.is_anonymous);
        assert!(v6.is_about("fd00::3".parse().unwrap()) && v6.is_anonymous);
        assert!(!table.rules("FORWARD").any(|entry| entry.is_anonymous));
    }

    #[test]
    fn owners_are_found_in_what_only_iptables_can_read() {
        let mut blob = b"\x01\x02comment\0\0\0".to_vec();
        blob.extend(b"0123456789abcdef0123456789abcdef n c eth0\0\0\0");
        assert_eq!(owner_in(&blob).as_deref(), Some("0123456789abcdef0123456789abcdef n c eth0"));
        assert_eq!(owner_in(b"0123456789abcdef0123456789abcdeX n"), None);
        assert_eq!(owner_in(b""), None);
    }
}
