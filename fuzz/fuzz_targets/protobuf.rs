//! `cargo xtask fuzz protobuf`

#![no_main]

tapedeck_fuzz::fuzz!("protobuf");
