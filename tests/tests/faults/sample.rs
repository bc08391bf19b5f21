//! Which rows a run takes.

use std::{env, fmt};

use crate::strace::Row;

/// How many rows there are for each one that is taken, unless the environment says otherwise.
const EVERY: u64 = 40;

/// A part of the rows that depends on nothing but its two numbers.
#[derive(Clone, Copy)]
pub(crate) struct Sample {
    every: u64,
    seed: u64,
}

impl Sample {
    /// `FAULTS` and `FAULTS_SEED`; without the latter always the same, so that a change alone turns a run red.
    pub(crate) fn from_environment() -> Self {
        let number = |name: &str| env::var(name).ok()?.parse().ok();
        Self { every: number("FAULTS").unwrap_or(EVERY).max(1), seed: number("FAULTS_SEED").unwrap_or(1) }
    }

    /// Those of these rows that are taken.
    pub(crate) fn of(self, name: &str, rows: Vec<Row>) -> impl Iterator<Item = Row> {
        // FNV-1a: neighbours, which are often alike, are not taken or left together.
        let hash = |text: String| {
            text.bytes()
                .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
        };
        let name = name.to_owned();
        rows.into_iter()
            .enumerate()
            .filter(move |(number, _)| {
                (hash(format!("{name} {number}")) >> 17).wrapping_add(self.seed) % self.every == 0
            })
            .map(|(_, row)| row)
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.every {
            1 => Ok(()),
            every => write!(f, " (FAULTS={every} FAULTS_SEED={})", self.seed),
        }
    }
}
