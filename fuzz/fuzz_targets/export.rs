//! `cargo xtask fuzz export`

#![no_main]

tapedeck_fuzz::fuzz!("export");
