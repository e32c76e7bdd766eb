//! Feeds files to a target: `cargo run -p tapedeck-fuzzing --example feed TARGET FILE...`

fn main() {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_default();
    let target = tapedeck_fuzzing::TARGETS
        .iter()
        .find(|target| target.name == name);
    let Some(target) = target else {
        panic!("no target {name:?}");
    };
    for path in args {
        match std::fs::read(&path) {
            Ok(bytes) => (target.run)(&bytes),
            Err(error) => panic!("failed to read {path}: {error}"),
        }
    }
}
