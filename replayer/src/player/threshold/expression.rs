//! The text of a threshold.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::player::duration;
use crate::player::threshold::metric::Metric;
use crate::player::watch::is_expected;

/// A condition on a metric, for example `http_req_duration: p(95)<500; abort; delay 10s`.
#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    pub(crate) series: Series,
    /// As it was written: the key in summaries.
    pub(crate) expression: String,
    pub(crate) aggregation: Aggregation,
    pub(crate) operator: Operator,
    pub(crate) bound: f64,
    /// k6's `abortOnFail`: it ends the run when it fails.
    pub(crate) abort: bool,
    /// k6's `delayAbortEval`: but not before this has passed.
    pub(crate) delay: Duration,
    /// It must hold over any stretch of this length, in whole seconds; `None`: over the whole run.
    pub(crate) over: Option<Duration>,
}

/// A metric, or the part of it that belongs to some requests.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Series {
    pub(crate) text: String,
    pub(crate) metric: Metric,
    pub(crate) tags: Tags,
}

/// Which requests are meant; `None`: all.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tags {
    /// A path template, or a method and one.
    pub(crate) endpoint: Option<String>,
    pub(crate) method: Option<String>,
    /// 0: those without an answer, as in k6.
    pub(crate) status: Option<u16>,
    pub(crate) expected_response: Option<bool>,
    pub(crate) scenario: Option<String>,
    /// Tags of scenarios.
    pub(crate) other: BTreeMap<String, String>,
}

impl Tags {
    /// No answer has that status and is, or is not, expected.
    pub(crate) fn is_contradiction(&self) -> bool {
        let status = self.status.map(is_expected);
        status
            .zip(self.expected_response)
            .is_some_and(|(a, b)| a != b)
    }

    const fn is_of_requests(&self) -> bool {
        self.endpoint.is_some()
            || self.method.is_some()
            || self.status.is_some()
            || self.expected_response.is_some()
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Aggregation {
    Count,
    Rate,
    Value,
    Avg,
    Min,
    Max,
    Med,
    Percentile(f64),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Operator {
    LessEqual,
    Less,
    GreaterEqual,
    Greater,
    Equal,
    NotEqual,
}

/// Why a text is no [`Threshold`], and where.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{message}\n  {text}\n  {}^", " ".repeat(*.column))]
pub struct ParseThresholdError {
    text: String,
    /// In characters, from zero.
    column: usize,
    message: String,
}

impl Threshold {
    /// What was observed is kept apart by the second.
    const MIN_WINDOW: Duration = Duration::from_secs(1);
    /// Each second of a window takes 30 KiB for a trend.
    const MAX_WINDOW: Duration = Duration::from_secs(600);
}

impl fmt::Display for Threshold {
    /// As it is read.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.series.text, self.expression)?;
        if self.abort {
            f.write_str("; abort")?;
        }
        if !self.delay.is_zero() {
            write!(f, "; delay {}", duration::show(self.delay))?;
        }
        match self.over {
            Some(over) => write!(f, "; over {}", duration::show(over)),
            None => Ok(()),
        }
    }
}

impl Operator {
    /// In the order in which k6 looks for them.
    const TOKENS: [(&'static str, Self); 7] = [
        ("<=", Self::LessEqual),
        ("<", Self::Less),
        (">=", Self::GreaterEqual),
        (">", Self::Greater),
        ("===", Self::Equal),
        ("==", Self::Equal),
        ("!=", Self::NotEqual),
    ];

    /// Whether a value is further from what is wanted than another.
    pub(crate) fn is_worse(self, value: f64, than: f64) -> bool {
        match self {
            Self::LessEqual | Self::Less => value > than,
            Self::GreaterEqual | Self::Greater => value < than,
            Self::Equal | Self::NotEqual => false,
        }
    }

    #[expect(
        clippy::float_cmp,
        reason = "whoever writes == means it; k6 compares alike"
    )]
    pub(crate) fn holds(self, value: f64, bound: f64) -> bool {
        match self {
            Self::LessEqual => value <= bound,
            Self::Less => value < bound,
            Self::GreaterEqual => value >= bound,
            Self::Greater => value > bound,
            Self::Equal => value == bound,
            Self::NotEqual => value != bound,
        }
    }
}

impl fmt::Display for Aggregation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count => f.write_str("count"),
            Self::Rate => f.write_str("rate"),
            Self::Value => f.write_str("value"),
            Self::Avg => f.write_str("avg"),
            Self::Min => f.write_str("min"),
            Self::Max => f.write_str("max"),
            Self::Med => f.write_str("med"),
            Self::Percentile(percent) => write!(f, "p({percent})"),
        }
    }
}

impl FromStr for Threshold {
    type Err = ParseThresholdError;

    fn from_str(text: &str) -> Result<Self, ParseThresholdError> {
        Reader(text).threshold()
    }
}

/// What went wrong, and the part of the text that did.
type Wrong<'a> = (&'a str, String);

struct Reader<'a>(&'a str);

impl<'a> Reader<'a> {
    fn threshold(&self) -> Result<Threshold, ParseThresholdError> {
        self.read().map_err(|(part, message)| {
            // Every part is a slice of the text: its address says where it stands.
            let offset = part.as_ptr().addr().saturating_sub(self.0.as_ptr().addr());
            ParseThresholdError {
                text: self.0.to_owned(),
                column: self.0.get(..offset).map_or(0, |s| s.chars().count()),
                message,
            }
        })
    }

    fn read(&self) -> Result<Threshold, Wrong<'a>> {
        let Some((series, rest)) = split_outside(self.0, ':') else {
            let end = self.0.split_at(self.0.len()).1;
            return Err((
                end,
                "expected METRIC: EXPRESSION, for example http_req_duration: p(95)<500".to_owned(),
            ));
        };
        let series = series_of(series)?;
        let mut clauses = rest.split(';');
        let expression = clauses.next().unwrap_or_default().trim();
        let (aggregation, operator, bound) = assertion(expression, series.metric)?;
        let mut threshold = Threshold {
            series,
            expression: expression.to_owned(),
            aggregation,
            operator,
            bound,
            abort: false,
            delay: Duration::ZERO,
            over: None,
        };
        for clause in clauses.map(str::trim) {
            if clause == "abort" {
                threshold.abort = true;
            } else if let Some(delay) = clause.strip_prefix("delay ") {
                threshold.delay = duration_of(delay.trim())?;
            } else if let Some(over) = clause.strip_prefix("over ") {
                threshold.over = Some(window(over.trim())?);
            } else {
                let message =
                    "expected abort, delay TIME, or over TIME, behind the expression".to_owned();
                return Err((clause, message));
            }
        }
        if threshold.over.is_some() && !threshold.series.metric.is_tagged() {
            return Err((
                rest,
                "this metric is of the whole run, and has no windows".to_owned(),
            ));
        }
        if !threshold.abort && !threshold.delay.is_zero() {
            return Err((rest, "delay is of use with abort only".to_owned()));
        }
        Ok(threshold)
    }
}

fn series_of(text: &str) -> Result<Series, Wrong<'_>> {
    let text = text.trim();
    let (name, tags) = match text.split_once('{') {
        Some((name, tags)) => (name.trim(), Some(tags)),
        None => (text, None),
    };
    let Some(metric) = Metric::named(name) else {
        let known: Vec<_> = Metric::names().collect();
        let message = format!("no metric {name:?}; there are {}", known.join(", "));
        return Err((name, message));
    };
    let tags = match tags {
        None => Tags::default(),
        Some(tags) => {
            let inner = tags
                .strip_suffix('}')
                .ok_or_else(|| (tags, "the tags have no end: } is missing".to_owned()))?;
            if !metric.is_tagged() {
                return Err((tags, format!("{name} is of the whole run and has no tags")));
            }
            let tags = tags_of(inner)?;
            if metric.is_of_iterations() && tags.is_of_requests() {
                let message = format!(
                    "{name} is of iterations: it has the tag scenario, and those of scenarios"
                );
                return Err((inner, message));
            }
            tags
        }
    };
    Ok(Series {
        text: text.to_owned(),
        metric,
        tags,
    })
}

fn tags_of(text: &str) -> Result<Tags, Wrong<'_>> {
    let mut tags = Tags::default();
    let mut rest = text;
    loop {
        let (tag, behind) = match split_outside(rest, ',') {
            Some((tag, behind)) => (tag, Some(behind)),
            None => (rest, None),
        };
        let tag = tag.trim();
        let (name, value) = tag
            .split_once(':')
            .ok_or_else(|| (tag, "a tag is written NAME:VALUE".to_owned()))?;
        let value = value.trim().trim_matches(['"', '\'']);
        match name.trim() {
            "endpoint" => tags.endpoint = Some(value.to_owned()),
            "method" => tags.method = Some(value.to_owned()),
            "status" => {
                let status = value.parse();
                let wrong = |_| (value, format!("{value:?} is no status code"));
                tags.status = Some(status.map_err(wrong)?);
            }
            "expected_response" => {
                let expected = value.parse();
                let wrong = |_| (value, "expected true or false".to_owned());
                tags.expected_response = Some(expected.map_err(wrong)?);
            }
            "scenario" => tags.scenario = Some(value.to_owned()),
            // Those of scenarios are known when the run begins.
            name => {
                tags.other.insert(name.to_owned(), value.to_owned());
            }
        }
        match behind {
            Some(behind) => rest = behind,
            None => return Ok(tags),
        }
    }
}

fn assertion(text: &str, metric: Metric) -> Result<(Aggregation, Operator, f64), Wrong<'_>> {
    let found = Operator::TOKENS
        .iter()
        .find_map(|(token, operator)| Some((text.split_once(token)?, *operator)));
    let Some(((method, bound), operator)) = found else {
        let message = "expected a comparison: <=, <, >=, >, ===, ==, or !=".to_owned();
        return Err((text, message));
    };
    let (method, bound) = (method.trim(), bound.trim());
    let aggregation = aggregation(method)?;
    let fits = match metric {
        Metric::Counter(_) => matches!(aggregation, Aggregation::Count | Aggregation::Rate),
        Metric::Gauge(_) => aggregation == Aggregation::Value,
        Metric::Rate(_) => aggregation == Aggregation::Rate,
        Metric::Trend(_) => !matches!(
            aggregation,
            Aggregation::Count | Aggregation::Rate | Aggregation::Value
        ),
    };
    if !fits {
        return Err((
            method,
            format!(
                "a {} has no {aggregation}; it has {}",
                metric.kind(),
                metric.aggregations()
            ),
        ));
    }
    match bound.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok((aggregation, operator, number)),
        Ok(_) | Err(_) => Err((bound, format!("{bound:?} is no number"))),
    }
}

fn aggregation(text: &str) -> Result<Aggregation, Wrong<'_>> {
    Ok(match text {
        "count" => Aggregation::Count,
        "rate" => Aggregation::Rate,
        "value" => Aggregation::Value,
        "avg" => Aggregation::Avg,
        "min" => Aggregation::Min,
        "max" => Aggregation::Max,
        "med" => Aggregation::Med,
        _ => {
            let percent = text.strip_prefix("p(").and_then(|p| p.strip_suffix(')'));
            let Some(percent) = percent else {
                let message = format!(
                    "no aggregation {text:?}; there are count, rate, value, avg, min, max, med, p(N)"
                );
                return Err((text, message));
            };
            match percent.trim().parse::<f64>() {
                Ok(n) if (0.0..=100.0).contains(&n) => Aggregation::Percentile(n),
                Ok(_) | Err(_) => {
                    let message = format!("{percent:?} is no percentile from 0 to 100");
                    return Err((percent, message));
                }
            }
        }
    })
}

fn duration_of(text: &str) -> Result<Duration, Wrong<'_>> {
    let wrong = || format!("{text:?} is no duration; examples: 500ms, 10s, 1m30s");
    duration::parse(text).ok_or_else(|| (text, wrong()))
}

fn window(text: &str) -> Result<Duration, Wrong<'_>> {
    let window = duration_of(text)?;
    if window.subsec_nanos() != 0
        || !(Threshold::MIN_WINDOW..=Threshold::MAX_WINDOW).contains(&window)
    {
        let message = format!("{text:?} is not a whole number of seconds from 1s to 10m");
        return Err((text, message));
    }
    Ok(window)
}

/// Splits at the first `separator` that stands outside of braces and double quotes: path templates
/// hold braces, and anything may stand in quotes.
fn split_outside(text: &str, separator: char) -> Option<(&str, &str)> {
    let (mut depth, mut quoted) = (0_u32, false);
    for (at, c) in text.char_indices() {
        match c {
            '"' => quoted = !quoted,
            _ if quoted => {}
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ if c == separator && depth == 0 => {
                return Some((text.get(..at)?, text.get(at + c.len_utf8()..)?));
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_read() {
        let read = |text: &str| text.parse::<Threshold>().unwrap();
        let threshold =
            read("http_req_duration{ endpoint:/users/{id}, method: GET } : p(99.9) <= 1.5e2");
        assert_eq!(
            threshold.series.text,
            "http_req_duration{ endpoint:/users/{id}, method: GET }"
        );
        assert_eq!(threshold.aggregation, Aggregation::Percentile(99.9));
        assert_eq!(threshold.operator, Operator::LessEqual);
        assert_eq!(threshold.bound.to_bits(), 150_f64.to_bits());
        assert_eq!(threshold.expression, "p(99.9) <= 1.5e2");
        let tags = threshold.series.tags;
        assert_eq!(tags.endpoint.as_deref(), Some("/users/{id}"));
        assert_eq!(tags.method.as_deref(), Some("GET"));

        let tags = read("http_reqs{status:500,expected_response:false}: count<1")
            .series
            .tags;
        assert_eq!(
            (tags.status, tags.expected_response),
            (Some(500), Some(false))
        );
        let tags = read(r#"http_reqs{endpoint:"POST /a,b}: c"}: count<1"#)
            .series
            .tags;
        assert_eq!(tags.endpoint.as_deref(), Some("POST /a,b}: c"));
    }

    #[test]
    fn every_threshold_is_shown_as_it_is_read() {
        for text in [
            "http_req_duration{scenario:a,zone:b}: p(95)<5",
            "http_req_failed: rate<0.1; abort; delay 1m30s; over 10s",
        ] {
            assert_eq!(text.parse::<Threshold>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn aborting_is_said_behind_the_expression() {
        for (text, delay) in [
            ("http_req_failed: rate<0.1; abort", 0),
            ("http_req_failed: rate<0.1 ;abort; delay 1m30s", 90_000),
            ("http_req_failed: rate<0.1; delay 500; abort", 500),
        ] {
            let threshold: Threshold = text.parse().unwrap();
            assert!(threshold.abort);
            assert_eq!(threshold.delay, Duration::from_millis(delay), "{text}");
            assert_eq!(threshold.expression, "rate<0.1");
        }
    }

    #[test]
    fn a_mistake_is_shown_where_it_is() {
        for (text, at, says) in [
            ("", 0, "METRIC: EXPRESSION"),
            ("http_req_duration p(95)<5", 25, "METRIC: EXPRESSION"),
            ("latency: p(95)<5", 0, "http_req_duration"),
            ("http_reqs{: count<1", 19, "METRIC: EXPRESSION"),
            ("http_reqs{}: count<1", 10, "NAME:VALUE"),
            ("iterations{status:1}: count<1", 11, "the tag scenario"),
            (
                "http_reqs: count<1; over 1500ms",
                25,
                "whole number of seconds",
            ),
            ("http_reqs: count<1; over 1h", 25, "10m"),
            ("cpu_share: value<1; over 10s", 10, "no windows"),
            ("http_reqs{status:x}: count<1", 17, "status code"),
            (
                "http_reqs{expected_response:1}: count<1",
                28,
                "true or false",
            ),
            ("data_sent{method:GET}: count<1", 10, "no tags"),
            ("http_reqs: count", 11, "<=, <"),
            ("http_reqs: counts<1", 11, "no aggregation"),
            (
                "http_reqs: p(95)<1",
                11,
                "a counter has no p(95); it has count, rate",
            ),
            ("cpu_share: rate<1", 11, "it has value"),
            ("http_req_failed: count<1", 17, "it has rate"),
            ("http_req_duration: rate<1", 19, "it has avg, min"),
            ("http_req_duration: p(101)<1", 21, "0 to 100"),
            ("http_req_duration: p(x)<1", 21, "0 to 100"),
            ("http_reqs: count<", 17, "no number"),
            ("http_reqs: count<1ms", 17, "no number"),
            ("http_reqs: count=<1", 11, "no aggregation"),
            ("http_reqs: count<1; stop", 20, "expected abort"),
            ("http_reqs: count<1; abort; delay 1y", 33, "no duration"),
            ("http_reqs: count<1; delay 1s", 10, "with abort only"),
        ] {
            let error = text.parse::<Threshold>().unwrap_err();
            assert!(error.message.contains(says), "{text:?}: {error}");
            assert_eq!(error.column, at, "{text:?}: {error}");
        }
    }
}
