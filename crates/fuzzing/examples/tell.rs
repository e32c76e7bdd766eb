//! Says what takes place in inputs of `conversation`: `cargo run -p tapedeck-fuzzing --example tell FILE...`

use std::io::{self, Write as _};

fn main() -> io::Result<()> {
    for path in std::env::args().skip(1) {
        let bytes = std::fs::read(&path)?;
        writeln!(io::stdout(), "{path}\n{}", tapedeck_fuzzing::tell(&bytes))?;
    }
    Ok(())
}
