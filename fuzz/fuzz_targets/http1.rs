//! `cargo xtask fuzz http1`

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tapedeck_fuzzing::http1(bytes));
