//! One line of the matrix.

use std::fmt;

use serde_json::Value;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Row {
    /// Index in [`KINDS`].
    pub(crate) kind: usize,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) what: String,
    /// `passed`, or anything else.
    pub(crate) result: String,
    /// How many tests, in words; or nothing.
    pub(crate) counts: String,
    /// Not part of every run: the day of the last one, empty if it is not known yet.
    pub(crate) on_request: Option<String>,
}

/// The sections: a row's kind, the title, and what the first column is called.
pub(crate) const KINDS: [(&str, &str, &str); 3] = [
    ("runtime", "Runtimes and clients", "runtime"),
    ("kernel", "Kernels", "kernel"),
    ("architecture", "Architectures", "architecture"),
];

impl Row {
    /// A line of the report (`tests::report`).
    pub(crate) fn of_json(line: &str) -> Result<Self, String> {
        let row: Value = serde_json::from_str(line).map_err(|error| format!("{line:?}: {error}"))?;
        let optional = |key: &str| row[key].as_str().map(cell).unwrap_or_default();
        let field = |key: &str| Some(optional(key)).filter(|v| !v.is_empty()).ok_or(format!("{line:?} has no {key:?}"));
        let kind = field("kind")?;
        Ok(Self {
            kind: KINDS.iter().position(|k| k.0 == kind).ok_or(format!("{line:?}: unknown kind {kind:?}"))?,
            name: field("name")?,
            version: field("version")?,
            what: field("what")?,
            result: field("result")?,
            counts: optional("counts"),
            on_request: (row["optional"] == true).then(String::new),
        })
    }

    /// What makes it this row, whatever version was met.
    pub(crate) fn key(&self) -> [&str; 3] {
        [KINDS[self.kind].0, &self.name, &self.what]
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.what)
    }
}

/// Sorted, and each once: the last counts, and a failure if there was any.
pub(crate) fn merged(rows: Vec<Row>) -> Vec<Row> {
    let mut all: Vec<Row> = vec![];
    for row in rows {
        match all.iter_mut().find(|other| other.key() == row.key() && other.version == row.version) {
            Some(other) if other.result == "passed" || row.result != "passed" => *other = row,
            Some(_) => {}
            None => all.push(row),
        }
    }
    all.sort();
    all
}

/// What a cell of a table can hold.
fn cell(text: &str) -> String {
    text.replace('|', "/").split_whitespace().collect::<Vec<_>>().join(" ")
}
