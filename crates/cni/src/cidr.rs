//! Addresses as text, exactly as Go's `net.ParseIP` and `net.ParseCIDR` read them.
//!
//! Neither std nor `ipnetwork` agrees with Go: `ipnetwork` also takes `10.0.0.1` (as /32), netmasks and `/+24`, and
//! both keep an IPv4-mapped IPv6 address as IPv6, where everything in CNI counts it as IPv4.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Not an IP address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid IP address: {0}")]
pub struct InvalidIp(String);

/// Not an address with a prefix length.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid CIDR address: {0}")]
pub struct InvalidCidr(String);

/// Reads an IP address: no zone, no leading zeros in IPv4; an IPv4-mapped IPv6 address becomes IPv4.
pub fn parse_ip(text: &str) -> Result<IpAddr, InvalidIp> {
    text.parse::<IpAddr>().map(|ip| ip.to_canonical()).map_err(|_| InvalidIp(text.to_owned()))
}

/// For `#[serde(deserialize_with = "cni::cidr::optional_ip")]` (with `default`): an IP address, or `None` for an empty
/// text, which is how Go reads and writes "no address".
pub fn optional_ip<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<IpAddr>, D::Error> {
    match Option::<String>::deserialize(deserializer)? {
        None => Ok(None),
        Some(text) if text.is_empty() => Ok(None),
        Some(text) => parse_ip(&text).map(Some).map_err(de::Error::custom),
    }
}

/// An address and the prefix length of its network; the address keeps its host bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr(IpNetwork);

impl Cidr {
    /// `None` if the prefix length is too long for the family. An IPv4-mapped address becomes IPv4, and its prefix
    /// length then counts from the 96th bit.
    pub fn new(addr: IpAddr, prefix: u8) -> Option<Self> {
        let mapped = addr.is_ipv6() && addr.to_canonical().is_ipv4();
        let prefix = if mapped { prefix.checked_sub(96)? } else { prefix };
        IpNetwork::new(addr.to_canonical(), prefix).ok().map(Self)
    }

    /// All addresses of this one's family: the destination of a default route.
    pub fn whole_family(addr: IpAddr) -> Self {
        // Decided by the compiler.
        const V4: Ipv4Network = match Ipv4Network::new_checked(Ipv4Addr::UNSPECIFIED, 0) {
            Some(network) => network,
            None => panic!("0 is no prefix length"),
        };
        const V6: Ipv6Network = match Ipv6Network::new_checked(Ipv6Addr::UNSPECIFIED, 0) {
            Some(network) => network,
            None => panic!("0 is no prefix length"),
        };
        match addr.to_canonical() {
            IpAddr::V4(_) => Self(IpNetwork::V4(V4)),
            IpAddr::V6(_) => Self(IpNetwork::V6(V6)),
        }
    }

    /// The address, with its host bits.
    pub fn addr(&self) -> IpAddr {
        self.0.ip()
    }

    /// Length of the network's prefix in bits.
    pub fn prefix(&self) -> u8 {
        self.0.prefix()
    }

    /// The network: the same without host bits.
    #[must_use]
    pub fn network(&self) -> Self {
        // The prefix was valid for the family before.
        Self::new(self.0.network(), self.prefix()).unwrap_or(*self)
    }

    /// First address after the network's own: the customary gateway. `None` if the network has no second address.
    pub fn first_host(&self) -> Option<IpAddr> {
        let next = match self.0.network() {
            IpAddr::V4(ip) => IpAddr::from(ip.to_bits().checked_add(1)?.to_be_bytes()),
            IpAddr::V6(ip) => IpAddr::from(Ipv6Addr::from_bits(ip.to_bits().checked_add(1)?)),
        };
        self.contains(next).then_some(next)
    }

    /// Whether the address is in the network. One of the other family is not.
    pub fn contains(&self, addr: IpAddr) -> bool {
        self.0.contains(addr.to_canonical())
    }

    /// Whether this is IPv4; IPv4-mapped addresses are.
    pub fn is_ipv4(&self) -> bool {
        self.0.is_ipv4()
    }

    /// The same for those who calculate.
    pub fn inner(&self) -> IpNetwork {
        self.0
    }
}

impl FromStr for Cidr {
    type Err = InvalidCidr;

    fn from_str(text: &str) -> Result<Self, InvalidCidr> {
        let read = || {
            let (addr, prefix) = text.split_once('/')?;
            // Go reads digits only, any number of leading zeros included; std would take a sign.
            if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_digit()) {
                return None;
            }
            Self::new(addr.parse().ok()?, prefix.parse().ok()?)
        };
        read().ok_or_else(|| InvalidCidr(text.to_owned()))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr(), self.prefix())
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What Go 1.26 `net.ParseCIDR` answers: the address with the mask's length, and the network.
    #[test]
    fn as_go_reads_cidrs() {
        for (text, expected) in [
            ("10.1.2.3/24", Some(("10.1.2.3/24", "10.1.2.0/24"))),
            ("10.1.2.3", None),
            ("10.1.2.3/", None),
            ("10.1.2.3/255.255.255.0", None),
            ("10.0.0.0/+24", None),
            ("10.0.0.0/-1", None),
            ("10.0.0.0/024", Some(("10.0.0.0/24", "10.0.0.0/24"))),
            ("010.0.0.0/24", None),
            ("10.0.0/24", None),
            ("::ffff:10.0.0.1/120", Some(("10.0.0.1/24", "10.0.0.0/24"))),
            ("::ffff:10.0.0.1/24", None),
            ("fe80::1%eth0/64", None),
            ("10.0.0.1/24 ", None),
            (" 10.0.0.1/24", None),
            ("10.0.0.1/33", None),
            ("10.0.0.1/256", None),
            ("10.0.0.1/24/8", None),
            ("fd00:0:0:0:1:0:0:1/64", Some(("fd00::1:0:0:1/64", "fd00::/64"))),
            ("FD00::ABC/128", Some(("fd00::abc/128", "fd00::abc/128"))),
            ("::/0", Some(("::/0", "::/0"))),
            ("fd00::/129", None),
            ("", None),
            ("/", None),
        ] {
            let read = text.parse::<Cidr>().ok().map(|c| (c.to_string(), c.network().to_string()));
            assert_eq!(read, expected.map(|(a, n)| (a.to_owned(), n.to_owned())), "{text}");
        }
        assert_eq!("x".parse::<Cidr>().unwrap_err().to_string(), "invalid CIDR address: x");
    }

    #[test]
    fn as_go_reads_ips() {
        for (text, expected) in [
            ("10.1.2.3", Some("10.1.2.3")),
            ("::ffff:1.2.3.4", Some("1.2.3.4")),
            ("::FFFF:0102:0304", Some("1.2.3.4")),
            ("fd00:0:0:0:0:0:0:1", Some("fd00::1")),
            ("1:2:3:4:5:6:7::", Some("1:2:3:4:5:6:7:0")),
            ("1:2:3:4:5:6:7::8:9", None),
            ("10.1.2.03", None),
            ("10.1.2", None),
            ("10.1.2.3/24", None),
            ("fe80::1%1", None),
            ("[::1]", None),
            ("", None),
        ] {
            assert_eq!(parse_ip(text).ok().map(|ip| ip.to_string()).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn networks() {
        let cidr = |text: &str| text.parse::<Cidr>().unwrap();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(cidr("10.1.2.3/24").first_host(), Some(ip("10.1.2.1")));
        assert_eq!(cidr("10.1.2.3/31").first_host(), Some(ip("10.1.2.3")));
        assert_eq!(cidr("10.1.2.3/32").first_host(), None);
        assert_eq!(cidr("255.255.255.255/32").first_host(), None);
        assert_eq!(cidr("fd00::9/64").first_host(), Some(ip("fd00::1")));
        assert_eq!(cidr("fd00::9/128").first_host(), None);
        assert!(cidr("10.1.2.3/24").contains(ip("10.1.2.255")) && !cidr("10.1.2.3/24").contains(ip("10.1.3.0")));
        assert!(cidr("10.1.2.3/24").contains(ip("::ffff:10.1.2.9")) && !cidr("0.0.0.0/0").contains(ip("::1")));
        assert_eq!(Cidr::new(ip("10.0.0.1"), 33), None);
        assert_eq!(Cidr::new(ip("::ffff:10.0.0.1"), 64), None);
    }

    proptest! {
        #[test]
        fn text_and_back(addr: IpAddr, bits in 0u8..=128) {
            let prefix = if addr.is_ipv4() { bits % 33 } else { bits };
            if let Some(cidr) = Cidr::new(addr, prefix) {
                prop_assert_eq!(cidr.to_string().parse(), Ok(cidr));
                prop_assert!(cidr.contains(addr) && cidr.contains(cidr.network().addr()));
                prop_assert_eq!(cidr.network(), cidr.network().network());
            }
        }
    }
}
