//! Feeds random programs to a target for a while, where libFuzzer is not at hand:
//! `cargo run -p tapedeck-fuzzing --example noise TARGET SEED SECONDS`. What breaks it is made as
//! small as cutting and zeroing bytes can make it, and printed in hexadecimal.

use std::io::{self, Write as _};
use std::panic::catch_unwind;
use std::time::{Duration, Instant};

use tapedeck_fuzzing::Target;
use tapedeck_testkit::Rng;

fn main() -> io::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, seed, seconds] = args.as_slice() else {
        panic!("usage: noise TARGET SEED SECONDS");
    };
    let Some(target) = Target::named(name) else {
        panic!("no target {name:?}");
    };
    let number = |text: &String| text.parse::<u64>().unwrap_or_default();
    let mut rng = Rng::new(number(seed));
    let until = Instant::now() + Duration::from_secs(number(seconds));
    let (mut runs, mut broken) = (0_u64, 0_u64);
    let mut out = io::stdout();
    while Instant::now() < until {
        let input = program(&mut rng);
        runs += 1;
        if breaks(target, &input) {
            broken += 1;
            let small = smaller(target, input);
            let hex: String = small.iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(out, "broken by {hex}")?;
        }
    }
    writeln!(out, "{name}: {runs} inputs, {broken} break it")
}

/// Most decisions of a program are the plain ones.
fn program(rng: &mut Rng) -> Vec<u8> {
    let plain = rng.below(8);
    let len = 4 + rng.below(200);
    let mut bytes = rng.bytes(len);
    for byte in &mut bytes {
        match rng.below(8) {
            n if n < plain => *byte &= 0x0f,
            7 => *byte = 0,
            _ => {}
        }
    }
    bytes
}

fn breaks(target: &Target, input: &[u8]) -> bool {
    catch_unwind(|| (target.run)(input)).is_err()
}

fn smaller(target: &Target, mut input: Vec<u8>) -> Vec<u8> {
    let mut step = input.len() / 2;
    while step > 0 {
        let mut place = 0;
        while place < input.len() {
            let end = (place + step).min(input.len());
            let mut shorter = input.clone();
            shorter.drain(place..end);
            let mut plainer = input.clone();
            plainer[place..end].fill(0);
            if breaks(target, &shorter) {
                input = shorter;
            } else {
                if plainer != input && breaks(target, &plainer) {
                    input = plainer;
                }
                place = end;
            }
        }
        step /= 2;
    }
    input
}
