//! Draws that depend on what they are drawn for, and on nothing else.

use std::f64::consts::TAU;
use std::time::Duration;

use xxhash_rust::xxh3::Xxh3;

use super::Spread;

/// A sequence of draws (SplitMix64).
#[derive(Clone, Debug)]
pub(crate) struct Dice {
    state: u64,
}

impl Dice {
    /// The draws of the `nth` time that a rule meets `whom`.
    pub(crate) fn new(seed: u64, rule: &str, whom: u64, nth: u64) -> Self {
        let mut hash = Xxh3::with_seed(seed);
        hash.update(&whom.to_le_bytes());
        hash.update(&nth.to_le_bytes());
        hash.update(rule.as_bytes());
        Self {
            state: hash.digest(),
        }
    }

    /// At least 0, below 1.
    pub(crate) fn unit(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        // The 53 bits that a double holds.
        (z >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A number of the standard normal distribution (Box and Muller).
    fn normal(&mut self) -> f64 {
        // Never the logarithm of zero.
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (TAU * self.unit()).cos()
    }

    /// A delay.
    pub(crate) fn delay(&mut self, spread: Spread) -> Duration {
        let seconds = match spread {
            Spread::Fixed(time) => return time,
            Spread::Normal { mean, deviation } => self
                .normal()
                .mul_add(deviation.as_secs_f64(), mean.as_secs_f64()),
            Spread::LogNormal { median, sigma } => {
                median.as_secs_f64() * (sigma * self.normal()).exp()
            }
            Spread::Pareto { minimum, shape } => {
                minimum.as_secs_f64() / (1.0 - self.unit()).powf(1.0 / shape)
            }
        };
        // A client gives up long before; without a bound a heavy tail would overflow a timer.
        Duration::try_from_secs_f64(seconds.clamp(0.0, LONGEST.as_secs_f64())).unwrap_or(LONGEST)
    }
}

/// The longest delay that is drawn.
const LONGEST: Duration = Duration::from_secs(3600);
