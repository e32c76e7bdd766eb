//! HTTP/2 to the target, by the `h2` crate: one connection a lane, streams interleaved on it.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, SendStream};
use http::HeaderMap;
use tokio::sync::Mutex;

use crate::player::outcome::{Failure, SendError, Timeline};
use crate::player::request::{Http2Request, RecordedRequest, Rules, Untranslatable};
use crate::player::transport::socket::{Connector, Counters};
use crate::player::transport::{Transport, WhenBusy};

/// Keeps one connection for each lane, opened by its first request.
#[derive(Debug)]
pub(crate) struct Http2Transport {
    connector: Connector,
    rules: Rules,
    lanes: RefCell<Vec<Rc<Lane>>>,
    /// Lanes share this many connections.
    pool: Option<u32>,
}

impl Http2Transport {
    /// What browsers announce, about: the target's answers must not wait for the player's window.
    const STREAM_WINDOW: u32 = 1 << 20;
    /// See [`Self::STREAM_WINDOW`].
    const CONNECTION_WINDOW: u32 = 16 << 20;
    /// Until the target's SETTINGS say more: the least that RFC 9113 section 6.5.2 recommends. More
    /// would be refused by targets that allow no more.
    const STREAMS_BEFORE_SETTINGS: usize = 100;

    pub(crate) fn new(connector: Connector, rules: Rules, when_busy: WhenBusy) -> Self {
        Self {
            connector,
            rules,
            lanes: RefCell::default(),
            pool: match when_busy {
                WhenBusy::Open => None,
                WhenBusy::Wait(connections) => Some(connections.max(1)),
            },
        }
    }

    fn lane(&self, lane: u32) -> Rc<Lane> {
        let lane = self.pool.map_or(lane, |pool| lane % pool) as usize;
        let mut lanes = self.lanes.borrow_mut();
        if lanes.len() <= lane {
            lanes.resize_with(lane + 1, Rc::default);
        }
        lanes.get(lane).map(Rc::clone).unwrap_or_default()
    }

    /// The connection of a lane, and whether it stood before.
    async fn connection(
        &self,
        lane: &Lane,
        timeline: &Timeline,
    ) -> Result<(SendRequest<Bytes>, bool), SendError> {
        // Whoever comes while the connection is being opened waits for it here, in order.
        let mut connection = lane.connection.lock().await;
        if let Some(connection) = connection
            .as_ref()
            .filter(|connection| connection.stands.get())
        {
            return Ok((connection.sender.clone(), true));
        }
        let socket = self.connector.connect(timeline).await?;
        let (sender, driver) = h2::client::Builder::new()
            .enable_push(false)
            .initial_window_size(Self::STREAM_WINDOW)
            .initial_connection_window_size(Self::CONNECTION_WINDOW)
            .initial_max_send_streams(Self::STREAMS_BEFORE_SETTINGS)
            .handshake::<_, Bytes>(socket)
            .await
            .map_err(failed)?;
        let stands = Rc::new(Cell::new(true));
        let ended = Rc::clone(&stands);
        tokio::task::spawn_local(async move {
            // Every stream is told of the error that ends the connection; nobody else needs it.
            if driver.await.is_err() {
                ended.set(false);
            }
            ended.set(false);
        });
        if !lane.retired.get() {
            *connection = Some(Connection {
                sender: sender.clone(),
                stands,
            });
        }
        Ok((sender, false))
    }
}

impl Transport for Http2Transport {
    type Request = Http2Request;

    fn prepare(&self, recorded: &RecordedRequest<'_>) -> Result<Http2Request, Untranslatable> {
        Http2Request::new(recorded, &self.rules)
    }

    fn request_len(request: &Http2Request) -> usize {
        request.len()
    }

    async fn send(
        &self,
        lane: u32,
        request: &Http2Request,
        timeline: &Timeline,
    ) -> Result<u16, SendError> {
        let lane = self.lane(lane);
        loop {
            let (sender, kept) = self.connection(&lane, timeline).await?;
            match exchange(sender, request, timeline).await {
                // The target says that it did not look at the request (RFC 9113 section 8.7), so
                // that sending it once more is safe; it does so when it closes a connection.
                Err(error) if kept && !timeline.resent.get() && is_unprocessed(&error) => {
                    timeline.send_again();
                    if !error.is_reset() {
                        *lane.connection.lock().await = None;
                    }
                }
                result => return result.map_err(failed),
            }
        }
    }

    fn retire(&self, lane: u32) {
        if self.pool.is_none() {
            self.lane(lane).retired.set(true);
            self.forget(lane);
        }
    }

    fn forget(&self, lane: u32) {
        // Without a handle the connection ends by itself when its last stream has.
        if let Ok(mut connection) = self.lane(lane).connection.try_lock() {
            *connection = None;
        }
    }

    fn is_multiplexed(&self) -> bool {
        true
    }

    fn counters(&self) -> &Counters {
        self.connector.counters()
    }
}

#[derive(Debug, Default)]
struct Lane {
    connection: Mutex<Option<Connection>>,
    retired: Cell<bool>,
}

#[derive(Debug)]
struct Connection {
    sender: SendRequest<Bytes>,
    stands: Rc<Cell<bool>>,
}

async fn exchange(
    mut sender: SendRequest<Bytes>,
    request: &Http2Request,
    timeline: &Timeline,
) -> Result<u16, h2::Error> {
    poll_fn(|context| sender.poll_ready(context)).await?;
    let ends_with_head = request.body.is_empty() && request.trailers.is_none();
    let (response, stream) = sender.send_request(request.head.clone(), ends_with_head)?;
    // The target limits how many streams are open at once: waiting for a place is not yet sending.
    poll_fn(|context| sender.poll_ready(context)).await?;
    timeline.sent.set(Some(Instant::now()));
    if ends_with_head {
        timeline.sent_whole.set(timeline.sent.get());
        return answer(response, timeline).await;
    }

    let upload = upload(stream, request.body.clone(), request.trailers.clone());
    let answer = answer(response, timeline);
    tokio::pin!(upload, answer);
    tokio::select! {
        biased;
        // An early answer: what is left of the body is not wanted.
        status = &mut answer => return status,
        uploaded = &mut upload => {
            // When the target gives up on the body it may still have answered; if it has not, the
            // answer's error says why.
            if uploaded.is_ok() {
                timeline.sent_whole.set(Some(Instant::now()));
            }
        }
    }
    answer.await
}

async fn upload(
    mut stream: SendStream<Bytes>,
    mut body: Bytes,
    trailers: Option<HeaderMap>,
) -> Result<(), h2::Error> {
    while !body.is_empty() {
        stream.reserve_capacity(body.len());
        let Some(capacity) = poll_fn(|context| stream.poll_capacity(context)).await else {
            return Err(Reason::STREAM_CLOSED.into());
        };
        let part = body.split_to(capacity?.min(body.len()));
        stream.send_data(part, body.is_empty() && trailers.is_none())?;
    }
    match trailers {
        Some(trailers) => stream.send_trailers(trailers),
        None => Ok(()),
    }
}

async fn answer(response: ResponseFuture, timeline: &Timeline) -> Result<u16, h2::Error> {
    let response = response.await?;
    timeline.first_byte.set(Some(Instant::now()));
    let status = response.status().as_u16();
    let mut body = response.into_body();
    while let Some(data) = body.data().await {
        let len = data?.len();
        body.flow_control().release_capacity(len)?;
    }
    body.trailers().await?;
    Ok(status)
}

fn is_unprocessed(error: &h2::Error) -> bool {
    let reason = error.reason();
    reason == Some(Reason::REFUSED_STREAM)
        || (error.is_go_away() && error.is_remote() && reason == Some(Reason::NO_ERROR))
}

fn failed(error: h2::Error) -> SendError {
    if error.is_io() {
        return match error.into_io() {
            Some(error) => SendError::io(error),
            None => SendError::failed(Failure::ClosedEarly, "the connection was closed"),
        };
    }
    if error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR) {
        return SendError::failed(Failure::ClosedEarly, error);
    }
    if error.is_remote() {
        return SendError::failed(Failure::Reset, error);
    }
    SendError::failed(Failure::Protocol, error)
}
