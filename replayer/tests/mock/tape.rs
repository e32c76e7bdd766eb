//! Archives out of a few words.

use std::sync::Arc;

use tapedeck_archive::{Archive, Provenance, Writer, WriterOptions};
use tapedeck_model::exchange::{Body, Connection, ConnectionId, Message, Origin};
use tapedeck_model::{
    Anomalies, Endpoint, Exchange, Field, Head, Ledger, Missing, Protocol, Scope, Span, StartLine,
    Timestamp,
};

/// A head in the form that the readers give.
pub(crate) fn head(protocol: Protocol, line: &[&str], fields: &[(&str, &str)]) -> Head {
    let mut raw = Vec::new();
    let mut put = |text: &str| {
        let start = raw.len() as u32;
        raw.extend_from_slice(text.as_bytes());
        Span {
            start,
            len: text.len() as u32,
        }
    };
    let mut pseudo = Vec::new();
    let mut name = |name: &str, value: Span, put: &mut dyn FnMut(&str) -> Span| {
        if protocol == Protocol::Http2 {
            pseudo.push(Field {
                name: put(name),
                value,
                ..Field::default()
            });
        }
    };
    let start = match line {
        [method, target] => {
            let (method, target) = (put(method), put(target));
            name(":method", method, &mut put);
            name(":path", target, &mut put);
            StartLine::Request {
                method: Some(method),
                target: Some(target),
            }
        }
        [status, reason, ..] => {
            let (value, reason) = (put(status), put(reason));
            name(":status", value, &mut put);
            StartLine::Response {
                status: status.parse().ok(),
                reason,
            }
        }
        _ => StartLine::None,
    };
    for (name, value) in fields {
        pseudo.push(Field {
            name: put(name),
            value: put(value),
            ..Field::default()
        });
    }
    Head {
        raw,
        protocol,
        start,
        fields: pseudo,
    }
}

pub(crate) fn message(head: Head, body: &[u8], at: i64) -> Message {
    Message {
        head: Some(head),
        body: Body {
            len: body.len() as u64,
            tail: body.to_vec(),
            ..Body::default()
        },
        trailers: None,
        first_byte: Timestamp::from_nanos(at),
        last_byte: Timestamp::from_nanos(at + 1),
        missing: Missing::NONE,
        reset_code: None,
    }
}

/// What a test says of an exchange.
#[derive(Clone, Copy)]
pub(crate) struct Case {
    pub(crate) protocol: Protocol,
    pub(crate) method: &'static str,
    pub(crate) target: &'static str,
    pub(crate) host: &'static str,
    pub(crate) asked: &'static str,
    pub(crate) status: &'static str,
    pub(crate) fields: &'static [(&'static str, &'static str)],
    pub(crate) body: &'static str,
}

pub(crate) const GET: Case = Case {
    protocol: Protocol::Http11,
    method: "GET",
    target: "/",
    host: "shop.local",
    asked: "",
    status: "200",
    fields: &[
        ("Content-Type", "text/plain"),
        ("X-Order", "1"),
        ("x-order", "2"),
    ],
    body: "hello",
};

impl Case {
    pub(crate) fn exchange(&self, key: u64) -> Exchange {
        let at = 1_700_000_000_000_000_000 + key as i64 * 1_000_000;
        let host = match self.protocol {
            Protocol::Http2 => ":authority",
            Protocol::Http10 | Protocol::Http11 => "Host",
        };
        let mut fields = vec![(host, self.host)];
        if !self.asked.is_empty() {
            fields.push(("content-type", "application/json"));
        }
        let request = head(self.protocol, &[self.method, self.target], &fields);
        let response = head(
            self.protocol,
            &[self.status, "As Recorded", ""],
            self.fields,
        );
        Exchange {
            key,
            connection: Arc::new(Connection {
                id: ConnectionId(key),
                client: Endpoint::new([10, 0, 0, 1].into(), 40_000),
                server: Endpoint::new([10, 0, 0, 2].into(), 80),
                scope: Scope(0),
                origin: Origin::Handshake,
                opened: Timestamp::from_nanos(at),
                tls: None,
                workloads: tapedeck_model::Workloads::default(),
            }),
            stream: 0,
            protocol: self.protocol,
            request: Some(message(request, self.asked.as_bytes(), at)),
            interim: Vec::new(),
            response: Some(message(response, self.body.as_bytes(), at + 1000)),
            request_absent: Missing::NONE,
            response_absent: Missing::NONE,
            tunnel: false,
            pushed: false,
            anomalies: Anomalies::default(),
        }
    }
}

/// The folder of an archive, for as long as this lives.
pub(crate) struct Disk {
    _folder: tempfile::TempDir,
}

pub(crate) fn archive(exchanges: &[Exchange]) -> (Disk, Arc<Archive>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("test.tape");
    let mut writer = Writer::create(&path, WriterOptions::new(Provenance::default())).unwrap();
    for exchange in exchanges {
        writer.exchange(exchange).unwrap();
    }
    writer.seal(&Ledger::default()).unwrap();
    let archive = Arc::new(Archive::open(&path).unwrap());
    (Disk { _folder: folder }, archive)
}
