//! Where the requests go.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// A target, as given by a URL.
///
/// | URL | protocol |
/// |---|---|
/// | `http://HOST[:PORT][/PREFIX]` | HTTP/1.1 over TCP |
/// | `h2c://HOST[:PORT][/PREFIX]` | HTTP/2 with prior knowledge over TCP, without TLS |
/// | `https://HOST[:PORT][/PREFIX]` | HTTP/2 or HTTP/1.1 over TLS, whatever both sides agree on |
/// | `unix:///PATH/TO/SOCKET` | HTTP/1.1 over a Unix socket |
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// The protocol that the target is spoken to in; over TLS the one that is asked for first.
    pub protocol: TargetProtocol,
    /// Over TLS.
    pub tls: bool,
    /// How it is reached.
    pub address: TargetAddress,
    /// What stands in `Host` and `:authority`.
    pub authority: String,
    /// What goes before the recorded path; empty, or `/` and more, without a `/` at its end.
    pub path_prefix: String,
}

/// The protocol that the target is spoken to in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TargetProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
}

/// How a target is reached.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum TargetAddress {
    /// Over TCP.
    Tcp {
        /// A name or an address, IPv6 addresses without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// Over a Unix socket.
    Unix(PathBuf),
}

impl FromStr for Target {
    type Err = ParseTargetError;

    fn from_str(url: &str) -> Result<Self, ParseTargetError> {
        let fail = |reason| ParseTargetError {
            url: url.to_owned(),
            reason,
        };
        let (scheme, rest) = url
            .split_once("://")
            .ok_or_else(|| fail(TargetFault::NoScheme))?;
        let protocol = match scheme.to_ascii_lowercase().as_str() {
            "http" | "unix" => TargetProtocol::Http1,
            "h2c" | "https" => TargetProtocol::Http2,
            _ => return Err(fail(TargetFault::UnknownScheme)),
        };
        if scheme.eq_ignore_ascii_case("unix") {
            if rest.is_empty() || rest.ends_with('/') {
                return Err(fail(TargetFault::NoHost));
            }
            return Ok(Self {
                protocol,
                tls: false,
                address: TargetAddress::Unix(rest.into()),
                // A socket has no name; curl, too, sends this one.
                authority: "localhost".to_owned(),
                path_prefix: String::new(),
            });
        }
        if rest.contains(['?', '#']) {
            return Err(fail(TargetFault::QueryOrFragment));
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(fail(TargetFault::UserInfo));
        }
        let printable = |byte: u8| byte.is_ascii_graphic();
        if !rest.bytes().all(printable) {
            return Err(fail(TargetFault::BadCharacter));
        }
        let (host, port) = host_and_port(authority).map_err(fail)?;
        let tls = scheme.eq_ignore_ascii_case("https");
        Ok(Self {
            protocol,
            tls,
            address: TargetAddress::Tcp {
                host: host.to_owned(),
                port: port.unwrap_or(if tls { 443 } else { 80 }),
            },
            authority: authority.to_owned(),
            path_prefix: path.trim_end_matches('/').to_owned(),
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match (self.protocol, self.tls) {
            (_, true) => "https",
            (TargetProtocol::Http1, false) => "http",
            (TargetProtocol::Http2, false) => "h2c",
        };
        match &self.address {
            TargetAddress::Tcp { .. } => {
                write!(f, "{scheme}://{}{}", self.authority, self.path_prefix)
            }
            TargetAddress::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

/// Why a text is no [`Target`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{url:?} is not a target: {reason}")]
pub struct ParseTargetError {
    /// What was given.
    pub url: String,
    /// What is wrong with it.
    pub reason: TargetFault,
}

/// What is wrong with a target URL.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetFault {
    /// No `://`.
    #[error("it names no scheme; write http://, https://, h2c:// or unix:// before it")]
    NoScheme,
    /// A scheme that means nothing here.
    #[error("its scheme is not known; http, https, h2c and unix are")]
    UnknownScheme,
    /// Nothing to connect to.
    #[error("it names nothing to connect to")]
    NoHost,
    /// A port that is no number from 1 to 65535.
    #[error("its port is not a number from 1 to 65535")]
    BadPort,
    /// White space, control characters or bytes outside of ASCII.
    #[error("it holds a character that no URL may hold")]
    BadCharacter,
    /// `user:password@`.
    #[error("credentials in a target URL are not sent; remove them")]
    UserInfo,
    /// `?` or `#`.
    #[error("a query or a fragment has no meaning in a target; the recorded requests bring theirs")]
    QueryOrFragment,
}

/// Where the requests of one recorded authority go: `pay.example.com=http://127.0.0.1:9000`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Route {
    /// A host, with or without a port; without one it stands for every port.
    pub authority: String,
    /// Where they go.
    pub target: Target,
}

/// Why a text is no [`Route`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ParseRouteError {
    /// No host, or no `=` behind it.
    #[error("expected HOST=URL, such as pay.example.com=http://127.0.0.1:9000")]
    Form,
    /// What stands behind `=`.
    #[error(transparent)]
    Target(#[from] ParseTargetError),
}

impl FromStr for Route {
    type Err = ParseRouteError;

    fn from_str(text: &str) -> Result<Self, ParseRouteError> {
        let (authority, target) = text.split_once('=').ok_or(ParseRouteError::Form)?;
        let authority = authority.trim().to_ascii_lowercase();
        if authority.is_empty() || authority.contains("://") {
            return Err(ParseRouteError::Form);
        }
        let target = target.trim().parse()?;
        Ok(Self { authority, target })
    }
}

impl Route {
    /// Whether the requests of a recorded authority are meant.
    pub(crate) fn takes(&self, authority: &[u8]) -> bool {
        let ours = self.authority.as_bytes();
        authority.eq_ignore_ascii_case(ours)
            || authority
                .split_at_checked(ours.len())
                .is_some_and(|(host, rest)| host.eq_ignore_ascii_case(ours) && is_port(rest))
    }
}

fn is_port(text: &[u8]) -> bool {
    text.split_first()
        .is_some_and(|(colon, port)| *colon == b':' && port.iter().all(u8::is_ascii_digit))
}

fn host_and_port(authority: &str) -> Result<(&str, Option<u16>), TargetFault> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or(TargetFault::NoHost)?;
        if !port.is_empty() && !port.starts_with(':') {
            return Err(TargetFault::BadPort);
        }
        (host, port.strip_prefix(':'))
    } else {
        match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        }
    };
    if host.is_empty() {
        return Err(TargetFault::NoHost);
    }
    match port {
        None => Ok((host, None)),
        Some(port) => match port.parse() {
            Ok(0) | Err(_) => Err(TargetFault::BadPort),
            Ok(port) => Ok((host, Some(port))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, protocol: TargetProtocol, host: &str, port: u16, prefix: &str) {
        let target: Target = url.parse().unwrap();
        assert_eq!(target.protocol, protocol);
        let host = host.to_owned();
        assert_eq!(target.address, TargetAddress::Tcp { host, port });
        assert_eq!(target.path_prefix, prefix);
    }

    #[test]
    fn urls_name_protocol_host_port_and_prefix() {
        use TargetProtocol::{Http1, Http2};
        check("http://example.com", Http1, "example.com", 80, "");
        check("HTTP://example.com:8080/", Http1, "example.com", 8080, "");
        check("https://example.com", Http2, "example.com", 443, "");
        check("h2c://127.0.0.1:9000", Http2, "127.0.0.1", 9000, "");
        check("http://[::1]:81/base/v1/", Http1, "::1", 81, "/base/v1");
        check("h2c://[::1]", Http2, "::1", 80, "");
        let target: Target = "unix:///run/app.sock".parse().unwrap();
        assert_eq!(target.address, TargetAddress::Unix("/run/app.sock".into()));
        assert_eq!(target.authority, "localhost");
        assert_eq!(target.to_string(), "unix:///run/app.sock");
    }

    #[test]
    fn a_route_takes_its_host_on_any_port_or_on_its_own() {
        let takes = |route: &str, authority: &str| {
            let route: Route = route.parse().unwrap();
            route.takes(authority.as_bytes())
        };
        for (authority, expect) in [
            ("pay.example.com", true),
            ("Pay.Example.com:8443", true),
            ("pay.example.com.evil", false),
            ("xpay.example.com", false),
            ("pay.example.com:x", false),
        ] {
            assert_eq!(
                takes("pay.example.com=http://a", authority),
                expect,
                "{authority}"
            );
        }
        assert!(takes("a:80=unix:///s", "a:80") && !takes("a:80=unix:///s", "a:81"));
        for wrong in ["a", "=http://a", "http://a=http://b", "a=b"] {
            assert!(wrong.parse::<Route>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_bad_url_is_told_what_is_wrong() {
        for (url, reason) in [
            ("localhost:8080", TargetFault::NoScheme),
            ("ftp://host", TargetFault::UnknownScheme),
            ("http://", TargetFault::NoHost),
            ("http://:80", TargetFault::NoHost),
            ("http://[::1", TargetFault::NoHost),
            ("http://[::1]80", TargetFault::BadPort),
            ("http://host:0", TargetFault::BadPort),
            ("http://host:65536", TargetFault::BadPort),
            ("http://host:", TargetFault::BadPort),
            ("http://a b", TargetFault::BadCharacter),
            ("http://a/\r\nX: y", TargetFault::BadCharacter),
            ("http://user:pw@host", TargetFault::UserInfo),
            ("http://host/?x=1", TargetFault::QueryOrFragment),
            ("unix://", TargetFault::NoHost),
        ] {
            assert_eq!(url.parse::<Target>().unwrap_err().reason, reason, "{url}");
        }
    }
}
