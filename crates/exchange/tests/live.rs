//! What a live source adds: several engines beside each other, and whose the connections are.

use std::sync::Arc;

use tapedeck_exchange::{Engine, Limits, Recorder};
use tapedeck_model::{
    BodyPart, Connection, Exchange, Origin, Scope, UnreadConnection, Workload, Workloads,
};
use tapedeck_packet::{LinkType, RawPacket};
use tapedeck_testkit::{Conversation, SegmentBuf, wire};

/// Knows who is at port 80, and that connections to port 81 were there before.
#[derive(Default)]
struct Tape(Vec<Exchange>);

impl Recorder for Tape {
    fn body_part(&mut self, _part: &BodyPart) {}

    fn exchange(&mut self, exchange: &Exchange) {
        self.0.push(exchange.clone());
    }

    fn unread(&mut self, _connection: &UnreadConnection) {}

    fn workloads(&mut self, connection: &Connection) -> Option<Workloads> {
        let known = connection.server.port == 80 && connection.workloads.server.is_none();
        known.then(|| Workloads {
            client: None,
            server: Some(Arc::new(Workload {
                pod: Some("shop".to_owned()),
                ..Workload::default()
            })),
        })
    }

    fn predates(&mut self, connection: &Connection) -> bool {
        assert_ne!(connection.origin, Origin::Handshake, "never asked");
        connection.server.port == 81
    }
}

fn talk(server: &str) -> Vec<SegmentBuf> {
    let mut talk = Conversation::new("10.0.0.1:40000", server);
    talk.handshake();
    talk.client(b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\n");
    talk.server(b"HTTP/1.1 204 No Content\r\n\r\n");
    // Never answered: comes out when the capture ends.
    talk.client(b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n");
    talk.segments
}

fn read(mut engine: Engine, segments: &[SegmentBuf], scope: Scope) -> Vec<Exchange> {
    let mut tape = Tape::default();
    for segment in segments {
        let data = wire::ip(&segment.as_segment());
        let packet = RawPacket {
            at: segment.at,
            link: LinkType::RAW,
            data: &data,
            wire_len: data.len() as u32,
            scope,
        };
        engine.packet(&packet, &mut tape);
    }
    engine.finish(&mut tape);
    tape.0
}

#[test]
fn the_recorder_says_whose_a_connection_is() {
    let exchanges = read(
        Engine::new(Limits::default()),
        &talk("10.0.0.2:80"),
        Scope(0),
    );
    assert_eq!(exchanges.len(), 2);
    for exchange in exchanges {
        let Workloads { client, server } = &exchange.connection.workloads;
        assert!(client.is_none());
        assert_eq!(
            server.as_ref().and_then(|who| who.pod.as_deref()),
            Some("shop")
        );
    }
}

#[test]
fn the_recorder_says_what_was_there_before() {
    for (server, origin) in [
        ("10.0.0.2:80", Origin::Midstream),
        ("10.0.0.2:81", Origin::Predates),
    ] {
        let whole = talk(server);
        // Without its handshake.
        let exchanges = read(Engine::new(Limits::default()), &whole[3..], Scope(0));
        let origins: Vec<_> = exchanges.iter().map(|e| e.connection.origin).collect();
        assert_eq!(origins, [origin; 2]);
        let exchanges = read(Engine::new(Limits::default()), &whole, Scope(0));
        assert_eq!(exchanges[0].connection.origin, Origin::Handshake);
    }
}

#[test]
fn engines_beside_each_other_give_no_id_twice() {
    let mut segments = talk("10.0.0.2:80");
    segments.extend(talk("10.0.0.2:81"));
    let mut keys = Vec::new();
    let mut ids = Vec::new();
    for first in 0..3 {
        let engine = Engine::numbered(Limits::default().share(3), first, 3);
        for exchange in read(engine, &segments, Scope(0)) {
            keys.push(exchange.key);
            ids.push(exchange.connection.id.0);
        }
    }
    keys.sort_unstable();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids, [0, 1, 2, 3, 4, 5]);
    assert_eq!(keys.len(), 12);
    keys.dedup();
    assert_eq!(keys.len(), 12);
}

#[test]
fn the_scope_of_the_source_is_the_connections() {
    let exchanges = read(
        Engine::new(Limits::default()),
        &talk("10.0.0.2:80"),
        Scope(7),
    );
    assert!(
        exchanges
            .iter()
            .all(|exchange| exchange.connection.scope == Scope(7))
    );
}
