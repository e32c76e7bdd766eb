//! `cargo xtask fuzz http2`

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tapedeck_fuzzing::http2(bytes));
