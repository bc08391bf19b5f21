//! Answers of the kernel about nf_tables: what other programs put there.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_checks::nftables(data));
