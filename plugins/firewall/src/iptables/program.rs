//! iptables' own programs, for what the kernel lets nobody else do (x_tables), and for rules that iptables has to be
//! able to read (the translation to nf_tables is its own).

use std::time::Duration;

use cni::{Error, code};
use host::process;
use netlink::nft::Family;

use super::table::{Place, TABLE};
use crate::lock::Turn;

/// How long a program may take to say what it is.
const PATIENCE: Duration = Duration::from_secs(2);

/// Carries out what `iptables-restore` is told, all of it or nothing.
pub(super) fn restore(family: Family, place: Place, script: &str, turn: &Turn) -> Result<(), process::Error> {
    let patience = turn.left();
    // The lock of x_tables is waited for in whole seconds; then there has to be time left to say that it was not got.
    let wait = patience.as_secs().saturating_sub(1).max(1).to_string();
    first_that_starts(family, place, &["--noflush", "--wait", &wait], script.as_bytes(), patience).map(drop)
}

/// What [`restore`] could not do.
pub(super) fn failed(family: Family, error: &process::Error) -> Error {
    ruleset::iptables::failed(&format!("failed to change the rules of {family} {TABLE}"), error)
        .with_details("the pod has to be let in there, or what it sends and receives is dropped; see `iptables -S`")
}

/// Whether x_tables has this table: it lists those that were ever used in this namespace, nf_tables has none there.
pub(crate) fn has_xtables(family: Family) -> bool {
    ruleset::iptables::uses_xtables(family, TABLE)
}

/// Errors (code 50): the program that changes rules there is missing.
pub(crate) fn is_usable(family: Family, place: Place) -> Result<(), Error> {
    first_that_starts(family, place, &["--version"], b"", PATIENCE).map(drop).map_err(|e| {
        Error::new(code::NOT_AVAILABLE, format!("the rules of {family} {TABLE} cannot be changed: {e}"))
            .with_details("install iptables")
    })
}

/// Whether the plain program, which an administrator uses, keeps its rules in x_tables.
pub(crate) fn prefers_xtables(family: Family) -> bool {
    let name = if family == Family::Ip { "iptables-restore" } else { "ip6tables-restore" };
    process::run(name, &["--version"], b"", PATIENCE).is_ok_and(|said| said.contains("legacy"))
}

fn first_that_starts(
    family: Family,
    place: Place,
    arguments: &[&str],
    input: &[u8],
    patience: Duration,
) -> Result<String, process::Error> {
    let stem = if family == Family::Ip { "iptables" } else { "ip6tables" };
    let kind = if place == Place::NfTables { "nft" } else { "legacy" };
    // The one that says where it keeps its rules comes first: the other may be either.
    match process::run(&format!("{stem}-{kind}-restore"), arguments, input, patience) {
        Err(process::Error::Start { .. }) => process::run(&format!("{stem}-restore"), arguments, input, patience),
        result => result,
    }
}
