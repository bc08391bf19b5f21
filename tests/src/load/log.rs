//! How the calls of a run went.

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, Write as _},
    sync::Mutex,
    time::{Duration, Instant},
};

use super::{Books, network::OfHost};
use crate::{Reply, chained::Suite};

/// Shared by all workers.
#[derive(Default)]
pub struct Log(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    times: BTreeMap<(String, &'static str), Vec<Duration>>,
    refusals: BTreeMap<String, usize>,
    of_reference: BTreeMap<String, usize>,
    disturbances: BTreeMap<&'static str, usize>,
    faults: Vec<String>,
}

/// What of it a person wants to read.
pub struct Report(Inner);

/// When a refusal of ADD says the truth.
struct Refusal {
    text: &'static str,
    is_true: fn(&str, &OfHost, &Books, Instant) -> bool,
}

/// All that ADD may be refused for. Everything else is a fault.
const REFUSALS: [Refusal; 3] = [
    Refusal {
        text: "no IP addresses available in range set",
        // The one that was refused is counted, too.
        is_true: |_, network, books, since| books.most(network.name, since) > network.capacity,
    },
    Refusal {
        text: "is already published by container",
        is_true: |text, _, books, since| {
            let holder = text.split_once("is already published by container ").map(|(_, rest)| rest);
            let id = holder.and_then(|rest| rest.split([' ', '…', '"']).next()).unwrap_or_default();
            books.may_have_lived(id, since)
        },
    },
    // A container started again, whose host link the kernel has not removed yet.
    Refusal { text: "duplicate allocation is not allowed", is_true: |text, _, _, _| text.contains("its host link") },
];

impl Log {
    /// A call has ended.
    pub fn time(&self, verb: &str, plugin: &str, by: Suite, time: Duration) {
        self.inner().times.entry((format!("{verb} {plugin}"), name(by))).or_default().push(time);
    }

    /// Something was done on purpose that should not happen.
    pub fn disturbed(&self, what: &'static str) {
        *self.inner().disturbances.entry(what).or_default() += 1;
    }

    /// A call of ours that must not fail, or what must not be otherwise.
    pub fn fault(&self, text: String) {
        _ = writeln!(io::stderr(), "load: fault: {text}");
        self.inner().faults.push(text);
    }

    /// An ADD of ours failed.
    pub(super) fn refused(&self, what: &str, reply: &Reply, network: &OfHost, books: &Books, since: Instant) {
        let text = &reply.stdout;
        match REFUSALS.iter().find(|refusal| text.contains(refusal.text)) {
            Some(refusal) if (refusal.is_true)(text, network, books, since) => {
                *self.inner().refusals.entry(refusal.text.to_owned()).or_default() += 1;
            }
            Some(_) => self.fault(format!("{what} is refused, and that is not so: {reply}")),
            None if text.contains("\"code\":11") || text.contains("\"code\": 11") => {
                *self.inner().refusals.entry(general(text)).or_default() += 1;
            }
            None => self.fault(format!("{what}: {reply}")),
        }
    }

    /// A call of the reference failed.
    pub fn reference_failed(&self, what: &str, reply: &Reply) {
        let text = format!("{what}: {}", general(&reply.stdout));
        *self.inner().of_reference.entry(text).or_default() += 1;
    }

    /// The end of the run.
    pub fn into_report(self) -> Report {
        Report(self.0.into_inner().unwrap())
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }
}

impl Report {
    /// What went wrong with ours.
    pub fn faults(&self) -> &[String] {
        &self.0.faults
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { times, refusals, of_reference, disturbances, faults } = &self.0;
        writeln!(
            f,
            "{:<20} {:<10} {:>6} {:>9} {:>9} {:>9} {:>9}",
            "call", "by", "number", "50 %", "90 %", "99 %", "most"
        )?;
        for ((what, by), times) in times {
            let mut sorted = times.clone();
            sorted.sort_unstable();
            let at = |percent: usize| millis(sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]);
            writeln!(
                f,
                "{what:<20} {by:<10} {:>6} {:>9} {:>9} {:>9} {:>9}",
                sorted.len(),
                at(50),
                at(90),
                at(99),
                at(100)
            )?;
        }
        list(f, "disturbances", disturbances)?;
        list(f, "honest refusals", refusals)?;
        list(f, "failures of the reference", of_reference)?;
        writeln!(f, "faults of ours: {}", faults.len())
    }
}

fn list(f: &mut fmt::Formatter<'_>, title: &str, counts: &BTreeMap<impl fmt::Display, usize>) -> fmt::Result {
    writeln!(f, "{title}:")?;
    counts.iter().try_for_each(|(text, count)| writeln!(f, "{count:>6} {text}"))
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

/// How a suite is called in tables.
pub(super) fn name(by: Suite) -> &'static str {
    match by {
        Suite::Tested => "ours",
        Suite::Reference => "reference",
    }
}

/// The text without what differs from pod to pod, in one line.
fn general(text: &str) -> String {
    let is_particular = |word: &&str| {
        let word = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        word.chars().any(|c| c.is_ascii_digit()) && word.len() > 3
    };
    let words = text.split_whitespace().map(|word| if is_particular(&word) { "#" } else { word });
    words.collect::<Vec<_>>().join(" ").chars().take(220).collect()
}
