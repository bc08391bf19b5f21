//! The suite itself.

use std::{collections::BTreeSet, env, process::Command};

use tests::{case, expected::FAILURES};

#[test]
fn every_expected_failure_is_a_test() {
    case(|| {
        let output = Command::new(env::current_exe().unwrap()).args(["--list", "--format=terse"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let tests: BTreeSet<_> = text.lines().filter_map(|line| line.strip_suffix(": test")).collect();
        let listed: Vec<&str> = FAILURES.iter().flat_map(|(_, tests)| *tests).copied().collect();
        let unknown: Vec<_> = listed.iter().filter(|name| !tests.contains(*name)).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
        assert_eq!(listed.iter().collect::<BTreeSet<_>>().len(), listed.len(), "a test is listed twice");
    });
}
