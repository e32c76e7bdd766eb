//! The body of a request on its way to an upstream.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc::{self, Receiver, Sender};

/// A body.
#[derive(Debug)]
pub(super) enum Sent {
    /// `None`: it was sent.
    Whole(Option<Bytes>),
    Coming(Receiver<Part>),
    Over,
}

/// A part of a body that comes.
#[derive(Debug)]
pub(super) enum Part {
    Data(Bytes),
    End(Option<HeaderMap>),
}

/// Where the parts of a body go. Dropped without an end, it breaks the request off.
#[derive(Debug)]
pub(crate) struct Pieces(Sender<Part>);

/// The client broke its request off.
#[derive(Debug, thiserror::Error)]
#[error("the client broke its request off")]
pub(crate) struct BrokenOff;

impl Sent {
    pub(super) fn whole(body: Bytes) -> Self {
        if body.is_empty() {
            return Self::Over;
        }
        Self::Whole(Some(body))
    }

    /// A body that is still to come.
    pub(super) fn coming() -> (Pieces, Self) {
        let (sender, receiver) = mpsc::channel(PARTS);
        (Pieces(sender), Self::Coming(receiver))
    }
}

impl Pieces {
    /// `false`: nobody listens any more.
    pub(crate) async fn data(&self, data: Bytes) -> bool {
        self.0.send(Part::Data(data)).await.is_ok()
    }

    /// Nothing more comes, but for these trailers.
    pub(crate) async fn end(&self, trailers: Option<HeaderMap>) {
        // Who does not listen any more needs no end.
        let _told = self.0.send(Part::End(trailers)).await.is_ok();
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let (frame, is_over) = match &mut *self {
            Self::Over => (None, true),
            Self::Whole(body) => (body.take().map(|body| Ok(Frame::data(body))), true),
            Self::Coming(parts) => match ready!(parts.poll_recv(cx)) {
                Some(Part::Data(data)) => (Some(Ok(Frame::data(data))), false),
                Some(Part::End(trailers)) => {
                    (trailers.map(|fields| Ok(Frame::trailers(fields))), true)
                }
                None => (Some(Err(BrokenOff)), true),
            },
        };
        if is_over {
            *self = Self::Over;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Over)
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Over => SizeHint::with_exact(0),
            Self::Whole(body) => {
                SizeHint::with_exact(body.as_ref().map_or(0, |body| body.len() as u64))
            }
            Self::Coming(_) => SizeHint::default(),
        }
    }
}

/// Parts that may wait for an upstream, each as large as a frame of the client.
const PARTS: usize = 4;
