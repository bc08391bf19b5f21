//! nf_tables: tables, chains, rules and sets, changed in transactions, without the `nft` program.
//!
//! Source: `net/netfilter/nf_tables_api.c`, `include/uapi/linux/netfilter/nf_tables.h`. What decides how long a
//! transaction takes is what is in it (measured on Linux 6.18): new rules, elements and chains commit in 30-50 µs;
//! adding a *chain* that is there already, deleting anything, or a batch that fails makes the closing of the socket
//! (or the failing commit itself) wait for an RCU grace period of 7-16 ms. So: look first, add only what is missing,
//! delete before slower work and close the socket after it.

mod batch;
mod rule;
mod table;
mod translation;
mod writer;

pub use batch::{Batch, Field, Hook, SetType, joined};
pub use rule::{Comparison, Offset, Part, RuleBody, Verdict};
pub use table::{BaseChain, Element, Expression, Nft, Rule};
pub use translation::Translation;
pub use writer::Writer;

/// Comments of rules and elements hold at most this many bytes: with longer ones `nft -f` refuses to read back what
/// `nft list ruleset` printed, and with it a host's whole firewall at boot.
pub const MAX_COMMENT: usize = 127;

/// Address family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// IPv4 and IPv6.
    Inet,
    /// Frames on bridges.
    Bridge,
}

impl Family {
    /// `NFPROTO_*`.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Bridge => 7,
            Self::Ip6 => 10,
        }
    }

    /// The family of an IP address.
    #[must_use]
    pub fn of(ip: std::net::IpAddr) -> Self {
        if ip.is_ipv4() { Self::Ip } else { Self::Ip6 }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Inet => "inet",
            Self::Bridge => "bridge",
        })
    }
}

/// Message and attribute numbers, named as in the kernel's header.
pub(crate) mod uapi {
    pub(crate) const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
    pub(crate) const NFNL_MSG_BATCH_END: u16 = 0x11;
    pub(crate) const NFNL_SUBSYS_NFTABLES: u16 = 10;
    pub(crate) const NFNL_BATCH_GENID: u16 = 1;
    pub(crate) const SUBSYS: u16 = NFNL_SUBSYS_NFTABLES << 8;

    pub(crate) const NFT_MSG_NEWTABLE: u16 = 0;
    pub(crate) const NFT_MSG_GETTABLE: u16 = 1;
    pub(crate) const NFT_MSG_NEWCHAIN: u16 = 3;
    pub(crate) const NFT_MSG_GETCHAIN: u16 = 4;
    pub(crate) const NFT_MSG_DELCHAIN: u16 = 5;
    pub(crate) const NFT_MSG_NEWRULE: u16 = 6;
    pub(crate) const NFT_MSG_GETRULE: u16 = 7;
    pub(crate) const NFT_MSG_DELRULE: u16 = 8;
    pub(crate) const NFT_MSG_NEWSET: u16 = 9;
    pub(crate) const NFT_MSG_GETSET: u16 = 10;
    pub(crate) const NFT_MSG_DELSET: u16 = 11;
    pub(crate) const NFT_MSG_NEWSETELEM: u16 = 12;
    pub(crate) const NFT_MSG_GETSETELEM: u16 = 13;
    pub(crate) const NFT_MSG_DELSETELEM: u16 = 14;
    pub(crate) const NFT_MSG_NEWGEN: u16 = 15;
    pub(crate) const NFT_MSG_GETGEN: u16 = 16;

    pub(crate) const NFTA_TABLE_NAME: u16 = 1;
    pub(crate) const NFTA_TABLE_FLAGS: u16 = 2;
    pub(crate) const NFTA_TABLE_USERDATA: u16 = 6;
    pub(crate) const NFT_TABLE_F_DORMANT: u32 = 1;

    pub(crate) const NFTA_CHAIN_TABLE: u16 = 1;
    pub(crate) const NFTA_CHAIN_NAME: u16 = 3;
    pub(crate) const NFTA_CHAIN_HOOK: u16 = 4;
    pub(crate) const NFTA_CHAIN_POLICY: u16 = 5;
    pub(crate) const NFTA_CHAIN_TYPE: u16 = 7;
    pub(crate) const NFTA_HOOK_HOOKNUM: u16 = 1;
    pub(crate) const NFTA_HOOK_PRIORITY: u16 = 2;

    pub(crate) const NFTA_RULE_TABLE: u16 = 1;
    pub(crate) const NFTA_RULE_CHAIN: u16 = 2;
    pub(crate) const NFTA_RULE_HANDLE: u16 = 3;
    pub(crate) const NFTA_RULE_EXPRESSIONS: u16 = 4;
    pub(crate) const NFTA_RULE_USERDATA: u16 = 7;

    pub(crate) const NFTA_SET_TABLE: u16 = 1;
    pub(crate) const NFTA_SET_NAME: u16 = 2;
    pub(crate) const NFTA_SET_FLAGS: u16 = 3;
    pub(crate) const NFTA_SET_KEY_TYPE: u16 = 4;
    pub(crate) const NFTA_SET_KEY_LEN: u16 = 5;
    pub(crate) const NFTA_SET_DATA_TYPE: u16 = 6;
    pub(crate) const NFTA_SET_DATA_LEN: u16 = 7;
    pub(crate) const NFTA_SET_DESC: u16 = 9;
    pub(crate) const NFTA_SET_ID: u16 = 10;
    pub(crate) const NFTA_SET_USERDATA: u16 = 13;

    pub(crate) const NFTA_SET_DESC_SIZE: u16 = 1;
    pub(crate) const NFT_SET_MAP: u32 = 0x8;
    pub(crate) const NFT_SET_EVAL: u32 = 0x20;

    pub(crate) const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
    pub(crate) const NFTA_SET_ELEM_LIST_SET: u16 = 2;
    pub(crate) const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
    pub(crate) const NFTA_LIST_ELEM: u16 = 1;
    pub(crate) const NFTA_SET_ELEM_KEY: u16 = 1;
    pub(crate) const NFTA_SET_ELEM_DATA: u16 = 2;
    pub(crate) const NFTA_SET_ELEM_USERDATA: u16 = 6;

    pub(crate) const NFTA_DATA_VALUE: u16 = 1;
    pub(crate) const NFTA_DATA_VERDICT: u16 = 2;
    pub(crate) const NFTA_VERDICT_CODE: u16 = 1;
    pub(crate) const NFTA_VERDICT_CHAIN: u16 = 2;

    pub(crate) const NFTA_EXPR_NAME: u16 = 1;
    pub(crate) const NFTA_EXPR_DATA: u16 = 2;

    pub(crate) const NFTA_PAYLOAD_BASE: u16 = 2;
    pub(crate) const NFTA_PAYLOAD_OFFSET: u16 = 3;
    pub(crate) const NFTA_PAYLOAD_LEN: u16 = 4;
    pub(crate) const NFTA_CMP_OP: u16 = 2;
    pub(crate) const NFT_CMP_EQ: u32 = 0;
    pub(crate) const NFTA_CMP_DATA: u16 = 3;
    pub(crate) const NFTA_MATCH_NAME: u16 = 1;
    pub(crate) const NFTA_MATCH_REV: u16 = 2;
    pub(crate) const NFTA_MATCH_INFO: u16 = 3;
    pub(crate) const NFTA_IMMEDIATE_DATA: u16 = 2;

    pub(crate) const NFTA_GEN_ID: u16 = 1;
}

/// `struct nfgenmsg`.
pub(crate) fn header(family: u8, resource: u16) -> [u8; 4] {
    let [hi, lo] = resource.to_be_bytes();
    [family, 0, hi, lo]
}

/// User data as nft writes a comment: type 0, length, text, NUL.
pub(crate) fn comment_data(text: &str) -> Vec<u8> {
    let mut end = text.len().min(MAX_COMMENT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let text = &text.as_bytes()[..end];
    let mut data = Vec::with_capacity(text.len() + 3);
    data.extend_from_slice(&[0, u8::try_from(text.len() + 1).unwrap_or(u8::MAX)]);
    data.extend_from_slice(text);
    data.push(0);
    data
}

/// The comment in user data, if there is one.
pub(crate) fn read_comment(mut data: &[u8]) -> Option<String> {
    while let [kind, len, rest @ ..] = data {
        let value = rest.get(..usize::from(*len))?;
        if *kind == 0 {
            return Some(crate::wire::text(value));
        }
        data = &rest[value.len()..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_read_back_and_kept_short() {
        assert_eq!(read_comment(&comment_data("net: a")).as_deref(), Some("net: a"));
        assert_eq!(read_comment(&[2, 1, 9, 0, 2, b'x', 0]).as_deref(), Some("x"));
        assert_eq!(read_comment(&[0, 200, 1]), None);
        let long = "é".repeat(100);
        let kept = read_comment(&comment_data(&long)).unwrap();
        assert!(kept.len() <= MAX_COMMENT && long.starts_with(&kept));
    }
}
