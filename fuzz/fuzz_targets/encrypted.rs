//! `cargo xtask fuzz encrypted`

#![no_main]

tapedeck_fuzz::fuzz!("encrypted");
