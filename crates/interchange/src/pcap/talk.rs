//! One connection: TCP, what it speaks, and whose turn it is.

use std::collections::VecDeque;
use std::io::{self, Write};

use tapedeck_archive::HeadView;
use tapedeck_model::{
    Connection, Direction, FlowKey, GapCause, Missing, Origin, PerDirection, Scope,
};

use super::http2;
use super::wire::{Output, Wire};

/// What a connection speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Language {
    Http1,
    Http2,
}

/// A connection under way.
///
/// ```text
///              handshake, or none midstream        preface          close-delimited
///   not begun ─────────────────────────────► open ─────────► Http2 ─┐  body, reset
///       ▲                                     └──────────► Http1 ───┤
///       └───────────────────────────────────────────────────────────┘ if there is more to say
/// ```
#[derive(Debug)]
pub(super) struct Talk {
    wire: Wire,
    begun: bool,
    midstream: bool,
    language: Option<Language>,
    /// A server agreed to go on as HTTP/2.
    pub(super) upgrading: bool,
    /// Exchanges of HTTP/1 whose message in that direction is not over, in their order.
    pub(super) turns: PerDirection<VecDeque<usize>>,
    /// Exchanges that are not over.
    pub(super) remaining: u32,
    pub(super) lane: u32,
    pub(super) flow: FlowKey,
    /// The file ends before some message does.
    unfinished: bool,
    /// Some message was given up by its sender.
    aborted: Option<Direction>,
    /// Header tables of that direction are not known any more to whoever reads.
    desynchronised: PerDirection<bool>,
    /// Bytes of HTTP/2 bodies since the last update of the window.
    unannounced: PerDirection<u64>,
    /// The stream on which a server promises others.
    pub(super) parent: u64,
}

/// The window is opened again after that many bytes, which is well before it is full.
const WINDOW_STEP: u32 = 1 << 30;

impl Talk {
    pub(super) fn new(connection: &Connection, lane: u32, remaining: u32) -> Self {
        Self {
            wire: Wire::new(connection.id.0, connection.client, connection.server, lane),
            begun: false,
            midstream: connection.origin != Origin::Handshake,
            language: None,
            upgrading: false,
            turns: PerDirection::default(),
            remaining,
            lane,
            flow: FlowKey::new(connection.client, connection.server, Scope::default()),
            unfinished: false,
            aborted: None,
            desynchronised: PerDirection::default(),
            unannounced: PerDirection::default(),
            parent: 1,
        }
    }

    /// The handshake, where it was seen.
    pub(super) fn open<W: Write>(&mut self, out: &mut Output<'_, W>) -> io::Result<()> {
        self.begun = true;
        if self.midstream {
            return Ok(());
        }
        self.wire.open(out)
    }

    /// Writes bytes of a message.
    pub(super) fn say<W: Write>(
        &mut self,
        direction: Direction,
        language: Language,
        bytes: &[u8],
        comment: Option<&str>,
        out: &mut Output<'_, W>,
    ) -> io::Result<()> {
        self.ready(direction, language, out)?;
        self.wire.send(direction, bytes, comment, out)
    }

    /// Leaves bytes out. Gives whether the reader of the file can tell how many.
    pub(super) fn skip<W: Write>(
        &mut self,
        direction: Direction,
        language: Language,
        len: u64,
        cause: GapCause,
        out: &mut Output<'_, W>,
    ) -> io::Result<bool> {
        self.ready(direction, language, out)?;
        self.wire.skip(direction, len, cause, out)
    }

    /// Whatever was said is acknowledged.
    pub(super) fn pause<W: Write>(&mut self, out: &mut Output<'_, W>) -> io::Result<()> {
        for direction in Direction::BOTH {
            self.wire.acknowledge(direction, out)?;
        }
        Ok(())
    }

    /// Bytes of an HTTP/2 body are about to be said.
    pub(super) fn account<W: Write>(
        &mut self,
        direction: Direction,
        len: u64,
        out: &mut Output<'_, W>,
    ) -> io::Result<()> {
        let unannounced = &mut self.unannounced[direction];
        *unannounced = unannounced.saturating_add(len);
        if *unannounced < WINDOW_STEP.into() {
            return Ok(());
        }
        *unannounced = 0;
        let mut frame = Vec::new();
        http2::window(&mut frame, WINDOW_STEP);
        self.say(!direction, Language::Http2, &frame, None, out)
    }

    /// Sees to it that a field section with unknown fields is not one that nobody can read: where
    /// the file has every byte so far, it has to lose some.
    pub(super) fn make_unknown<W: Write>(
        &mut self,
        direction: Direction,
        head: &HeadView<'_>,
        out: &mut Output<'_, W>,
    ) -> io::Result<()> {
        let unknown = head
            .fields()
            .any(|field| field.name.is_none() || field.value.is_none());
        if !unknown || self.midstream || self.desynchronised[direction] {
            return Ok(());
        }
        self.skip(direction, Language::Http2, LOST_FRAME, GapCause::Lost, out)?;
        self.wire.acknowledge(direction, out)?;
        self.desynchronised[direction] = true;
        let mut frames = Vec::new();
        beacon(&mut frames);
        self.wire.send(direction, &frames, None, out)
    }

    /// A field section of this direction was lost.
    pub(super) fn lost_fields(&mut self, direction: Direction) {
        self.desynchronised[direction] = true;
    }

    /// No more comes in this direction.
    pub(super) fn finish<W: Write>(
        &mut self,
        direction: Direction,
        out: &mut Output<'_, W>,
    ) -> io::Result<()> {
        self.wire.finish(direction, out)
    }

    /// The connection is reset. What is still to be said begins another one.
    pub(super) fn reset<W: Write>(
        &mut self,
        direction: Direction,
        out: &mut Output<'_, W>,
    ) -> io::Result<()> {
        self.wire.reset(direction, out)
    }

    /// Takes note of how a message ended.
    pub(super) fn ended(&mut self, missing: Missing, direction: Direction) {
        self.unfinished |= missing.contains(Missing::UNFINISHED);
        if missing.contains(Missing::ABORTED) {
            self.aborted = Some(direction);
        }
    }

    /// There is nothing more to say.
    pub(super) fn close<W: Write>(&mut self, out: &mut Output<'_, W>) -> io::Result<()> {
        if self.unfinished || !self.begun {
            return Ok(());
        }
        if let Some(direction) = self.aborted {
            return self.wire.reset(direction, out);
        }
        self.wire.finish(Direction::ToClient, out)?;
        self.wire.finish(Direction::ToServer, out)
    }

    /// Sees to it that this direction is open and speaks that language.
    fn ready<W: Write>(
        &mut self,
        direction: Direction,
        language: Language,
        out: &mut Output<'_, W>,
    ) -> io::Result<()> {
        let upgrades = self.upgrading && language == Language::Http2;
        let differs = self.language.is_some_and(|now| now != language) && !upgrades;
        if differs {
            self.wire.reset(direction, out)?;
        }
        if self.begun && self.wire.is_closed(direction) {
            self.begun = false;
            self.midstream = false;
            self.language = None;
            self.upgrading = false;
            self.desynchronised = PerDirection::default();
        }
        if !self.begun {
            self.open(out)?;
        }
        if self.language == Some(language) {
            return Ok(());
        }
        let fresh = self.language.is_some() || !self.midstream;
        self.language = Some(language);
        self.upgrading = false;
        if language == Language::Http2 {
            self.begin_http2(fresh, out)?;
        }
        Ok(())
    }

    fn begin_http2<W: Write>(&mut self, fresh: bool, out: &mut Output<'_, W>) -> io::Result<()> {
        let mut client = Vec::new();
        let mut server = Vec::new();
        if !fresh {
            // Nothing but frames can tell what this is.
            beacon(&mut client);
            beacon(&mut server);
            self.wire.send(Direction::ToServer, &client, None, out)?;
            return self.wire.send(Direction::ToClient, &server, None, out);
        }
        client.extend(http2::PREFACE);
        http2::announce(&mut client, false);
        self.wire.send(Direction::ToServer, &client, None, out)?;
        http2::announce(&mut server, true);
        http2::acknowledge(&mut server);
        self.wire.send(Direction::ToClient, &server, None, out)?;
        client.clear();
        http2::acknowledge(&mut client);
        self.wire.send(Direction::ToServer, &client, None, out)
    }
}

/// As long as the shortest frame.
const LOST_FRAME: u64 = 9;

/// Frames that mean nothing, by which a reader finds its place.
fn beacon(frames: &mut Vec<u8>) {
    for _ in 0..4 {
        http2::window(frames, 1);
    }
}
