//! The expressions of a rule.

use super::uapi::{
    NFTA_DATA_VALUE, NFTA_DATA_VERDICT, NFTA_EXPR_DATA, NFTA_EXPR_NAME, NFTA_VERDICT_CHAIN, NFTA_VERDICT_CODE,
};
use crate::wire::Writer;

const REG_VERDICT: u32 = 0;
const NFT_LOOKUP_F_INV: u32 = 1;
const NFT_META_IIFNAME: u32 = 6;
/// Registers of 16 bytes; a key that is longer than one goes on in the next.
const REG_1: u32 = 1;

/// Where in a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offset {
    base: u32,
    at: u32,
    len: u32,
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
        self.load(part, REG_1);
        let zero = vec![0; mask.len()];
        self.expression("bitwise", |w| {
            w.be32(1, REG_1).be32(2, REG_1).be32(3, part.len);
            w.nest(4, |w| {
                w.attr(NFTA_DATA_VALUE, mask);
            });
            w.nest(5, |w| {
                w.attr(NFTA_DATA_VALUE, &zero);
            });
        });
        let operator = if comparison == Comparison::Equal { 0 } else { 1 };
        self.expression("cmp", |w| {
            w.be32(1, REG_1).be32(2, operator).nest(3, |w| {
                w.attr(NFTA_DATA_VALUE, value);
            });
        })
    }

    /// Goes on if the set holds this part of the packet.
    pub fn part_in(&mut self, part: Offset, set: &str) -> &mut Self {
        self.load(part, REG_1);
        self.lookup(set, 0)
    }

    /// Goes on if the set holds the name of the link the packet came in by.
    pub fn input_in(&mut self, set: &str) -> &mut Self {
        self.load_input();
        self.lookup(set, 0)
    }

    /// Goes on if the set does not hold the pair of the link the packet came in by and this part of it.
    pub fn input_and_part_not_in(&mut self, part: Offset, set: &str) -> &mut Self {
        self.load_input();
        // The name fills the first register, so the part follows it in the second.
        self.load(part, REG_1 + 1);
        self.lookup(set, NFT_LOOKUP_F_INV)
    }

    /// Counts packets and bytes, for whoever reads the rules.
    pub fn counter(&mut self) -> &mut Self {
        self.expression("counter", |_| ())
    }

    /// Gives the packet the address of the link it leaves by as its source.
    pub fn masquerade(&mut self) -> &mut Self {
        self.expression("masq", |_| ())
    }

    /// Ends here.
    pub fn verdict(&mut self, verdict: &Verdict) -> &mut Self {
        self.expression("immediate", |w| {
            w.be32(1, REG_VERDICT).nest(2, |w| verdict.write(w));
        })
    }

    fn load(&mut self, part: Offset, register: u32) {
        self.expression("payload", |w| {
            w.be32(1, register).be32(2, part.base).be32(3, part.at).be32(4, part.len);
        });
    }

    fn load_input(&mut self) {
        self.expression("meta", |w| {
            w.be32(1, REG_1).be32(2, NFT_META_IIFNAME);
        });
    }

    fn lookup(&mut self, set: &str, flags: u32) -> &mut Self {
        self.expression("lookup", |w| {
            w.str(1, set).be32(2, REG_1).be32(5, flags);
        })
    }

    fn expression(&mut self, name: &str, data: impl FnOnce(&mut Writer<'_>)) -> &mut Self {
        self.0.nest(1, |w| {
            w.str(NFTA_EXPR_NAME, name).nest(NFTA_EXPR_DATA, data);
        });
        self
    }
}
