//! HTTP/1 to the target: an own writer and reader on plain sockets, because the recorded bytes are
//! to go out as they are.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Semaphore;

use crate::player::outcome::{Failure, GrpcStatus, NeverSent, Reply, SendError, Timeline};
use crate::player::request::{Http1Request, RecordedRequest, Rules, Untranslatable};
use crate::player::transport::response::{Answer, Progress, ResponseError, ResponseReader};
use crate::player::transport::socket::{Connector, Counters, Socket};
use crate::player::transport::{Transport, WhenBusy};

/// Keeps connections in lanes; each carries one request at a time.
#[derive(Debug)]
pub(crate) struct Http1Transport {
    connector: Connector,
    rules: Rules,
    lanes: RefCell<Vec<Lane>>,
    /// Places on the connections of a pool, where there is one; all lanes are then one.
    pool: Option<Semaphore>,
    /// What is read is looked at and forgotten at once, so that one buffer serves all connections:
    /// ten thousand of them must not cost a gigabyte.
    buffer: RefCell<Box<[u8]>>,
}

impl Http1Transport {
    /// Large enough that long answers cost few system calls.
    const BUFFER: usize = 64 << 10;
    /// How long a target is waited for that was told to ask for the body and does not (RFC 9110
    /// section 10.1.1 wants a limit; curl's is the same).
    const CONTINUE_WAIT: Duration = Duration::from_secs(1);

    pub(crate) fn new(connector: Connector, rules: Rules, when_busy: WhenBusy) -> Self {
        let pool = match when_busy {
            WhenBusy::Open => None,
            WhenBusy::Wait(connections) => Some(Semaphore::new(connections as usize)),
        };
        Self {
            connector,
            rules,
            lanes: RefCell::default(),
            pool,
            buffer: RefCell::new(vec![0; Self::BUFFER].into_boxed_slice()),
        }
    }

    /// Lanes are made when they are first used: of the many users that may be, few are at first.
    fn with_lane<T>(&self, lane: u32, f: impl FnOnce(&mut Lane) -> T) -> Option<T> {
        let lane = if self.pool.is_some() {
            0
        } else {
            lane as usize
        };
        let mut lanes = self.lanes.borrow_mut();
        if lanes.len() <= lane {
            lanes.resize_with(lane + 1, Lane::default);
        }
        lanes.get_mut(lane).map(f)
    }

    fn idle(&self, lane: u32) -> Option<Socket> {
        // The newest first: the others then reach the target's idle timeout, as they would with a
        // browser.
        self.with_lane(lane, |lane| {
            let mut idle = std::iter::from_fn(|| lane.idle.pop());
            idle.find_map(|mut socket| (!socket.is_stale()).then_some(socket))
        })
        .flatten()
    }

    async fn exchange(
        &self,
        socket: &mut Socket,
        request: &Http1Request,
        timeline: &Timeline,
    ) -> Result<Answer, SendError> {
        let mut exchange = Exchange {
            socket,
            reader: ResponseReader::new(request.is_head),
            buffer: &self.buffer,
            timeline,
        };
        self.counters().send(timeline, Instant::now());
        let (head, body) = if request.expects_continue {
            request
                .wire
                .split_at_checked(request.head_len)
                .unwrap_or((&request.wire, &[]))
        } else {
            (&*request.wire, &[] as &[u8])
        };
        if let Some(answer) = exchange.write(head).await? {
            return Ok(answer);
        }
        if !body.is_empty() {
            let wait = poll_fn(|context| exchange.poll_continue(context));
            match tokio::time::timeout(Self::CONTINUE_WAIT, wait).await {
                Ok(Ok(Some(answer))) => return Ok(answer.without_the_body()),
                Ok(Ok(None)) | Err(_) => {}
                Ok(Err(error)) => return Err(error),
            }
            if let Some(answer) = exchange.write(body).await? {
                return Ok(answer);
            }
        }
        timeline.sent_whole.set(Some(Instant::now()));
        poll_fn(|context| exchange.poll_answer(context)).await
    }
}

impl Transport for Http1Transport {
    type Request = Http1Request;

    fn prepare(&self, recorded: &RecordedRequest<'_>) -> Result<Http1Request, Untranslatable> {
        Http1Request::new(recorded, &self.rules)
    }

    fn request_len(request: &Http1Request) -> usize {
        request.wire.len()
    }

    async fn send(
        &self,
        lane: u32,
        request: &Http1Request,
        timeline: &Timeline,
    ) -> Result<Reply, SendError> {
        let _place = match &self.pool {
            Some(pool) => Some(
                pool.acquire()
                    .await
                    .map_err(|_closed| SendError::never(NeverSent::Stopped))?,
            ),
            None => None,
        };
        let (mut socket, mut kept) = match self.idle(lane) {
            Some(socket) => (socket, true),
            None => (self.connector.connect(timeline).await?, false),
        };
        loop {
            match self.exchange(&mut socket, request, timeline).await {
                Ok(answer) => {
                    if answer.reusable {
                        self.with_lane(lane, |lane| lane.put_back(socket));
                    }
                    return Ok(Reply {
                        status: answer.status,
                        grpc: request.is_grpc.then_some(GrpcStatus::UNKNOWN),
                    });
                }
                // The target closed the kept connection while the request was on its way. Every
                // client sends again then, where that is safe.
                Err(error) if kept && request.is_idempotent && was_closed(&error, timeline) => {
                    drop(socket);
                    self.counters().send_again(timeline);
                    socket = self.connector.connect(timeline).await?;
                    kept = false;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn retire(&self, lane: u32) {
        // Connections of a pool are not tied to a recorded one.
        if self.pool.is_none() {
            self.with_lane(lane, |lane| {
                lane.retired = true;
                lane.idle = Vec::new();
            });
        }
    }

    fn forget(&self, lane: u32) {
        self.with_lane(lane, |lane| lane.idle = Vec::new());
    }

    fn is_multiplexed(&self) -> bool {
        false
    }

    fn counters(&self) -> &Counters {
        self.connector.counters()
    }
}

fn was_closed(error: &SendError, timeline: &Timeline) -> bool {
    use crate::player::outcome::Lost;

    let closed = matches!(
        error.lost,
        Lost::Failed(Failure::Reset | Failure::ClosedEarly)
    );
    closed && timeline.first_byte.get().is_none()
}

/// The connections of one recorded connection, or of the pool.
#[derive(Debug, Default)]
struct Lane {
    idle: Vec<Socket>,
    retired: bool,
}

impl Lane {
    fn put_back(&mut self, socket: Socket) {
        if !self.retired {
            self.idle.push(socket);
        }
    }
}

impl Answer {
    /// The answer to a request whose body was not sent: the target may still wait for it.
    fn without_the_body(self) -> Self {
        Self {
            reusable: false,
            ..self
        }
    }
}

/// One request and its answer on a socket.
struct Exchange<'a> {
    socket: &'a mut Socket,
    reader: ResponseReader,
    buffer: &'a RefCell<Box<[u8]>>,
    timeline: &'a Timeline,
}

impl Exchange<'_> {
    /// Writes all of `bytes`, or as much as the target takes before it answers.
    async fn write(&mut self, bytes: &[u8]) -> Result<Option<Answer>, SendError> {
        let mut written = 0;
        poll_fn(|context| self.poll_write(context, bytes, &mut written)).await
    }

    fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
        written: &mut usize,
    ) -> Poll<Result<Option<Answer>, SendError>> {
        loop {
            let rest = bytes.get(*written..).unwrap_or_default();
            if rest.is_empty() {
                // TLS may hold some of it back.
                return match Pin::new(&mut *self.socket).poll_flush(context) {
                    Poll::Ready(result) => {
                        Poll::Ready(result.map(|()| None).map_err(SendError::io))
                    }
                    Poll::Pending => Poll::Pending,
                };
            }
            match Pin::new(&mut *self.socket).poll_write(context, rest) {
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(SendError::io(io::ErrorKind::BrokenPipe.into())));
                }
                Poll::Ready(Ok(n)) => *written += n,
                // A target that refuses a long body answers and closes: the answer counts, where
                // it can still be read.
                Poll::Ready(Err(error)) => {
                    return match self.poll_answer(context) {
                        Poll::Ready(Ok(answer)) => Poll::Ready(Ok(Some(answer.without_the_body()))),
                        Poll::Ready(Err(_)) | Poll::Pending => {
                            Poll::Ready(Err(SendError::io(error)))
                        }
                    };
                }
                // It may answer before it has read everything, and then read no more.
                Poll::Pending => {
                    let answer = ready!(self.poll_answer(context))?;
                    return Poll::Ready(Ok(Some(answer.without_the_body())));
                }
            }
        }
    }

    /// Waits until the target asks for the body (`None`), or answers without it.
    fn poll_continue(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Answer>, SendError>> {
        match self.poll_until(context, ResponseReader::continue_seen) {
            Poll::Ready(Ok(answer)) => Poll::Ready(Ok(answer)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<Result<Answer, SendError>> {
        loop {
            if let Some(answer) = ready!(self.poll_until(context, |_| false))? {
                return Poll::Ready(Ok(answer));
            }
        }
    }

    /// Reads until the answer is whole, or until `enough` (`None`).
    fn poll_until(
        &mut self,
        context: &mut Context<'_>,
        enough: impl Fn(&ResponseReader) -> bool,
    ) -> Poll<Result<Option<Answer>, SendError>> {
        let mut buffer = self.buffer.borrow_mut();
        loop {
            if enough(&self.reader) {
                return Poll::Ready(Ok(None));
            }
            let mut read = ReadBuf::new(&mut buffer);
            ready!(Pin::new(&mut *self.socket).poll_read(context, &mut read))
                .map_err(SendError::io)?;
            let bytes = read.filled();
            if bytes.is_empty() {
                return Poll::Ready(self.reader.end().map(Some).ok_or_else(|| {
                    SendError::failed(
                        Failure::ClosedEarly,
                        "the target closed the connection before its answer was whole",
                    )
                }));
            }
            if self.timeline.first_byte.get().is_none() {
                self.timeline.first_byte.set(Some(Instant::now()));
            }
            match self.reader.push(bytes).map_err(protocol)? {
                Progress::NeedMore => {}
                Progress::Done(answer) => return Poll::Ready(Ok(Some(answer))),
            }
        }
    }
}

fn protocol(error: ResponseError) -> SendError {
    SendError {
        lost: crate::player::outcome::Lost::Failed(Failure::Protocol),
        cause: crate::player::outcome::Cause::Other(Box::new(error)),
    }
}
