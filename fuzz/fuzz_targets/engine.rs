//! `cargo xtask fuzz engine`

#![no_main]

tapedeck_fuzz::fuzz!("engine");
