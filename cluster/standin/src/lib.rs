//! An API server for tests: the protocol of the real one, without what would run pods.
//!
//! It keeps objects in memory and answers over HTTP as a real API server does: resource versions and
//! conflicts, server-side apply with owners of fields, status sub-resources, lists in pages, watches with
//! bookmarks and `410 Gone`, definitions with their schemas and rules, finalizers, what goes with
//! its owner, and, if wanted, roles. It can be told to throttle, to fail, to be gone; and
//! it counts what it was asked.
//!
//! What it does not do: run or schedule anything, other admission than that of definitions' schemas, protobuf.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use tapedeck_cluster_standin::Standin;
//!
//! let server = Standin::start()?;
//! server.seed(&serde_json::json!({
//!     "apiVersion": "v1", "kind": "Pod",
//!     "metadata": { "name": "shop", "namespace": "default" },
//!     "spec": { "nodeName": "n1" },
//! }))?;
//! let client = kube::Client::try_from(server.config())?;
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod api;
mod discovery;
mod faults;
mod fields;
mod proxy;
mod rbac;
mod refusal;
mod resources;
mod route;
mod rules;
mod schema;
mod selector;
mod server;
mod standin;
mod store;
mod watching;
mod write;

pub use faults::{Fault, Request, When};
pub use refusal::Refusal;
pub use standin::Standin;
