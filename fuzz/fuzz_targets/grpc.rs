//! `cargo xtask fuzz grpc`

#![no_main]

tapedeck_fuzz::fuzz!("grpc");
