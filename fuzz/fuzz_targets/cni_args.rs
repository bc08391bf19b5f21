//! The text of `CNI_ARGS`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_checks::cni_args(data));
