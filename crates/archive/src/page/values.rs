//! What the index says of an exchange.

use std::time::Duration;

use tapedeck_model::{Exchange, Field, Head, Protocol, Timestamp, session_of};

/// The values of a row that are not fields of the exchange as they are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct RowValues<'a> {
    pub(crate) time: Timestamp,
    pub(crate) duration: Option<Duration>,
    pub(crate) first_byte: Option<Duration>,
    pub(crate) method: Option<&'a [u8]>,
    pub(crate) scheme: Option<&'a [u8]>,
    pub(crate) authority: Option<&'a [u8]>,
    pub(crate) target: Option<&'a [u8]>,
    pub(crate) status: Option<u16>,
    /// What tells its user from others.
    pub(crate) session: Option<&'a [u8]>,
}

impl<'a> RowValues<'a> {
    pub(crate) fn of(exchange: &'a Exchange) -> Self {
        let request = exchange.request.as_ref();
        let response = exchange.response.as_ref();
        let both = request.zip(response);
        let head = request.and_then(|request| request.head.as_ref());
        let fields = head.map(Named::of).unwrap_or_default();
        let secure = exchange.connection.tls.is_some();
        let (scheme, authority) = head.map_or((None, None), |head| origin(head, &fields, secure));
        Self {
            time: exchange.time(),
            duration: both.map(|(request, response)| response.last_byte.since(request.first_byte)),
            first_byte: both
                .map(|(request, response)| response.first_byte.since(request.first_byte)),
            method: head.and_then(Head::method),
            scheme,
            authority,
            target: head.and_then(Head::target),
            status: response
                .and_then(|response| response.head.as_ref())
                .and_then(Head::status),
            session: session_of(|name| fields.get(name)),
        }
    }
}

/// The fields of a request that the index looks at, found in one walk.
#[derive(Debug, Default)]
struct Named<'a>([Option<&'a Field>; NAMES.len()], &'a [u8]);

const NAMES: [&str; 5] = ["host", "cookie", ":scheme", ":authority", "authorization"];
/// Their lengths, a bit for each.
const LENS: u32 = 1 << 4 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 13;

impl<'a> Named<'a> {
    fn of(head: &'a Head) -> Self {
        let mut found = Self([None; _], &head.raw);
        for field in &head.fields {
            // Most fields are told from these without a look at their names.
            if LENS.checked_shr(field.name.len).unwrap_or(0) & 1 == 0 {
                continue;
            }
            let name = field.name.of(&head.raw);
            let Some(first) = name.first() else { continue };
            // Length and first letter tell all but a few fields from these.
            let (number, wanted): (usize, &[u8]) = match (name.len(), first.to_ascii_lowercase()) {
                (4, b'h') => (0, b"host"),
                (6, b'c') => (1, b"cookie"),
                (7, b':') => (2, b":scheme"),
                (10, b':') => (3, b":authority"),
                (13, b'a') => (4, b"authorization"),
                _ => continue,
            };
            if let Some(place) = found.0.get_mut(number)
                && place.is_none()
                && !field.name_unknown
                && (name == wanted || name.eq_ignore_ascii_case(wanted))
            {
                *place = Some(field);
            }
        }
        found
    }

    /// As [`Head::field`].
    fn get(&self, name: &str) -> Option<&'a [u8]> {
        let number = NAMES.iter().position(|known| *known == name)?;
        let field = self.0.get(number).copied().flatten()?;
        (!field.value_unknown).then(|| field.value.of(self.1))
    }
}

/// The scheme and authority that a request was made to (RFC 9112 section 3.3, RFC 9113
/// section 8.3.1). `secure`: within TLS.
fn origin<'a>(
    head: &'a Head,
    fields: &Named<'a>,
    secure: bool,
) -> (Option<&'a [u8]>, Option<&'a [u8]>) {
    if head.protocol == Protocol::Http2 {
        return (
            fields.get(":scheme"),
            fields.get(":authority").or_else(|| fields.get("host")),
        );
    }
    let scheme: Option<&[u8]> = Some(if secure { b"https" } else { b"http" });
    let Some(target) = head.target() else {
        return (scheme, fields.get("host"));
    };
    if head.method() == Some(b"CONNECT") {
        return (scheme, Some(target));
    }
    if let Some((scheme, authority)) = absolute_form(target) {
        return (Some(scheme), Some(authority));
    }
    (scheme, fields.get("host"))
}

/// Scheme and authority of `http://shop/cart`; `None` for `/cart` and `*`.
fn absolute_form(target: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = target.iter().position(|byte| *byte == b':')?;
    let (scheme, rest) = target.split_at_checked(colon)?;
    let is_scheme = scheme.first().is_some_and(u8::is_ascii_alphabetic)
        && scheme
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte));
    if !is_scheme {
        return None;
    }
    let rest = rest.strip_prefix(b"://")?;
    let authority = rest.split(|byte| b"/?#".contains(byte)).next()?;
    Some((scheme, authority))
}

#[cfg(test)]
mod tests {
    use tapedeck_model::Span;

    use super::{Field, Head, NAMES, Named, Protocol, absolute_form};

    #[test]
    fn fields_are_found_as_a_head_finds_them() {
        let mut head = Head {
            raw: Vec::new(),
            protocol: Protocol::Http11,
            start: tapedeck_model::StartLine::None,
            fields: Vec::new(),
        };
        let names = [
            "Accept", "HOST", "hose", "", "Cookie", "cookie", ":method", ":scheme",
        ];
        for name in names
            .into_iter()
            .chain(["Authorization", "authorization", "host"])
        {
            let start = head.raw.len() as u32;
            head.raw.extend_from_slice(name.as_bytes());
            head.fields.push(Field {
                name: Span {
                    start,
                    len: name.len() as u32,
                },
                value: Span {
                    start,
                    len: name.len() as u32,
                },
                ..Field::default()
            });
        }
        for n_unknown in 0..head.fields.len() {
            for (name_unknown, value_unknown) in [(false, false), (true, false), (false, true)] {
                let mut head = head.clone();
                head.fields[n_unknown].name_unknown = name_unknown;
                head.fields[n_unknown].value_unknown = value_unknown;
                let found = Named::of(&head);
                for name in NAMES {
                    assert_eq!(found.get(name), head.field(name), "{name}");
                }
            }
        }
    }

    #[test]
    fn absolute_forms_are_told_from_paths() {
        let some = |target: &'static str| {
            absolute_form(target.as_bytes()).map(|(scheme, authority)| {
                (
                    std::str::from_utf8(scheme).unwrap(),
                    std::str::from_utf8(authority).unwrap(),
                )
            })
        };
        assert_eq!(some("http://shop:80/cart?a=b"), Some(("http", "shop:80")));
        assert_eq!(some("HTTP://shop"), Some(("HTTP", "shop")));
        assert_eq!(some("http://shop?x"), Some(("http", "shop")));
        assert_eq!(some("http:///x"), Some(("http", "")));
        assert_eq!(some("/go?to=http://shop/"), None);
        assert_eq!(some("*"), None);
        assert_eq!(some("shop:80"), None);
        assert_eq!(some("://shop"), None);
    }
}
