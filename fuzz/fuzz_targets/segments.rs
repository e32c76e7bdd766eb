//! `cargo xtask fuzz segments`

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tapedeck_fuzzing::segments(bytes));
