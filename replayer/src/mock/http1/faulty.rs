//! Answers that go wrong on purpose, in HTTP/1.

use std::time::Duration;

use tokio::time::Instant;

use super::super::answer::{Http1Client, Wire};
use super::super::chaos::{Effect, Harm, Pace, Place};
use super::super::connection::Line;
use super::super::responder::{Reply, scaled};

/// How an answer ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum End {
    /// The connection goes on.
    GoOn,
    /// It ends in order.
    Close,
    /// It is reset.
    Reset,
    /// The client is gone.
    Gone,
}

/// Sends an answer with its faults. `factor`: that of recorded times. The recorded pauses within a
/// body give way to those of the fault.
pub(crate) async fn send(
    line: &mut Line,
    reply: &Reply,
    effect: &Effect,
    client: Http1Client,
    factor: Option<f64>,
) -> End {
    let first_byte = reply.first_byte();
    let recorded = factor.map_or(Duration::ZERO, |factor| scaled(first_byte, factor));
    let delay = effect.delay.saturating_add(recorded).min(LONGEST);
    if !delay.is_zero() && !line.pause_until(Instant::now() + delay).await {
        return End::Gone;
    }
    if let Some(Harm::Goaway { .. }) = effect.harm {
        return End::Close;
    }
    let mut wire = reply.answer.http1_wire(client);
    if reply.head_only {
        wire.leave_head();
    }
    let cut = hurt(&mut wire, effect.harm);
    let (before, behind) = wire.bytes.split_at(cut.min(wire.bytes.len()));
    if !send_paced(line, before, effect.pace).await {
        return End::Gone;
    }
    match effect.harm {
        Some(Harm::Reset { .. }) => return End::Reset,
        Some(Harm::Cut { .. }) => return End::Close,
        Some(Harm::Stall { time: None, .. }) => {
            line.outlast().await;
            return End::Gone;
        }
        Some(Harm::Stall {
            time: Some(time), ..
        }) if !line.pause_until(Instant::now() + time.min(LONGEST)).await => return End::Gone,
        _ => {}
    }
    if !send_paced(line, behind, effect.pace).await {
        return End::Gone;
    }
    if wire.close { End::Close } else { End::GoOn }
}

/// Changes the bytes as the harm wants it, and says where the answer stops.
fn hurt(wire: &mut Wire, harm: Option<Harm>) -> usize {
    match harm {
        Some(Harm::Reset { at, .. } | Harm::Cut { at } | Harm::Stall { at, .. }) => {
            offset(wire, at)
        }
        Some(Harm::Length(by)) => {
            let length = i64::try_from(wire.body.len()).unwrap_or(i64::MAX);
            let stated = length.saturating_add(by).max(0);
            wire.reframe(&format!("Content-Length: {stated}"), b"");
            wire.bytes.len()
        }
        Some(Harm::MalformedChunk) => {
            wire.reframe("Transfer-Encoding: chunked", b"no number\r\n");
            wire.bytes.len()
        }
        Some(Harm::MissingTrailers) => {
            wire.bytes.drain(wire.trailers.clone());
            wire.bytes.len()
        }
        Some(Harm::Goaway { .. }) | None => wire.bytes.len(),
    }
}

fn offset(wire: &Wire, at: Place) -> usize {
    match at {
        Place::BeforeHead => 0,
        Place::InHead => wire.head / 2,
        Place::AfterHead => wire.head,
        Place::Body(bytes) => wire.body.start + bytes.min(wire.body.len().saturating_sub(1)),
    }
}

async fn send_paced(line: &mut Line, bytes: &[u8], pace: Option<Pace>) -> bool {
    let Some(pace) = pace else {
        return line.send(&mut Vec::new(), bytes).await;
    };
    let mut due = Instant::now();
    for part in bytes.chunks(pace.bytes.max(1)) {
        if !line.pause_until(due).await || !line.send(&mut Vec::new(), part).await {
            return false;
        }
        due += pace.every.min(LONGEST);
    }
    true
}

/// Longer than any client waits; a timer holds it.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
