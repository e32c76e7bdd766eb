//! One row of a page.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use tapedeck_model::{Anomalies, ConnectionId, Endpoint, Missing, Protocol, Role, Side, Timestamp};

use super::details::{TlsView, WorkloadView};
use super::target::Target;
use super::view::{Layout, Page};
use super::{id, row_flags, v1};
use crate::block::view::protocol;

/// What the index knows of one exchange, read in place from the mapped file.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    pub(super) page: Page<'a>,
    pub(super) number: usize,
}

impl<'a> Row<'a> {
    /// The id of the exchange: they count from 0 in the order of writing.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.page.first_row + self.number as u64
    }

    /// When it began: the first byte that was seen of it.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        Timestamp::from_nanos(self.get(id::TIME).unwrap_or(0).cast_signed())
    }

    /// The connection that carried it.
    #[must_use]
    pub fn connection(&self) -> ConnectionId {
        let number = self.get(id::CONNECTION).unwrap_or(u64::MAX) as usize;
        let page = &self.page;
        let found = match page.layout {
            Layout::V1(parts) => parts
                .connection(page.bytes, number)
                .map(|connection| connection.id.get()),
            Layout::V2(_) => page.number(id::CONNECTION_ID, number),
        };
        ConnectionId(found.unwrap_or(0).wrapping_add(page.first_connection))
    }

    /// The ordinal within an HTTP/1 connection, or the stream id in HTTP/2.
    #[must_use]
    pub fn stream(&self) -> u64 {
        self.get(id::STREAM).unwrap_or(0)
    }

    /// The protocol.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        protocol(self.get(id::PROTOCOL).unwrap_or(1))
    }

    /// The side that connected.
    #[must_use]
    pub fn client(&self) -> Endpoint {
        self.endpoint_of(Side::Client)
    }

    /// The side that was connected to.
    #[must_use]
    pub fn server(&self) -> Endpoint {
        self.endpoint_of(Side::Server)
    }

    /// The method.
    #[must_use]
    pub fn method(&self) -> Option<&'a [u8]> {
        self.page.string(self.get(id::METHOD)?)
    }

    /// The scheme: that of an absolute target or `:scheme`; `http` or, within TLS, `https` for other
    /// HTTP/1 requests.
    #[must_use]
    pub fn scheme(&self) -> Option<&'a [u8]> {
        self.page.string(self.get(id::SCHEME)?)
    }

    /// The authority: that of an absolute target, `:authority`, or the Host field.
    #[must_use]
    pub fn authority(&self) -> Option<&'a [u8]> {
        self.page.string(self.get(id::AUTHORITY)?)
    }

    /// The request target as on the wire, query included. A copy, where the index keeps it in
    /// pieces; see [`Row::target_pieces`].
    #[must_use]
    pub fn target(&self) -> Option<Cow<'a, [u8]>> {
        self.target_pieces().map(Target::to_bytes)
    }

    /// The request target, in the pieces that the index keeps it in.
    #[must_use]
    pub fn target_pieces(&self) -> Option<Target<'a>> {
        self.page.target(self.get(id::TARGET)?)
    }

    /// The path of the target with what looks like an id replaced, by which requests are grouped;
    /// see [`tapedeck_model::path_template`].
    #[must_use]
    pub fn endpoint(&self) -> Option<String> {
        self.target_pieces().map(Target::endpoint)
    }

    /// What stands for the user that made the request: the first 48 bits of the XXH3-64 of what
    /// [`tapedeck_model::session_of`] names. Equal ones are one user's.
    #[must_use]
    pub fn session(&self) -> Option<u64> {
        let number = self.get(id::SESSION)?;
        self.page.number(id::SESSION_KEY, number as usize)
    }

    /// The status code of the final response.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.get(id::STATUS).map(|status| status as u16)
    }

    /// How many bytes of the request's body are stored; `None` where there is no request.
    #[must_use]
    pub fn request_body_len(&self) -> Option<u64> {
        self.get(id::REQUEST_LEN)
    }

    /// How many bytes of the response's body are stored; `None` where there is no response.
    #[must_use]
    pub fn response_body_len(&self) -> Option<u64> {
        self.get(id::RESPONSE_LEN)
    }

    /// Where the body of the message lies, where it lies in one piece that equal bodies share: the
    /// offset of a block in the file, and where in the block it begins. Bodies of equal length at
    /// one place are one body.
    #[must_use]
    pub fn body_place(&self, role: Role) -> Option<(u64, u64)> {
        let number = match role {
            Role::Request => self.get(id::REQUEST_BODY)?,
            Role::Response => self.get(id::RESPONSE_BODY)?,
        } as usize;
        let block = self.page.number(id::BODY_BLOCK, number)?;
        Some((block, self.page.number(id::BODY_START, number)?))
    }

    /// From the first byte of the request to the last of the response; `None` where one of them is
    /// not there.
    #[must_use]
    pub fn duration(&self) -> Option<Duration> {
        self.get(id::DURATION).map(Duration::from_nanos)
    }

    /// From the first byte of the request to the first of the final response.
    #[must_use]
    pub fn first_byte(&self) -> Option<Duration> {
        let nanos = match self.page.layout {
            Layout::V1(_) => self.get(v1::FIRST_BYTE)?,
            Layout::V2(_) => {
                let duration = self.get(id::DURATION)?;
                duration.wrapping_sub(self.get(id::TRANSFER)?)
            }
        };
        Some(Duration::from_nanos(nanos))
    }

    /// Why the request is not whole.
    #[must_use]
    pub fn request_missing(&self) -> Missing {
        Missing::from_bits(self.get(id::REQUEST_MISSING).unwrap_or(0) as u16)
    }

    /// Why the response is not whole.
    #[must_use]
    pub fn response_missing(&self) -> Missing {
        Missing::from_bits(self.get(id::RESPONSE_MISSING).unwrap_or(0) as u16)
    }

    /// Whether every byte of the request and of the response is there.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.flag(row_flags::COMPLETE)
    }

    /// Whether the exchange turned its connection or stream into a tunnel.
    #[must_use]
    pub fn tunnel(&self) -> bool {
        self.flag(row_flags::TUNNEL)
    }

    /// Whether the server pushed it (HTTP/2).
    #[must_use]
    pub fn pushed(&self) -> bool {
        self.flag(row_flags::PUSHED)
    }

    /// What was irregular.
    #[must_use]
    pub fn anomalies(&self) -> Anomalies {
        let number = self.get(id::ANOMALIES).unwrap_or(u64::MAX) as usize;
        let page = &self.page;
        Anomalies::from_bits(match page.layout {
            Layout::V1(parts) => parts.anomalies(page.bytes, number).unwrap_or(0),
            Layout::V2(_) => {
                let half = |column| u128::from(page.number(column, number).unwrap_or(0));
                half(id::ANOMALIES_HIGH) << 64 | half(id::ANOMALIES_LOW)
            }
        })
    }

    /// What the TLS handshake of its connection told; `None` where there was none.
    #[must_use]
    pub fn tls(&self) -> Option<TlsView<'a>> {
        let number = self.connection_number(id::TLS)? as usize;
        Some(TlsView {
            page: self.page,
            number,
        })
    }

    /// What ran at one side of its connection, where that is known.
    #[must_use]
    pub fn workload(&self, side: Side) -> Option<WorkloadView<'a>> {
        let column = match side {
            Side::Client => id::CLIENT_WORKLOAD,
            Side::Server => id::SERVER_WORKLOAD,
        };
        let number = self.connection_number(column)? as usize;
        Some(WorkloadView {
            page: self.page,
            number,
        })
    }

    /// Where the block of its record begins in the file, and the record's number there.
    pub(crate) fn place(&self) -> Option<(u64, usize)> {
        let page = &self.page;
        if let Layout::V1(parts) = page.layout {
            let block = self.get(v1::BLOCK)? as usize;
            let record = self.get(v1::RECORD)? as usize;
            return Some((parts.block(page.bytes, block)?, record));
        }
        let (block, record) = page.block_of(self.number)?;
        Some((page.number(id::BLOCK_OFFSET, block)?, record))
    }

    fn get(&self, column: usize) -> Option<u64> {
        self.page.number(column, self.number)
    }

    fn flag(&self, flag: u64) -> bool {
        self.get(id::FLAGS).is_some_and(|flags| flags & flag != 0)
    }

    /// What a column of the page's connections says of its own.
    fn connection_number(&self, column: usize) -> Option<u64> {
        self.page.number(column, self.get(id::CONNECTION)? as usize)
    }

    fn endpoint_of(&self, side: Side) -> Endpoint {
        let page = &self.page;
        let number = self.get(id::CONNECTION).unwrap_or(u64::MAX) as usize;
        let (ip, port) = match page.layout {
            Layout::V1(parts) => {
                let found = parts.connection(page.bytes, number);
                found.map_or((u64::MAX, 0), |it| match side {
                    Side::Client => (it.client.get().into(), it.client_port.get()),
                    Side::Server => (it.server.get().into(), it.server_port.get()),
                })
            }
            Layout::V2(_) => {
                let (address, port) = match side {
                    Side::Client => (id::CLIENT, id::CLIENT_PORT),
                    Side::Server => (id::SERVER, id::SERVER_PORT),
                };
                (
                    page.number(address, number).unwrap_or(u64::MAX),
                    page.number(port, number).unwrap_or(0) as u16,
                )
            }
        };
        Endpoint::new(page.address(ip), port)
    }
}

impl fmt::Debug for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        f.debug_struct("Row")
            .field("id", &self.id())
            .field("time", &self.time())
            .field("method", &self.method().map(text))
            .field("target", &self.target().map(|target| text(&target)))
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}
