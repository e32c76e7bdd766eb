//! Which upstream a request goes to.

use std::str::FromStr;

use crate::player::{ParseRouteError, Route, Target, TargetAddress, TlsOptions};

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

impl FromStr for Upstream {
    type Err = ParseRouteError;

    fn from_str(text: &str) -> Result<Self, ParseRouteError> {
        // A URL may hold a `=` further on.
        let is_url = match (text.find("://"), text.find('=')) {
            (Some(scheme), Some(equals)) => scheme < equals,
            (Some(_), None) => true,
            (None, _) => false,
        };
        let upstream = if is_url {
            Self::Rest(text.parse()?)
        } else {
            Self::For(text.parse()?)
        };
        match &upstream.target().address {
            TargetAddress::Tcp { .. } => Ok(upstream),
            TargetAddress::Unix(_) => Err(ParseRouteError::Form),
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
        for wrong in [
            "",
            "pay.test",
            "pay.test=",
            "unix:///x",
            "a=unix:///x",
            "ftp://x",
        ] {
            assert!(wrong.parse::<Upstream>().is_err(), "{wrong}");
        }
    }
}
