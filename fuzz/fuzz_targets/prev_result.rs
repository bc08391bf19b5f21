//! A result of an earlier plugin, or of an IPAM delegate.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_checks::prev_result(data));
