//! `cargo xtask fuzz conversation`

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tapedeck_fuzzing::conversation(bytes));
