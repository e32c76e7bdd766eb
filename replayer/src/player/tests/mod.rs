//! Runs against real servers on loopback, some of them hostile.

mod archived;
mod hostile;
mod recording;
mod server;
mod thresholds;
mod timing;
mod users;
mod whole;
