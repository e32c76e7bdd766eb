//! Thresholds: what must hold of a run, in the grammar and with the meaning of k6.
//!
//! ```text
//! 'http_req_duration{endpoint:/pay,status:200}: p(95)<500; abort; delay 10s'
//!  metric            tags                       expression  ours: k6's abortOnFail, delayAbortEval
//! ```
//!
//! Pure: it knows neither a clock nor a thread. `watch` keeps the values that it is evaluated on.

mod evaluate;
mod expression;
mod metric;

pub use evaluate::{Verdict, VerdictReason};
pub use expression::{ParseThresholdError, Threshold};

pub(crate) use evaluate::{Value, verdict};
pub(crate) use expression::{Series, Tags};
pub(crate) use metric::{Counter, Gauge, Metric, Rate};
