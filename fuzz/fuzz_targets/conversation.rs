//! `cargo xtask fuzz conversation`

#![no_main]

tapedeck_fuzz::fuzz!("conversation");
