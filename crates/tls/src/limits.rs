/// The bounds of a [`Reader`](crate::Reader).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of one direction that wait for what the other one says, or for keys that a live log
    /// has not yet got. Clients write a key before they use it; this is a window of TCP.
    pub held_bytes: usize,
    /// The longest handshake message that is read. A ClientHello with post-quantum key shares and
    /// a ticket takes 2 to 4 KiB.
    pub message_len: usize,
    /// The most records that may have been lost between two that open: a larger loss would make
    /// each guess of the sequence number too dear.
    pub lost_records: u64,
    /// Bytes that are decrypted in vain while a sequence number is looked for, over the life of a
    /// connection. About a tenth of a second of one core.
    pub trial_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            held_bytes: 256 << 10,
            message_len: 64 << 10,
            lost_records: 1024,
            trial_bytes: 128 << 20,
        }
    }
}
