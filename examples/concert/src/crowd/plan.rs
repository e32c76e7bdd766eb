//! What a user means to do, before any answer.

use std::time::Duration;

use crate::draw::Draw;

/// The ways through the service.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Path {
    /// Token, dates, seats, reservation, balance, payment.
    Usual,
    /// The same, with a charge before the payment.
    WithCharge,
    /// Straight for the one seat that everybody wants; whoever loses goes home.
    Race,
}

/// What a user means to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The user's id.
    pub user_id: String,
    /// When the user comes, after the first one could.
    pub arrival: Duration,
    /// The way.
    pub path: Path,
    /// The concert.
    pub concert_id: u32,
    /// Whether the first call is made without a token, as by a client whose login was forgotten.
    pub forgets_token: bool,
    /// Points that are charged.
    pub charge: u64,
    /// What else is drawn on the way: pauses, and the choice among what is offered.
    pub draw: Draw,
}

impl Plan {
    /// The plan of the user of that index.
    #[must_use]
    pub fn new(seed: u64, index: u64, arrivals: Duration) -> Self {
        let mut draw = Draw::new(seed, index);
        let span = u64::try_from(arrivals.as_micros()).unwrap_or(u64::MAX);
        let path = match draw.below(100) {
            ..60 => Path::Usual,
            60..85 => Path::WithCharge,
            _ => Path::Race,
        };
        Self {
            user_id: format!("user-{index:05}"),
            arrival: Duration::from_micros(draw.below(span)),
            path,
            // One concert is crowded, the other quiet.
            concert_id: if path == Path::Race || draw.chance(80) {
                1
            } else {
                2
            },
            forgets_token: draw.chance(4),
            charge: draw.within(5..=20) * 10_000,
            draw,
        }
    }

    /// The pause before the next call: mostly a glance, sometimes a thought.
    pub fn pause(&mut self) -> Duration {
        let millis = match self.draw.below(10) {
            ..7 => self.draw.within(3..=40),
            _ => self.draw.within(40..=200),
        };
        Duration::from_millis(millis)
    }

    /// The choice among `count` offers.
    pub fn choose(&mut self, count: usize) -> usize {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        usize::try_from(self.draw.below(count)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_determines_the_plans() {
        let plans = |seed| {
            (0..200)
                .map(|index| {
                    let mut plan = Plan::new(seed, index, Duration::from_secs(5));
                    assert!(plan.arrival < Duration::from_secs(5));
                    let pause = plan.pause();
                    (plan.arrival, format!("{:?}", plan.path), plan.charge, pause)
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(plans(1), plans(1));
        assert_ne!(plans(1), plans(2));
    }

    #[test]
    fn every_way_is_taken() {
        let paths: Vec<_> = (0..200)
            .map(|index| Plan::new(3, index, Duration::ZERO).path)
            .collect();
        for path in [Path::Usual, Path::WithCharge, Path::Race] {
            let n_taken = paths.iter().filter(|taken| **taken == path).count();
            assert!(n_taken > 15, "{path:?}: {n_taken} of 200");
        }
    }
}
