//! Several targets in one run: which one a request goes to, by the authority that it was recorded
//! with.

use std::rc::Rc;

use crate::player::outcome::{Reply, SendError, Timeline};
use crate::player::request::{Http1Request, Http2Request, RecordedRequest, Untranslatable};
use crate::player::target::Route;
use crate::player::transport::{Counters, Http1Transport, Http2Transport, Transport};

/// The transports to all targets of a run.
#[derive(Debug)]
pub(crate) struct Router {
    /// The first is for whatever no route names.
    targets: Vec<AnyTransport>,
    /// The n-th leads to the target n + 1.
    routes: Vec<Route>,
    counters: Rc<Counters>,
}

/// A transport of either protocol.
#[derive(Debug)]
pub(crate) enum AnyTransport {
    Http1(Http1Transport),
    Http2(Http2Transport),
}

/// A request for one of the targets.
#[derive(Debug)]
pub(crate) struct Routed {
    target: usize,
    request: AnyRequest,
}

#[derive(Debug)]
enum AnyRequest {
    Http1(Http1Request),
    Http2(Box<Http2Request>),
}

impl Router {
    pub(crate) fn new(
        targets: Vec<AnyTransport>,
        routes: Vec<Route>,
        counters: Rc<Counters>,
    ) -> Self {
        Self {
            targets,
            routes,
            counters,
        }
    }

    fn target(&self, authority: Option<&[u8]>) -> usize {
        let Some(authority) = authority else { return 0 };
        let route = self.routes.iter().position(|route| route.takes(authority));
        route.map_or(0, |route| route + 1)
    }
}

impl Transport for Router {
    type Request = Routed;

    fn prepare(&self, recorded: &RecordedRequest<'_>) -> Result<Routed, Untranslatable> {
        let target = self.target(recorded.authority);
        let request = match self.targets.get(target) {
            Some(AnyTransport::Http1(transport)) => AnyRequest::Http1(transport.prepare(recorded)?),
            Some(AnyTransport::Http2(transport)) => {
                AnyRequest::Http2(Box::new(transport.prepare(recorded)?))
            }
            None => return Err(Untranslatable::Authority),
        };
        Ok(Routed { target, request })
    }

    fn request_len(request: &Routed) -> usize {
        match &request.request {
            AnyRequest::Http1(request) => Http1Transport::request_len(request),
            AnyRequest::Http2(request) => Http2Transport::request_len(request),
        }
    }

    async fn send(
        &self,
        lane: u32,
        routed: &Routed,
        timeline: &Timeline,
    ) -> Result<Reply, SendError> {
        match (self.targets.get(routed.target), &routed.request) {
            (Some(AnyTransport::Http1(transport)), AnyRequest::Http1(request)) => {
                transport.send(lane, request, timeline).await
            }
            (Some(AnyTransport::Http2(transport)), AnyRequest::Http2(request)) => {
                transport.send(lane, request, timeline).await
            }
            // A request is sent by the router that prepared it.
            _ => Err(SendError::never(
                crate::player::outcome::NeverSent::Untranslatable,
            )),
        }
    }

    fn retire(&self, lane: u32) {
        for target in &self.targets {
            match target {
                AnyTransport::Http1(transport) => transport.retire(lane),
                AnyTransport::Http2(transport) => transport.retire(lane),
            }
        }
    }

    fn forget(&self, lane: u32) {
        for target in &self.targets {
            match target {
                AnyTransport::Http1(transport) => transport.forget(lane),
                AnyTransport::Http2(transport) => transport.forget(lane),
            }
        }
    }

    fn is_multiplexed(&self) -> bool {
        matches!(self.targets.first(), Some(AnyTransport::Http2(_)))
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }
}
