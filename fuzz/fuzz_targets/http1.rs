//! `cargo xtask fuzz http1`

#![no_main]

tapedeck_fuzz::fuzz!("http1");
