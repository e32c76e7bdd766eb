//! Scenario files: k6's `options` object in YAML or JSON, with a few fields of our own.

mod executors;
mod thresholds;

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU64;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, Visitor};
use serde_saphyr::{Location, Spanned};
use tapedeck_filter::Filter;

use self::executors::{NAMES, builder};
use self::thresholds::{RawThreshold, of_scripts, thresholds};
use crate::player::duration;
use crate::player::options::Options;
use crate::player::scenario::executor::{
    Executor, Iteration, Scenario, ScenarioError, Stage, Weight,
};
use crate::player::scenario::key::SessionKey;
use crate::player::scenario::sessions::Mix;
use crate::player::schedule::Speed;
use crate::player::threshold::Threshold;

/// What a scenario file asks for.
///
/// It is k6's `options` object. Ours are, at the top, `sessionBy` (see [`SessionKey`]), and in a
/// scenario `filter` (CEL), `weights` (a list of `{filter, weight}`), `iteration` (`session` or
/// `exchange`), `thinkTime` (a factor; 0: none), and the executor `recorded` with `speed` and
/// `duration`.
#[derive(Clone, Debug, Default)]
pub struct FileOptions {
    /// The load models.
    pub scenarios: Vec<Scenario>,
    /// What must hold.
    pub thresholds: Vec<Threshold>,
    /// What tells users apart.
    pub session_by: Option<SessionKey>,
    /// k6's `insecureSkipTLSVerify`.
    pub insecure: bool,
    /// k6's `noConnectionReuse`: each request on a connection of its own.
    pub no_connection_reuse: bool,
    /// k6's `noVUConnectionReuse`: each iteration on connections of its own.
    pub no_vu_connection_reuse: bool,
    /// k6's `userAgent`.
    pub user_agent: Option<String>,
    /// k6's `minIterationDuration`.
    pub min_iteration_duration: Duration,
    /// k6's `rps`: how many requests may begin in a second; `None`: as many as there are.
    pub rps: Option<NonZeroU64>,
    /// Options of k6 that were given and have no meaning here, because there is no script.
    pub without_meaning: Vec<&'static str>,
    /// Metrics of k6 that nothing feeds here, whose thresholds are left out.
    pub without_values: Vec<&'static str>,
}

/// What is wrong with a scenario file, and where.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("line {line}, column {column}: {message}\n  {text}")]
pub struct FileError {
    /// From one.
    pub line: u64,
    /// From one.
    pub column: u64,
    /// The field, and what is wrong with it.
    pub message: String,
    /// The line.
    pub text: String,
}

impl FileError {
    fn at(location: Location, message: impl Into<String>) -> Self {
        Self {
            line: location.line(),
            column: location.column(),
            message: message.into(),
            text: String::new(),
        }
    }

    /// Lines are shown up to here: a file may be one.
    const MAX_TEXT: usize = 120;

    fn in_text(mut self, text: &str) -> Self {
        let line = self.line.saturating_sub(1);
        let line = usize::try_from(line).ok().and_then(|n| text.lines().nth(n));
        let visible = |c: char| if c.is_control() { ' ' } else { c };
        let line = line.unwrap_or_default().trim().chars();
        self.text = line.take(Self::MAX_TEXT).map(visible).collect();
        self
    }

    fn parsing(error: &serde_saphyr::Error, file: &str) -> Self {
        let location = error.location().unwrap_or(Location::UNKNOWN);
        let text = error.without_snippet().to_string();
        // The location stands in front of ours already.
        let message = text.split(" at line ").next().unwrap_or(&text);
        // And what its own options are called is nothing to users.
        let message = message.split(", set ").next().unwrap_or(message);
        let message = match message.trim_start_matches("error: ") {
            "invalid u32" | "invalid u64" => "expected a whole number of 0 or more",
            "expected mapping start" => "expected fields with values, as k6's options are",
            message => message,
        };
        match field_before(file, location) {
            Some(field) => Self::at(location, format!("{field}: {message}")),
            None => Self::at(location, message),
        }
    }
}

/// The name of the field whose value stands there.
fn field_before(file: &str, location: Location) -> Option<&str> {
    let line = usize::try_from(location.line()).ok()?.checked_sub(1)?;
    let line = file.lines().nth(line)?;
    let column = usize::try_from(location.column()).ok()?.checked_sub(1)?;
    let (end, _) = line.char_indices().nth(column)?;
    let name = line.get(..end)?.trim_end().strip_suffix(':')?.trim_end();
    let name = name.trim_end_matches(['"', '\'']);
    let letter = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let begin = name.rfind(|c| !letter(c)).map_or(0, |at| at + 1);
    name.get(begin..).filter(|name| !name.is_empty())
}

impl FileOptions {
    /// Reads a file's text.
    pub fn parse(text: &str) -> Result<Self, FileError> {
        Self::read(text).map_err(|error| error.in_text(text))
    }

    fn read(text: &str) -> Result<Self, FileError> {
        if text.trim().is_empty() {
            return Err(FileError {
                line: 1,
                column: 1,
                message: "the file is empty".to_owned(),
                text: String::new(),
            });
        }
        let file: File = serde_saphyr::from_str(text).map_err(|e| FileError::parsing(&e, text))?;
        let of_scenarios = file.scenarios.iter().flat_map(|scenarios| &scenarios.value);
        let mut without_meaning = file.without_meaning();
        without_meaning.extend(of_scenarios.flat_map(|(_, raw)| raw.value.without_meaning()));
        without_meaning.dedup();
        let session_by = file.session_by.as_ref().map(session_key).transpose()?;
        let scenarios = scenarios(&file)?;
        if let Some(key) = &file.session_by
            && !scenarios.iter().any(Scenario::has_sessions)
        {
            let text = "sessionBy: tells users apart, and no scenario sends sessions of users";
            return Err(FileError::at(key.referenced, text));
        }
        Ok(Self {
            thresholds: thresholds(&file, &scenarios)?,
            rps: rps(&file, &scenarios)?,
            scenarios,
            session_by,
            insecure: file.insecure_skip_tls_verify.unwrap_or_default(),
            no_connection_reuse: file.no_connection_reuse.unwrap_or_default(),
            no_vu_connection_reuse: file.no_vu_connection_reuse.unwrap_or_default(),
            user_agent: file.user_agent,
            min_iteration_duration: file.min_iteration_duration.map_or(Duration::ZERO, |t| t.0),
            without_meaning,
            without_values: {
                let series = file.thresholds.iter().flatten().map(|(series, _)| series);
                let mut without: Vec<_> = series.filter_map(|series| of_scripts(series)).collect();
                without.dedup();
                without
            },
        })
    }
}

impl Executor {
    /// The short forms of k6: `vus`, `duration`, `iterations` and `stages` without a scenario.
    /// `None`: none was given.
    pub fn of_shortcuts(
        vus: Option<u32>,
        duration: Option<Duration>,
        iterations: Option<u64>,
        stages: Option<Vec<Stage>>,
    ) -> Result<Option<Self>, ScenarioError> {
        let executor = match (iterations, duration, stages) {
            (Some(_), _, Some(_)) => return conflict("iterations"),
            (None, Some(_), Some(_)) => return conflict("duration"),
            (Some(iterations), duration, None) => Self::SharedIterations {
                vus: vus.unwrap_or(1),
                iterations,
                max_duration: duration.unwrap_or(Self::MAX_DURATION),
            },
            (None, Some(duration), None) => Self::ConstantVus {
                vus: vus.unwrap_or(1),
                duration,
            },
            (None, None, Some(stages)) => Self::RampingVus {
                start_vus: vus.unwrap_or(1),
                stages,
                graceful_ramp_down: Self::GRACEFUL_RAMP_DOWN,
            },
            (None, None, None) => match vus {
                None => return Ok(None),
                // Each one session, where k6 refuses more than one user without an end.
                Some(vus) => Self::PerVuIterations {
                    vus,
                    iterations: 1,
                    max_duration: Self::MAX_DURATION,
                },
            },
        };
        executor.check()?;
        Ok(Some(executor))
    }
}

fn conflict(field: &'static str) -> Result<Option<Executor>, ScenarioError> {
    let message = "excludes stages".to_owned();
    Err(ScenarioError { field, message })
}

macro_rules! fields {
    ($(#[$meta:meta])* $struct:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty = $name:literal,)* }
     without meaning { $($odd:ident = $odd_name:literal,)* }) => {
        $(#[$meta])*
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct $struct {
            $($(#[$field_meta])* #[serde(rename = $name, default)] $field: Option<$type>,)*
            $(#[serde(rename = $odd_name, default)] $odd: Option<IgnoredAny>,)*
        }

        impl $struct {
            fn without_meaning(&self) -> Vec<&'static str> {
                let given: &[(bool, &'static str)] = &[$((self.$odd.is_some(), $odd_name)),*];
                given.iter().filter_map(|(given, name)| given.then_some(*name)).collect()
            }
        }
    };
}

fields! {
    File {
        vus: Spanned<u32> = "vus",
        duration: Spanned<Time> = "duration",
        iterations: Spanned<u64> = "iterations",
        stages: Spanned<Vec<RawStage>> = "stages",
        scenarios: Spanned<BTreeMap<String, Spanned<RawScenario>>> = "scenarios",
        thresholds: BTreeMap<String, Vec<Spanned<RawThreshold>>> = "thresholds",
        tags: BTreeMap<String, String> = "tags",
        user_agent: String = "userAgent",
        insecure_skip_tls_verify: bool = "insecureSkipTLSVerify",
        no_connection_reuse: bool = "noConnectionReuse",
        no_vu_connection_reuse: bool = "noVUConnectionReuse",
        min_iteration_duration: Time = "minIterationDuration",
        rps: Spanned<u64> = "rps",
        session_by: Spanned<String> = "sessionBy",
    }
    without meaning {
        paused = "paused",
        execution_segment = "executionSegment",
        execution_segment_sequence = "executionSegmentSequence",
        no_setup = "noSetup",
        setup_timeout = "setupTimeout",
        no_teardown = "noTeardown",
        teardown_timeout = "teardownTimeout",
        handle_summary_timeout = "handleSummaryTimeout",
        dns = "dns",
        max_redirects = "maxRedirects",
        batch = "batch",
        batch_per_host = "batchPerHost",
        http_debug = "httpDebug",
        tls_cipher_suites = "tlsCipherSuites",
        tls_version = "tlsVersion",
        tls_auth = "tlsAuth",
        throw = "throw",
        blacklist_ips = "blacklistIPs",
        block_hostnames = "blockHostnames",
        hosts = "hosts",
        cloud = "cloud",
        ext = "ext",
        local_ips = "localIPs",
        summary_trend_stats = "summaryTrendStats",
        summary_time_unit = "summaryTimeUnit",
        system_tags = "systemTags",
        metric_samples_buffer_size = "metricSamplesBufferSize",
        no_cookies_reset = "noCookiesReset",
        discard_response_bodies = "discardResponseBodies",
        linger = "linger",
        no_usage_report = "noUsageReport",
        features = "features",
    }
}

/// Which fields of a scenario were given, and where.
macro_rules! given {
    ($scenario:expr, $($field:ident = $name:literal),* $(,)?) => {
        [$(($name, $scenario.$field.as_ref().map(|value| value.referenced))),*]
    };
}

fields! {
    RawScenario {
        executor: Spanned<String> = "executor",
        start_time: Spanned<Time> = "startTime",
        graceful_stop: Spanned<Time> = "gracefulStop",
        tags: BTreeMap<String, String> = "tags",
        vus: Spanned<u32> = "vus",
        duration: Spanned<Time> = "duration",
        iterations: Spanned<u64> = "iterations",
        max_duration: Spanned<Time> = "maxDuration",
        start_vus: Spanned<u32> = "startVUs",
        stages: Spanned<Vec<RawStage>> = "stages",
        graceful_ramp_down: Spanned<Time> = "gracefulRampDown",
        rate: Spanned<u64> = "rate",
        start_rate: Spanned<u64> = "startRate",
        time_unit: Spanned<Time> = "timeUnit",
        pre_allocated_vus: Spanned<u32> = "preAllocatedVUs",
        max_vus: Spanned<u32> = "maxVUs",
        speed: Spanned<Number> = "speed",
        filter: Spanned<String> = "filter",
        weights: Spanned<Vec<Spanned<RawWeight>>> = "weights",
        iteration: Spanned<String> = "iteration",
        think_time: Spanned<f64> = "thinkTime",
    }
    without meaning {
        env = "env",
        exec = "exec",
        options = "options",
    }
}

impl RawScenario {
    fn given(&self) -> [(&'static str, Option<Location>); 13] {
        given!(
            self,
            vus = "vus",
            duration = "duration",
            iterations = "iterations",
            max_duration = "maxDuration",
            start_vus = "startVUs",
            stages = "stages",
            graceful_ramp_down = "gracefulRampDown",
            rate = "rate",
            start_rate = "startRate",
            time_unit = "timeUnit",
            pre_allocated_vus = "preAllocatedVUs",
            max_vus = "maxVUs",
            speed = "speed",
        )
    }
}

#[derive(Clone, Copy, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStage {
    duration: Time,
    target: u64,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWeight {
    filter: String,
    weight: u32,
}

/// A duration: text with units, or a number of milliseconds.
#[derive(Clone, Copy)]
struct Time(Duration);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Number::deserialize(deserializer)?.0;
        let wrong = || D::Error::custom(format!("{text:?} is no duration; examples: 500ms, 1m30s"));
        duration::parse(&text).map(Self).ok_or_else(wrong)
    }
}

/// A number, or text, as text.
struct Number(String);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or text")
            }

            fn visit_str<E>(self, text: &str) -> Result<Number, E> {
                Ok(Number(text.to_owned()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Number, E> {
                Ok(Number(number.to_string()))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Number, E> {
                Ok(Number(number.to_string()))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Number, E> {
                Ok(Number(number.to_string()))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

fn session_key(text: &Spanned<String>) -> Result<SessionKey, FileError> {
    let key = text.value.parse();
    key.map_err(|error| FileError::at(text.referenced, format!("sessionBy: {error}")))
}

fn scenarios(file: &File) -> Result<Vec<Scenario>, FileError> {
    let shortcuts = given!(
        file,
        vus = "vus",
        duration = "duration",
        iterations = "iterations",
        stages = "stages"
    );
    let first = first_given(&shortcuts);
    let Some(scenarios) = &file.scenarios else {
        let executor = Executor::of_shortcuts(
            file.vus.as_ref().map(|vus| vus.value),
            file.duration.as_ref().map(|time| time.value.0),
            file.iterations.as_ref().map(|n| n.value),
            file.stages.as_ref().map(|stages| of_stages(&stages.value)),
        );
        let executor = executor.map_err(|error| {
            let mut named = shortcuts.iter();
            let at = named.find_map(|(name, at)| at.filter(|_| *name == error.field));
            let at = at
                .or_else(|| first.map(|(_, at)| at))
                .unwrap_or(Location::UNKNOWN);
            FileError::at(at, error.to_string())
        })?;
        let tags = || file.tags.clone().unwrap_or_default();
        let scenario = match executor {
            Some(executor) => Scenario::new("default", executor),
            None => Scenario::new(Options::RECORDED, Executor::RECORDED),
        };
        // Without tags it is what there is without any scenario.
        let is_given = first.is_some() || !tags().is_empty();
        let scenario = is_given.then(|| Scenario {
            tags: tags(),
            ..scenario
        });
        return Ok(scenario.into_iter().collect());
    };
    if let Some((name, at)) = first {
        return Err(FileError::at(at, format!("{name}: excludes scenarios")));
    }
    if scenarios.value.is_empty() {
        let text = "scenarios: at least one is needed";
        return Err(FileError::at(scenarios.referenced, text));
    }
    (scenarios.value.iter())
        .map(|(name, raw)| scenario(name, raw, file))
        .collect()
}

fn first_given(fields: &[(&'static str, Option<Location>)]) -> Option<(&'static str, Location)> {
    let mut fields = fields.iter();
    fields.find_map(|(name, at)| Some((*name, (*at)?)))
}

fn of_stages(stages: &[RawStage]) -> Vec<Stage> {
    let stage = |raw: &RawStage| Stage {
        duration: raw.duration.0,
        target: raw.target,
    };
    stages.iter().map(stage).collect()
}

fn scenario(name: &str, raw: &Spanned<RawScenario>, file: &File) -> Result<Scenario, FileError> {
    let fail = |at, text: &str| FileError::at(at, format!("scenarios.{name}{text}"));
    let letter = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || !name.chars().all(letter) {
        return Err(fail(
            raw.referenced,
            ": a name is made of letters, digits, _ and -",
        ));
    }
    let raw_scenario = &raw.value;
    let executor = raw_scenario
        .executor
        .as_ref()
        .ok_or_else(|| fail(raw.referenced, ".executor: is missing"))?;
    let (fields, build) = builder(&executor.value).ok_or_else(|| {
        let text = format!(
            ".executor: no executor {:?}; there are {NAMES}",
            executor.value
        );
        fail(executor.referenced, &text)
    })?;
    for (field, at) in raw_scenario.given() {
        if let Some(at) = at
            && !fields.contains(&field)
        {
            let text = format!(".{field}: {} has no such field", executor.value);
            return Err(fail(at, &text));
        }
    }
    let wrong = |error: ScenarioError| {
        let mut given = raw_scenario.given().into_iter();
        let at = given.find_map(|(field, at)| at.filter(|_| field == error.field));
        fail(at.unwrap_or(raw.referenced), &format!(".{error}"))
    };
    let built = build(raw_scenario).map_err(wrong)?;
    built.check().map_err(wrong)?;

    let is_recorded = matches!(built, Executor::Recorded { .. });
    let of_users = given!(
        raw_scenario,
        weights = "weights",
        iteration = "iteration",
        think_time = "thinkTime"
    );
    if let (true, Some((field, at))) = (is_recorded, first_given(&of_users)) {
        let text = format!(".{field}: is for users; recorded sends every exchange at its instant");
        return Err(fail(at, &text));
    }

    let mut scenario = Scenario::new(name, built);
    scenario.tags = file.tags.clone().unwrap_or_default();
    scenario
        .tags
        .extend(raw_scenario.tags.clone().unwrap_or_default());
    if let Some(start) = &raw_scenario.start_time {
        scenario.start = start.value.0;
    }
    if let Some(stop) = &raw_scenario.graceful_stop {
        scenario.graceful_stop = stop.value.0;
    }
    if let Some(filter) = &raw_scenario.filter {
        let parsed = Filter::parse(&filter.value);
        let parsed =
            parsed.map_err(|error| fail(filter.referenced, &format!(".filter: {error}")))?;
        scenario.filter = Some(parsed);
    }
    if let Some(weights) = &raw_scenario.weights {
        scenario.weights = of_weights(weights, &fail)?;
    }
    if let Some(iteration) = &raw_scenario.iteration {
        scenario.iteration = match iteration.value.as_str() {
            "session" => Iteration::Session,
            "exchange" => Iteration::Exchange,
            _ => {
                return Err(fail(
                    iteration.referenced,
                    ".iteration: session or exchange",
                ));
            }
        };
    }
    if let Some(think) = &raw_scenario.think_time {
        if !think.value.is_finite() || think.value < 0.0 {
            return Err(fail(think.referenced, ".thinkTime: a factor of 0 or more"));
        }
        if scenario.iteration == Iteration::Exchange {
            let text = ".thinkTime: an iteration of one exchange has none";
            return Err(fail(think.referenced, text));
        }
        scenario.think = (think.value > 0.0).then(|| 1.0 / think.value);
    }
    Ok(scenario)
}

fn of_weights(
    weights: &Spanned<Vec<Spanned<RawWeight>>>,
    fail: &impl Fn(Location, &str) -> FileError,
) -> Result<Vec<Weight>, FileError> {
    let parse = |weight: &Spanned<RawWeight>| {
        let filter = Filter::parse(&weight.value.filter)
            .map_err(|error| fail(weight.referenced, &format!(".weights: {error}")))?;
        Ok(Weight {
            filter,
            text: weight.value.filter.clone(),
            weight: weight.value.weight,
        })
    };
    let parsed: Vec<Weight> = weights.value.iter().map(parse).collect::<Result<_, _>>()?;
    let sum: u64 = parsed.iter().map(|weight| u64::from(weight.weight)).sum();
    if !(1..=u64::from(Mix::MAX_PERIOD)).contains(&sum) {
        let text = format!(".weights: their sum must be from 1 to {}", Mix::MAX_PERIOD);
        return Err(fail(weights.referenced, &text));
    }
    Ok(parsed)
}

/// As in k6, 0 is no limit.
fn rps(file: &File, scenarios: &[Scenario]) -> Result<Option<NonZeroU64>, FileError> {
    let Some((rps, at)) = file.rps.as_ref().map(|rps| (rps.value, rps.referenced)) else {
        return Ok(None);
    };
    let keeps_instants = |scenario: &&Scenario| {
        let speed = match scenario.executor {
            Executor::Recorded { speed, .. } => Some(speed),
            _ => None,
        };
        matches!(speed, Some(Speed::Times(_)))
    };
    let recorded = match scenarios {
        [] => Some(Options::RECORDED),
        _ => scenarios
            .iter()
            .find(keeps_instants)
            .map(|scenario| &*scenario.name),
    };
    match (NonZeroU64::new(rps), recorded) {
        (Some(_), Some(name)) => Err(FileError::at(
            at,
            format!(
                "rps: holds users back, and the scenario {name:?} keeps recorded instants; see its speed"
            ),
        )),
        (rps, _) => Ok(rps),
    }
}

#[cfg(test)]
mod tests;
