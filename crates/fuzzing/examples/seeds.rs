//! Writes the inputs that a target's fuzzer begins with: `cargo run -p tapedeck-fuzzing --example
//! seeds FOLDER TARGET...`, each into a folder of its own.

#[expect(dead_code, clippy::unwrap_used, reason = "shared with the tests")]
#[path = "../tests/seeds/mod.rs"]
mod seeds;

use std::path::Path;

fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let folder = args.next().unwrap_or_else(|| panic!("which folder?"));
    for target in args {
        let folder = Path::new(&folder).join(&target);
        std::fs::create_dir_all(&folder)?;
        for (number, seed) in seeds::made(&target).iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number}")), seed)?;
        }
    }
    Ok(())
}
