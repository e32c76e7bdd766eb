//! A request as the matcher sees it, recorded or received, whatever its protocol.

use std::borrow::Cow;

use http::HeaderMap;
use tapedeck_archive::HeadView;

/// The parts of a request that are compared.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call<'a> {
    pub(crate) method: &'a [u8],
    /// The authority that the request names beside its target (Host, `:authority`).
    pub(crate) authority: Option<&'a [u8]>,
    /// The target as on the wire.
    pub(crate) target: &'a [u8],
    pub(crate) content_type: Option<&'a [u8]>,
    /// What tells one user from another: the Authorization field, or else the cookies.
    pub(crate) session: Option<&'a [u8]>,
    /// Its fields, for rules that compare some of them.
    pub(crate) headers: Headers<'a>,
    pub(crate) body: &'a [u8],
}

/// The fields of a request, wherever it came from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Headers<'a> {
    /// They are not known, or there are none.
    None,
    /// The lines of an HTTP/1 head.
    Lines(&'a [u8]),
    /// Those of an HTTP/2 request.
    Map(&'a HeaderMap),
    /// Recorded ones.
    Recorded(HeadView<'a>),
}

impl<'a> Headers<'a> {
    /// The value of the first field of that name, which is in lower case.
    pub(crate) fn get(self, name: &str) -> Option<&'a [u8]> {
        match self {
            Self::None => None,
            Self::Lines(lines) => lines.split(|byte| *byte == b'\n').find_map(|line| {
                let at = line.iter().position(|byte| *byte == b':')?;
                let (found, value) = line.split_at(at);
                found
                    .eq_ignore_ascii_case(name.as_bytes())
                    .then(|| value.get(1..).unwrap_or_default().trim_ascii())
            }),
            Self::Map(map) => map.get(name).map(http::HeaderValue::as_bytes),
            Self::Recorded(head) => head.field(name),
        }
    }
}

impl<'a> Call<'a> {
    /// The target in its parts, with the authority that counts: that of an absolute-form target
    /// goes before the Host field (RFC 9112 section 3.2.2).
    pub(crate) fn split(&self) -> Target<'a> {
        let target = Target::parse(self.target);
        Target {
            authority: target.authority.or(self.authority),
            ..target
        }
    }
}

/// A request target in its parts (RFC 9112 section 3.2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Target<'a> {
    pub(crate) authority: Option<&'a [u8]>,
    pub(crate) path: &'a [u8],
    pub(crate) query: &'a [u8],
}

impl<'a> Target<'a> {
    /// Splits any form of a target. What is not absolute-form is taken as a path, so that nothing
    /// is refused that was recorded.
    pub(crate) fn parse(target: &'a [u8]) -> Self {
        let (authority, rest) = match absolute(target) {
            Some((authority, rest)) => (Some(authority), rest),
            None => (None, target),
        };
        let (path, query) = match rest.iter().position(|byte| *byte == b'?') {
            Some(at) => {
                let (path, query) = rest.split_at(at);
                (path, query.get(1..).unwrap_or_default())
            }
            None => (rest, &b""[..]),
        };
        // `http://host` and `http://host?q` have the path "/" (RFC 9110 section 4.2.3).
        let path = if path.is_empty() { &b"/"[..] } else { path };
        Self {
            authority,
            path,
            query,
        }
    }
}

/// The authority of an absolute-form target and what follows it.
fn absolute(target: &[u8]) -> Option<(&[u8], &[u8])> {
    if target.first() == Some(&b'/') {
        return None;
    }
    let rest = ["http://", "https://"].iter().find_map(|scheme| {
        let (start, rest) = target.split_at_checked(scheme.len())?;
        start
            .eq_ignore_ascii_case(scheme.as_bytes())
            .then_some(rest)
    })?;
    let end = rest
        .iter()
        .position(|byte| matches!(byte, b'/' | b'?'))
        .unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    // User information is no part of whom one talks to.
    let authority = match authority.iter().rposition(|byte| *byte == b'@') {
        Some(at) => authority.get(at + 1..).unwrap_or_default(),
        None => authority,
    };
    Some((authority, rest))
}

/// An authority in the one spelling that is compared: lower case, without the default port.
pub(crate) fn normal_authority(authority: &[u8]) -> Vec<u8> {
    let mut normal = authority.to_ascii_lowercase();
    for port in [&b":80"[..], b":443"] {
        // `::80` without brackets would be an IPv6 address, not a port.
        if let Some(host) = normal.strip_suffix(port)
            && !host.ends_with(b":")
        {
            normal.truncate(host.len());
            break;
        }
    }
    normal
}

/// A path in the one spelling that is compared: escapes of unreserved characters decoded, others
/// in upper case (RFC 3986 section 6.2.2).
pub(crate) fn normal_path(path: &[u8]) -> Cow<'_, [u8]> {
    if !path.contains(&b'%') {
        return Cow::Borrowed(path);
    }
    let mut normal = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%'
            && let Some(decoded) = escape(after)
        {
            rest = after.get(2..).unwrap_or_default();
            if decoded.is_ascii_alphanumeric() || b"-._~".contains(&decoded) {
                normal.push(decoded);
            } else {
                normal.push(b'%');
                normal.extend(after.iter().take(2).map(u8::to_ascii_uppercase));
            }
            continue;
        }
        normal.push(byte);
    }
    Cow::Owned(normal)
}

/// The pairs of a query or a form, decoded: `+` is a space, `a` is `a=`, empty pieces are nothing
/// (as the WHATWG URL standard reads them).
pub(crate) fn pairs(text: &[u8]) -> impl Iterator<Item = (Cow<'_, [u8]>, Cow<'_, [u8]>)> {
    text.split(|byte| *byte == b'&')
        .filter(|piece| !piece.is_empty())
        .map(|piece| {
            let (name, value) = match piece.iter().position(|byte| *byte == b'=') {
                Some(at) => {
                    let (name, value) = piece.split_at(at);
                    (name, value.get(1..).unwrap_or_default())
                }
                None => (piece, &b""[..]),
            };
            (decode(name), decode(value))
        })
}

fn decode(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(text);
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'+' => decoded.push(b' '),
            b'%' => match escape(after) {
                Some(value) => {
                    decoded.push(value);
                    rest = after.get(2..).unwrap_or_default();
                }
                None => decoded.push(b'%'),
            },
            _ => decoded.push(byte),
        }
    }
    Cow::Owned(decoded)
}

/// The byte that two hexadecimal digits at the start stand for.
fn escape(digits: &[u8]) -> Option<u8> {
    let [high, low, ..] = digits else { return None };
    let digit = |byte: &u8| {
        char::from(*byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    Some(digit(high)? << 4 | digit(low)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(target: &str, authority: Option<&str>, path: &str, query: &str) {
        assert_eq!(
            Target::parse(target.as_bytes()),
            Target {
                authority: authority.map(str::as_bytes),
                path: path.as_bytes(),
                query: query.as_bytes(),
            }
        );
    }

    #[test]
    fn targets_split_in_every_form() {
        check("/a/b?c=d?e", None, "/a/b", "c=d?e");
        check("/", None, "/", "");
        check("*", None, "*", "");
        check("/?", None, "/", "");
        check("http://shop:81/x?y", Some("shop:81"), "/x", "y");
        check("HTTP://shop", Some("shop"), "/", "");
        check("https://u:p@shop?q=/", Some("shop"), "/", "q=/");
        check("/http://shop/x", None, "/http://shop/x", "");
        check("", None, "/", "");
    }

    #[test]
    fn authorities_lose_case_and_default_ports() {
        for (given, normal) in [
            ("Shop.Local:80", "shop.local"),
            ("shop:443", "shop"),
            ("shop:8080", "shop:8080"),
            ("[::1]:80", "[::1]"),
            ("[fe80::80]", "[fe80::80]"),
            ("fe80::80", "fe80::80"),
        ] {
            assert_eq!(
                normal_authority(given.as_bytes()),
                normal.as_bytes(),
                "{given}"
            );
        }
    }

    #[test]
    fn paths_normalise_only_what_means_the_same() {
        for (given, normal) in [
            ("/%7euser/%2Fx", "/~user/%2Fx"),
            ("/%2fx", "/%2Fx"),
            ("/%zz%4", "/%zz%4"),
            ("/a%20b", "/a%20b"),
            ("/%41", "/A"),
        ] {
            assert_eq!(
                &*normal_path(given.as_bytes()),
                normal.as_bytes(),
                "{given}"
            );
        }
    }

    #[test]
    fn pairs_decode() {
        let got: Vec<_> = pairs(b"a=1&&b&c=%20+x&=v&%zz=%")
            .map(|(name, value)| {
                (
                    String::from_utf8_lossy(&name).into_owned(),
                    String::from_utf8_lossy(&value).into_owned(),
                )
            })
            .collect();
        let expect = [("a", "1"), ("b", ""), ("c", "  x"), ("", "v"), ("%zz", "%")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(got, expect);
    }
}
