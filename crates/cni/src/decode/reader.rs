//! Fills structs from a [`Node`] by Go's rules.

use std::fmt::Display;

use serde::de::value::{StrDeserializer, UnitDeserializer};
use serde::de::{DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};

use super::path::Segment;
use super::{Error, Node};

/// Reads one value. A key that was given several times has several: if they are objects, their members count as one
/// object's, in order; else only the last value is here.
pub(super) struct Reader<'a> {
    node: &'a Node,
    more: Vec<&'a Node>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(node: &'a Node) -> Self {
        Self { node, more: Vec::new() }
    }

    /// The same key once more.
    fn again(&mut self, node: &'a Node) {
        if let (Node::Object(_), Node::Object(_)) = (self.node, node) {
            self.more.push(node);
        } else {
            *self = Self::new(node);
        }
    }

    /// All members, if this is an object; `null` is an empty one.
    fn members(&self) -> Option<Vec<(&'a str, &'a Node)>> {
        let mut all = Vec::new();
        for node in std::iter::once(&self.node).chain(&self.more) {
            match node {
                Node::Object(members) => all.extend(members.iter().map(|(key, value)| (key.as_str(), value))),
                Node::Null => {}
                _ => return None,
            }
        }
        Some(all)
    }

    /// The members that a struct with these fields takes, in the order of the fields.
    fn fields(&self, fields: &'static [&'static str]) -> Option<Vec<(&'static str, Reader<'a>)>> {
        let mut slots: Vec<Option<Self>> = fields.iter().map(|_| None).collect();
        for (key, value) in self.members()? {
            // Left at its default, or at what an earlier key said.
            if value.is_null() {
                continue;
            }
            let exact = fields.iter().position(|field| *field == key);
            let Some(slot) = exact.or_else(|| fields.iter().position(|field| same_key(field, key))) else { continue };
            match &mut slots[slot] {
                Some(reader) => reader.again(value),
                empty => *empty = Some(Self::new(value)),
            }
        }
        Some(fields.iter().copied().zip(slots).filter_map(|(field, slot)| Some((field, slot?))).collect())
    }

    fn mismatch(&self, expected: impl Display) -> Error {
        Error::new(format!("expected {expected}, found {}", self.node))
    }
}

/// Whether Go takes `key` for `field`. Besides ASCII letters, two others fold to letters that field names have:
/// U+017F (long s) and U+212A (Kelvin).
pub(super) fn same_key(field: &str, key: &str) -> bool {
    let fold = |c: char| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    };
    field.chars().map(fold).eq(key.chars().map(fold))
}

/// `null` is 0 here, as for everything that is no field of a struct (those do not see it).
macro_rules! integers {
    ($($method:ident $visit:ident $type:ty),*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            let Node::Number(number) = self.node else {
                return if self.node.is_null() { visitor.$visit(0) } else { Err(self.mismatch("a number")) };
            };
            let value = number.as_i64().map(i128::from).or(number.as_u64().map(i128::from));
            // Go reads -0 as 0; here it has become a float.
            let value = value.or_else(|| number.as_f64().filter(|float| *float == 0.0).filter(|float| float.is_sign_negative()).map(|_| 0));
            let Some(value) = value else { return Err(self.mismatch("an integer")) };
            match <$type>::try_from(value) {
                Ok(value) => visitor.$visit(value),
                Err(_) => Err(self.mismatch(format_args!("a number from {} to {}", <$type>::MIN, <$type>::MAX))),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Reader<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.node {
            Node::Null => visitor.visit_unit(),
            Node::Bool(value) => visitor.visit_bool(*value),
            Node::Number(number) => match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(value), ..) => visitor.visit_u64(value),
                (_, Some(value), _) => visitor.visit_i64(value),
                (.., Some(value)) => visitor.visit_f64(value),
                _ => Err(self.mismatch("a number that fits")),
            },
            Node::String(value) => visitor.visit_borrowed_str(value),
            Node::Array(_) => self.deserialize_seq(visitor),
            Node::Object(_) => self.deserialize_map(visitor),
        }
    }

    integers!(
        deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16, deserialize_i32 visit_i32 i32,
        deserialize_i64 visit_i64 i64, deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32, deserialize_u64 visit_u64 u64
    );

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.node {
            Node::Bool(value) => visitor.visit_bool(*value),
            Node::Null => visitor.visit_bool(false),
            _ => Err(self.mismatch("a boolean")),
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.node {
            Node::Number(number) => visitor.visit_f64(number.as_f64().unwrap_or_default()),
            Node::Null => visitor.visit_f64(0.0),
            _ => Err(self.mismatch("a number")),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.node {
            Node::String(value) => visitor.visit_borrowed_str(value),
            Node::Null => visitor.visit_borrowed_str(""),
            _ => Err(self.mismatch("a string")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.node.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let elements: &[Node] = match self.node {
            Node::Array(elements) => elements,
            Node::Null => &[],
            _ => return Err(self.mismatch("an array")),
        };
        visitor.visit_seq(Elements { rest: elements.iter().enumerate() })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let Some(members) = self.members() else { return Err(self.mismatch("an object")) };
        let members = members.into_iter().map(|(key, value)| (key, Reader::new(value)));
        visitor.visit_map(Members { rest: members, value: None })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let Some(fields) = self.fields(fields) else { return Err(self.mismatch("an object")) };
        visitor.visit_map(Members { rest: fields.into_iter(), value: None })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.node {
            Node::String(name) => visitor.visit_enum(name.as_str().into_deserializer()),
            _ => Err(self.mismatch("a string")),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! { i128 u128 char bytes byte_buf unit unit_struct identifier }
}

struct Elements<'a> {
    rest: std::iter::Enumerate<std::slice::Iter<'a, Node>>,
}

impl<'de> SeqAccess<'de> for Elements<'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some((index, node)) = self.rest.next() else { return Ok(None) };
        seed.deserialize(Reader::new(node)).map(Some).map_err(|e| e.within(Segment::Index(index)))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.rest.len())
    }
}

struct Members<'a, I> {
    rest: I,
    value: Option<(&'a str, Reader<'a>)>,
}

impl<'de, I: Iterator<Item = (&'de str, Reader<'de>)>> MapAccess<'de> for Members<'de, I> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        self.value = self.rest.next();
        let Some((key, _)) = &self.value else { return Ok(None) };
        seed.deserialize(StrDeserializer::new(key)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        match self.value.take() {
            Some((key, reader)) => seed.deserialize(reader).map_err(|e| e.within(Segment::Key(key.to_owned()))),
            // Only if asked for a value without a key.
            None => seed.deserialize(UnitDeserializer::new()),
        }
    }
}
