//! Faults: each plugin killed, told to end, and refused by the kernel, at every system call that it makes.
//!
//! `strace` injects them into the built binaries, into one process each time: calls are counted per name and process,
//! so a delegate is faulted on its own, in the place where its caller looks for it. What has to hold afterwards is in
//! [`judge`]; which errors a call can have, in [`errors`].
//!
//! Every row of every table is `make faults`. An ordinary run takes a sample: each `FAULTS`th row (40 by default; 1 is
//! all of them), which `FAULTS_SEED` chooses (1 by default); the log says which.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

mod errors;
mod judge;
mod sample;
mod scene;
mod strace;
mod subjects;

use std::io::{self, Write};

use tests::{Host, Place, case, settings, skip};

use crate::{
    judge::{Outcome, judge},
    sample::Sample,
    scene::Scene,
    strace::Verb,
    subjects::Subject,
};

/// Runs the rows of one subject; a line for each verb says what was done.
fn run(subject: &Subject) {
    if settings::is_reference() {
        skip("it has threads: which system call is the next is not known");
    }
    if Host::new().try_run("strace -V").is_err() {
        skip("there is no strace");
    }
    let sample = Sample::from_environment();
    let mut findings = 0;
    let verbs = if subject.is_first || subject.heals { &[Verb::Add][..] } else { &[Verb::Add, Verb::Del] };
    for &verb in verbs {
        let mut scene = Scene::new(subject);
        let calls = scene.calls(verb);
        if subject.is_first {
            scene = Scene::new(subject);
        }
        let mut tally = judge::Tally::default();
        for row in sample.of(subject.name, strace::rows(&calls, subject.is_known)) {
            match judge(&scene, verb, &row) {
                Ok(outcome) => {
                    tally.count(&row, outcome);
                    if outcome == Outcome::WornPod || subject.is_first {
                        scene = Scene::new(subject);
                    }
                }
                Err(finding) => {
                    tally.findings += 1;
                    findings += 1;
                    say(&format!("finding: {} {}: {row}: {finding}", subject.name, verb.name()));
                    // Whatever is wrong with this one is not the next one's.
                    scene = Scene::new(subject);
                }
            }
        }
        if tally.is_poor() {
            findings += 1;
            say(&format!("finding: {} {}: too many faults did not happen: {tally}", subject.name, verb.name()));
        }
        say(&format!("faults: {:<22} {} {:>4} calls: {tally}{sample}", subject.name, verb.name(), calls.len()));
    }
    assert_eq!(findings, 0, "findings, above");
}

fn say(line: &str) {
    _ = writeln!(io::stderr(), "{line}");
}

macro_rules! subjects {
    ($($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            case(|| run(&subjects::$name()));
        })*
    };
}

subjects!(
    bridge,
    bridge_first,
    bridge_host_local,
    bridge_iptables,
    host_local,
    host_local_heals,
    fixed,
    loopback,
    portmap,
    portmap_iptables,
    firewall,
    firewall_same_bridge,
    firewall_isolated,
    firewall_iptables,
    tuning,
    bandwidth,
    flannel,
    flannel_bridge,
    chain_bridge,
    chain_portmap,
    chain_firewall,
    chain_tuning,
    chain_bandwidth,
);
