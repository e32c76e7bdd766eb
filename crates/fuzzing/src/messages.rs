//! The readers of HTTP.

use std::collections::BTreeMap;
use std::time::Duration;

use tapedeck_model::{Direction, Event, Gap, GapCause, Input, Role, StreamKey, Timestamp};

/// What the input says about who speaks: the top bit of a byte is the direction, 0x7f a gap, the rest
/// how many bytes follow.
fn script(mut bytes: &[u8], mut push: impl FnMut(Timestamp, Direction, Input<'_>)) {
    let mut at = Timestamp::EPOCH;
    while let Some((control, rest)) = bytes.split_first() {
        at = at.saturating_add(Duration::from_millis(1));
        let direction = if control & 0x80 == 0 {
            Direction::ToServer
        } else {
            Direction::ToClient
        };
        let len = usize::from(control & 0x7f);
        if len == 0x7f {
            bytes = rest;
            let gap = Gap {
                len: 100,
                cause: GapCause::Lost,
            };
            push(at, direction, Input::Gap(gap));
            continue;
        }
        let (data, behind) = rest.split_at(len.min(rest.len()));
        bytes = behind;
        if !data.is_empty() {
            push(at, direction, Input::Data(data));
        }
    }
    for direction in [Direction::ToServer, Direction::ToClient] {
        push(at, direction, Input::Fin);
    }
}

/// Checks the grammar of [`Event`]: nothing of a message comes behind its end.
#[derive(Default)]
struct Grammar {
    over: BTreeMap<(StreamKey, bool), bool>,
}

impl Grammar {
    fn check(&mut self, event: &Event<'_>) {
        let (stream, role, ends) = match *event {
            Event::Head { stream, role, .. }
            | Event::Body { stream, role, .. }
            | Event::BodyGap { stream, role, .. }
            | Event::Trailers { stream, role, .. } => (stream, role, false),
            Event::End { stream, role, .. } | Event::Absent { stream, role, .. } => {
                (stream, role, true)
            }
            _ => return,
        };
        let over = self
            .over
            .entry((stream, matches!(role, Role::Request)))
            .or_default();
        assert!(!*over, "behind the end of its message: {event:?}");
        *over = ends;
    }
}

/// A connection that speaks HTTP/1.
pub(crate) fn http1(bytes: &[u8]) {
    let mut reader = tapedeck_http1::Reader::new(tapedeck_http1::Limits::default());
    let mut grammar = Grammar::default();
    let mut switched = false;
    script(bytes, |at, direction, input| {
        if !switched {
            reader.push(at, direction, input, &mut |event: Event<'_>| {
                switched |= matches!(event, Event::SwitchToHttp2 { .. });
                grammar.check(&event);
            });
        }
    });
    if !switched {
        assert!(
            grammar.over.values().all(|over| *over),
            "a message without end"
        );
    }
}

/// A connection that speaks HTTP/2, from its beginning or behind an upgrade.
pub(crate) fn http2(bytes: &[u8]) {
    for start in [
        tapedeck_http2::Start::Detect,
        tapedeck_http2::Start::Upgraded,
    ] {
        let mut reader = tapedeck_http2::Reader::new(tapedeck_http2::Limits::default(), start);
        script(bytes, |at, direction, input| {
            reader.push(at, direction, input, &mut |event: Event<'_>| {
                std::hint::black_box(&event);
            });
        });
    }
}
