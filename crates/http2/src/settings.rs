//! SETTINGS (RFC 9113 section 6.5), as far as they change how the other side is read.

use std::collections::VecDeque;

use crate::hpack;

/// What one side announced.
#[derive(Debug)]
pub(crate) struct Settings {
    /// The largest dynamic table that this side's decoder allows; `None`: it may have been missed.
    header_table: Option<usize>,
    /// The same of SETTINGS frames that are not acknowledged yet, oldest first.
    pending: VecDeque<Option<usize>>,
    /// A reduction was acknowledged, and the next field block must begin with an update.
    reduced: Option<usize>,
}

/// A setting with a value that is not allowed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct InvalidSetting;

/// What a SETTINGS frame says.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Announced {
    header_table: Option<usize>,
    /// SETTINGS_MAX_FRAME_SIZE.
    pub(crate) max_frame: Option<u32>,
}

impl Announced {
    pub(crate) fn read(payload: &[u8]) -> Result<Self, InvalidSetting> {
        let mut announced = Self::default();
        for (identifier, value) in crate::frame::settings(payload) {
            let valid = match identifier {
                HEADER_TABLE_SIZE => {
                    announced.header_table = Some(value as usize);
                    true
                }
                MAX_FRAME_SIZE => {
                    announced.max_frame = Some(value);
                    (1 << 14..1 << 24).contains(&value)
                }
                ENABLE_PUSH | ENABLE_CONNECT_PROTOCOL => value <= 1,
                INITIAL_WINDOW_SIZE => value <= u32::MAX >> 1,
                // Unknown ones are to be ignored.
                _ => true,
            };
            if !valid {
                return Err(InvalidSetting);
            }
        }
        Ok(announced)
    }
}

impl Settings {
    /// The settings at the beginning of a connection.
    pub(crate) fn new() -> Self {
        Self {
            header_table: Some(hpack::INITIAL_TABLE_SIZE),
            pending: VecDeque::new(),
            reduced: None,
        }
    }

    /// SETTINGS, or their acknowledgments, may have been missed.
    pub(crate) fn forget(&mut self) {
        self.header_table = None;
        self.pending.clear();
        self.reduced = None;
    }

    /// This side sent SETTINGS. `false`: more than `limit` are not acknowledged; they are no longer
    /// followed.
    pub(crate) fn announce(&mut self, announced: Announced, limit: usize) -> bool {
        if self.header_table.is_none() {
            return true;
        }
        if self.pending.len() >= limit {
            self.forget();
            return false;
        }
        self.pending.push_back(announced.header_table);
        true
    }

    /// The other side acknowledged the oldest SETTINGS: its encoder obeys them from here on.
    pub(crate) fn acknowledge(&mut self) {
        let Some(Some(size)) = self.pending.pop_front() else {
            return;
        };
        if self.header_table.is_some_and(|before| size < before) {
            let smallest = self.reduced.map_or(size, |before| before.min(size));
            self.reduced = Some(smallest);
        }
        self.header_table = Some(size);
    }

    /// Whether the other side's encoder may do with its table what it did in a block: `resized` is
    /// the smallest size that it set, `size` the size behind the block (RFC 7541 section 4.2).
    pub(crate) fn allow(
        &mut self,
        before: Option<usize>,
        resized: Option<usize>,
        size: Option<usize>,
    ) -> bool {
        let reduced = self.reduced.take();
        let obeyed = match (reduced, before) {
            // An encoder that uses less anyhow has nothing to tell.
            (Some(reduced), Some(before)) if before > reduced => {
                resized.is_some_and(|resized| resized <= reduced)
            }
            _ => true,
        };
        let within = match (self.header_table, resized, size) {
            (Some(allowed), Some(_), Some(size)) => size <= allowed,
            _ => true,
        };
        obeyed && within
    }

    /// Bytes held.
    pub(crate) fn memory(&self) -> usize {
        self.pending.capacity() * size_of::<Option<usize>>()
    }
}

const HEADER_TABLE_SIZE: u16 = 0x1;
const ENABLE_PUSH: u16 = 0x2;
const INITIAL_WINDOW_SIZE: u16 = 0x4;
const MAX_FRAME_SIZE: u16 = 0x5;
const ENABLE_CONNECT_PROTOCOL: u16 = 0x8;

#[cfg(test)]
mod tests {
    use super::*;

    fn table(size: usize) -> Announced {
        Announced {
            header_table: Some(size),
            max_frame: None,
        }
    }

    #[test]
    fn a_larger_table_counts_from_the_acknowledgment_on() {
        let mut settings = Settings::new();
        assert!(settings.announce(table(65_536), 4));
        assert!(!settings.allow(Some(4096), Some(65_536), Some(65_536)));
        settings.acknowledge();
        assert!(settings.allow(Some(4096), Some(65_536), Some(65_536)));
        assert!(!settings.allow(Some(4096), Some(65_537), Some(65_537)));
        // Acknowledgments of nothing change nothing.
        settings.acknowledge();
        assert!(settings.allow(Some(4096), Some(65_536), Some(65_536)));
    }

    #[test]
    fn a_reduction_asks_for_an_update() {
        for (resized, good) in [(None, false), (Some(200), false), (Some(100), true)] {
            let mut settings = Settings::new();
            assert!(settings.announce(table(100), 4));
            assert!(settings.allow(Some(4096), None, Some(4096)));
            settings.acknowledge();
            assert_eq!(settings.allow(Some(4096), resized, resized), good);
            assert!(settings.allow(Some(100), None, Some(100)));
        }
        let mut settings = Settings::new();
        assert!(settings.announce(table(100), 4));
        settings.acknowledge();
        assert!(settings.allow(Some(0), None, Some(0)));
    }

    #[test]
    fn a_flood_ends_the_check_not_the_reader() {
        let mut settings = Settings::new();
        for _ in 0..4 {
            assert!(settings.announce(table(0), 4));
        }
        assert!(!settings.announce(table(0), 4));
        for _ in 0..100_000 {
            assert!(settings.announce(table(0), 4));
        }
        assert!(settings.memory() < 1000);
        assert!(settings.allow(Some(4096), Some(1 << 30), Some(1 << 30)));
    }

    #[test]
    fn values_are_checked() {
        let check = |bytes: &[u8], expect| assert_eq!(Announced::read(bytes), expect, "{bytes:?}");
        check(b"\0\x01\0\0\0\x64\0\x63\xff\xff\xff\xff", Ok(table(100)));
        check(b"\0\x05\0\0\x3f\xff", Err(InvalidSetting));
        check(b"\0\x05\x01\0\0\0", Err(InvalidSetting));
        check(b"\0\x02\0\0\0\x02", Err(InvalidSetting));
        check(b"\0\x04\x80\0\0\0", Err(InvalidSetting));
        check(b"", Ok(Announced::default()));
    }
}
