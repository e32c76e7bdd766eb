//! `cargo xtask fuzz archive`

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tapedeck_fuzzing::archive(bytes));
