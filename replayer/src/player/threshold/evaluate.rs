//! Whether a threshold holds.

use std::fmt;
use std::time::Duration;

use crate::player::duration::show;
use crate::player::tally::Trend;
use crate::player::threshold::expression::{Aggregation, Threshold};

/// What is known of a series when a threshold is evaluated.
#[derive(Clone, Debug)]
pub(crate) enum Value<'a> {
    /// Zero is a value: it is known that nothing happened.
    Counter(u64),
    Gauge(f64),
    Rate {
        hits: u64,
        total: u64,
    },
    Trend(&'a Trend),
    /// No request of the run could ever be in the series.
    Nothing,
}

/// The outcome of one threshold.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The metric with its tags, as it was written.
    pub series: String,
    /// The expression, as it was written.
    pub expression: String,
    /// The left side of the expression: `p(95)`.
    pub aggregation: String,
    /// Its value: milliseconds for trends, 0 to 1 for rates. `None`: there were no samples.
    pub value: Option<f64>,
    /// Whether the threshold holds.
    pub ok: bool,
    /// Why it does not, or that it does.
    pub reason: VerdictReason,
}

/// Why a [`Verdict`] is what it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum VerdictReason {
    /// The value was compared.
    Compared,
    /// There were no samples, so that nothing was shown.
    NoSamples,
    /// It failed over the window that began this long after the start.
    Window(Duration),
    /// It failed during the run, this long after the start, and ended it.
    Aborted(Duration),
}

pub(crate) fn verdict(threshold: &Threshold, value: &Value<'_>, elapsed: Duration) -> Verdict {
    let value = aggregate(threshold.aggregation, value, elapsed);
    let (ok, reason) = match value {
        Some(value) => (
            threshold.operator.holds(value, threshold.bound),
            VerdictReason::Compared,
        ),
        None => (false, VerdictReason::NoSamples),
    };
    Verdict {
        ok,
        ..Verdict::failed(threshold, value, reason)
    }
}

impl Verdict {
    /// On a threshold that does not hold.
    pub(crate) fn failed(threshold: &Threshold, value: Option<f64>, reason: VerdictReason) -> Self {
        Self {
            series: threshold.series.text.clone(),
            expression: match threshold.over {
                Some(over) => format!("{} over {}", threshold.expression, show(over)),
                None => threshold.expression.clone(),
            },
            aggregation: threshold.aggregation.to_string(),
            value,
            ok: false,
            reason,
        }
    }
}

/// `None`: no samples. The parser lets no aggregation through that the metric does not have.
fn aggregate(aggregation: Aggregation, value: &Value<'_>, elapsed: Duration) -> Option<f64> {
    match (aggregation, value) {
        (Aggregation::Count, Value::Counter(count)) => Some(*count as f64),
        (Aggregation::Rate, Value::Counter(count)) => {
            let seconds = elapsed.as_secs_f64();
            (seconds > 0.0).then(|| *count as f64 / seconds)
        }
        (Aggregation::Value, Value::Gauge(value)) => Some(*value),
        (Aggregation::Rate, Value::Rate { hits, total }) => {
            (*total > 0).then(|| *hits as f64 / *total as f64)
        }
        (_, Value::Trend(trend)) if trend.count() > 0 => {
            let value = match aggregation {
                Aggregation::Avg => trend.mean(),
                Aggregation::Min => trend.min(),
                Aggregation::Max => trend.max(),
                Aggregation::Med => trend.percentile(50.0),
                Aggregation::Percentile(percent) => trend.percentile(percent),
                Aggregation::Count | Aggregation::Rate | Aggregation::Value => return None,
            };
            Some(value.as_secs_f64() * 1e3)
        }
        _ => None,
    }
}

impl fmt::Display for Verdict {
    /// As k6 prints it: `✓ 'p(95)<500' p(95)=148.21ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.ok { '✓' } else { '✗' };
        write!(f, "{mark} '{}'", self.expression)?;
        match self.value {
            Some(value) => {
                let rounded = (value * 1e4).round() / 1e4;
                let unit = match self.aggregation.as_str() {
                    "count" | "rate" | "value" => "",
                    _ => "ms",
                };
                write!(f, " {}={rounded}{unit}", self.aggregation)?;
            }
            None => write!(f, " no samples")?,
        }
        match self.reason {
            VerdictReason::Aborted(after) => {
                write!(f, " ended the run after {:.1} s", after.as_secs_f64())
            }
            VerdictReason::Window(from) => write!(f, " from second {} on", from.as_secs()),
            VerdictReason::Compared | VerdictReason::NoSamples => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trend() -> Trend {
        let mut trend = Trend::new();
        for millis in 1..=100 {
            trend.record(Duration::from_millis(millis));
        }
        trend
    }

    #[test]
    fn expressions_are_compared_with_values() {
        let trend = trend();
        let rate = Value::Rate { hits: 1, total: 50 };
        for (text, value, ok) in [
            ("http_reqs: count>=10", Value::Counter(10), true),
            ("http_reqs: count > 10", Value::Counter(10), false),
            ("http_reqs: count===10", Value::Counter(10), true),
            ("http_reqs: count!=10", Value::Counter(10), false),
            ("http_reqs: rate==5", Value::Counter(10), true),
            ("http_reqs{status:500}: count<1", Value::Counter(0), true),
            ("connections_peak: value<=3", Value::Gauge(3.0), true),
            ("http_req_failed: rate<0.02", rate.clone(), false),
            ("http_req_failed: rate<=0.02", rate, true),
            ("http_req_duration: max<=100", Value::Trend(&trend), true),
            ("http_req_duration: min<1", Value::Trend(&trend), false),
            ("http_req_duration: avg==50.5", Value::Trend(&trend), true),
            ("http_req_duration: med<51", Value::Trend(&trend), true),
            ("http_req_duration: p(95)<96", Value::Trend(&trend), true),
            ("http_req_duration: p(95)<94.5", Value::Trend(&trend), false),
            ("http_req_duration: p(99.9)>99", Value::Trend(&trend), true),
        ] {
            let threshold: Threshold = text.parse().unwrap();
            let verdict = verdict(&threshold, &value, Duration::from_secs(2));
            assert_eq!(verdict.ok, ok, "{text}: {verdict}");
            assert_eq!(verdict.reason, VerdictReason::Compared);
        }
    }

    #[test]
    fn what_was_never_measured_holds_nothing() {
        for (text, value) in [
            ("http_req_duration: p(95)<500", Value::Trend(&Trend::new())),
            ("http_req_failed: rate<1", Value::Rate { hits: 0, total: 0 }),
            ("http_reqs{method:PUT}: count==0", Value::Nothing),
        ] {
            let verdict = verdict(&text.parse().unwrap(), &value, Duration::from_secs(1));
            assert!(!verdict.ok, "{text}");
            assert_eq!(verdict.reason, VerdictReason::NoSamples);
            assert!(verdict.to_string().ends_with("no samples"), "{verdict}");
        }
    }

    #[test]
    fn verdicts_read_as_in_k6() {
        let trend = trend();
        let threshold = "http_req_duration: p(100)<99".parse().unwrap();
        let verdict = verdict(&threshold, &Value::Trend(&trend), Duration::ZERO);
        assert_eq!(verdict.to_string(), "✗ 'p(100)<99' p(100)=100ms");
    }
}
