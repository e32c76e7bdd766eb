//! Random inputs for a target, with no coverage: `wander TARGET SECONDS SEED FOLDER`.
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};
use tapedeck_testkit::Rng;
fn main() {
    let args: Vec<String> = std::env::args().collect();
    let target = tapedeck_fuzzing::TARGETS
        .iter()
        .find(|t| t.name == args[1])
        .unwrap();
    let end = Instant::now() + Duration::from_secs(args[2].parse().unwrap());
    let mut rng = Rng::new(args[3].parse().unwrap());
    std::panic::set_hook(Box::new(|_| {}));
    let seeds: Vec<Vec<u8>> = std::fs::read_dir(format!("fuzz/corpus/{}", args[1]))
        .map(|d| {
            d.flatten()
                .filter_map(|e| std::fs::read(e.path()).ok())
                .collect()
        })
        .unwrap_or_default();
    let (mut n, mut bad) = (0u64, 0u64);
    while Instant::now() < end {
        let pick = rng.bytes(4);
        let len = 20 + (usize::from(pick[0]) | usize::from(pick[1]) << 8) % 480;
        let mut bytes = if pick[2] % 3 == 0 || seeds.is_empty() {
            rng.bytes(len)
        } else {
            seeds[(usize::from(pick[3]) << 8 | usize::from(pick[0])) % seeds.len()].clone()
        };
        for _ in 0..pick[1] % 12 {
            let w = rng.bytes(4);
            if !bytes.is_empty() {
                let at = (usize::from(w[0]) << 8 | usize::from(w[1])) % bytes.len();
                match w[3] % 4 {
                    0 => {
                        bytes.insert(at, w[2]);
                    }
                    1 => {
                        bytes.remove(at);
                    }
                    _ => bytes[at] = w[2],
                }
            }
        }
        n += 1;
        if catch_unwind(AssertUnwindSafe(|| (target.run)(&bytes))).is_err() {
            bad += 1;
            std::fs::write(format!("{}/{}-{}-{n}", args[4], args[1], args[3]), &bytes).unwrap();
            if bad > 30 {
                break;
            }
        }
    }
    println!("{} {n} inputs, {bad} bad", args[1]);
}
