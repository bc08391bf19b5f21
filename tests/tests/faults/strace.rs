//! What `strace` is told, and what it tells.

use std::fmt;

use crate::errors;

/// What a plugin is called for while it is faulted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Add,
    Del,
}

impl Verb {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
        }
    }
}

/// A system call of a run without faults.
pub(crate) struct SystemCall {
    name: String,
    /// The how many'th of this name it is, from 1.
    number: usize,
    /// Whether the config has been asked for: before that the program's runtime is at work, not the plugin.
    has_begun: bool,
    /// All that `strace` says of it.
    line: String,
}

/// The calls in the text of a trace.
pub(crate) fn calls(trace: &str) -> Vec<SystemCall> {
    let mut calls: Vec<SystemCall> = Vec::new();
    let mut has_begun = false;
    for line in trace.lines() {
        let Some((name, _)) = line.split_once('(') else { continue };
        if name.contains(['+', '-', ' ']) {
            continue;
        }
        has_begun |= line.starts_with("read(0,");
        let number = 1 + calls.iter().filter(|call| call.name == name).count();
        calls.push(SystemCall { name: name.to_owned(), number, has_begun, line: line.to_owned() });
    }
    calls
}

/// What happens at a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// SIGKILL instead of it.
    Kill,
    /// SIGTERM before it.
    Term,
    /// It fails once.
    Error(&'static str),
    /// It fails, and so do all later ones of its name.
    Lasting(&'static str),
}

/// A fault and its place.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) fault: Fault,
    pub(crate) call: String,
    pub(crate) number: usize,
    line: String,
}

/// Every one that these calls can have. `kills`: those of SIGKILL alone.
pub(crate) fn rows(calls: &[SystemCall], kills: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    for call in calls.iter().filter(|call| !matches!(&*call.name, "execve" | "exit_group")) {
        let mut faults = vec![Fault::Kill];
        // Between two calls of these the plugin does nothing that others can see.
        if !kills && !matches!(&*call.name, "mmap" | "munmap" | "mprotect" | "brk" | "close" | "fcntl" | "rt_sigaction")
        {
            faults.push(Fault::Term);
        }
        if call.has_begun && !kills {
            faults.extend(errors::of(&call.name, &call.line).iter().map(|error| Fault::Error(error)));
            // From the first, the fourth, … on.
            let starts = call.number % 4 == 1;
            faults.extend(errors::lasting(&call.name).filter(|_| starts).map(Fault::Lasting));
        }
        let row = |fault| Row { fault, call: call.name.clone(), number: call.number, line: call.line.clone() };
        rows.extend(faults.into_iter().map(row));
    }
    rows
}

impl Row {
    /// The arguments that trace this call alone and inject the fault.
    pub(crate) fn arguments(&self) -> [String; 4] {
        let Self { call, number, .. } = self;
        let inject = match self.fault {
            Fault::Kill => format!("signal=KILL:when={number}"),
            Fault::Term => format!("signal=TERM:when={number}"),
            Fault::Error(error) => format!("error={error}:when={number}"),
            Fault::Lasting(error) => format!("error={error}:when={number}+"),
        };
        ["-e".to_owned(), format!("trace={call}"), "-e".to_owned(), format!("inject={call}:{inject}")]
    }

    /// Whether the fault happened, from what `strace` wrote with these arguments.
    pub(crate) fn happened(&self, trace: &str) -> bool {
        match self.fault {
            Fault::Kill => trace.contains("+++ killed by SIGKILL +++"),
            Fault::Term => trace.contains("--- SIGTERM "),
            Fault::Error(_) | Fault::Lasting(_) => trace.contains("(INJECTED)"),
        }
    }

    /// Whether how often this call is made depends on what others do meanwhile: how long it is waited for them, how much
    /// there is to be read. (Memory follows from that.)
    pub(crate) fn depends_on_others(&self) -> bool {
        const THESE: [&str; 9] =
            ["poll", "wait4", "sched_yield", "nanosleep", "clock_nanosleep", "read", "recvfrom", "mmap", "munmap"];
        THESE.contains(&&*self.call)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line: String = self.line.chars().take(160).collect();
        write!(f, "{:?} at {} {} ({line})", self.fault, self.call, self.number)
    }
}
