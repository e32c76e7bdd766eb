//! Connections that stayed closed to us: listed beside the exchanges, in chunks of their own.

use std::sync::Arc;

use rkyv::rancor::{BoxedError, Failure};
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};
use tapedeck_model::{
    Connection, ConnectionId, Endpoint, Origin, PerDirection, Scope, Timestamp, Unread,
    UnreadConnection, Workloads,
};

use crate::block::builder::octets;
use crate::block::view::address;
use crate::details::{StoredTls, StoredWorkload, shared, stored};
use crate::error::Damage;

/// The version of such a chunk's payload.
pub(crate) const VERSION: u16 = 1;

/// The root.
#[derive(Archive, Debug, Default, Deserialize, Serialize)]
#[rkyv(derive(Debug))]
struct Root {
    connections: Vec<StoredUnread>,
}

#[derive(Archive, Debug, Deserialize, Serialize)]
#[rkyv(derive(Debug))]
struct StoredUnread {
    id: u64,
    scope: u64,
    opened: i64,
    last_byte: i64,
    to_server: u64,
    to_client: u64,
    client: [u8; 16],
    server: [u8; 16],
    client_port: u16,
    server_port: u16,
    reason: u8,
    client_is_v6: bool,
    server_is_v6: bool,
    is_midstream: bool,
    tls: Option<StoredTls>,
    client_workload: Option<StoredWorkload>,
    server_workload: Option<StoredWorkload>,
}

/// Such connections, until there are enough for a chunk.
#[derive(Debug, Default)]
pub(crate) struct UnreadBuilder {
    root: Root,
    /// About how long the chunk will be.
    len: usize,
}

impl UnreadBuilder {
    pub(crate) fn n_connections(&self) -> u64 {
        self.root.connections.len() as u64
    }

    /// About how long the payload will be.
    pub(crate) fn raw_len(&self) -> usize {
        self.len
    }

    pub(crate) fn push(&mut self, unread: &UnreadConnection) {
        let UnreadConnection {
            connection,
            last_byte,
            bytes,
            reason,
        } = unread;
        let Connection {
            id,
            client,
            server,
            scope,
            origin,
            opened,
            tls,
            workloads,
        } = &**connection;
        let (client_octets, client_is_v6) = octets(client.ip);
        let (server_octets, server_is_v6) = octets(server.ip);
        let texts = tls.as_ref().map_or(0, |tls| {
            let len = |text: &Option<Vec<u8>>| text.as_ref().map_or(0, Vec::len);
            len(&tls.server_name) + len(&tls.alpn)
        });
        self.len += size_of::<StoredUnread>() + texts + WORKLOADS;
        self.root.connections.push(StoredUnread {
            id: id.0,
            scope: scope.0,
            opened: opened.as_nanos(),
            last_byte: last_byte.as_nanos(),
            to_server: bytes.to_server,
            to_client: bytes.to_client,
            client: client_octets,
            server: server_octets,
            client_port: client.port,
            server_port: server.port,
            reason: number_of(*reason),
            client_is_v6,
            server_is_v6,
            is_midstream: *origin != Origin::Handshake,
            tls: stored(tls.as_ref()),
            client_workload: stored(workloads.client.as_ref()),
            server_workload: stored(workloads.server.as_ref()),
        });
    }

    /// The payload; the builder is empty afterwards.
    pub(crate) fn finish(&mut self) -> Result<AlignedVec, BoxedError> {
        let root = std::mem::take(self).root;
        rkyv::to_bytes::<BoxedError>(&root)
    }
}

/// About what the names of two workloads take.
const WORKLOADS: usize = 512;

/// The connections in a payload.
pub(crate) fn decode(payload: &AlignedVec) -> Result<Vec<UnreadConnection>, Damage> {
    let root = rkyv::from_bytes::<Root, Failure>(payload)
        .map_err(|_| Damage::Structure("it is not a list of unread connections"))?;
    root.connections.into_iter().map(to_model).collect()
}

fn to_model(stored: StoredUnread) -> Result<UnreadConnection, Damage> {
    let reason = reason_of(stored.reason).ok_or(Damage::Unknown)?;
    let endpoint = |octets, is_v6, port| Endpoint::new(address(octets, is_v6), port);
    let connection = Connection {
        id: ConnectionId(stored.id),
        client: endpoint(stored.client, stored.client_is_v6, stored.client_port),
        server: endpoint(stored.server, stored.server_is_v6, stored.server_port),
        scope: Scope(stored.scope),
        origin: if stored.is_midstream {
            Origin::Midstream
        } else {
            Origin::Handshake
        },
        opened: Timestamp::from_nanos(stored.opened),
        tls: shared(stored.tls),
        workloads: Workloads {
            client: shared(stored.client_workload),
            server: shared(stored.server_workload),
        },
    };
    Ok(UnreadConnection {
        connection: Arc::new(connection),
        last_byte: Timestamp::from_nanos(stored.last_byte),
        bytes: PerDirection {
            to_server: stored.to_server,
            to_client: stored.to_client,
        },
        reason,
    })
}

/// The number that stands for a reason in the file.
const fn number_of(reason: Unread) -> u8 {
    match reason {
        Unread::NoKeys => 0,
        Unread::HandshakeNotSeen => 1,
        Unread::UnsupportedVersion => 2,
        Unread::UnsupportedSuite => 3,
        Unread::Renegotiation => 4,
        Unread::Malformed => 5,
        Unread::Desynchronised => 6,
        Unread::Limit => 7,
        Unread::HandshakeFailed(None) => 8,
        // No alert has a number above 127 (RFC 8446 section 6); one that had would be told apart from
        // none all the same.
        Unread::HandshakeFailed(Some(alert)) => ALERT | alert,
    }
}

/// What reasons with an alert begin at.
const ALERT: u8 = 128;

fn reason_of(number: u8) -> Option<Unread> {
    if number >= ALERT {
        return Some(Unread::HandshakeFailed(Some(number - ALERT)));
    }
    Unread::ALL
        .into_iter()
        .find(|reason| number_of(*reason) == number)
}
