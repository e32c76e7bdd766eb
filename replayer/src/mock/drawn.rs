//! Recorded latencies by endpoint, to draw from.

use std::collections::HashMap;
use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// What each endpoint took until the first byte of its answers.
#[derive(Debug, Default)]
pub(crate) struct Drawn {
    numbers: HashMap<String, u32>,
    endpoints: Vec<Endpoint>,
    /// By exchange, as far as there are any.
    of: Vec<u32>,
}

#[derive(Debug, Default)]
struct Endpoint {
    seen: u64,
    /// In microseconds: a day fits.
    samples: Vec<u32>,
}

/// Endpoints that are told apart; the exchanges of others answer as recorded.
const MAX_ENDPOINTS: usize = 10_000;
/// Latencies that are kept of each: enough for its 99th percentile.
const MAX_SAMPLES: usize = 1024;
const NONE: u32 = u32::MAX;

impl Drawn {
    /// Notes what an exchange of an endpoint took. Exchanges come in order.
    pub(crate) fn add(&mut self, id: u32, endpoint: &str, took: Duration) {
        let number = match self.numbers.get(endpoint) {
            Some(known) => *known,
            None if self.endpoints.len() < MAX_ENDPOINTS => {
                let next = u32::try_from(self.endpoints.len()).unwrap_or(NONE);
                self.numbers.insert(endpoint.to_owned(), next);
                self.endpoints.push(Endpoint::default());
                next
            }
            None => return,
        };
        self.of.resize(id as usize, NONE);
        self.of.push(number);
        if let Some(endpoint) = self.endpoints.get_mut(number as usize) {
            endpoint.add(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
        }
    }

    /// A latency for the `nth` answer of an exchange: the same in every run.
    pub(crate) fn draw(&self, id: u32, nth: u64) -> Option<Duration> {
        let number = *self.of.get(id as usize)?;
        let samples = &self.endpoints.get(number as usize)?.samples;
        let at = hash(nth, id.into()).checked_rem(samples.len() as u64)?;
        let micros = samples.get(usize::try_from(at).ok()?)?;
        Some(Duration::from_micros((*micros).into()))
    }
}

impl Endpoint {
    /// Each latency is kept with the same probability, however many there are (Vitter's algorithm R).
    fn add(&mut self, micros: u32) {
        if self.samples.len() < MAX_SAMPLES {
            self.samples.push(micros);
        } else {
            let at = hash(self.seen, 0) % (self.seen + 1);
            if let Some(slot) = usize::try_from(at)
                .ok()
                .and_then(|at| self.samples.get_mut(at))
            {
                *slot = micros;
            }
        }
        self.seen += 1;
    }
}

fn hash(number: u64, seed: u64) -> u64 {
    xxh3_64_with_seed(&number.to_le_bytes(), seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn an_endpoint_is_as_slow_as_it_was_as_often() {
        let mut drawn = Drawn::default();
        // One in ten is slow; another endpoint always is.
        for id in 0..20_000 {
            let (endpoint, took) = match id % 20 {
                0 => ("GET /slow", MS(900)),
                1 | 2 => ("GET /a", MS(100)),
                _ => ("GET /a", MS(1)),
            };
            drawn.add(id, endpoint, took);
        }
        assert_eq!(drawn.endpoints[1].samples.len(), MAX_SAMPLES);
        let draws: Vec<_> = (0..10_000).map(|nth| drawn.draw(5, nth).unwrap()).collect();
        let slow = draws.iter().filter(|took| **took == MS(100)).count();
        assert!((800..1400).contains(&slow), "{slow} of 10,000");
        assert!(draws.iter().all(|took| *took != MS(900)));
        assert_eq!(drawn.draw(20, 7), Some(MS(900)));
        // The same again, and another for the next time.
        assert_eq!(drawn.draw(5, 3), Some(draws[3]));
        assert_eq!(drawn.draw(20_000, 0), None);
    }

    #[test]
    fn so_many_endpoints_are_told_apart() {
        let mut drawn = Drawn::default();
        for id in 0..MAX_ENDPOINTS as u32 + 10 {
            drawn.add(id, &format!("GET /{id}"), MS(1));
        }
        assert_eq!(drawn.endpoints.len(), MAX_ENDPOINTS);
        assert_eq!(drawn.draw(MAX_ENDPOINTS as u32 + 5, 0), None);
        assert_eq!(drawn.draw(0, 0), Some(MS(1)));
    }
}
