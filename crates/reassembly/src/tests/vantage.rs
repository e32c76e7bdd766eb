//! Several scopes: copies of one conversation, and conversations between equal addresses.

use tapedeck_model::{Direction, Scope};
use tapedeck_testkit::{Conversation, SegmentBuf};

use super::check;

fn conversation(request: &[u8]) -> Vec<SegmentBuf> {
    let mut talk = Conversation::new("10.0.0.1:40000", "10.0.0.2:80");
    talk.handshake();
    talk.client(request);
    talk.ack(Direction::ToClient);
    talk.server(b"answer");
    talk.client(b"again");
    talk.server(b"answer again");
    talk.close();
    talk.segments
}

fn within(scope: u64, segment: &SegmentBuf) -> SegmentBuf {
    SegmentBuf {
        scope: Scope(scope),
        ..segment.clone()
    }
}

const ONCE: &str = "10.0.0.1:40000 10.0.0.2:80 Handshake
                    >>> askagain Fin
                    <<< answeranswer again Fin";

/// On its way, a packet passes the plain device first or the tunnel first, by direction.
#[test]
fn copies_at_several_points_are_one_connection() {
    let talk = conversation(b"ask");
    for (there, back) in [([0, 7, 9], [9, 7, 0]), ([0, 7, 9], [0, 7, 9])] {
        let copies = talk.iter().flat_map(|segment| {
            let scopes = if segment.source.port == 80 {
                back
            } else {
                there
            };
            scopes.map(|scope| within(scope, segment))
        });
        let ledger = check(&copies.collect::<Vec<_>>(), ONCE);
        assert_eq!((ledger.connections, ledger.payload_bytes_dropped), (1, 0));
        let said = "ask".len() + "answer".len() + "again".len() + "answer again".len();
        assert_eq!(ledger.payload_bytes_duplicate, 2 * said as u64);
    }
}

#[test]
fn copies_of_the_middle_of_a_connection_are_one() {
    let talk = conversation(b"ask");
    let copies = talk[3..]
        .iter()
        .flat_map(|segment| [0, 7].map(|scope| within(scope, segment)));
    check(
        &copies.collect::<Vec<_>>(),
        &ONCE.replace("Handshake", "Midstream"),
    );
}

#[test]
fn tags_that_differ_by_direction_are_one_connection() {
    let talk = conversation(b"ask");
    for skip in [0, 3] {
        let tagged = talk[skip..].iter().map(|segment| {
            let scope = if segment.source.port == 80 { 7 } else { 0 };
            within(scope, segment)
        });
        let origin = if skip == 0 { "Handshake" } else { "Midstream" };
        check(
            &tagged.collect::<Vec<_>>(),
            &ONCE.replace("Handshake", origin),
        );
    }
}

/// Equal addresses, ports and sequence numbers: only what is said differs.
#[test]
fn tenants_with_equal_addresses_stay_apart() {
    let (one, two) = (conversation(b"ask"), conversation(b"beg"));
    let mixed = one.iter().zip(&two);
    let mixed = mixed.flat_map(|(one, two)| [within(1, one), within(2, two)]);
    let second = ONCE.replace("ask", "beg");
    for segments in [
        mixed.collect::<Vec<_>>(),
        one.iter()
            .map(|segment| within(1, segment))
            .chain(two.iter().map(|segment| within(2, segment)))
            .collect(),
    ] {
        let ledger = check(&segments, &format!("{ONCE}\n{second}"));
        assert_eq!(ledger.payload_bytes_duplicate, 0);
    }
}

/// The scopes of one connection are bounded; more are connections of their own.
#[test]
fn forged_copies_do_not_pile_up() {
    let talk = conversation(b"ask");
    let copies = (0..100).flat_map(|scope| [within(scope, &talk[0]), within(scope, &talk[3])]);
    let (_, ledger) = super::feed(crate::Limits::default(), &copies.collect::<Vec<_>>());
    assert!(
        (4..=8).contains(&ledger.connections),
        "{}",
        ledger.connections
    );
}
