//! Exchanges to write: a realistic one, and any one.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use tapedeck_model::exchange::{Arrival, Body, BodyGap};
use tapedeck_model::{
    Anomalies, BodyPart, Connection, ConnectionId, Endpoint, Exchange, Field, Gap, GapCause, Head,
    Interim, Ledger, Message, Missing, Origin, PerDirection, Protocol, Role, Scope, Span,
    StartLine, Timestamp, Tls, TlsVersion, Unread, UnreadConnection, Workload, Workloads,
};

use crate::{Archive, BodyBuffer, Provenance, Scratch, Summary, Writer, WriterOptions};

/// An exchange with the parts of its bodies that went before.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) exchange: Exchange,
    pub(crate) parts: Vec<BodyPart>,
}

/// What comes back: parts and tail are one body then, and the key is gone.
pub(crate) fn expected(sample: &Sample) -> Exchange {
    let mut exchange = sample.exchange.clone();
    exchange.key = 0;
    for (role, message) in [
        (Role::Request, &mut exchange.request),
        (Role::Response, &mut exchange.response),
    ] {
        let Some(message) = message else { continue };
        let mut whole: Vec<u8> = Vec::new();
        for part in sample.parts.iter().filter(|part| part.role == role) {
            whole.extend_from_slice(&part.data);
        }
        whole.extend_from_slice(&message.body.tail);
        message.body.tail = whole;
        message.body.parts = 0;
    }
    exchange
}

pub(crate) fn provenance() -> Provenance {
    Provenance {
        source: "test".into(),
        ..Provenance::default()
    }
}

/// A folder in memory, where there is one: some tests write and sync a few ten thousand times.
pub(crate) fn memory() -> tempfile::TempDir {
    let shared = Path::new("/dev/shm");
    if shared.is_dir() {
        tempfile::tempdir_in(shared).unwrap()
    } else {
        tempfile::tempdir().unwrap()
    }
}

pub(crate) fn write(path: &Path, samples: &[Sample], options: WriterOptions) -> Summary {
    write_with(path, samples, &[], options)
}

/// With connections that could not be read, one of them after every third exchange.
pub(crate) fn write_with(
    path: &Path,
    samples: &[Sample],
    unread: &[UnreadConnection],
    options: WriterOptions,
) -> Summary {
    let mut writer = Writer::create(path, options).unwrap();
    let mut unread = unread.iter();
    for (n, sample) in samples.iter().enumerate() {
        add(&mut writer, sample);
        if n % 3 == 0 {
            unread
                .next()
                .into_iter()
                .for_each(|one| writer.unread(one).unwrap());
        }
    }
    unread.for_each(|one| writer.unread(one).unwrap());
    let ledger = Ledger {
        exchanges: samples.len() as u64,
        ..Ledger::default()
    };
    writer.seal(&ledger).unwrap()
}

pub(crate) fn add(writer: &mut Writer, sample: &Sample) {
    for part in &sample.parts {
        writer.body_part(part).unwrap();
    }
    writer.exchange(&sample.exchange).unwrap();
}

/// Every exchange of an archive, with its bodies in their tails.
pub(crate) fn read(archive: &Archive) -> Vec<Exchange> {
    let mut scratch = Scratch::new();
    let mut buffer = BodyBuffer::new();
    (0..archive.len())
        .map(|id| {
            let record = archive.load(id, &mut scratch).unwrap();
            let mut exchange = record.to_exchange();
            for (view, message) in [
                (record.request(), &mut exchange.request),
                (record.response(), &mut exchange.response),
            ] {
                let (Some(view), Some(message)) = (view, message) else {
                    continue;
                };
                message.body.tail = archive.body(&view.body(), &mut buffer).unwrap().to_vec();
            }
            exchange
        })
        .collect()
}

/// A head as HTTP/1 has it, with its fields where they are.
pub(crate) fn head(start_line: &str, fields: &[(&str, &str)]) -> Head {
    let mut raw = start_line.as_bytes().to_vec();
    let words: Vec<&str> = start_line.splitn(3, ' ').collect();
    let span = |start: usize, len: usize| Span {
        start: start as u32,
        len: len as u32,
    };
    let start = if words[0].starts_with("HTTP/") {
        StartLine::Response {
            status: words[1].parse().ok(),
            reason: span(words[0].len() + words[1].len() + 2, words[2].len()),
        }
    } else {
        StartLine::Request {
            method: Some(span(0, words[0].len())),
            target: Some(span(words[0].len() + 1, words[1].len())),
        }
    };
    raw.extend_from_slice(b"\r\n");
    let fields = fields
        .iter()
        .map(|(name, value)| {
            let field = Field {
                name: span(raw.len(), name.len()),
                value: span(raw.len() + name.len() + 2, value.len()),
                ..Field::default()
            };
            raw.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
            field
        })
        .collect();
    raw.extend_from_slice(b"\r\n");
    Head {
        raw,
        protocol: Protocol::Http11,
        start,
        fields,
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
        last_byte: Timestamp::from_nanos(at + 1_000),
        missing: Missing::NONE,
        reset_code: None,
    }
}

pub(crate) fn connection(id: u64) -> Arc<Connection> {
    Arc::new(Connection {
        id: ConnectionId(id),
        client: Endpoint::new([10, 0, 0, 1].into(), 40_000 + id as u16),
        server: Endpoint::new([10, 0, 0, 2].into(), 8080),
        scope: Scope(0),
        origin: Origin::Handshake,
        opened: Timestamp::from_nanos(1_700_000_000_000_000_000),
        tls: None,
        workloads: Workloads::default(),
    })
}

/// The nth connection, over TLS between two pods.
pub(crate) fn tls_connection(n: u64) -> Arc<Connection> {
    let workload = |pod: &str| {
        Some(Arc::new(Workload {
            namespace: Some("shop".into()),
            pod: Some(format!("{pod}-{}", n % 3)),
            container: Some("app".into()),
            owner: Some(format!("deployment/{pod}")),
            ..Workload::default()
        }))
    };
    let tls = Tls {
        version: Some(TlsVersion::Tls13),
        suite: Some(0x1301),
        server_name: Some(format!("shop-{n}.example").into_bytes()),
        alpn: Some(b"h2".to_vec()),
    };
    Arc::new(Connection {
        tls: Some(Arc::new(tls)),
        workloads: Workloads {
            client: workload("web"),
            server: workload("api"),
        },
        ..(*connection(n)).clone()
    })
}

/// The nth connection that could not be read.
pub(crate) fn unread(n: u64) -> UnreadConnection {
    let mut reasons = Unread::ALL.to_vec();
    reasons.push(Unread::HandshakeFailed(Some(48)));
    UnreadConnection {
        connection: if n % 4 == 3 {
            connection(n)
        } else {
            tls_connection(n)
        },
        last_byte: Timestamp::from_nanos(1_700_000_001_000_000_000 + n as i64),
        bytes: PerDirection {
            to_server: 517 + n,
            to_client: u64::MAX - n,
        },
        reason: reasons[n as usize % reasons.len()],
    }
}

/// The nth exchange of a shop: a JSON answer of a few hundred bytes.
pub(crate) fn shop(n: u64) -> Sample {
    let at = 1_700_000_000_000_000_000 + n as i64 * 3_000_000;
    let target = format!("GET /reservations/{}?seat={} HTTP/1.1", n % 50, n % 97);
    let request = head(
        &target,
        &[("Host", "shop:8080"), ("Accept", "application/json")],
    );
    let body = format!(
        r#"{{"id":{n},"seat":"{}","state":"held","price":12000}}"#,
        n % 97
    );
    let response = head(
        "HTTP/1.1 200 OK",
        &[
            ("Content-Type", "application/json"),
            ("X-Id", &n.to_string()),
        ],
    );
    Sample {
        exchange: Exchange {
            key: n,
            connection: connection(n % 7),
            stream: n / 7,
            protocol: Protocol::Http11,
            request: Some(message(request, b"", at)),
            interim: Vec::new(),
            response: Some(message(response, body.as_bytes(), at + 800_000)),
            request_absent: Missing::NONE,
            response_absent: Missing::NONE,
            tunnel: false,
            pushed: false,
            anomalies: Anomalies::default(),
        },
        parts: Vec::new(),
    }
}

/// `len` bytes that do not shrink.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    (0..len as u64 / 8 + 1)
        .flat_map(|n| xxhash_rust::xxh3::xxh3_64_with_seed(&n.to_le_bytes(), seed).to_le_bytes())
        .take(len)
        .collect()
}

fn any_time() -> impl Strategy<Value = Timestamp> {
    prop_oneof![
        8 => 1_700_000_000_000_000_000_i64..1_700_000_010_000_000_000,
        1 => any::<i64>(),
    ]
    .prop_map(Timestamp::from_nanos)
}

fn any_span(len: usize) -> impl Strategy<Value = Span> {
    prop_oneof![
        8 => (0..=len as u32, 0..=len as u32).prop_map(|(a, b)| Span {
            start: a.min(b),
            len: a.abs_diff(b),
        }),
        1 => (any::<u32>(), any::<u32>()).prop_map(|(start, len)| Span { start, len }),
    ]
}

fn any_field(len: usize) -> impl Strategy<Value = Field> {
    let field = (any_span(len), any_span(len), 0_u8..20);
    field.prop_map(|(name, value, unknown)| Field {
        name: if unknown & 3 == 3 {
            Span::default()
        } else {
            name
        },
        value: if unknown > 16 { Span::default() } else { value },
        name_unknown: unknown & 3 == 3,
        value_unknown: unknown > 16,
    })
}

pub(crate) fn any_head() -> BoxedStrategy<Head> {
    let raw = prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..200),
        1 => (0_usize..100_000).prop_map(|len| vec![b'x'; len]),
    ];
    let any_head = raw.prop_flat_map(|raw| {
        let len = raw.len();
        let start = prop_oneof![
            (
                prop::option::of(any_span(len)),
                prop::option::of(any_span(len))
            )
                .prop_map(|(method, target)| StartLine::Request { method, target }),
            (prop::option::of(any::<u16>()), any_span(len))
                .prop_map(|(status, reason)| StartLine::Response { status, reason }),
            Just(StartLine::None),
        ];
        let fields = prop::collection::vec(any_field(len), 0..6);
        (Just(raw), any_protocol(), start, fields)
    });
    let wild = any_head.prop_map(|(raw, protocol, start, fields)| Head {
        raw,
        protocol,
        start,
        fields,
    });
    let tame = prop::collection::vec(("[a-z]{1,8}", "[ -~]{0,20}"), 0..8).prop_map(|fields| {
        let fields: Vec<_> = fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        head("POST /points/charge HTTP/1.1", &fields)
    });
    // Boxed: strategies are nested values, and would not fit a test's stack otherwise.
    prop_oneof![wild, tame].boxed()
}

fn any_protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![
        Just(Protocol::Http10),
        Just(Protocol::Http11),
        Just(Protocol::Http2)
    ]
}

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => Just(Vec::new()),
        8 => prop::collection::vec(any::<u8>(), 0..300),
        2 => (0_usize..9_000, 0_u64..3).prop_map(|(len, seed)| noise(len, seed)),
        2 => (0_usize..90_000, any::<u8>()).prop_map(|(len, byte)| vec![byte & 1; len]),
        1 => (60_000_usize..300_000, 0_u64..3).prop_map(|(len, seed)| noise(len, seed)),
    ]
}

fn any_gap() -> impl Strategy<Value = BodyGap> {
    let cause = prop_oneof![
        Just(GapCause::Lost),
        Just(GapCause::Snaplen),
        Just(GapCause::Limit)
    ];
    (any::<u64>(), any::<u64>(), cause).prop_map(|(offset, len, cause)| BodyGap {
        offset,
        gap: Gap { len, cause },
    })
}

fn any_arrival() -> impl Strategy<Value = Arrival> {
    (any::<u64>(), any_time()).prop_map(|(offset, at)| Arrival { offset, at })
}

/// A message, and the data of its parts.
fn any_message() -> BoxedStrategy<(Message, Vec<Vec<u8>>)> {
    (
        prop::option::weighted(0.9, any_head()),
        prop::option::weighted(0.1, any_head()),
        (any_bytes(), prop::collection::vec(any_bytes(), 0..3)),
        prop::collection::vec(any_gap(), 0..3),
        prop::collection::vec(any_arrival(), 0..3),
        (any_time(), any_time()),
        (any::<u16>(), prop::option::of(any::<u32>())),
    )
        .prop_map(|(head, trailers, (tail, parts), gaps, arrivals, at, end)| {
            let stored = parts.iter().map(Vec::len).sum::<usize>() + tail.len();
            let message = Message {
                head,
                body: Body {
                    len: stored as u64,
                    parts: parts.len() as u32,
                    tail,
                    gaps,
                    arrivals,
                },
                trailers,
                first_byte: at.0,
                last_byte: at.1,
                missing: Missing::from_bits(end.0),
                reset_code: end.1,
            };
            (message, parts)
        })
        .boxed()
}

fn any_connection() -> impl Strategy<Value = Arc<Connection>> {
    let endpoint =
        || (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| Endpoint::new(ip, port));
    let any_origin = prop_oneof![Just(Origin::Midstream), Just(Origin::Predates)];
    let any_connection = (
        (0_u64..3, any_origin),
        endpoint(),
        endpoint(),
        any::<u64>(),
        any_time(),
    );
    prop_oneof![
        (0_u64..3).prop_map(tls_connection),
        any_connection.prop_map(|((id, origin), client, server, scope, opened)| {
            Arc::new(Connection {
                id: ConnectionId(id),
                client,
                server,
                scope: Scope(scope),
                origin,
                opened,
                tls: None,
                workloads: Workloads::default(),
            })
        }),
        (0_u64..3).prop_map(connection),
    ]
}

/// Any exchanges, their parts interleaved as little as the writer has to bear: each with its own.
pub(crate) fn any_samples(max: usize) -> BoxedStrategy<Vec<Sample>> {
    let interim = (any_head(), any_time())
        .prop_map(|(head, at)| Interim { head, at })
        .boxed();
    let sample = (
        any_connection(),
        prop_oneof![Just(0_u64), Just(7), any::<u64>()],
        any_protocol(),
        prop::option::weighted(0.9, any_message()),
        prop::option::weighted(0.9, any_message()),
        prop::collection::vec(interim, 0..3),
        (any::<u16>(), any::<u16>()),
        (any::<bool>(), any::<bool>(), any::<u128>()),
    );
    prop::collection::vec(sample, 0..max)
        .prop_map(|samples| {
            samples
                .into_iter()
                .enumerate()
                .map(|(key, sample)| {
                    let (connection, stream, protocol, request, response, interim, absent, flags) =
                        sample;
                    let mut parts = Vec::new();
                    let mut message = |role, message: Option<(Message, Vec<Vec<u8>>)>| {
                        let (message, data) = message?;
                        parts.extend(data.into_iter().map(|data| BodyPart {
                            key: key as u64,
                            role,
                            data,
                        }));
                        Some(message)
                    };
                    let exchange = Exchange {
                        key: key as u64,
                        connection,
                        stream,
                        protocol,
                        request: message(Role::Request, request),
                        interim,
                        response: message(Role::Response, response),
                        request_absent: Missing::from_bits(absent.0),
                        response_absent: Missing::from_bits(absent.1),
                        tunnel: flags.0,
                        pushed: flags.1,
                        anomalies: Anomalies::from_bits(flags.2),
                    };
                    Sample { exchange, parts }
                })
                .collect()
        })
        .boxed()
}
