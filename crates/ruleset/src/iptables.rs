//! Rules of iptables: changed by one `iptables-restore --noflush` for each family and call, read by `iptables-save`
//! only where iptables keeps its rules in x_tables. Where it keeps them in nf_tables they are read, and removed,
//! without a program: [`Nft`](netlink::nft::Nft).

use std::time::Duration;

use cni::Error;
use host::process;
use netlink::nft::Family;

/// The lock of x_tables is waited for as long.
const PATIENCE: Duration = Duration::from_secs(10);

/// Changes the rules: `script` is in the language of `iptables-restore`. What it does not name stays.
///
/// # Errors
/// That there is no such program, or what it says.
pub fn restore(family: Family, script: &str) -> Result<(), Error> {
    process::run(
        program(family, "-restore"),
        &["--noflush", "--wait", "10"],
        script.as_bytes(),
        PATIENCE + PATIENCE / 2,
    )
    .map(drop)
    .map_err(|e| Error::internal(format!("failed to change the iptables rules: {e}")))
}

/// The rules of a table of x_tables, as `iptables-save` prints them. `None`: there is no such program.
///
/// # Errors
/// What the program says.
pub fn save(family: Family, table: &str) -> Result<Option<String>, Error> {
    let legacy = if family == Family::Ip { "iptables-legacy-save" } else { "ip6tables-legacy-save" };
    let saved = process::run(legacy, &["-t", table], b"", PATIENCE)
        .or_else(|_| process::run(program(family, "-save"), &["-t", table], b"", PATIENCE));
    match saved {
        Ok(saved) => Ok(Some(saved)),
        Err(process::Error::Start { .. }) => Ok(None),
        Err(error) => Err(Error::internal(format!("failed to read the iptables rules: {error}"))),
    }
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

/// Whether the program that changes the rules is there.
///
/// # Errors
/// Why it cannot be run.
pub fn ensure_usable(family: Family) -> Result<(), process::Error> {
    process::run(program(family, "-restore"), &["--version"], b"", PATIENCE).map(drop)
}

fn program(family: Family, suffix: &str) -> &'static str {
    match (family, suffix) {
        (Family::Ip, "-save") => "iptables-save",
        (Family::Ip, _) => "iptables-restore",
        (_, "-save") => "ip6tables-save",
        _ => "ip6tables-restore",
    }
}
