//! `cargo xtask fuzz har`

#![no_main]

tapedeck_fuzz::fuzz!("har");
