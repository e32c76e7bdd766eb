//! `cargo xtask fuzz packet`

#![no_main]

tapedeck_fuzz::fuzz!("packet");
