//! The chunked transfer coding (RFC 9112 section 7.1), up to the trailer section.

use tapedeck_model::{Anomalies, Anomaly};

/// Where a chunked body stands.
///
/// ```text
///        ┌────────────────────────────────────────────┐
///        ▼            ┌──';'──► Extension ──┐         │
///   Size{digits} ─────┴─────────LF──────────┴─► Data{left} ─► DataEnd ─LF─┘
///        │                                  └─► Trailers       (size 0)
///        └─ anything else ─► Malformed
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Chunked {
    /// In a chunk size.
    Size { value: u64, digits: bool },
    /// Behind a chunk size, up to the end of its line; `len` bytes of that were read.
    Extension { value: u64, cr: bool, len: usize },
    /// In chunk data; `left` is never zero.
    Data { left: u64 },
    /// Behind chunk data, before the end of its line.
    DataEnd { cr: bool },
}

/// The longest chunk extension. Nobody sends any; RFC 9112 section 7.1.1 has recipients limit them,
/// and those that do stop at 16 KiB.
const MAX_EXTENSION: usize = 16 << 10;

/// What the next bytes of a chunked body are.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Step<'a> {
    /// Body bytes, and what follows them.
    Data(&'a [u8], &'a [u8]),
    /// The input is used up.
    NeedMore,
    /// The last chunk is over: what follows is the trailer section.
    Trailers(&'a [u8]),
    /// This cannot be read; the bytes from the offending one on.
    Malformed(&'a [u8]),
}

impl Chunked {
    /// At the first chunk.
    pub(crate) const START: Self = Self::Size {
        value: 0,
        digits: false,
    };

    /// Reads on; `anomalies` takes what was odd but readable.
    pub(crate) fn step<'a>(&mut self, mut input: &'a [u8], anomalies: &mut Anomalies) -> Step<'a> {
        while let Some((&byte, rest)) = input.split_first() {
            match *self {
                Self::Data { left } => {
                    let take = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                    let (data, rest) = input.split_at_checked(take).unwrap_or((input, &[]));
                    *self = self.behind(take as u64).unwrap_or(Self::START);
                    return Step::Data(data, rest);
                }
                Self::Size { value, digits } => {
                    if let Some(digit) = char::from(byte).to_digit(16) {
                        let Some(value) = value
                            .checked_mul(16)
                            .and_then(|value| value.checked_add(digit.into()))
                        else {
                            return Step::Malformed(input);
                        };
                        *self = Self::Size {
                            value,
                            digits: true,
                        };
                    } else if digits && matches!(byte, b';' | b' ' | b'\t' | b'\r' | b'\n') {
                        // White space before the extension or the line end is "bad white space"
                        // that old servers pad with.
                        *self = Self::Extension {
                            value,
                            cr: false,
                            len: 0,
                        };
                        continue;
                    } else {
                        return Step::Malformed(input);
                    }
                }
                Self::Extension { value, cr, .. } if byte == b'\n' => {
                    if !cr {
                        anomalies.insert(Anomaly::BareLf);
                    }
                    if value == 0 {
                        return Step::Trailers(rest);
                    }
                    *self = Self::Data { left: value };
                }
                Self::Extension { len, .. } if len >= MAX_EXTENSION => {
                    return Step::Malformed(input);
                }
                Self::Extension { value, len, .. } => {
                    *self = Self::Extension {
                        value,
                        cr: byte == b'\r',
                        len: len + 1,
                    };
                }
                Self::DataEnd { cr } => match byte {
                    b'\n' => {
                        if !cr {
                            anomalies.insert(Anomaly::BareLf);
                        }
                        *self = Self::START;
                    }
                    b'\r' if !cr => *self = Self::DataEnd { cr: true },
                    _ => return Step::Malformed(input),
                },
            }
            input = rest;
        }
        Step::NeedMore
    }

    /// Where this stands behind `len` more bytes of chunk data; `None` where they do not lie within
    /// the chunk, so that the framing is lost.
    pub(crate) const fn behind(self, len: u64) -> Option<Self> {
        match self {
            Self::Data { left } if len < left => Some(Self::Data { left: left - len }),
            Self::Data { left } if len == left => Some(Self::DataEnd { cr: false }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(input: &[u8]) -> (Vec<u8>, Option<Vec<u8>>, bool, Anomalies) {
        let (mut chunked, mut body, mut anomalies) =
            (Chunked::START, Vec::new(), Anomalies::default());
        let mut rest = input;
        loop {
            match chunked.step(rest, &mut anomalies) {
                Step::Data(data, next) => {
                    body.extend_from_slice(data);
                    rest = next;
                }
                Step::NeedMore => return (body, None, false, anomalies),
                Step::Trailers(rest) => return (body, Some(rest.to_vec()), false, anomalies),
                Step::Malformed(_) => return (body, None, true, anomalies),
            }
        }
    }

    #[test]
    fn bodies_are_read() {
        for (input, body) in [
            ("5\r\nhello\r\n0\r\nrest", "hello"),
            ("0005;a=\"b;c\";d\r\nhello\r\n000\r\nrest", "hello"),
            (
                "1 \r\nh\r\nA\t;x\r\n0123456789\r\n0 ;e\r\nrest",
                "h0123456789",
            ),
            ("0\r\nrest", ""),
        ] {
            let (read, rest, malformed, anomalies) = read(input.as_bytes());
            assert_eq!(read, body.as_bytes(), "{input:?}");
            assert_eq!(rest.as_deref(), Some(b"rest".as_slice()), "{input:?}");
            assert!(!malformed && anomalies.is_empty(), "{input:?}");
        }
    }

    #[test]
    fn a_bare_lf_is_read_and_named() {
        let (body, rest, _, anomalies) = read(b"1\nh\n0\n");
        assert_eq!((body.as_slice(), rest), (b"h".as_slice(), Some(Vec::new())));
        assert_eq!(anomalies.iter().collect::<Vec<_>>(), [Anomaly::BareLf]);
    }

    #[test]
    fn what_is_no_chunk_is_malformed() {
        for input in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "0x5\r\nhello",
            ";\r\n",
            "10000000000000000\r\n",
            "1\r\nhello",
            "1\r\nh\r\r",
        ] {
            let (_, rest, malformed, _) = read(input.as_bytes());
            assert!(malformed, "{input:?} was read, with {rest:?} left");
        }
    }

    #[test]
    fn an_extension_without_end_is_malformed() {
        for (len, malformed) in [(MAX_EXTENSION - 1, false), (MAX_EXTENSION + 1, true)] {
            let input = format!("1;{}", "x".repeat(len));
            assert_eq!(read(input.as_bytes()).2, malformed, "{len}");
        }
    }
}
