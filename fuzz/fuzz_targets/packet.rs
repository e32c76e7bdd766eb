//! `cargo xtask fuzz packet`

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tapedeck_fuzzing::packet(bytes));
