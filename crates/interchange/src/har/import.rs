use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::io::{self, BufReader, Read};
use std::rc::Rc;
use std::sync::Arc;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use tapedeck_model::{
    BodyPart, Connection, ConnectionId, Exchange, Ledger, Missing, Origin, Role, Scope, Workloads,
};

use super::entry::{self, Entry};

/// What an import holds at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of one entry. It has to be read whole, bodies included; browsers stop far below.
    pub entry: u64,
    /// A body leaves for the archive in parts of this size.
    pub part: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entry: 256 << 20,
            part: 1 << 20,
        }
    }
}

/// What comes out of a HAR. Parts of a body come before their exchange.
#[derive(Debug)]
pub enum Item<'a> {
    /// A piece of a long body.
    Part(&'a BodyPart),
    /// An exchange.
    Exchange(&'a Exchange),
}

/// What an import came to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Imported {
    /// Entries that became exchanges.
    pub exchanges: u64,
    /// Entries that could not: without a method, an URL or a time.
    pub unusable: u64,
    /// Where the first of them is, and what is wrong with it.
    pub first_unusable: Option<String>,
    /// Messages whose body the file only gives the length of.
    pub without_body: u64,
    /// Exchanges over HTTP/3, which are kept as HTTP/2.
    pub http3: u64,
}

/// Why an import stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The file could not be read.
    #[error("failed to read")]
    Read(#[source] io::Error),
    /// It is no JSON, or ends too early. The text says line and column.
    #[error("{}it is not valid JSON: {cause}", place(*entry))]
    Json {
        /// The entry in which it was found.
        entry: Option<u64>,
        /// What the parser said. Its place is in our text, so that it is no source that is told, too.
        cause: serde_json::Error,
    },
    /// It is JSON of another kind.
    #[error("it is JSON, but no HAR: it has no log.entries")]
    NotHar,
    /// An entry exceeds the limit.
    #[error("log.entries[{entry}] is longer than {limit} bytes")]
    TooLong {
        /// Its number.
        entry: u64,
        /// The limit, in bytes.
        limit: u64,
    },
}

fn place(entry: Option<u64>) -> String {
    entry.map_or_else(String::new, |entry| format!("log.entries[{entry}]: "))
}

/// Reads HAR files, one after the other, into one archive.
///
/// What HAR cannot say is put together so that it says the same: heads from their fields, the
/// framing of a body from its length. Bodies come as HAR has them, with their content coding undone,
/// and so without the field that names it. Memory: one entry, and some 100 bytes a connection.
#[derive(Debug, Default)]
pub struct Importer {
    limits: Limits,
    connections: HashMap<ConnectionName, Known>,
    next_connection: u64,
    next_key: u64,
    ledger: Ledger,
    imported: Imported,
}

/// What tells connections apart: HAR's own id of one, and the two ends.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct ConnectionName {
    name: String,
    ends: [tapedeck_model::Endpoint; 2],
}

#[derive(Debug)]
struct Known {
    connection: Arc<Connection>,
    next_stream: u64,
}

impl Importer {
    /// An importer with these limits.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Reads one file.
    ///
    /// # Errors
    ///
    /// When it is no HAR, or no longer one from some place on: what came before it was taken.
    /// Entries that say too little are no error: they are counted.
    pub fn read(
        &mut self,
        input: impl Read,
        sink: &mut impl FnMut(Item<'_>),
    ) -> Result<(), ImportError> {
        let budget = Rc::new(Budget {
            left: Cell::new(self.limits.entry),
            exceeded: Cell::new(false),
        });
        let metered = Metered {
            input,
            budget: Rc::clone(&budget),
        };
        let mut json = serde_json::Deserializer::from_reader(BufReader::new(metered));
        let mut at = None;
        let file = File {
            importer: self,
            sink,
            budget: &budget,
            at: &mut at,
            part: Part::Root,
        };
        let limit = file.importer.limits.entry;
        let read = file.deserialize(&mut json).and_then(|found| {
            json.end()?;
            Ok(found)
        });
        match read {
            Ok(true) => Ok(()),
            Ok(false) => Err(ImportError::NotHar),
            Err(_) if budget.exceeded.get() => Err(ImportError::TooLong {
                entry: at.unwrap_or(0),
                limit,
            }),
            Err(source) if source.is_io() => Err(ImportError::Read(source.into())),
            Err(cause) => Err(ImportError::Json { entry: at, cause }),
        }
    }

    /// The ledger of everything that was read, and what it came to.
    #[must_use]
    pub fn finish(self) -> (Ledger, Imported) {
        (self.ledger, self.imported)
    }

    fn entry(&mut self, number: u64, value: &Value, sink: &mut impl FnMut(Item<'_>)) {
        match entry::read(value) {
            Ok(entry) => self.exchange(entry, sink),
            Err(wrong) => {
                self.imported.unusable += 1;
                self.imported
                    .first_unusable
                    .get_or_insert_with(|| format!("log.entries[{number}]{wrong}"));
            }
        }
    }

    fn exchange(&mut self, entry: Entry, sink: &mut impl FnMut(Item<'_>)) {
        let Entry {
            mut exchange,
            connection: name,
            stream,
            cut_bodies,
            http3,
        } = entry;
        let ends = [exchange.connection.client, exchange.connection.server];
        let is_http2 = exchange.protocol == tapedeck_model::Protocol::Http2;
        // Without a name, each exchange is a connection of its own.
        let name = name.unwrap_or_else(|| format!("\0{}", self.next_key));
        let known = self
            .connections
            .entry(ConnectionName { name, ends })
            .or_insert_with(|| {
                let id = self.next_connection;
                self.next_connection += 1;
                self.ledger.connections += 1;
                Known {
                    connection: Arc::new(Connection {
                        id: ConnectionId(id),
                        ..Connection::clone(&exchange.connection)
                    }),
                    next_stream: u64::from(is_http2),
                }
            });
        exchange.connection = Arc::clone(&known.connection);
        exchange.stream = stream.unwrap_or(known.next_stream);
        known.next_stream = exchange.stream.saturating_add(if is_http2 { 2 } else { 1 });
        exchange.key = self.next_key;
        self.next_key += 1;
        for (role, message) in [
            (Role::Request, &mut exchange.request),
            (Role::Response, &mut exchange.response),
        ] {
            let Some(message) = message else { continue };
            let body = &mut message.body;
            while body.tail.len() > self.limits.part {
                let rest = body.tail.split_off(self.limits.part);
                let data = std::mem::replace(&mut body.tail, rest);
                body.parts += 1;
                sink(Item::Part(&BodyPart {
                    key: exchange.key,
                    role,
                    data,
                }));
            }
        }
        self.imported.exchanges += 1;
        self.imported.without_body += u64::from(cut_bodies);
        self.imported.http3 += u64::from(http3);
        self.ledger.exchanges += 1;
        self.ledger.exchanges_incomplete += u64::from(!exchange.complete());
        self.ledger.exchanges_without_response += u64::from(exchange.response.is_none());
        sink(Item::Exchange(&exchange));
    }
}

/// Bytes that an entry may still take.
#[derive(Debug)]
struct Budget {
    left: Cell<u64>,
    exceeded: Cell<bool>,
}

/// A reader that stops at the limit for one entry.
struct Metered<R> {
    input: R,
    budget: Rc<Budget>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buffer)?;
        match self.budget.left.get().checked_sub(n as u64) {
            Some(left) => self.budget.left.set(left),
            None => {
                self.budget.exceeded.set(true);
                return Err(io::Error::other("an entry is too long"));
            }
        }
        Ok(n)
    }
}

/// Walks through the document down to the entries, of which it holds one at a time.
struct File<'f, S> {
    importer: &'f mut Importer,
    sink: &'f mut S,
    budget: &'f Budget,
    /// The entry that is being read.
    at: &'f mut Option<u64>,
    part: Part,
}

#[derive(Clone, Copy, Debug)]
enum Part {
    Root,
    Log,
    Entries,
}

/// Gives whether there were entries, be it none.
impl<'de, S: FnMut(Item<'_>)> DeserializeSeed<'de> for File<'_, S> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<bool, D::Error> {
        match self.part {
            Part::Root | Part::Log => json.deserialize_map(self),
            Part::Entries => json.deserialize_seq(self),
        }
    }
}

impl<'de, S: FnMut(Item<'_>)> Visitor<'de> for File<'_, S> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.part {
            Part::Root => "the object of a HAR",
            Part::Log => "the object `log`",
            Part::Entries => "the array `log.entries`",
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        let (wanted, inner) = match self.part {
            Part::Root => ("log", Part::Log),
            Part::Log | Part::Entries => ("entries", Part::Entries),
        };
        let mut found = false;
        while let Some(key) = map.next_key::<String>()? {
            if key == wanted {
                found |= map.next_value_seed(File {
                    importer: &mut *self.importer,
                    sink: &mut *self.sink,
                    budget: self.budget,
                    at: &mut *self.at,
                    part: inner,
                })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<bool, A::Error> {
        let mut number = 0;
        *self.at = Some(0);
        self.budget.left.set(self.importer.limits.entry);
        while let Some(value) = entries.next_element::<Value>()? {
            self.importer.entry(number, &value, self.sink);
            number += 1;
            *self.at = Some(number);
            self.budget.left.set(self.importer.limits.entry);
        }
        *self.at = None;
        Ok(true)
    }
}

/// The connection of an entry, before it is known which one it is.
pub(super) fn unnamed(
    client: tapedeck_model::Endpoint,
    server: tapedeck_model::Endpoint,
    opened: tapedeck_model::Timestamp,
) -> Arc<Connection> {
    Arc::new(Connection {
        id: ConnectionId(0),
        client,
        server,
        scope: Scope::default(),
        origin: Origin::Handshake,
        opened,
        tls: None,
        workloads: Workloads::default(),
    })
}

/// The causes of that names.
pub(super) fn causes<'n>(names: impl Iterator<Item = &'n str>) -> Missing {
    let mut causes = Missing::NONE;
    for name in names {
        for (cause, known) in Missing::ALL {
            if *known == name {
                causes.insert(*cause);
            }
        }
    }
    causes
}
