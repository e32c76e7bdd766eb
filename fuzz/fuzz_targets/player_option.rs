//! `cargo xtask fuzz player_option`

#![no_main]

tapedeck_fuzz::fuzz!("player_option");
