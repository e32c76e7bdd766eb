//! What the engine made of it, compared with what was said.

use std::collections::BTreeMap;

use tapedeck_exchange::{Engine, Limits, Recorder};
use tapedeck_model::{
    BodyPart, Direction, Exchange, Head, Ledger, Message, Missing, Role, Scope, UnreadConnection,
};
use tapedeck_packet::{LinkType, RawPacket};
use tapedeck_testkit::{SegmentBuf, wire};

use super::network::{Faults, Seen, captured, merged};
use super::plan::{Call, Close, Plan, Said};
use crate::packets::assert_laws;
use crate::program::Program;

/// Conversations over a network that is not perfect.
pub fn conversation(bytes: &[u8]) {
    Heard::new(bytes).check();
}

/// What was said, what was captured of it, and what the engine made of that.
pub(super) struct Heard {
    pub(super) plans: Vec<Plan>,
    seen: Vec<Seen>,
    pub(super) segments: Vec<SegmentBuf>,
    pub(super) tape: Tape,
    pub(super) ledger: Ledger,
}

impl Heard {
    pub(super) fn new(bytes: &[u8]) -> Self {
        const MOST: usize = 3;
        let mut program = Program::new(bytes);
        let control = program.byte();
        let conversations = 1 + usize::from(control & 0x7f) % MOST;
        let faults = Faults::new(conversations, &mut program);
        // Behind a loss, what looks like a message may be one.
        let tricky = control & 0x80 != 0 && !faults.loss;
        let plans: Vec<Plan> = (0..conversations)
            .map(|number| Plan::new(number, &mut program, tricky))
            .collect();
        let (captures, seen): (Vec<_>, Vec<Seen>) = plans
            .iter()
            .map(|plan| captured(plan, faults, &mut program))
            .unzip();
        let segments = merged(captures, faults, &mut program);
        let (tape, ledger) = read(&segments);
        Self {
            plans,
            seen,
            segments,
            tape,
            ledger,
        }
    }

    fn check(&self) {
        let Self {
            plans,
            seen,
            tape,
            ledger,
            ..
        } = self;
        assert_laws(ledger);
        check_bytes(plans, seen, ledger);
        check_exchanges(plans, seen, tape);
        if seen.iter().all(Seen::is_whole) {
            assert!(ledger.anomalies.is_empty(), "{:?}", ledger.anomalies);
            assert_eq!(ledger.bytes_skipped, 0);
        }
    }
}

/// Keeps everything, with the parts of long bodies put back together.
#[derive(Default)]
pub(super) struct Tape {
    pub(super) exchanges: Vec<(Exchange, [Vec<u8>; 2])>,
    parts: BTreeMap<(u64, Role), Vec<u8>>,
}

impl Recorder for Tape {
    fn body_part(&mut self, part: &BodyPart) {
        let parts = self.parts.entry((part.key, part.role)).or_default();
        parts.extend_from_slice(&part.data);
    }

    fn exchange(&mut self, exchange: &Exchange) {
        let mut body = |role, message: &Option<Message>| {
            let mut body = self.parts.remove(&(exchange.key, role)).unwrap_or_default();
            if let Some(message) = message {
                body.extend_from_slice(&message.body.tail);
                assert_eq!(body.len() as u64, message.body.len);
            }
            body
        };
        let bodies = [
            body(Role::Request, &exchange.request),
            body(Role::Response, &exchange.response),
        ];
        self.exchanges.push((exchange.clone(), bodies));
    }

    fn unread(&mut self, connection: &UnreadConnection) {
        panic!("readable: {connection:?}");
    }
}

fn read(segments: &[SegmentBuf]) -> (Tape, Ledger) {
    let mut engine = Engine::new(Limits::default());
    let mut tape = Tape::default();
    for segment in segments {
        let data = wire::ip(&segment.as_segment());
        let packet = RawPacket {
            at: segment.at,
            link: LinkType::RAW,
            scope: Scope(0),
            data: &data,
            wire_len: u32::try_from(data.len()).unwrap_or(u32::MAX),
        };
        engine.packet(&packet, &mut tape);
    }
    engine.finish(&mut tape);
    assert!(tape.parts.is_empty(), "parts without an exchange");
    (tape, engine.ledger())
}

/// Every byte that was captured is delivered, and every other one that is known to have been sent
/// is in a gap.
fn check_bytes(plans: &[Plan], seen: &[Seen], ledger: &Ledger) {
    let sum = |of: &dyn Fn(&Plan, &Seen, Direction) -> usize| -> u64 {
        let pairs = plans.iter().zip(seen);
        pairs
            .flat_map(|(plan, seen)| Direction::BOTH.map(|direction| of(plan, seen, direction)))
            .sum::<usize>() as u64
    };
    let captured = sum(&|_, seen, direction| seen.bytes(direction));
    let lost = sum(&|plan, seen, direction| plan.said[direction] - seen.bytes(direction));
    assert_eq!(ledger.payload_bytes_delivered, captured, "{ledger:?}");
    assert_eq!(ledger.payload_bytes_dropped, 0, "{ledger:?}");
    assert!(ledger.gap_bytes <= lost, "{ledger:?}, lost {lost}");
    if plans.iter().all(|plan| plan.close == Close::Fin) {
        assert_eq!(ledger.gap_bytes, lost, "{ledger:?}");
    }
    assert_eq!(ledger.connections, plans.len() as u64);
}

/// What one of the plan's calls became.
fn check_exchanges(plans: &[Plan], seen: &[Seen], tape: &Tape) {
    let mut whole: BTreeMap<&str, u32> = BTreeMap::new();
    let calls: BTreeMap<&str, &Call> = plans
        .iter()
        .flat_map(|plan| &plan.calls)
        .map(|call| (call.id.as_str(), call))
        .collect();
    for (exchange, bodies) in &tape.exchanges {
        let asked = id(exchange.request.as_ref(), |head| head.target());
        let answered = id(exchange.response.as_ref(), |head| head.field("x-id"));
        if let (Some(asked), Some(answered)) = (&asked, &answered) {
            assert_eq!(
                asked, answered,
                "a response to another request: {exchange:?}"
            );
        }
        let Some(call) = asked.or(answered).map(|id| calls.get(&*id).copied()) else {
            continue;
        };
        let Some(call) = call else {
            panic!("nobody said that: {exchange:?}");
        };
        let sides = [
            (&call.request, exchange.request.as_ref(), Role::Request),
            (&call.response, exchange.response.as_ref(), Role::Response),
        ];
        for ((said, message, role), body) in sides.into_iter().zip(bodies) {
            if let Some(message) = message {
                check_message(said, message, body, exchange.missing(role));
            }
        }
        if exchange.complete() {
            *whole.entry(call.id.as_str()).or_default() += 1;
            check_heads(call, exchange, seen.iter().all(Seen::is_whole));
        }
    }
    assert!(whole.values().all(|times| *times == 1), "twice: {whole:?}");
    for (plan, seen) in plans.iter().zip(seen) {
        for call in &plan.calls {
            let before_loss = call.request.end <= seen.first_lost(Direction::ToServer)
                && call.response.end <= seen.first_lost(Direction::ToClient);
            assert!(
                !before_loss || whole.contains_key(call.id.as_str()),
                "{} was over before anything was lost, and is not whole: {tape:?}",
                call.id,
            );
        }
    }
}

impl std::fmt::Debug for Tape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.exchanges.iter().map(|(exchange, _)| exchange))
            .finish()
    }
}

fn id(message: Option<&Message>, of: impl Fn(&Head) -> Option<&[u8]>) -> Option<String> {
    let id = of(message?.head.as_ref()?)?;
    Some(String::from_utf8_lossy(id).into_owned())
}

fn check_heads(call: &Call, exchange: &Exchange, nothing_lost: bool) {
    let request = exchange
        .request
        .as_ref()
        .and_then(|message| message.head.as_ref());
    let response = exchange
        .response
        .as_ref()
        .and_then(|message| message.head.as_ref());
    assert_eq!(request.and_then(Head::method), Some(call.method.as_bytes()));
    assert_eq!(response.and_then(Head::status), Some(call.status));
    // All of an interim response may be lost between two messages, and nobody knows.
    let (said, heard) = (usize::from(call.interim), exchange.interim.len());
    assert!(
        heard == said || heard < said && !nothing_lost,
        "{heard} interim"
    );
    assert!(!exchange.tunnel && !exchange.pushed);
}

/// A message is what was said; where it is not whole, every piece of its body that is stored lies
/// in its place.
fn check_message(said: &Said, message: &Message, body: &[u8], missing: Missing) {
    if missing.is_empty() {
        assert!(body == said.body, "whole, with another body: {message:?}");
        assert!(message.body.gaps.is_empty());
        assert_eq!(message.trailers.is_some(), said.has_trailers);
        return;
    }
    // Where the next piece belongs; unknown behind a lost head, and behind a gap of unknown length.
    let mut place = message.head.is_some().then_some(0);
    let mut rest = body;
    let ends = message
        .body
        .gaps
        .iter()
        .map(|gap| (gap.offset, gap.gap.len));
    for (end, gap_len) in ends.chain([(message.body.len, 0)]) {
        let stored = (body.len() - rest.len()) as u64;
        let (piece, behind) = rest.split_at((end - stored) as usize);
        rest = behind;
        let is_there = match place {
            Some(place) => said.body.get(place..place + piece.len()) == Some(piece),
            None => {
                let mut places = said.body.windows(piece.len().max(1));
                piece.is_empty() || places.any(|place| place == piece)
            }
        };
        assert!(
            is_there,
            "{} bytes that do not belong at {place:?}: {:?}",
            piece.len(),
            message.body.gaps
        );
        place = place
            .filter(|_| gap_len > 0)
            .map(|place| place + piece.len() + gap_len as usize);
    }
}

#[cfg(test)]
mod tests;
