//! What was run with which program or on which kernel, for `docs/compatibility.md`: a line of JSON for each test,
//! appended to the file that `OXBRIDGE_REPORT` names (without it, nothing is written). With `OXBRIDGE_OPTIONAL` the run is one
//! on request, which CI does not have. Scripts leave such lines as well: `report_row` in `scripts/lib.sh`.

use std::{env, fs::OpenOptions, io::Write};

use serde_json::json;

/// What the suite is tried with.
pub struct Subject {
    /// `runtime`, `kernel` or `architecture`.
    pub kind: &'static str,
    /// As people call it: `containerd`.
    pub name: String,
    /// As it prints it itself.
    pub version: String,
}

/// Adds a row: what was run, in words for an operator, and how it ended.
pub fn add(subject: &Subject, what: &str, result: &str) {
    let Some(path) = env::var_os("OXBRIDGE_REPORT") else { return };
    let Subject { kind, name, version } = subject;
    let optional = env::var_os("OXBRIDGE_OPTIONAL").is_some();
    let row = json!({
        "kind": kind, "name": name, "version": version, "what": what, "result": result, "optional": optional
    });
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    // One write, so that tests in parallel do not mix their lines.
    file.write_all(format!("{row}\n").as_bytes()).unwrap();
}
