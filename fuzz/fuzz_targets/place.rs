//! `cargo xtask fuzz place`

#![no_main]

tapedeck_fuzz::fuzz!("place");
