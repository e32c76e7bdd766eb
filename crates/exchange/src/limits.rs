use std::time::Duration;

/// The bounds of an [`Engine`](crate::Engine).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Of fragmented IP packets.
    pub fragments: tapedeck_packet::DefragLimits,
    /// Of the connection table and of reassembly.
    pub reassembly: tapedeck_reassembly::Limits,
    /// Of each HTTP/1 connection.
    pub http1: tapedeck_http1::Limits,
    /// Of each HTTP/2 connection.
    pub http2: tapedeck_http2::Limits,
    /// Tunnels (CONNECT) within each other that are read; the bytes of those further in are kept, and
    /// not looked at. A client reaches a proxy through a proxy; more is an attack.
    pub tunnel_depth: usize,
    /// Of each TLS connection.
    pub tls: tapedeck_tls::Limits,
    /// Bytes that wait in all TLS connections: pieces of records, and what came before the keys did.
    /// Beyond half of it, connections that wait for keys are given up; beyond it, any that has
    /// something to wait for. Room for the records under way on some thousands of connections.
    pub tls_memory: usize,
    /// Secrets of a TLS key log that are kept. A session of TLS 1.3 has five, of TLS 1.2 one; each takes
    /// 100 to 200 bytes.
    pub tls_secrets: usize,
    /// How many bytes of one direction are looked at before a connection counts as not HTTP.
    /// Enough for any method and the longest target that servers accept by default (8 KiB).
    pub detect_bytes: usize,
    /// How many bytes of a connection that predates the capture may pass before it counts as not
    /// HTTP. Larger than `detect_bytes`, because such a capture may begin inside of a body.
    pub detect_midstream_bytes: u64,
    /// A body leaves for the recorder in parts of this size. One part is one body block of the
    /// archive, so that reading any byte of a long body costs one block.
    pub part_len: usize,
    /// Bytes of unfinished bodies that are held over all connections. Beyond it, bodies leave in
    /// parts smaller than `part_len`.
    pub body_memory: usize,
    /// Bytes of one body that are kept; the rest is counted and the message is marked partial.
    pub body_len: u64,
    /// Bytes that come within this time of the last ones do not count as a new arrival. Finer
    /// steps are the network's, not the application's. (In a tunnel, they do where the other side spoke
    /// in between.)
    pub arrival_interval: Duration,
    /// Arrivals noted for one body.
    pub arrivals: usize,
    /// Gaps noted for one body; what comes behind the last of them is left out. A body with more is
    /// of no use, and each costs as much as a hundred bytes.
    pub gaps: usize,
    /// Interim responses kept of one exchange. Servers send a few early hints, or one 102 every some
    /// seconds.
    pub interim: usize,
    /// Bytes that are held of what is unfinished, over all connections: heads, the ends of bodies,
    /// pieces of frames. Beyond it, the connection that has held something for longest gives up what
    /// it holds. Traffic in order holds some KiB of each connection.
    pub held_memory: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            fragments: tapedeck_packet::DefragLimits::default(),
            reassembly: tapedeck_reassembly::Limits::default(),
            http1: tapedeck_http1::Limits::default(),
            http2: tapedeck_http2::Limits::default(),
            tunnel_depth: 4,
            tls: tapedeck_tls::Limits::default(),
            tls_memory: 64 << 20,
            tls_secrets: 500_000,
            detect_bytes: 8 << 10,
            detect_midstream_bytes: 16 << 20,
            part_len: 1 << 20,
            body_memory: 32 << 20,
            body_len: 4 << 30,
            arrival_interval: Duration::from_millis(1),
            arrivals: 4096,
            gaps: 4096,
            interim: 256,
            held_memory: 128 << 20,
        }
    }
}

impl Limits {
    /// The share of one of `workers` that read the connections of one capture together.
    #[must_use]
    pub fn share(mut self, workers: usize) -> Self {
        let workers = workers.max(1);
        self.reassembly.max_connections = (self.reassembly.max_connections / workers).max(1);
        self.reassembly.max_buffered /= workers;
        self.body_memory /= workers;
        self.held_memory /= workers;
        self.tls_memory /= workers;
        self
    }
}
