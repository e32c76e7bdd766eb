//! Requests as HTTP/2 fields and data.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Uri};

use crate::player::request::fields::{Field, Fields};
use crate::player::request::recorded::{
    RecordedRequest, Rules, Untranslatable, connection_options, is_hop_by_hop,
};

/// A request as the `h2` crate takes it.
///
/// Names keep their order; values of one name are sent together, because that is how the crate
/// holds them.
#[derive(Clone, Debug)]
pub(crate) struct Http2Request {
    pub(crate) head: Request<()>,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Http2Request {
    pub(crate) fn new(
        recorded: &RecordedRequest<'_>,
        rules: &Rules,
    ) -> Result<Self, Untranslatable> {
        let mut head = Request::new(());
        *head.method_mut() =
            Method::from_bytes(recorded.method).map_err(|_invalid| Untranslatable::Method)?;
        *head.uri_mut() = uri(recorded, rules)?;

        let options = connection_options(&recorded.fields);
        let headers = head.headers_mut();
        let mut wrote_length = false;
        for field in recorded.fields.iter() {
            let is_ours = field.name.first() == Some(&b':')
                || field.is("host")
                // The body is sent at once: on a stream that costs the target nothing.
                || field.is("expect")
                || field.is("transfer-encoding")
                || rules.drops(&field);
            if is_ours {
                continue;
            }
            if field.is("te") {
                // The one value that HTTP/2 allows (RFC 9113 section 8.2.2), and gRPC needs.
                if field
                    .elements()
                    .any(|element| element.eq_ignore_ascii_case(b"trailers"))
                {
                    headers.insert(http::header::TE, HeaderValue::from_static("trailers"));
                }
                continue;
            }
            if is_hop_by_hop(&field, &options) {
                continue;
            }
            if field.is("content-length") {
                if !std::mem::replace(&mut wrote_length, true) && recorded.trailers.is_none() {
                    headers.insert(
                        http::header::CONTENT_LENGTH,
                        HeaderValue::from(recorded.body.len()),
                    );
                }
                continue;
            }
            append(headers, &field)?;
        }
        for (name, value) in &rules.set {
            let field = Field {
                line: &[],
                name: name.as_bytes(),
                value: value.as_bytes(),
            };
            append(headers, &field)?;
        }
        Ok(Self {
            head,
            body: Bytes::copy_from_slice(recorded.body),
            trailers: recorded.trailers.as_ref().map(trailers).transpose()?,
        })
    }

    /// The bytes that it holds, about.
    pub(crate) fn len(&self) -> usize {
        let fields: usize = self
            .head
            .headers()
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len())
            .sum();
        self.body.len() + fields
    }
}

fn uri(recorded: &RecordedRequest<'_>, rules: &Rules) -> Result<Uri, Untranslatable> {
    let mut target = Vec::with_capacity(recorded.target.len() + rules.path_prefix.len());
    recorded.write_target(rules, &mut target);
    let path =
        PathAndQuery::try_from(target.as_slice()).map_err(|_invalid| Untranslatable::Target)?;
    // A fragment would be cut off silently.
    if path.as_str().as_bytes() != target {
        return Err(Untranslatable::Target);
    }
    let authority = Authority::try_from(recorded.authority(rules))
        .map_err(|_invalid| Untranslatable::Authority)?;
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(if rules.tls {
        Scheme::HTTPS
    } else {
        Scheme::HTTP
    });
    parts.authority = Some(authority);
    parts.path_and_query = Some(path);
    Uri::from_parts(parts).map_err(|_invalid| Untranslatable::Target)
}

fn trailers(fields: &Fields<'_>) -> Result<HeaderMap, Untranslatable> {
    let mut map = HeaderMap::new();
    for field in fields.iter() {
        append(&mut map, &field)?;
    }
    Ok(map)
}

fn append(map: &mut HeaderMap, field: &Field<'_>) -> Result<(), Untranslatable> {
    let name = HeaderName::from_bytes(field.name).map_err(|_invalid| Untranslatable::Field)?;
    let value =
        HeaderValue::from_bytes(&unfolded(field)).map_err(|_invalid| Untranslatable::Field)?;
    map.try_append(name, value)
        .map_err(|_full| Untranslatable::Field)?;
    Ok(())
}

/// A folded value on one line (RFC 9112 section 5.2: each fold becomes spaces).
fn unfolded<'a>(field: &Field<'a>) -> Cow<'a, [u8]> {
    let value = field.value;
    // What was never a line has no folds: there a line break is an attack.
    if !field.line.is_empty() && value.contains(&b'\n') {
        let space = |byte: &u8| match byte {
            b'\r' | b'\n' => b' ',
            byte => *byte,
        };
        Cow::Owned(value.iter().map(space).collect())
    } else {
        Cow::Borrowed(value)
    }
}
