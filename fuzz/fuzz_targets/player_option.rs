//! `cargo xtask fuzz player_option`

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tapedeck_fuzzing::player_option(bytes));
