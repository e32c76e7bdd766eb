use std::fmt;
use std::io::{self, Cursor, Read};

use flate2::read::MultiGzDecoder;

/// What an input is.
pub enum Input<'r> {
    /// JSON, with its compression undone: a HAR, if anything that is known here.
    Json(Box<dyn Read + 'r>),
    /// Something else, as it came.
    Other(Box<dyn Read + 'r>),
}

impl fmt::Debug for Input<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Json(_) => "Json",
            Self::Other(_) => "Other",
        })
    }
}

/// Bytes that are looked at.
const SAMPLE: u64 = 64 << 10;

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// Finds out whether an input is JSON, plain, gzip or zstd, by its first bytes.
///
/// # Errors
///
/// When it cannot be read.
pub fn detect<'r>(mut input: impl Read + 'r) -> io::Result<Input<'r>> {
    let mut sample = Vec::new();
    input.by_ref().take(SAMPLE).read_to_end(&mut sample)?;
    let is_json = if sample.starts_with(GZIP) {
        begins_as_json(MultiGzDecoder::new(&sample[..]))
    } else if sample.starts_with(ZSTD) {
        zstd::Decoder::new(&sample[..]).is_ok_and(begins_as_json)
    } else {
        begins_as_json(&sample[..])
    };
    let compressed = (sample.starts_with(GZIP), sample.starts_with(ZSTD));
    let whole = Cursor::new(sample).chain(input);
    if !is_json {
        return Ok(Input::Other(Box::new(whole)));
    }
    Ok(Input::Json(match compressed {
        (true, _) => Box::new(WithoutMark::new(MultiGzDecoder::new(whole))),
        (_, true) => Box::new(WithoutMark::new(zstd::Decoder::new(whole)?)),
        (false, false) => Box::new(WithoutMark::new(whole)),
    }))
}

/// Whether the first byte that is no space opens an object or an array.
fn begins_as_json(input: impl Read) -> bool {
    let mut sample = Vec::new();
    // A sample of something compressed ends in the middle: what came before the error counts.
    drop(
        WithoutMark::new(input)
            .take(SAMPLE)
            .read_to_end(&mut sample),
    );
    matches!(sample.trim_ascii_start().first(), Some(b'{' | b'['))
}

/// A text without the byte order mark that some tools of Windows put before it.
struct WithoutMark<R> {
    input: R,
    begun: bool,
    /// First bytes that were no mark after all.
    held: Cursor<Vec<u8>>,
}

impl<R: Read> WithoutMark<R> {
    fn new(input: R) -> Self {
        Self {
            input,
            begun: false,
            held: Cursor::default(),
        }
    }
}

impl<R: Read> Read for WithoutMark<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        const MARK: &[u8] = "\u{feff}".as_bytes();
        if !self.begun {
            self.begun = true;
            let mut first = Vec::new();
            self.input
                .by_ref()
                .take(MARK.len() as u64)
                .read_to_end(&mut first)?;
            if first != MARK {
                self.held = Cursor::new(first);
            }
        }
        match self.held.read(buffer)? {
            0 => self.input.read(buffer),
            n => Ok(n),
        }
    }
}
