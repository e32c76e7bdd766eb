//! HTTP/2 to the target: one connection a lane, streams interleaved on it.
//!
//! A connection has a task of its own that reads and writes. Requests put their frames into its output, and what they
//! put there until the task's next turn leaves in one write.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::sync::{Mutex, Notify};

use crate::player::http2::{Answered, Code, Connection, Http2Error, Http2Limits, Slot, io_error};
use crate::player::outcome::{Cause, Failure, Lost, Reply, SendError, Timeline};
use crate::player::request::{Http2Request, RecordedRequest, Rules, Untranslatable};
use crate::player::transport::socket::{Connector, Counters, Socket};
use crate::player::transport::{Transport, WhenBusy};

/// Keeps one connection for each lane, opened by its first request.
#[derive(Debug)]
pub(crate) struct Http2Transport {
    connector: Connector,
    rules: Rules,
    lanes: RefCell<Vec<Rc<Lane>>>,
    /// Lanes share this many connections.
    pool: Option<u32>,
    /// What is read is looked at at once, so that one buffer serves all connections.
    buffer: Rc<RefCell<Box<[u8]>>>,
}

impl Http2Transport {
    /// Large enough that the answers of many streams cost one system call.
    const BUFFER: usize = 64 << 10;

    pub(crate) fn new(connector: Connector, rules: Rules, when_busy: WhenBusy) -> Self {
        Self {
            connector,
            rules,
            lanes: RefCell::default(),
            pool: match when_busy {
                WhenBusy::Open => None,
                WhenBusy::Wait(connections) => Some(connections.max(1)),
            },
            buffer: Rc::new(RefCell::new(vec![0; Self::BUFFER].into_boxed_slice())),
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
    async fn link(&self, lane: &Lane, timeline: &Timeline) -> Result<(Rc<Link>, bool), SendError> {
        if let Some(link) = lane.usable() {
            return Ok((link, true));
        }
        // Whoever comes while the connection is being opened waits for it here, in order.
        let _opening = lane.opening.lock().await;
        if let Some(link) = lane.usable() {
            return Ok((link, true));
        }
        let socket = self.connector.connect(timeline).await?;
        let link = Rc::new(Link::default());
        let driver = Driver {
            link: Rc::clone(&link),
            socket,
            buffer: Rc::clone(&self.buffer),
            broken: None,
        };
        tokio::task::spawn_local(driver.run());
        if lane.retired.get() {
            link.close();
        } else {
            *lane.link.borrow_mut() = Some(Rc::clone(&link));
        }
        Ok((link, false))
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
    ) -> Result<Reply, SendError> {
        let lane = self.lane(lane);
        loop {
            let (link, kept) = self.link(&lane, timeline).await?;
            let result = match link.place().await {
                Ok(()) => link.exchange(request, timeline, self.counters()).await,
                Err(_) if kept => continue,
                Err(error) => Err(error),
            };
            match result {
                Ok(answered) => {
                    timeline.first_byte.set(Some(answered.first_byte));
                    timeline.sent_whole.set(answered.sent_whole);
                    return Ok(answered.reply);
                }
                // The target did not look at the request; it says so when it closes a connection.
                Err(error) if kept && !timeline.resent.get() && error.is_unprocessed() => {
                    self.counters().send_again(timeline);
                }
                Err(error) => return Err(failed(error)),
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
        if let Some(link) = self.lane(lane).link.take() {
            link.close();
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
    link: RefCell<Option<Rc<Link>>>,
    opening: Mutex<()>,
    retired: Cell<bool>,
}

impl Lane {
    fn usable(&self) -> Option<Rc<Link>> {
        let link = self.link.borrow();
        link.as_ref()
            .filter(|link| link.core.borrow().is_usable())
            .cloned()
    }
}

/// A connection, as requests and its task see it.
#[derive(Debug)]
struct Link {
    core: RefCell<Connection>,
    /// The task, where it has to be told that there is something to write.
    driver: RefCell<Option<Waker>>,
    /// Tells those that wait for a place.
    places: Notify,
    waiting: Cell<usize>,
    /// It ends with its last stream.
    closing: Cell<bool>,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            core: RefCell::new(Connection::new(Http2Limits::DEFAULT)),
            driver: RefCell::default(),
            places: Notify::new(),
            waiting: Cell::new(0),
            closing: Cell::new(false),
        }
    }
}

impl Link {
    fn wake_driver(&self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    fn close(&self) {
        self.closing.set(true);
        self.wake_driver();
    }

    /// Waits until the connection takes one more request. An error: it never will again.
    async fn place(&self) -> Result<(), Http2Error> {
        let mut called = false;
        loop {
            {
                let core = self.core.borrow();
                if !core.is_usable() {
                    return Err(core
                        .ended()
                        .unwrap_or(Http2Error::NotProcessed(Code::NO_ERROR)));
                }
                // Nobody overtakes those that wait.
                if core.places() > 0 && (called || self.waiting.get() == 0) {
                    return Ok(());
                }
            }
            let waiting = Waiting::new(&self.waiting);
            self.places.notified().await;
            drop(waiting);
            called = true;
        }
    }

    /// Calls as many as there are places for; all, where there will be none.
    fn call_waiting(&self) {
        if self.waiting.get() == 0 {
            return;
        }
        let core = self.core.borrow();
        if !core.is_usable() {
            self.places.notify_waiters();
            return;
        }
        for _ in 0..core.places().min(self.waiting.get()) {
            self.places.notify_one();
        }
    }

    async fn exchange(
        &self,
        request: &Http2Request,
        timeline: &Timeline,
        counters: &Counters,
    ) -> Result<Answered, Http2Error> {
        let now = Instant::now();
        let slot = self.core.borrow_mut().open(now, &request.outgoing());
        counters.send(timeline, now);
        self.wake_driver();
        let mut opened = Opened {
            link: self,
            slot: Some(slot),
        };
        poll_fn(|context| opened.poll(context)).await
    }
}

/// Somebody that waits.
struct Waiting<'a>(&'a Cell<usize>);

impl<'a> Waiting<'a> {
    fn new(waiting: &'a Cell<usize>) -> Self {
        waiting.set(waiting.get() + 1);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// A request in flight. Dropped in the middle, it takes its stream with it.
struct Opened<'a> {
    link: &'a Link,
    /// `None`: it was answered.
    slot: Option<Slot>,
}

impl Opened<'_> {
    fn poll(&mut self, context: &Context<'_>) -> Poll<Result<Answered, Http2Error>> {
        let Some(slot) = self.slot else {
            return Poll::Pending;
        };
        let poll = self.link.core.borrow_mut().poll_answer(slot, context);
        if poll.is_ready() {
            self.slot = None;
        }
        poll
    }
}

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot {
            self.link.core.borrow_mut().cancel(slot);
            self.link.call_waiting();
            self.link.wake_driver();
        }
    }
}

/// The task of a connection.
struct Driver {
    link: Rc<Link>,
    socket: Socket,
    buffer: Rc<RefCell<Box<[u8]>>>,
    /// Why nothing can be written any more.
    broken: Option<Http2Error>,
}

impl Driver {
    async fn run(mut self) {
        poll_fn(|context| self.poll(context)).await;
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        *self.link.driver.borrow_mut() = Some(context.waker().clone());
        loop {
            self.write(context);
            let (is_over, is_idle) = {
                let core = self.link.core.borrow();
                (core.ended().is_some(), core.open_streams() == 0)
            };
            if is_over {
                return Poll::Ready(());
            }
            if is_idle && self.link.closing.get() && self.link.waiting.get() == 0 {
                self.link.core.borrow_mut().finish();
                continue;
            }
            let Poll::Ready(answers) = self.read(context) else {
                return Poll::Pending;
            };
            self.link.call_waiting();
            if answers {
                // Those that have their answer go first: what they send next leaves together.
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    /// Writes as much as the socket takes.
    fn write(&mut self, context: &mut Context<'_>) {
        let mut core = self.link.core.borrow_mut();
        let mut wrote = false;
        loop {
            if core.output().is_empty() && !core.upload(Instant::now()) {
                break;
            }
            match Pin::new(&mut self.socket).poll_write(context, core.output()) {
                Poll::Ready(Ok(0)) => return core.fail(Http2Error::Closed(None)),
                Poll::Ready(Ok(n)) => core.wrote(n),
                // The target may have said why before it closed: what there is to read is read first. Its end says
                // less than this error, which the kernel tells once.
                Poll::Ready(Err(error)) => {
                    self.broken = Some(Http2Error::io(&error));
                    drop(core);
                    while self.read(context).is_ready() {
                        if self.link.core.borrow().ended().is_some() {
                            return;
                        }
                    }
                    return self.link.core.borrow_mut().fail(Http2Error::io(&error));
                }
                Poll::Pending => return,
            }
            wrote = true;
            if core.ended().is_some() && core.output().is_empty() {
                break;
            }
        }
        drop(core);
        if wrote {
            // TLS may hold some of it back; an error shows when something is read.
            let _held_back = Pin::new(&mut self.socket).poll_flush(context);
            self.link.call_waiting();
        }
    }

    /// Reads once; `true`: somebody has an answer.
    fn read(&mut self, context: &mut Context<'_>) -> Poll<bool> {
        let mut buffer = self.buffer.borrow_mut();
        let mut read = ReadBuf::new(&mut buffer);
        let Poll::Ready(result) = Pin::new(&mut self.socket).poll_read(context, &mut read) else {
            return Poll::Pending;
        };
        let mut core = self.link.core.borrow_mut();
        let before = core.open_streams();
        match result {
            Ok(()) if read.filled().is_empty() => match self.broken {
                Some(error) => core.fail(error),
                None => core.closed(),
            },
            Ok(()) => {
                if let Err(error) = core.receive(Instant::now(), read.filled()) {
                    core.fail(error);
                }
            }
            Err(error) => core.fail(Http2Error::io(&error)),
        }
        Poll::Ready(core.open_streams() < before)
    }
}

/// However it ends, nobody waits for it any longer.
impl Drop for Driver {
    fn drop(&mut self) {
        self.link.core.borrow_mut().closed();
        self.link.places.notify_waiters();
    }
}

fn failed(error: Http2Error) -> SendError {
    let lost = match error {
        Http2Error::Io(code, kind) => return SendError::io(io_error(code, kind)),
        Http2Error::Closed(_) | Http2Error::NotProcessed(Code::NO_ERROR) => Failure::ClosedEarly,
        Http2Error::Reset(_) | Http2Error::NotProcessed(_) => Failure::Reset,
        Http2Error::Violation(..) => Failure::Protocol,
    };
    SendError {
        lost: Lost::Failed(lost),
        cause: Cause::Other(Box::new(error)),
    }
}
