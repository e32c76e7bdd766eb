//! `cargo xtask fuzz tls`

#![no_main]

tapedeck_fuzz::fuzz!("tls");
