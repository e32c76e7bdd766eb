//! `cargo xtask fuzz configuration`

#![no_main]

tapedeck_fuzz::fuzz!("configuration");
