//! The expressions of a rule.

use super::Family;
use super::uapi::{
    NFTA_DATA_VALUE, NFTA_DATA_VERDICT, NFTA_EXPR_DATA, NFTA_EXPR_NAME, NFTA_VERDICT_CHAIN, NFTA_VERDICT_CODE,
};
use crate::wire::Writer;

const REG_VERDICT: u32 = 0;
/// The first register of four bytes. A value takes as many as it needs, a key of several parts goes on in the next.
const REG32_00: u32 = 8;
const NFT_LOOKUP_F_INV: u32 = 1;
const NFT_META_IIF: u32 = 4;
const NFT_META_IIFNAME: u32 = 6;
const NFT_META_OIFNAME: u32 = 7;
const NFT_META_L4PROTO: u32 = 16;
const NFT_CT_STATE: u32 = 0;
const NFT_CT_STATUS: u32 = 2;
const NFT_CT_DST_IP: u32 = 20;
const NFT_CT_DST_IP6: u32 = 22;
/// `IP_CT_DIR_ORIGINAL`
const ORIGINAL: u8 = 0;
/// Bits of `NF_CT_STATE_BIT`: established, related.
const ESTABLISHED_OR_RELATED: u32 = 0x2 | 0x4;
/// `IPS_DST_NAT`
const STATUS_DNAT: u32 = 0x20;
const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
const NFTA_FIB_F_DADDR: u32 = 0x2;
const NFTA_FIB_F_IIF: u32 = 0x8;
/// `RTN_LOCAL`
const LOCAL: u32 = 2;
const NFT_NAT_DNAT: u32 = 1;
const NFT_DYNSET_OP_ADD: u32 = 0;

/// Where in a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offset {
    pub(super) base: u32,
    pub(super) at: u32,
    pub(super) len: u32,
}

impl Offset {
    /// Source address of the frame.
    pub const ETHER_SOURCE: Self = Self { base: 0, at: 6, len: 6 };
    /// Source address of an IPv4 packet.
    pub const IP_SOURCE: Self = Self { base: 1, at: 12, len: 4 };
    /// Destination address of an IPv4 packet.
    pub const IP_DESTINATION: Self = Self { base: 1, at: 16, len: 4 };
    /// Source address of an IPv6 packet.
    pub const IP6_SOURCE: Self = Self { base: 1, at: 8, len: 16 };
    /// Destination address of an IPv6 packet.
    pub const IP6_DESTINATION: Self = Self { base: 1, at: 24, len: 16 };
    /// Destination port of tcp, udp, sctp.
    pub const DESTINATION_PORT: Self = Self { base: 2, at: 2, len: 2 };
}

/// What a key may be made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Some of the packet's bytes.
    Packet(Offset),
    /// Index of the link it came in by: `iif`; 0 where there is none.
    Input,
    /// Name of the link it came in by: `iifname`.
    InputName,
    /// Name of the link it leaves by: `oifname`.
    OutputName,
    /// Protocol above IP: `meta l4proto`.
    Protocol,
    /// IPv4 address that the connection's first packet was for: `ct original ip daddr`.
    OriginalDestination4,
    /// IPv6 address that the connection's first packet was for: `ct original ip6 daddr`.
    OriginalDestination6,
}

impl Part {
    fn len(self) -> u32 {
        match self {
            Self::Packet(part) => part.len,
            Self::InputName | Self::OutputName | Self::OriginalDestination6 => 16,
            Self::Protocol => 1,
            Self::Input | Self::OriginalDestination4 => 4,
        }
    }
}

/// How two values compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is thrown away.
    Drop,
    /// It goes on past the rest of this base chain.
    Accept,
    /// Back to the calling chain, or the base chain's policy.
    Return,
    /// To another chain, from which it comes back.
    Jump(String),
    /// To another chain, from which it does not come back.
    Goto(String),
}

impl Verdict {
    fn code(&self) -> i32 {
        match self {
            Self::Drop => 0,
            Self::Accept => 1,
            Self::Jump(_) => -3,
            Self::Goto(_) => -4,
            Self::Return => -5,
        }
    }

    /// Writes the nest that holds a verdict.
    pub(crate) fn write(&self, w: &mut Writer<'_>) {
        w.nest(NFTA_DATA_VERDICT, |w| {
            w.be32(NFTA_VERDICT_CODE, self.code().cast_unsigned());
            if let Self::Jump(chain) | Self::Goto(chain) = self {
                w.str(NFTA_VERDICT_CHAIN, chain);
            }
        });
    }

    pub(crate) fn read(code: i32, chain: Option<String>) -> Option<Self> {
        match (code, chain) {
            (0, _) => Some(Self::Drop),
            (1, _) => Some(Self::Accept),
            (-3, Some(chain)) => Some(Self::Jump(chain)),
            (-4, Some(chain)) => Some(Self::Goto(chain)),
            (-5, _) => Some(Self::Return),
            _ => None,
        }
    }
}

/// Writes a rule's expressions, in the order in which the kernel works through them.
#[derive(Debug)]
pub struct RuleBody<'a, 'b>(pub(crate) &'a mut Writer<'b>);

impl RuleBody<'_, '_> {
    /// Goes on if the part of the packet under the mask compares so with the value (both as long as the part).
    pub fn masked(&mut self, part: Offset, mask: &[u8], comparison: Comparison, value: &[u8]) -> &mut Self {
        self.load(Part::Packet(part), REG32_00);
        self.mask(part.len, mask);
        self.compare(comparison, value)
    }

    /// Goes on if the part is this value, which is as long as it.
    pub fn equals(&mut self, part: Part, value: &[u8]) -> &mut Self {
        self.load(part, REG32_00);
        self.compare(Comparison::Equal, value)
    }

    /// Goes on if the part is another value than this.
    pub fn differs(&mut self, part: Part, value: &[u8]) -> &mut Self {
        self.load(part, REG32_00);
        self.compare(Comparison::NotEqual, value)
    }

    /// Goes on if the set holds these parts.
    pub fn in_set(&mut self, parts: &[Part], set: &str) -> &mut Self {
        self.load_all(parts);
        self.lookup(set, 0)
    }

    /// Goes on if the set does not hold these parts.
    pub fn not_in_set(&mut self, parts: &[Part], set: &str) -> &mut Self {
        self.load_all(parts);
        self.lookup(set, NFT_LOOKUP_F_INV)
    }

    /// Puts these parts into a set made by [`Batch::add_learning_set`](super::Batch::add_learning_set). A full set
    /// ends the rule.
    pub fn learn(&mut self, parts: &[Part], set: &str) -> &mut Self {
        self.load_all(parts);
        self.expression("dynset", |w| {
            w.str(1, set).be32(3, NFT_DYNSET_OP_ADD).be32(4, REG32_00);
        })
    }

    /// Goes on if the packet is for an address of this host, on whatever link.
    pub fn to_local(&mut self) -> &mut Self {
        self.local_destination(NFTA_FIB_F_DADDR)
    }

    /// Goes on if the packet is for an address of the link it came in by.
    pub fn to_input_address(&mut self) -> &mut Self {
        self.local_destination(NFTA_FIB_F_DADDR | NFTA_FIB_F_IIF)
    }

    fn local_destination(&mut self, flags: u32) -> &mut Self {
        self.expression("fib", |w| {
            w.be32(1, REG32_00).be32(2, NFT_FIB_RESULT_ADDRTYPE).be32(3, flags);
        });
        self.compare(Comparison::Equal, &LOCAL.to_ne_bytes())
    }

    /// Goes on if the destination of the packet's connection was rewritten.
    pub fn is_destination_rewritten(&mut self) -> &mut Self {
        self.conntrack_bits(NFT_CT_STATUS, STATUS_DNAT)
    }

    /// Goes on if the packet belongs to, or is about, a connection of which packets went both ways.
    pub fn is_established_or_related(&mut self) -> &mut Self {
        self.conntrack_bits(NFT_CT_STATE, ESTABLISHED_OR_RELATED)
    }

    fn conntrack_bits(&mut self, key: u32, bits: u32) -> &mut Self {
        self.expression("ct", |w| {
            w.be32(1, REG32_00).be32(2, key);
        });
        self.mask(4, &bits.to_ne_bytes());
        self.compare(Comparison::NotEqual, &[0; 4])
    }

    /// Counts packets and bytes, for whoever reads the rules.
    pub fn counter(&mut self) -> &mut Self {
        self.expression("counter", |_| ())
    }

    /// Gives the packet the address of the link it leaves by as its source.
    pub fn masquerade(&mut self) -> &mut Self {
        self.expression("masq", |_| ())
    }

    /// Goes on if the map holds these parts, and sends the packet to the address and port, joined, that are their value.
    /// The family must be that of the table.
    pub fn send_to_entry(&mut self, family: Family, parts: &[Part], map: &str) -> &mut Self {
        self.load_all(parts);
        self.expression("lookup", |w| {
            w.str(1, map).be32(2, REG32_00).be32(3, REG32_00);
        });
        let port = REG32_00 + if family == Family::Ip6 { 4 } else { 1 };
        self.expression("nat", |w| {
            w.be32(1, NFT_NAT_DNAT).be32(2, u32::from(family.number())).be32(3, REG32_00).be32(5, port);
        })
    }

    /// Ends here.
    pub fn verdict(&mut self, verdict: &Verdict) -> &mut Self {
        self.expression("immediate", |w| {
            w.be32(1, REG_VERDICT).nest(2, |w| verdict.write(w));
        })
    }

    fn load_all(&mut self, parts: &[Part]) {
        let mut register = REG32_00;
        for part in parts {
            self.load(*part, register);
            register += part.len().div_ceil(4);
        }
    }

    fn load(&mut self, part: Part, register: u32) {
        match part {
            Part::Packet(part) => self.expression("payload", |w| {
                w.be32(1, register).be32(2, part.base).be32(3, part.at).be32(4, part.len);
            }),
            Part::Input => self.load_meta(NFT_META_IIF, register),
            Part::InputName => self.load_meta(NFT_META_IIFNAME, register),
            Part::OutputName => self.load_meta(NFT_META_OIFNAME, register),
            Part::Protocol => self.load_meta(NFT_META_L4PROTO, register),
            Part::OriginalDestination4 => self.load_original(NFT_CT_DST_IP, register),
            Part::OriginalDestination6 => self.load_original(NFT_CT_DST_IP6, register),
        };
    }

    fn load_meta(&mut self, key: u32, register: u32) -> &mut Self {
        self.expression("meta", |w| {
            w.be32(1, register).be32(2, key);
        })
    }

    fn load_original(&mut self, key: u32, register: u32) -> &mut Self {
        self.expression("ct", |w| {
            w.be32(1, register).be32(2, key).u8(3, ORIGINAL);
        })
    }

    fn mask(&mut self, len: u32, mask: &[u8]) {
        let zero = vec![0; mask.len()];
        self.expression("bitwise", |w| {
            w.be32(1, REG32_00).be32(2, REG32_00).be32(3, len);
            w.nest(4, |w| {
                w.attr(NFTA_DATA_VALUE, mask);
            });
            w.nest(5, |w| {
                w.attr(NFTA_DATA_VALUE, &zero);
            });
        });
    }

    fn compare(&mut self, comparison: Comparison, value: &[u8]) -> &mut Self {
        let operator = if comparison == Comparison::Equal { 0 } else { 1 };
        self.expression("cmp", |w| {
            w.be32(1, REG32_00).be32(2, operator).nest(3, |w| {
                w.attr(NFTA_DATA_VALUE, value);
            });
        })
    }

    fn lookup(&mut self, set: &str, flags: u32) -> &mut Self {
        self.expression("lookup", |w| {
            w.str(1, set).be32(2, REG32_00).be32(5, flags);
        })
    }

    fn expression(&mut self, name: &str, data: impl FnOnce(&mut Writer<'_>)) -> &mut Self {
        self.0.nest(1, |w| {
            w.str(NFTA_EXPR_NAME, name).nest(NFTA_EXPR_DATA, data);
        });
        self
    }
}
