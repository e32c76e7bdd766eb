//! Generates the captures of `cargo xtask bench wire`: `wire-captures KIND BYTES > FILE`.
//!
//! The same arguments always give the same bytes. It uses no code of the readers that are measured,
//! and HTTP/2 comes from the `h2` crate's client and server, header compression and flow control
//! included.

#![forbid(unsafe_code)]

mod calls;
mod h2_streams;
mod text;
mod wire;

use std::io;

use anyhow::{Context, Result, bail};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [kind, bytes] = args.as_slice() else {
        bail!("usage: wire-captures calls|bodies|streams BYTES > FILE");
    };
    let bytes = bytes.parse().context("BYTES is not a number")?;
    let capture = wire::Capture::begin(io::stdout().lock(), bytes)?;
    match kind.as_str() {
        "calls" => calls::small(capture),
        "bodies" => calls::large(capture),
        "streams" => h2_streams::generate(capture),
        _ => bail!("no such kind: {kind}"),
    }
}
