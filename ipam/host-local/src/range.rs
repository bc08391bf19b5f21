//! Ranges and range sets: which addresses may be handed out, in which order a set lists them, and where two overlap.
//!
//! Arithmetic is done on `u128` for both families; an address and its number are only converted at the edges.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cni::Cidr;
use thiserror::Error;

/// Addresses of one family, `start` to `end` inclusive, all inside `subnet`; what [`RangeText::resolve`] lets through.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Range {
    pub(crate) subnet: Cidr,
    pub(crate) start: IpAddr,
    pub(crate) end: IpAddr,
    /// Never handed out by this range; may lie outside of it, or even be of the other family.
    pub(crate) gateway: IpAddr,
}

/// One address is allocated from each set: at least one range, all of one family, none overlapping another.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RangeSet(Vec<Range>);

/// A range as the config has it, each value parsed, nothing compared yet.
#[derive(Debug, Clone)]
pub(crate) struct RangeText {
    pub(crate) subnet: Cidr,
    /// The subnet was written as an IPv4-mapped IPv6 address, with a prefix length of that family.
    pub(crate) mapped: bool,
    pub(crate) start: Option<IpAddr>,
    pub(crate) end: Option<IpAddr>,
    pub(crate) gateway: Option<IpAddr>,
}

/// A range or range set that cannot work. The texts are those of the reference: operators search for them.
#[derive(Debug, Error, PartialEq)]
pub(crate) enum Error {
    #[error("empty range set")]
    EmptySet,
    #[error("Network {0} too small to allocate from")]
    TooSmall(String),
    #[error("IPNet IP and Mask version mismatch")]
    Mapped,
    #[error("Network has host bits set. For a subnet mask of length {prefix} the network address is {network}")]
    HostBits { prefix: u8, network: IpAddr },
    #[error("RangeStart {0} not in network {1}")]
    Start(IpAddr, String),
    #[error("RangeEnd {0} not in network {1}")]
    End(IpAddr, String),
    #[error("mixed address families")]
    MixedFamilies,
    #[error("subnets {0} and {1} overlap")]
    Overlap(String, String),
}

impl RangeText {
    /// Checks the range and fills in what was left out: the network's first address as gateway and start, its last
    /// (less the broadcast address of IPv4) as end.
    pub(crate) fn resolve(&self) -> Result<Range, Error> {
        let subnet = &self.subnet;
        let v4 = subnet.is_ipv4();
        let bits: u8 = if v4 { 32 } else { 128 };
        if subnet.prefix() > bits - 2 {
            return Err(Error::TooSmall(subnet.to_string()));
        }
        if self.mapped {
            return Err(Error::Mapped);
        }
        let network = subnet.network().addr();
        if subnet.addr() != network {
            return Err(Error::HostBits { prefix: subnet.prefix(), network });
        }
        let first = number(network) + 1;
        let host_bits = u128::MAX >> (128 - u32::from(bits - subnet.prefix()));
        let last = (number(network) | host_bits) - u128::from(v4);

        let default_start = address(first, v4);
        let end_limit = |ip| self.end.is_none_or(|end| same_family(ip, end) && number(ip) <= number(end));
        let start = match self.start {
            Some(start) if subnet.contains(start) && end_limit(start) => start,
            Some(start) => return Err(Error::Start(start, subnet.to_string())),
            None => default_start,
        };
        let end = match self.end {
            Some(end) if subnet.contains(end) && number(end) >= number(start) => end,
            Some(end) => return Err(Error::End(end, subnet.to_string())),
            None => address(last, v4),
        };
        // A start beyond the default end (the broadcast address itself) leaves nothing to hand out.
        if number(start) > number(end) {
            return Err(Error::Start(start, subnet.to_string()));
        }
        Ok(Range { subnet: *subnet, start, end, gateway: self.gateway.unwrap_or(default_start) })
    }
}

impl Range {
    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        same_family(ip, self.start) && (number(self.start)..=number(self.end)).contains(&number(ip))
    }

    pub(crate) fn is_ipv4(&self) -> bool {
        self.start.is_ipv4()
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.start) || self.contains(other.end) || other.contains(self.start) || other.contains(self.end)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.start, self.end)
    }
}

impl RangeSet {
    /// Checks every range, and the ranges against each other.
    pub(crate) fn resolve(ranges: &[RangeText]) -> Result<Self, Error> {
        let mut set: Vec<Range> = Vec::with_capacity(ranges.len());
        for text in ranges {
            let range = text.resolve()?;
            if set.first().is_some_and(|first| first.is_ipv4() != range.is_ipv4()) {
                return Err(Error::MixedFamilies);
            }
            set.push(range);
        }
        if set.is_empty() {
            return Err(Error::EmptySet);
        }
        for (i, a) in set.iter().enumerate() {
            if let Some(b) = set[i + 1..].iter().find(|b| a.overlaps(b)) {
                return Err(Error::Overlap(a.to_string(), b.to_string()));
            }
        }
        Ok(Self(set))
    }

    pub(crate) fn ranges(&self) -> &[Range] {
        &self.0
    }

    /// The range that has this address.
    pub(crate) fn range_of(&self, ip: IpAddr) -> Option<&Range> {
        self.0.iter().find(|range| range.contains(ip))
    }

    pub(crate) fn contains(&self, ip: IpAddr) -> bool {
        self.range_of(ip).is_some()
    }

    pub(crate) fn is_ipv4(&self) -> bool {
        self.0.first().is_some_and(Range::is_ipv4)
    }

    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.0.iter().any(|a| other.0.iter().any(|b| a.overlaps(b)))
    }

    /// How many addresses the set can hand out: those of its ranges without the gateways.
    pub(crate) fn capacity(&self) -> u128 {
        let size = |r: &Range| (number(r.end) - number(r.start)).saturating_add(1) - u128::from(r.contains(r.gateway));
        self.0.iter().fold(0, |sum: u128, range| sum.saturating_add(size(range)))
    }
}

impl fmt::Display for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, range) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            range.fmt(f)?;
        }
        Ok(())
    }
}

/// An address as a number; those of IPv4 are 0 to 2^32 - 1.
pub(crate) fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

/// The reverse of [`number`].
pub(crate) fn address(number: u128, v4: bool) -> IpAddr {
    match u32::try_from(number) {
        Ok(number) if v4 => IpAddr::V4(Ipv4Addr::from(number)),
        _ => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

fn same_family(a: IpAddr, b: IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// `subnet [start-end] [gw]`, as text.
    pub(crate) fn text(subnet: &str, start: &str, end: &str, gateway: &str) -> RangeText {
        let ip = |s: &str| (!s.is_empty()).then(|| s.parse().unwrap());
        RangeText {
            subnet: subnet.parse().unwrap(),
            mapped: false,
            start: ip(start),
            end: ip(end),
            gateway: ip(gateway),
        }
    }

    pub(crate) fn set(ranges: &[RangeText]) -> RangeSet {
        RangeSet::resolve(ranges).unwrap()
    }

    fn shown(range: &RangeText) -> String {
        range.resolve().map_or_else(|e| e.to_string(), |r| format!("{r} gw {}", r.gateway))
    }

    #[test]
    fn defaults_and_refusals() {
        let cases = [
            (text("10.1.2.0/24", "", "", ""), "10.1.2.1-10.1.2.254 gw 10.1.2.1"),
            (text("10.1.2.0/30", "", "", ""), "10.1.2.1-10.1.2.2 gw 10.1.2.1"),
            (text("fd00::/64", "", "", ""), "fd00::1-fd00::ffff:ffff:ffff:ffff gw fd00::1"),
            (text("::/0", "", "", ""), "::1-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff gw ::1"),
            (text("0.0.0.0/0", "", "", ""), "0.0.0.1-255.255.255.254 gw 0.0.0.1"),
            (text("10.1.2.0/24", "10.1.2.0", "10.1.2.255", "fd00::1"), "10.1.2.0-10.1.2.255 gw fd00::1"),
            (text("10.1.2.0/24", "10.1.2.9", "10.1.2.9", "192.0.2.1"), "10.1.2.9-10.1.2.9 gw 192.0.2.1"),
            (text("10.1.2.0/31", "", "", ""), "Network 10.1.2.0/31 too small to allocate from"),
            (text("fd00::/127", "", "", ""), "Network fd00::/127 too small to allocate from"),
            (
                text("10.1.2.3/24", "", "", ""),
                "Network has host bits set. For a subnet mask of length 24 the network address is 10.1.2.0",
            ),
            (text("10.1.2.0/24", "10.1.3.1", "", ""), "RangeStart 10.1.3.1 not in network 10.1.2.0/24"),
            (text("10.1.2.0/24", "10.1.2.9", "10.1.2.8", ""), "RangeStart 10.1.2.9 not in network 10.1.2.0/24"),
            (text("10.1.2.0/24", "fd00::1", "", ""), "RangeStart fd00::1 not in network 10.1.2.0/24"),
            (text("10.1.2.0/24", "", "10.1.3.8", ""), "RangeEnd 10.1.3.8 not in network 10.1.2.0/24"),
            (text("10.1.2.0/24", "", "10.1.2.0", ""), "RangeEnd 10.1.2.0 not in network 10.1.2.0/24"),
            (text("10.1.2.0/24", "10.1.2.255", "", ""), "RangeStart 10.1.2.255 not in network 10.1.2.0/24"),
        ];
        for (range, expected) in cases {
            assert_eq!(shown(&range), expected);
        }
        let mapped = RangeText { mapped: true, ..text("10.0.0.0/24", "", "", "") };
        assert_eq!(shown(&mapped), "IPNet IP and Mask version mismatch");
    }

    #[test]
    fn sets() {
        let a = text("10.1.2.0/24", "", "", "");
        let b = text("10.1.2.0/25", "10.1.2.9", "10.1.2.20", "");
        let c = text("10.1.3.0/24", "", "", "");
        let six = text("fd00::/64", "", "", "");
        assert_eq!(RangeSet::resolve(&[]), Err(Error::EmptySet));
        assert_eq!(RangeSet::resolve(&[a.clone(), six.clone()]), Err(Error::MixedFamilies));
        let error = RangeSet::resolve(&[a.clone(), b.clone()]).unwrap_err();
        assert_eq!(error.to_string(), "subnets 10.1.2.1-10.1.2.254 and 10.1.2.9-10.1.2.20 overlap");
        let both = set(&[a.clone(), c.clone()]);
        assert_eq!(both.to_string(), "10.1.2.1-10.1.2.254,10.1.3.1-10.1.3.254");
        assert_eq!(both.capacity(), 253 * 2);
        assert!(both.overlaps(&set(&[b])) && !set(&[a]).overlaps(&set(&[c])) && !both.overlaps(&set(&[six])));
        assert!(both.contains("10.1.3.1".parse().unwrap()) && !both.contains("fd00::1".parse().unwrap()));
    }

    #[test]
    fn numbers() {
        for text in ["0.0.0.0", "255.255.255.255", "::", "::ffff:0:0", "::1.2.3.4", "fd00::9"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(address(number(ip), ip.is_ipv4()), ip);
        }
    }
}
