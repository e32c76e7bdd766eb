//! What the index says of an exchange.

use std::time::Duration;

use tapedeck_model::{Exchange, Head, Protocol, Timestamp, session_of};

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
        let secure = exchange.connection.tls.is_some();
        let (scheme, authority) = head.map_or((None, None), |head| origin(head, secure));
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
            session: head.and_then(|head| session_of(|name| head.field(name))),
        }
    }
}

/// The scheme and authority that a request was made to (RFC 9112 section 3.3, RFC 9113
/// section 8.3.1). `secure`: within TLS.
fn origin(head: &Head, secure: bool) -> (Option<&[u8]>, Option<&[u8]>) {
    if head.protocol == Protocol::Http2 {
        return (
            head.field(":scheme"),
            head.field(":authority").or_else(|| head.field("host")),
        );
    }
    let scheme: Option<&[u8]> = Some(if secure { b"https" } else { b"http" });
    let Some(target) = head.target() else {
        return (scheme, head.field("host"));
    };
    if head.method() == Some(b"CONNECT") {
        return (scheme, Some(target));
    }
    if let Some((scheme, authority)) = absolute_form(target) {
        return (Some(scheme), Some(authority));
    }
    (scheme, head.field("host"))
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
    use super::absolute_form;

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
