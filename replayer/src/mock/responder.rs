//! From a request to the answer that is sent, whatever the protocol; and what is counted.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use tapedeck_archive::ReadError;
use tapedeck_model::exchange::{Connection, ConnectionId, Origin as Beginning, Workloads};
use tapedeck_model::{Endpoint, Scope};
use tokio::sync::OwnedSemaphorePermit;

use super::answer::Answer;
use super::cache::Cache;
use super::call::{Call, Headers};
use super::chaos::{Chaos, Effect, Faults, Plan};
use super::dialogue::Dialogue;
use super::drawn::Drawn;
use super::index::{Found, Index};
use super::journal::{Book, Caller, Draft, For, Journal, KeptHead, now};
use super::memory::{Memory, Share};
use super::miss::{Miss, MissLog, Recordings, nearest, wants_text};
use super::options::{Latency, Limits, Options, Skipped};
use super::stats::{Counters, Stats};
use super::tls::Tls;
use super::upstream::{Outgoing, Passed, Reached, Refused, Relay, Tunnel};
use super::websocket::{self, Conversation, Talk};

/// Where recorded responses come from.
pub(crate) trait Source: Recordings + Send + Sync {
    /// The bytes of a response body, without reading it.
    fn body_len(&self, id: u32) -> u64;
    /// A recorded WebSocket conversation. `None`: it is none, or cannot be held.
    fn conversation(&self, _id: u32) -> Option<Conversation> {
        None
    }
    /// A recorded call that was answered before it was whole. `None`: it is none.
    fn dialogue(&self, _id: u32) -> Option<Dialogue> {
        None
    }
    /// A recorded response. `None`: it cannot be read, or cannot be sent.
    fn answer(&self, id: u32) -> Option<Answer>;
    /// Finds out which exchanges each fault concerns.
    fn plan(&self, chaos: Chaos) -> Result<Plan, ReadError>;
}

/// Answers requests; shared by all connections.
pub(crate) struct Responder {
    index: Index,
    source: Box<dyn Source>,
    cache: Cache,
    latency: Option<f64>,
    limits: Limits,
    tls: Option<Tls>,
    tls_failures: Mutex<BTreeMap<String, u64>>,
    faults: Faults,
    skipped: Skipped,
    /// By exchange.
    hits: Vec<AtomicU64>,
    misses: Mutex<MissLog>,
    counters: Counters,
    large_answers: Memory,
    request_memory: Memory,
    /// Latencies to draw from; `None`: each exchange has its own.
    drawn: Option<Drawn>,
    /// `None`: what nothing recorded answers fails.
    relay: Option<Relay>,
    /// `None`: nothing is written down.
    journal: Option<Arc<Journal>>,
}

/// Whose request it is, and whom it was meant for.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) caller: Arc<Caller>,
    /// `None`: whom it names itself.
    pub(crate) tunnel: Option<Tunnel>,
}

/// What a request gets.
#[derive(Debug)]
pub(crate) enum Response {
    Ready(Reply),
    /// What its upstream says.
    Upstream(Box<Outgoing>),
    /// A conversation.
    WebSocket(Talk),
    /// A conversation with its upstream.
    Upgrade(Box<Outgoing>),
}

impl Response {
    pub(crate) const fn asks_upstream(&self) -> bool {
        matches!(self, Self::Upstream(_) | Self::Upgrade(_))
    }
}

/// Whether a request can be answered before it is whole.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Early<'r> {
    /// It is held until it is whole, and compared.
    No,
    /// When as much of it is there as it takes to know it; see [`Responder::opening`].
    Openings(&'r [usize]),
    /// Nothing recorded answers it, whatever it goes on to say.
    Unknown,
}

/// How often an exchange answered.
#[derive(Debug)]
pub(crate) struct Hits {
    pub(crate) id: u32,
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) hits: u64,
}

/// An answer, with its share of the memory for large ones.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) answer: Arc<Answer>,
    /// What goes wrong with it.
    pub(crate) effect: Option<Box<Effect>>,
    /// The time to its first byte, where it is not its own.
    drawn: Option<Duration>,
    /// The answer to GET, for a HEAD that was not recorded.
    pub(crate) head_only: bool,
    _memory: Option<OwnedSemaphorePermit>,
}

impl Reply {
    /// From the end of the request to its first byte, as recorded.
    pub(crate) fn first_byte(&self) -> Duration {
        self.drawn
            .unwrap_or_else(|| self.answer.timing().first_byte)
    }

    /// The body that goes with it.
    pub(crate) fn body(&self) -> Bytes {
        if self.head_only {
            Bytes::new()
        } else {
            self.answer.body()
        }
    }

    fn of(answer: Arc<Answer>) -> Self {
        Self {
            answer,
            effect: None,
            drawn: None,
            head_only: false,
            _memory: None,
        }
    }
}

impl Responder {
    pub(crate) fn new(
        index: Index,
        source: Box<dyn Source>,
        exchanges: usize,
        skipped: Skipped,
        tls: Option<Tls>,
        options: &Options,
    ) -> Self {
        let limits = options.limits;
        Self {
            index,
            source,
            cache: Cache::new(limits.cache_bytes),
            latency: match options.latency {
                Latency::Drawn => Some(1.0),
                Latency::Recorded { factor } if factor > 0.0 && factor.is_finite() => Some(factor),
                Latency::Recorded { .. } | Latency::None => None,
            },
            limits,
            tls,
            tls_failures: Mutex::default(),
            faults: Faults::new(options.on_fault.clone()),
            skipped,
            hits: (0..exchanges).map(|_| AtomicU64::new(0)).collect(),
            misses: Mutex::default(),
            counters: Counters::default(),
            large_answers: Memory::new(limits.answer_memory),
            request_memory: Memory::new(limits.request_memory),
            drawn: None,
            relay: None,
            journal: None,
        }
    }

    /// Somebody has connected.
    pub(crate) fn caller(&self, client: SocketAddr, server: SocketAddr) -> Arc<Caller> {
        let end = |addr: SocketAddr| Endpoint::new(addr.ip().to_canonical(), addr.port());
        let id = self.counters.callers.fetch_add(1, Ordering::Relaxed);
        Arc::new(Caller {
            connection: Arc::new(Connection {
                id: ConnectionId(id),
                client: end(client),
                server: end(server),
                scope: Scope::default(),
                origin: Beginning::Handshake,
                opened: now(),
                tls: None,
                workloads: Workloads::default(),
            }),
            noted: AtomicBool::new(false),
        })
    }

    /// From now on latencies are drawn from these.
    pub(crate) fn draw_from(&mut self, drawn: Drawn) {
        self.drawn = Some(drawn);
    }

    /// From now on upstreams answer what nothing recorded does.
    pub(crate) fn ask_upstreams(&mut self, relay: Relay) {
        self.relay = Some(relay);
    }

    /// From now on it is written down what comes and what is answered.
    pub(crate) fn write_down(&mut self, journal: Arc<Journal>) {
        self.journal = Some(journal);
    }

    pub(crate) const fn journal(&self) -> Option<&Arc<Journal>> {
        self.journal.as_ref()
    }

    /// What a request gets.
    pub(crate) async fn respond(&self, call: &Call<'_>, tunnel: Option<&Tunnel>) -> Response {
        let reason = match self.index.find(call) {
            Found::Exchange(id) => return Response::Ready(self.answer(call, id).await),
            Found::UsedUp { recorded } => used_up(recorded),
            Found::Nothing => {
                // RFC 9110 section 9.3.2: a HEAD is answered as a GET would be.
                let get = Call {
                    method: b"GET",
                    ..*call
                };
                if call.method == b"HEAD"
                    && let Some(id) = self.index.peek(&get)
                {
                    let reply = self.answer(call, id).await;
                    return Response::Ready(Reply {
                        head_only: true,
                        ..reply
                    });
                }
                NOTHING_MATCHES.to_owned()
            }
        };
        match self.pass_on(call, tunnel, reason) {
            Ok(outgoing) => Response::Upstream(Box::new(outgoing)),
            Err(reply) => Response::Ready(reply),
        }
    }

    /// Whether a call of which the head is there can be answered before it is whole.
    pub(crate) fn early(&self, head: &Call<'_>) -> Early<'_> {
        if self.index.is_unknown(head) {
            return Early::Unknown;
        }
        match self.index.openings(head) {
            [] => Early::No,
            lens => Early::Openings(lens),
        }
    }

    /// Whether upstreams are asked what nothing recorded answers.
    pub(crate) const fn passes_on(&self) -> bool {
        self.relay.is_some()
    }

    /// Whether a recorded request matches this one.
    pub(crate) fn holds(&self, call: &Call<'_>) -> bool {
        self.index.holds(call)
    }

    /// How many exchanges answer a call whose body begins so.
    pub(crate) fn opening(&self, call: &Call<'_>) -> usize {
        self.index.opening(call)
    }

    /// What a call gets whose body begins so: an answer in turns, or one at once.
    pub(crate) async fn take_turns(&self, call: &Call<'_>) -> Result<(Reply, Dialogue), Reply> {
        let id = match self.index.find_opening(call) {
            Found::Exchange(id) => id,
            Found::UsedUp { recorded } => return Err(self.miss(call, used_up(recorded))),
            Found::Nothing => return Err(self.miss(call, NOTHING_MATCHES.to_owned())),
        };
        match self.source.dialogue(id) {
            Some(dialogue) => Ok((self.answer(call, id).await, dialogue)),
            None => Err(self.unreadable(call.method, id)),
        }
    }

    /// Lists a miss, and makes it ready for its upstream, if there is one; or gives its answer.
    pub(crate) fn pass_on(
        &self,
        call: &Call<'_>,
        tunnel: Option<&Tunnel>,
        reason: String,
    ) -> Result<Outgoing, Reply> {
        let Some(relay) = &self.relay else {
            return Err(self.miss(call, reason));
        };
        match relay.prepare(call, tunnel) {
            Ok(outgoing) => {
                let _listed = self.miss(call, reason);
                self.counters.passed.fetch_add(1, Ordering::Relaxed);
                Ok(outgoing)
            }
            Err(Refused::Nowhere) => {
                let reason = format!("{reason}, and no upstream is named for it (--upstream)");
                Err(self.miss(call, reason))
            }
            Err(Refused::With(status, why)) => {
                let _listed = self.miss(call, reason);
                Err(Self::problem(call.method, status, &why))
            }
        }
    }

    /// What a request gets that wants to go on as WebSocket.
    pub(crate) async fn converse(&self, call: &Call<'_>, tunnel: Option<&Tunnel>) -> Response {
        let call = &Call {
            method: websocket::METHOD,
            body: b"",
            ..*call
        };
        let id = match self.index.find(call) {
            Found::Exchange(id) => id,
            Found::UsedUp { recorded } => {
                let reason =
                    format!("this conversation was recorded {recorded} times, and all were held");
                return Response::Ready(self.miss(call, reason));
            }
            Found::Nothing => {
                let reason = "no recorded WebSocket conversation matches this request".to_owned();
                if self.relay.is_none() {
                    return Response::Ready(self.miss(call, reason));
                }
                let asked = &Call {
                    method: b"GET",
                    ..*call
                };
                return match self.pass_on(asked, tunnel, reason) {
                    Ok(outgoing) => Response::Upgrade(Box::new(outgoing)),
                    Err(reply) => Response::Ready(reply),
                };
            }
        };
        let size = usize::try_from(self.source.body_len(id)).unwrap_or(usize::MAX);
        let memory = if size > LARGE {
            self.large_answers.wait_for(size.saturating_mul(2)).await
        } else {
            None
        };
        let Some(conversation) = self.source.conversation(id) else {
            return Response::Ready(self.unreadable(b"GET", id));
        };
        let Some(key) = call.headers.get("sec-websocket-key") else {
            let why = "a handshake of WebSocket needs the field Sec-WebSocket-Key";
            return Response::Ready(Self::problem(b"GET", StatusCode::BAD_REQUEST, why));
        };
        if let Some(reason) = conversation.contradicts(call.headers.get("sec-websocket-extensions"))
        {
            return Response::Ready(self.miss(call, reason));
        }
        if let Some(hits) = self.hits.get(id as usize) {
            hits.fetch_add(1, Ordering::Relaxed);
        }
        Response::WebSocket(Talk {
            conversation: Arc::new(conversation),
            key: key.to_vec(),
            _memory: memory,
        })
    }

    /// Asks an upstream. What it does not answer gets an answer of the mock's.
    pub(crate) async fn ask(&self, outgoing: Outgoing) -> Result<Passed, Reply> {
        let method = outgoing.method();
        let Some(relay) = &self.relay else {
            return Err(self.unanswered(&method, Refused::Nowhere));
        };
        let sent = relay.send(outgoing).await;
        sent.map_err(|refused| self.unanswered(&method, refused))
    }

    /// Asks an upstream to go on as WebSocket.
    pub(crate) async fn upgrade(&self, outgoing: Outgoing) -> Result<Reached, Reply> {
        let method = outgoing.method();
        let Some(relay) = &self.relay else {
            return Err(self.unanswered(&method, Refused::Nowhere));
        };
        let reached = relay.upgrade(outgoing).await;
        reached.map_err(|refused| self.unanswered(&method, refused))
    }

    fn unanswered(&self, method: &http::Method, refused: Refused) -> Reply {
        let (status, why) = match refused {
            Refused::With(status, why) => (status, why),
            Refused::Nowhere => (StatusCode::BAD_GATEWAY, "no upstream".to_owned()),
        };
        self.upstream_failed();
        Self::problem(method.as_str().as_bytes(), status, &why)
    }

    /// Counts an upstream that did not do what it should.
    pub(crate) fn upstream_failed(&self) {
        self.counters
            .upstream_failures
            .fetch_add(1, Ordering::Relaxed);
    }

    /// Begins to write a request down, if that is wanted. `from_upstream`: whoever answers is one.
    pub(crate) fn draft(
        &self,
        caller: &Caller,
        stream: u64,
        call: &Call<'_>,
        scheme: &str,
        from_upstream: bool,
    ) -> Option<Draft> {
        let journal = self.journal.as_ref()?;
        let to = For {
            received: true,
            recorded: from_upstream,
        };
        if !to.recorded && !journal.keeps_received() {
            return None;
        }
        let head = match call.headers {
            Headers::Lines(lines) => KeptHead::Lines(lines.to_vec()),
            Headers::Map(fields) => {
                let mut pseudo = vec![
                    (":method", call.method.to_vec()),
                    (":scheme", scheme.as_bytes().to_vec()),
                    (":path", call.target.to_vec()),
                ];
                if let Some(authority) = call.authority {
                    pseudo.push((":authority", authority.to_vec()));
                }
                KeptHead::Fields(pseudo, fields.clone())
            }
            Headers::None | Headers::Recorded(_) => return None,
        };
        journal.draft(caller, stream, to, head, call.body)
    }

    /// The answer of an exchange, with what goes wrong.
    async fn answer(&self, call: &Call<'_>, id: u32) -> Reply {
        let hits = self.hits.get(id as usize);
        let nth = hits.map_or(0, |hits| hits.fetch_add(1, Ordering::Relaxed));
        let reply = self.answer_again(call, id, nth).await;
        Reply {
            drawn: self.drawn.as_ref().and_then(|drawn| drawn.draw(id, nth)),
            ..reply
        }
    }

    /// The answer of an exchange that has answered so often before.
    async fn answer_again(&self, call: &Call<'_>, id: u32, nth: u64) -> Reply {
        let effect = self.faults.strike(id, nth).map(Box::new);
        if let Some(instead) = effect.as_ref().and_then(|effect| effect.answer.as_ref()) {
            let answer = Arc::new(Answer::instead(call.method, instead));
            return Reply {
                effect,
                ..Reply::of(answer)
            };
        }
        if let Some(answer) = self.cache.get(id) {
            return Reply {
                effect,
                ..Reply::of(answer)
            };
        }
        // While it is made ready, a body is there twice.
        let size = usize::try_from(self.source.body_len(id)).unwrap_or(usize::MAX);
        let memory = if size > LARGE {
            self.large_answers.wait_for(size.saturating_mul(2)).await
        } else {
            None
        };
        let Some(answer) = self.source.answer(id) else {
            return self.unreadable(call.method, id);
        };
        let answer = Arc::new(answer);
        if memory.is_none() {
            self.cache.insert(id, &answer);
        }
        Reply {
            effect,
            _memory: memory,
            ..Reply::of(answer)
        }
    }

    /// Makes answers ready ahead, in recorded order, until the cache is full or `stop` says so: read in
    /// that order, a block of the archive is decompressed once, and not once for each answer in it.
    pub(crate) fn warm(&self, stop: impl Fn() -> bool) {
        for id in self.index.ids() {
            if stop() {
                return;
            }
            let size = usize::try_from(self.source.body_len(id)).unwrap_or(usize::MAX);
            if size > LARGE || self.cache.get(id).is_some() {
                continue;
            }
            let Some(answer) = self.source.answer(id) else {
                continue;
            };
            if !self.cache.offer(id, &Arc::new(answer)) {
                return;
            }
        }
    }

    /// Whether a request asks for a tunnel and gets one: CONNECT, unless it was recorded how it was
    /// refused.
    pub(crate) fn opens_tunnel(&self, call: &Call<'_>) -> bool {
        call.method == b"CONNECT" && !self.index.holds(call)
    }

    /// The answer for an exchange that cannot be read.
    fn unreadable(&self, method: &[u8], id: u32) -> Reply {
        self.counters.unreadable.fetch_add(1, Ordering::Relaxed);
        let why = format!("exchange {id} cannot be read from the archive: run `tapedeck verify`");
        Self::problem(method, StatusCode::INTERNAL_SERVER_ERROR, &why)
    }

    /// An answer of the mock's own, in JSON.
    pub(crate) fn problem(method: &[u8], status: StatusCode, why: &str) -> Reply {
        let mut body = serde_json::json!({ "error": why }).to_string().into_bytes();
        body.push(b'\n');
        Reply::of(Arc::new(Answer::not_recorded(
            method,
            status,
            b"application/json",
            &body,
        )))
    }

    /// The factor of recorded times; `None`: answers are sent at once.
    pub(crate) const fn latency(&self) -> Option<f64> {
        self.latency
    }

    /// What goes wrong on purpose.
    pub(crate) const fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Other chaos from now on, or none.
    pub(crate) fn set_chaos(&self, chaos: Option<Chaos>) -> Result<(), ReadError> {
        let plan = chaos.map(|chaos| self.source.plan(chaos)).transpose()?;
        self.faults.switch(plan);
        Ok(())
    }

    /// How TLS is spoken; `None`: not at all.
    pub(crate) const fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// Notes why a client and the mock did not agree. The reasons are few: alerts, mostly.
    pub(crate) fn tls_failed(&self, error: &io::Error) {
        let mut failures = lock(&self.tls_failures);
        let reason = error.to_string();
        if failures.len() < MAX_REASONS || failures.contains_key(&reason) {
            *failures.entry(reason).or_default() += 1;
        } else {
            *failures.entry("other reasons".to_owned()).or_default() += 1;
        }
    }

    pub(crate) const fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// A share of the memory for request bodies, of nothing yet.
    pub(crate) fn share(&self) -> Share {
        Share::of(self.request_memory.clone())
    }

    pub(crate) fn stats(&self) -> Stats {
        let hits_by_exchange: Vec<_> = (0..)
            .zip(&self.hits)
            .map(|(id, hits)| (id, hits.load(Ordering::Relaxed)))
            .filter(|(_, hits)| *hits > 0)
            .collect();
        let log = self.misses();
        let Counters {
            callers: _,
            connections,
            connections_refused,
            refused,
            timeouts,
            overloads,
            unreadable,
            tls_without_authority,
            passed,
            upstream_failures,
        } = &self.counters;
        let written = |book| {
            self.journal
                .as_ref()
                .and_then(|journal| journal.written(book))
        };
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            connections: of(connections),
            connections_refused: of(connections_refused),
            hits: hits_by_exchange.iter().map(|(_, hits)| hits).sum(),
            hits_by_exchange,
            misses: log.total(),
            missed: log.list(),
            remedies: log.remedies(),
            passed: of(passed),
            upstream_failures: of(upstream_failures),
            refused: of(refused),
            timeouts: of(timeouts),
            overloads: of(overloads),
            unreadable: of(unreadable),
            tls_without_authority: of(tls_without_authority),
            tls_failures: lock(&self.tls_failures).clone(),
            faults: self.faults.counts(),
            skipped: self.skipped,
            cache_bytes: self.cache.bytes(),
            received: written(Book::Received),
            recorded: written(Book::Recorded),
        }
    }

    /// How many exchanges are served.
    pub(crate) const fn served(&self) -> usize {
        self.index.len()
    }

    /// How often the exchanges answered, from this one on, in recorded order, until `more` says that
    /// it is enough. Gives the first one that is left, if there is any. `uncalled`: those only that never did.
    pub(crate) fn each_hit(
        &self,
        from: u32,
        uncalled: bool,
        mut more: impl FnMut(Hits) -> bool,
    ) -> Option<u32> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut wanted = true;
        for id in self.index.ids().filter(|id| *id >= from) {
            let hits = self.hits.get(id as usize);
            let hits = hits.map_or(0, |hits| hits.load(Ordering::Relaxed));
            if uncalled && hits > 0 {
                continue;
            }
            if !wanted {
                return Some(id);
            }
            self.source.with_line(id, &mut |call| {
                let (method, target) = (text(call.method), text(call.target));
                wanted = more(Hits {
                    id,
                    method,
                    target,
                    hits,
                });
            });
        }
        None
    }

    /// Begins anew: repeated requests with their first recorded answer, hits, misses and faults with
    /// none.
    pub(crate) fn reset(&self) {
        self.index.reset();
        for hits in &self.hits {
            hits.store(0, Ordering::Relaxed);
        }
        self.faults.reset();
        *self.misses() = MissLog::default();
    }

    fn miss(&self, call: &Call<'_>, reason: String) -> Reply {
        // A client that asks again in vain costs no second search.
        let identity = self.index.identity(call);
        let as_text = wants_text(call);
        let known = self.misses().again(identity, &reason, call.method, as_text);
        if let Some(answer) = known {
            return Reply::of(answer);
        }
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (near, rule) = nearest(call, &self.index, self.source.as_ref());
        let miss = Miss {
            method: text(call.method),
            authority: call.split().authority.map(text),
            target: text(call.target),
            count: 1,
            reason,
            nearest: near,
            rule,
        };
        let max = self.limits.misses_listed;
        let mut log = self.misses();
        Reply::of(log.note(identity, miss, call.method, as_text, max))
    }

    fn misses(&self) -> MutexGuard<'_, MissLog> {
        lock(&self.misses)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a request has no answer that was recorded, and answered so often.
fn used_up(recorded: u32) -> String {
    format!("this request was recorded {recorded} times, and all its answers were given")
}

/// How long after the end of a request something is due that was recorded at `recorded`.
pub(crate) fn scaled(recorded: Duration, factor: f64) -> Duration {
    Duration::try_from_secs_f64(recorded.as_secs_f64() * factor).unwrap_or(Duration::MAX)
}

/// Why a request has no answer.
pub(crate) const NOTHING_MATCHES: &str = "no recorded request matches this one";
/// Distinct reasons of failed handshakes that are told apart.
const MAX_REASONS: usize = 32;
/// Answers above this are not cached, and count against [`Limits::answer_memory`].
const LARGE: usize = 256 << 10;
