//! `cargo xtask fuzz luck`

#![no_main]

tapedeck_fuzz::fuzz!("luck");
