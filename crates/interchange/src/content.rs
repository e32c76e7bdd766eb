//! Content codings (RFC 9110 section 8.4), undone for display.
//!
//! Archives keep bodies as they were transferred. Decoding happens only where someone looks, and
//! never past a cap: a few kilobytes from a stranger can stand for gigabytes.

use std::borrow::Cow;
use std::io::{self, Read};

use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};

/// Why a body could not be decoded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// A coding that is not known here.
    #[error("unknown content coding `{0}`")]
    UnknownCoding(String),
    /// More codings in a row than any server applies.
    #[error("{0} content codings in a row")]
    TooManyCodings(usize),
    /// The decoded body is longer than the cap.
    #[error("decoded body exceeds {cap} bytes")]
    TooLong {
        /// The cap, in bytes.
        cap: usize,
    },
    /// The bytes are not what the coding says.
    #[error("body is not valid {coding}: {source}")]
    Invalid {
        /// The coding.
        coding: String,
        /// What the decoder said.
        source: io::Error,
    },
}

/// Codings in a row that are undone. Servers apply one; two have been seen.
const MAX_CODINGS: usize = 4;

/// The largest window of zstd: 8 MiB, as RFC 9659 section 3 has it for the content coding. A decoder
/// holds all of the window that a frame asks for, whatever comes out.
const ZSTD_WINDOW_LOG: u32 = 23;

/// Undoes the codings of a `Content-Encoding` value; at most `cap` bytes come out of each.
///
/// # Errors
///
/// When a coding is unknown, the bytes are not of that coding, or the cap is reached.
pub fn decode<'a>(
    content_encoding: Option<&[u8]>,
    body: &'a [u8],
    cap: usize,
) -> Result<Cow<'a, [u8]>, DecodeError> {
    let value = String::from_utf8_lossy(content_encoding.unwrap_or_default()).to_ascii_lowercase();
    let codings: Vec<&str> = value
        .split(',')
        .map(str::trim)
        .filter(|c| !matches!(*c, "" | "identity"))
        .collect();
    if codings.len() > MAX_CODINGS {
        return Err(DecodeError::TooManyCodings(codings.len()));
    }
    if body.is_empty() {
        return Ok(Cow::Borrowed(body));
    }
    let mut body = Cow::Borrowed(body);
    // The last coding named was applied last (RFC 9110 section 8.4).
    for coding in codings.iter().rev() {
        body = Cow::Owned(decode_one(coding, &body, cap)?);
    }
    Ok(body)
}

fn decode_one(coding: &str, body: &[u8], cap: usize) -> Result<Vec<u8>, DecodeError> {
    match coding {
        "gzip" | "x-gzip" => read_capped(MultiGzDecoder::new(body), coding, cap),
        // RFC 9110 says zlib; some servers have always sent raw deflate.
        "deflate" => read_capped(ZlibDecoder::new(body), coding, cap)
            .or_else(|_| read_capped(DeflateDecoder::new(body), coding, cap)),
        "br" if is_large_window(body) => Err(DecodeError::Invalid {
            coding: coding.to_owned(),
            source: io::Error::new(io::ErrorKind::InvalidData, "a window beyond 16 MiB"),
        }),
        "br" => read_capped(
            brotli_decompressor::Decompressor::new(body, 4096),
            coding,
            cap,
        ),
        "zstd" => {
            let decoder = zstd::stream::read::Decoder::new(body).and_then(|mut decoder| {
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Ok(decoder)
            });
            let decoder = decoder.map_err(|source| DecodeError::Invalid {
                coding: coding.to_owned(),
                source,
            })?;
            read_capped(decoder, coding, cap)
        }
        _ => Err(DecodeError::UnknownCoding(coding.to_owned())),
    }
}

/// Whether a body is of the brotli that is no content coding, with windows up to 1 GiB, which its
/// decoder would hold: in RFC 7932 section 9.1, these bits are no window size.
fn is_large_window(body: &[u8]) -> bool {
    body.first().is_some_and(|first| first & 0x7f == 0x11)
}

fn read_capped(decoder: impl Read, coding: &str, cap: usize) -> Result<Vec<u8>, DecodeError> {
    let mut out = Vec::new();
    decoder
        .take(cap as u64 + 1)
        .read_to_end(&mut out)
        .map_err(|source| DecodeError::Invalid {
            coding: coding.to_owned(),
            source,
        })?;
    if out.len() > cap {
        return Err(DecodeError::TooLong { cap });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn codings_are_undone_last_first() {
        let twice = zstd::encode_all(&gzip(b"hello")[..], 1).unwrap();
        assert_eq!(
            &*decode(Some(b"gzip, ZSTD"), &twice, 100).unwrap(),
            b"hello"
        );
        assert_eq!(
            &*decode(Some(b"identity"), b"hello", 100).unwrap(),
            b"hello"
        );
        assert_eq!(&*decode(None, b"hello", 100).unwrap(), b"hello");
    }

    #[test]
    fn deflate_is_read_with_and_without_zlib() {
        let mut raw = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        raw.write_all(b"hello").unwrap();
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        zlib.write_all(b"hello").unwrap();
        for bytes in [raw.finish().unwrap(), zlib.finish().unwrap()] {
            assert_eq!(&*decode(Some(b"deflate"), &bytes, 100).unwrap(), b"hello");
        }
    }

    #[test]
    fn a_bomb_stops_at_the_cap() {
        let bomb = gzip(&vec![0; 1 << 20]);
        assert!(matches!(
            decode(Some(b"gzip"), &bomb, 1000),
            Err(DecodeError::TooLong { cap: 1000 })
        ));
        assert_eq!(
            decode(Some(b"gzip"), &bomb, 1 << 20).unwrap().len(),
            1 << 20
        );
    }

    /// Two bytes of a head ask for 128 MiB, which zstd's own default grants.
    #[test]
    fn a_window_beyond_that_of_the_coding_is_refused() {
        let coded = |log: u32| {
            let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
            encoder.window_log(log).unwrap();
            encoder.write_all(b"hello").unwrap();
            encoder.finish().unwrap()
        };
        assert_eq!(&*decode(Some(b"zstd"), &coded(23), 9).unwrap(), b"hello");
        let refused = decode(Some(b"zstd"), &coded(27), 9).unwrap_err();
        assert!(matches!(refused, DecodeError::Invalid { .. }), "{refused}");
    }

    #[test]
    fn what_cannot_be_decoded_is_said() {
        assert!(matches!(
            decode(Some(b"gzip"), b"x", 9),
            Err(DecodeError::Invalid { .. })
        ));
        assert!(matches!(
            decode(Some(b"lzw"), b"x", 9),
            Err(DecodeError::UnknownCoding(_))
        ));
        let many = [b"gzip,".as_slice(); 5].concat();
        assert!(matches!(
            decode(Some(&many), b"x", 9),
            Err(DecodeError::TooManyCodings(5))
        ));
        assert!(decode(Some(b"gzip"), b"", 9).unwrap().is_empty());
    }

    #[test]
    fn every_prefix_of_a_coded_body_is_an_error_or_a_prefix() {
        let coded = gzip(b"hello hello hello hello");
        for len in 0..coded.len() {
            if let Ok(body) = decode(Some(b"gzip"), &coded[..len], 100) {
                assert!(b"hello hello hello hello".starts_with(&body));
            }
        }
    }
}
