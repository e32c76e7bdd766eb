//! `cargo xtask fuzz websocket`

#![no_main]

tapedeck_fuzz::fuzz!("websocket");
