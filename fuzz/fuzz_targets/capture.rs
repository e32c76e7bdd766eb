//! `cargo xtask fuzz capture`

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tapedeck_fuzzing::capture(bytes));
