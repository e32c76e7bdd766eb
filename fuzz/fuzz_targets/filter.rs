//! `cargo xtask fuzz filter`

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tapedeck_fuzzing::filter(bytes));
