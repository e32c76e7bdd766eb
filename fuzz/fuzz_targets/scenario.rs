//! `cargo xtask fuzz scenario`

#![no_main]

tapedeck_fuzz::fuzz!("scenario");
