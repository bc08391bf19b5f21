//! Reading the ruleset and committing transactions.

use nix::errno::Errno;

use super::batch::{Batch, write_key};
use super::rule::{Offset, Verdict};
use super::uapi::*;
use super::{Family, header, read_comment};
use crate::wire::{ACK, Attrs, Message, Request, u32_be, u64_be};
use crate::{Error, Protocol, Result, Socket};

const NFGENMSG_LEN: usize = 4;
/// Requests up to this size need no larger send buffer than every system allows.
const PLAIN_REQUEST: usize = 64 * 1024;

/// A rule as it is in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its chain.
    pub chain: String,
    /// Number by which it can be deleted.
    pub handle: u64,
    /// Its comment.
    pub comment: Option<String>,
    /// Its expressions, as the kernel encodes them.
    pub expressions: Vec<u8>,
}

impl Rule {
    /// The chain that the rule's last expression jumps or goes to.
    #[must_use]
    pub fn target(&self) -> Option<String> {
        let (name, data) = self.parsed_expressions().last()?;
        if name != "immediate" {
            return None;
        }
        match verdict(data.nested(2))? {
            Verdict::Jump(chain) | Verdict::Goto(chain) => Some(chain),
            _ => None,
        }
    }

    /// The values that the rule compares with, in order: `cmp` of whatever was loaded before.
    #[must_use]
    pub fn compared_values(&self) -> Vec<Vec<u8>> {
        self.parsed_expressions()
            .filter(|(name, _)| name == "cmp")
            .filter_map(|(_, data)| data.nested(3).find(NFTA_DATA_VALUE).map(<[u8]>::to_vec))
            .collect()
    }

    /// What an extension of x_tables is told to match, as the kernel encodes it (`struct xt_*_info`): the first of this
    /// name.
    #[must_use]
    pub fn match_info(&self, extension: &str) -> Option<Vec<u8>> {
        self.parsed_expressions()
            .filter(|(name, _)| name == "match")
            .map(|(_, data)| data.0)
            .find(|data| Attrs(data).string(NFTA_MATCH_NAME).as_deref() == Some(extension))
            .and_then(|data| Attrs(data).find(NFTA_MATCH_INFO).map(<[u8]>::to_vec))
    }

    /// What it does, step by step. Two rules that do the same in other words are not the same by this.
    #[must_use]
    pub fn steps(&self) -> Vec<Expression> {
        self.parsed_expressions().map(|(name, data)| Expression::read(name, data)).collect()
    }

    pub(super) fn parsed_expressions(&self) -> impl Iterator<Item = (String, Attrs<'_>)> {
        Attrs(&self.expressions).filter_map(|(_, expression)| {
            let expression = Attrs(expression);
            Some((expression.string(NFTA_EXPR_NAME)?, expression.nested(NFTA_EXPR_DATA)))
        })
    }
}

/// One step of a rule, as far as rules can be compared by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expression {
    /// Takes some of the packet's bytes.
    Packet(Offset),
    /// Goes on if what was taken is this.
    Equals(Vec<u8>),
    /// Goes on if a match of x_tables says so.
    Match {
        /// Its name.
        name: String,
        /// Which of its forms.
        revision: u32,
        /// What it is told, as only that form knows it; padded.
        data: Vec<u8>,
    },
    /// Counts.
    Counter,
    /// Ends.
    Verdict(Verdict),
    /// Anything else, by its name.
    Other(String),
}

impl Expression {
    fn read(name: String, data: Attrs<'_>) -> Self {
        let number = |kind| data.find(kind).and_then(u32_be);
        let known = match name.as_str() {
            "payload" => match (number(NFTA_PAYLOAD_BASE), number(NFTA_PAYLOAD_OFFSET), number(NFTA_PAYLOAD_LEN)) {
                (Some(base), Some(at), Some(len)) => Some(Self::Packet(Offset { base, at, len })),
                _ => None,
            },
            "cmp" if number(NFTA_CMP_OP) == Some(NFT_CMP_EQ) => {
                data.nested(NFTA_CMP_DATA).find(NFTA_DATA_VALUE).map(|value| Self::Equals(value.to_vec()))
            }
            "match" => match (data.string(NFTA_MATCH_NAME), number(NFTA_MATCH_REV), data.find(NFTA_MATCH_INFO)) {
                (Some(name), Some(revision), Some(data)) => Some(Self::Match { name, revision, data: data.to_vec() }),
                _ => None,
            },
            "counter" => Some(Self::Counter),
            "immediate" => verdict(data.nested(NFTA_IMMEDIATE_DATA)).map(Self::Verdict),
            _ => None,
        };
        known.unwrap_or(Self::Other(name))
    }
}

/// An element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// Its key.
    pub key: Vec<u8>,
    /// In a map: what the key leads to. None for a verdict.
    pub value: Option<Vec<u8>>,
    /// Its comment; the elements of this project begin with their owner's identity.
    pub comment: Option<String>,
}

/// A chain that packets come into from a hook, as it is in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseChain {
    /// Family of its table.
    pub family: Family,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Where it hooks: `NF_INET_*` or `NF_BR_*`.
    pub hook: u32,
    /// `filter`, `nat` or `route`.
    pub kind: String,
    /// Among the chains of the hook; lower comes first.
    pub priority: i32,
    /// Whether it drops what no rule of it decides.
    pub drops: bool,
}

/// The nf_tables of one network namespace: that of the calling thread when it was opened.
#[derive(Debug)]
pub struct Nft {
    socket: Socket,
}

impl From<Socket> for Nft {
    fn from(socket: Socket) -> Self {
        Self { socket }
    }
}

impl Nft {
    /// Opens it; `EPROTONOSUPPORT` or `EINVAL` on first use if the kernel has no nf_tables.
    pub fn open() -> Result<Self> {
        Socket::open(Protocol::Netfilter).map(Self::from)
    }

    /// Number that changes with every commit of anyone.
    pub fn generation(&mut self) -> Result<u32> {
        let mut request = Request::new();
        request.message(SUBSYS | NFT_MSG_GETGEN, ACK, |w| {
            w.header(&header(0, 0));
        });
        let answer = self.socket.get(
            &request,
            |_| false,
            |m| {
                (m.kind == SUBSYS | NFT_MSG_NEWGEN)
                    .then(|| Attrs::behind(m.body, NFGENMSG_LEN).find(NFTA_GEN_ID).and_then(u32_be))
                    .flatten()
            },
        )?;
        answer.ok_or_else(|| Errno::EPROTO.into())
    }

    /// Carries out a transaction.
    pub fn commit(&mut self, batch: Batch) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let request = batch.finish();
        if request.bytes().len() > PLAIN_REQUEST {
            self.socket.grow_send_buffer(request.bytes().len() * 2);
        }
        self.socket.transact(&request, |_| ())
    }

    /// Whether the kernel would carry out a transaction: it is tried and taken back, as `nft -c` has it.
    pub fn try_out(&mut self, batch: Batch) -> Result<()> {
        self.socket.transact(&batch.without_end(), |_| ())
    }

    /// Whether there is such a chain.
    pub fn has_chain(&mut self, family: Family, table: &str, chain: &str) -> Result<bool> {
        let mut request = Request::new();
        request.message(SUBSYS | NFT_MSG_GETCHAIN, ACK, |w| {
            w.header(&header(family.number(), 0)).str(NFTA_CHAIN_TABLE, table).str(NFTA_CHAIN_NAME, chain);
        });
        Ok(self.socket.get(&request, is_missing, |m| (m.kind == SUBSYS | NFT_MSG_NEWCHAIN).then_some(()))?.is_some())
    }

    /// All base chains of these families' tables, less those of dormant tables, which no packet comes by.
    pub fn base_chains(&mut self, families: &[Family]) -> Result<Vec<BaseChain>> {
        let mut all = Vec::new();
        for family in families {
            let found = self.socket.dump(
                SUBSYS | NFT_MSG_GETCHAIN,
                |w| {
                    w.header(&header(family.number(), 0));
                },
                |m| read_base_chain(&m, *family),
            );
            let dormant = self.dormant_tables(*family)?;
            all.extend(none_if_missing(found)?.into_iter().filter(|chain| !dormant.contains(&chain.table)));
        }
        Ok(all)
    }

    /// Names of the tables of the family that are switched off.
    fn dormant_tables(&mut self, family: Family) -> Result<Vec<String>> {
        let found = self.socket.dump(
            SUBSYS | NFT_MSG_GETTABLE,
            |w| {
                w.header(&header(family.number(), 0));
            },
            |m| {
                let attrs = (m.kind == SUBSYS | NFT_MSG_NEWTABLE).then(|| Attrs::behind(m.body, NFGENMSG_LEN))?;
                let flags = attrs.find(NFTA_TABLE_FLAGS).and_then(u32_be)?;
                (flags & NFT_TABLE_F_DORMANT != 0).then(|| attrs.string(NFTA_TABLE_NAME)).flatten()
            },
        );
        none_if_missing(found)
    }

    /// The rules of a table, of one chain only if it is named; none if there is no such table.
    pub fn rules(&mut self, family: Family, table: &str, chain: Option<&str>) -> Result<Vec<Rule>> {
        let found = self.socket.dump(
            SUBSYS | NFT_MSG_GETRULE,
            |w| {
                w.header(&header(family.number(), 0)).str(NFTA_RULE_TABLE, table);
                if let Some(chain) = chain {
                    w.str(NFTA_RULE_CHAIN, chain);
                }
            },
            |m| read_rule(&m),
        );
        none_if_missing(found)
    }

    /// Names of the sets and maps of a table; none if there is no such table.
    pub fn sets(&mut self, family: Family, table: &str) -> Result<Vec<String>> {
        let found = self.socket.dump(
            SUBSYS | NFT_MSG_GETSET,
            |w| {
                w.header(&header(family.number(), 0)).str(NFTA_SET_TABLE, table);
            },
            |m| {
                let is_set = m.kind == SUBSYS | NFT_MSG_NEWSET;
                is_set.then(|| Attrs::behind(m.body, NFGENMSG_LEN).string(NFTA_SET_NAME)).flatten()
            },
        );
        none_if_missing(found)
    }

    /// The elements of a set or map; none if there is no such set.
    pub fn elements(&mut self, family: Family, table: &str, set: &str) -> Result<Vec<Element>> {
        let found = self.socket.dump(
            SUBSYS | NFT_MSG_GETSETELEM,
            |w| {
                w.header(&header(family.number(), 0));
                w.str(NFTA_SET_ELEM_LIST_TABLE, table).str(NFTA_SET_ELEM_LIST_SET, set);
            },
            |m| Some(read_elements(&m)),
        );
        Ok(none_if_missing(found)?.into_iter().flatten().collect())
    }

    /// The element of this key, if there is one.
    pub fn element(&mut self, family: Family, table: &str, set: &str, key: &[u8]) -> Result<Option<Element>> {
        let mut request = Request::new();
        request.message(SUBSYS | NFT_MSG_GETSETELEM, ACK, |w| {
            w.header(&header(family.number(), 0));
            w.str(NFTA_SET_ELEM_LIST_TABLE, table).str(NFTA_SET_ELEM_LIST_SET, set);
            w.nest(NFTA_SET_ELEM_LIST_ELEMENTS, |w| write_key(w, key));
        });
        self.socket.get(&request, is_missing, |m| read_elements(&m).into_iter().next())
    }
}

/// Whether the kernel says that there is no such table, chain, set or element, or that nothing can have so long a name.
fn is_missing(error: &Error) -> bool {
    error.is(Errno::ENOENT) || error.is(Errno::ERANGE)
}

fn none_if_missing<T>(found: Result<Vec<T>>) -> Result<Vec<T>> {
    match found {
        Err(error) if is_missing(&error) => Ok(Vec::new()),
        found => found,
    }
}

fn read_rule(message: &Message<'_>) -> Option<Rule> {
    if message.kind != SUBSYS | NFT_MSG_NEWRULE {
        return None;
    }
    let attrs = Attrs::behind(message.body, NFGENMSG_LEN);
    Some(Rule {
        chain: attrs.string(NFTA_RULE_CHAIN)?,
        handle: attrs.find(NFTA_RULE_HANDLE).and_then(u64_be)?,
        comment: attrs.find(NFTA_RULE_USERDATA).and_then(read_comment),
        expressions: attrs.find(NFTA_RULE_EXPRESSIONS).unwrap_or_default().to_vec(),
    })
}

fn read_base_chain(message: &Message<'_>, family: Family) -> Option<BaseChain> {
    if message.kind != SUBSYS | NFT_MSG_NEWCHAIN {
        return None;
    }
    let attrs = Attrs::behind(message.body, NFGENMSG_LEN);
    let hook = Attrs(attrs.find(NFTA_CHAIN_HOOK)?);
    Some(BaseChain {
        family,
        table: attrs.string(NFTA_CHAIN_TABLE)?,
        name: attrs.string(NFTA_CHAIN_NAME)?,
        hook: hook.find(NFTA_HOOK_HOOKNUM).and_then(u32_be)?,
        kind: attrs.string(NFTA_CHAIN_TYPE)?,
        priority: hook.find(NFTA_HOOK_PRIORITY).and_then(u32_be)?.cast_signed(),
        drops: attrs.find(NFTA_CHAIN_POLICY).and_then(u32_be) == Some(0),
    })
}

fn read_elements(message: &Message<'_>) -> Vec<Element> {
    if message.kind != SUBSYS | NFT_MSG_NEWSETELEM {
        return Vec::new();
    }
    Attrs::behind(message.body, NFGENMSG_LEN)
        .nested(NFTA_SET_ELEM_LIST_ELEMENTS)
        .filter_map(|(_, element)| {
            let element = Attrs(element);
            Some(Element {
                key: element.nested(NFTA_SET_ELEM_KEY).find(NFTA_DATA_VALUE)?.to_vec(),
                value: element.nested(NFTA_SET_ELEM_DATA).find(NFTA_DATA_VALUE).map(<[u8]>::to_vec),
                comment: element.find(NFTA_SET_ELEM_USERDATA).and_then(read_comment),
            })
        })
        .collect()
}

fn verdict(data: Attrs<'_>) -> Option<Verdict> {
    let verdict = data.nested(NFTA_DATA_VERDICT);
    let code = u32_be(verdict.find(NFTA_VERDICT_CODE)?)?.cast_signed();
    Verdict::read(code, verdict.string(NFTA_VERDICT_CHAIN))
}
