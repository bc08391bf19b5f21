//! Errors that say where in the document they are.

use std::fmt;

use serde::de;

/// What is wrong with a document: the place, if it is about one value, and the problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// From the innermost outwards, as the error meets them on its way up.
    place: Vec<Segment>,
    problem: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Segment {
    Key(String),
    Index(usize),
}

impl Error {
    pub(super) fn new(problem: impl Into<String>) -> Self {
        Self { place: Vec::new(), problem: problem.into() }
    }

    /// The same error within this key or element.
    pub(super) fn within(mut self, segment: Segment) -> Self {
        self.place.push(segment);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, segment) in self.place.iter().rev().enumerate() {
            match segment {
                Segment::Key(key) if n == 0 => f.write_str(key)?,
                Segment::Key(key) => write!(f, ".{key}")?,
                Segment::Index(index) => write!(f, "[{index}]")?,
            }
        }
        if !self.place.is_empty() {
            f.write_str(": ")?;
        }
        f.write_str(&self.problem)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(problem: T) -> Self {
        Self::new(problem.to_string())
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new("required, but missing").within(Segment::Key(field.to_owned()))
    }
}
