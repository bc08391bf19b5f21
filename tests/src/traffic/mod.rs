//! Traffic: what can be reached, how soon, and as whom.

mod capture;
mod ping;
mod server;
mod tcp;
mod udp;

pub mod frames;
pub mod http;
pub mod outside;
pub mod rate;
pub mod sctp;

pub use capture::Capture;
pub use ping::{ping, reaches};
pub use server::{Answer, Server, Transport, ask, ask_briefly};
pub use tcp::source_seen;
pub use udp::sender_of_next;

use std::{net::IpAddr, time::Duration};

use crate::{Place, settings};

/// How long an answer may take that has to come.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// How long an answer is waited for that must not come; longer where everything takes longer.
pub const SILENCE: Duration = Duration::from_millis(250);

/// # Panics
/// When there is no answer.
pub fn assert_reaches(from: &impl Place, to: &str) {
    assert!(reaches(from, to), "no answer from {to}; the routes here:\n{}", state(from));
}

/// # Panics
/// When there is an answer.
pub fn assert_silent(from: &impl Place, to: &str) {
    let to: IpAddr = to.parse().unwrap();
    assert!(ping(from, to, SILENCE * settings::slowness()).is_none(), "{to} answers");
}

fn state(place: &impl Place) -> String {
    ["ip address", "ip route", "ip -6 route", "ip neighbour"].map(|line| place.run(line)).join("\n")
}
