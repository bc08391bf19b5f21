//! iptables' own programs, for what the kernel lets nobody else do (x_tables), and for rules that iptables has to be
//! able to read (the translation to nf_tables is its own).

use std::time::Duration;

use cni::Error;
use host::process;
use netlink::nft::Family;
use ruleset::iptables::run_restore;

use super::table::{Place, TABLE};
use crate::lock::Turn;

/// How long a program may take to say what it is.
const PATIENCE: Duration = Duration::from_secs(2);

/// Carries out what `iptables-restore` is told, all of it or nothing.
pub(super) fn restore(family: Family, place: Place, script: &str, turn: &Turn) -> Result<(), process::Error> {
    let [own, plain] = names(family, place);
    match run_restore(&own, script, turn.left()) {
        // Whatever the reason: the plain one is there for whoever has no other that works.
        Err(process::Error::Start { .. }) => run_restore(&plain, script, turn.left()),
        result => result,
    }
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

/// Errors (code 50): there is no program that changes rules there. None is started to find out.
pub(crate) fn ensure_installed(family: Family, place: Place) -> Result<(), Error> {
    let [own, plain] = names(family, place);
    if process::find(&own).or_else(|| process::find(&plain)).is_some() {
        return Ok(());
    }
    let what = format!("the rules of {family} {TABLE} cannot be changed, neither {own:?} nor {plain:?} is in PATH");
    Err(ruleset::iptables::not_installed(&what))
}

/// Whether the plain program, which an administrator uses, keeps its rules in x_tables.
pub(crate) fn prefers_xtables(family: Family) -> bool {
    let [_, name] = names(family, Place::NfTables);
    let Some(path) = process::find(&name) else { return false };
    // Distributions have a link to the program of one kind, as xtables-nft-multi.
    let file = path.canonicalize().ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    match file.unwrap_or_default() {
        file if file.contains("-legacy-") => true,
        file if file.contains("-nft-") => false,
        _ => process::run(&name, &["--version"], b"", PATIENCE).is_ok_and(|said| said.contains("legacy")),
    }
}

/// The program that says where it keeps its rules, and the plain one, which may be either.
fn names(family: Family, place: Place) -> [String; 2] {
    let stem = if family == Family::Ip { "iptables" } else { "ip6tables" };
    let kind = if place == Place::NfTables { "nft" } else { "legacy" };
    [format!("{stem}-{kind}-restore"), format!("{stem}-restore")]
}
