//! Measures two suites of CNI plugins side by side and prints Markdown tables.
//!
//! `bench OURS PEER [--short|--scale]`, both the folders of a suite's binaries; run by `make bench`,
//! as root, in network, mount and process namespaces of its own. It is a report for people:
//! a missed limit is marked in the table and changes nothing else.
//!
//! What makes the numbers comparable: each suite has a host network namespace of its own, so
//! that neither pays for the other's rules; every pod has a namespace of its own; the calls
//! of the two take turns, and each goes first as often as the other; medians are compared.

#![allow(clippy::print_stderr, reason = "a program at a terminal, whose table goes to stdout")]

mod call;
mod chain;
mod connection;
mod netns;
mod scale;
mod scenario;
mod table;

use call::Suite;
use std::{env, error::Error, fs, process::ExitCode, thread};
use table::Table;

/// How much is measured.
#[derive(Clone, Copy)]
struct Size {
    /// Pods of each measured series.
    pods: usize,
    /// Attachments on the bridge of the "many pods" series.
    attached: usize,
    /// Reservations in the "many reservations" series.
    reservations: usize,
    /// Reservations in the series of ours alone.
    many_reservations: usize,
    /// Published ports in the "many ports" series.
    ports: usize,
    /// Connections of each of its runs.
    connections: usize,
    /// Reservations, published ports and attachments of the "full host" series.
    full: Option<Full>,
}

/// How full a host can be.
#[derive(Clone, Copy)]
struct Full {
    reservations: usize,
    ports: usize,
    attached: usize,
}

const FULL: Size = Size {
    pods: 30,
    attached: 500,
    reservations: 16_000,
    many_reservations: 60_000,
    ports: 1_000,
    connections: 2_000,
    full: Some(Full { reservations: 60_000, ports: 5_000, attached: 2_000 }),
};
const SHORT: Size = Size {
    pods: 8,
    attached: 60,
    reservations: 2_000,
    many_reservations: 5_000,
    ports: 200,
    connections: 300,
    full: None,
};

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let (size, only_scale, folders): (Size, bool, &[String]) = match args.as_slice() {
        [folders @ .., last] if last == "--short" => (SHORT, false, folders),
        [folders @ .., last] if last == "--scale" => (FULL, true, folders),
        folders => (FULL, false, folders),
    };
    let [ours, peer] = folders else {
        eprintln!("usage: bench OURS PEER [--short|--scale]");
        return ExitCode::FAILURE;
    };
    let (ours, peer) = (Suite::new(ours), Suite::new(peer));
    match if only_scale { scale_report(&ours, size) } else { report(&ours, &peer, size) } {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the series of full hosts alone.
fn scale_report(ours: &Suite, size: Size) -> Result<(), Box<dyn Error>> {
    let mut own = Table::new(&OWN);
    let result = size.full.map_or(Ok(()), |full| scale::all(ours, full, size.pods, &mut own));
    println!("{own}");
    result
}

/// The head of the table of ours against ours.
const OWN: [&str; 5] = ["ours against ours", "measured", "base", "ratio", "limit"];

/// Runs every series and prints the tables; a series that fails is named below them.
fn report(ours: &Suite, peer: &Suite, size: Size) -> Result<(), Box<dyn Error>> {
    let suites = [ours, peer];
    let mut sides = Table::new(&["wall time, medians", "ours", "peer", "ratio", "limit"]);
    let mut own = Table::new(&OWN);
    let mut parts = Table::new(&["plugin", "peak memory", "peer's", "binary", "peer's", "programs started"]);
    let mut failures = Vec::new();
    let mut run = |what: &str, result: Result<(), Box<dyn Error>>| {
        if let Err(error) = result {
            failures.push(format!("{what}: {error}"));
        }
    };

    run("attachments", scenario::attachments(suites, size, &mut sides));
    run("attachments with masquerade", scenario::masqueraded(suites, size, &mut sides));
    run("host-local", scenario::host_local(suites, size, &mut sides, &mut own));
    run("many reservations", scenario::many_reservations(ours, size, &mut own));
    run("many attachments", scenario::crowded(suites, size, &mut sides, &mut own));
    run("chains", chain::attachments(suites, size, &mut sides));
    run("connections", connection::to_published_ports(ours, size, &mut own));
    run("full hosts", size.full.map_or(Ok(()), |full| scale::all(ours, full, size.pods, &mut own)));
    run("start-up", scenario::small_calls(suites, size, &mut sides));
    run("STATUS", scenario::status(suites, size, &mut sides));
    run("memory and size", scenario::footprint(suites, &mut parts));
    run("memory and size of chained plugins", chain::footprint(suites, &mut parts));

    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let cpus = thread::available_parallelism()?;
    println!("Linux {}, {cpus} CPUs, {} pods a series.\n", kernel.trim(), size.pods);
    for table in [sides, own, parts] {
        println!("{table}");
    }
    println!("Limits: memory 4 MB; binaries 2.2 MB, firewall's 3 MB.");
    for failure in failures {
        println!("Not measured: {failure}");
    }
    Ok(())
}
