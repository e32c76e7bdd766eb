//! Generated conversations, with bytes or whole messages of them lost: pairs are never wrong.

use proptest::prelude::*;
use tapedeck_model::{Role, StartLine};

use super::log::Item;
use super::loss::{CHUNKED, GET_A, OK};
use super::*;

/// A message of a generated conversation, and how it reads.
#[derive(Clone, Debug)]
struct Exchange {
    request: Vec<u8>,
    response: Vec<u8>,
}

/// An exchange whose request and response name each other: the target is `/ID`, the reason is ID.
fn exchange(id: usize, kind: (u8, u8, u8), body: &[u8], last: bool) -> Exchange {
    let (ask, interim, answer) = kind;
    let framed = |body: &[u8], chunked: bool| {
        if !chunked {
            return [
                format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes(),
                body,
            ]
            .concat();
        }
        let mut framed = b"Transfer-Encoding: chunked\r\n\r\n".to_vec();
        for chunk in body.chunks(5) {
            framed.extend(format!("{:x};e\r\n", chunk.len()).bytes());
            framed.extend_from_slice(chunk);
            framed.extend_from_slice(b"\r\n");
        }
        framed.extend_from_slice(b"0\r\nSum: 1\r\n\r\n");
        framed
    };
    let method = ["GET", "HEAD", "POST", "PUT"][usize::from(ask % 4)];
    let mut request = format!("{method} /{id} HTTP/1.1\r\nHost: h\r\n").into_bytes();
    match method {
        "POST" => request.extend(framed(body, true)),
        "PUT" => request.extend(framed(body, false)),
        _ => request.extend_from_slice(b"\r\n"),
    }
    let mut response = Vec::new();
    for _ in 0..interim % 3 {
        response.extend(format!("HTTP/1.1 103 {id}\r\nA: b\r\n\r\n").bytes());
    }
    let status = if answer % 5 == 4 { 304 } else { 200 };
    response.extend(format!("HTTP/1.1 {status} {id}\r\nDate: x\r\n").bytes());
    let framed = match answer % 5 {
        3 if last => [b"\r\n", body].concat(),
        0 | 3 => framed(body, false),
        _ => framed(body, answer % 5 == 1),
    };
    let bodiless = method == "HEAD" || status == 304;
    let head_len = if framed.starts_with(b"\r\n") {
        2
    } else {
        let end = framed.windows(4).position(|four| four == b"\r\n\r\n");
        end.unwrap() + 4
    };
    response.extend_from_slice(if bodiless {
        &framed[..head_len]
    } else {
        &framed
    });
    Exchange { request, response }
}

#[derive(Clone, Debug)]
struct Talk {
    exchanges: Vec<Exchange>,
    /// How many requests are sent before their responses.
    burst: usize,
}

/// Bodies with whole heads in them.
const ANY_TEXT: &str =
    "([ -~]|\r\n|\r\nHTTP/1\\.1 200 9\r\n\r\n|\r\nGET /9 HTTP/1\\.1\r\n\r\n){0,30}";

/// Bodies with parts of heads in them. Where a loss ends right before a whole head in a body,
/// nothing tells it from a message; and while part of one may be a message, no request is paired.
const TEXT: &str =
    "([ -~]|\r\n|HTTP/1\\.1 200 9\r\nno head\r\n|GET /9 HTTP/1\\.1\r\nno head\r\n){0,30}";

const PLAIN: &str = "([ -~]|\r\n){0,60}";

fn any_talk(
    text: &'static str,
    burst: impl Strategy<Value = usize>,
) -> impl Strategy<Value = Talk> {
    let one = ((0..4_u8, 0..3_u8, 0..5_u8), text);
    (proptest::collection::vec(one, 1..7), burst).prop_map(|(kinds, burst)| {
        let count = kinds.len();
        let exchanges = kinds
            .into_iter()
            .enumerate()
            .map(|(id, (kind, body))| exchange(id, kind, body.as_bytes(), id + 1 == count))
            .collect();
        Talk { exchanges, burst }
    })
}

impl Talk {
    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for burst in self.exchanges.chunks(self.burst) {
            let request = |one: &Exchange| Step::Data(Direction::ToServer, one.request.clone());
            let response = |one: &Exchange| Step::Data(Direction::ToClient, one.response.clone());
            steps.extend(burst.iter().map(request));
            steps.extend(burst.iter().map(response));
        }
        steps
    }

    fn len(&self, direction: Direction) -> usize {
        let len = |one: &Exchange| match direction {
            Direction::ToServer => one.request.len(),
            Direction::ToClient => one.response.len(),
        };
        self.exchanges.iter().map(len).sum()
    }
}

/// The steps without some bytes of one direction: a gap for each part of each input.
fn with_gap(steps: &[Step], direction: Direction, from: usize, len: usize) -> Vec<Step> {
    let (mut lossy, mut offset) = (Vec::new(), 0);
    for step in steps {
        let data = match step {
            Step::Data(own, data) if *own == direction => data,
            other => {
                lossy.push(other.clone());
                continue;
            }
        };
        let cut = |at: usize| at.saturating_sub(offset).min(data.len());
        let (start, end) = (cut(from), cut(from + len));
        lossy.push(Step::Data(direction, data[..start].to_vec()));
        if start < end {
            lossy.push(Step::Gap(direction, (end - start) as u64));
        }
        lossy.push(Step::Data(direction, data[end..].to_vec()));
        offset += data.len();
    }
    lossy
}

/// The steps without those whose bit is set.
fn without(steps: &[Step], lost: u32) -> Vec<Step> {
    let steps = steps.iter().enumerate();
    let lossy = steps.map(|(index, step)| match step {
        Step::Data(direction, data) if lost >> index & 1 == 1 => {
            Step::Gap(*direction, data.len() as u64)
        }
        other => other.clone(),
    });
    lossy.collect()
}

/// A loss is told when something comes behind it; that of a request at the latest when the server,
/// which acknowledges it, says something, and with `acknowledged` that of a response as well when
/// the client does.
fn told_late(steps: &[Step], acknowledged: bool) -> Vec<Step> {
    let (mut late, mut to_server, mut to_client) = (Vec::new(), 0, 0);
    for step in steps {
        match step {
            Step::Gap(Direction::ToServer, len) => to_server += len,
            Step::Gap(Direction::ToClient, len) => to_client += len,
            Step::Data(_, data) if data.is_empty() => {}
            other => {
                let answer = matches!(other, Step::Data(Direction::ToClient, _));
                let mut tell = |direction, len: &mut u64| {
                    if *len > 0 {
                        late.push(Step::Gap(direction, std::mem::take(len)));
                    }
                };
                if acknowledged && !answer {
                    tell(Direction::ToClient, &mut to_client);
                }
                tell(Direction::ToServer, &mut to_server);
                if answer {
                    tell(Direction::ToClient, &mut to_client);
                }
                late.push(other.clone());
            }
        }
    }
    late
}

/// The ids in the two heads of every exchange that has both.
fn pairs(log: &Log) -> Vec<(String, String)> {
    let head = |key, role| {
        log.messages.get(&(key, role)).and_then(|items| {
            items.iter().find_map(|item| match item {
                Item::Head {
                    interim: false,
                    head,
                } => Some(head),
                _ => None,
            })
        })
    };
    let keys = log
        .messages
        .keys()
        .filter(|(_, role)| *role == Role::Request);
    keys.filter_map(|(key, _)| {
        let (request, response) = (head(*key, Role::Request)?, head(*key, Role::Response)?);
        let target = str::from_utf8(request.target()?).unwrap();
        let StartLine::Response { reason, .. } = response.start else {
            panic!("a response has a status line");
        };
        let reason = str::from_utf8(reason.of(&response.raw)).unwrap();
        Some((target.trim_start_matches('/').to_owned(), reason.to_owned()))
    })
    .collect()
}

/// Every gap of a few lengths, everywhere: pairs are never wrong. `exact`: and no exchange suffers
/// that lost no byte.
fn check_gaps(talk: &Talk, exact: bool) -> Result<(), TestCaseError> {
    let steps = talk.steps();
    for direction in Direction::BOTH {
        let total = talk.len(direction);
        for from in (0..total).step_by(3) {
            for len in [1, 7, 40, 120, 300] {
                let lossy = with_gap(&steps, direction, from, len);
                let log = read(&lossy, Limits::default());
                let pairs = pairs(&log);
                for (request, response) in &pairs {
                    prop_assert_eq!(request, response, "{} from {}:\n{}", len, from, log.text());
                }
                if !exact {
                    continue;
                }
                let (mut offset, mut touched) = (0, 0);
                for one in &talk.exchanges {
                    let own = match direction {
                        Direction::ToServer => one.request.len(),
                        Direction::ToClient => one.response.len(),
                    };
                    touched += usize::from(from < offset + own && offset < from + len);
                    offset += own;
                }
                prop_assert!(
                    pairs.len() + touched >= talk.exchanges.len(),
                    "{} {:?} from {}: {} touched\n{:?}\n{}",
                    len,
                    direction,
                    from,
                    touched,
                    lossy,
                    log.text()
                );
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn a_client_that_waits_loses_only_what_was_hit(talk in any_talk(PLAIN, Just(1))) {
        check_gaps(&talk, true)?;
    }

    #[test]
    fn no_gap_mispairs(talk in any_talk(TEXT, 1..5_usize)) {
        check_gaps(&talk, false)?;
    }

    #[test]
    fn lost_messages_do_not_mispair(talk in any_talk(PLAIN, 1..5_usize)) {
        let steps = talk.steps();
        for lost in 0..1_u32 << (2 * talk.exchanges.len()).min(12) {
            let lossy = without(&steps, lost);
            for acknowledged in [false, true] {
                let log = read(&told_late(&lossy, acknowledged), Limits::default());
                for (request, response) in pairs(&log) {
                    prop_assert_eq!(request, response, "{:b} {}\n{}", lost, acknowledged, log.text());
                }
            }
        }
    }

    #[test]
    fn any_split_reads_the_same(talk in any_talk(ANY_TEXT, 1..5_usize), lens in proptest::collection::vec(1..40_usize, 1..8)) {
        let steps = talk.steps();
        let reference = read(&steps, Limits::default());
        prop_assert_eq!(pairs(&reference).len(), talk.exchanges.len(), "{}", reference.text());
        prop_assert!(!reference.text().contains("http1-"), "{}", reference.text());
        prop_assert_eq!(&read(&in_pieces(&steps, 1), Limits::default()), &reference);
        let mut pieces = Vec::new();
        let mut lens = lens.iter().cycle();
        for step in &steps {
            let Step::Data(direction, mut data) = step.clone() else { continue };
            while !data.is_empty() {
                let rest = data.split_off((*lens.next().unwrap()).min(data.len()));
                pieces.push(Step::Data(direction, data));
                data = rest;
            }
        }
        prop_assert_eq!(&read(&pieces, Limits::default()), &reference);
    }

    #[test]
    fn anything_is_read(
        steps in proptest::collection::vec(
            (
                any::<bool>(),
                prop_oneof![
                    4 => prop_oneof![
                        Just(GET_A.to_owned()),
                        Just("CONNECT a:1 HTTP/1.1\r\n\r\n".to_owned()),
                        Just("GET /w HTTP/1.1\r\nUpgrade: w\r\n\r\n".to_owned()),
                        Just("POST /p HTTP/1.1\r\nContent-Length: 5\r\n\r\nab".to_owned()),
                        Just("POST /p HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab".to_owned()),
                        Just("GET /old\r\n".to_owned()),
                    ].prop_map(|text| (0, text)),
                    4 => prop_oneof![
                        Just(OK.to_owned()),
                        Just(format!("{CHUNKED}2\r\nab")),
                        Just("HTTP/1.1 101 S\r\nUpgrade: w\r\n\r\n".to_owned()),
                        Just("HTTP/1.1 100 C\r\n\r\n".to_owned()),
                        Just("HTTP/1.1 204 N\r\n\r\n".to_owned()),
                        Just("HTTP/1.0 200 OK\r\n\r\nx".to_owned()),
                    ].prop_map(|text| (1, text)),
                    3 => "[\r\n0-9a-zA-Z: /.]{0,9}".prop_map(|text| (2, text)),
                    2 => (0..9_u64).prop_map(|len| (3, len.to_string())),
                    1 => (4..7_u8).prop_map(|close| (close, String::new())),
                ],
            ),
            0..14,
        ),
        piece in 1..30_usize,
    ) {
        let steps: Vec<_> = steps
            .into_iter()
            .map(|(either, (kind, text))| {
                let any = if either { Direction::ToServer } else { Direction::ToClient };
                match kind {
                    0 => Step::Data(Direction::ToServer, text.into_bytes()),
                    1 => Step::Data(Direction::ToClient, text.into_bytes()),
                    2 => Step::Data(any, text.into_bytes()),
                    3 => Step::Gap(any, text.parse().unwrap()),
                    4 => Step::Close(any, Close::Fin),
                    5 => Step::Close(any, Close::Reset),
                    _ => Step::Close(any, Close::Cut),
                }
            })
            .collect();
        let small = Limits { head: 48, lines: 4, outstanding: 2, undecided: 20 };
        for limits in [Limits::default(), small] {
            // The grammar and the bound of memory are checked by reading.
            let whole = read(&steps, limits);
            let pieces = read(&in_pieces(&steps, piece), limits);
            for direction in Direction::BOTH {
                let given: u64 = steps.iter().map(|step| match step {
                    Step::Data(own, data) if *own == direction => data.len() as u64,
                    _ => 0,
                }).sum();
                // Chunk framing is the only thing that no event stands for.
                for log in [&whole, &pieces] {
                    prop_assert!(log.accounted(direction) <= given, "{}", log.text());
                }
            }
        }
    }
}
