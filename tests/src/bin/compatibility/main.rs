//! `docs/compatibility.md`, from the rows that the tests have left ([`tests::report`]), and whether it is still true.
//!
//! ```text
//! compatibility write REPORT DOCUMENT DATE     makes the document anew
//! compatibility check REPORT DOCUMENT          fails where the run that left the report and the document differ
//! compatibility compare REPORT DOCUMENT        the same, of a run that need not have run everything
//! ```

mod document;
mod row;

use std::{env, fs, path::Path, process::ExitCode};

use document::{parse, print, tables};
use row::{Row, merged};

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args[..] {
        ["write", report, document, date] => write(report, document, date),
        ["check", report, document] => check(report, document, true),
        ["compare", report, document] => check(report, document, false),
        _ => Err("usage: compatibility write REPORT DOCUMENT DATE | check|compare REPORT DOCUMENT".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            println!("error: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// What a run on request has found before stays, with its date, until it is made again.
fn write(report: &str, document: &str, date: &str) -> Result<(), String> {
    let mut rows = reported(report)?;
    for row in &mut rows {
        if row.on_request.is_some() {
            row.on_request = Some(date.to_owned());
        }
    }
    if Path::new(document).exists() {
        let known: Vec<_> = rows.iter().map(Row::key).map(|key| key.map(str::to_owned)).collect();
        rows.extend(
            parse(&read(document)?)?
                .into_iter()
                .filter(|row| row.on_request.is_some() && !known.contains(&row.key().map(str::to_owned))),
        );
    }
    fs::write(document, print(&merged(rows), date)).map_err(|error| format!("{document}: {error}"))?;
    println!("{document} is written");
    Ok(())
}

fn check(report: &str, document: &str, everything: bool) -> Result<(), String> {
    let rows = reported(report)?;
    println!("{}", tables(&rows));
    let documented = if Path::new(document).exists() { parse(&read(document)?)? } else { vec![] };
    let mut faults = differences(&rows, &documented, everything);
    faults.dedup();
    if faults.is_empty() {
        println!("{document} says the same.");
        return Ok(());
    }
    Err(format!(
        "{document} is not what was run (versions, counts and date do not count); `make compatibility` makes it anew:\n  {}",
        faults.join("\n  ")
    ))
}

/// How a document differs from a run, in lines.
fn differences(run: &[Row], documented: &[Row], everything: bool) -> Vec<String> {
    let lacks = |rows: &[Row], row: &Row| !rows.iter().any(|other| other.key() == row.key());
    let failed = run.iter().chain(documented).filter(|row| row.result != "passed");
    let unknown = run.iter().filter(|row| lacks(documented, row));
    let not_run = documented.iter().filter(|row| everything && row.on_request.is_none() && lacks(run, row));
    failed
        .map(|row| format!("{row}: {}", row.result))
        .chain(unknown.map(|row| format!("{row}: is not in it")))
        .chain(not_run.map(|row| format!("{row}: was not run")))
        .collect()
}

fn reported(path: &str) -> Result<Vec<Row>, String> {
    let text = read(path)?;
    let rows: Result<Vec<_>, _> = text.lines().filter(|line| !line.trim().is_empty()).map(Row::of_json).collect();
    Ok(merged(rows.map_err(|error| format!("{path}: {error}"))?))
}

fn read(path: &str) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: [&str; 4] = [
        r#"{"kind":"runtime","name":"podman","version":"4.3.1","what":"two networks","result":"passed"}"#,
        r#"{"kind":"kernel","name":"Linux 6.1, qemu","version":"6.1.0-44","what":"VLANs","result":"passed","counts":"9 passed"}"#,
        r#"{"kind":"runtime","name":"containerd","version":"1.6.20","what":"20 pods | 3 at once","result":"passed"}"#,
        r#"{"kind":"runtime","name":"containerd","version":"2.1","what":"STATUS","result":"passed","optional":true}"#,
    ];

    fn rows(lines: &[&str]) -> Vec<Row> {
        merged(lines.iter().map(|line| Row::of_json(line).unwrap()).collect())
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut run = rows(&REPORT);
        assert_eq!(run.iter().filter(|row| row.on_request.is_some()).count(), 1);
        run.iter_mut()
            .filter(|row| row.on_request.is_some())
            .for_each(|row| row.on_request = Some("2026-11-21".into()));
        let text = print(&run, "2026-11-21");
        assert_eq!(parse(&text).unwrap(), run);
        assert_eq!(print(&parse(&text).unwrap(), "2026-11-21"), text);
    }

    #[test]
    fn rows_are_sorted_each_once_and_a_failure_wins() {
        let again = REPORT[0].replace("passed", "FAILED");
        let run = rows(&[REPORT[0], &again, REPORT[0], REPORT[1], REPORT[2]]);
        let names: Vec<_> = run.iter().map(|row| (row.name.as_str(), row.result.as_str())).collect();
        assert_eq!(names, [("containerd", "passed"), ("podman", "FAILED"), ("Linux 6.1, qemu", "passed")]);
    }

    #[test]
    fn versions_and_counts_are_no_difference() {
        let later: Vec<_> = REPORT.map(|line| line.replace("4.3.1", "5.0").replace("9 passed", "8 passed")).into();
        let later: Vec<_> = later.iter().map(String::as_str).collect();
        assert_eq!(differences(&rows(&later), &rows(&REPORT), true), [""; 0]);
    }

    #[test]
    fn what_only_one_of_them_has_is_a_difference() {
        let all = rows(&REPORT);
        let some = rows(&REPORT[1..]);
        assert_eq!(differences(&some, &all, true), ["podman: two networks: was not run"]);
        assert_eq!(differences(&some, &all, false), [""; 0]);
        assert_eq!(differences(&all, &some, false), ["podman: two networks: is not in it"]);
        let not_on_request = rows(&REPORT[..3]);
        assert_eq!(differences(&not_on_request, &all, true), [""; 0]);
        let failed = rows(&[&REPORT[0].replace("passed", "FAILED")]);
        assert_eq!(differences(&[], &failed, false), ["podman: two networks: FAILED"]);
        assert_eq!(differences(&failed, &rows(&REPORT), false), ["podman: two networks: FAILED"]);
    }
}
