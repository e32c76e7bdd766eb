//! `cargo xtask fuzz folder`

#![no_main]

tapedeck_fuzz::fuzz!("folder");
