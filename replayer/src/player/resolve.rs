//! Names whose addresses are given, not looked up.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// The addresses of a name: `pay.example.com:443:10.0.0.7,10.0.0.8`, as curl has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Resolve {
    /// The name, in lower case.
    pub host: String,
    /// The port of the target that it is for.
    pub port: u16,
    /// Never empty.
    pub addresses: Vec<IpAddr>,
}

/// Why a text is no [`Resolve`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "expected HOST:PORT:ADDRESS[,ADDRESS...], such as shop.test:80:10.0.0.7,10.0.0.8, not {0:?}"
)]
pub struct ParseResolveError(String);

impl FromStr for Resolve {
    type Err = ParseResolveError;

    fn from_str(text: &str) -> Result<Self, ParseResolveError> {
        let read = || {
            let (host, rest) = text.split_once(':')?;
            let (port, addresses) = rest.split_once(':')?;
            let bare = |address: &str| -> Option<IpAddr> {
                // curl wants brackets around those of version 6.
                let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']'));
                bare.unwrap_or(address).parse().ok()
            };
            Some(Self {
                host: Some(host.to_ascii_lowercase()).filter(|host| !host.is_empty())?,
                port: port.parse().ok().filter(|port| *port > 0)?,
                addresses: addresses.split(',').map(bare).collect::<Option<_>>()?,
            })
        };
        read().ok_or_else(|| ParseResolveError(text.to_owned()))
    }
}

impl Resolve {
    /// What is given for a name and its port; `None`: nothing.
    pub(crate) fn given(all: &[Self], host: &str, port: u16) -> Option<Vec<SocketAddr>> {
        let is_it = |one: &&Self| one.port == port && one.host.eq_ignore_ascii_case(host);
        let addresses = &all.iter().find(is_it)?.addresses;
        Some(
            addresses
                .iter()
                .map(|address| SocketAddr::new(*address, port))
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_given_as_for_curl() {
        let one: Resolve = "Shop.test:80:10.0.0.7,[::1],::2".parse().unwrap();
        let all = [one];
        let given = Resolve::given(&all, "shop.TEST", 80).unwrap();
        let given: Vec<_> = given.iter().map(ToString::to_string).collect();
        assert_eq!(given, ["10.0.0.7:80", "[::1]:80", "[::2]:80"]);
        assert_eq!(Resolve::given(&all, "shop.test", 81), None);
        assert_eq!(Resolve::given(&all, "other.test", 80), None);
        for bad in [
            "",
            "a",
            "a:80",
            "a:80:",
            "a:0:1.1.1.1",
            "a:x:1.1.1.1",
            ":80:1.1.1.1",
            "a:80:b",
            "a:80:1.1.1.1,",
        ] {
            let error = bad.parse::<Resolve>().unwrap_err();
            assert!(error.to_string().contains("HOST:PORT:ADDRESS"), "{bad}");
        }
    }
}
