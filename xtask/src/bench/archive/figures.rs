//! What was measured, and the bounds that hold for it.

use serde_json::Value;

use super::super::figures::Bound;
use super::super::measure::Cost;
use super::traffic::Traffic;

/// Lengths in bytes, and what the measuring program said.
#[derive(Clone, Debug)]
pub(crate) struct OfTraffic {
    pub(crate) traffic: Traffic,
    pub(crate) pcap_len: u64,
    pub(crate) zstd_len: u64,
    pub(crate) har_len: u64,
    pub(crate) har_gzip_len: u64,
    pub(crate) flow_len: Option<u64>,
    pub(crate) archive_len: u64,
    pub(crate) write: Value,
    pub(crate) random: Value,
    pub(crate) copy: Value,
    pub(crate) encrypted: Value,
    /// What it costs to import the HAR.
    pub(crate) har_import: Cost,
}

/// What was measured of a large index.
#[derive(Clone, Debug)]
pub(crate) struct Index {
    pub(crate) filter: Value,
    pub(crate) open: Value,
    pub(crate) scan: Value,
    pub(crate) trickle: Value,
    /// Seconds, and for how many exchanges.
    pub(crate) jq: f64,
    pub(crate) jq_exchanges: f64,
}

/// A number that was measured. One that was not is not a number.
pub(crate) fn number(figures: &Value, name: &str) -> f64 {
    figures[name].as_f64().unwrap_or(f64::NAN)
}

fn bound(what: &str, measured: f64, at_most: f64) -> Bound {
    Bound {
        what: what.to_owned(),
        measured,
        at_most,
        aim: None,
    }
}

impl OfTraffic {
    /// The bounds of issue 4.
    pub(crate) fn bounds(&self) -> Vec<Bound> {
        let write = |name| number(&self.write, name);
        let random = |name| number(&self.random, name);
        let archive = self.archive_len as f64;
        vec![
            bound(
                "size / HAR, `gzip -6`",
                archive / self.har_gzip_len as f64,
                0.5,
            ),
            bound(
                "size / capture, `zstd -3`",
                archive / self.zstd_len as f64,
                1.0,
            ),
            // A rate of 0.8 of zstd's is 1.25 times its time.
            bound(
                "time to write / time of `zstd -3` for the same bytes",
                write("write_seconds") / write("zstd_seconds"),
                1.25,
            ),
            bound(
                "a random exchange with its body / `zstd -d` of the blocks they lie in",
                random("load_mean") / random("bare_mean"),
                3.0,
            ),
            bound(
                "the same, p99 / 200 µs for each block that the largest lies in",
                random("load_p99") / (200e-6 * random("blocks_most")),
                1.0,
            ),
        ]
    }
}

impl Index {
    /// The bounds of issue 4.
    pub(crate) fn bounds(&self) -> Vec<Bound> {
        let filter = number(&self.filter, "filter_seconds");
        let exchanges = number(&self.filter, "exchanges");
        let jq = self.jq * exchanges / self.jq_exchanges;
        vec![
            bound(
                "filter on the status / plain sum of the same mapped bytes",
                filter / number(&self.filter, "sum_seconds"),
                4.0,
            ),
            bound("filter / `jq` on the HAR", filter / jq, 1e-3),
            bound(
                "opening the large archive / opening one of 10,000",
                number(&self.open, "large_seconds") / number(&self.open, "small_seconds"),
                2.0,
            ),
            bound(
                "memory of a scan beyond the mapping / 64 MiB",
                number(&self.scan, "anonymous_kib") / f64::from(64 << 10),
                1.0,
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bounds_compare_what_they_name() {
        let index = Index {
            filter: json!({"exchanges": 1000, "filter_seconds": 0.006, "sum_seconds": 0.002}),
            open: json!({"large_seconds": 3e-5, "small_seconds": 2e-5}),
            scan: json!({"anonymous_kib": 16 << 10}),
            trickle: Value::Null,
            jq: 2.0,
            jq_exchanges: 100.0,
        };
        let measured: Vec<f64> = index.bounds().iter().map(|it| it.measured).collect();
        let expected = [3.0, 0.006 / 20.0, 1.5, 0.25];
        for (measured, expected) in measured.into_iter().zip(expected) {
            assert!((measured - expected).abs() < 1e-9, "{measured} {expected}");
        }
        assert!(number(&Value::Null, "x").is_nan());
    }
}
