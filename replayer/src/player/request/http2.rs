//! Requests as HTTP/2 field blocks and data.

use std::borrow::Cow;

use bytes::Bytes;

use crate::player::http2::{Outgoing, encode};
use crate::player::request::fields::{Field, Fields};
use crate::player::request::recorded::{
    RecordedRequest, Rules, Untranslatable, connection_options, is_hop_by_hop,
};

/// A request as it goes into frames. Fields keep their order, and their duplicates; names are in lower case, as
/// HTTP/2 wants them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Http2Request {
    /// The field block.
    pub(crate) head: Box<[u8]>,
    pub(crate) body: Bytes,
    /// The field block of the trailers.
    pub(crate) trailers: Option<Bytes>,
    /// The answer has no body, whatever its head says.
    pub(crate) is_head: bool,
    /// It is a gRPC call.
    pub(crate) is_grpc: bool,
}

impl Http2Request {
    pub(crate) fn new(
        recorded: &RecordedRequest<'_>,
        rules: &Rules,
    ) -> Result<Self, Untranslatable> {
        let mut head = Vec::with_capacity(512);
        pseudo_fields(recorded, rules, &mut head)?;
        let options = connection_options(&recorded.fields);
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
                let mut elements = field.elements();
                if elements.any(|element| element.eq_ignore_ascii_case(b"trailers")) {
                    encode::field(&mut head, b"te", b"trailers");
                }
                continue;
            }
            if is_hop_by_hop(&field, &options) {
                continue;
            }
            if field.is("content-length") {
                if !std::mem::replace(&mut wrote_length, true) && recorded.trailers.is_none() {
                    let len = recorded.body.len().to_string();
                    encode::field(&mut head, b"content-length", len.as_bytes());
                }
                continue;
            }
            append(&mut head, &field)?;
        }
        for (name, value) in &rules.set {
            let field = Field {
                line: &[],
                name: name.as_bytes(),
                value: value.as_bytes(),
            };
            append(&mut head, &field)?;
        }
        Ok(Self {
            // A copy: to cut the buffer short would leave a hole behind each of a hundred thousand requests.
            head: head.as_slice().into(),
            body: Bytes::copy_from_slice(recorded.body),
            trailers: recorded.trailers.as_ref().map(trailers).transpose()?,
            is_head: recorded.method == b"HEAD",
            is_grpc: recorded.is_grpc(rules),
        })
    }

    /// The bytes that it holds.
    pub(crate) fn len(&self) -> usize {
        let trailers = self.trailers.as_ref().map_or(0, Bytes::len);
        self.head.len() + self.body.len() + trailers
    }

    pub(crate) fn outgoing(&self) -> Outgoing<'_> {
        Outgoing {
            head: &self.head,
            body: &self.body,
            trailers: self.trailers.as_ref(),
            is_head: self.is_head,
            is_grpc: self.is_grpc,
        }
    }
}

/// RFC 9113 section 8.3.1, in the order in which everybody sends them.
fn pseudo_fields(
    recorded: &RecordedRequest<'_>,
    rules: &Rules,
    head: &mut Vec<u8>,
) -> Result<(), Untranslatable> {
    if !is_token(recorded.method) {
        return Err(Untranslatable::Method);
    }
    let authority = recorded.authority(rules);
    // What would end it, where it is put together to a URI again.
    let ends = |byte: &u8| !byte.is_ascii_graphic() || matches!(byte, b'/' | b'?' | b'#' | b'\\');
    if authority.is_empty() || authority.iter().any(ends) {
        return Err(Untranslatable::Authority);
    }
    let mut target = Vec::with_capacity(recorded.target.len() + rules.path_prefix.len());
    recorded.write_target(rules, &mut target);
    // White space and control characters would mean something else to whoever says it in HTTP/1 again; a fragment
    // would be cut off silently.
    let is_path = target.first() == Some(&b'/') || target == b"*";
    let misread = |byte: &u8| *byte <= b' ' || *byte == 0x7f || *byte == b'#';
    if !is_path || target.iter().any(misread) {
        return Err(Untranslatable::Target);
    }
    let scheme: &[u8] = if rules.tls { b"https" } else { b"http" };
    encode::field(head, b":method", recorded.method);
    encode::field(head, b":scheme", scheme);
    encode::field(head, b":authority", authority);
    encode::field(head, b":path", &target);
    Ok(())
}

fn trailers(fields: &Fields<'_>) -> Result<Bytes, Untranslatable> {
    let mut block = Vec::new();
    for field in fields.iter() {
        append(&mut block, &field)?;
    }
    Ok(block.into())
}

fn append(block: &mut Vec<u8>, field: &Field<'_>) -> Result<(), Untranslatable> {
    let value = unfolded(field);
    // RFC 9113 section 8.2.1, and what RFC 9110 section 5.5 does not allow anywhere.
    let breaks_out = |byte: &u8| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f;
    if !is_token(field.name) || value.iter().any(breaks_out) {
        return Err(Untranslatable::Field);
    }
    encode::field(block, &field.name.to_ascii_lowercase(), value.trim_ascii());
    Ok(())
}

/// RFC 9110 section 5.6.2.
fn is_token(text: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.iter().all(is_part)
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
