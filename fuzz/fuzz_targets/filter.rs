//! `cargo xtask fuzz filter`

#![no_main]

tapedeck_fuzz::fuzz!("filter");
