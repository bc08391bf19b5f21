//! A transaction: all of it happens, or nothing.

use super::rule::RuleBody;
use super::uapi::*;
use super::{Family, comment_data, header};
use crate::wire::{APPEND, CREATE, EXCL, Request, Writer};

/// Where a base chain hooks into the path of packets. Priority as in `nft`: lower comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hook {
    /// `filter` or `nat`.
    pub kind: &'static str,
    /// `NF_INET_*` or `NF_BR_*`.
    pub number: u32,
    /// Among the chains of the hook.
    pub priority: i32,
}

impl Hook {
    /// NAT of sources, where `nft` says `type nat hook postrouting priority srcnat`.
    pub const SOURCE_NAT: Self = Self { kind: "nat", number: 4, priority: 100 };
    /// NAT of destinations as packets come in, after (-99) what others do at nft's `dstnat` (-100).
    pub const DESTINATION_NAT: Self = Self { kind: "nat", number: 0, priority: -99 };
    /// The same for what the host itself sends.
    pub const OUTPUT_NAT: Self = Self { kind: "nat", number: 3, priority: -99 };
    /// NAT of destinations as packets come in, before (-101) what others do at nft's `dstnat` (-100).
    pub const DESTINATION_NAT_FIRST: Self = Self { kind: "nat", number: 0, priority: -101 };
    /// The same for what the host itself sends.
    pub const OUTPUT_NAT_FIRST: Self = Self { kind: "nat", number: 3, priority: -101 };
    /// Packets as they come in, before connection tracking: `type filter hook prerouting priority raw` (-300).
    pub const INPUT_RAW: Self = Self { kind: "filter", number: 0, priority: -300 };
    /// What is forwarded: `type filter hook forward priority filter` (0).
    pub const FORWARD: Self = Self { kind: "filter", number: 2, priority: 0 };
    /// Frames from port to port: `type filter hook forward priority -200` of a bridge.
    pub const BRIDGE_FORWARD: Self = Self { kind: "filter", number: 2, priority: -200 };
    /// Frames as they come in by a port, where `nft` says `type filter hook prerouting priority dstnat` (-300).
    pub const BRIDGE_INPUT: Self = Self { kind: "filter", number: 0, priority: -300 };
}

/// One part of a set's key or of a map's value; the numbers are nft's own, by which it prints them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// `ipv4_addr`, 4 bytes.
    Ipv4,
    /// `ipv6_addr`, 16 bytes.
    Ipv6,
    /// `ether_addr`, 6 bytes.
    EtherAddress,
    /// `inet_proto`, 1 byte: `IPPROTO_*`.
    Protocol,
    /// `inet_service`, 2 bytes in network order: a port of tcp, udp, sctp.
    Port,
    /// `ifname`, 16 bytes, filled with zeros.
    InterfaceName,
}

impl Field {
    const fn number(self) -> u32 {
        match self {
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::EtherAddress => 9,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::InterfaceName => 41,
        }
    }

    const fn len(self) -> u32 {
        match self {
            Self::Protocol => 1,
            Self::Port => 2,
            Self::Ipv4 => 4,
            Self::EtherAddress => 6,
            Self::Ipv6 | Self::InterfaceName => 16,
        }
    }
}

/// Type of a set's keys or of a map's values: one field, or several joined (`ifname . ether_addr`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetType(&'static [Field]);

impl SetType {
    /// `ipv4_addr`
    pub const IPV4: Self = Self(&[Field::Ipv4]);
    /// `ipv6_addr`
    pub const IPV6: Self = Self(&[Field::Ipv6]);
    /// `ifname`
    pub const INTERFACE_NAME: Self = Self(&[Field::InterfaceName]);

    /// The type of these fields in this order, five at most.
    #[must_use]
    pub const fn of(fields: &'static [Field]) -> Self {
        Self(fields)
    }

    fn number(self) -> u32 {
        self.0.iter().fold(0, |number, field| number << BITS_PER_TYPE | field.number())
    }

    /// Joined fields begin at multiples of four bytes.
    fn len(self) -> u32 {
        match self.0 {
            [one] => one.len(),
            fields => fields.iter().map(|field| field.len().next_multiple_of(4)).sum(),
        }
    }
}

/// A key or value of several fields as the kernel takes it: each filled with zeros to a multiple of four bytes.
#[must_use]
pub fn joined(fields: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in fields {
        bytes.extend_from_slice(field);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

/// The changes of one transaction, in their order.
#[derive(Debug)]
pub struct Batch {
    request: Request,
    sets: u32,
}

impl Batch {
    /// A transaction that commits whatever others did meanwhile.
    #[must_use]
    pub fn new() -> Self {
        Self::begin(None)
    }

    /// A transaction that is refused with `ERESTART` if the ruleset is no longer of this generation, i.e. if anyone
    /// changed anything since it was read.
    #[must_use]
    pub fn if_generation(generation: u32) -> Self {
        Self::begin(Some(generation))
    }

    fn begin(generation: Option<u32>) -> Self {
        let mut request = Request::new();
        request.message(NFNL_MSG_BATCH_BEGIN, 0, |w| {
            w.header(&header(0, NFNL_SUBSYS_NFTABLES));
            if let Some(generation) = generation {
                w.be32(NFNL_BATCH_GENID, generation);
            }
        });
        Self { request, sets: 0 }
    }

    /// Whether nothing would change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.request.messages() == 1
    }

    pub(crate) fn finish(mut self) -> Request {
        self.request.message(NFNL_MSG_BATCH_END, 0, |w| {
            w.header(&header(0, NFNL_SUBSYS_NFTABLES));
        });
        self.request
    }

    /// A transaction without an end, which the kernel tries and takes back.
    pub(crate) fn without_end(self) -> Request {
        self.request
    }

    fn push(&mut self, family: Family, message: u16, flags: u16, body: impl FnOnce(&mut Writer<'_>)) -> &mut Self {
        // Not acknowledged one by one: the kernel reports every refusal unasked, and the acknowledgements of a long
        // transaction would not fit into the socket's buffer.
        self.request.message(SUBSYS | message, flags, |w| {
            w.header(&header(family.number(), 0));
            body(w);
        });
        self
    }

    /// Makes a table unless it is there.
    pub fn add_table(&mut self, family: Family, table: &str, comment: &str) -> &mut Self {
        self.push(family, NFT_MSG_NEWTABLE, CREATE, |w| {
            w.str(NFTA_TABLE_NAME, table).attr(NFTA_TABLE_USERDATA, &comment_data(comment));
        })
    }

    /// Makes a chain unless it is there; with a hook it is a base chain that accepts what no rule decides.
    pub fn add_chain(&mut self, family: Family, table: &str, chain: &str, hook: Option<Hook>) -> &mut Self {
        self.push(family, NFT_MSG_NEWCHAIN, CREATE, |w| {
            w.str(NFTA_CHAIN_TABLE, table).str(NFTA_CHAIN_NAME, chain);
            if let Some(hook) = hook {
                w.nest(NFTA_CHAIN_HOOK, |w| {
                    w.be32(NFTA_HOOK_HOOKNUM, hook.number);
                    w.be32(NFTA_HOOK_PRIORITY, hook.priority.cast_unsigned());
                });
                w.str(NFTA_CHAIN_TYPE, hook.kind).be32(NFTA_CHAIN_POLICY, 1);
            }
        })
    }

    /// Removes a chain, which no rule or element may point to any more. Its rules go with it.
    pub fn delete_chain(&mut self, family: Family, table: &str, chain: &str) -> &mut Self {
        self.push(family, NFT_MSG_DELCHAIN, 0, |w| {
            w.str(NFTA_CHAIN_TABLE, table).str(NFTA_CHAIN_NAME, chain);
        })
    }

    /// Adds a rule at the end of a chain.
    pub fn add_rule(
        &mut self,
        family: Family,
        table: &str,
        chain: &str,
        comment: &str,
        body: impl FnOnce(&mut RuleBody<'_, '_>),
    ) -> &mut Self {
        self.new_rule(family, APPEND, table, chain, comment, body)
    }

    /// Adds a rule at the beginning of a chain.
    pub fn insert_rule(
        &mut self,
        family: Family,
        table: &str,
        chain: &str,
        comment: &str,
        body: impl FnOnce(&mut RuleBody<'_, '_>),
    ) -> &mut Self {
        self.new_rule(family, 0, table, chain, comment, body)
    }

    fn new_rule(
        &mut self,
        family: Family,
        flags: u16,
        table: &str,
        chain: &str,
        comment: &str,
        body: impl FnOnce(&mut RuleBody<'_, '_>),
    ) -> &mut Self {
        self.push(family, NFT_MSG_NEWRULE, CREATE | flags, |w| {
            w.str(NFTA_RULE_TABLE, table).str(NFTA_RULE_CHAIN, chain);
            w.nest(NFTA_RULE_EXPRESSIONS, |w| body(&mut RuleBody(w)));
            w.attr(NFTA_RULE_USERDATA, &comment_data(comment));
        })
    }

    /// Removes one rule.
    pub fn delete_rule(&mut self, family: Family, table: &str, chain: &str, handle: u64) -> &mut Self {
        self.push(family, NFT_MSG_DELRULE, 0, |w| {
            w.str(NFTA_RULE_TABLE, table).str(NFTA_RULE_CHAIN, chain).be64(NFTA_RULE_HANDLE, handle);
        })
    }

    /// Makes a set unless it is there.
    pub fn add_set(&mut self, family: Family, table: &str, set: &str, keys: SetType) -> &mut Self {
        self.new_set(family, table, set, keys, 0, |_| ())
    }

    /// Makes a set that rules add to ([`RuleBody::learn`]), of `size` elements at most, unless it is there.
    pub fn add_learning_set(&mut self, family: Family, table: &str, set: &str, keys: SetType, size: u32) -> &mut Self {
        self.new_set(family, table, set, keys, NFT_SET_EVAL, |w| {
            w.nest(NFTA_SET_DESC, |w| {
                w.be32(NFTA_SET_DESC_SIZE, size);
            });
        })
    }

    /// Makes a map from keys to values unless it is there.
    pub fn add_map(&mut self, family: Family, table: &str, map: &str, keys: SetType, values: SetType) -> &mut Self {
        self.new_set(family, table, map, keys, NFT_SET_MAP, |w| {
            w.be32(NFTA_SET_DATA_TYPE, values.number()).be32(NFTA_SET_DATA_LEN, values.len());
        })
    }

    fn new_set(
        &mut self,
        family: Family,
        table: &str,
        set: &str,
        keys: SetType,
        flags: u32,
        more: impl FnOnce(&mut Writer<'_>),
    ) -> &mut Self {
        self.sets += 1;
        let id = self.sets;
        self.push(family, NFT_MSG_NEWSET, CREATE, |w| {
            w.str(NFTA_SET_TABLE, table).str(NFTA_SET_NAME, set).be32(NFTA_SET_ID, id);
            w.be32(NFTA_SET_KEY_TYPE, keys.number()).be32(NFTA_SET_KEY_LEN, keys.len());
            if flags != 0 {
                w.be32(NFTA_SET_FLAGS, flags);
            }
            if keys == SetType::INTERFACE_NAME {
                // Strings are kept in host order; without being told so, nft prints them as empty.
                w.attr(NFTA_SET_USERDATA, &key_byte_order(HOST_ORDER));
            }
            more(w);
        })
    }

    /// Removes a set or map, which no rule may use any more. Its elements go with it.
    pub fn delete_set(&mut self, family: Family, table: &str, set: &str) -> &mut Self {
        self.push(family, NFT_MSG_DELSET, 0, |w| {
            w.str(NFTA_SET_TABLE, table).str(NFTA_SET_NAME, set);
        })
    }

    /// Adds an element; the transaction is refused with `EEXIST` if the set has one of this key.
    pub fn add_element(&mut self, family: Family, table: &str, set: &str, key: &[u8], comment: &str) -> &mut Self {
        self.new_element(family, table, set, key, None, comment)
    }

    /// Adds a key with its value to a map; the transaction is refused with `EEXIST` if the map has the key.
    pub fn add_entry(
        &mut self,
        family: Family,
        table: &str,
        map: &str,
        key: &[u8],
        value: &[u8],
        comment: &str,
    ) -> &mut Self {
        self.new_element(family, table, map, key, Some(value), comment)
    }

    fn new_element(
        &mut self,
        family: Family,
        table: &str,
        set: &str,
        key: &[u8],
        value: Option<&[u8]>,
        comment: &str,
    ) -> &mut Self {
        self.elements(family, NFT_MSG_NEWSETELEM, CREATE | EXCL, table, set, |w| {
            w.nest(NFTA_LIST_ELEM, |w| {
                w.nest(NFTA_SET_ELEM_KEY, |w| {
                    w.attr(NFTA_DATA_VALUE, key);
                });
                if let Some(value) = value {
                    w.nest(NFTA_SET_ELEM_DATA, |w| {
                        w.attr(NFTA_DATA_VALUE, value);
                    });
                }
                w.attr(NFTA_SET_ELEM_USERDATA, &comment_data(comment));
            });
        })
    }

    /// Removes the element of this key; the transaction is refused with `ENOENT` if there is none.
    pub fn delete_element(&mut self, family: Family, table: &str, set: &str, key: &[u8]) -> &mut Self {
        self.elements(family, NFT_MSG_DELSETELEM, 0, table, set, |w| write_key(w, key))
    }

    fn elements(
        &mut self,
        family: Family,
        message: u16,
        flags: u16,
        table: &str,
        set: &str,
        list: impl FnOnce(&mut Writer<'_>),
    ) -> &mut Self {
        self.push(family, message, flags, |w| {
            w.str(NFTA_SET_ELEM_LIST_TABLE, table).str(NFTA_SET_ELEM_LIST_SET, set);
            w.nest(NFTA_SET_ELEM_LIST_ELEMENTS, list);
        })
    }
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

/// Joined types are numbers of so many bits each.
const BITS_PER_TYPE: u32 = 6;

/// nft's own numbers, in a set's user data: type 0 is the byte order of the keys.
const HOST_ORDER: u32 = 1;

fn key_byte_order(order: u32) -> [u8; 6] {
    let [a, b, c, d] = order.to_ne_bytes();
    [0, 4, a, b, c, d]
}

pub(super) fn write_key(w: &mut Writer<'_>, key: &[u8]) {
    w.nest(NFTA_LIST_ELEM, |w| {
        w.nest(NFTA_SET_ELEM_KEY, |w| {
            w.attr(NFTA_DATA_VALUE, key);
        });
    });
}
