//! The ways to the target.
//!
//! A transport owns its connections and knows one protocol; it does not know when a request is due.
//! The worker owns the time and knows no protocol. TLS is another kind of socket, not another
//! transport; several targets are one transport that leads to others.

mod http1;
mod http2;
mod response;
mod router;
mod socket;

pub(crate) use http1::Http1Transport;
pub(crate) use http2::Http2Transport;
pub(crate) use router::{AnyTransport, Routed, Router};
pub(crate) use socket::{Connector, Counters, Destination, Names, Secure, Stream};

use crate::player::outcome::{Reply, SendError, Timeline};
use crate::player::request::{RecordedRequest, Untranslatable};

/// One protocol, spoken over connections in lanes.
pub(crate) trait Transport {
    /// A request in the target's protocol, ready to go.
    type Request: Send + Sync + 'static;

    fn prepare(&self, recorded: &RecordedRequest<'_>) -> Result<Self::Request, Untranslatable>;

    /// The bytes that a request holds, about.
    fn request_len(request: &Self::Request) -> usize;

    /// Sends a request on a connection of that lane and reads its answer to the end; gives what
    /// that says. Dropped in the middle, it takes the connection or the stream with it.
    async fn send(
        &self,
        lane: u32,
        request: &Self::Request,
        timeline: &Timeline,
    ) -> Result<Reply, SendError>;

    /// No request for that lane will come any more.
    fn retire(&self, lane: u32);

    /// The connections of that lane are not used again by what comes next.
    fn forget(&self, lane: u32);

    /// Whether a connection carries several requests at once.
    fn is_multiplexed(&self) -> bool;

    fn counters(&self) -> &Counters;
}

/// What happens to a request when every connection of its lane is taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum WhenBusy {
    /// HTTP/1: another connection is opened, so that arrivals never wait for answers.
    Open,
    /// It waits for one of the pool's connections, of which there are so many.
    Wait(u32),
}
