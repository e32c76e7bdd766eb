//! `cargo xtask fuzz hpack`

#![no_main]

tapedeck_fuzz::fuzz!("hpack");
