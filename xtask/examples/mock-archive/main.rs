//! The recording that `cargo xtask bench mock` serves: `mock-archive EXCHANGES OUT.tape`.
//!
//! Exchange n is the answer to `GET /items/n`. It prints the bodies, a line each, for the other
//! servers.

#![forbid(unsafe_code)]

use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;

use tapedeck_archive::{Provenance, Writer, WriterOptions};
use tapedeck_model::exchange::{Body, Connection, ConnectionId, Message, Origin, Workloads};
use tapedeck_model::{
    Anomalies, Endpoint, Exchange, Field, Head, Ledger, Missing, Protocol, Scope, Span, StartLine,
    Timestamp,
};

/// Exchanges of one connection.
const OF_ONE_CONNECTION: u64 = 100;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let usage = "mock-archive EXCHANGES OUT.tape";
    let exchanges: u64 = args.next().ok_or(usage)?.parse()?;
    let path = args.next().ok_or(usage)?;
    let options = WriterOptions::new(Provenance::default());
    let mut writer = Writer::create(Path::new(&path), options)?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut connection = connection(0);
    for n in 0..exchanges {
        if n % OF_ONE_CONNECTION == 0 {
            connection = self::connection(n / OF_ONE_CONNECTION);
        }
        let body = body(n);
        writer.exchange(&exchange(n, &connection, &body))?;
        writeln!(out, "{body}")?;
    }
    let ledger = Ledger {
        exchanges,
        ..Ledger::default()
    };
    writer.seal(&ledger)?;
    Ok(out.flush()?)
}

fn body(n: u64) -> String {
    // A number that looks like one of many, and is the same each time.
    let odd = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    format!(
        r#"{{"id":{n},"sku":"{odd:08x}","name":"item {n}","price":{}.{:02},"currency":"EUR","stock":{},"tags":["a{}","b{}"],"description":"One of the items that the shop sells, number {n} of its list","url":"/items/{n}"}}"#,
        odd % 1000,
        odd % 100,
        odd % 77,
        odd % 13,
        odd % 17,
    )
}

fn connection(id: u64) -> Arc<Connection> {
    let end = |host: u8, port| Endpoint::new([10, 0, 0, host].into(), port);
    Arc::new(Connection {
        id: ConnectionId(id),
        client: end(1, 40_000),
        server: end(2, 80),
        scope: Scope::default(),
        origin: Origin::Handshake,
        opened: at(id * OF_ONE_CONNECTION),
        tls: None,
        workloads: Workloads::default(),
    })
}

/// A millisecond from one to the next.
const fn at(n: u64) -> Timestamp {
    Timestamp::from_nanos(1_700_000_000_000_000_000 + n as i64 * 1_000_000)
}

fn exchange(n: u64, connection: &Arc<Connection>, body: &str) -> Exchange {
    let line = format!("GET /items/{n} HTTP/1.1\r\n");
    let request = head(
        &line,
        &[("Host", "shop.test"), ("Accept", "application/json")],
    );
    let target = Span {
        start: 4,
        len: line.len() as u32 - 15,
    };
    let request = Head {
        start: StartLine::Request {
            method: Some(Span { start: 0, len: 3 }),
            target: Some(target),
        },
        ..request
    };
    let length = body.len().to_string();
    let fields = [
        ("Server", "shop"),
        ("Content-Type", "application/json"),
        ("Content-Length", &length),
    ];
    let response = Head {
        start: StartLine::Response {
            status: Some(200),
            reason: Span { start: 13, len: 2 },
        },
        ..head("HTTP/1.1 200 OK\r\n", &fields)
    };
    Exchange {
        key: n,
        connection: Arc::clone(connection),
        stream: n % OF_ONE_CONNECTION,
        protocol: Protocol::Http11,
        request: Some(message(request, "", n)),
        interim: Vec::new(),
        response: Some(message(response, body, n)),
        request_absent: Missing::NONE,
        response_absent: Missing::NONE,
        tunnel: false,
        pushed: false,
        anomalies: Anomalies::default(),
    }
}

fn message(head: Head, body: &str, n: u64) -> Message {
    Message {
        head: Some(head),
        body: Body {
            len: body.len() as u64,
            tail: body.into(),
            ..Body::default()
        },
        trailers: None,
        first_byte: at(n),
        last_byte: at(n),
        missing: Missing::NONE,
        reset_code: None,
    }
}

fn head(line: &str, pairs: &[(&str, &str)]) -> Head {
    let mut raw = line.as_bytes().to_vec();
    let mut fields = Vec::new();
    for (name, value) in pairs {
        let span = |start: usize, text: &str| Span {
            start: start as u32,
            len: text.len() as u32,
        };
        fields.push(Field {
            name: span(raw.len(), name),
            value: span(raw.len() + name.len() + 2, value),
            ..Field::default()
        });
        raw.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    raw.extend_from_slice(b"\r\n");
    Head {
        raw,
        protocol: Protocol::Http11,
        start: StartLine::None,
        fields,
    }
}
