//! `cargo xtask fuzz content`

#![no_main]

tapedeck_fuzz::fuzz!("content");
