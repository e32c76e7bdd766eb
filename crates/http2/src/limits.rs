//! What one connection may cost.

/// The limits of a [`Reader`](crate::Reader). Reaching one is an anomaly and a
/// [`Missing`](tapedeck_model::Missing) cause, never an end.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Streams that are open at once. Servers announce 100 to 1,000; those that announce no limit
    /// (Envoy's default) are used with as many calls as a client has in flight. A stream costs about
    /// 150 bytes.
    pub streams: usize,
    /// Closed streams that are remembered, to tell late frames from those of streams that predate
    /// the capture. Late frames come within a round trip.
    pub closed_streams: usize,
    /// Encoded bytes of one field block (HEADERS with its CONTINUATIONs). Servers refuse fields
    /// beyond 8 to 64 KiB; what is longer is an attack (CONTINUATION flood) and read up to here.
    pub field_block: usize,
    /// Decoded bytes of one field section, counted as SETTINGS_MAX_HEADER_LIST_SIZE does. An index of
    /// one byte may stand for 4 KiB (HPACK bomb).
    pub field_section: usize,
    /// Bytes of dynamic table in one direction. 4 KiB unless announced otherwise; Chrome and
    /// some gRPC stacks announce 64 KiB. Entries beyond become unknown ones.
    pub header_table: usize,
    /// Payload bytes of one control frame that are read. SETTINGS of a real peer take some 50.
    pub control_payload: usize,
    /// SETTINGS frames of one side that are not acknowledged yet. Real peers send one or two.
    pub pending_settings: usize,
    /// Bytes among which frames are looked for after a loss of framing. Three frame heads must
    /// fit in: frames are of 16 KiB unless announced otherwise.
    pub search_window: usize,
}

impl Limits {
    /// The longest frame that is believed to be one while nothing was announced.
    pub(crate) fn search_frame(&self) -> u32 {
        u32::try_from(self.search_window).unwrap_or(u32::MAX)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams: 4096,
            closed_streams: 256,
            field_block: 256 << 10,
            field_section: 256 << 10,
            header_table: 64 << 10,
            control_payload: 16 << 10,
            pending_settings: 16,
            search_window: 64 << 10,
        }
    }
}
