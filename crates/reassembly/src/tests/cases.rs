//! One case each: what a capture may show, and what must come out.

use std::time::Duration;

use tapedeck_model::{Anomaly, Connection, Direction, Input, SeqNum, TcpFlags, Timestamp};
use tapedeck_testkit::{Conversation, SegmentBuf};

use super::{Log, Piece, check, check_law, feed};
use crate::{Limits, Reassembler, Sink, Slot};

const UP: Direction = Direction::ToServer;
const DOWN: Direction = Direction::ToClient;

fn talk() -> Conversation {
    Conversation::new("10.0.0.1:40000", "10.0.0.2:80")
}

fn started() -> Conversation {
    let mut talk = talk();
    talk.handshake();
    talk
}

fn data(segments: &[SegmentBuf], text: &[u8]) -> usize {
    segments
        .iter()
        .position(|segment| segment.payload == text)
        .expect("a segment with that text")
}

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
fn a_fast_retransmission_fills_the_hole() {
    let mut talk = started();
    for text in [b"a", b"b", b"c", b"d"] {
        talk.client(text);
    }
    let lost = talk.segments.remove(4);
    talk.segments.push(lost);
    let mut late = talk.segments[6].clone();
    late.at = talk.now;
    talk.segments[6] = late;
    let ledger = check(
        &talk.segments,
        "10.0.0.1:40000 10.0.0.2:80 Handshake
         >>> abcd Cut
         <<< Cut",
    );
    assert_eq!((ledger.gaps, ledger.payload_bytes_duplicate), (0, 0));
}

#[test]
fn an_acknowledged_hole_is_lost_after_the_grace() {
    let mut talk = started();
    talk.client(b"a");
    talk.lose(UP, 5);
    talk.client(b"b");
    talk.ack(DOWN);
    let mut log = Log::default();
    let mut reassembler = Reassembler::new(Limits::default());
    for segment in &talk.segments {
        reassembler.push(&segment.as_segment(), &mut log);
    }
    let acked = talk.segments.last().unwrap().at;
    let due = reassembler.poll_timeout().expect("a grace to wait for");
    assert_eq!(due, acked.saturating_add(Limits::default().ack_grace));
    assert!(!log.text().contains("Lost"), "{}", log.text());
    reassembler.handle_timeout(due, &mut log);
    assert!(log.text().contains(">>> a (5 Lost) b\n"), "{}", log.text());
    check_law(&reassembler);
}

#[test]
fn an_unacknowledged_hole_is_waited_for() {
    let mut talk = started();
    talk.client(b"a");
    talk.lose(UP, 5);
    talk.client(b"b");
    talk.wait(Duration::from_millis(2900));
    talk.client(b"c");
    let ledger = check(
        &talk.segments,
        "10.0.0.1:40000 10.0.0.2:80 Handshake
         >>> a (5 Lost) bc Cut
         <<< Cut",
    );
    // It was the end of the capture that gave it up.
    assert_eq!((ledger.gap_bytes, ledger.gap_bytes_lost), (5, 5));
    talk.wait(Duration::from_secs(3));
    talk.client(b"d");
    let ledger = check(
        &talk.segments,
        "10.0.0.1:40000 10.0.0.2:80 Handshake
         >>> a (5 Limit) bcd Cut
         <<< Cut",
    );
    assert_eq!((ledger.gap_bytes, ledger.gap_bytes_partial), (5, 5));
}

#[test]
fn reverse_data_alone_gives_nothing_up() {
    let mut talk = started();
    let before = talk.next_seq(UP);
    talk.client(b"a");
    talk.lose(UP, 5);
    talk.client(b"b");
    for _ in 0..20 {
        talk.wait(Duration::from_millis(100));
        talk.server(b"x");
        talk.segments.last_mut().unwrap().ack = before;
    }
    let mut late = talk.segments[3].clone();
    late.at = talk.now;
    late.seq = SeqNum(late.seq.0 + 1);
    late.payload = b"12345".to_vec();
    talk.segments.push(late);
    let ledger = check(
        &talk.segments,
        "10.0.0.1:40000 10.0.0.2:80 Handshake
         >>> a12345b Cut
         <<< xxxxxxxxxxxxxxxxxxxx Cut",
    );
    assert_eq!(ledger.gaps, 0);
}

#[test]
fn an_answer_waits_for_its_question() {
    // The queues of the capture are out of step: the answer is seen first.
    let mut talk = started();
    talk.client(b"ask");
    talk.server(b"answer");
    talk.segments.swap(3, 4);
    let mut log = Log::default();
    let mut reassembler = Reassembler::new(Limits::default());
    for segment in &talk.segments[..4] {
        reassembler.push(&segment.as_segment(), &mut log);
    }
    assert_eq!(log.pieces(DOWN), [], "the answer waits");
    reassembler.push(&talk.segments[4].as_segment(), &mut log);
    assert!(
        log.text().ends_with(">>> ask\n<<< answer\n"),
        "{}",
        log.text()
    );
    assert_eq!(check_law(&reassembler).gaps, 0);
}

#[test]
fn an_answer_waits_only_for_the_grace() {
    let mut talk = started();
    talk.lose(UP, 3);
    talk.server(b"answer");
    talk.wait(Duration::from_millis(200));
    talk.server(b" and more");
    let mut log = Log::default();
    let mut reassembler = Reassembler::new(Limits::default());
    for segment in &talk.segments {
        reassembler.push(&segment.as_segment(), &mut log);
    }
    assert!(
        log.text().ends_with(">>> (3 Lost)\n<<< answer and more\n"),
        "{}",
        log.text()
    );
}

#[test]
fn acknowledgments_that_contradict_each_other_do_not_block() {
    // Each side claims to have received what the other never sent.
    let mut talk = started();
    let (up, down) = (talk.next_seq(UP), talk.next_seq(DOWN));
    talk.client(b"a");
    talk.segments.last_mut().unwrap().ack = SeqNum(down.0 + 100);
    talk.server(b"b");
    talk.segments.last_mut().unwrap().ack = SeqNum(up.0 + 100);
    talk.wait(Duration::from_millis(200));
    talk.client(b"c");
    let mut log = Log::default();
    let mut reassembler = Reassembler::new(Limits::default());
    for segment in &talk.segments {
        reassembler.push(&segment.as_segment(), &mut log);
    }
    assert!(
        log.text().contains('a') && log.text().contains('b'),
        "{}",
        log.text()
    );
    check_law(&reassembler);
}

#[test]
fn a_lost_fin_is_not_a_lost_byte() {
    let mut talk = started();
    talk.client(b"ask");
    talk.fin(UP);
    talk.segments.pop();
    talk.ack(DOWN);
    talk.wait(Duration::from_secs(1));
    talk.server(b"bye");
    talk.fin(DOWN);
    let ledger = check(
        &talk.segments,
        "10.0.0.1:40000 10.0.0.2:80 Handshake
         >>> ask Cut
         <<< bye Fin",
    );
    assert_eq!(ledger.gaps, 0);
}

#[test]
fn the_lost_end_of_a_message_is_told() {
    let mut talk = started();
    talk.server(b"head");
    talk.lose(DOWN, 10);
    talk.ack(UP);
    talk.wait(Duration::from_secs(1));
    talk.client(b"next");
    let ledger = check(
        &talk.segments,
        "10.0.0.1:40000 10.0.0.2:80 Handshake
         >>> next Cut
         <<< head (10 Lost) Cut",
    );
    assert_eq!(ledger.gap_bytes_lost, 10);
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
fn snaplen_cuts_are_gaps_in_their_place() {
    let mut talk = started();
    talk.client(b"0123456789");
    talk.client(b"abcdef");
    talk.client(b"xyz");
    for segment in &mut talk.segments[3..6] {
        *segment = segment.clone().snapped(4);
    }
    let expected = "10.0.0.1:40000 10.0.0.2:80 Handshake
         >>> 0123 (6 Snaplen) abcd (2 Snaplen) xyz Cut
         <<< Cut";
    let ledger = check(&talk.segments, expected);
    assert_eq!((ledger.gaps, ledger.gap_bytes_truncated), (2, 8));
    // Out of order as well.
    talk.segments.swap(3, 5);
    for (index, segment) in talk.segments.iter_mut().enumerate() {
        segment.at = Timestamp::from_nanos(index as i64);
    }
    check(&talk.segments, expected);
}

#[test]
fn a_whole_copy_from_a_second_vantage_point_fills_a_cut_that_waits() {
    let mut talk = started();
    talk.client(b"0123456789");
    let whole = talk.segments[3].clone();
    talk.segments[3] = whole.clone().snapped(10);
    talk.segments.push(whole);
    let ledger = check(
        &talk.segments,
        "10.0.0.1:40000 10.0.0.2:80 Handshake
         >>> 0123456789 Cut
         <<< Cut",
    );
    assert_eq!(ledger.payload_bytes_duplicate, 10);
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

/// What a sink was told of data and gaps, in order over both directions.
#[derive(Default)]
struct Order(Vec<String>);

impl Sink for Order {
    fn opened(&mut self, _: Slot, _: Connection) {}

    fn input(&mut self, _: Slot, direction: Direction, _: Timestamp, input: Input<'_>) {
        let arrow = if direction == UP { '>' } else { '<' };
        match input {
            Input::Data(data) => self.0.push(format!("{arrow}{}", data.escape_ascii())),
            Input::Gap(gap) => self.0.push(format!("{arrow}({})", gap.len)),
            Input::Fin | Input::Reset | Input::Cut => {}
        }
    }

    fn anomaly(&mut self, _: Slot, _: Direction, _: Anomaly) {}

    fn closed(&mut self, _: Slot, _: Timestamp) {}
}

/// Whether the grace is over, or the capture, or a limit is reached: what a side said behind a hole
/// comes before the answer to it.
#[test]
fn the_directions_stay_interleaved_behind_holes() {
    let mut talk = started();
    talk.client(b"ask1");
    talk.lose(DOWN, 7);
    talk.client(b"ask2");
    talk.server(b"answer2");
    talk.lose(UP, 4);
    talk.server(b"answer3");
    talk.client(b"ask4");
    talk.lose(DOWN, 7);
    talk.client(b"ask5");
    let order = ">ask1 <(7) >ask2 <answer2 >(4) <answer3 >ask4 <(7) >ask5";
    let grace = Limits::default().ack_grace;
    for later in [None, Some(grace), Some(Duration::from_mins(10))] {
        let mut told = Order::default();
        let mut reassembler = Reassembler::new(Limits::default());
        for segment in &talk.segments {
            reassembler.push(&segment.as_segment(), &mut told);
        }
        if let Some(later) = later {
            reassembler.handle_timeout(talk.now.saturating_add(later), &mut told);
        }
        reassembler.finish(&mut told);
        assert_eq!(told.0.join(" "), order, "{later:?}");
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

/// Found by the fuzzer: the second SYN-ACK opened the half again, which then ended twice.
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

/// What both directions said, in the order in which a sink was told.
#[derive(Default)]
struct Turns(Vec<String>);

impl Sink for Turns {
    fn opened(&mut self, _: Slot, _: Connection) {}

    fn input(&mut self, _: Slot, direction: Direction, _: Timestamp, input: Input<'_>) {
        let way = if direction == UP { '>' } else { '<' };
        self.0.push(match input {
            Input::Data(data) => format!("{way}{}", String::from_utf8_lossy(data)),
            Input::Gap(gap) => format!("{way}gap {}", gap.len),
            Input::Fin | Input::Reset | Input::Cut => return,
        });
    }

    fn anomaly(&mut self, _: Slot, _: Direction, _: Anomaly) {}

    fn closed(&mut self, _: Slot, _: Timestamp) {}
}

/// What is told of the segments but for those with these texts; and `late`, much later.
fn turns(segments: &[SegmentBuf], lost: &[&[u8]], late: bool) -> String {
    let mut turns = Turns::default();
    let mut reassembler = Reassembler::new(Limits::default());
    for segment in segments {
        if !lost.contains(&segment.payload.as_slice()) {
            reassembler.push(&segment.as_segment(), &mut turns);
        }
    }
    if late {
        let mut now = segments.last().expect("a segment").at;
        for _ in 0..100 {
            now = now.saturating_add(Duration::from_millis(50));
            reassembler.handle_timeout(now, &mut turns);
        }
    }
    reassembler.finish(&mut turns);
    turns.0.join(" ")
}

/// Of an answer and the request behind it that were both lost, either may be told first.
fn in_any_order(turns: String) -> String {
    turns
        .replace(">gap 4 <gap 7", "<gap 7 >gap 4")
        .replace(">gap 8 <gap 7", "<gap 7 >gap 8")
}

#[test]
fn losses_of_both_directions_are_told_in_turn() {
    let mut talk = started();
    for turn in 1..=3 {
        talk.client(format!("ask{turn}").as_bytes());
        talk.server(format!("answer{turn}").as_bytes());
    }
    let segments = &talk.segments;
    for late in [false, true] {
        assert_eq!(
            in_any_order(turns(segments, &[b"answer1", b"ask2"], late)),
            ">ask1 <gap 7 >gap 4 <answer2 >ask3 <answer3"
        );
        assert_eq!(
            turns(segments, &[b"ask1", b"answer2"], late),
            ">gap 4 <answer1 >ask2 <gap 7 >ask3 <answer3"
        );
        assert_eq!(
            in_any_order(turns(segments, &[b"ask2", b"answer2", b"ask3"], late)),
            ">ask1 <answer1 <gap 7 >gap 8 <answer3"
        );
        // Nothing came behind the last one.
        assert_eq!(
            in_any_order(turns(segments, &[b"answer2", b"ask3"], late)),
            ">ask1 <answer1 >ask2 <gap 7 >gap 4 <answer3"
        );
    }
}

#[test]
fn a_lost_fin_does_not_hide_a_lost_request() {
    let mut talk = started();
    for turn in 1..=3 {
        talk.client(format!("ask{turn}").as_bytes());
        talk.server(format!("answer{turn}").as_bytes());
    }
    talk.ack(UP);
    talk.fin(UP);
    let fin = talk.segments.len() - 1;
    talk.fin(DOWN);
    talk.ack(UP);
    talk.segments.remove(fin);
    for late in [false, true] {
        assert_eq!(
            in_any_order(turns(&talk.segments, &[b"answer2", b"ask3"], late))
                .trim_end_matches(" >gap 1"),
            ">ask1 <answer1 >ask2 <gap 7 >gap 4 <answer3"
        );
    }
}

#[test]
fn an_acknowledgment_outlives_what_is_held_up() {
    // The grace for ask4 ends while ask2 and ask3 wait for answer1; answer4 must not overtake.
    let mut talk = started();
    for turn in 1..=4 {
        talk.client(format!("ask{turn}").as_bytes());
        talk.server(format!("answer{turn}").as_bytes());
    }
    for late in [false, true] {
        assert_eq!(
            in_any_order(turns(
                &talk.segments,
                &[b"answer1", b"answer3", b"ask4"],
                late
            )),
            ">ask1 <gap 7 >ask2 <answer2 >ask3 <gap 7 >gap 4 <answer4"
        );
    }
}

#[test]
fn a_lost_handshake_does_not_hide_a_lost_answer() {
    let mut talk = started();
    talk.client(b"ask1ask2");
    talk.server(b"answer1");
    talk.server(b"answer2");
    assert_eq!(
        turns(&talk.segments[3..], &[b"answer1"], true),
        ">ask1ask2 <gap 7 <answer2"
    );
}

/// Whatever is lost of a few turns: what was captured reaches the reader.
#[test]
fn no_loss_takes_captured_bytes_with_it() {
    let mut talk = started();
    for _ in 0..3 {
        talk.client(b"ask ");
        talk.client(b"me");
        talk.server(b"ans");
        talk.server(b"wer");
    }
    talk.ack(UP);
    let (begin, rest) = talk.segments.split_at(3);
    assert!(rest.len() < 16, "2 to that power are tried");
    for lost in 0..1_u32 << rest.len() {
        let captured = (rest.iter().enumerate()).filter(|(at, _)| lost >> at & 1 == 0);
        let captured = captured.map(|(_, segment)| segment);
        let segments: Vec<_> = begin.iter().chain(captured).cloned().collect();
        let (_, ledger) = feed(Limits::default(), &segments);
        assert_eq!(ledger.payload_bytes_dropped, 0, "without {lost:b}");
    }
}
