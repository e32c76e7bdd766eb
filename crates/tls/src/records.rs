//! Records cut out of a byte stream that may have gaps (RFC 8446 section 5.1).

/// The header of a record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Header {
    pub(crate) bytes: [u8; 5],
}

pub(crate) mod kind {
    pub(crate) const CHANGE_CIPHER_SPEC: u8 = 20;
    pub(crate) const ALERT: u8 = 21;
    pub(crate) const HANDSHAKE: u8 = 22;
    pub(crate) const APPLICATION_DATA: u8 = 23;
}

impl Header {
    pub(crate) const LEN: usize = 5;
    /// RFC 8446 section 5.1.
    pub(crate) const MAX_CONTENT: u64 = 16 << 10;
    /// 2^14 bytes, and what TLS 1.2 lets a cipher add (RFC 5246 section 6.2.3).
    const MAX_PAYLOAD: usize = (16 << 10) + 2048;

    pub(crate) const fn kind(self) -> u8 {
        let [kind, ..] = self.bytes;
        kind
    }

    /// The length of the record, header included.
    pub(crate) const fn record_len(self) -> usize {
        let [_, _, _, high, low] = self.bytes;
        Self::LEN + u16::from_be_bytes([high, low]) as usize
    }

    /// The header that bytes begin with, if they do: of TLS 1.0 to 1.3 behind the first flight.
    pub(crate) fn midstream(bytes: &[u8]) -> Option<Self> {
        let header = Self {
            bytes: *bytes.first_chunk()?,
        };
        let [_, _, minor, ..] = header.bytes;
        (header.is_plausible() && (1..=3).contains(&minor)).then_some(header)
    }

    fn is_plausible(self) -> bool {
        let [kind, major, minor, ..] = self.bytes;
        (kind::CHANGE_CIPHER_SPEC..=kind::APPLICATION_DATA).contains(&kind)
            && major == 3
            && minor <= 4
            && (Self::LEN + 1..=Self::LEN + Self::MAX_PAYLOAD).contains(&self.record_len())
    }
}

/// The least that a record with something in it takes: header, one byte, tag.
const SMALLEST: u64 = 22;

/// Where in the stream the next byte lies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    /// At a header, or in the record that `partial` begins with.
    Aligned,
    /// In a record that lost bytes; so many of its bytes are still to come.
    Inside(u64),
    /// Anywhere.
    Lost,
}

/// Cuts records out of one direction.
#[derive(Debug)]
pub(crate) struct Framing {
    partial: Vec<u8>,
    place: Place,
    /// Bytes taken, and lost in known numbers.
    taken: u64,
}

/// A record, whole.
#[derive(Debug)]
pub(crate) enum Record<'a> {
    /// It lay in the input.
    Borrowed(&'a [u8]),
    /// It was put together.
    Owned(Vec<u8>),
}

impl Record<'_> {
    /// The header and the payload.
    pub(crate) fn split(&self) -> Option<(Header, &[u8])> {
        let (bytes, payload) = self.bytes().split_first_chunk()?;
        Some((Header { bytes: *bytes }, payload))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

/// What a stream goes on with.
#[derive(Debug)]
pub(crate) enum Next<'a> {
    Record(Record<'a>),
    NeedMore,
    /// Not a record.
    Malformed,
}

impl Framing {
    pub(crate) const fn new() -> Self {
        Self {
            partial: Vec::new(),
            place: Place::Aligned,
            taken: 0,
        }
    }

    /// Where in the stream the record ends that was cut out last.
    pub(crate) const fn position(&self) -> u64 {
        self.taken.saturating_sub(self.partial.len() as u64)
    }

    pub(crate) const fn memory(&self) -> usize {
        self.partial.capacity()
    }

    /// Whether the next record is a guess, which only its opening can prove.
    pub(crate) fn is_guess(&self) -> bool {
        self.place == Place::Lost
    }

    /// The guess was right.
    pub(crate) const fn accept(&mut self) {
        self.place = Place::Aligned;
    }

    /// The guess was wrong: looks on behind its first byte.
    pub(crate) fn reject(&mut self, record: &Record<'_>) {
        let behind = record.bytes().get(1..).unwrap_or_default();
        self.partial.splice(..0, behind.iter().copied());
    }

    /// The record cannot be read yet: it will be the next again.
    pub(crate) fn unread(&mut self, record: &Record<'_>) {
        self.partial.splice(..0, record.bytes().iter().copied());
    }

    /// The next record. Takes from `data` what it needs.
    pub(crate) fn next<'a>(&mut self, data: &mut &'a [u8]) -> Next<'a> {
        let before = data.len();
        let next = self.cut_next(data);
        self.taken = self.taken.saturating_add((before - data.len()) as u64);
        next
    }

    fn cut_next<'a>(&mut self, data: &mut &'a [u8]) -> Next<'a> {
        if let Place::Inside(open) = self.place {
            let skip = usize::try_from(open).map_or(data.len(), |open| open.min(data.len()));
            *data = data.get(skip..).unwrap_or_default();
            self.place = match open - skip as u64 {
                0 => Place::Aligned,
                open => Place::Inside(open),
            };
        }
        if self.place == Place::Lost {
            return self.scan(data);
        }
        if self.partial.is_empty()
            && let Some(bytes) = data.first_chunk()
        {
            let header = Header { bytes: *bytes };
            if !header.is_plausible() {
                return Next::Malformed;
            }
            if let Some((record, rest)) = data.split_at_checked(header.record_len()) {
                *data = rest;
                return Next::Record(Record::Borrowed(record));
            }
        }
        let Some(header) = self.fill(data, Header::LEN) else {
            return Next::NeedMore;
        };
        if !header.is_plausible() {
            return Next::Malformed;
        }
        if self.fill(data, header.record_len()).is_none() {
            return Next::NeedMore;
        }
        Next::Record(self.cut(header))
    }

    /// Puts bytes into `partial` until it has `len`, and gives the header when it does.
    fn fill(&mut self, data: &mut &[u8], len: usize) -> Option<Header> {
        let wanted = len.saturating_sub(self.partial.len()).min(data.len());
        let (taken, rest) = data.split_at_checked(wanted)?;
        self.partial.extend_from_slice(taken);
        *data = rest;
        if self.partial.len() < len {
            return None;
        }
        self.partial
            .first_chunk()
            .map(|bytes| Header { bytes: *bytes })
    }

    fn cut(&mut self, header: Header) -> Record<'static> {
        let rest = self.partial.split_off(header.record_len());
        Record::Owned(std::mem::replace(&mut self.partial, rest))
    }

    /// Looks for what could be a header.
    fn scan(&mut self, data: &mut &[u8]) -> Next<'static> {
        self.partial.extend_from_slice(data);
        *data = &[];
        let found = self
            .partial
            .windows(Header::LEN)
            .filter_map(|window| window.first_chunk())
            .position(|bytes| Header { bytes: *bytes }.is_plausible());
        // The last bytes may be the beginning of a header.
        let end = self.partial.len().saturating_sub(Header::LEN - 1);
        self.partial.drain(..found.unwrap_or(end));
        match self
            .partial
            .first_chunk()
            .map(|bytes| Header { bytes: *bytes })
        {
            Some(header) if found.is_some() && self.partial.len() >= header.record_len() => {
                Next::Record(self.cut(header))
            }
            Some(_) | None => Next::NeedMore,
        }
    }

    /// Bytes are missing here (zero: an unknown number). Says how many records that may have cost
    /// at most.
    pub(crate) fn gap(&mut self, len: u64) -> u64 {
        self.taken = self.taken.saturating_add(len);
        let open = match self.place {
            Place::Aligned => self.partial.first_chunk().map_or(0, |bytes| {
                let header = Header { bytes: *bytes };
                header.record_len().saturating_sub(self.partial.len()) as u64
            }),
            Place::Inside(open) => open,
            Place::Lost => 0,
        };
        let first_loss = u64::from(self.place == Place::Aligned);
        if len > 0 && len <= open {
            self.partial.clear();
            self.place = if len == open {
                Place::Aligned
            } else {
                Place::Inside(open - len)
            };
            return first_loss;
        }
        let lost = len.saturating_add(self.partial.len() as u64) / SMALLEST;
        self.partial.clear();
        self.place = Place::Lost;
        if len == 0 {
            u64::MAX
        } else {
            lost.saturating_add(2)
        }
    }
}
