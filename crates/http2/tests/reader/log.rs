//! What the reader said, in a form that does not depend on how bodies were cut.

use std::collections::BTreeMap;

use tapedeck_http2::{Limits, Reader, Start};
use tapedeck_model::{
    Anomaly, Direction, Event, Gap, GapCause, Head, Input, Missing, Role, StartLine, Timestamp,
};

/// A field; `None` is unknown.
pub(crate) type Pair = (Option<String>, Option<String>);

/// Everything that was said of one message.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Said {
    pub(crate) interim: Vec<Vec<Pair>>,
    pub(crate) head: Option<Vec<Pair>>,
    pub(crate) body: Vec<Part>,
    pub(crate) trailers: Option<Vec<Pair>>,
    pub(crate) end: Option<(Missing, Option<u32>)>,
    pub(crate) absent: Option<Missing>,
    pub(crate) absent_code: Option<u32>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Part {
    Bytes(Vec<u8>),
    Gap(u64),
}

#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Log {
    pub(crate) messages: BTreeMap<(u64, Role), Said>,
    pub(crate) anomalies: Vec<(Option<u64>, Direction, Anomaly)>,
    pub(crate) skipped: [u64; 2],
    pub(crate) pushed: Vec<u64>,
    pub(crate) tunnels: Vec<u64>,
    /// The order of everything, bodies left out.
    pub(crate) order: Vec<String>,
}

impl Log {
    pub(crate) fn message(&self, stream: u64, role: Role) -> &Said {
        &self.messages[&(stream, role)]
    }

    pub(crate) fn named(&self) -> Vec<Anomaly> {
        self.anomalies.iter().map(|anomaly| anomaly.2).collect()
    }

    /// Takes an event, and checks the contract of `model::event`.
    pub(crate) fn take(&mut self, event: Event<'_>) {
        match event {
            Event::Head {
                stream,
                role,
                interim,
                head,
                first_byte,
                at,
            } => {
                assert!(first_byte <= at);
                let said = self.open(stream.0, role, "head");
                assert!(said.head.is_none() && said.body.is_empty() && said.trailers.is_none());
                check_start(&head, role);
                match interim {
                    true => said.interim.push(pairs(&head)),
                    false => said.head = Some(pairs(&head)),
                }
            }
            Event::Body {
                stream, role, data, ..
            } => {
                assert!(!data.is_empty());
                let said = self.open(stream.0, role, "");
                assert!(said.trailers.is_none());
                match said.body.last_mut() {
                    Some(Part::Bytes(bytes)) => bytes.extend(data),
                    _ => said.body.push(Part::Bytes(data.to_vec())),
                }
            }
            Event::BodyGap { stream, role, gap } => {
                let said = self.open(stream.0, role, "gap");
                said.body.push(Part::Gap(gap.len));
            }
            Event::Trailers {
                stream,
                role,
                trailers,
                ..
            } => {
                assert_eq!(trailers.start, StartLine::None);
                let said = self.open(stream.0, role, "trailers");
                assert!(said.trailers.is_none());
                said.trailers = Some(pairs(&trailers));
            }
            Event::End {
                stream, role, end, ..
            } => {
                self.open(stream.0, role, "end").end = Some((end.missing, end.reset_code));
            }
            Event::Absent {
                stream,
                role,
                missing,
                reset_code,
                ..
            } => {
                let said = self.open(stream.0, role, "absent");
                assert_eq!(*said, Said::default());
                said.absent = Some(missing);
                said.absent_code = reset_code;
            }
            Event::Pushed { stream } => self.pushed.push(stream.0),
            Event::Tunnel { stream } => self.tunnels.push(stream.0),
            Event::SwitchToHttp2 { .. } => panic!("that is for HTTP/1"),
            Event::Skipped { direction, len } => self.skipped[direction as usize] += len,
            Event::Anomaly {
                stream,
                direction,
                anomaly,
            } => {
                self.order
                    .push(format!("{direction:?} {stream:?} {anomaly}"));
                self.anomalies
                    .push((stream.map(|key| key.0), direction, anomaly));
            }
        }
    }

    fn open(&mut self, stream: u64, role: Role, what: &str) -> &mut Said {
        if !what.is_empty() {
            self.order.push(format!("{stream} {role:?} {what}"));
        }
        let said = self.messages.entry((stream, role)).or_default();
        assert!(
            said.end.is_none() && said.absent.is_none(),
            "{stream} {role:?} {what} behind its end"
        );
        said
    }

    /// Every message has its end.
    pub(crate) fn check_ends(&self) {
        for (key, said) in &self.messages {
            assert!(
                said.end.is_some() != said.absent.is_some(),
                "{key:?} {said:?}"
            );
            let other = match key.1 {
                Role::Request => Role::Response,
                Role::Response => Role::Request,
            };
            // Stream 1 of an upgraded connection has only a response here.
            assert!(
                key.0 == 1 || self.messages.contains_key(&(key.0, other)),
                "{key:?}"
            );
        }
    }
}

fn check_start(head: &Head, role: Role) {
    let field = |name: &str| head.field(name);
    match role {
        Role::Request => {
            assert!(matches!(head.start, StartLine::Request { .. }));
            assert_eq!(head.method(), field(":method"));
            assert_eq!(head.target(), field(":path"));
        }
        Role::Response => {
            let status = head.status().map(|status| status.to_string());
            let named = field(":status").filter(|_| status.is_some());
            assert_eq!(named, status.as_ref().map(String::as_bytes));
        }
    }
    for field in &head.fields {
        assert!(!field.name_unknown || field.name.len == 0);
        assert!(!field.value_unknown || field.value.len == 0);
    }
}

fn pairs(head: &Head) -> Vec<Pair> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let fields = head.fields.iter().map(|field| {
        (
            (!field.name_unknown).then(|| text(field.name.of(&head.raw))),
            (!field.value_unknown).then(|| text(field.value.of(&head.raw))),
        )
    });
    fields.collect()
}

/// A field that is known.
pub(crate) fn pair(name: &str, value: &str) -> Pair {
    (Some(name.into()), Some(value.into()))
}

/// One step of a conversation.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Bytes(Direction, Vec<u8>),
    Gap(Direction, u64),
    Fin(Direction),
    Reset(Direction),
}

/// Bytes of the client.
pub(crate) fn c(bytes: impl AsRef<[u8]>) -> Step {
    Step::Bytes(Direction::ToServer, bytes.as_ref().to_vec())
}

/// Bytes of the server.
pub(crate) fn s(bytes: impl AsRef<[u8]>) -> Step {
    Step::Bytes(Direction::ToClient, bytes.as_ref().to_vec())
}

pub(crate) const AT: Timestamp = Timestamp::from_nanos(7);

pub(crate) fn input(step: &Step) -> (Direction, Input<'_>) {
    let cause = GapCause::Lost;
    match step {
        Step::Bytes(direction, bytes) => (*direction, Input::Data(bytes)),
        Step::Gap(direction, len) => (*direction, Input::Gap(Gap { len: *len, cause })),
        Step::Fin(direction) => (*direction, Input::Fin),
        Step::Reset(direction) => (*direction, Input::Reset),
    }
}

/// Reads a conversation to its end; both directions are cut then.
pub(crate) fn read_with(limits: &Limits, start: Start, steps: &[Step]) -> Log {
    let mut reader = Reader::new(limits.clone(), start);
    let mut log = Log::default();
    for step in steps {
        let (direction, input) = input(step);
        if !matches!(input, Input::Data([])) {
            reader.push(AT, direction, input, &mut |event: Event<'_>| {
                log.take(event)
            });
        }
    }
    for direction in Direction::BOTH {
        reader.push(AT, direction, Input::Cut, &mut |event: Event<'_>| {
            log.take(event)
        });
    }
    log.check_ends();
    log
}

pub(crate) fn read(steps: &[Step]) -> Log {
    read_with(&Limits::default(), Start::Detect, steps)
}
