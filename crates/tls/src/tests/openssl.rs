//! What OpenSSL says to itself, recorded by `openssl.py` and `openssl_psk.py`: the suites that rustls does not speak.

use std::sync::Arc;

use tapedeck_model::{Direction, Gap, GapCause, Input};

use super::conversations::{Flight, listen, whole};
use crate::{KeyLog, Keys};

struct Case {
    name: &'static str,
    log: Arc<Keys>,
    flights: Vec<Flight>,
}

fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in include_str!("openssl.txt").lines() {
        let (word, rest) = line.split_once(' ').unwrap();
        let direction = match word {
            "#" => continue,
            "case" => {
                cases.push(Case {
                    name: rest,
                    log: Arc::new(Keys::new(Arc::new(KeyLog::new(0)))),
                    flights: Vec::new(),
                });
                continue;
            }
            "keys" => {
                let log = KeyLog::new(10);
                log.add(rest.as_bytes());
                cases.last_mut().unwrap().log = Arc::new(Keys::new(Arc::new(log)));
                continue;
            }
            ">" => Direction::ToServer,
            _ => Direction::ToClient,
        };
        let byte = |at| u8::from_str_radix(&rest[at..at + 2], 16).unwrap();
        let bytes = (0..rest.len()).step_by(2).map(byte).collect();
        cases.last_mut().unwrap().flights.push((direction, bytes));
    }
    cases
}

#[test]
fn every_suite_is_read() {
    let cases = cases();
    assert_eq!(cases.len(), 21);
    let request = "GET /seats ".to_owned() + &"x".repeat(100) + ".";
    let response = "200 OK ".repeat(20) + ".";
    for Case { name, log, flights } in cases {
        let heard = listen(log.clone(), whole(&flights));
        assert_eq!(heard.closed, None, "{name}");
        assert_eq!(heard.text.to_server, request, "{name}");
        assert_eq!(heard.text.to_client, response, "{name}");
        let bytewise = flights.iter().flat_map(|(direction, bytes)| {
            bytes.chunks(1).map(|part| (*direction, Input::Data(part)))
        });
        assert_eq!(listen(log, bytewise), heard, "{name}");
    }
}

#[test]
fn a_lost_record_is_a_gap_and_no_more() {
    for Case { name, log, flights } in cases() {
        let said = flights
            .iter()
            .enumerate()
            .filter(|(_, (direction, _))| *direction == Direction::ToServer)
            .map(|(idx, _)| idx)
            .nth(2)
            .unwrap();
        let gap = Input::Gap(Gap {
            len: flights[said].1.len() as u64,
            cause: GapCause::Lost,
        });
        let inputs = whole(&flights[..said])
            .chain([(Direction::ToServer, gap)])
            .chain(whole(&flights[said + 1..]));
        let heard = listen(log, inputs);
        assert_eq!(
            heard.text.to_server,
            format!("<gap>{}.", "x".repeat(100)),
            "{name}"
        );
    }
}
