//! JSON as Go reads it.
//!
//! Configs in the field were only ever read by Go's `encoding/json`, so that what it lets pass is in use: keys of
//! another case, unknown keys, `null` for "not given", keys given twice, invalid UTF-8 and lone surrogates in strings,
//! deep nesting in parts that nobody reads. A document is therefore read in three steps: a lexical pass makes it
//! acceptable to `serde_json`, which reads it into a [`Node`], which keeps everything; and from that [`Node::decode`]
//! fills any `#[derive(Deserialize)]` struct by Go's rules.
//!
//! What a struct sees of these rules:
//! - keys match its fields by Go's case folding; of several, the last one counts, and objects are merged;
//! - `null` leaves a field out (`#[serde(default)]` says what that means), and is the zero value in a list;
//! - numbers are integers where integers are wanted: no fraction, no exponent, in range; booleans are booleans;
//! - an error says where: `ipam.ranges[0][1].subnet: expected a string, found a number (5)`.
//!
//! `#[serde(flatten)]` and the insides of untagged enums do not get the folding of keys.

mod lexical;
mod node;
mod path;
mod reader;

use serde::de::DeserializeOwned;

pub use node::Node;
pub use path::Error;

/// Reads a document, whatever it is about. Errors: what is wrong with the JSON, and where.
pub fn parse(json: &[u8]) -> Result<Node, Error> {
    let text = lexical::prepare(json)?;
    serde_json::from_str(&text).map_err(|e| lexical::syntax_error(&e))
}

/// [`parse`] and [`Node::decode`] in one.
pub fn from_slice<T: DeserializeOwned>(json: &[u8]) -> Result<T, Error> {
    parse(json)?.decode()
}

#[cfg(test)]
mod tests;
