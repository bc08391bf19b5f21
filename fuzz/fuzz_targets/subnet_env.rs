//! What flanneld, or whoever writes in its place, leaves in `subnet.env`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_checks::subnet_env(data));
