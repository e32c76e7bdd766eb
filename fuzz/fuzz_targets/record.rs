//! `cargo xtask fuzz record`

#![no_main]

tapedeck_fuzz::fuzz!("record");
