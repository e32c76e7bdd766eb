//! Runs against real servers on loopback, some of them hostile.

mod archived;
mod hostile;
mod http2;
mod recording;
mod server;
mod thresholds;
mod timing;
mod users;
mod whole;
