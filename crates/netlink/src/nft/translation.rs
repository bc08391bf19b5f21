//! What a rule says of the destination that it writes, whoever made it: `dnat` of nft, or iptables' target `DNAT`.

use std::net::IpAddr;

use super::uapi::{NFTA_DATA_VALUE, NFTA_IMMEDIATE_DATA};
use super::{Family, Rule};
use crate::addr::ip_from_bytes;
use crate::wire::{Attrs, u32_be};

/// `NFTA_TARGET_*` and `NFTA_MATCH_*`: iptables' own, carried in an expression.
const NFTA_XT_NAME: u16 = 1;
const NFTA_XT_REV: u16 = 2;
const NFTA_XT_INFO: u16 = 3;

/// Where a rule sends which packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Translation {
    /// `IPPROTO_*` that the packets must have.
    pub protocol: Option<u8>,
    /// Port that they must be sent to.
    pub port: Option<u16>,
    /// The new destination.
    pub to: IpAddr,
}

impl Rule {
    /// The new destination that the rule of a table of this family gives to packets, if it says one.
    #[must_use]
    pub fn translation(&self, family: Family) -> Option<Translation> {
        let size = if family == Family::Ip { 4 } else { 16 };
        let (mut protocol, mut port, mut loaded, mut to) = (None, None, None, None);
        for (name, data) in self.parsed_expressions() {
            match name.as_str() {
                "immediate" => {
                    let value = data.nested(NFTA_IMMEDIATE_DATA).find(NFTA_DATA_VALUE);
                    loaded = value.filter(|v| v.len() == size).or(loaded);
                }
                "nat" => to = loaded.and_then(ip_from_bytes),
                "target" if data.string(NFTA_XT_NAME).as_deref() == Some("DNAT") => {
                    let at = first_address(family, data.find(NFTA_XT_REV).and_then(u32_be));
                    let info = data.find(NFTA_XT_INFO).unwrap_or_default();
                    to = info.get(at..at + size).and_then(ip_from_bytes);
                }
                "match" => port = matched_port(data).or(port),
                _ => {}
            }
        }
        for value in self.compared_values() {
            match value[..] {
                [number] => protocol = Some(number),
                [high, low] => port = Some(u16::from_be_bytes([high, low])),
                _ => {}
            }
        }
        to.map(|to| Translation { protocol, port, to })
    }
}

/// Offset of the address in the target's data: `nf_nat_range` and `nf_nat_range2` begin with flags, the first revision
/// for IPv4 (`nf_nat_ipv4_multi_range_compat`) with the number of ranges too.
fn first_address(family: Family, revision: Option<u32>) -> usize {
    if family == Family::Ip && revision.unwrap_or(0) < 2 { 8 } else { 4 }
}

/// The port in the data of iptables' matches `tcp` and `udp` (source ports, destination ports) and `sctp` (the other way
/// round), in the host's byte order.
fn matched_port(data: Attrs<'_>) -> Option<u16> {
    let at = match data.string(NFTA_XT_NAME)?.as_str() {
        "tcp" | "udp" => 4,
        "sctp" => 0,
        _ => return None,
    };
    let [first, second] = *data.find(NFTA_XT_INFO)?.get(at..at + 2)? else { return None };
    Some(u16::from_ne_bytes([first, second]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::uapi::{NFTA_CMP_DATA, NFTA_EXPR_DATA, NFTA_EXPR_NAME, NFTA_LIST_ELEM};
    use crate::wire::{Messages, Request, Writer};

    type Expression<'a> = (&'a str, &'a dyn Fn(&mut Writer<'_>));

    fn rule(expressions: &[Expression<'_>]) -> Rule {
        let mut request = Request::new();
        request.message(0, 0, |w| {
            for (name, data) in expressions {
                w.nest(NFTA_LIST_ELEM, |w| {
                    w.str(NFTA_EXPR_NAME, name).nest(NFTA_EXPR_DATA, |w| data(w));
                });
            }
        });
        let expressions = Messages(request.bytes()).next().unwrap().body.to_vec();
        Rule { chain: String::new(), handle: 0, comment: None, expressions }
    }

    fn cmp(value: &[u8]) -> impl Fn(&mut Writer<'_>) {
        move |w| {
            w.nest(NFTA_CMP_DATA, |w| _ = w.attr(NFTA_DATA_VALUE, value));
        }
    }

    fn load(value: &[u8]) -> impl Fn(&mut Writer<'_>) {
        move |w| {
            w.nest(NFTA_IMMEDIATE_DATA, |w| _ = w.attr(NFTA_DATA_VALUE, value));
        }
    }

    fn xt(name: &str, revision: u32, info: Vec<u8>) -> impl Fn(&mut Writer<'_>) {
        move |w| {
            w.str(NFTA_XT_NAME, name).be32(NFTA_XT_REV, revision).attr(NFTA_XT_INFO, &info);
        }
    }

    #[test]
    fn nfts_rules_say_where_they_lead() {
        let rule = |ip: &[u8]| {
            rule(&[
                ("cmp", &cmp(&[17])),
                ("cmp", &cmp(&8053u16.to_be_bytes())),
                ("immediate", &load(ip)),
                ("immediate", &load(&53u16.to_be_bytes())),
                ("nat", &|_| {}),
            ])
        };
        let expected = |to: &str| Some(Translation { protocol: Some(17), port: Some(8053), to: to.parse().unwrap() });
        assert_eq!(rule(&[10, 0, 0, 2]).translation(Family::Ip), expected("10.0.0.2"));
        let v6 = "fd00::2".parse::<std::net::Ipv6Addr>().unwrap();
        assert_eq!(rule(&v6.octets()).translation(Family::Ip6), expected("fd00::2"));
        assert_eq!(rule(&[10, 0, 0, 2]).translation(Family::Ip6), None);
    }

    #[test]
    fn iptables_targets_say_where_they_lead() {
        let ports: Vec<u8> = [0, 65535, 8053, 8053u16].iter().flat_map(|p| p.to_ne_bytes()).collect();
        for (family, revision, head, ip) in [
            (Family::Ip, 0, 8, "10.0.0.2"),
            (Family::Ip, 2, 4, "10.0.0.2"),
            (Family::Ip6, 1, 4, "fd00::2"),
            (Family::Ip6, 2, 4, "fd00::2"),
        ] {
            let to: IpAddr = ip.parse().unwrap();
            let mut info = vec![1; head];
            match to {
                IpAddr::V4(ip) => info.extend(ip.octets()),
                IpAddr::V6(ip) => info.extend(ip.octets()),
            }
            let rule = rule(&[
                ("cmp", &cmp(&[17])),
                ("match", &xt("udp", 0, ports.clone())),
                ("counter", &|_| {}),
                ("target", &xt("DNAT", revision, info)),
            ]);
            let expected = Translation { protocol: Some(17), port: Some(8053), to };
            assert_eq!(rule.translation(family), Some(expected), "{revision}");
        }
        assert_eq!(rule(&[("target", &xt("MARK", 2, vec![0; 40]))]).translation(Family::Ip), None);
        assert_eq!(rule(&[("target", &xt("DNAT", 2, vec![0; 4]))]).translation(Family::Ip), None);
    }
}
