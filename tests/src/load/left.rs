//! What is left on the host at the end, and whose fault that is.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::Books;
use crate::{Host, Place};

/// Rules that nobody can know any more.
const WITHOUT_OWNER: &str = "rules of the reference's firewall, which have no owner: DEL came without prevResult";
/// What the reference cannot know of; GC removes it.
const BY_REFERENCE: &str = "what ours made for a pod that the reference has detached";

/// The lines of a difference between two snapshots.
#[derive(Debug, Default)]
pub struct Left {
    /// What the reference leaves, and how many lines of it.
    pub known: BTreeMap<&'static str, usize>,
    /// Everything else.
    pub unknown: Vec<String>,
}

impl Left {
    /// Sorts the lines.
    pub fn new(host: &Host, books: &Books, diff: &str) -> Self {
        let detached = |id: &str| books.was_detached_by_reference(id);
        let lines: Vec<&str> = diff.lines().collect();
        let of_reference = |line: &str| words(line).any(detached);
        // Elements and files that are named by an identity alone.
        let identities: BTreeSet<String> =
            lines.iter().filter(|line| of_reference(line)).flat_map(|line| words(line)).map(str::to_owned).collect();
        let mut left = Self::default();
        for line in lines {
            let content = line.strip_prefix("+ file ").map(|rest| rest.split(": ").next().unwrap_or(rest));
            let content = content.and_then(|path| host.read(path)).unwrap_or_default();
            let is_ours = of_reference(line) || of_reference(&content) || has_identity(line, &identities);
            let why = if line.starts_with('-') {
                None
            } else if line.contains("CNI-FORWARD") && addresses(line).any(|ip| books.is_forgotten(ip)) {
                Some(WITHOUT_OWNER)
            } else {
                is_ours.then_some(BY_REFERENCE)
            };
            match why {
                Some(why) => *left.known.entry(why).or_default() += 1,
                None => left.unknown.push(line.to_owned()),
            }
        }
        left
    }

    /// Without what GC has to remove.
    #[must_use]
    pub fn after_gc(mut self) -> Self {
        if let Some(lines) = self.known.remove(BY_REFERENCE) {
            self.unknown.push(format!("{lines} lines of {BY_REFERENCE}"));
        }
        self
    }
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
}

fn addresses(line: &str) -> impl Iterator<Item = IpAddr> {
    let is_of_address = |c: char| c.is_ascii_hexdigit() || c == '.' || c == ':';
    line.split(move |c| !is_of_address(c)).filter_map(|word| word.parse().ok())
}

/// Whether the line's key is one of the identities, as `nft` shows it: in groups of four digits, without leading zeros.
fn has_identity(line: &str, identities: &BTreeSet<String>) -> bool {
    line.split('"').filter(|word| word.matches(':').count() == 7).any(|key| {
        let digits: String = key.split(':').map(|group| format!("{group:0>4}")).collect();
        identities.contains(&digits)
    })
}
