//! Counters.

use tapedeck_model::{Anomaly, Gap, GapCause, Ledger};

/// What the reassembly counts; the names are those of the [`Ledger`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Stats {
    pub(crate) segments: u64,
    pub(crate) payload_bytes_seen: u64,
    pub(crate) payload_bytes_delivered: u64,
    pub(crate) payload_bytes_duplicate: u64,
    pub(crate) payload_bytes_dropped: u64,
    pub(crate) connections: u64,
    pub(crate) connections_midstream: u64,
    pub(crate) connections_evicted: u64,
    pub(crate) connections_empty: u64,
    gaps: u64,
    gap_bytes_lost: u64,
    gap_bytes_truncated: u64,
    gap_bytes_partial: u64,
    conflicting_overlaps: u64,
    out_of_range: u64,
    data_after_fin: u64,
}

impl Stats {
    pub(crate) const fn gap(&mut self, gap: Gap) {
        self.gaps += 1;
        match gap.cause {
            GapCause::Lost => self.gap_bytes_lost += gap.len,
            GapCause::Snaplen => self.gap_bytes_truncated += gap.len,
            GapCause::Limit => self.gap_bytes_partial += gap.len,
        }
    }

    /// Counts an anomaly that no sink is told.
    pub(crate) fn anomaly(&mut self, anomaly: Anomaly) {
        match anomaly {
            Anomaly::ConflictingOverlap => self.conflicting_overlaps += 1,
            Anomaly::SegmentOutOfRange => self.out_of_range += 1,
            Anomaly::DataAfterFin => self.data_after_fin += 1,
            other => debug_assert!(false, "{other} is not an anomaly of TCP"),
        }
    }

    pub(crate) fn add_to(&self, ledger: &mut Ledger) {
        let Self {
            segments,
            payload_bytes_seen,
            payload_bytes_delivered,
            payload_bytes_duplicate,
            payload_bytes_dropped,
            connections,
            connections_midstream,
            connections_evicted,
            connections_empty,
            gaps,
            gap_bytes_lost,
            gap_bytes_truncated,
            gap_bytes_partial,
            conflicting_overlaps,
            out_of_range,
            data_after_fin,
        } = self;
        ledger.segments += segments;
        ledger.payload_bytes_seen += payload_bytes_seen;
        ledger.payload_bytes_delivered += payload_bytes_delivered;
        ledger.payload_bytes_duplicate += payload_bytes_duplicate;
        ledger.payload_bytes_dropped += payload_bytes_dropped;
        ledger.connections += connections;
        ledger.connections_midstream += connections_midstream;
        ledger.connections_evicted += connections_evicted;
        ledger.connections_empty += connections_empty;
        ledger.gaps += gaps;
        ledger.gap_bytes += gap_bytes_lost + gap_bytes_truncated + gap_bytes_partial;
        ledger.gap_bytes_lost += gap_bytes_lost;
        ledger.gap_bytes_truncated += gap_bytes_truncated;
        ledger.gap_bytes_partial += gap_bytes_partial;
        for (anomaly, count) in [
            (Anomaly::ConflictingOverlap, conflicting_overlaps),
            (Anomaly::SegmentOutOfRange, out_of_range),
            (Anomaly::DataAfterFin, data_after_fin),
        ] {
            if *count > 0 {
                *ledger.anomalies.entry(anomaly).or_default() += count;
            }
        }
    }
}
