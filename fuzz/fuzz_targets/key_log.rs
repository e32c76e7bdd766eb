//! `cargo xtask fuzz key_log`

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tapedeck_fuzzing::key_log(bytes));
