//! Rules of iptables: changed by one `iptables-restore --noflush` for each family and call, read by `iptables-save`
//! only where iptables keeps its rules in x_tables. Where it keeps them in nf_tables they are read, and removed,
//! without a program: [`Nft`](netlink::nft::Nft).

use std::path::PathBuf;
use std::time::Duration;

use cni::{Error, code};
use host::{lock, process};
use netlink::nft::Family;

/// How long a program may take: less than other calls wait for one that waits for it.
const PATIENCE: Duration = Duration::from_secs(8);
/// How `iptables-restore` ends without the lock (`RESOURCE_PROBLEM` of its xtables.h).
const NO_LOCK: i32 = 4;

/// Changes the rules: `script` is in the language of `iptables-restore`. What it does not name stays.
///
/// # Errors
/// That there is no such program, or what it says.
pub fn restore(family: Family, script: &str) -> Result<(), Error> {
    run_restore(program(family, "-restore"), script, PATIENCE).map_err(|e| changing(&e))
}

/// The same in x_tables, by the program that keeps its rules there: `iptables-restore` may be the one that knows only
/// nf_tables.
///
/// # Errors
/// As [`restore`].
pub fn restore_xtables(family: Family, script: &str) -> Result<(), Error> {
    let legacy = if family == Family::Ip { "iptables-legacy-restore" } else { "ip6tables-legacy-restore" };
    match run_restore(legacy, script, PATIENCE) {
        Err(error) if error.is_absent() => restore(family, script),
        result => result.map_err(|e| changing(&e)),
    }
}

/// Has this program carry out the script. Of its time it waits three quarters for the lock of x_tables, in whole seconds:
/// the rest is for the work, and for its own word that it did not get it.
///
/// # Errors
/// What the program says, or why it cannot be run.
pub fn run_restore(program: &str, script: &str, patience: Duration) -> Result<(), process::Error> {
    let wait = (patience * 3 / 4).as_secs().max(1).to_string();
    process::run(program, &["--noflush", "--wait", &wait], script.as_bytes(), patience).map(drop)
}

fn changing(error: &process::Error) -> Error {
    failed("failed to change the iptables rules", error)
}

/// What a program of iptables could not do, with `what` in front: code 11 if it took too long, or did not get the lock
/// of x_tables, whose holder is named.
#[must_use]
pub fn failed(what: &str, error: &process::Error) -> Error {
    let error_code = match error {
        process::Error::Timeout { .. } => code::TRY_AGAIN,
        process::Error::Failed { status, .. } if status.code() == Some(NO_LOCK) => code::TRY_AGAIN,
        _ => code::INTERNAL,
    };
    let holder = if error_code == code::TRY_AGAIN { lock::holders_of(&lock_file()) } else { None };
    let holder = holder.map(|holder| format!("; the lock of x_tables is held by {holder}")).unwrap_or_default();
    Error::new(error_code, format!("{what}: {error}{holder}"))
}

/// As iptables has it.
fn lock_file() -> PathBuf {
    std::env::var_os("XTABLES_LOCKFILE").map_or_else(|| PathBuf::from("/run/xtables.lock"), PathBuf::from)
}

/// The rules of a table, wherever this host's iptables keeps them: what [`restore`] changes.
///
/// # Errors
/// That there is no such program, or what it says; that it cannot read the table.
pub fn read(family: Family, table: &str) -> Result<String, Error> {
    let saved = run_save(program(family, "-save"), table).map_err(|e| reading(&e))?;
    if is_unreadable(&saved) {
        return Err(Error::internal(format!("iptables cannot read its table {table} ({family}): others have written into it"))
            .with_details(format!(
                "rules of iptables must not be loaded by `nft -f`, which changes them; `nft delete table {family} {table}`, \
                 then let everybody who has rules there make them anew"
            )));
    }
    Ok(saved)
}

/// What iptables says of a table with rules that are not in its own words.
fn is_unreadable(saved: &str) -> bool {
    saved.lines().any(|line| line.starts_with("# Table `") && line.contains("is incompatible"))
}

fn run_save(program: &str, table: &str) -> Result<String, process::Error> {
    process::run(program, &["-t", table], b"", PATIENCE)
}

fn reading(error: &process::Error) -> Error {
    failed("failed to read the iptables rules", error)
}

/// The rules of a table of x_tables, as `iptables-save` prints them. `None`: there is no program that could read them;
/// an `iptables-save` that knows only nf_tables is none.
///
/// # Errors
/// What the program says.
pub fn save(family: Family, table: &str) -> Result<Option<String>, Error> {
    let legacy = if family == Family::Ip { "iptables-legacy-save" } else { "ip6tables-legacy-save" };
    let saved = match run_save(legacy, table) {
        Err(error) if error.is_absent() => {
            run_save(program(family, "-save"), table).map(|s| Some(s).filter(|s| !is_of_nf_tables(s)))
        }
        saved => saved.map(Some),
    };
    match saved {
        Ok(saved) => Ok(saved),
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => Err(reading(&error)),
    }
}

/// The first line tells what was read: `# Generated by iptables-save v1.8.9 (nf_tables) on …`. Empty tables of nf_tables
/// are not printed at all.
fn is_of_nf_tables(saved: &str) -> bool {
    saved.lines().next().is_none_or(|first| first.contains("(nf_tables)"))
}

/// Whether x_tables has this table in this namespace: it lists those that were ever used. nf_tables has none there.
pub fn uses_xtables(family: Family, table: &str) -> bool {
    let path = if family == Family::Ip {
        "/proc/thread-self/net/ip_tables_names"
    } else {
        "/proc/thread-self/net/ip6_tables_names"
    };
    std::fs::read_to_string(path).is_ok_and(|names| names.lines().any(|name| name == table))
}

/// Whether the programs that read and change the rules are there. Nothing is started to find out: whoever asks may ask
/// every few seconds.
///
/// # Errors
/// Code 50: which one is missing.
pub fn ensure_installed(family: Family) -> Result<(), Error> {
    let programs = [program(family, "-restore"), program(family, "-save")];
    match programs.into_iter().find(|program| process::find(program).is_none()) {
        None => Ok(()),
        Some(missing) => Err(not_installed(&format!("{missing:?} is not in PATH"))),
    }
}

/// An error of [`ensure_installed`]'s kind.
pub fn not_installed(what: &str) -> Error {
    Error::new(code::NOT_AVAILABLE, format!("iptables cannot be used: {what}")).with_details("install iptables")
}

/// Network, container id, and the interface's name if it is there, in the comment of a rule: as the reference's plugins
/// write them, behind `prefix`, which ends with `name: `.
pub fn owner<'t>(text: &'t str, prefix: &str) -> Option<(&'t str, &'t str, Option<&'t str>)> {
    let (_, rest) = text.split_once(prefix)?;
    let (name, rest) = quoted(rest)?;
    let (id, rest) = quoted(rest.strip_prefix(" id: ")?)?;
    let ifname = rest.strip_prefix(" if: ").and_then(quoted).map(|(ifname, _)| ifname);
    Some((name, id, ifname))
}

/// A quoted word, and what follows it: `iptables-save` escapes the quotes, the kernel has them plain.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let text = text.strip_prefix('\\').unwrap_or(text).strip_prefix('"')?;
    let (word, rest) = text.split_once('"')?;
    Some((word.strip_suffix('\\').unwrap_or(word), rest))
}

fn program(family: Family, suffix: &str) -> &'static str {
    match (family, suffix) {
        (Family::Ip, "-save") => "iptables-save",
        (Family::Ip, _) => "iptables-restore",
        (_, "-save") => "ip6tables-save",
        _ => "ip6tables-restore",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_iptables_cannot_read_is_not_taken_for_empty() {
        assert!(is_unreadable("# Table `nat' is incompatible, use 'nft' tool.\n"));
        assert!(!is_unreadable(
            "# Generated by iptables-save v1.8.9 (nf_tables) on …\n*nat\n-A x -m comment --comment \"is incompatible\"\n"
        ));
    }

    #[test]
    fn what_nf_tables_has_says_nothing_of_x_tables() {
        assert!(is_of_nf_tables(""));
        assert!(is_of_nf_tables(
            "# Generated by iptables-save v1.8.9 (nf_tables) on Sat Nov 21 13:00:00 2026\n*filter\n"
        ));
        assert!(!is_of_nf_tables("# Generated by iptables-save v1.8.9 on Sat Nov 21 13:00:00 2026\n*filter\n"));
    }
}
