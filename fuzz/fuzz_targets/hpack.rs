//! `cargo xtask fuzz hpack`

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tapedeck_fuzzing::hpack(bytes));
