//! The document: a section with a table for each kind of rows.

use std::fmt::Write;

use crate::row::{KINDS, Row};

const ON_REQUEST: &str = ", on request ";

/// The whole document.
pub(crate) fn print(rows: &[Row], date: &str) -> String {
    format!(
        "# Compatibility

What the suite was run with on {date}, and how that ended. This page is made by `make compatibility` from what the tests
leave; a run of CI whose rows differ from it fails. What was not run is not in it.

*All end-to-end tests* includes those that skip themselves because a kernel lacks what they need; *on request* is what CI
does not run, with the day of the last run.

{}",
        tables(rows)
    )
}

/// The tables alone.
pub(crate) fn tables(rows: &[Row]) -> String {
    let mut text = String::new();
    for (kind, (_, title, first)) in KINDS.iter().enumerate() {
        let of_kind: Vec<_> = rows.iter().filter(|row| row.kind == kind).collect();
        if of_kind.is_empty() {
            continue;
        }
        let separator = if text.is_empty() { "" } else { "\n" };
        _ = write!(
            text,
            "{separator}## {title}\n\n| {first} | version | what was run | result | tests |\n|---|---|---|---|---|\n"
        );
        for Row { name, version, what, result, counts, on_request, .. } in of_kind {
            let on_request = on_request.as_ref().map(|day| format!("{ON_REQUEST}{day}")).unwrap_or_default();
            _ = writeln!(text, "| {name} | {version} | {what} | {result}{on_request} | {counts} |");
        }
    }
    text
}

/// The rows of a document.
pub(crate) fn parse(text: &str) -> Result<Vec<Row>, String> {
    let mut kind = None;
    let mut rows = vec![];
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            kind = Some(KINDS.iter().position(|k| k.1 == title).ok_or(format!("unknown section {title:?}"))?);
        }
        let (Some(kind), Some(line)) = (kind, line.strip_prefix("| ").and_then(|line| line.strip_suffix('|'))) else {
            continue;
        };
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [name, version, what, result, counts] = cells[..] else {
            return Err(format!("a row of five cells is expected, not {line:?}"));
        };
        if (name, version) == (KINDS[kind].2, "version") {
            continue;
        }
        let (result, day) = result.split_once(ON_REQUEST).map_or((result, None), |(r, day)| (r, Some(day.to_owned())));
        rows.push(Row {
            kind,
            name: name.into(),
            version: version.into(),
            what: what.into(),
            result: result.into(),
            counts: counts.into(),
            on_request: day,
        });
    }
    Ok(rows)
}
