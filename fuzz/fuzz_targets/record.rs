//! `cargo xtask fuzz record`

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tapedeck_fuzzing::record(bytes));
