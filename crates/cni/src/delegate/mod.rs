//! Asking another plugin, mostly an IPAM plugin (CNI spec 1.1.0, section 4 "Execution of Delegated Plugins").
//!
//! A delegate gets the environment of this call with another `CNI_COMMAND`, and the same stdin. What it says on stderr
//! goes to ours as it comes, whether it succeeds or fails. If it fails, its error object becomes ours, unchanged: a
//! runtime acts on its code. If it fails without one, the reference reports code 0, which the spec does not have;
//! here it is 999, and the text has the exit status or signal and what the delegate said.

mod failure;
mod running;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, io, thread};

use crate::{Call, Error, code};

pub use running::Running;

/// How long a delegate may take, unless `OXBRIDGE_DELEGATE_TIMEOUT` (in seconds) says otherwise: less than the
/// runtimes' own patience, more than a DHCP server's.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(90);
const TIMEOUT_VARIABLE: &str = "OXBRIDGE_DELEGATE_TIMEOUT";

/// The process that waits for the delegate. One that heeds its end leaves nothing that a DEL came too early for.
const CALLER_VARIABLE: &str = "OXBRIDGE_CALLER";

/// How much less of it a delegate's own delegates have: what hangs ends from the inside out, and each has time to undo.
const SHARE: Duration = Duration::from_secs(5);

/// How long a binary may be held open for writing: someone is installing it in place.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const BUSY_INTERVAL: Duration = Duration::from_millis(100);

/// The file of a plugin: the first one of that name in the folders of `CNI_PATH`. An empty folder is the current one.
///
/// Errors: code 999 for an empty name, a name with `/`, an empty `CNI_PATH`, no such file.
pub fn find(plugin_type: &str, cni_path: &str) -> Result<PathBuf, Error> {
    if plugin_type.is_empty() {
        return Err(Error::internal("no plugin name provided"));
    }
    if plugin_type.contains('/') {
        return Err(Error::internal(format!("invalid plugin name: {plugin_type}")));
    }
    if cni_path.is_empty() {
        return Err(Error::internal("no paths provided"));
    }
    let folders: Vec<&str> = cni_path.split(':').collect();
    folders
        .iter()
        // Never a bare name: that would be looked up in PATH.
        .map(|folder| Path::new(if folder.is_empty() { "." } else { folder }).join(plugin_type))
        .find(|file| fs::metadata(file).is_ok_and(|m| m.is_file()))
        .ok_or_else(|| {
            Error::internal(format!("failed to find plugin {plugin_type:?} in path [{}]", folders.join(" ")))
                .with_details(
                    "install it into one of these folders of the runtime's, or correct its name in the config",
                )
        })
}

/// Starts a plugin with `CNI_COMMAND=verb`, the environment and the exact stdin of this call, and more variables.
/// It works while the caller does something else until [`Running::wait`].
///
/// Errors: those of [`find`]; code 999 if it cannot be started.
pub fn start(call: &Call, plugin_type: &str, verb: &str, extra: &[(&str, &str)]) -> Result<Running, Error> {
    start_with(call, plugin_type, verb, extra, &call.stdin)
}

/// [`start`] with another stdin.
pub fn start_with(
    call: &Call,
    plugin_type: &str,
    verb: &str,
    extra: &[(&str, &str)],
    stdin: &[u8],
) -> Result<Running, Error> {
    let file = find(plugin_type, &call.env.path)?;
    let mut command = Command::new(&file);
    let patience = timeout(env::var_os(TIMEOUT_VARIABLE));
    command
        .env("CNI_COMMAND", verb)
        .env(TIMEOUT_VARIABLE, of_delegates(patience).as_secs().to_string())
        .env(CALLER_VARIABLE, std::process::id().to_string())
        .envs(extra.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let deadline = Instant::now() + patience;
    let child = spawn(&mut command).map_err(|e| {
        let is_busy = e.kind() == io::ErrorKind::ExecutableFileBusy;
        let code = if is_busy { code::TRY_AGAIN } else { code::INTERNAL };
        Error::new(code, format!("failed to start plugin {plugin_type:?} ({}): {e}", file.display()))
    })?;
    Ok(Running::new(child, format!("plugin {plugin_type:?} {verb}"), stdin, deadline))
}

/// Runs a plugin for a verb that prints nothing: DEL, CHECK, STATUS, GC. What it prints is ignored.
///
/// Errors: those of [`start`] and [`Running::wait`].
pub fn run(call: &Call, plugin_type: &str, verb: &str, extra: &[(&str, &str)]) -> Result<(), Error> {
    run_with(call, plugin_type, verb, extra, &call.stdin)
}

/// [`run`] with another stdin.
pub fn run_with(call: &Call, plugin_type: &str, verb: &str, extra: &[(&str, &str)], stdin: &[u8]) -> Result<(), Error> {
    start_with(call, plugin_type, verb, extra, stdin)?.wait().map(|_| ())
}

/// A delegate's answer to a verb that not all plugins have (GC, STATUS): code 4 is how one says that it has not, and no
/// failure.
pub fn if_known(answer: Result<(), Error>) -> Result<(), Error> {
    answer.or_else(|error| if error.code == code::INVALID_ENVIRONMENT { Ok(()) } else { Err(error) })
}

/// The kernel runs no file that is open for writing, and tells nobody when it is closed.
fn spawn(command: &mut Command) -> io::Result<std::process::Child> {
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        match command.spawn() {
            Err(e) if e.kind() == io::ErrorKind::ExecutableFileBusy && Instant::now() < deadline => {
                thread::sleep(BUSY_INTERVAL);
            }
            spawned => return spawned,
        }
    }
}

/// The process of ours that has called this one as its delegate; perhaps by another's hands, if it is not the parent.
#[must_use]
pub fn caller() -> Option<u32> {
    env::var_os(CALLER_VARIABLE)?.to_str()?.parse().ok()
}

/// How long a delegate of ours may wait for its own.
fn of_delegates(patience: Duration) -> Duration {
    if patience > 2 * SHARE { patience - SHARE } else { patience.div_f32(2.0).max(Duration::from_secs(1)) }
}

/// What makes no sense is the default.
fn timeout(variable: Option<OsString>) -> Duration {
    variable
        .and_then(|text| text.to_str()?.parse::<u32>().ok())
        .filter(|seconds| *seconds > 0)
        .map_or(DEFAULT_TIMEOUT, |seconds| Duration::from_secs(seconds.into()))
}

#[cfg(test)]
mod tests;
