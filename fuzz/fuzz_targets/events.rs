//! `cargo xtask fuzz events`

#![no_main]

tapedeck_fuzz::fuzz!("events");
