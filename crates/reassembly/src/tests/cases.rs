//! One case each: what a capture may show, and what must come out. Losses and lifetimes have files of their own.

use std::time::Duration;

use tapedeck_model::{Anomaly, SeqNum, TcpFlags, Timestamp};
use tapedeck_testkit::{Conversation, SegmentBuf};

use super::{DOWN, Log, UP, check, data, feed, started, talk};
use crate::{Limits, Reassembler};

#[test]
fn a_conversation_in_order() {
    let mut talk = started();
    talk.client(b"ask");
    talk.server(b"answer");
    talk.close();
    let ledger = check(
        &talk.segments,
        "10.0.0.1:40000 10.0.0.2:80 Handshake
         >>> ask Fin
         <<< answer Fin",
    );
    assert_eq!(ledger.segments, 9);
    assert_eq!((ledger.connections, ledger.connections_midstream), (1, 0));
    assert_eq!(ledger.gaps, 0);
}

#[test]
fn retransmissions_and_probes_are_duplicates() {
    let mut talk = started();
    talk.client(b"ask");
    let mut again = talk.segments[3].clone();
    talk.segments.push(again.clone());
    // A keep-alive probe: the byte before the next.
    again.seq = SeqNum(again.seq.0 + 2);
    again.payload = b"k".to_vec();
    talk.segments.push(again.clone());
    // A retransmission that was merged with what follows.
    again.seq = SeqNum(again.seq.0 - 2);
    again.payload = b"ask more".to_vec();
    talk.segments.push(again);
    let ledger = check(
        &talk.segments,
        "10.0.0.1:40000 10.0.0.2:80 Handshake
         >>> ask more Cut
         <<< Cut",
    );
    assert_eq!(ledger.payload_bytes_duplicate, 7);
}

#[test]
fn conflicting_bytes_are_counted_and_the_first_win() {
    let mut talk = started();
    talk.lose(UP, 2);
    talk.client(b"cdef");
    let mut other = talk.segments[3].clone();
    other.seq = SeqNum(other.seq.0 - 2);
    other.payload = b"abXXef".to_vec();
    talk.segments.push(other);
    let ledger = check(
        &talk.segments,
        "10.0.0.1:40000 10.0.0.2:80 Handshake
         >>> abcdef Cut
         <<< Cut
         !!! tcp-conflicting-overlap",
    );
    assert_eq!(ledger.anomalies[&Anomaly::ConflictingOverlap], 1);
    assert_eq!(ledger.payload_bytes_duplicate, 4);
}

#[test]
fn scopes_and_families_do_not_mix() {
    use tapedeck_model::Scope;
    let mut segments = Vec::new();
    for scope in 0..2 {
        let mut talk = talk().in_scope(Scope(scope));
        talk.client(format!("{scope}").as_bytes());
        segments.extend(talk.segments);
    }
    // The packed form of an IPv4 address is also an IPv6 address.
    let mut talk = Conversation::new("[::10.0.0.1]:40000", "[::10.0.0.2]:80");
    talk.client(b"six");
    segments.extend(talk.segments);
    check(
        &segments
            .iter()
            .map(|segment| SegmentBuf {
                flags: TcpFlags::PSH.union(TcpFlags::ACK),
                ..segment.clone()
            })
            .collect::<Vec<_>>(),
        "10.0.0.1:40000 10.0.0.2:80 Midstream
         >>> 0 Cut
         <<< Cut
         10.0.0.1:40000 10.0.0.2:80 Midstream
         >>> 1 Cut
         <<< Cut
         [::a00:1]:40000 [::a00:2]:80 Midstream
         >>> six Cut
         <<< Cut",
    );
}

#[test]
fn a_spoofed_segment_far_ahead_does_not_stop_the_stream() {
    let mut talk = started();
    talk.client(b"a");
    let mut far = talk.segments[3].clone();
    far.seq.0 += 500_000_000;
    far.payload = b"spoofed".to_vec();
    talk.segments.push(far);
    for _ in 0..8 {
        talk.wait(Duration::from_secs(1));
        talk.client(b"b");
    }
    let (log, ledger) = feed(Limits::default(), &talk.segments);
    assert!(log.text().contains(">>> abbbbbbbb ("), "{}", log.text());
    assert_eq!(ledger.payload_bytes_duplicate, 0);
}

#[test]
fn a_clock_that_steps_back_does_not_stop_time() {
    let mut talk = started();
    talk.client(b"a");
    talk.lose(UP, 1);
    talk.client(b"b");
    let mut rest = Vec::new();
    for seconds in [0_i64, 1, 2, 3, 4, 5] {
        let mut other = Conversation::new("10.0.0.9:9", "10.0.0.2:80")
            .starting(Timestamp::from_nanos(seconds * 1_000_000_000));
        other.client(b"x");
        rest.extend(other.segments);
    }
    talk.segments.extend(rest);
    let mut log = Log::default();
    let mut reassembler = Reassembler::new(Limits::default());
    for segment in &talk.segments {
        reassembler.push(&segment.as_segment(), &mut log);
    }
    assert!(log.text().contains(">>> a (1 Limit) b\n"), "{}", log.text());
}

#[test]
fn sequence_numbers_wrap() {
    let mut talk = talk().with_isn(u32::MAX - 3, u32::MAX);
    talk.handshake();
    talk.client(b"0123456789");
    talk.server(b"abc");
    talk.client(b"more");
    talk.segments.swap(3, 5);
    for (index, segment) in talk.segments.iter_mut().enumerate() {
        segment.at = Timestamp::from_nanos(index as i64);
    }
    let index = data(&talk.segments, b"more");
    assert_eq!(index, 3);
    check(
        &talk.segments,
        "10.0.0.1:40000 10.0.0.2:80 Handshake
         >>> 0123456789more Cut
         <<< abc Cut",
    );
}

/// Places in the stream are of 64 bits: here, eight bytes in 4 GiB each.
#[test]
fn a_stream_is_longer_than_its_numbers() {
    const LOST: usize = (1 << 29) - 1;
    let mut talk = started();
    let mut expected = String::from("10.0.0.1:40000 10.0.0.2:80 Handshake\n>>> ");
    for number in 0..40 {
        talk.client(&[b'a' + number % 26]);
        talk.lose(UP, LOST);
        talk.ack(DOWN);
        talk.wait(Duration::from_secs(1));
        expected.push(char::from(b'a' + number % 26));
        expected.push_str(&format!(" ({LOST} Lost) "));
    }
    talk.client(b"end");
    let again = talk.segments.last().unwrap().clone();
    talk.segments.push(again);
    expected.push_str("end Cut\n<<< Cut");
    let ledger = check(&talk.segments, &expected);
    assert_eq!((ledger.gaps, ledger.gap_bytes_lost), (40, 40 * LOST as u64));
    assert_eq!(ledger.payload_bytes_duplicate, 3);
}

/// The receiver's window is closed: the sender asks again and again, with one byte that is not
/// taken, or with none.
#[test]
fn probes_of_a_closed_window_are_no_data_of_their_own() {
    let mut talk = started();
    talk.client(b"full");
    let next = talk.next_seq(UP);
    talk.client(b"late");
    let whole = talk.segments.last().unwrap().clone();
    talk.segments.pop();
    for len in [1, 0, 1, 1] {
        let mut probe = whole.clone();
        probe.payload.truncate(len);
        probe.at = talk.now;
        talk.segments.push(probe);
        talk.ack(DOWN);
        talk.segments.last_mut().unwrap().ack = next;
        talk.wait(Duration::from_secs(2));
    }
    let open = SegmentBuf {
        at: talk.now,
        ..whole
    };
    talk.segments.push(open);
    let ledger = check(
        &talk.segments,
        "10.0.0.1:40000 10.0.0.2:80 Handshake
         >>> fulllate Cut
         <<< Cut",
    );
    assert_eq!((ledger.gaps, ledger.payload_bytes_duplicate), (0, 3));
}
