//! A recording in memory.

use std::time::Duration;

use tapedeck_filter::Filter;
use tapedeck_model::{Missing, Protocol, Timestamp};

use crate::player::outcome::{Cause, NeverSent};
use crate::player::request::{Fields, RecordedRequest, behind_start_line};
use crate::player::schedule::Candidate;
use crate::player::source::{Facts, ReadFailure, Source};
use crate::player::{Options, Report, RunError, StopFlag};

#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) at: Duration,
    pub(super) took: Duration,
    pub(super) connection: u64,
    pub(super) head: String,
    pub(super) pairs: Option<Vec<(String, String)>>,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Option<String>,
    pub(super) status: Option<u16>,
    pub(super) missing: Missing,
    pub(super) tunnel: bool,
    pub(super) readable: bool,
}

/// An HTTP/1 call with that request line, on that connection, that many milliseconds in.
pub(super) fn call(millis: u64, connection: u64, line: &str) -> Call {
    Call {
        at: Duration::from_millis(millis),
        took: Duration::from_millis(1),
        connection,
        head: format!("{line} HTTP/1.1\r\nHost: recorded.example\r\n\r\n"),
        pairs: None,
        body: Vec::new(),
        trailers: None,
        status: Some(200),
        missing: Missing::NONE,
        tunnel: false,
        readable: true,
    }
}

impl Call {
    pub(super) fn head(self, head: &str) -> Self {
        let head = head.to_owned();
        Self { head, ..self }
    }

    pub(super) fn body(self, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Self { body, ..self }
    }

    /// The same as HTTP/2, with these further fields.
    pub(super) fn http2(self, more: &[(&str, &str)]) -> Self {
        let (method, target) = self.method_and_target();
        let mut pairs = vec![
            (":method".to_owned(), method.to_owned()),
            (":scheme".to_owned(), "http".to_owned()),
            (":authority".to_owned(), "recorded.example".to_owned()),
            (":path".to_owned(), target.to_owned()),
        ];
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        pairs.extend(more.iter().map(own));
        Self {
            pairs: Some(pairs),
            ..self
        }
    }

    fn method_and_target(&self) -> (&str, &str) {
        let mut words = self.head.split(' ');
        (words.next().unwrap(), words.next().unwrap())
    }
}

pub(super) struct Recording(pub(super) Vec<Call>);

impl Source for Recording {
    type Scratch = ();

    fn candidates(&self) -> impl Iterator<Item = Candidate<'_>> {
        (0..).zip(&self.0).map(|(id, call)| {
            let (method, target) = call.method_and_target();
            let facts = Facts {
                method: Some(method.as_bytes()),
                target: Some(tapedeck_archive::Target::whole(target.as_bytes())),
                request_missing: call.missing,
                tunnel: call.tunnel,
                pushed: false,
            };
            Candidate {
                id,
                at: Timestamp::EPOCH.saturating_add(call.at),
                took: call.took,
                connection: call.connection,
                method: method.as_bytes(),
                target: tapedeck_archive::Target::whole(target.as_bytes()),
                left_out: facts.left_out(),
            }
        })
    }

    fn unreadable(&self) -> u64 {
        0
    }

    fn recorded_status(&self, id: u64) -> Option<u16> {
        self.0[usize::try_from(id).unwrap()].status
    }

    fn matches(&self, id: u64, _filter: &Filter, (): &mut ()) -> Option<bool> {
        // In tests, filters choose the exchanges with an even id.
        Some(id.is_multiple_of(2))
    }

    fn with_head<T>(
        &self,
        id: u64,
        (): &mut (),
        f: impl FnOnce(&[u8], &Fields<'_>) -> T,
    ) -> Option<T> {
        let call = &self.0[usize::try_from(id).unwrap()];
        let lines = Fields::Lines(behind_start_line(call.head.as_bytes()));
        Some(f(call.method_and_target().1.as_bytes(), &lines))
    }

    fn with_request<T>(
        &self,
        id: u64,
        (): &mut (),
        f: impl FnOnce(&RecordedRequest<'_>) -> T,
    ) -> Result<T, ReadFailure> {
        let call = &self.0[usize::try_from(id).unwrap()];
        if !call.readable {
            return Err(ReadFailure {
                reason: NeverSent::Unreadable,
                cause: Cause::Text("block 7 is damaged"),
            });
        }
        let (method, target) = call.method_and_target();
        assert_ne!(target, "/panic", "on purpose");
        Ok(f(&RecordedRequest {
            protocol: match &call.pairs {
                Some(_) => Protocol::Http2,
                None => Protocol::Http11,
            },
            method: method.as_bytes(),
            target: target.as_bytes(),
            authority: Some(b"recorded.example"),
            fields: match &call.pairs {
                Some(pairs) => Fields::Pairs(
                    pairs
                        .iter()
                        .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
                        .collect(),
                ),
                None => Fields::Lines(behind_start_line(call.head.as_bytes())),
            },
            body: &call.body,
            trailers: call
                .trailers
                .as_ref()
                .map(|trailers| Fields::Lines(trailers.as_bytes())),
        }))
    }
}

/// Runs, and checks what holds for every run.
#[track_caller]
pub(super) fn play(calls: Vec<Call>, options: &Options) -> Report {
    play_until(calls, options, &StopFlag::new())
}

#[track_caller]
pub(super) fn play_until(calls: Vec<Call>, options: &Options, stop: &StopFlag) -> Report {
    let n = calls.len() as u64;
    let report = try_play(calls, options, stop).unwrap();
    let tally = &report.tally;
    assert_eq!(report.recorded, n);
    assert_eq!(
        tally.sent() + tally.never_sent.total() + report.left_out.total(),
        n,
        "{report}"
    );
    assert_eq!(
        tally.trends.http_req_duration.count(),
        tally.answered() + tally.failures.of(crate::player::Failure::TimedOut)
    );
    report
}

/// Runs users, and checks what holds for every run of theirs.
#[track_caller]
pub(super) fn play_users(calls: Vec<Call>, options: &Options) -> Report {
    let report = try_play(calls, options, &StopFlag::new()).unwrap();
    let tally = &report.tally;
    assert_eq!(tally.trends.iteration_duration.count(), tally.iterations());
    assert_eq!(tally.sent(), tally.answered() + tally.failures.total());
    report
}

pub(super) fn try_play(
    calls: Vec<Call>,
    options: &Options,
    stop: &StopFlag,
) -> Result<Report, RunError> {
    crate::player::run::play(Recording(calls), options, stop, |_| {})
}
