//! Server-sent events within a body (the HTML standard, section 9.2), separated for display.

/// An event.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Event {
    /// Where its first line begins in the body.
    pub offset: u64,
    /// Its length in the body, the empty line that ends it included.
    pub len: u64,
    /// Its type; `message` where it has none.
    pub event: String,
    /// Its id, where it has one.
    pub id: Option<String>,
    /// Its data, lines joined.
    pub data: String,
    /// Comment lines, as servers send them to keep a connection alive.
    pub comment: Option<String>,
    /// Whether the empty line that ends it is there.
    pub whole: bool,
}

/// Whether a content type is that of server-sent events.
#[must_use]
pub fn is_event_stream(content_type: &[u8]) -> bool {
    let kind = content_type.split(|byte| *byte == b';').next();
    kind.is_some_and(|kind| kind.trim_ascii().eq_ignore_ascii_case(b"text/event-stream"))
}

/// The events of a body without gaps and codings. Blocks without a field make none.
pub fn events(body: &[u8]) -> impl Iterator<Item = Event> + use<'_> {
    let mut at = if body.starts_with("\u{feff}".as_bytes()) {
        3
    } else {
        0
    };
    std::iter::from_fn(move || {
        loop {
            let start = at;
            let mut event = Event {
                offset: start as u64,
                event: "message".to_owned(),
                ..Event::default()
            };
            let mut said = false;
            let mut has_data = false;
            while let Some((line, next)) = line(body, at) {
                at = next;
                if line.is_empty() {
                    event.whole = true;
                    break;
                }
                said |= take_line(&mut event, &mut has_data, line);
            }
            event.len = (at - start) as u64;
            if said {
                return Some(event);
            }
            if at >= body.len() {
                return None;
            }
        }
    })
}

/// Takes a line into an event; gives whether it says anything.
fn take_line(event: &mut Event, has_data: &mut bool, line: &[u8]) -> bool {
    let line = String::from_utf8_lossy(line);
    let (name, value) = line.split_once(':').unwrap_or((&line, ""));
    let value = value.strip_prefix(' ').unwrap_or(value);
    match name {
        "" => {
            let comment = event.comment.get_or_insert_default();
            if !comment.is_empty() {
                comment.push('\n');
            }
            comment.push_str(value);
        }
        "data" => {
            if std::mem::replace(has_data, true) {
                event.data.push('\n');
            }
            event.data.push_str(value);
        }
        "event" => value.clone_into(&mut event.event),
        "id" => event.id = Some(value.to_owned()),
        // `retry` and whatever else: part of the event, not shown.
        _ => {}
    }
    true
}

/// The line at that place, without its end, and where the next begins. Lines end in LF, CR or both.
fn line(body: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let rest = body.get(at..).filter(|rest| !rest.is_empty())?;
    let Some(len) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) else {
        return Some((rest, body.len()));
    };
    let (line, end) = rest.split_at(len);
    let ending = if end.starts_with(b"\r\n") { 2 } else { 1 };
    Some((line, at + len + ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &str = ": hello\n\ndata: one\n\nevent: seat\r\nid: 7\r\ndata: a\r\ndata:b\r\n\r\n\n\
                        retry: 5\rdata\r\rdata: cut";

    #[test]
    fn events_are_separated() {
        let found: Vec<Event> = events(BODY.as_bytes()).collect();
        let told: Vec<_> = found
            .iter()
            .map(|e| (e.event.as_str(), e.id.as_deref(), e.data.as_str(), e.whole))
            .collect();
        assert_eq!(
            told,
            [
                ("message", None, "", true),
                ("message", None, "one", true),
                ("seat", Some("7"), "a\nb", true),
                ("message", None, "", true),
                ("message", None, "cut", false),
            ]
        );
        assert_eq!(found[0].comment.as_deref(), Some("hello"));
        assert_eq!((found[1].offset, found[1].len), (9, 11));
    }

    #[test]
    fn every_prefix_gives_a_prefix_of_the_events() {
        let all: Vec<Event> = events(BODY.as_bytes()).collect();
        for len in 0..BODY.len() {
            let found: Vec<Event> = events(&BODY.as_bytes()[..len]).collect();
            let whole = found.iter().take_while(|event| event.whole);
            for (event, expected) in whole.zip(&all) {
                assert_eq!(
                    (event.offset, &event.data),
                    (expected.offset, &expected.data)
                );
            }
        }
    }

    #[test]
    fn content_types() {
        assert!(is_event_stream(b"text/event-stream"));
        assert!(is_event_stream(b"Text/Event-Stream ; charset=utf-8"));
        assert!(!is_event_stream(b"text/event-streams") && !is_event_stream(b""));
    }
}
