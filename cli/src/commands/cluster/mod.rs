//! `tapedeck cluster`, which is also `kubectl tapedeck`: Tapedeck on a Kubernetes cluster.

pub(crate) mod args;

mod doctor;
mod errors;
mod install;
mod listing;
mod logs;
mod ls;
mod manifests;
mod output;
mod pull;
mod record;
mod run;
mod session;
mod snapshot;
mod status;
mod uninstall;
mod waiting;

pub(crate) use run::run;
