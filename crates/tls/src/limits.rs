/// The bounds of a [`Reader`](crate::Reader).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of one direction that wait for what the other one says, or for keys that a live log
    /// has not yet got. Clients write a key before they use it; this is a window of TCP.
    pub held_bytes: usize,
    /// Bytes that one direction says while it is not known what the other one lost. Beyond it, that is
    /// told as a loss of unknown length. Room for the head of an answer and the beginning of its body.
    pub behind_gap: usize,
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
            behind_gap: 64 << 10,
            message_len: 64 << 10,
            lost_records: 1024,
            trial_bytes: 128 << 20,
        }
    }
}
