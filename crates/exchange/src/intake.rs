//! From raw packets to segments, counted.

use tapedeck_model::{Ledger, Segment};
use tapedeck_packet::{Decoded, DefragLimits, Defragmenter, RawPacket};

/// Decodes packets, puts fragments together, and counts the packets that are no segments.
#[derive(Debug)]
pub(crate) struct Intake {
    defragmenter: Defragmenter,
    /// Every packet counter but `packets_joined`, which [`add_to`](Self::add_to) works out.
    ledger: Ledger,
}

impl Intake {
    pub(crate) fn new(limits: DefragLimits) -> Self {
        Self {
            defragmenter: Defragmenter::new(limits),
            ledger: Ledger::default(),
        }
    }

    /// The segment that the packet carries or completes.
    pub(crate) fn packet<'a>(&'a mut self, packet: &RawPacket<'a>) -> Option<Segment<'a>> {
        let ledger = &mut self.ledger;
        ledger.packets_seen += 1;
        if (packet.data.len() as u64) < u64::from(packet.wire_len) {
            ledger.packets_truncated += 1;
        }
        match self.defragmenter.decode(packet) {
            Decoded::Segment(segment) => return Some(segment),
            Decoded::NotTcp => ledger.packets_not_tcp += 1,
            Decoded::Fragment => ledger.packets_fragment += 1,
            Decoded::Undecodable(_) => ledger.packets_undecodable += 1,
        }
        None
    }

    /// Packets so far.
    pub(crate) const fn packets(&self) -> u64 {
        self.ledger.packets_seen
    }

    /// Adds its counters to a ledger.
    pub(crate) fn add_to(&self, ledger: &mut Ledger) {
        ledger.merge(&self.ledger);
        // A fragment counts as lost until its packet is complete.
        let joined = self.defragmenter.joined();
        ledger.packets_fragment -= joined;
        ledger.packets_joined += joined;
    }
}
