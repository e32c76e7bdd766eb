//! A mock that runs: its port, its threads, its end.
//!
//! Each serving thread has an event loop of its own, and a connection stays on the thread that it was given
//! to: nothing is stolen, nothing is locked but the shards of the cache. The first thread accepts
//! and deals connections out in turn.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tapedeck_archive::{Archive, ReadError};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{self, Handle, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use super::chaos::Chaos;
use super::connection::{self, Stop};
use super::control::Control;
use super::journal::{Journal, JournalError};
use super::options::{Options, StartError};
use super::responder::Responder;
use super::source;
use super::stats::Stats;
use super::upstream::{OnMiss, Relay};

/// Starts mocks.
#[derive(Debug)]
pub struct Mock;

impl Mock {
    /// Serves an archive in threads of its own until the returned handle is stopped or dropped. When
    /// this returns, the port is open and every recorded request is known.
    ///
    /// # Errors
    ///
    /// When the archive holds nothing to answer with, or the address cannot be listened on.
    pub fn start(archive: Arc<Archive>, options: &Options) -> Result<RunningMock, StartError> {
        // First, so that a port in use is told before a long archive is read.
        let listener = Listener::open(options.listen)?;
        let control = options.control.map(Listener::open).transpose()?;
        let responder = source::responder(archive, options)?;
        RunningMock::start(listener, control, responder, options)
    }
}

/// A mock at work. Dropping it stops it.
pub struct RunningMock {
    addr: SocketAddr,
    control: Option<SocketAddr>,
    responder: Arc<Responder>,
    stops: Vec<Arc<Stop>>,
    threads: Vec<JoinHandle<()>>,
    /// Who writes down; ends behind all others.
    journal: Option<JoinHandle<()>>,
}

/// Recorded exchanges that never answered.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Uncalled {
    /// How many.
    pub total: u64,
    /// Id, method and target of the first ones.
    pub listed: Vec<(u64, String, String)>,
}

/// An open port.
pub(crate) struct Listener {
    socket: StdListener,
    addr: SocketAddr,
}

impl Listener {
    pub(crate) fn open(listen: SocketAddr) -> Result<Self, StartError> {
        let open = || {
            let domain = Domain::for_address(listen);
            let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
            // A mock that is started again must not wait for old connections. (On Linux this does
            // not let two listen on one port.)
            socket.set_reuse_address(true)?;
            socket.bind(&listen.into())?;
            socket.listen(BACKLOG)?;
            socket.set_nonblocking(true)?;
            let socket = StdListener::from(socket);
            let addr = socket.local_addr()?;
            Ok(Self { socket, addr })
        };
        open().map_err(|source| StartError::Listen { listen, source })
    }
}

impl RunningMock {
    pub(crate) fn start(
        listener: Listener,
        control: Option<Listener>,
        mut responder: Responder,
        options: &Options,
    ) -> Result<Self, StartError> {
        if options.on_miss == OnMiss::Passthrough {
            let relay = Relay::new(&options.upstreams, &options.limits, listener.addr);
            responder.ask_upstreams(relay.map_err(StartError::Upstreams)?);
        }
        let journal = Journal::start(
            options.received.as_deref(),
            options.recorded.as_deref(),
            options.limits.journal_bytes,
        )?;
        let journal = journal.map(|(journal, thread)| {
            responder.write_down(journal);
            thread
        });
        let threads = options
            .threads
            .or_else(|| thread::available_parallelism().ok())
            .map_or(1, NonZeroUsize::get);
        let mut workers = Vec::with_capacity(threads);
        for _ in 0..threads {
            let runtime = runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(StartError::Thread)?;
            workers.push((runtime, Arc::new(Stop::default())));
        }
        let seats: Vec<_> = workers
            .iter()
            .map(|(runtime, stop)| Seat {
                handle: runtime.handle().clone(),
                stop: Arc::clone(stop),
            })
            .collect();
        let responder = Arc::new(responder);
        let connections = Arc::new(Semaphore::new(options.limits.connections));
        let addr = listener.addr;
        let mut mock = Self {
            addr,
            control: control.as_ref().map(|listener| listener.addr),
            responder: Arc::clone(&responder),
            stops: workers.iter().map(|(_, stop)| Arc::clone(stop)).collect(),
            threads: Vec::with_capacity(threads),
            journal,
        };
        let mut accepting = None;
        if let Some((runtime, _)) = workers.first() {
            let _context = runtime.enter();
            let socket = TcpListener::from_std(listener.socket).map_err(StartError::Thread)?;
            accepting = Some((socket, seats));
        }
        for (n, (runtime, stop)) in workers.into_iter().enumerate() {
            let worker = Worker {
                stop,
                responder: Arc::clone(&responder),
                connections: Arc::clone(&connections),
            };
            let accepting = accepting.take();
            let thread = thread::Builder::new()
                .name(format!("mock-{n}"))
                .spawn(move || worker.run(runtime, accepting))
                .map_err(StartError::Thread)?;
            mock.threads.push(thread);
        }
        if let Some(listener) = control {
            mock.start_control(listener, options)?;
        }
        // Not a worker: it must not hold up answers.
        if let Some(stop) = mock.stops.first().map(Arc::clone) {
            let thread = thread::Builder::new()
                .name("mock-warm".to_owned())
                .spawn(move || responder.warm(|| stop.is_set()))
                .map_err(StartError::Thread)?;
            mock.threads.push(thread);
        }
        Ok(mock)
    }

    fn start_control(&mut self, listener: Listener, options: &Options) -> Result<(), StartError> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(StartError::Thread)?;
        let listener = {
            let _context = runtime.enter();
            TcpListener::from_std(listener.socket).map_err(StartError::Thread)?
        };
        let stop = Arc::new(Stop::default());
        let control = Arc::new(Control {
            responder: Arc::clone(&self.responder),
            mock: self.addr,
            began: Instant::now(),
            on_shutdown: options.on_shutdown.clone(),
        });
        self.stops.push(Arc::clone(&stop));
        let thread = thread::Builder::new()
            .name("mock-control".to_owned())
            .spawn(move || {
                runtime.block_on(control.serve(listener, stop));
                runtime.shutdown_background();
            })
            .map_err(StartError::Thread)?;
        self.threads.push(thread);
        Ok(())
    }

    /// Where the control port listens, with the port that was taken; `None`: there is none.
    #[must_use]
    pub const fn control_addr(&self) -> Option<SocketAddr> {
        self.control
    }

    /// Begins anew: repeated requests with their first recorded answer, hits, misses and faults with
    /// none.
    pub fn reset(&self) {
        self.responder.reset();
    }

    /// Recorded exchanges that can answer and have not, in recorded order: at most `limit`.
    #[must_use]
    pub fn uncalled(&self, limit: usize) -> Uncalled {
        let mut uncalled = Uncalled::default();
        self.responder.each_hit(0, true, |hits| {
            uncalled.total += 1;
            if uncalled.listed.len() < limit {
                uncalled
                    .listed
                    .push((hits.id.into(), hits.method, hits.target));
            }
            true
        });
        uncalled
    }

    /// Where it listens, with the port that was taken.
    #[must_use]
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What it has done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.responder.stats()
    }

    /// Other chaos from now on, or none: its time begins now.
    ///
    /// # Errors
    ///
    /// When the archive cannot say which exchanges a fault concerns; then nothing changes.
    pub fn set_chaos(&self, chaos: Option<Chaos>) -> Result<(), ReadError> {
        self.responder.set_chaos(chaos)
    }

    /// Stops accepting, lets answers on their way finish (for
    /// [`Limits::stop_grace`](super::Limits::stop_grace)), and closes everything. Gives what was
    /// done.
    #[must_use = "dropping the mock stops it as well"]
    pub fn stop(mut self) -> Stats {
        self.shut_down();
        self.stats()
    }

    /// Ends as [`RunningMock::stop`] does; what was done can still be asked for.
    pub fn shut_down(&mut self) {
        for stop in &self.stops {
            stop.set();
        }
        for thread in self.threads.drain(..) {
            // A panic there was printed there; here is nobody to hand it to.
            let _panic = thread.join();
        }
        if let Some(thread) = self.journal.take() {
            if let Some(journal) = self.responder.journal() {
                journal.end();
            }
            let _panic = thread.join();
        }
    }
}

impl From<JournalError> for StartError {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Write(error) => Self::Journal(error),
            JournalError::Thread(error) => Self::Thread(error),
        }
    }
}

impl fmt::Debug for RunningMock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            addr,
            control,
            responder: _,
            stops: _,
            threads,
            journal: _,
        } = self;
        f.debug_struct("RunningMock")
            .field("addr", addr)
            .field("control", control)
            .field("threads", &threads.len())
            .finish_non_exhaustive()
    }
}

impl Drop for RunningMock {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// Where a connection can be served.
struct Seat {
    handle: Handle,
    stop: Arc<Stop>,
}

/// What each thread has.
struct Worker {
    stop: Arc<Stop>,
    responder: Arc<Responder>,
    /// One permit for each connection.
    connections: Arc<Semaphore>,
}

impl Worker {
    fn run(self, runtime: Runtime, accepting: Option<(TcpListener, Vec<Seat>)>) {
        runtime.block_on(async {
            let stopping = self.stop.wait();
            if !self.stop.is_set() {
                match accepting {
                    Some((listener, seats)) => tokio::select! {
                        () = stopping => {}
                        () = self.accept(listener, &seats) => {}
                    },
                    None => stopping.await,
                }
            }
            // All permits are back when all connections, on all threads, are closed.
            let limits = self.responder.limits();
            let all = u32::try_from(limits.connections).unwrap_or(u32::MAX);
            let closed = self.connections.acquire_many(all);
            let _in_time = timeout(limits.stop_grace, closed).await.is_ok();
        });
        runtime.shutdown_background();
    }

    async fn accept(&self, listener: TcpListener, seats: &[Seat]) {
        let counters = self.responder.counters();
        let mut turn = seats.iter().cycle();
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of file descriptors, mostly: the connection waits in the backlog, and asking
                // again at once would only burn the processor that could close others.
                sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let Ok(permit) = Arc::clone(&self.connections).try_acquire_owned() else {
                counters.connections_refused.fetch_add(1, Ordering::Relaxed);
                refuse(&stream);
                continue;
            };
            counters.connections.fetch_add(1, Ordering::Relaxed);
            if let Some(seat) = turn.next() {
                // A connection that breaks meanwhile is no loss.
                let _broken = seat
                    .take(stream, Arc::clone(&self.responder), permit)
                    .is_err();
            }
        }
    }
}

impl Seat {
    fn take(
        &self,
        stream: TcpStream,
        responder: Arc<Responder>,
        permit: OwnedSemaphorePermit,
    ) -> io::Result<()> {
        // Answers leave whole; waiting for more (Nagle) would only delay them.
        stream.set_nodelay(true)?;
        let stream = stream.into_std()?;
        let stop = Arc::clone(&self.stop);
        self.handle.spawn(async move {
            // Registers with the event loop of this thread.
            if let Ok(stream) = TcpStream::from_std(stream) {
                connection::serve(stream, responder, stop).await;
            }
            drop(permit);
        });
        Ok(())
    }
}

/// Tells a client that there are too many, as far as that is possible without waiting.
fn refuse(stream: &TcpStream) {
    const ANSWER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n\
        Connection: close\r\nContent-Length: 34\r\n\r\n{\"error\":\"too many connections\"}\r\n";
    let _told = stream.try_write(ANSWER).is_ok();
}

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;
/// How long to wait when a connection cannot be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
