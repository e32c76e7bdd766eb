//! `cargo xtask fuzz content`

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tapedeck_fuzzing::content(bytes));
