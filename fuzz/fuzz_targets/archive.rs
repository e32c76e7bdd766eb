//! `cargo xtask fuzz archive`

#![no_main]

tapedeck_fuzz::fuzz!("archive");
