//! The thresholds of a scenario file.

use std::fmt;
use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use super::{File, FileError, Time};
use crate::player::duration;
use crate::player::scenario::executor::Scenario;
use crate::player::threshold::Threshold;
use crate::player::watch::unknown_tag;

/// An expression, or one with what happens when it fails.
pub(super) struct RawThreshold {
    expression: String,
    abort: bool,
    delay: Option<Duration>,
    over: Option<Duration>,
}

impl<'de> Deserialize<'de> for RawThreshold {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields, rename_all = "camelCase")]
        struct Full {
            threshold: String,
            #[serde(default)]
            abort_on_fail: bool,
            delay_abort_eval: Option<Time>,
            over: Option<Time>,
        }
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = RawThreshold;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an expression such as \"p(95)<500\", or an object with `threshold`")
            }

            fn visit_str<E>(self, text: &str) -> Result<RawThreshold, E> {
                Ok(RawThreshold {
                    expression: text.to_owned(),
                    abort: false,
                    delay: None,
                    over: None,
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawThreshold, A::Error> {
                let full = Full::deserialize(MapAccessDeserializer::new(map))?;
                Ok(RawThreshold {
                    expression: full.threshold,
                    abort: full.abort_on_fail,
                    delay: full.delay_abort_eval.map(|time| time.0),
                    over: full.over.map(|time| time.0),
                })
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// The metric of a series, where it is one of k6's own that nothing here can feed: a script does, a browser, or a
/// protocol that is not replayed.
pub(super) fn of_scripts(series: &str) -> Option<&'static str> {
    const METRICS: [&str; 21] = [
        "checks",
        "group_duration",
        "ws_connecting",
        "ws_msgs_received",
        "ws_msgs_sent",
        "ws_ping",
        "ws_session_duration",
        "ws_sessions",
        "grpc_streams",
        "grpc_streams_msgs_received",
        "grpc_streams_msgs_sent",
        "browser_data_received",
        "browser_data_sent",
        "browser_http_req_duration",
        "browser_http_req_failed",
        "browser_web_vital_cls",
        "browser_web_vital_fcp",
        "browser_web_vital_fid",
        "browser_web_vital_inp",
        "browser_web_vital_lcp",
        "browser_web_vital_ttfb",
    ];
    let name = series.split('{').next()?.trim();
    METRICS.into_iter().find(|metric| *metric == name)
}

pub(super) fn thresholds(file: &File, scenarios: &[Scenario]) -> Result<Vec<Threshold>, FileError> {
    let mut all = Vec::new();
    for (series, expressions) in file.thresholds.iter().flatten() {
        if of_scripts(series).is_some() {
            continue;
        }
        for raw in expressions {
            let RawThreshold {
                expression,
                abort,
                delay,
                over,
            } = &raw.value;
            let mut text = format!("{series}: {expression}");
            if *abort {
                text.push_str("; abort");
            }
            // As in k6, a delay without an abort says nothing.
            if let (true, Some(delay)) = (abort, delay) {
                text.push_str(&format!("; delay {}", duration::show(*delay)));
            }
            if let Some(over) = over {
                text.push_str(&format!("; over {}", duration::show(*over)));
            }
            let fail = |why: &dyn fmt::Display| {
                FileError::at(raw.referenced, format!("thresholds: {why}"))
            };
            let threshold: Threshold = text.parse().map_err(|error| fail(&error))?;
            if let Some((_, tag)) = unknown_tag([&threshold], scenarios) {
                return Err(fail(&format_args!("{series} names {tag}")));
            }
            all.push(threshold);
        }
    }
    Ok(all)
}
