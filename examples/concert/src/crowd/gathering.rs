//! All users together.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use hyper::Uri;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::plan::Plan;
use super::report::{Failure, Report};
use super::visit;

/// The protocol that the crowd speaks.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Version {
    /// HTTP/1.1, kept alive.
    #[default]
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// What a crowd is.
#[derive(Clone, Debug)]
pub struct Crowd {
    /// How many users come.
    pub users: u64,
    /// The time over which they come.
    pub arrivals: Duration,
    /// Determines what they do.
    pub seed: u64,
    /// What they speak.
    pub version: Version,
    /// How long one call may take: a service that hangs must not hold the crowd for ever.
    pub patience: Duration,
}

/// A service to visit: an `http` URL without a path.
#[derive(Clone, Debug)]
pub struct Target {
    pub(super) address: SocketAddr,
    pub(super) authority: String,
}

impl Target {
    /// Reads a URL and looks its name up.
    ///
    /// # Errors
    /// It is not an `http` URL with an authority only, or its name has no address.
    pub async fn resolve(url: &str) -> anyhow::Result<Self> {
        let uri: Uri = url.parse().with_context(|| format!("{url} is not a URL"))?;
        let Some(authority) = uri.authority() else {
            bail!("{url} has no host");
        };
        if uri.scheme_str() != Some("http") || !matches!(uri.path(), "" | "/") {
            bail!("{url} is not of the form http://HOST:PORT");
        }
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let port = uri.port_u16().unwrap_or(80);
        let address = tokio::net::lookup_host((host, port))
            .await
            .with_context(|| format!("cannot look up {host}"))?
            .next()
            .with_context(|| format!("{host} has no address"))?;
        Ok(Self {
            address,
            authority: authority.as_str().to_owned(),
        })
    }
}

impl Crowd {
    /// Lets every user come and go, and adds up what they saw.
    pub async fn visit(&self, target: &Target) -> Report {
        let began = Instant::now();
        let mut visits = JoinSet::new();
        for index in 0..self.users {
            let plan = Plan::new(self.seed, index, self.arrivals);
            let target = target.clone();
            let (version, patience) = (self.version, self.patience);
            visits.spawn(async move {
                sleep_until(began + plan.arrival).await;
                visit::run(plan, &target, version, patience).await
            });
        }
        let mut report = Report::default();
        while let Some(visit) = visits.join_next().await {
            match visit {
                Ok(seen) => report.add(&seen),
                Err(_) => report.failed(Failure::Panicked),
            }
        }
        report
    }
}
