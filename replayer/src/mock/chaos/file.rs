//! Chaos files: what goes wrong, how often, and when. YAML or JSON.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde_saphyr::{Location, Spanned};
use tapedeck_filter::Filter;

use super::{Action, Alert, Chaos, Harm, Pace, Place, Rule, Spread};
use crate::player::duration;

/// What is wrong with a chaos file, and where.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct ChaosError {
    /// From one.
    pub line: u64,
    /// From one.
    pub column: u64,
    /// What is wrong.
    pub message: String,
}

impl ChaosError {
    fn at(location: Location, message: impl Into<String>) -> Self {
        Self {
            line: location.line(),
            column: location.column(),
            message: message.into(),
        }
    }
}

impl Chaos {
    /// Reads a chaos file's text.
    ///
    /// # Errors
    ///
    /// The first mistake, with its place.
    pub fn parse(text: &str) -> Result<Self, ChaosError> {
        let file: File = serde_saphyr::from_str(text).map_err(|error| {
            let location = error.location().unwrap_or(Location::UNKNOWN);
            let text = error.without_snippet().to_string();
            let message = text.split(" at line ").next().unwrap_or(&text);
            ChaosError::at(location, message.trim_start_matches("error: "))
        })?;
        let mut rules = Vec::with_capacity(file.faults.len());
        let mut names = BTreeSet::new();
        for rule in &file.faults {
            let parsed = rule.value.check().map_err(|(location, message)| {
                ChaosError::at(location.unwrap_or(rule.referenced), message)
            })?;
            if !names.insert(parsed.name.clone()) {
                let message = format!("two faults have the name {:?}", parsed.name);
                return Err(ChaosError::at(rule.referenced, message));
            }
            rules.push(parsed);
        }
        Ok(Self {
            seed: file.seed,
            rules,
        })
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    seed: u64,
    faults: Vec<Spanned<RuleFile>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RuleFile {
    name: String,
    when: Option<Spanned<String>>,
    probability: Option<Spanned<f64>>,
    from: Option<Time>,
    until: Option<Time>,
    latency: Option<Spanned<LatencyFile>>,
    bandwidth: Option<Spanned<u64>>,
    drip: Option<Spanned<DripFile>>,
    answer: Option<Spanned<AnswerFile>>,
    grpc: Option<Spanned<GrpcFile>>,
    reset: Option<ResetFile>,
    truncate: Option<PlaceFile>,
    stall: Option<StallFile>,
    length: Option<Spanned<i64>>,
    malformed_chunk: Option<Only>,
    missing_trailers: Option<Only>,
    goaway: Option<CodeFile>,
    refuse: Option<Only>,
    window_stall: Option<Only>,
    settings_storm: Option<Spanned<u32>>,
    tls_alert: Option<Spanned<AlertFile>>,
    expired_certificate: Option<Only>,
}

/// A switch that is only ever on: what is off is not written down.
#[derive(Clone, Copy, Debug)]
struct Only;

impl<'de> Deserialize<'de> for Only {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if bool::deserialize(deserializer)? {
            Ok(Self)
        } else {
            Err(serde::de::Error::custom("true, or leave the field out"))
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LatencyFile {
    fixed: Option<Time>,
    normal: Option<NormalFile>,
    lognormal: Option<LogNormalFile>,
    pareto: Option<ParetoFile>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NormalFile {
    mean: Time,
    deviation: Time,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LogNormalFile {
    median: Time,
    sigma: f64,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ParetoFile {
    minimum: Time,
    shape: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DripFile {
    bytes: usize,
    every: Time,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct AnswerFile {
    status: u16,
    #[serde(default)]
    body: String,
    #[serde(default)]
    content_type: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GrpcFile {
    status: u32,
    #[serde(default)]
    message: String,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ResetFile {
    #[serde(default)]
    at: PlaceName,
    bytes: Option<usize>,
    #[serde(default = "cancel")]
    code: u32,
}

/// CANCEL, RFC 9113 section 7.
const fn cancel() -> u32 {
    8
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlaceFile {
    #[serde(default = "body")]
    at: PlaceName,
    bytes: Option<usize>,
}

const fn body() -> PlaceName {
    PlaceName::Body
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StallFile {
    #[serde(default)]
    at: PlaceName,
    bytes: Option<usize>,
    #[serde(rename = "for")]
    time: Option<Time>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CodeFile {
    #[serde(default)]
    code: u32,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PlaceName {
    #[default]
    BeforeHead,
    InHead,
    AfterHead,
    Body,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum AlertFile {
    Name(String),
    Number(u8),
}

/// A duration as the player writes it: `300ms`, `1m30s`.
#[derive(Clone, Copy, Debug)]
struct Time(Duration);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let parsed = duration::parse(&text).map(Self);
        parsed.ok_or_else(|| {
            serde::de::Error::custom(format_args!(
                "{text:?} is no duration such as 300ms or 1m30s"
            ))
        })
    }
}

type Wrong = (Option<Location>, String);

fn wrong(message: impl Into<String>) -> Wrong {
    (None, message.into())
}

fn wrong_at<T>(place: &Spanned<T>, message: impl fmt::Display) -> Wrong {
    (Some(place.referenced), message.to_string())
}

impl RuleFile {
    fn check(&self) -> Result<Rule, Wrong> {
        let probability = match &self.probability {
            Some(p) if !(0.0..=1.0).contains(&p.value) => {
                return Err(wrong_at(p, "a probability lies between 0 and 1"));
            }
            Some(p) => p.value,
            None => 1.0,
        };
        let from = self.from.map_or(Duration::ZERO, |time| time.0);
        let until = self.until.map(|time| time.0);
        if until.is_some_and(|until| until <= from) {
            return Err(wrong("`until` is not behind `from`"));
        }
        let when = match &self.when {
            Some(text) => Some(
                Filter::parse(&text.value)
                    .map_err(|error| wrong_at(text, format_args!("in `when`: {error}")))?,
            ),
            None => None,
        };
        let mut actions = Vec::new();
        self.timing(&mut actions)?;
        self.answers(&mut actions)?;
        self.harms(&mut actions)?;
        let of_exchanges = actions.len();
        self.connections(&mut actions)?;
        if actions.is_empty() {
            return Err(wrong(format!(
                "the fault {:?} does nothing: name one of latency, bandwidth, drip, answer, grpc, reset, \
                 truncate, stall, length, malformedChunk, missingTrailers, goaway, refuse, windowStall, \
                 settingsStorm, tlsAlert, expiredCertificate",
                self.name
            )));
        }
        if actions.len() > 1 {
            return Err(wrong(format!(
                "the fault {:?} does several things: make each a fault of its own",
                self.name
            )));
        }
        if of_exchanges == 0 && when.is_some() {
            return Err(wrong(
                "this fault concerns a whole connection, of which no request is known yet: leave \
                 `when` out",
            ));
        }
        let action = actions.pop().ok_or_else(|| wrong("nothing to do"))?;
        Ok(Rule {
            name: self.name.clone(),
            when,
            probability,
            from,
            until,
            action,
        })
    }

    fn timing(&self, actions: &mut Vec<Action>) -> Result<(), Wrong> {
        if let Some(latency) = &self.latency {
            actions.push(Action::Latency(latency.value.check(latency)?));
        }
        if let Some(bandwidth) = &self.bandwidth {
            if bandwidth.value == 0 {
                return Err(wrong_at(bandwidth, "bytes a second, at least 1"));
            }
            actions.push(Action::Pace(Pace::rate(bandwidth.value)));
        }
        if let Some(drip) = &self.drip {
            let DripFile { bytes, every } = drip.value;
            if bytes == 0 || every.0.is_zero() {
                return Err(wrong_at(drip, "at least one byte, and a time that passes"));
            }
            actions.push(Action::Pace(Pace {
                bytes,
                every: every.0,
            }));
        }
        Ok(())
    }

    fn answers(&self, actions: &mut Vec<Action>) -> Result<(), Wrong> {
        if let Some(answer) = &self.answer {
            if !(200..=999).contains(&answer.value.status) {
                return Err(wrong_at(
                    answer,
                    "the status of a final response: 200 to 999",
                ));
            }
            actions.push(Action::Answer {
                status: answer.value.status,
                body: answer.value.body.clone(),
                content_type: answer.value.content_type.clone(),
            });
        }
        if let Some(grpc) = &self.grpc {
            actions.push(Action::Grpc {
                status: grpc.value.status,
                message: grpc.value.message.clone(),
            });
        }
        Ok(())
    }

    fn harms(&self, actions: &mut Vec<Action>) -> Result<(), Wrong> {
        let mut harm = |harm| actions.push(Action::Harm(harm));
        if let Some(ResetFile { at, bytes, code }) = self.reset {
            harm(Harm::Reset {
                at: place(at, bytes)?,
                code,
            });
        }
        if let Some(PlaceFile { at, bytes }) = self.truncate {
            harm(Harm::Cut {
                at: place(at, bytes)?,
            });
        }
        if let Some(StallFile { at, bytes, time }) = self.stall {
            harm(Harm::Stall {
                at: place(at, bytes)?,
                time: time.map(|time| time.0),
            });
        }
        if let Some(length) = &self.length {
            if length.value == 0 {
                return Err(wrong_at(length, "a difference of 0 is no wrong length"));
            }
            harm(Harm::Length(length.value));
        }
        if self.malformed_chunk.is_some() {
            harm(Harm::MalformedChunk);
        }
        if self.missing_trailers.is_some() {
            harm(Harm::MissingTrailers);
        }
        if let Some(CodeFile { code }) = self.goaway {
            harm(Harm::Goaway { code });
        }
        Ok(())
    }

    fn connections(&self, actions: &mut Vec<Action>) -> Result<(), Wrong> {
        if self.refuse.is_some() {
            actions.push(Action::Refuse);
        }
        if self.window_stall.is_some() {
            actions.push(Action::WindowStall);
        }
        if let Some(storm) = &self.settings_storm {
            if storm.value == 0 {
                return Err(wrong_at(storm, "at least one SETTINGS frame"));
            }
            actions.push(Action::SettingsStorm(storm.value));
        }
        if let Some(alert) = &self.tls_alert {
            let parsed = match &alert.value {
                AlertFile::Number(code) => Some(Alert(*code)),
                AlertFile::Name(name) => Alert::of(name),
            };
            actions.push(Action::TlsAlert(parsed.ok_or_else(|| {
                wrong_at(
                    alert,
                    "no TLS alert: its number, or a name of RFC 8446 section 6 such as \
                     handshake_failure",
                )
            })?));
        }
        if self.expired_certificate.is_some() {
            actions.push(Action::ExpiredCertificate);
        }
        Ok(())
    }
}

impl LatencyFile {
    fn check(&self, place: &Spanned<Self>) -> Result<Spread, Wrong> {
        let positive = |value: f64| value > 0.0 && value.is_finite();
        let spreads = [
            self.fixed.map(|time| Spread::Fixed(time.0)),
            self.normal.map(|normal| Spread::Normal {
                mean: normal.mean.0,
                deviation: normal.deviation.0,
            }),
            self.lognormal.map(|spread| Spread::LogNormal {
                median: spread.median.0,
                sigma: spread.sigma,
            }),
            self.pareto.map(|spread| Spread::Pareto {
                minimum: spread.minimum.0,
                shape: spread.shape,
            }),
        ];
        let mut given = spreads.into_iter().flatten();
        let (Some(spread), None) = (given.next(), given.next()) else {
            return Err(wrong_at(
                place,
                "one of fixed, normal {mean, deviation}, lognormal {median, sigma}, pareto {minimum, \
                 shape}",
            ));
        };
        match spread {
            Spread::LogNormal { sigma: number, .. } | Spread::Pareto { shape: number, .. }
                if !positive(number) =>
            {
                Err(wrong_at(place, "sigma and shape are positive numbers"))
            }
            _ => Ok(spread),
        }
    }
}

fn place(at: PlaceName, bytes: Option<usize>) -> Result<Place, Wrong> {
    match (at, bytes) {
        (PlaceName::Body, bytes) => Ok(Place::Body(bytes.unwrap_or_default())),
        (_, Some(_)) => Err(wrong(
            "`bytes` counts those of the body: use it with `at: body`",
        )),
        (PlaceName::BeforeHead, None) => Ok(Place::BeforeHead),
        (PlaceName::InHead, None) => Ok(Place::InHead),
        (PlaceName::AfterHead, None) => Ok(Place::AfterHead),
    }
}
