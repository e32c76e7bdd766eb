//! Events as text that does not depend on how the input was split.

use std::collections::BTreeMap;
use std::fmt::Write;

use tapedeck_model::{Direction, Event, Head, Missing, Role, StreamKey};

/// What happened to one message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in super::super) enum Item {
    Head { interim: bool, head: Head },
    Body(Vec<u8>),
    Gap(u64),
    Trailers(Head),
    End(Missing),
    Absent(Missing),
}

/// All events of a connection, by message.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(in super::super) struct Log {
    pub(super) messages: BTreeMap<(u64, Role), Vec<Item>>,
    notes: Vec<String>,
    skipped: BTreeMap<Direction, u64>,
}

impl Log {
    pub(super) fn add(&mut self, event: &Event<'_>) {
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
                let (interim, head) = (*interim, head.clone());
                self.item(*stream, *role, Item::Head { interim, head });
            }
            Event::Body {
                stream, role, data, ..
            } => {
                assert!(!data.is_empty());
                let items = self.messages.entry((stream.0, *role)).or_default();
                if let Some(Item::Body(body)) = items.last_mut() {
                    body.extend_from_slice(data);
                } else {
                    items.push(Item::Body(data.to_vec()));
                }
            }
            Event::BodyGap { stream, role, gap } => self.item(*stream, *role, Item::Gap(gap.len)),
            Event::Trailers {
                stream,
                role,
                trailers,
                ..
            } => {
                self.item(*stream, *role, Item::Trailers(trailers.clone()));
            }
            Event::End {
                stream, role, end, ..
            } => {
                self.item(*stream, *role, Item::End(end.missing));
            }
            Event::Absent {
                stream,
                role,
                missing,
                ..
            } => {
                self.item(*stream, *role, Item::Absent(*missing));
            }
            Event::Pushed { .. } => panic!("there is no push in HTTP/1"),
            Event::Tunnel { stream } => self.notes.push(format!("{} tunnel", stream.0)),
            Event::SwitchToHttp2 {
                stream,
                direction,
                lost,
                rest,
            } => self.notes.push(format!(
                "{} http2 {}{} {:?}",
                stream.0,
                arrow(*direction),
                if *lost { " lost" } else { "" },
                rest.escape_ascii().to_string()
            )),
            Event::Skipped { direction, len } => {
                assert!(*len > 0);
                *self.skipped.entry(*direction).or_default() += len;
            }
            Event::Anomaly {
                stream,
                direction,
                anomaly,
            } => {
                let stream = stream.map_or("-".to_owned(), |stream| stream.0.to_string());
                self.notes
                    .push(format!("{stream} {} {anomaly}", arrow(*direction)));
            }
        }
    }

    fn item(&mut self, stream: StreamKey, role: Role, item: Item) {
        self.messages
            .entry((stream.0, role))
            .or_default()
            .push(item);
    }

    /// One line a message, then notes, then skipped bytes.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for ((key, role), items) in &self.messages {
            let arrow = if *role == Role::Request { ">" } else { "<" };
            write!(text, "{key} {arrow}").unwrap();
            for item in items {
                match item {
                    Item::Head { interim, head } => {
                        let word = head.status().map_or_else(
                            || match (head.method(), head.target()) {
                                (Some(method), target) => format!(
                                    "{} {}",
                                    method.escape_ascii(),
                                    target.unwrap_or(b"-").escape_ascii()
                                ),
                                _ => "???".to_owned(),
                            },
                            |status| status.to_string(),
                        );
                        if *interim {
                            write!(text, " ({word})").unwrap();
                        } else {
                            write!(text, " {word}").unwrap();
                        }
                    }
                    Item::Body(body) => {
                        write!(text, " {:?}", body.escape_ascii().to_string()).unwrap();
                    }
                    Item::Gap(len) => write!(text, " gap {len}").unwrap(),
                    Item::Trailers(head) => {
                        for (name, value) in head.pairs() {
                            write!(text, " {}={}", name.escape_ascii(), value.escape_ascii())
                                .unwrap();
                        }
                    }
                    Item::End(Missing::NONE) => text += " end",
                    Item::End(missing) => write!(text, " end{missing:?}").unwrap(),
                    Item::Absent(missing) => write!(text, " absent{missing:?}").unwrap(),
                }
            }
            text += "\n";
        }
        let skipped = self.skipped.iter();
        let skipped =
            skipped.map(|(direction, len)| format!("skipped {} {len}", arrow(*direction)));
        let mut notes: Vec<_> = self.notes.iter().cloned().chain(skipped).collect();
        notes.sort();
        text + &notes.join("\n") + if notes.is_empty() { "" } else { "\n" }
    }

    /// Bytes of one direction that some event stands for, chunk framing aside.
    pub(super) fn accounted(&self, direction: Direction) -> u64 {
        let role = match direction {
            Direction::ToServer => Role::Request,
            Direction::ToClient => Role::Response,
        };
        let bytes = |item: &Item| match item {
            Item::Head { head, .. } | Item::Trailers(head) => head.raw.len() as u64,
            Item::Body(body) => body.len() as u64,
            Item::Gap(_) | Item::End(_) | Item::Absent(_) => 0,
        };
        let of_role = self.messages.iter().filter(|((_, own), _)| *own == role);
        let messages: u64 = of_role.flat_map(|(_, items)| items).map(bytes).sum();
        messages + self.skipped.get(&direction).copied().unwrap_or_default()
    }
}

/// Checks that the events of every message come in the order that [`Event`] promises.
#[track_caller]
pub(super) fn check_grammar(log: &Log) {
    let switched = log.notes.iter().any(|note| note.contains(" http2 "));
    for ((key, role), items) in &log.messages {
        let other = if *role == Role::Request {
            Role::Response
        } else {
            Role::Request
        };
        assert!(
            switched || log.messages.contains_key(&(*key, other)),
            "nothing is said about the {other:?} of {key}:\n{}",
            log.text()
        );
        let mut stage = 0;
        for item in items {
            let (from, to) = match item {
                Item::Head { interim: true, .. } => (0..=0, 0),
                Item::Head { interim: false, .. } => (0..=0, 1),
                Item::Body(_) | Item::Gap(_) => (0..=1, 1),
                Item::Trailers(_) => (0..=1, 2),
                Item::End(_) => (0..=2, 3),
                Item::Absent(_) => (0..=0, 3),
            };
            assert!(
                from.contains(&stage),
                "{key} {role:?}: {item:?} comes late:\n{}",
                log.text()
            );
            stage = to;
        }
        let absent = items.iter().any(|item| matches!(item, Item::Absent(_)));
        assert!(
            !absent || items.len() == 1,
            "{key} {role:?} is absent, but not:\n{}",
            log.text()
        );
        let open = switched && *role == Role::Response;
        assert!(
            stage == 3 || open,
            "{key} {role:?} has no end:\n{}",
            log.text()
        );
    }
}

const fn arrow(direction: Direction) -> &'static str {
    match direction {
        Direction::ToServer => ">",
        Direction::ToClient => "<",
    }
}
