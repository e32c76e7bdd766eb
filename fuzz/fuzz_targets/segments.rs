//! `cargo xtask fuzz segments`

#![no_main]

tapedeck_fuzz::fuzz!("segments");
