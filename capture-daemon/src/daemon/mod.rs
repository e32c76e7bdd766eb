//! tapedeckd: records the traffic of a node until it is told to stop.
//!
//! The file of its configuration is [`Config`]; [`run`] does what it says. The control endpoint
//! tells how it stands, and the governor keeps it within its budget.

mod config;
mod control;
mod governor;
mod log;
mod metrics;
mod quantities;
mod run;

pub use config::{
    ActionConfig, ArchiveConfig, AttributionConfig, BackendConfig, BudgetConfig, CaptureConfig,
    Config, ConfigError, ControlConfig, KubernetesConfig, LogConfig, LogFormat, LogLevel,
    RuleConfig,
};
pub use governor::{Budget, Governor, Over, Usage};
pub use metrics::{CONTENT_TYPE, Kind, METRICS, Metric, Report, Segments, render};
pub use quantities::{Age, Size};
pub use run::run;
