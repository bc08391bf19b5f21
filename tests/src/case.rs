//! How a test runs: as root only, and against the reference with its known limits.

use std::{
    any, fs,
    io::{self, Write},
    os::unix::fs::{MetadataExt, chown},
    panic::{self, AssertUnwindSafe},
    path::PathBuf,
    thread,
};

use nix::unistd::geteuid;

use crate::{
    expected, kernel,
    report::{self, Subject},
    settings::{self, workspace},
};

/// The end of a test that cannot run here.
struct Skip(String);

/// The end of a test that is about what the kernel lacks; what was wrong has been said.
struct Inexcusable;

/// Ends the running test: it is not run here, for this reason. The run does not fail, and says so.
pub fn skip(reason: impl Into<String>) -> ! {
    panic::resume_unwind(Box::new(Skip(reason.into())))
}

/// Runs the body of a test, which is known by the name of the function that calls this.
///
/// Without root it is skipped. Against the reference, a test of the table in [`expected`] has to fail.
pub fn case<F: FnOnce()>(body: F) {
    run(&name_of::<F>(), body);
}

/// Like [`case`], about what happens where the kernel lacks this: skipped where it does not.
pub fn case_without<F: FnOnce()>(part: kernel::Part, body: F) {
    run(&name_of::<F>(), || {
        if part.works() {
            skip(format!("this kernel has {part:?}"));
        }
        // No excuse: this is what is tested.
        if let Err(cause) = panic::catch_unwind(AssertUnwindSafe(body)) {
            panic::resume_unwind(if cause.is::<Skip>() { cause } else { Box::new(Inexcusable) });
        }
    });
}

/// Like [`case`]; and how it ends becomes a row of the compatibility matrix (see [`report`]), which is about our plugins.
pub fn reported<F: FnOnce()>(subject: &Subject, what: &str, body: F) {
    let name = name_of::<F>();
    if settings::is_reference() {
        run(&name, body);
        return;
    }
    match panic::catch_unwind(AssertUnwindSafe(|| run(&name, body))) {
        Ok(Ended::Skipped) => {}
        Ok(Ended::Passed) => report::add(subject, what, "passed"),
        Err(cause) => {
            report::add(subject, what, "FAILED");
            panic::resume_unwind(cause)
        }
    }
}

/// How a test ended that did not fail.
enum Ended {
    Passed,
    Skipped,
}

fn run(name: &str, body: impl FnOnce()) -> Ended {
    if !geteuid().is_root() {
        say(&format!("skipped: {name}: it makes network namespaces, which needs root"));
        return Ended::Skipped;
    }
    let known = if settings::is_reference() { expected::reason(name) } else { None };
    match (panic::catch_unwind(AssertUnwindSafe(body)), known) {
        (Ok(()), None) => Ended::Passed,
        (Ok(()), Some(reason)) => {
            panic!("{name} passes, but the table in tests/src/expected.rs says that it cannot: {reason}")
        }
        (Err(cause), known) => match (cause.downcast::<Skip>(), known) {
            (Ok(skip), _) => {
                say(&format!("skipped: {name}: {}", skip.0));
                Ended::Skipped
            }
            (Err(_), Some(reason)) => {
                say(&format!("expected failure: {name}: {reason}"));
                Ended::Skipped
            }
            (Err(cause), None) => match kernel::excuse(text(&*cause)) {
                Some(reason) => {
                    say(&format!("skipped: {name}: {reason}"));
                    Ended::Skipped
                }
                None => panic::resume_unwind(cause),
            },
        },
    }
}

/// What a test said as it failed.
fn text(cause: &(dyn any::Any + Send)) -> &str {
    let text = cause.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| cause.downcast_ref::<&str>().copied()).unwrap_or_default()
}

/// `e2e::bridge_add::two_pods::{{closure}}` -> `bridge_add::two_pods`, as the test harness names it.
fn name_of<F>() -> String {
    let full = any::type_name::<F>();
    let path = full.split("::{{closure}}").next().unwrap_or(full);
    path.split_once("::").map_or(path, |(_, name)| name).to_owned()
}

/// The harness shows what a passing test prints only if asked; this is shown always.
pub(crate) fn say(line: &str) {
    _ = writeln!(io::stderr(), "{line}");
}

/// Keeps a text about the running test's failure for people, below `target/logs` and as its owner's; prints where, and its
/// last lines.
pub fn keep(what: &str, text: &str, lines: usize) {
    // The test is failing already: nothing here may panic.
    let place = match write(what, text) {
        Ok(path) => path.display().to_string(),
        Err(error) => format!("not kept: {error}"),
    };
    let mut tail: Vec<_> = text.lines().rev().take(lines).collect();
    tail.reverse();
    println!("the end of {what}'s log ({place}):\n{}", tail.join("\n"));
}

fn write(what: &str, text: &str) -> io::Result<PathBuf> {
    let test = thread::current().name().unwrap_or("test").replace("::", "-");
    let (folder, owner) = (workspace().join("target/logs"), fs::metadata(workspace())?);
    let path = folder.join(format!("{test}.{what}.log"));
    fs::create_dir_all(&folder)?;
    fs::write(&path, text)?;
    for made in [&folder, &path] {
        chown(made, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(path)
}
