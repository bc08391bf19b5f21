//! In which order the addresses of a range set are tried, and how the next free one is found without walking.
//!
//! The order is the reference's, so that both suites can take turns on one store: from the address after the last one
//! given, to the end of its range, on through the other ranges, round to the one before. A range's own gateway is skipped.

use std::net::IpAddr;

use crate::range::{Range, RangeSet, address, number};

/// Every address that may be given, in order: a list of runs, never of addresses.
#[derive(Debug)]
pub(crate) struct Candidates<'a> {
    runs: Vec<Run<'a>>,
    v4: bool,
}

/// Addresses of one range, `first` to `last` inclusive.
#[derive(Debug)]
struct Run<'a> {
    first: u128,
    last: u128,
    range: &'a Range,
}

impl<'a> Candidates<'a> {
    /// `cursor`: the last address given from this set; ignored where the set does not have it (any more).
    pub(crate) fn new(set: &'a RangeSet, cursor: Option<IpAddr>) -> Self {
        let ranges = set.ranges();
        let position = cursor.and_then(|ip| Some((ranges.iter().position(|r| r.contains(ip))?, number(ip))));
        let (index, given) = match position {
            // All of the last range has been gone through.
            Some((index, given)) if given == number(ranges[index].end) => ((index + 1) % ranges.len(), None),
            Some((index, given)) => (index, Some(given)),
            None => (0, None),
        };
        let whole = |range: &'a Range| Run { first: number(range.start), last: number(range.end), range };
        let mut runs = Vec::with_capacity(ranges.len() + 1);
        let (before, from) = ranges.split_at(index);
        runs.extend(from.iter().chain(before).map(whole));
        if let Some(given) = given
            && let Some(run) = runs.first_mut()
        {
            let rest = Run { first: run.first, last: given, range: run.range };
            run.first = given + 1;
            runs.push(rest);
        }
        Self { runs, v4: set.is_ipv4() }
    }

    /// The addresses one by one.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (IpAddr, &'a Range)> {
        self.runs.iter().flat_map(move |run| {
            (run.first..=run.last)
                .map(|n| address(n, self.v4))
                .filter(|ip| *ip != run.range.gateway)
                .map(|ip| (ip, run.range))
        })
    }

    /// The first address not in `occupied`, which is sorted.
    pub(crate) fn first_free(&self, occupied: &[u128]) -> Option<(IpAddr, &'a Range)> {
        self.runs.iter().find_map(|run| {
            let gateway = Some(number(run.range.gateway)).filter(|_| run.range.gateway.is_ipv4() == self.v4);
            first_gap(run.first, run.last, gateway, occupied).map(|n| (address(n, self.v4), run.range))
        })
    }
}

/// The first number from `first` to `last` that is neither `skip` nor in `occupied`, which is sorted.
///
/// Runs over the occupied ones only: O(log n) for a free start, O(n) at worst, however many numbers there are.
fn first_gap(first: u128, last: u128, skip: Option<u128>, occupied: &[u128]) -> Option<u128> {
    let mut candidate = first;
    let mut taken = occupied[occupied.partition_point(|n| *n < first)..].iter().peekable();
    loop {
        if candidate > last {
            return None;
        }
        let is_taken = taken.next_if(|n| **n == candidate).is_some();
        if !is_taken && skip != Some(candidate) {
            return Some(candidate);
        }
        // A number listed twice must not stop the walk.
        while taken.next_if(|n| **n <= candidate).is_some() {}
        candidate = candidate.checked_add(1)?;
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::range::tests::{set, text};

    /// A plain restatement of the reference's walk: one address after another, until the first comes up again.
    pub(crate) fn walk(set: &RangeSet, cursor: Option<IpAddr>) -> Vec<IpAddr> {
        let ranges = set.ranges();
        let next = |(index, ip): (usize, IpAddr)| {
            if ip == ranges[index].end {
                let index = (index + 1) % ranges.len();
                (index, ranges[index].start)
            } else {
                (index, address(number(ip) + 1, ip.is_ipv4()))
            }
        };
        let found = cursor.and_then(|ip| ranges.iter().position(|r| r.contains(ip)).map(|index| (index, ip)));
        let start = found.map_or((0, ranges[0].start), next);
        let mut order = Vec::new();
        let mut at = start;
        loop {
            if at.1 != ranges[at.0].gateway {
                order.push(at.1);
            }
            at = next(at);
            if at == start {
                return order;
            }
        }
    }

    fn listed(set: &RangeSet, cursor: &str) -> Vec<String> {
        Candidates::new(set, cursor.parse().ok()).iter().map(|(ip, _)| ip.to_string()).collect()
    }

    #[test]
    fn the_verified_order_of_the_reference() {
        let set = set(&[text("fd00:1::/126", "", "", ""), text("fd00:2::/64", "fd00:2::", "fd00:2::2", "fd00:2::1")]);
        assert_eq!(listed(&set, "")[..4], ["fd00:1::2", "fd00:1::3", "fd00:2::", "fd00:2::2"]);
        assert_eq!(listed(&set, "").len(), 4);
        assert_eq!(listed(&set, "fd00:1::3"), ["fd00:2::", "fd00:2::2", "fd00:1::2", "fd00:1::3"]);
        assert_eq!(listed(&set, "fd00:2::2"), ["fd00:1::2", "fd00:1::3", "fd00:2::", "fd00:2::2"]);
        assert_eq!(listed(&set, "fd00:9::9"), listed(&set, ""));
    }

    #[test]
    fn a_huge_range_is_not_walked() {
        let set = set(&[text("::/0", "", "", "")]);
        let occupied: Vec<u128> = (0..60_000).collect();
        assert_eq!(Candidates::new(&set, None).first_free(&occupied).unwrap().0, address(60_000, false));
        let last = address(u128::MAX, false);
        assert_eq!(Candidates::new(&set, Some(last)).first_free(&[]).unwrap().0, address(2, false));
        let before = address(u128::MAX - 1, false);
        assert_eq!(Candidates::new(&set, Some(before)).first_free(&[u128::MAX]).unwrap().0, address(2, false));
    }

    prop_compose! {
        /// One to three ranges of a small subnet each, with any bounds and gateway.
        pub(crate) fn any_set()(parts in prop::collection::vec((0u8..16, 0u8..16, 0u8..17), 1..4), v4: bool) -> RangeSet {
            let ranges: Vec<_> = parts.iter().enumerate().map(|(i, (a, b, gateway))| {
                let (start, end) = (a.min(b), a.max(b));
                let (prefix, length) = if v4 { (format!("10.{i}.0."), 28) } else { (format!("fd00:{i}::"), 124) };
                let ip = |n: &u8| if v4 { format!("{prefix}{n}") } else { format!("{prefix}{n:x}") };
                text(&format!("{}/{length}", ip(&0)), &ip(start), &ip(end), &ip(gateway))
            }).collect();
            set(&ranges)
        }
    }

    proptest! {
        #[test]
        fn order_is_the_walk_and_gaps_are_found(set in any_set(), at in prop::option::of((0usize..3, 0u128..20)), taken: Vec<prop::sample::Index>) {
            let cursor = at.map(|(i, n)| {
                let range = &set.ranges()[i % set.ranges().len()];
                address(number(range.subnet.addr()) + n, set.is_ipv4())
            });
            let walk = walk(&set, cursor);
            let candidates = Candidates::new(&set, cursor);
            prop_assert_eq!(&candidates.iter().map(|(ip, _)| ip).collect::<Vec<_>>(), &walk);
            let occupied: BTreeSet<u128> =
                if walk.is_empty() { BTreeSet::new() } else { taken.iter().map(|i| number(*i.get(&walk))).collect() };
            let expected = walk.iter().copied().find(|ip| !occupied.contains(&number(*ip)));
            let sorted: Vec<u128> = occupied.into_iter().collect();
            prop_assert_eq!(candidates.first_free(&sorted).map(|(ip, _)| ip), expected);
        }
    }
}
