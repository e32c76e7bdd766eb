//! The bytes of a layer, with what the capture left out behind them.

use super::error::{DecodeError, Layer};

/// The bytes of a layer from here on, of which the last `cut` were on the wire but not captured.
#[derive(Clone, Copy)]
pub(super) struct Bytes<'a> {
    pub(super) data: &'a [u8],
    pub(super) cut: usize,
}

impl<'a> Bytes<'a> {
    /// Takes a header of `N` bytes off the front.
    pub(super) fn take<const N: usize>(
        &mut self,
        layer: Layer,
    ) -> Result<&'a [u8; N], DecodeError> {
        let Some((head, rest)) = self.data.split_first_chunk() else {
            return Err(DecodeError::Short {
                layer,
                needed: N,
                len: self.data.len(),
            });
        };
        self.data = rest;
        Ok(head)
    }

    /// Drops `len` bytes of options that nobody reads; they may be cut.
    pub(super) fn skip(&mut self, len: usize, layer: Layer) -> Result<(), DecodeError> {
        if let Some(rest) = self.data.get(len..) {
            self.data = rest;
            return Ok(());
        }
        let beyond = len.saturating_sub(self.data.len());
        let Some(cut) = self.cut.checked_sub(beyond) else {
            return Err(DecodeError::Short {
                layer,
                needed: len,
                len: self.data.len(),
            });
        };
        *self = Self { data: &[], cut };
        Ok(())
    }

    /// The first `len` bytes, which is what the layer says its payload has. Shorter than what is
    /// there: padding falls off. Longer: the rest was cut.
    pub(super) const fn limit(self, len: usize) -> Self {
        match self.data.split_at_checked(len) {
            Some((data, _)) => Self { data, cut: 0 },
            None => Self {
                data: self.data,
                cut: len - self.data.len(),
            },
        }
    }

    /// The upper four bits of the first byte: the version of an IP packet.
    pub(super) fn version(self) -> Option<u8> {
        self.data.first().map(|byte| byte >> 4)
    }
}

pub(super) const fn be16(high: u8, low: u8) -> u16 {
    u16::from_be_bytes([high, low])
}
