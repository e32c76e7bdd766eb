//! The daemon's log, on standard error.

use std::io;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt;

use super::config::{LogConfig, LogFormat, LogLevel};

/// Begins to log. What is logged before is lost.
pub(super) fn begin(config: &LogConfig) {
    let level = match config.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let log = fmt().with_writer(io::stderr).with_max_level(level);
    // Another one that has begun already is as good.
    drop(match config.format {
        LogFormat::Json => log
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .try_init(),
        LogFormat::Text => log.try_init(),
    });
}
