//! The text of `CNI_ARGS`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| oxbridge_fuzz::cni_args(data));
