//! What is lost, cut or late, and how both directions are told of it.

use std::time::Duration;

use tapedeck_model::{Anomaly, Connection, Direction, Input, SeqNum, Timestamp};
use tapedeck_testkit::SegmentBuf;

use super::{DOWN, Log, UP, check, check_law, feed, started};
use crate::{Limits, Reassembler, Sink, Slot};

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
