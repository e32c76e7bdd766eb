//! `cargo xtask fuzz tls`

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tapedeck_fuzzing::tls(bytes));
