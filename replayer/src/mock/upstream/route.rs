//! Which upstream a request goes to.

use std::str::FromStr;

use crate::player::{ParseRouteError, ParseTargetError, Route, Target, TargetAddress, TlsOptions};

/// What a request gets that nothing recorded answers.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum OnMiss {
    /// 501, with the nearest recorded requests.
    #[default]
    Fail,
    /// The answer of its upstream ([`Upstreams`]).
    Passthrough,
}

/// An upstream, as given on a command line: `pay.example.com=https://sandbox.example.com`, or a URL
/// alone, which is for all requests that no other is for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Upstream {
    /// For requests to one authority.
    For(Route),
    /// For all others.
    Rest(Target),
}

/// Why a text is no [`Upstream`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseUpstreamError {
    /// Neither a URL, nor an authority, `=` and a URL.
    #[error(
        "expected a URL, such as https://sandbox.example.com, or AUTHORITY=URL, such as \
         pay.example.com=http://127.0.0.1:9000"
    )]
    Form,
    /// A socket of the file system.
    #[error("an upstream is asked over TCP: http, https or h2c")]
    Unix,
    /// What stands behind `=`, or alone.
    #[error(transparent)]
    Target(#[from] ParseTargetError),
}

impl FromStr for Upstream {
    type Err = ParseUpstreamError;

    fn from_str(text: &str) -> Result<Self, ParseUpstreamError> {
        // A URL may hold a `=` further on.
        let is_url = match (text.find("://"), text.find('=')) {
            (Some(scheme), Some(equals)) => scheme < equals,
            (Some(_), None) => true,
            (None, _) => false,
        };
        let upstream = if is_url {
            Self::Rest(text.parse()?)
        } else {
            Self::For(text.parse().map_err(|error| match error {
                ParseRouteError::Form => ParseUpstreamError::Form,
                ParseRouteError::Target(error) => ParseUpstreamError::Target(error),
            })?)
        };
        match &upstream.target().address {
            TargetAddress::Tcp { .. } => Ok(upstream),
            TargetAddress::Unix(_) => Err(ParseUpstreamError::Unix),
        }
    }
}

impl Upstream {
    const fn target(&self) -> &Target {
        match self {
            Self::For(route) => &route.target,
            Self::Rest(target) => target,
        }
    }
}

/// The real servers behind a mock.
#[derive(Clone, Debug, Default)]
pub struct Upstreams {
    /// The first that takes a request's authority is asked, or else the last [`Upstream::Rest`].
    pub list: Vec<Upstream>,
    /// Whom to believe over TLS, and what to show.
    pub tls: TlsOptions,
}

impl Upstreams {
    /// The target of requests to an authority.
    pub(crate) fn of(&self, authority: &[u8]) -> Option<&Target> {
        let named = self.list.iter().find_map(|upstream| match upstream {
            Upstream::For(route) if route.takes(authority) => Some(&route.target),
            Upstream::For(_) | Upstream::Rest(_) => None,
        });
        named.or_else(|| {
            self.list.iter().rev().find_map(|upstream| match upstream {
                Upstream::Rest(target) => Some(target),
                Upstream::For(_) => None,
            })
        })
    }

    /// Whether any of them is asked over TLS.
    pub(crate) fn use_tls(&self) -> bool {
        self.list.iter().any(|upstream| upstream.target().tls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_one_is_asked_before_the_one_for_the_rest() {
        let upstreams = Upstreams {
            list: ["http://rest/a=b", "pay.test=https://real", "x:81=h2c://x"]
                .map(|text| text.parse().unwrap())
                .to_vec(),
            tls: TlsOptions::default(),
        };
        let of = |authority: &str| upstreams.of(authority.as_bytes()).unwrap().to_string();
        assert_eq!(of("Pay.Test:443"), "https://real");
        assert_eq!(of("x:81"), "h2c://x");
        assert_eq!(of("x:82"), "http://rest/a=b");
        assert!(upstreams.use_tls());
        assert!(Upstreams::default().of(b"x").is_none());
        for (wrong, why) in [
            ("", "expected a URL"),
            ("pay.test", "or AUTHORITY=URL"),
            ("=http://x", "expected a URL"),
            ("pay.test=", ""),
            ("unix:///x", "over TCP"),
            ("a=unix:///x", "over TCP"),
            ("ftp://x", "ftp"),
        ] {
            let error = wrong.parse::<Upstream>().unwrap_err().to_string();
            assert!(error.contains(why), "{wrong}: {error}");
        }
    }
}
