//! Stored payloads are decompressed.

use rkyv::util::AlignedVec;
use zstd::zstd_safe::DCtx;

use crate::dictionary::Dictionary;
use crate::error::Damage;
use crate::format::Codec;
use crate::source::Chunk;

/// A zstd context, made on first use and kept.
#[derive(Default)]
pub(crate) struct Inflater(Option<DCtx<'static>>);

impl Inflater {
    /// Puts the payload of a chunk into the buffer, exactly. That of a chunk which needs a dictionary is
    /// damaged here; see [`Inflater::inflate_with`].
    pub(crate) fn inflate(
        &mut self,
        chunk: &Chunk<'_>,
        buffer: &mut AlignedVec,
    ) -> Result<(), Damage> {
        self.inflate_with(chunk, None, buffer)
    }

    /// The same, with the dictionary that the chunk was compressed with, where it was with one.
    pub(crate) fn inflate_with(
        &mut self,
        chunk: &Chunk<'_>,
        dictionary: Option<&Dictionary>,
        buffer: &mut AlignedVec,
    ) -> Result<(), Damage> {
        let (codec, stored, raw_len) = chunk.stored();
        // `raw_len` is no more than 16 MiB here, and what does not fit it is an error.
        buffer.resize(raw_len, 0);
        let out = &mut buffer[..];
        let len = match (codec, dictionary) {
            (Codec::Raw, _) => {
                out.copy_from_slice(stored);
                Ok(raw_len)
            }
            (Codec::Zstd, _) => self.context()?.decompress(out, stored),
            (Codec::Dictionary, Some(dictionary)) => {
                self.context()?
                    .decompress_using_ddict(out, stored, dictionary.digested())
            }
            (Codec::Dictionary, None) => return Err(Damage::Dictionary),
        };
        match len {
            Ok(len) if len == raw_len => Ok(()),
            Ok(_) => Err(Damage::Length),
            Err(_) => Err(Damage::Compression),
        }
    }

    fn context(&mut self) -> Result<&mut DCtx<'static>, Damage> {
        match &mut self.0 {
            Some(context) => Ok(context),
            none => Ok(none.insert(DCtx::try_create().ok_or(Damage::Compression)?)),
        }
    }
}

impl std::fmt::Debug for Inflater {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inflater")
    }
}
