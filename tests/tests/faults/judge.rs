//! What has to hold after a fault.
//!
//! ADD, killed: DEL leaves nothing, once a delegate that was at work has ended (the kernel tells it to), and a new ADD
//! works. Without a DEL, and with the pod's namespace gone, the next ADD works as well, on a pool without room for two:
//! another pod's, and its own in another namespace. Told to end, or refused something: it succeeds (then CHECK passes, and
//! DEL leaves nothing) or prints an error object and leaves nothing itself. Its undoing can meet no fault then, as there is
//! one alone. Where the fault lasts, the undoing meets it too: what that leaves, DEL removes.
//!
//! DEL, whatever happened to it: where it says that it succeeded, nothing is left on the host (what it could not set back
//! in the pod, which goes, it has said on stderr); where it fails, it says so in an error object, and a second DEL leaves
//! nothing.
//!
//! A process that ends by SIGABRT is taken for a killed one. It may where it cannot return from a pod's namespace,
//! because whatever it did next would be done in the wrong place; nowhere else.
//!
//! And all of it in time: no wait of a plugin's is longer than ten seconds.

use std::{fmt, os::unix::process::ExitStatusExt, time::Duration};

use serde_json::Value;
use tests::Reply;

use crate::{
    scene::Scene,
    strace::{Fault, Row, Verb},
};

/// The longest of the plugins' own waits, and as much again for a machine that has other work.
const IN_TIME: Duration = Duration::from_secs(20);
/// How often a row is tried whose fault did not happen.
const TRIES: usize = 8;
const SIGABRT: i32 = 6;

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// As it has to be.
    Good,
    /// The same, but the pod is not as before, which is of no use for another row.
    WornPod,
    /// The call did not come so often this time.
    DidNotHappen,
}

/// What was done.
#[derive(Default)]
pub(crate) struct Tally {
    kills: usize,
    terms: usize,
    errors: usize,
    lasting: usize,
    unseen: usize,
    pub(crate) findings: usize,
}

impl Tally {
    /// Whether so many calls did not come that the rows say little.
    pub(crate) fn is_poor(&self) -> bool {
        self.unseen > 2 + (self.kills + self.terms + self.errors + self.lasting) / 50
    }

    pub(crate) fn count(&mut self, row: &Row, outcome: Outcome) {
        let count = match (outcome, row.fault) {
            (Outcome::DidNotHappen, _) => &mut self.unseen,
            (_, Fault::Kill) => &mut self.kills,
            (_, Fault::Term) => &mut self.terms,
            (_, Fault::Error(_)) => &mut self.errors,
            (_, Fault::Lasting(_)) => &mut self.lasting,
        };
        *count += 1;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kills, terms, errors, lasting, unseen, findings } = self;
        write!(f, "{kills:>4} killed, {terms:>4} told to end, {errors:>4} refused, {lasting:>3} refused for good, ")?;
        write!(f, "{unseen} did not come again, {findings} findings")
    }
}

/// Runs a row, and says what is wrong.
pub(crate) fn judge(scene: &Scene<'_>, verb: Verb, row: &Row) -> Result<Outcome, String> {
    // The first on a host has no second.
    let tries = if scene.subject.is_first { 1 } else { TRIES };
    for _ in 0..tries {
        let happened = match verb {
            Verb::Add if scene.subject.heals => heal(scene, row),
            Verb::Add => add(scene, row),
            Verb::Del => del(scene, row),
        }?;
        match (happened, scene.is_worn()) {
            (true, false) => return Ok(Outcome::Good),
            (true, true) => return Ok(Outcome::WornPod),
            (false, _) => {}
        }
    }
    if row.depends_on_others() || scene.subject.is_first {
        Ok(Outcome::DidNotHappen)
    } else {
        Err("did not happen".to_owned())
    }
}

/// Whether the fault happened.
fn add(scene: &Scene<'_>, row: &Row) -> Result<bool, String> {
    let (target, plugins) = (scene.subject.target, scene.plugins());
    let previous = scene.add(0..target, scene.first())?;
    let (reply, trace) = scene.faulted(Verb::Add, &previous, Some(row));
    let happened = row.happened(&trace);
    let mut result = Value::Null;
    if reply.status.success() {
        result = reply.result();
        scene.check(&result)?;
    } else {
        let has_undone = ending(scene, row, &reply, &trace)?;
        // In a chain the others' are still there; that plugin by itself is another subject.
        if has_undone && target == 0 {
            nothing(scene.difference(), "it failed", &reply, &trace)?;
        }
    }
    scene.del(0..plugins, &result)?;
    nothing(scene.difference_after_del(), "after DEL", &reply, &trace)?;
    if row.fault == Fault::Kill {
        let result = scene.add(0..plugins, scene.first())?;
        scene.del(0..plugins, &result)?;
        nothing(scene.difference_after_del(), "after a new ADD and DEL", &reply, &trace)?;
    }
    Ok(happened)
}

/// Whether the fault happened.
fn heal(scene: &Scene<'_>, row: &Row) -> Result<bool, String> {
    const KILLED: &str = "killed";
    let mut happened = true;
    for next in ["another", KILLED] {
        let (reply, trace) = scene.add_and_lose(KILLED, row);
        happened &= row.happened(&trace);
        scene.add_and_del(next).map_err(|why| format!("{why}\nafter {reply}\n{}", end_of(&trace)))?;
        scene.add_and_del(KILLED)?;
        nothing(scene.difference_after_del(), "after DEL", &reply, &trace)?;
    }
    Ok(happened)
}

/// Whether the fault happened.
fn del(scene: &Scene<'_>, row: &Row) -> Result<bool, String> {
    let (target, plugins) = (scene.subject.target, scene.plugins());
    let result = scene.add(0..plugins, scene.first())?;
    scene.del(target + 1..plugins, &result)?;
    let (reply, trace) = scene.faulted(Verb::Del, &result, Some(row));
    let happened = row.happened(&trace);
    if reply.status.success() {
        scene.del(0..target, &result)?;
        let mut difference = scene.difference_after_del();
        if !reply.stderr.is_empty() {
            let of_host = |line: &String| !line[2..].starts_with("pod ");
            scene.set_worn(!difference.iter().all(of_host));
            difference.retain(of_host);
        }
        nothing(difference, "DEL says that it succeeded", &reply, &trace)?;
    } else {
        ending(scene, row, &reply, &trace)?;
        scene.del(0..plugins, &result)?;
        nothing(scene.difference_after_del(), "after a second DEL", &reply, &trace)?;
    }
    Ok(happened)
}

fn nothing(difference: Vec<String>, when: &str, reply: &Reply, trace: &str) -> Result<(), String> {
    if difference.is_empty() {
        return Ok(());
    }
    Err(format!("{when}, there is a difference:\n{}\n{reply}\n{}", difference.join("\n"), end_of(trace)))
}

/// Looks at how a failed call ended. Returns whether it has undone what it made.
fn ending(scene: &Scene<'_>, row: &Row, reply: &Reply, trace: &str) -> Result<bool, String> {
    let problem = |what: &str| Err(format!("{what}: {reply}\n{}", end_of(trace)));
    if reply.time > IN_TIME {
        return problem("hangs");
    }
    let was_aborted = reply.status.signal() == Some(SIGABRT) || trace.contains("+++ killed by SIGABRT");
    let may_abort = row.call == "setns";
    match reply.status.code() {
        None if row.fault == Fault::Kill && row.happened(trace) && scene.subject.delegate.is_none() => Ok(false),
        // Its runtime begins without handlers; nothing has been done by then.
        None if row.fault == Fault::Term && row.happened(trace) => Ok(true),
        None if was_aborted && may_abort => Ok(false),
        None => problem("died"),
        Some(_) if was_aborted && !may_abort => problem("its delegate died"),
        Some(_) => {
            let error: Value = match serde_json::from_str(&reply.stdout) {
                Ok(error) => error,
                // Where not even that can be written.
                Err(_) if matches!(row.fault, Fault::Lasting(_)) && row.call == "write" => return Ok(false),
                Err(_) => return problem("stdout is no error object"),
            };
            if !error["code"].is_u64() || error["msg"].as_str().is_none_or(str::is_empty) {
                return problem("the error object is incomplete");
            }
            Ok(!was_aborted && matches!(row.fault, Fault::Term | Fault::Error(_)))
        }
    }
}

fn end_of(trace: &str) -> String {
    let lines: Vec<String> = trace.lines().rev().take(3).map(|line| line.chars().take(160).collect()).collect();
    lines.into_iter().rev().map(|line| format!("    {line}\n")).collect()
}
