//! Markdown tables, and the few formats of their cells.

use std::{fmt, time::Duration};

/// Rows of text under a header.
pub(crate) struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(header: &[&str]) -> Self {
        Self { header: header.iter().map(|&cell| cell.to_owned()).collect(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// A row of a median that is compared with nothing.
    pub(crate) fn single(&mut self, what: impl Into<String>, measured: &[Duration]) {
        self.row(vec![what.into(), time(median(measured)), String::new(), String::new(), String::new()]);
    }

    /// A row that compares two medians with the limit of their ratio, if there is one.
    pub(crate) fn compare(
        &mut self,
        what: impl Into<String>,
        measured: &[Duration],
        base: &[Duration],
        limit: Option<f64>,
    ) {
        let (measured, base) = (median(measured), median(base));
        let ratio = measured.as_secs_f64() / base.as_secs_f64();
        self.row(vec![
            what.into(),
            time(measured),
            time(base),
            within(format!("{ratio:.2}"), limit.is_none_or(|limit| ratio <= limit)),
            limit.map_or(String::new(), |limit| format!("≤ {limit:.2}")),
        ]);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| {} |", self.header.join(" | "))?;
        writeln!(f, "|---|{}", "--:|".repeat(self.header.len().saturating_sub(1)))?;
        for row in &self.rows {
            writeln!(f, "| {} |", row.join(" | "))?;
        }
        Ok(())
    }
}

/// The text of a value, marked when its limit is missed.
pub(crate) fn within(value: String, kept: bool) -> String {
    if kept { value } else { format!("**{value} missed**") }
}

/// The middle one of the samples; zero without samples.
pub(crate) fn median(samples: &[Duration]) -> Duration {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// In milliseconds, or microseconds where those would not tell.
fn time(duration: Duration) -> String {
    let milliseconds = duration.as_secs_f64() * 1e3;
    if milliseconds < 0.1 { format!("{:.1} µs", milliseconds * 1e3) } else { format!("{milliseconds:.2} ms") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compare_marks_only_a_missed_limit() {
        let millis = |values: &[u64]| values.iter().map(|&ms| Duration::from_millis(ms)).collect::<Vec<_>>();
        let mut table = Table::new(&["what", "ours", "peer", "ratio", "limit"]);
        table.compare("kept", &millis(&[3, 1, 2]), &millis(&[10]), Some(0.2));
        table.compare("missed", &millis(&[3]), &millis(&[10]), Some(0.2));
        table.compare("no limit", &millis(&[3]), &millis(&[10]), None);
        let text = table.to_string();
        assert!(text.contains("| kept | 2.00 ms | 10.00 ms | 0.20 | ≤ 0.20 |"), "{text}");
        assert!(text.contains("| missed | 3.00 ms | 10.00 ms | **0.30 missed** | ≤ 0.20 |"), "{text}");
        assert!(text.contains("| no limit | 3.00 ms | 10.00 ms | 0.30 |  |"), "{text}");
    }
}
