//! `cargo xtask fuzz grpc`

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tapedeck_fuzzing::grpc(bytes));
