//! What holds for every input.

use proptest::prelude::*;
use tapedeck_model::{Direction, Gap, GapCause, PerDirection, SeqNum, Timestamp};
use tapedeck_testkit::{Conversation, Faults, Rng, SegmentBuf};

use super::{Log, Piece, check_law, feed};
use crate::{Limits, Reassembler};

/// A conversation of turns: who says how many bytes.
fn turns() -> impl Strategy<Value = Vec<(bool, usize)>> {
    proptest::collection::vec((any::<bool>(), 1_usize..60), 1..20)
}

/// What was said, and its segments: handshake first, then turns in segments of at most `mss`.
fn converse(
    turns: &[(bool, usize)],
    mss: usize,
    isn: u32,
) -> (PerDirection<Vec<u8>>, Conversation) {
    let mut said = PerDirection::<Vec<u8>>::default();
    let mut talk = Conversation::new("10.0.0.1:40000", "10.0.0.2:80").with_isn(isn, isn ^ 0x55);
    talk.mss = mss;
    talk.step = std::time::Duration::from_micros(10);
    talk.handshake();
    for (index, (up, len)) in turns.iter().enumerate() {
        let direction = if *up {
            Direction::ToServer
        } else {
            Direction::ToClient
        };
        let bytes: Vec<u8> = (0..*len).map(|n| (index * 61 + n * 7) as u8).collect();
        talk.send(direction, &bytes);
        said[direction].extend(bytes);
    }
    (said, talk)
}

/// Numbers the times in the order in which the segments arrive.
fn retime(segments: &mut [SegmentBuf]) {
    for (index, segment) in segments.iter_mut().enumerate() {
        segment.at = Timestamp::from_nanos(index as i64 * 10_000);
    }
}

/// Whole streams, by both FINs.
fn assert_whole(log: &Log, said: &PerDirection<Vec<u8>>) -> Result<(), TestCaseError> {
    for direction in Direction::BOTH {
        let mut expected = vec![Piece::Data(said[direction].clone()), Piece::Fin];
        expected.retain(|piece| *piece != Piece::Data(Vec::new()));
        prop_assert_eq!(log.pieces(direction), &expected);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Any order and any repetition of the segments behind the handshake gives the same streams.
    #[test]
    fn order_and_repetition_do_not_matter(
        turns in turns(), mss in 1_usize..30, isn: u32, seed: u64, window in 1_usize..40,
    ) {
        let (said, mut talk) = converse(&turns, mss, isn);
        talk.close();
        let (start, rest) = talk.segments.split_at(3);
        let faults = Faults { loss: 0, duplicate: 20, reorder: 50, window };
        let mut segments = start.to_vec();
        segments.extend(faults.inject(&mut Rng::new(seed), rest));
        retime(&mut segments);
        let (log, ledger) = feed(Limits::default(), &segments);
        assert_whole(&log, &said)?;
        prop_assert_eq!(ledger.gaps, 0);
        prop_assert_eq!(ledger.payload_bytes_dropped, 0);
        prop_assert_eq!(ledger.anomalies.len(), 0);
    }

    /// However a sender cuts its bytes into segments, overlapping or not, the streams are the same.
    #[test]
    fn cuts_and_overlaps_do_not_matter(
        len in 1_usize..300, isn: u32, pieces in proptest::collection::vec((0_usize..300, 1_usize..80), 0..40),
    ) {
        let stream: Vec<u8> = (0..len).map(|n| (n * 31) as u8).collect();
        let mut talk = Conversation::new("10.0.0.1:40000", "10.0.0.2:80").with_isn(isn, 7);
        talk.handshake();
        let base = talk.next_seq(Direction::ToServer);
        talk.client(&stream);
        let whole = talk.segments.pop().expect("the segment");
        for (start, len) in pieces {
            let start = start % stream.len();
            let mut piece = whole.clone();
            piece.seq = SeqNum(base.0.wrapping_add(start as u32));
            piece.payload = stream[start..(start + len).min(stream.len())].to_vec();
            talk.segments.push(piece);
        }
        talk.segments.push(whole);
        retime(&mut talk.segments);
        let (log, ledger) = feed(Limits::default(), &talk.segments);
        prop_assert_eq!(log.pieces(Direction::ToServer), &[Piece::Data(stream), Piece::Cut]);
        prop_assert_eq!(ledger.anomalies.len(), 0);
    }

    /// One lost segment gives the same streams with exactly one gap, in its place.
    #[test]
    fn one_loss_is_one_gap(turns in turns(), mss in 1_usize..30, isn: u32, which: prop::sample::Index) {
        let (said, mut talk) = converse(&turns, mss, isn);
        talk.close();
        let data: Vec<usize> = (0..talk.segments.len())
            .filter(|index| !talk.segments[*index].payload.is_empty())
            .collect();
        let lost = talk.segments.remove(data[which.index(data.len())]);
        let way = if lost.source.port == 80 { Direction::ToClient } else { Direction::ToServer };
        let first = talk.segments.iter().find(|segment| segment.source == lost.source);
        let first = first.expect("the SYN").seq.0.wrapping_add(1);
        let start = lost.seq.0.wrapping_sub(first) as usize;
        let (log, ledger) = feed(Limits::default(), &talk.segments);
        prop_assert_eq!(ledger.gaps, 1);
        let end = start + lost.payload.len();
        let mut expected = vec![
            Piece::Data(said[way][..start].to_vec()),
            Piece::Gap(Gap { len: lost.payload.len() as u64, cause: GapCause::Lost }),
            Piece::Data(said[way][end..].to_vec()),
            Piece::Fin,
        ];
        expected.retain(|piece| *piece != Piece::Data(Vec::new()));
        prop_assert_eq!(log.pieces(way), &expected);
        let mut other = vec![Piece::Data(said[!way].clone()), Piece::Fin];
        other.retain(|piece| *piece != Piece::Data(Vec::new()));
        prop_assert_eq!(log.pieces(!way), &other);
    }

    /// With any loss: what comes out is what was said, with gaps of the right length, whatever the
    /// order, the limits and the pauses.
    #[test]
    fn loss_keeps_every_byte_in_its_place(
        turns in turns(), mss in 1_usize..30, isn: u32, seed: u64, loss in 1_u8..40,
        memory in 200_usize..5_000, pause in 0_i64..200_000_000,
    ) {
        let (said, mut talk) = converse(&turns, mss, isn);
        talk.close();
        let (start, rest) = talk.segments.split_at(3);
        let faults = Faults { loss, duplicate: 10, reorder: 30, window: 8 };
        let mut segments = start.to_vec();
        segments.extend(faults.inject(&mut Rng::new(seed), rest));
        for (index, segment) in segments.iter_mut().enumerate() {
            segment.at = Timestamp::from_nanos(index as i64 * pause);
        }
        let limits = Limits { max_buffered_per_connection: memory, ..Limits::default() };
        let (log, _) = feed(limits, &segments);
        for way in Direction::BOTH {
            let mut position = 0;
            for piece in log.connections.iter().flat_map(|logged| &logged.halves[way].pieces) {
                match piece {
                    Piece::Data(bytes) => {
                        prop_assert_eq!(
                            bytes.as_slice(),
                            said[way].get(position..position + bytes.len()).unwrap_or_default()
                        );
                        position += bytes.len();
                    }
                    Piece::Gap(gap) => position += gap.len as usize,
                    Piece::Fin => prop_assert!(position >= said[way].len()),
                    Piece::Reset | Piece::Cut => {}
                }
            }
            // One more: a FIN that was lost and acknowledged together with data.
            prop_assert!(position <= said[way].len() + 1);
        }
    }

    /// Nothing that a hostile capture holds makes it panic, hang, break the sink's contract or lose
    /// count of a byte.
    #[test]
    fn anything_goes(
        segments in proptest::collection::vec(
            (any::<bool>(), 0_u32..40, 0_u32..60, any::<u8>(), 0_usize..30, 0_u32..9, 0_i64..9_000),
            1..120,
        ),
        memory in 0_usize..2_000, connections in 1_usize..3, grace in 0_u64..300,
    ) {
        let limits = Limits {
            max_buffered_per_connection: memory,
            max_buffered: memory / 2 + 300,
            max_connections: connections,
            ack_grace: std::time::Duration::from_millis(grace),
            ..Limits::default()
        };
        let mut log = Log::default();
        let mut reassembler = Reassembler::new(limits);
        let mut talk = Conversation::new("10.0.0.1:40000", "10.0.0.2:80");
        talk.client(b"x");
        let mut at = 0;
        for (up, seq, ack, flags, len, cut, pass) in segments {
            at += (pass - 1000) * 1_000_000;
            let mut segment = talk.segments[0].clone();
            if !up {
                std::mem::swap(&mut segment.source, &mut segment.destination);
            }
            segment.source.port ^= u16::from(flags & 0x40 != 0);
            segment.destination.port ^= u16::from(flags & 0x80 != 0);
            segment.at = Timestamp::from_nanos(at);
            segment.seq = SeqNum(if seq == 39 { 0x8000_0000 } else { u32::MAX - 20 }.wrapping_add(seq));
            segment.ack = SeqNum((u32::MAX - 20).wrapping_add(ack));
            // Mostly data, sometimes control.
            segment.flags.0 = if flags & 7 == 0 { flags >> 3 } else { 0x18 };
            segment.payload = vec![flags; len];
            segment.cut = if cut == 8 && seq == 7 { u32::MAX - ack } else { cut.saturating_sub(6) };
            reassembler.push(&segment.as_segment(), &mut log);
            check_law(&reassembler);
            prop_assert!(reassembler.memory() <= (memory * connections).min(memory / 2 + 300));
            prop_assert!(reassembler.connections() <= connections);
            if let Some(due) = reassembler.poll_timeout()
                && flags & 0x18 == 0x18
            {
                reassembler.handle_timeout(due, &mut log);
            }
        }
        reassembler.finish(&mut log);
        check_law(&reassembler);
        prop_assert_eq!((reassembler.memory(), reassembler.connections()), (0, 0));
    }
}
