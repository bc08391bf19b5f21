//! What another suite, an operator or a crash leaves in host-local's store.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_checks::store(data));
