//! `cargo xtask fuzz capture`

#![no_main]

tapedeck_fuzz::fuzz!("capture");
