//! `cargo xtask fuzz fragments`

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tapedeck_fuzzing::fragments(bytes));
