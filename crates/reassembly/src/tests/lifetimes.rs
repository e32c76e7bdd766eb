//! How connections and their halves begin and end, and what is left of those that were cut off.

use std::time::Duration;

use tapedeck_model::{Anomaly, Direction, SeqNum, TcpFlags, Timestamp};
use tapedeck_testkit::Conversation;

use super::{DOWN, Log, Piece, UP, check, check_law, feed, started, talk};
use crate::{Limits, Reassembler};

#[test]
fn closed_is_told_at_the_second_fin() {
    let mut talk = started();
    talk.close();
    let mut log = Log::default();
    let mut reassembler = Reassembler::new(Limits::default());
    for (index, segment) in talk.segments.iter().enumerate() {
        reassembler.push(&segment.as_segment(), &mut log);
        assert_eq!(log.connections[0].closed, index >= 5, "segment {index}");
    }
    assert_eq!(check_law(&reassembler).connections_empty, 1);
}

#[test]
fn data_on_the_syn_comes_first() {
    let mut talk = talk();
    talk.emit(UP, TcpFlags::SYN, b"early ");
    talk.emit(DOWN, TcpFlags::SYN.union(TcpFlags::ACK), b"");
    talk.client(b"data");
    check(
        &talk.segments,
        "10.0.0.1:40000 10.0.0.2:80 Handshake
         >>> early data Cut
         <<< Cut",
    );
}

#[test]
fn a_repeated_syn_is_no_connection_and_a_new_one_is() {
    let mut talk = started();
    talk.segments.insert(1, talk.segments[0].clone());
    talk.client(b"one");
    let mut again = Conversation::new("10.0.0.1:40000", "10.0.0.2:80")
        .with_isn(77_000_000, 99_000_000)
        .starting(talk.now);
    again.handshake();
    again.client(b"two");
    talk.segments.extend(again.segments);
    let ledger = check(
        &talk.segments,
        "10.0.0.1:40000 10.0.0.2:80 Handshake
         >>> one Cut
         <<< Cut
         10.0.0.1:40000 10.0.0.2:80 Handshake
         >>> two Cut
         <<< Cut",
    );
    assert_eq!(ledger.connections, 2);
}

#[test]
fn a_port_is_used_again_right_after_the_close() {
    let mut talk = started();
    talk.client(b"one");
    talk.close();
    let mut again = Conversation::new("10.0.0.1:40000", "10.0.0.2:80")
        .with_isn(2_000_000, 6_000_000)
        .starting(talk.now);
    again.handshake();
    again.client(b"two");
    again.close();
    talk.segments.extend(again.segments);
    check(
        &talk.segments,
        "10.0.0.1:40000 10.0.0.2:80 Handshake
         >>> one Fin
         <<< Fin
         10.0.0.1:40000 10.0.0.2:80 Handshake
         >>> two Fin
         <<< Fin",
    );
}

#[test]
fn a_port_is_used_again_and_its_syn_was_lost() {
    for close in [true, false] {
        let mut talk = started();
        talk.client(b"old");
        talk.server(b"answer");
        if close {
            talk.close();
        }
        let mut again = Conversation::new("10.0.0.1:40000", "10.0.0.2:80")
            .starting(talk.now)
            .with_isn(0x7000_0000, 0x9000_0000);
        again.client(b"new");
        again.server(b"reply");
        let mut segments = talk.segments;
        segments.extend(again.segments);
        let end = if close { "Fin" } else { "Cut" };
        check(
            &segments,
            &format!(
                "10.0.0.1:40000 10.0.0.2:80 Handshake
                 >>> old {end}
                 <<< answer {end}
                 10.0.0.1:40000 10.0.0.2:80 Midstream
                 >>> new Cut
                 <<< reply Cut"
            ),
        );
    }
}

#[test]
fn what_comes_behind_the_close_opens_nothing() {
    let mut talk = started();
    talk.client(b"one");
    let repeated = talk.segments[3].clone();
    talk.close();
    let last = talk.segments.last().unwrap().clone();
    let mut behind = repeated.clone();
    behind.seq = SeqNum(last.seq.0 + 100);
    talk.segments.extend([repeated, last, behind]);
    let ledger = check(
        &talk.segments,
        "10.0.0.1:40000 10.0.0.2:80 Handshake
         >>> one Fin
         <<< Fin",
    );
    assert_eq!(
        (ledger.payload_bytes_duplicate, ledger.payload_bytes_dropped),
        (3, 3)
    );
    // Nobody was told of it, but it was counted.
    assert_eq!(ledger.anomalies[&Anomaly::DataAfterFin], 1);
}

#[test]
fn simultaneous_open_and_close() {
    let mut talk = talk();
    talk.emit(UP, TcpFlags::SYN, b"");
    talk.emit(DOWN, TcpFlags::SYN, b"");
    let syn_ack = TcpFlags::SYN.union(TcpFlags::ACK);
    for direction in [UP, DOWN] {
        let mut segment = talk.segments[usize::from(direction == DOWN)].clone();
        segment.flags = syn_ack;
        segment.ack = talk.next_seq(!direction);
        talk.segments.push(segment);
    }
    talk.client(b"a");
    talk.server(b"b");
    talk.emit(UP, TcpFlags::FIN.union(TcpFlags::ACK), b"");
    talk.emit(DOWN, TcpFlags::FIN.union(TcpFlags::ACK), b"");
    talk.segments.last_mut().unwrap().ack.0 -= 1;
    check(
        &talk.segments,
        "10.0.0.1:40000 10.0.0.2:80 Handshake
         >>> a Fin
         <<< b Fin",
    );
}

#[test]
fn a_half_closed_connection_goes_on() {
    let mut talk = started();
    talk.client(b"ask");
    talk.fin(UP);
    talk.ack(DOWN);
    talk.wait(Duration::from_mins(4));
    talk.server(b"late");
    talk.wait(Duration::from_mins(4));
    talk.server(b" answer");
    talk.fin(DOWN);
    check(
        &talk.segments,
        "10.0.0.1:40000 10.0.0.2:80 Handshake
         >>> ask Fin
         <<< late answer Fin",
    );
}

#[test]
fn idleness_cuts_both_halves_and_what_follows_is_midstream() {
    let mut talk = started();
    talk.client(b"ask");
    talk.wait(Duration::from_mins(61));
    talk.client(b"again");
    let ledger = check(
        &talk.segments,
        "10.0.0.1:40000 10.0.0.2:80 Handshake
         >>> ask Cut
         <<< Cut
         10.0.0.1:40000 10.0.0.2:80 Midstream
         >>> again Cut
         <<< Cut",
    );
    assert_eq!(ledger.connections_midstream, 1);
}

#[test]
fn a_reset_ends_both_halves_but_what_was_under_way_still_counts() {
    let mut talk = started();
    talk.server(b"one ");
    talk.reset(UP);
    talk.server(b"two");
    talk.wait(Duration::from_secs(2));
    let mut other = Conversation::new("10.0.0.3:40001", "10.0.0.2:80").starting(talk.now);
    other.client(b"x");
    other.client(b"y");
    talk.segments.extend(other.segments);
    check(
        &talk.segments,
        "10.0.0.1:40000 10.0.0.2:80 Handshake
         >>> Reset
         <<< one two Reset
         10.0.0.3:40001 10.0.0.2:80 Midstream
         >>> xy Cut
         <<< Cut",
    );
}

#[test]
fn a_refused_connection() {
    let mut talk = talk();
    talk.emit(UP, TcpFlags::SYN, b"");
    talk.emit(DOWN, TcpFlags::RST.union(TcpFlags::ACK), b"");
    talk.segments[1].seq = SeqNum(0);
    let ledger = check(
        &talk.segments,
        "10.0.0.1:40000 10.0.0.2:80 Handshake
         >>> Reset
         <<< Reset",
    );
    assert_eq!(ledger.connections_empty, 1);
}

#[test]
fn a_stray_reset_is_ignored() {
    let mut talk = started();
    talk.client(b"a");
    talk.reset(DOWN);
    talk.segments.last_mut().unwrap().seq.0 ^= 0x4000_0000;
    talk.client(b"b");
    check(
        &talk.segments,
        "10.0.0.1:40000 10.0.0.2:80 Handshake
         >>> ab Cut
         <<< Cut
         !!! tcp-segment-out-of-range",
    );
}

#[test]
fn a_reset_waits_for_a_hole_before_it() {
    let mut talk = started();
    talk.client(b"a");
    talk.client(b"b");
    talk.reset(UP);
    talk.segments.swap(4, 5);
    check(
        &talk.segments,
        "10.0.0.1:40000 10.0.0.2:80 Handshake
         >>> ab Reset
         <<< Reset",
    );
}

#[test]
fn data_behind_the_fin_is_dropped() {
    let mut talk = started();
    talk.client(b"a");
    talk.fin(UP);
    talk.client(b"b");
    let ledger = check(
        &talk.segments,
        "10.0.0.1:40000 10.0.0.2:80 Handshake
         >>> a Fin
         <<< Cut
         !!! tcp-data-after-fin",
    );
    assert_eq!(ledger.payload_bytes_dropped, 1);
}

#[test]
fn midstream_guesses_the_client_by_port_and_takes_both_halves() {
    let mut talk = talk();
    talk.server(b"rest of an answer");
    talk.client(b"ask");
    check(
        &talk.segments,
        "10.0.0.1:40000 10.0.0.2:80 Midstream
         >>> ask Cut
         <<< rest of an answer Cut",
    );
}

#[test]
fn one_direction_alone_is_read() {
    let mut talk = started();
    talk.client(b"a");
    talk.server(b"b");
    talk.client(b"c");
    talk.close();
    // Nothing tells that the last byte that was acknowledged is the FIN.
    let down: Vec<_> = talk
        .segments
        .iter()
        .filter(|segment| segment.source.port == 80)
        .cloned()
        .collect();
    check(
        &down,
        "10.0.0.1:40000 10.0.0.2:80 Handshake
         >>> (1 Lost) (2 Lost) Cut
         <<< b Fin",
    );
    let up: Vec<_> = talk
        .segments
        .iter()
        .filter(|segment| segment.source.port != 80)
        .cloned()
        .collect();
    check(
        &up,
        "10.0.0.1:40000 10.0.0.2:80 Handshake
         >>> ac Fin
         <<< (1 Lost) (1 Lost) Cut",
    );
}

#[test]
fn the_rest_of_an_old_connection_opens_nothing() {
    let mut talk = talk();
    talk.ack(UP);
    talk.ack(DOWN);
    talk.emit(UP, TcpFlags::ACK, b"\0");
    talk.fin(UP);
    talk.reset(DOWN);
    let ledger = check(&talk.segments, "");
    assert_eq!((ledger.connections, ledger.payload_bytes_dropped), (0, 1));
}

#[test]
fn a_keep_alive_before_the_first_request_is_not_data() {
    let mut talk = talk();
    talk.server(b"answer");
    talk.ack(UP);
    let mut probe = talk.segments[1].clone();
    probe.seq.0 -= 1;
    probe.payload = vec![0];
    talk.segments.push(probe);
    talk.client(b"ask");
    check(
        &talk.segments,
        "10.0.0.1:40000 10.0.0.2:80 Midstream
         >>> ask Cut
         <<< answer Cut",
    );
}

/// The queues of the capture are out of step where it begins: the next question is seen before the
/// answer that its sender had received by then.
#[test]
fn what_was_received_before_the_beginning_is_told_to_be_late() {
    for [first, second] in [[UP, DOWN], [DOWN, UP]] {
        let mut talk = talk();
        talk.send(second, b"early");
        talk.send(first, b"next");
        talk.send(second, b"its answer");
        talk.segments.swap(0, 1);
        for (index, segment) in talk.segments.iter_mut().enumerate() {
            segment.at = Timestamp::from_nanos(index as i64);
        }
        let (log, ledger) = feed(Limits::default(), &talk.segments);
        let data = |text: &[u8]| [Piece::Data(text.to_vec()), Piece::Cut];
        assert_eq!(log.pieces(first), data(b"next"));
        assert_eq!(log.pieces(second), data(b"earlyits answer"));
        assert_eq!(log.connections[0].late, [(second, 5)]);
        assert_eq!((ledger.gaps, ledger.payload_bytes_dropped), (0, 0));
        // In order, nothing is late.
        talk.segments.swap(0, 1);
        let (log, _) = feed(Limits::default(), &talk.segments);
        assert_eq!(log.connections[0].late, []);
    }
}

/// A download of hours is no reason to end the direction that asked for it.
#[test]
fn a_half_that_is_silent_is_not_closed() {
    let mut talk = started();
    talk.client(b"ask");
    for _ in 0..8 {
        talk.wait(Duration::from_mins(30));
        talk.server(b"x");
    }
    talk.wait(Duration::from_mins(30));
    talk.client(b"more");
    talk.server(b"y");
    let ledger = check(
        &talk.segments,
        "10.0.0.1:40000 10.0.0.2:80 Handshake
         >>> askmore Cut
         <<< xxxxxxxxy Cut",
    );
    assert_eq!((ledger.connections, ledger.connections_midstream), (1, 0));
}

/// Found by the fuzzer: the second SYN-ACK opened the half again, which then ended twice.
#[test]
fn a_half_that_ended_does_not_begin_again() {
    let mut talk = Conversation::new("10.0.0.1:40000", "10.0.0.2:80");
    talk.handshake();
    talk.fin(Direction::ToClient);
    for index in [1, 3] {
        let mut again = talk.segments[index].clone();
        again.at = talk.now;
        again.seq.0 += 500;
        talk.segments.push(again);
    }
    let (log, _) = feed(Limits::default(), &talk.segments);
    for logged in &log.connections {
        for way in Direction::BOTH {
            let pieces = &logged.halves[way].pieces;
            let is_end = |piece: &&Piece| matches!(piece, Piece::Fin | Piece::Reset | Piece::Cut);
            assert_eq!(pieces.iter().filter(is_end).count(), 1, "{pieces:?}");
        }
    }
}
