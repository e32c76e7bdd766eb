//! A recorded request, borrowed from wherever it is kept.

use tapedeck_model::{Protocol, is_grpc};

use crate::player::request::fields::{Field, Fields};

/// What was recorded of one request.
#[derive(Clone, Debug)]
pub(crate) struct RecordedRequest<'a> {
    pub(crate) protocol: Protocol,
    pub(crate) method: &'a [u8],
    /// The target as on the wire: any form of RFC 9112 section 3.2.
    pub(crate) target: &'a [u8],
    pub(crate) authority: Option<&'a [u8]>,
    pub(crate) fields: Fields<'a>,
    /// Without transfer coding.
    pub(crate) body: &'a [u8],
    pub(crate) trailers: Option<Fields<'a>>,
}

/// What the run changes about every request.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// The target's name.
    pub(crate) authority: String,
    /// Goes before every path.
    pub(crate) path_prefix: String,
    /// The recorded name is sent, not the target's.
    pub(crate) preserve_host: bool,
    /// Recorded wishes about the end of the connection are sent.
    pub(crate) keep_connection_options: bool,
    /// The target is reached over TLS.
    pub(crate) tls: bool,
    /// Sent with every request, in place of fields of the same name.
    pub(crate) set: Vec<(String, String)>,
    /// Not sent.
    pub(crate) removed: Vec<String>,
}

impl Rules {
    /// Whether a recorded field stays away: it is not wanted, or another stands in its place.
    pub(crate) fn drops(&self, field: &Field<'_>) -> bool {
        let mut set = self.set.iter();
        self.removed.iter().any(|name| field.is(name)) || set.any(|(name, _)| field.is(name))
    }
}

/// The request cannot be said in the target's protocol.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Untranslatable {
    #[error("its method cannot be sent")]
    Method,
    #[error("its target cannot be sent")]
    Target,
    #[error("its authority cannot be sent")]
    Authority,
    #[error("a field name or value cannot be sent")]
    Field,
}

impl RecordedRequest<'_> {
    pub(crate) fn trailers(&self) -> impl Iterator<Item = Field<'_>> {
        self.trailers.iter().flat_map(Fields::iter)
    }

    /// Appends the target in origin form (RFC 9112 section 3.2.1), which is what an origin server
    /// is sent, behind the prefix.
    pub(crate) fn write_target(&self, rules: &Rules, out: &mut Vec<u8>) {
        let target = self.target;
        if target == b"*" {
            out.push(b'*');
            return;
        }
        out.extend_from_slice(rules.path_prefix.as_bytes());
        if target.first() == Some(&b'/') {
            out.extend_from_slice(target);
            return;
        }
        // Absolute form: scheme, authority, and what is left.
        let rest = target
            .windows(3)
            .position(|window| window == b"://")
            .and_then(|at| target.get(at + 3..));
        let Some(rest) = rest else {
            out.extend_from_slice(target);
            return;
        };
        let path = rest
            .iter()
            .position(|byte| matches!(byte, b'/' | b'?'))
            .and_then(|at| rest.get(at..))
            .unwrap_or_default();
        if path.is_empty() && self.method == b"OPTIONS" {
            // Section 3.2.4: the server as a whole was meant.
            out.truncate(out.len() - rules.path_prefix.len());
            out.push(b'*');
            return;
        }
        if path.first() != Some(&b'/') {
            out.push(b'/');
        }
        out.extend_from_slice(path);
    }

    /// Whether it is a gRPC call, as it is sent.
    pub(crate) fn is_grpc(&self, rules: &Rules) -> bool {
        let kind = "content-type";
        let set = rules
            .set
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(kind));
        if let Some((_, value)) = set {
            return is_grpc(value.as_bytes());
        }
        let mut fields = self.fields.iter().filter(|field| !rules.drops(field));
        let found = fields.find(|field| field.is(kind));
        found.is_some_and(|field| is_grpc(field.value.trim_ascii()))
    }

    /// The name that the request is sent under.
    pub(crate) fn authority<'s>(&'s self, rules: &'s Rules) -> &'s [u8] {
        match self.authority {
            Some(recorded) if rules.preserve_host => recorded,
            _ => rules.authority.as_bytes(),
        }
    }
}

/// Whether a field belongs to the connection that it was recorded on, not to the request.
/// `nominated`: the elements of the request's `Connection` fields.
pub(crate) fn is_hop_by_hop(field: &Field<'_>, nominated: &[&[u8]]) -> bool {
    const NAMES: [&str; 5] = [
        "connection",
        "keep-alive",
        "te",
        "upgrade",
        "http2-settings",
    ];
    NAMES.iter().any(|name| field.is(name))
        || field
            .name
            .get(..6)
            .is_some_and(|start| start.eq_ignore_ascii_case(b"proxy-"))
        || nominated
            .iter()
            .any(|name| name.eq_ignore_ascii_case(field.name))
}

/// The elements of all `Connection` fields.
pub(crate) fn connection_options<'a>(fields: &Fields<'a>) -> Vec<&'a [u8]> {
    fields
        .iter()
        .filter(|field| field.is("connection"))
        .flat_map(|field| field.elements())
        .collect()
}
