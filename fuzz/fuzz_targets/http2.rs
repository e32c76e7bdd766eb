//! `cargo xtask fuzz http2`

#![no_main]

tapedeck_fuzz::fuzz!("http2");
