//! gRPC messages within a body, separated for display.
//!
//! Each has a prefix of five bytes: whether it is compressed, and its length. What a message means
//! only its schema says; that is not known here.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use tapedeck_model::GRPC_STATUS_NAMES;

use crate::content::{self, DecodeError};
use crate::protobuf;

/// The bytes before each message.
const PREFIX_LEN: usize = 5;

/// A message of a gRPC body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Message<'a> {
    /// Where its prefix begins in the body.
    pub offset: usize,
    /// Whether it is compressed, by the coding that `grpc-encoding` names.
    pub compressed: bool,
    /// The length that its prefix gives, in bytes.
    pub len: u32,
    /// What the body holds of it: fewer bytes than `len` when the body ends before it does.
    pub bytes: &'a [u8],
}

impl<'a> Message<'a> {
    /// Whether all of it is there.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.bytes.len() as u64 == u64::from(self.len)
    }

    /// Its bytes, decompressed where they are compressed; at most `cap` bytes come out.
    ///
    /// # Errors
    ///
    /// When the coding is unknown, the bytes are not of that coding, or the cap is reached.
    pub fn decoded(
        &self,
        grpc_encoding: Option<&[u8]>,
        cap: usize,
    ) -> Result<Cow<'a, [u8]>, DecodeError> {
        content::decode(grpc_encoding.filter(|_| self.compressed), self.bytes, cap)
    }
}

/// How a call ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Status {
    /// `grpc-status`.
    pub code: u32,
    /// `grpc-message`, with its percent-encoding undone; empty where there is none.
    pub message: String,
}

impl Status {
    /// The status that a trailer section has, or a head that stands for one (trailers-only).
    #[must_use]
    pub fn of(status: Option<&[u8]>, message: Option<&[u8]>) -> Option<Self> {
        let code = std::str::from_utf8(status?).ok()?.trim().parse().ok()?;
        let message = percent_decoded(message.unwrap_or_default());
        Some(Self {
            code,
            message: String::from_utf8_lossy(&message).into_owned(),
        })
    }

    /// The name of the code.
    #[must_use]
    pub fn name(&self) -> &'static str {
        let name = GRPC_STATUS_NAMES.get(self.code as usize);
        name.copied().unwrap_or("of a number without a name")
    }
}

/// What `grpc-status-details-bin` tells of an error: a `google.rpc.Status`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Details {
    /// The code, as in [`Status::code`].
    pub code: u32,
    /// The message, for developers.
    pub message: String,
    /// The names of the types of what else is told, without the place that defines them, such as
    /// `google.rpc.ErrorInfo`.
    pub types: Vec<String>,
}

impl Details {
    /// Types that are named. Servers tell one to three.
    const MAX_TYPES: usize = 64;

    /// Decodes the value of the field; `None` where it is none.
    #[must_use]
    pub fn of(field: &[u8]) -> Option<Self> {
        let unpadded = field.trim_ascii().trim_ascii_end();
        let end = unpadded.iter().position(|byte| *byte == b'=');
        let text = unpadded.get(..end.unwrap_or(unpadded.len()))?;
        let bytes = STANDARD_NO_PAD.decode(text).ok()?;
        let mut details = Self::default();
        for field in protobuf::fields_of(&bytes) {
            match field? {
                (1, protobuf::Value::Varint(code)) => details.code = u32::try_from(code).ok()?,
                (2, protobuf::Value::Bytes(text)) => {
                    details.message = String::from_utf8_lossy(text).into_owned();
                }
                (3, protobuf::Value::Bytes(any)) if details.types.len() < Self::MAX_TYPES => {
                    details.types.push(type_of(any)?);
                }
                _ => {}
            }
        }
        Some(details)
    }
}

/// The type that a `google.protobuf.Any` names in its field 1.
fn type_of(any: &[u8]) -> Option<String> {
    for field in protobuf::fields_of(any) {
        if let (1, protobuf::Value::Bytes(url)) = field? {
            let name = url.rsplit(|byte| *byte == b'/').next()?;
            return Some(String::from_utf8_lossy(name).into_owned());
        }
    }
    None
}

/// A text with its percent-encoding undone; what is no encoding stays.
fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, behind)) = rest.split_first() {
        let hex = behind.split_first_chunk::<2>().filter(|_| *byte == b'%');
        let digit = |digit: u8| char::from(digit).to_digit(16);
        if let Some(([high, low], after)) = hex
            && let (Some(high), Some(low)) = (digit(*high), digit(*low))
        {
            out.push((high * 16 + low) as u8);
            rest = after;
        } else {
            out.push(*byte);
            rest = behind;
        }
    }
    out
}

/// The messages of a body without gaps. A rest that is shorter than a prefix is not among them.
pub fn messages(body: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = body;
    std::iter::from_fn(move || {
        let offset = body.len() - rest.len();
        let ([flag, length @ ..], behind) = rest.split_first_chunk::<PREFIX_LEN>()?;
        let len = u32::from_be_bytes(*length);
        let held = usize::try_from(len).unwrap_or(usize::MAX).min(behind.len());
        let (bytes, next) = behind.split_at_checked(held)?;
        rest = next;
        Some(Message {
            offset,
            compressed: flag & 1 != 0,
            len,
            bytes,
        })
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn framed(flag: u8, bytes: &[u8]) -> Vec<u8> {
        let len = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        [&[flag], &len[..], bytes].concat()
    }

    #[test]
    fn messages_are_separated_and_every_prefix_is_a_prefix_of_them() {
        let body = [framed(0, b"one"), framed(0, b""), framed(1, b"three")].concat();
        let all: Vec<_> = messages(&body).collect();
        let told: Vec<_> = all
            .iter()
            .map(|m| (m.offset, m.compressed, m.bytes))
            .collect();
        assert_eq!(
            told,
            [
                (0, false, &b"one"[..]),
                (8, false, b""),
                (13, true, b"three")
            ]
        );
        for len in 0..body.len() {
            let found: Vec<_> = messages(&body[..len]).collect();
            for (part, whole) in found.iter().zip(&all) {
                assert_eq!((part.offset, part.len), (whole.offset, whole.len));
                assert!(whole.bytes.starts_with(part.bytes));
            }
            let whole = found.iter().filter(|m| m.is_whole()).count();
            assert_eq!(whole, usize::from(len >= 8) + usize::from(len >= 13));
        }
    }

    #[test]
    fn the_longest_length_takes_no_more_than_is_there() {
        let found: Vec<_> = messages(&[0, 255, 255, 255, 255, 7]).collect();
        assert_eq!(
            (found.len(), found[0].bytes, found[0].len),
            (1, &[7][..], u32::MAX)
        );
        assert!(!found[0].is_whole());
    }

    #[test]
    fn only_compressed_messages_are_decompressed_and_never_past_the_cap() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&[b'x'; 5000]).unwrap();
        let body = [framed(0, b"plain"), framed(1, &gzip.finish().unwrap())].concat();
        let found: Vec<_> = messages(&body).collect();
        assert_eq!(&*found[0].decoded(Some(b"gzip"), 10).unwrap(), b"plain");
        assert_eq!(found[1].decoded(Some(b"gzip"), 5000).unwrap().len(), 5000);
        assert!(matches!(
            found[1].decoded(Some(b"gzip"), 4999),
            Err(DecodeError::TooLong { .. })
        ));
        assert!(matches!(
            found[1].decoded(Some(b"snappy"), 9),
            Err(DecodeError::UnknownCoding(_))
        ));
    }

    #[test]
    fn a_status_has_a_name_and_a_decoded_message() {
        let status =
            Status::of(Some(b"5"), Some("no such seat: 12%25 %C3%BC%zz".as_bytes())).unwrap();
        assert_eq!(
            (status.code, status.name(), status.message.as_str()),
            (5, "NOT_FOUND", "no such seat: 12% ü%zz")
        );
        assert_eq!(Status::of(Some(b"99"), None).unwrap().code, 99);
        for none in [None, Some(&b""[..]), Some(b"-1"), Some(b"x")] {
            assert_eq!(Status::of(none, None), None);
        }
    }

    #[test]
    fn details_name_their_types() {
        // As grpcio_status sends NOT_FOUND, "no such seat" and an ErrorInfo.
        let any = |url: &str| {
            let mut any = vec![0x0a, url.len() as u8];
            any.extend(url.bytes());
            any.extend([0x12, 2, 0x0a, 0]);
            any
        };
        let mut status = vec![0x08, 5, 0x12, 12];
        status.extend(b"no such seat");
        for url in ["type.googleapis.com/google.rpc.ErrorInfo", "shop.Seat"] {
            status.extend([0x1a, any(url).len() as u8]);
            status.extend(any(url));
        }
        let expected = Details {
            code: 5,
            message: "no such seat".to_owned(),
            types: vec!["google.rpc.ErrorInfo".to_owned(), "shop.Seat".to_owned()],
        };
        let encoded = STANDARD_NO_PAD.encode(&status);
        for padding in ["", "=", "=="] {
            let field = format!("{encoded}{padding}");
            assert_eq!(Details::of(field.as_bytes()), Some(expected.clone()));
        }
        assert_eq!(Details::of(b""), Some(Details::default()));
        // Cut within a field, no base64, a group that does not end.
        let cut = STANDARD_NO_PAD.encode(&status[..status.len() - 1]);
        for none in [cut.as_bytes(), b"*", b"Cw"] {
            assert_eq!(Details::of(none), None, "{none:?}");
        }
        // More than anybody reads.
        let many = [0x1a, 3, 0x0a, 1, b'x'].repeat(1000);
        let many = Details::of(STANDARD_NO_PAD.encode(many).as_bytes()).unwrap();
        assert_eq!(many.types.len(), Details::MAX_TYPES);
    }
}
