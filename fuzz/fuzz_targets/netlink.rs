//! Answers of the kernel about links, addresses, routes, queueing, connections and sockets.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_checks::netlink(data));
