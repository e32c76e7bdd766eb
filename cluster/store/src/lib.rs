//! Where snapshots lie: a folder (a volume), S3, Google Cloud Storage or Azure.
//!
//! Nodes put their parts here, the controller fetches them and puts what it made of them. Every object is known by
//! its length and its BLAKE3, which travel by another way (the resources), so that a store that cuts, mixes up or
//! changes what it was given is found out.
//!
//! Transfers survive interruptions. A part is named after its digest, so that putting it again does nothing; what was
//! fetched of an object stays beside its destination, and is continued.
//!
//! Requests that a store refuses for a while (429, 5xx, a cut connection) are repeated for up to
//! [`RETRIED_FOR`], with a growing pause.

#![forbid(unsafe_code)]

mod config;
mod digest;
mod error;
mod store;

pub use config::{ConfigError, StoreConfig, Stores, credentials_prefix};
pub use digest::Digest;
pub use error::StoreError;
pub use store::{RETRIED_FOR, Store, Stored};
