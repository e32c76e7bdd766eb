//! The bytes of a capture, whatever they are wrapped in.

use std::io::{self, BufReader, Chain, Cursor, Read};

use flate2::read::MultiGzDecoder;

/// What was read to learn the format, with the rest behind it.
type Whole<R> = Chain<Cursor<Vec<u8>>, R>;

/// A capture, decompressed where it has to be.
pub(super) enum Source<R: Read> {
    Plain(Whole<R>),
    Gzip(Box<MultiGzDecoder<Whole<R>>>),
    Zstd(zstd::Decoder<'static, BufReader<Whole<R>>>),
}

impl<R: Read> Source<R> {
    /// Looks at the first four bytes.
    pub(super) fn open(mut input: R) -> io::Result<Self> {
        const GZIP: [u8; 2] = [0x1f, 0x8b];
        const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
        /// Zstandard's skippable frames (RFC 8878 section 3.1.2), which `pzstd` begins with.
        const ZSTD_SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];
        let mut start = Vec::with_capacity(4);
        input.by_ref().take(4).read_to_end(&mut start)?;
        let gzip = start.starts_with(&GZIP);
        let skippable = start.first().is_some_and(|byte| byte & 0xf0 == 0x50)
            && start.get(1..) == Some(&ZSTD_SKIPPABLE);
        let zstd = start == ZSTD || skippable;
        let whole = Cursor::new(start).chain(input);
        Ok(if gzip {
            Self::Gzip(Box::new(MultiGzDecoder::new(whole)))
        } else if zstd {
            Self::Zstd(zstd::Decoder::new(whole)?)
        } else {
            Self::Plain(whole)
        })
    }
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(source) => source.read(buf),
            Self::Gzip(source) => source.read(buf),
            Self::Zstd(source) => source.read(buf),
        }
    }
}
