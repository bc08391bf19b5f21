//! What is in iptables' table `filter`, in whichever of its two places: nf_tables, where it is read and changed without
//! a program, or x_tables ("legacy"), where only iptables' own programs can.

use std::net::IpAddr;

use cni::Error;
use netlink::nft::{Expression, Family, Nft, Offset, Rule, Verdict};
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
    /// Where it sends every packet; `None` if it has conditions, or is no jump.
    pub(crate) jump: Option<String>,
    /// The comment of the attachment that it is for, if it is one of ours.
    pub(crate) owner: Option<String>,
    /// The address that it lets in exactly as a rule of the reference does, which tells nobody whose it is.
    pub(crate) anonymous: Option<IpAddr>,
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

    /// Whether a rule of the chain sends every packet to the target.
    pub(crate) fn jumps(&self, chain: &str, target: &str) -> bool {
        self.rules(chain).any(|e| e.jump.as_deref() == Some(target))
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
    let steps = rule.steps();
    let is_comment = |step: &&Expression| matches!(step, Expression::Match { name, .. } if name == "comment");
    let has_comment = rule.comment.is_some() || steps.iter().any(|step| is_comment(&step));
    let jump = match steps.iter().filter(|step| !is_comment(step)).collect::<Vec<_>>()[..] {
        [Expression::Counter, Expression::Verdict(Verdict::Jump(chain))] => Some(chain.clone()),
        _ => None,
    };
    Entry {
        chain: rule.chain.clone(),
        jump,
        anonymous: if has_comment { None } else { let_in_by(&steps) },
        owner: comment.or_else(|| owner_in(&rule.expressions)),
        values: rule.compared_values(),
        handle: Handle::Number(rule.handle),
    }
}

/// The address that these steps, and no others, let in: what iptables makes of the reference's two rules.
fn let_in_by(steps: &[Expression]) -> Option<IpAddr> {
    let [Expression::Packet(part), Expression::Equals(value), conditions @ ..] = steps else { return None };
    let is_destination = match conditions {
        [Expression::Counter, Expression::Verdict(Verdict::Accept)] => false,
        [state, Expression::Counter, Expression::Verdict(Verdict::Accept)] if is_related_or_established(state) => true,
        _ => return None,
    };
    let address = crate::pods::address(value)?;
    let expected = match (address, is_destination) {
        (IpAddr::V4(_), false) => Offset::IP_SOURCE,
        (IpAddr::V4(_), true) => Offset::IP_DESTINATION,
        (IpAddr::V6(_), false) => Offset::IP6_SOURCE,
        (IpAddr::V6(_), true) => Offset::IP6_DESTINATION,
    };
    (*part == expected).then_some(address)
}

/// `-m conntrack --ctstate RELATED,ESTABLISHED`, as `struct xt_conntrack_mtinfo3` has it: all is zero but
/// `match_flags` with `XT_CONNTRACK_STATE`, and `state_mask` with `XT_CONNTRACK_STATE_BIT` of the two.
fn is_related_or_established(step: &Expression) -> bool {
    const MATCH_FLAGS: usize = 146;
    const STATE_MASK: usize = 150;
    const STATE: u16 = 1;
    const RELATED_ESTABLISHED: u16 = 0b110;
    let Expression::Match { name, revision: 3, data } = step else { return false };
    let mut expected = vec![0; data.len()];
    for (at, value) in [(MATCH_FLAGS, STATE), (STATE_MASK, RELATED_ESTABLISHED)] {
        let Some(field) = expected.get_mut(at..at + 2) else { return false };
        field.copy_from_slice(&value.to_ne_bytes());
    }
    name == "conntrack" && *data == expected
}

fn entry_of_line(line: &str) -> Option<Entry> {
    let words = words(line);
    let [append, chain, rest @ ..] = &words[..] else { return None };
    if append != "-A" {
        return None;
    }
    let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
    let after = |option: &str| rest.iter().position(|w| *w == option).and_then(|at| rest.get(at + 1)).copied();
    let comment = after("--comment");
    let address = |option| Some(bytes(after(option)?.split('/').next()?.parse::<IpAddr>().ok()?));
    let names = ["-i", "-o"].into_iter().filter_map(|option| Some(after(option)?.as_bytes().to_vec()));
    let anonymous = match rest[..] {
        ["-d", address, "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT"]
        | ["-s", address, "-j", "ACCEPT"] => host(address),
        _ => None,
    };
    let jump = match rest[..] {
        ["-j", target] | ["-m", "comment", "--comment", _, "-j", target] => Some(target.to_owned()),
        _ => None,
    };
    Some(Entry {
        chain: chain.clone(),
        jump,
        owner: comment.filter(|c| owner_at(c.as_bytes(), 0).is_some()).map(ToOwned::to_owned),
        anonymous,
        values: ["-s", "-d"].into_iter().filter_map(address).chain(names).collect(),
        handle: Handle::Line(line.to_owned()),
    })
}

/// The words of a line of `iptables-save`, which quotes what has a space in it, and escapes quotes.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut is_quoted) = (Vec::new(), String::new(), false);
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => is_quoted = !is_quoted,
            '\\' => word.extend(characters.next()),
            ' ' if !is_quoted => words.push(std::mem::take(&mut word)),
            other => word.push(other),
        }
    }
    words.push(word);
    words
}

/// The address of a network of one.
fn host(network: &str) -> Option<IpAddr> {
    let (address, length) = network.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    (length == if address.is_ipv4() { "32" } else { "128" }).then_some(address)
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
    use proptest::prelude::*;

    use super::*;

    /// Parts of the lines that are looked for.
    const WORDS: [&str; 18] = [
        "-A CNI-FORWARD ",
        "-s 10.0.0.2/32 ",
        "-d fd00::2/128 ",
        "-d /",
        "-j ACCEPT",
        "-j",
        "-i eth0 ",
        "\n",
        "\"",
        "\\",
        " ",
        "-m comment --comment ",
        "0123456789abcdef0123456789abcdef ",
        "-m conntrack --ctstate RELATED,ESTABLISHED ",
        "\0",
        ":CNI-FORWARD - [0:0]",
        "*filter",
        "é",
    ];

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
        assert!(ours.is_about("10.0.0.2".parse().unwrap()) && ours.anonymous.is_none());
        assert_eq!(reference.anonymous, "10.0.0.3".parse().ok());
        assert_eq!(v6.anonymous, "fd00::3".parse().ok());
        assert!(!table.rules("FORWARD").any(|entry| entry.anonymous.is_some()));
    }

    #[test]
    fn what_only_looks_like_one_of_the_rules_is_none() {
        let table = Table::of_text(
            "-A FORWARD -i nosuch -j CNI-FORWARD\n\
             -A FORWARD -m comment --comment \"a -j CNI-FORWARD \\\" b\" -j OTHER\n\
             -A FORWARD -g CNI-ADMIN\n\
             -A CNI-FORWARD ! -s 10.0.0.2/32 -j ACCEPT\n\
             -A CNI-FORWARD -s 10.0.0.0/24 -j ACCEPT\n\
             -A CNI-FORWARD -s 10.0.0.2/32 -p tcp -j ACCEPT\n\
             -A CNI-FORWARD -d 10.0.0.2/32 -m conntrack --ctstate NEW -j ACCEPT\n\
             -A CNI-FORWARD -s 10.0.0.2/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n",
        );
        for (target, jumps) in [("CNI-FORWARD", false), ("CNI-ADMIN", false), ("OTHER", true)] {
            assert_eq!(table.jumps("FORWARD", target), jumps, "{target}");
        }
        assert_eq!(table.rules("CNI-FORWARD").filter_map(|entry| entry.anonymous).count(), 0);
    }

    #[test]
    fn owners_are_found_in_what_only_iptables_can_read() {
        let mut blob = b"\x01\x02comment\0\0\0".to_vec();
        blob.extend(b"0123456789abcdef0123456789abcdef n c eth0\0\0\0");
        assert_eq!(owner_in(&blob).as_deref(), Some("0123456789abcdef0123456789abcdef n c eth0"));
        assert_eq!(owner_in(b"0123456789abcdef0123456789abcdeX n"), None);
        assert_eq!(owner_in(b""), None);
    }

    proptest! {
        /// The fuzz target `nftables` reads the rules themselves; here is what only this plugin looks for in them.
        #[test]
        fn anything_can_stand_in_others_rules(
            expressions in prop::collection::vec(any::<u8>(), 0..200),
            words in prop::collection::vec(prop::sample::select(WORDS.to_vec()), 0..40),
            bytes in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let text = format!("{}{}", words.concat(), String::from_utf8_lossy(&bytes));
            let table = Table::of_text(&text);
            prop_assert!(table.entries.len() <= text.lines().count());
            let rule = Rule { chain: "c".to_owned(), handle: 1, comment: Some(text), expressions };
            prop_assert_eq!(entry_of_rule(&rule).handle, Handle::Number(1));
        }
    }
}
