//! `cargo xtask fuzz key_log`

#![no_main]

tapedeck_fuzz::fuzz!("key_log");
