//! Replays the corpus of the fuzz targets (`fuzz/corpus`): what fuzzing found once is an
//! ordinary test from then on. Needs neither root nor libFuzzer.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::{fs, path::Path};

/// Runs every input of a target; each must pass without a panic.
fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut inputs: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{} is empty", folder.display());
    for input in inputs {
        // Shown when the check panics: which input it was.
        println!("{}", input.display());
        check(&fs::read(&input).unwrap());
    }
}

#[test]
fn stdin() {
    replay("stdin", fuzz_checks::stdin);
}

#[test]
fn prev_result() {
    replay("prev_result", fuzz_checks::prev_result);
}

#[test]
fn cni_args() {
    replay("cni_args", fuzz_checks::cni_args);
}

#[test]
fn subnet_env() {
    replay("subnet_env", fuzz_checks::subnet_env);
}

#[test]
fn store() {
    replay("store", fuzz_checks::store);
}

#[test]
fn index() {
    replay("index", fuzz_checks::index);
}

#[test]
fn netlink() {
    replay("netlink", fuzz_checks::netlink);
}

#[test]
fn nftables() {
    replay("nftables", fuzz_checks::nftables);
}
