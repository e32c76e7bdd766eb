//! Reads a capture with the engine alone, keeps nothing, and says what it found. The benchmark of the
//! wire side runs it. `-` is the standard input.
//!
//! ```text
//! cargo run --release -p tapedeck-exchange --example read -- FILE [KEYLOG]
//! ```

#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::error::Error;
use std::fs::File;
use std::io::{self, Read};

use tapedeck_exchange::{Engine, Limits, Recorder};
use tapedeck_model::{BodyPart, Exchange, UnreadConnection};
use tapedeck_packet::CaptureReader;

#[derive(Default)]
struct Count {
    exchanges: u64,
    whole: u64,
    body_bytes: u64,
    unread: u64,
}

impl Recorder for Count {
    fn body_part(&mut self, _part: &BodyPart) {}

    fn exchange(&mut self, exchange: &Exchange) {
        self.exchanges += 1;
        self.whole += u64::from(exchange.complete());
        for message in [&exchange.request, &exchange.response]
            .into_iter()
            .flatten()
        {
            self.body_bytes += message.body.len;
        }
    }

    fn unread(&mut self, _connection: &UnreadConnection) {
        self.unread += 1;
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: read FILE [KEYLOG]")?;
    let input: Box<dyn Read> = match path.as_str() {
        "-" => Box::new(io::stdin().lock()),
        path => Box::new(File::open(path)?),
    };
    let mut capture = CaptureReader::open(input)?;
    let mut engine = Engine::new(Limits::default());
    let mut count = Count::default();
    if let Some(path) = std::env::args().nth(2) {
        engine.secrets(&std::fs::read(path)?);
    }
    while let Some(packet) = capture.next_packet()? {
        engine.packet(&packet, &mut count);
    }
    engine.finish(&mut count);
    let Count {
        exchanges,
        whole,
        body_bytes,
        unread,
    } = count;
    println!(
        "{} packets, {exchanges} exchanges, {whole} of them whole, {body_bytes} bytes of bodies, \
         {unread} TLS connections not read",
        engine.ledger().packets_seen
    );
    Ok(())
}
