//! `cargo xtask fuzz fragments`

#![no_main]

tapedeck_fuzz::fuzz!("fragments");
