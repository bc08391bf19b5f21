//! The index of host-local's store.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_checks::index(data));
