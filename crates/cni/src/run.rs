//! The life of a call, from the environment to the exit code.

use std::any::Any;
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::{env, fs};

use serde::Serialize;

use crate::gate::{self, Command, Verb};
use crate::{Call, Error, Version, code, output};

/// A plugin: what it does for each verb. Environment, network name and version have been checked before.
pub trait Plugin {
    /// Name in the about text, e.g. `bridge`.
    const NAME: &'static str;

    /// Versions that the plugin supports, oldest first.
    const VERSIONS: &'static [Version] = Version::ALL;

    /// Makes the attachment, and prints the result by [`Call::reply`] as the last step of its transaction.
    fn add(&self, call: &Call) -> Result<(), Error>;

    /// Removes the attachment; idempotent, and as tolerant as can be of what is missing (`CNI_NETNS` may be empty).
    fn del(&self, call: &Call) -> Result<(), Error>;

    /// Says what is not as ADD made it.
    fn check(&self, call: &Call) -> Result<(), Error>;

    /// Removes what belongs to no attachment in [`Call::valid_attachments`].
    fn gc(&self, _call: &Call) -> Result<(), Error> {
        Ok(())
    }

    /// Says why an ADD could not work now: code 50 or 51.
    fn status(&self, _call: &Call) -> Result<(), Error> {
        Ok(())
    }
}

/// Runs one call: the whole of a plugin's `main`.
///
/// A panic of the plugin becomes an error object like any other, after destructors have undone what they undo.
pub fn main<P: Plugin>(plugin: P) -> ExitCode {
    panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        output::log(&format!("{}: panic at {place}: {}\n", P::NAME, panic_text(info.payload())));
    }));
    let outcome = respond(&plugin, |name| env::var_os(name), read_stdin, output::write_stdout);
    outcome.print(P::NAME)
}

/// Far more than the config of any call: a list of 2,000 attachments for GC takes 200 KiB. Whoever writes without end
/// would otherwise take the node's memory.
const MAX_STDIN: u64 = 16 << 20;

fn read_stdin() -> io::Result<Vec<u8>> {
    read_config(io::stdin().lock())
}

fn read_config(stdin: impl Read) -> io::Result<Vec<u8>> {
    // Room for most configs, or they would be read in small pieces.
    let mut bytes = Vec::with_capacity(4096);
    stdin.take(MAX_STDIN + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_STDIN {
        return Err(io::Error::other(format!("the config is larger than {} MiB", MAX_STDIN >> 20)));
    }
    Ok(bytes)
}

/// What is left to print, and the exit code.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// For stdout; a successful ADD has printed its result itself.
    pub stdout: Vec<u8>,
    /// For stderr.
    pub stderr: String,
    /// Exit code: 0 or 1.
    pub exit: u8,
}

impl Outcome {
    fn failed(error: &Error, version: Version) -> Self {
        Self { stdout: error.to_json(version), exit: 1, ..Self::default() }
    }

    fn print(self, name: &str) -> ExitCode {
        output::log(&self.stderr);
        if !self.stdout.is_empty()
            && let Err(error) = output::write_stdout(&self.stdout)
        {
            // Nobody may be there to read this object either, but then nothing is lost.
            let error = Error::new(code::IO_FAILURE, format!("failed to write to stdout: {error}"));
            let _ = output::write_stdout(&error.to_json(Version::CURRENT));
            output::log(&format!("{name}: {error}: {}\n", String::from_utf8_lossy(&self.stdout)));
            return ExitCode::FAILURE;
        }
        ExitCode::from(self.exit)
    }
}

/// [`main`] without the process around it: `var` reads the environment, `stdin` is called at most once, `writer` takes
/// the result of an ADD.
pub fn respond<P: Plugin>(
    plugin: &P,
    var: impl Fn(&str) -> Option<OsString>,
    stdin: impl FnOnce() -> io::Result<Vec<u8>>,
    writer: fn(&[u8]) -> io::Result<()>,
) -> Outcome {
    if var("CNI_COMMAND").is_none_or(|command| command.is_empty()) {
        return about::<P>();
    }
    // Until the config's version is known, errors are in the newest one.
    let mut version = Version::CURRENT;
    let answer = gate::environment(var).and_then(|command| match command.verb {
        Some(Verb::Version) => Ok(versions::<P>()),
        _ => answer(plugin, command, stdin, writer, &mut version).map(|()| Vec::new()),
    });
    match answer {
        Ok(stdout) => Outcome { stdout, ..Outcome::default() },
        Err(error) => Outcome::failed(&error, version),
    }
}

/// For who calls a plugin by hand.
fn about<P: Plugin>() -> Outcome {
    let versions: Vec<_> = P::VERSIONS.iter().map(ToString::to_string).collect();
    let stderr = format!(
        "CNI {} plugin v{} (Oxbridge)\nCNI protocol versions supported: {}\n",
        P::NAME,
        env!("CARGO_PKG_VERSION"),
        versions.join(", ")
    );
    Outcome { stderr, ..Outcome::default() }
}

/// The answer to VERSION: one line, whatever version the caller has.
fn versions<P: Plugin>() -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Versions {
        cni_version: &'static str,
        supported_versions: Vec<&'static str>,
    }
    let versions = Versions {
        cni_version: Version::CURRENT.as_str(),
        supported_versions: P::VERSIONS.iter().map(|version| version.as_str()).collect(),
    };
    let mut line = serde_json::to_vec(&versions).unwrap_or_default();
    line.push(b'\n');
    line
}

/// Every verb but VERSION. `version` becomes the config's as soon as it is known.
fn answer<P: Plugin>(
    plugin: &P,
    command: Command,
    stdin: impl FnOnce() -> io::Result<Vec<u8>>,
    writer: fn(&[u8]) -> io::Result<()>,
    version: &mut Version,
) -> Result<(), Error> {
    let stdin = stdin().map_err(|e| Error::new(code::IO_FAILURE, format!("error reading from stdin: {e}")))?;
    let (document, network) = gate::network(&stdin).inspect_err(|_| *version = guessed_version::<P>(&stdin))?;
    let text = gate::stated_version(&document);
    if let Ok(known) = text.as_deref().map_err(|_| ()).and_then(|t| gate::supported(t, P::VERSIONS).map_err(|_| ())) {
        *version = known;
    }
    let Some(verb) = command.verb else {
        return Err(Error::new(code::INVALID_ENVIRONMENT, format!("unknown CNI_COMMAND: {}", command.text)));
    };
    let config_version = gate::version(verb, &text?, P::VERSIONS)?;
    if verb == Verb::Add && !command.env.netns_override {
        refuse_own_namespace(&command.env.netns)?;
    }
    let mut call = Call::from_parts(command.env, stdin, config_version, network, document);
    call.writer = writer;
    dispatch(plugin, verb, &call)
}

/// The version of a config that failed before its version was looked at.
fn guessed_version<P: Plugin>(stdin: &[u8]) -> Version {
    crate::decode::parse(stdin)
        .ok()
        .and_then(|document| gate::stated_version(&document).ok())
        .and_then(|text| gate::supported(&text, P::VERSIONS).ok())
        .unwrap_or(Version::CURRENT)
}

/// A pod in the plugin's own namespace would have its links made among the host's. The reference says so too, but
/// after the fact; DEL must go on, and treats the namespace as gone.
fn refuse_own_namespace(netns: &str) -> Result<(), Error> {
    // Of the calling thread, as that is what a plugin acts in.
    let own = fs::metadata("/proc/thread-self/ns/net").or_else(|_| fs::metadata("/proc/self/ns/net"));
    let (Ok(own), Ok(given)) = (own, fs::metadata(netns)) else {
        // The plugin will open it, and say what is wrong with it.
        return Ok(());
    };
    if (own.dev(), own.ino()) != (given.dev(), given.ino()) {
        return Ok(());
    }
    Err(Error::new(code::INVALID_NETNS, "plugin's netns and netns from CNI_NETNS should not be the same").with_details(
        format!("CNI_NETNS={netns} is the namespace that the plugin runs in; CNI_NETNS_OVERRIDE=1 allows it"),
    ))
}

fn dispatch<P: Plugin>(plugin: &P, verb: Verb, call: &Call) -> Result<(), Error> {
    let run = || match verb {
        Verb::Add => plugin.add(call),
        Verb::Check => plugin.check(call),
        Verb::Del => plugin.del(call),
        Verb::Gc => plugin.gc(call),
        Verb::Status => plugin.status(call),
        Verb::Version => Ok(()),
    };
    // The plugin is not used again: whatever state it was in does not matter.
    panic::catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|payload| {
        Err(Error::internal(format!("{} panicked: {}", P::NAME, panic_text(payload.as_ref())))
            .with_details(format!("this is a bug in {}; the place in the source is on stderr", P::NAME)))
    })
}

fn panic_text(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no text")
}

#[cfg(test)]
mod tests;
