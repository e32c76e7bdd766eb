//! `cargo xtask fuzz chaos`

#![no_main]

tapedeck_fuzz::fuzz!("chaos");
