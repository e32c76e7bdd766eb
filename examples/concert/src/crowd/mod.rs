//! The users of the booking service: who comes when, what they do, and what they saw.
//!
//! What a user asks for is determined by the seed and by the answers that this user got; when it
//! is asked, by the seed and the speed of the answers.

mod client;
mod gathering;
mod plan;
mod report;
mod visit;

pub use gathering::{Crowd, Target, Version};
pub use plan::{Path, Plan};
pub use report::{Failure, Report};
