//! A conversation in words, for who looks into a finding.

use std::fmt;

use tapedeck_model::{Direction, Message, Role};

use super::network::captured_of;
use super::verdict::Heard;

/// What an input of [`conversation`](super::conversation()) says, what of it was captured, and what
/// the engine made of that.
#[must_use]
pub fn tell(bytes: &[u8]) -> impl fmt::Display {
    Told(Heard::new(bytes))
}

struct Told(Heard);

impl fmt::Display for Told {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heard = &self.0;
        for (number, plan) in heard.plans.iter().enumerate() {
            writeln!(out, "conversation {number}, ends with {:?}", plan.close)?;
            for call in &plan.calls {
                let (request, response) = (&call.request, &call.response);
                writeln!(
                    out,
                    "  {} {}: {} bytes up to {}; {}{} {} bytes up to {}",
                    call.method,
                    call.id,
                    request.body.len(),
                    request.end,
                    if call.interim { "103, " } else { "" },
                    call.status,
                    response.body.len(),
                    response.end,
                )?;
            }
        }
        out.write_str("captured\n")?;
        for segment in &heard.segments {
            let Some((number, plan)) = heard
                .plans
                .iter()
                .enumerate()
                .find(|(number, _)| captured_of(*number, segment))
            else {
                continue;
            };
            let direction = if segment.source.port == 80 {
                Direction::ToClient
            } else {
                Direction::ToServer
            };
            let from = segment.seq.0.wrapping_sub(plan.first[direction]) as i32;
            let acked = segment.ack.0.wrapping_sub(plan.first[!direction]) as i32;
            writeln!(
                out,
                "  {number} {} {from}..{} ack {acked} {:?} {:?}",
                if direction == Direction::ToServer {
                    '>'
                } else {
                    '<'
                },
                from + segment.payload.len() as i32,
                segment.flags,
                String::from_utf8_lossy(&segment.payload),
            )?;
        }
        out.write_str("read\n")?;
        for (exchange, bodies) in &heard.tape.exchanges {
            writeln!(
                out,
                "  {:?} {}",
                exchange.connection.client, exchange.stream
            )?;
            let sides = [
                (Role::Request, &exchange.request),
                (Role::Response, &exchange.response),
            ];
            for ((role, message), body) in sides.into_iter().zip(bodies) {
                let missing = exchange.missing(role);
                writeln!(
                    out,
                    "    {role:?} {missing:?} {:?}",
                    message.as_ref().map(told)
                )?;
                if !body.is_empty() {
                    writeln!(out, "      {:?}", String::from_utf8_lossy(body))?;
                }
            }
        }
        writeln!(out, "anomalies {:?}", heard.ledger.anomalies)?;
        Ok(())
    }
}

fn told(message: &Message) -> String {
    let head = message.head.as_ref();
    let head = head.map(|head| String::from_utf8_lossy(&head.raw).into_owned());
    format!("{head:?} {:?}", message.body.gaps)
}
