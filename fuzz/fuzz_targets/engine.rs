//! `cargo xtask fuzz engine`

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tapedeck_fuzzing::engine(bytes));
