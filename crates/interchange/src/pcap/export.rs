use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};
use std::io::{self, Write};
use std::time::Duration;

use tapedeck_archive::{Archive, BodyBuffer, Record, Row, Scratch};
use tapedeck_model::{
    Connection, ConnectionId, Direction, Endpoint, FlowKey, Missing, Origin, Protocol, Role, Scope,
    Timestamp, Workloads,
};

use super::file::{CaptureFile, Format};
use super::message::{Scene, StepError, loss};
use super::speaker::{Part, Speaker};
use super::talk::Talk;
use super::wire::Output;

/// What [`export`] wrote.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Exported {
    /// Exchanges written.
    pub exchanges: u64,
    /// Packets written.
    pub packets: u64,
    /// Exchanges that are not there, or not all of them, because they lie in a damaged part of the
    /// archive.
    pub unreadable: u64,
    /// Bytes that are not there because no conversation could have had them: bodies longer than
    /// their heads say, gaps longer than a TCP connection can tell.
    pub misfits: u64,
    /// Packets whose time the format cannot say, and that were moved to the nearest that it can.
    pub times_moved: u64,
}

/// Why an export stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The output could not be written.
    #[error("failed to write the capture: {0}")]
    Write(#[from] io::Error),
}

/// Writes the exchanges of `rows` as a capture file, in the order of time.
///
/// Memory does not grow with the archive but for some 40 bytes an exchange and as many a
/// connection, for the order, and 200 for each exchange under way at a time.
///
/// # Errors
///
/// When the output cannot be written. Damaged parts of the archive are no error: they are counted.
pub fn export<'a>(
    archive: &'a Archive,
    rows: impl Iterator<Item = Row<'a>>,
    format: Format,
    program: &str,
    out: impl Write,
) -> Result<Exported, ExportError> {
    let mut export = Export {
        archive,
        file: CaptureFile::begin(out, format, program)?,
        frame: Vec::new(),
        scratches: (0..N_SCRATCHES).map(|_| Scratch::new()).collect(),
        buffer: BodyBuffer::default(),
        openings: BTreeMap::new(),
        talks: HashMap::new(),
        lanes: Lanes::default(),
        active: Vec::new(),
        free: Vec::new(),
        queue: BinaryHeap::new(),
        now: Timestamp::from_nanos(i64::MIN),
        exported: Exported::default(),
    };
    let starts = export.plan(rows);
    export.run(&starts)?;
    let Export {
        file, mut exported, ..
    } = export;
    exported.packets = file.packets;
    exported.times_moved = file.times_moved;
    file.finish()?;
    Ok(exported)
}

/// Blocks held at a time: those of exchanges that are under way together lie close to each other.
const N_SCRATCHES: usize = 4;

/// So many exchanges in a row look for their block at the same place.
const SCRATCH_STRIDE: u64 = 64;

struct Export<'a, W> {
    archive: &'a Archive,
    file: CaptureFile<W>,
    frame: Vec<u8>,
    scratches: Vec<Scratch>,
    buffer: BodyBuffer,
    openings: BTreeMap<u64, Opening>,
    talks: HashMap<u64, Talk>,
    lanes: Lanes,
    active: Vec<Option<Active>>,
    free: Vec<usize>,
    queue: BinaryHeap<Reverse<Due>>,
    now: Timestamp,
    exported: Exported,
}

/// What is to begin. Connections come before their exchanges.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Start {
    at: Timestamp,
    connection: u64,
    /// The exchange with its stream; `None`: the connection.
    exchange: Option<(u64, u64)>,
}

/// Which connections lie within a tunnel that is written as well, as the bytes that it carries. What
/// was read within TLS is written all the same: there it would not be told.
#[derive(Debug, Default)]
struct Carriers {
    /// The ends of the connections with a tunnel, by the lower half of their ids.
    tunnels: HashMap<u32, Vec<(u64, Ends)>>,
    /// The ends of those that may lie within one.
    within: HashMap<u64, Ends>,
}

/// Client and server, and whether there is TLS around.
type Ends = (Endpoint, Endpoint, bool);

impl Carriers {
    fn note(&mut self, row: &Row<'_>) {
        let id = row.connection().0;
        let ends = (row.client(), row.server(), row.tls().is_some());
        if row.tunnel() && row.method() == Some(b"CONNECT") {
            self.tunnels.entry(id as u32).or_default().push((id, ends));
        }
        if id > u64::from(u32::MAX) {
            self.within.insert(id, ends);
        }
    }

    /// Whether the engine numbers a connection so because it lies within one of the tunnels.
    fn carry(&self, id: u64) -> bool {
        self.within.get(&id).is_some_and(|ends| {
            let around = self.tunnels.get(&(id as u32)).into_iter().flatten();
            around
                .into_iter()
                .any(|(of, outer)| *of < id && outer == ends)
        })
    }
}

/// A connection that is to begin.
#[derive(Clone, Copy, Debug)]
struct Opening {
    at: Timestamp,
    /// An exchange of it.
    id: u64,
    exchanges: u32,
}

/// The next step of a message. Of equal times, a response goes before the request that follows it.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Due {
    at: Timestamp,
    connection: u64,
    stream: u64,
    role: Role,
    slot: usize,
}

/// An exchange under way.
#[derive(Clone, Copy, Debug)]
struct Active {
    id: u64,
    stream: u64,
    request: Speaker,
    response: Speaker,
    /// Messages that are not over.
    open: u8,
    in_turn: bool,
    reset: bool,
    unreadable: bool,
}

impl<W: Write> Export<'_, W> {
    /// The order in which things begin.
    fn plan<'r>(&mut self, rows: impl Iterator<Item = Row<'r>>) -> Vec<Start> {
        let mut starts = Vec::new();
        let mut carriers = Carriers::default();
        for row in rows {
            let (id, at, connection) = (row.id(), row.time(), row.connection().0);
            carriers.note(&row);
            starts.push(Start {
                at,
                connection,
                exchange: Some((row.stream(), id)),
            });
            let opening = self.openings.entry(connection).or_insert_with(|| {
                let opened = load(self.archive, id, &mut self.scratches)
                    .map(|record| record.connection().opened);
                Opening {
                    at: opened.unwrap_or(at),
                    id,
                    exchanges: 0,
                }
            });
            opening.at = opening.at.min(at);
            opening.exchanges = opening.exchanges.saturating_add(1);
        }
        starts.retain(|start: &Start| !carriers.carry(start.connection));
        self.openings
            .retain(|connection, _| !carriers.carry(*connection));
        starts.extend(self.openings.iter().map(|(connection, opening)| Start {
            at: opening.at,
            connection: *connection,
            exchange: None,
        }));
        starts.sort_unstable();
        starts
    }

    fn run(&mut self, starts: &[Start]) -> Result<(), ExportError> {
        let mut starts = starts.iter().copied().peekable();
        loop {
            let due = self.queue.peek().map(|Reverse(due)| due.at);
            let start = starts.next_if(|start| due.is_none_or(|due| start.at <= due));
            if let Some(start) = start {
                self.now = self.now.max(start.at);
                match start.exchange {
                    None => self.open(start.connection)?,
                    Some((stream, id)) => self.begin(start.connection, stream, id)?,
                }
            } else if let Some(Reverse(due)) = self.queue.pop() {
                self.now = self.now.max(due.at);
                self.step(due)?;
            } else {
                return Ok(());
            }
        }
    }

    fn open(&mut self, id: u64) -> Result<(), ExportError> {
        let Some(opening) = self.openings.remove(&id) else {
            return Ok(());
        };
        let loaded = load(self.archive, opening.id, &mut self.scratches);
        let connection = match loaded.map(|record| record.connection()) {
            Some(connection) => connection,
            None => match self.archive.row(opening.id) {
                Some(row) => unread(&row),
                None => return Ok(()),
            },
        };
        let lane = self.lanes.take(&connection);
        let mut talk = Talk::new(&connection, lane, opening.exchanges);
        let mut out = Output {
            file: &mut self.file,
            frame: &mut self.frame,
            at: self.now,
        };
        talk.open(&mut out)?;
        self.talks.insert(id, talk);
        Ok(())
    }

    fn begin(&mut self, connection: u64, stream: u64, id: u64) -> Result<(), ExportError> {
        let Some(record) = load(self.archive, id, &mut self.scratches) else {
            self.exported.unreadable += 1;
            return self.over(connection);
        };
        let asked = record.request();
        let asks = asked.map_or_else(|| record.time(), |request| request.first_byte());
        let first = record.interim().next();
        let answers = match (first.as_ref(), record.response()) {
            (Some(interim), _) => interim.at,
            (None, Some(response)) => response.first_byte(),
            (None, None) => {
                // One that was lost came behind whatever was asked at the same instant.
                let later = u64::from(loss(record.response_absent()).is_some());
                asked
                    .map_or(asks, |request| request.last_byte())
                    .saturating_add(Duration::from_nanos(later))
            }
        };
        let in_turn = record.protocol() != Protocol::Http2;
        let active = Active {
            id,
            stream,
            request: Speaker::new(Part::Head),
            response: Speaker::new(first.map_or(Part::Head, |_| Part::Interim(0))),
            open: 2,
            in_turn,
            reset: false,
            unreadable: false,
        };
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.active.push(None);
                self.active.len() - 1
            }
        };
        if let Some(place) = self.active.get_mut(slot) {
            *place = Some(active);
        }
        if in_turn && let Some(talk) = self.talks.get_mut(&connection) {
            for direction in Direction::BOTH {
                talk.turns[direction].push_back(slot);
            }
        }
        for (role, at) in [(Role::Request, asks), (Role::Response, answers.max(asks))] {
            self.queue.push(Reverse(Due {
                at,
                connection,
                stream,
                role,
                slot,
            }));
        }
        Ok(())
    }

    fn step(&mut self, due: Due) -> Result<(), ExportError> {
        let Some(Some(active)) = self.active.get_mut(due.slot) else {
            return Ok(());
        };
        let Some(talk) = self.talks.get_mut(&due.connection) else {
            return Ok(());
        };
        let speaker = match due.role {
            Role::Request => &mut active.request,
            Role::Response => &mut active.response,
        };
        if active.in_turn && talk.turns[way(due.role)].front() != Some(&due.slot) {
            speaker.parked = true;
            return Ok(());
        }
        let next = match load(self.archive, active.id, &mut self.scratches) {
            Some(record) => {
                let mut scene = Scene {
                    archive: self.archive,
                    id: active.id,
                    record: &record,
                    role: due.role,
                    talk,
                    out: Output {
                        file: &mut self.file,
                        frame: &mut self.frame,
                        at: self.now,
                    },
                    buffer: &mut self.buffer,
                    reset: &mut active.reset,
                    misfits: &mut self.exported.misfits,
                };
                match scene.step(speaker) {
                    Ok(None) => {
                        talk.ended(missing(&record, due.role), way(due.role));
                        None
                    }
                    Ok(next) => next,
                    Err(StepError::Write(error)) => return Err(error.into()),
                    Err(StepError::Read) => {
                        active.unreadable = true;
                        None
                    }
                }
            }
            None => {
                active.unreadable = true;
                None
            }
        };
        match next {
            Some(at) => {
                let at = at.max(self.now);
                self.queue.push(Reverse(Due { at, ..due }));
                Ok(())
            }
            None => self.message_over(due),
        }
    }

    /// A message is over: whoever waited for its turn has it now.
    fn message_over(&mut self, due: Due) -> Result<(), ExportError> {
        let Some(place) = self.active.get_mut(due.slot) else {
            return Ok(());
        };
        let Some(active) = place else {
            return Ok(());
        };
        active.open = active.open.saturating_sub(1);
        let (open, in_turn, unreadable) = (active.open, active.in_turn, active.unreadable);
        if open == 0 {
            *place = None;
            self.free.push(due.slot);
        }
        if in_turn {
            self.next_turn(due);
        }
        if open > 0 {
            return Ok(());
        }
        if unreadable {
            self.exported.unreadable += 1;
        } else {
            self.exported.exchanges += 1;
        }
        self.over(due.connection)
    }

    fn next_turn(&mut self, due: Due) {
        let Some(talk) = self.talks.get_mut(&due.connection) else {
            return;
        };
        let turns = &mut talk.turns[way(due.role)];
        turns.pop_front();
        let Some(slot) = turns.front().copied() else {
            return;
        };
        let Some(Some(next)) = self.active.get_mut(slot) else {
            return;
        };
        let speaker = match due.role {
            Role::Request => &mut next.request,
            Role::Response => &mut next.response,
        };
        if std::mem::take(&mut speaker.parked) {
            self.queue.push(Reverse(Due {
                at: self.now,
                stream: next.stream,
                slot,
                ..due
            }));
        }
    }

    /// An exchange of that connection is over.
    fn over(&mut self, connection: u64) -> Result<(), ExportError> {
        let Some(talk) = self.talks.get_mut(&connection) else {
            return Ok(());
        };
        talk.remaining = talk.remaining.saturating_sub(1);
        if talk.remaining > 0 {
            return Ok(());
        }
        let mut out = Output {
            file: &mut self.file,
            frame: &mut self.frame,
            at: self.now,
        };
        talk.close(&mut out)?;
        self.lanes.give_back(talk.flow, talk.lane);
        self.talks.remove(&connection);
        Ok(())
    }
}

fn way(role: Role) -> Direction {
    match role {
        Role::Request => Direction::ToServer,
        Role::Response => Direction::ToClient,
    }
}

fn missing(record: &Record<'_>, role: Role) -> Missing {
    let (message, absent) = match role {
        Role::Request => (record.request(), record.request_absent()),
        Role::Response => (record.response(), record.response_absent()),
    };
    match message {
        // A stream that was reset says nothing about its connection.
        Some(message) if message.reset_code().is_some() => Missing::NONE,
        Some(message) => message.missing(),
        None => absent,
    }
}

fn load<'s>(archive: &Archive, id: u64, scratches: &'s mut [Scratch]) -> Option<Record<'s>> {
    let place = (id / SCRATCH_STRIDE) as usize % scratches.len().max(1);
    archive.load(id, scratches.get_mut(place)?).ok()
}

/// What is known of a connection whose records are damaged.
fn unread(row: &Row<'_>) -> Connection {
    Connection {
        id: ConnectionId(row.connection().0),
        client: row.client(),
        server: row.server(),
        scope: Scope::default(),
        origin: Origin::Handshake,
        opened: row.time(),
        tls: None,
        workloads: Workloads::default(),
    }
}

/// Keeps flows apart whose endpoints are the same: those of different networks, and those of
/// different captures in one archive.
#[derive(Debug, Default)]
struct Lanes {
    taken: HashSet<(FlowKey, u32)>,
    /// The first lane of each network.
    networks: HashMap<Scope, u32>,
}

impl Lanes {
    fn take(&mut self, connection: &Connection) -> u32 {
        let n_networks = self.networks.len() as u32 + 1;
        let first = match connection.scope {
            Scope(0) => 0,
            scope => *self.networks.entry(scope).or_insert(n_networks),
        };
        let flow = FlowKey::new(connection.client, connection.server, Scope::default());
        let mut lane = first;
        while !self.taken.insert((flow, lane)) {
            lane = lane.wrapping_add(1);
        }
        lane
    }

    fn give_back(&mut self, flow: FlowKey, lane: u32) {
        self.taken.remove(&(flow, lane));
    }
}
