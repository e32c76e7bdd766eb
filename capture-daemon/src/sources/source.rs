//! What every source of packets does.

use std::collections::BTreeMap;
use std::time::Duration;

use tapedeck_packet::RawPacket;

use crate::sources::SourceError;

/// A live source of packets.
pub trait PacketSource {
    /// Hands the packets that are there to `take`, in the order in which they were seen, and
    /// returns how many they were. Waits for some up to `timeout`; 0 when none came.
    ///
    /// A batch is bounded, so that whoever calls this can look at the clock in between.
    ///
    /// # Errors
    ///
    /// When the kernel fails the source for good.
    fn next_batch(
        &mut self,
        timeout: Duration,
        take: &mut dyn FnMut(&RawPacket<'_>),
    ) -> Result<usize, SourceError>;

    /// Stops seeing new packets. What was seen before can still be fetched.
    ///
    /// # Errors
    ///
    /// When the kernel refuses; it never does to the owner of a source.
    fn detach(&mut self) -> Result<(), SourceError>;

    /// What the kernel dropped so far.
    ///
    /// # Errors
    ///
    /// When the kernel does not tell.
    fn drops(&mut self) -> Result<Drops, SourceError>;
}

impl<S: PacketSource + ?Sized> PacketSource for Box<S> {
    fn next_batch(
        &mut self,
        timeout: Duration,
        take: &mut dyn FnMut(&RawPacket<'_>),
    ) -> Result<usize, SourceError> {
        self.as_mut().next_batch(timeout, take)
    }

    fn detach(&mut self) -> Result<(), SourceError> {
        self.as_mut().detach()
    }

    fn drops(&mut self) -> Result<Drops, SourceError> {
        self.as_mut().drops()
    }
}

/// What never reached a source, by cause.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Drops {
    /// Packets (or parts of long ones), by cause.
    pub packets: BTreeMap<&'static str, u64>,
    /// Their payload bytes, where the source knows.
    pub payload_bytes: u64,
}

impl Drops {
    /// Packets dropped, for whatever cause.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.packets.values().sum()
    }

    /// Counts packets of one cause, if there are any.
    pub fn add(&mut self, cause: &'static str, packets: u64) {
        if packets > 0 {
            *self.packets.entry(cause).or_default() += packets;
        }
    }
}
