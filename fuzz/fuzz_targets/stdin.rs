//! A config as a runtime hands it over.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_checks::stdin(data));
