//! A JSON value that has forgotten nothing: members in order, keys given twice included.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, DeserializeOwned, MapAccess, SeqAccess, Visitor};
use serde_json::Number;

use super::Error;
use super::reader::{Reader, same_key};

/// A JSON value. As a field's type it keeps a part of a config as it is, for [`Node::decode`] later.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Node {
    /// `null`, and what was not given.
    #[default]
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number; an integer is one only if written without fraction and exponent.
    Number(Number),
    /// A string.
    String(String),
    /// An array.
    Array(Vec<Self>),
    /// An object's members in the document's order; a key may occur several times.
    Object(Vec<(String, Self)>),
}

impl Node {
    /// Fills a struct (or anything else) by Go's rules; see [the module](super).
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, Error> {
        T::deserialize(Reader::new(self))
    }

    /// The string at the end of a path of keys, by the same rules as [`decode`](Self::decode) finds it; `None` if it is
    /// missing or something else.
    pub fn text(&self, path: &[&str]) -> Option<&str> {
        let mut found = vec![self];
        for key in path {
            found = found.into_iter().flat_map(|node| node.all(key)).collect();
        }
        match found.last()? {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// Whatever an object's key was given, each time.
    fn all(&self, key: &str) -> impl Iterator<Item = &Self> {
        let members: &[_] = if let Self::Object(members) = self { members } else { &[] };
        members.iter().filter(move |(k, value)| same_key(key, k) && !value.is_null()).map(|(_, value)| value)
    }

    /// Whether it is `null`, or was not given.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }
}

/// The kind of value, and the value where it is short: what an error shows.
impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "a boolean ({value})"),
            Self::Number(value) => write!(f, "a number ({value})"),
            Self::String(value) if value.len() <= 80 => write!(f, "a string ({value:?})"),
            Self::String(_) => f.write_str("a string"),
            Self::Array(_) => f.write_str("an array"),
            Self::Object(_) => f.write_str("an object"),
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Node, E> {
        Number::from_f64(value).map(Node::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Node, E> {
        Ok(Node::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = access.next_element()? {
            elements.push(element);
        }
        Ok(Node::Array(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = access.next_entry()? {
            members.push(member);
        }
        Ok(Node::Object(members))
    }
}
