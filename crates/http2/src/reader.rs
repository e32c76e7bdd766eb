//! The reader of one connection.

use tapedeck_model::{
    Anomaly, Direction, Event, EventSink, Gap, Input, Missing, PerDirection, Timestamp,
};

use crate::Limits;
use crate::block::{Block, Purpose};
use crate::frame::{self, Flags, FrameHead, Kind, StreamId};
use crate::framing::{Data, Frame, Framer, Piece, TornData};
use crate::hpack::{Decoder, Section};
use crate::messages::{BodyPiece, Fields, Loss, Messages, Scene};
use crate::scan::Expect;
use crate::search::{Found, Search};
use crate::settings::{Announced, Settings};

/// How HTTP/2 began on a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Start {
    /// With the preface (prior knowledge), or unseen: what comes tells.
    Detect,
    /// By an HTTP/1 Upgrade to h2c. The request of stream 1 was HTTP/1 and is not read here; its
    /// response is.
    Upgraded,
}

/// Reads both directions of one HTTP/2 connection.
///
/// ```text
///   Input ──► Framer ──┬─ DATA ────────────────────────────► Messages ──► Event
///               ▲ │    ├─ HEADERS… ─► Block ─► Decoder ────►    │
///               │ ▼    └─ RST_STREAM, GOAWAY ──────────────►  StreamTable
///             Search
/// ```
#[derive(Debug)]
pub struct Reader {
    limits: Limits,
    halves: PerDirection<Half>,
    messages: Messages,
}

/// What belongs to one direction.
#[derive(Debug)]
struct Half {
    framer: Framer,
    search: Search,
    decoder: Decoder,
    /// Nothing was missed and nothing decoded yet: the table is empty if the connection is seen from
    /// its beginning.
    untouched: bool,
    /// The field block that is not complete yet.
    block: Option<Block>,
    /// CONTINUATIONs may come whose beginning was missed.
    orphans: bool,
    /// What the side announced that sends in this direction.
    settings: Settings,
    /// The side said its preface.
    preface: bool,
    over: bool,
}

impl Reader {
    /// A reader for a connection.
    #[must_use]
    pub fn new(limits: Limits, start: Start) -> Self {
        let half = |direction| Half {
            framer: Framer::new(direction),
            search: Search::default(),
            decoder: Decoder::unknown(limits.header_table),
            untouched: true,
            block: None,
            orphans: false,
            settings: Settings::new(),
            preface: false,
            over: false,
        };
        let halves = PerDirection {
            to_server: half(Direction::ToServer),
            to_client: half(Direction::ToClient),
        };
        let mut messages = Messages::new(&limits);
        if start == Start::Upgraded {
            messages.open_upgraded();
        }
        Self {
            limits,
            halves,
            messages,
        }
    }

    /// What happens next in one direction. Nothing that follows the end of it is read.
    pub fn push(
        &mut self,
        at: Timestamp,
        direction: Direction,
        input: Input<'_>,
        out: &mut impl EventSink,
    ) {
        if self.halves[direction].over {
            return;
        }
        let mut scene = Scene { direction, at, out };
        match input {
            Input::Data(bytes) => self.bytes(&mut scene, bytes),
            Input::Gap(gap) => self.gap(&mut scene, gap),
            Input::Fin | Input::Reset => self.end(&mut scene, Missing::ABORTED),
            Input::Cut => self.end(&mut scene, Missing::UNFINISHED),
        }
    }

    /// Bytes held.
    #[must_use]
    pub fn memory(&self) -> usize {
        let half = |half: &Half| {
            half.framer.memory()
                + half.search.memory()
                + half.decoder.memory()
                + half.settings.memory()
                + half.block.as_ref().map_or(0, Block::memory)
        };
        size_of::<Self>()
            + half(&self.halves.to_server)
            + half(&self.halves.to_client)
            + self.messages.memory()
    }

    fn bytes<S: EventSink>(&mut self, scene: &mut Scene<'_, S>, bytes: &[u8]) {
        let mut rest = bytes;
        loop {
            if !self.halves[scene.direction].framer.searching() {
                let lost = self.pieces(scene, &mut rest).unwrap_or_default();
                self.halves[scene.direction].search.fill(scene.at, &lost);
            }
            if rest.is_empty() {
                return;
            }
            // Frames are being searched for: in windows, so that what is held stays within bounds.
            let window = self.limits.search_window.max(1);
            let (part, behind) = rest.split_at_checked(window).unwrap_or((rest, &[]));
            self.halves[scene.direction].search.fill(scene.at, part);
            self.search(scene, false);
            rest = behind;
        }
    }

    /// Takes frames off the input until it is consumed or frames have to be searched for; gives bytes
    /// before `input` that have to be searched as well.
    fn pieces<S: EventSink>(
        &mut self,
        scene: &mut Scene<'_, S>,
        input: &mut &[u8],
    ) -> Option<Vec<u8>> {
        loop {
            let framer = &mut self.halves[scene.direction].framer;
            match framer.next(scene.at, input, &self.limits)? {
                Piece::Preface => {
                    self.halves[scene.direction].preface = true;
                    self.messages.streams.seen_from_beginning(scene.direction);
                }
                Piece::Frame(frame) => self.frame(scene, frame),
                Piece::Data(data) => self.data(scene, &data),
                Piece::Lost(bytes) => {
                    let half = &self.halves[scene.direction];
                    let began = half.preface || !half.untouched;
                    self.lose(
                        scene,
                        if began {
                            Loss::Malformed
                        } else {
                            Loss::Predates
                        },
                    );
                    return Some(bytes);
                }
            }
        }
    }

    /// Searches for frames in what is held, and reads what is found. `last`: no byte will follow.
    fn search<S: EventSink>(&mut self, scene: &mut Scene<'_, S>, last: bool) {
        loop {
            let half = &mut self.halves[scene.direction];
            let window = self.limits.search_window;
            let longest = self.limits.search_frame();
            let expect = Expect {
                max_len: half
                    .framer
                    .max_frame()
                    .map_or(longest, |max| max.min(longest)),
                highest: self.messages.streams.highest(),
                direction: Some(scene.direction),
            };
            let found = if last {
                half.search.run_last(&expect, window)
            } else {
                half.search.run(&expect, window)
            };
            if found == Found::NeedMore {
                return;
            }
            half.framer.found();
            half.orphans = true;
            self.messages.found(scene.direction);
            self.skipped(scene);
            let held = self.halves[scene.direction].search.take();
            let mut lost_at = None;
            for (at, part, end) in held.parts() {
                let mut rest = part;
                let mut scene = Scene {
                    direction: scene.direction,
                    at,
                    out: &mut *scene.out,
                };
                let lost = self.pieces(&mut scene, &mut rest);
                if self.halves[scene.direction].framer.searching() {
                    // What is lost lies before `rest`, within what is held.
                    let before = rest.len() + lost.map_or(0, |lost| lost.len());
                    lost_at = Some(end.saturating_sub(before));
                    break;
                }
            }
            let Some(place) = lost_at else {
                return;
            };
            self.halves[scene.direction].search.take_back(held, place);
        }
    }

    fn skipped<S: EventSink>(&mut self, scene: &mut Scene<'_, S>) {
        let direction = scene.direction;
        let len = self.halves[direction].search.take_skipped();
        if len > 0 {
            scene.say(Event::Skipped { direction, len });
        }
    }

    fn gap<S: EventSink>(&mut self, scene: &mut Scene<'_, S>, gap: Gap) {
        if self.halves[scene.direction].framer.searching() {
            self.search(scene, true);
        }
        let half = &mut self.halves[scene.direction];
        if half.framer.searching() {
            self.skipped(scene);
            return self.lose(scene, Loss::Gap(gap));
        }
        let torn = half.framer.tear(gap);
        if let Some(frame) = torn.frame {
            self.torn_frame(scene, &frame, gap);
        }
        if let Some(data) = torn.data {
            self.torn_data(scene, data, gap);
        }
        if torn.framing_lost {
            self.lose(scene, Loss::Gap(gap));
        }
    }

    /// Frames of this direction may have been missed.
    fn lose<S: EventSink>(&mut self, scene: &mut Scene<'_, S>, loss: Loss) {
        let cause = match loss {
            Loss::Predates => Missing::PREDATES_CAPTURE,
            Loss::Gap(gap) => gap.cause.into(),
            Loss::Malformed => Missing::MALFORMED,
        };
        let half = &mut self.halves[scene.direction];
        half.framer.lose();
        if half.untouched && !half.preface {
            scene.anomaly(None, Anomaly::NoPreface);
        }
        if loss == Loss::Malformed {
            scene.anomaly(None, Anomaly::MalformedFrame);
        }
        if let Some(block) = half.block.take() {
            self.block(scene, block, cause);
        }
        let half = &mut self.halves[scene.direction];
        half.untouched = false;
        half.decoder.desynchronise();
        half.settings.forget();
        // What this side announced, or acknowledged, may have been missed.
        let other = &mut self.halves[!scene.direction];
        other.settings.forget();
        other.framer.forget_max_frame();
        self.messages.lose(scene, loss);
    }

    fn end<S: EventSink>(&mut self, scene: &mut Scene<'_, S>, cause: Missing) {
        if self.halves[scene.direction].framer.searching() {
            self.search(scene, true);
            self.skipped(scene);
        }
        let half = &mut self.halves[scene.direction];
        half.over = true;
        half.search = Search::default();
        let torn = half.framer.tear(Gap {
            len: 0,
            cause: tapedeck_model::GapCause::Lost,
        });
        if let Some(frame) = torn.frame.filter(|frame| frame.head.has_fields()) {
            self.torn_fields(scene, &frame, cause);
        }
        if let Some(block) = self.halves[scene.direction].block.take() {
            self.block(scene, block, cause);
        }
        self.messages.close(scene, cause);
    }

    fn frame<S: EventSink>(&mut self, scene: &mut Scene<'_, S>, frame: Frame<'_>) {
        let head = frame.head;
        self.begin_frame(scene, &head);
        if !head.well_formed() {
            scene.anomaly(None, Anomaly::MalformedFrame);
            if head.has_fields() {
                self.halves[scene.direction].decoder.desynchronise();
            }
            return;
        }
        match head.kind {
            Kind::Headers | Kind::PushPromise => self.block_begins(scene, &frame),
            Kind::Continuation => self.block_goes_on(scene, &frame),
            Kind::RstStream => {
                let code = frame::number(&frame.payload);
                self.messages.reset(scene, head.stream, code);
            }
            Kind::Settings => self.settings(scene, &frame),
            Kind::GoAway => self.go_away(scene, &frame),
            // They change nothing that is read here.
            Kind::Priority | Kind::Ping | Kind::WindowUpdate | Kind::Unknown(_) => {}
            Kind::Data => debug_assert!(false, "DATA comes in pieces"),
        }
    }

    /// What holds for frames of all types.
    fn begin_frame<S: EventSink>(&mut self, scene: &mut Scene<'_, S>, head: &FrameHead) {
        let half = &mut self.halves[scene.direction];
        if half.framer.max_frame().is_some_and(|max| head.len > max) {
            let stream = (head.stream != StreamId::CONNECTION).then_some(head.stream);
            scene.anomaly(stream, Anomaly::FrameTooLarge);
        }
        if head.kind == Kind::Continuation {
            return;
        }
        half.orphans = false;
        if let Some(block) = half.block.take() {
            scene.anomaly(Some(block.stream), Anomaly::InterruptedFieldBlock);
            self.block(scene, block, Missing::MALFORMED);
        }
    }

    fn data<S: EventSink>(&mut self, scene: &mut Scene<'_, S>, data: &Data<'_>) {
        let head = data.head;
        if data.first {
            self.begin_frame(scene, &head);
        }
        if !head.well_formed() {
            if data.first {
                scene.anomaly(None, Anomaly::MalformedFrame);
            }
            return;
        }
        let end_stream = data.last && head.flags.contains(Flags::END_STREAM);
        let piece = if data.malformed {
            scene.anomaly(Some(head.stream), Anomaly::MalformedFrame);
            BodyPiece::Malformed
        } else {
            BodyPiece::Bytes(data.bytes)
        };
        self.messages.data(scene, head.stream, piece, end_stream);
    }

    fn torn_data<S: EventSink>(&mut self, scene: &mut Scene<'_, S>, data: TornData, gap: Gap) {
        let head = data.head;
        if data.first {
            self.begin_frame(scene, &head);
        }
        if !head.well_formed() {
            return;
        }
        let piece = match data.missing {
            Some(0) => BodyPiece::Bytes(&[]),
            missing => BodyPiece::Gap(Gap {
                len: missing.unwrap_or(0),
                ..gap
            }),
        };
        let end_stream = data.last && head.flags.contains(Flags::END_STREAM);
        self.messages.data(scene, head.stream, piece, end_stream);
    }

    fn torn_frame<S: EventSink>(&mut self, scene: &mut Scene<'_, S>, frame: &Frame<'_>, gap: Gap) {
        let head = frame.head;
        self.begin_frame(scene, &head);
        if !head.well_formed() {
            return;
        }
        match head.kind {
            Kind::Headers | Kind::PushPromise | Kind::Continuation => {
                self.torn_fields(scene, frame, gap.cause.into());
            }
            Kind::RstStream => self.messages.reset(scene, head.stream, None),
            Kind::Settings if !head.flags.contains(Flags::ACK) => {
                self.halves[scene.direction].settings.forget();
                self.halves[!scene.direction].framer.forget_max_frame();
            }
            Kind::GoAway => self.go_away(scene, frame),
            _ => {}
        }
    }

    /// A frame with a part of a field block of which only the beginning is there, for that cause.
    fn torn_fields<S: EventSink>(
        &mut self,
        scene: &mut Scene<'_, S>,
        frame: &Frame<'_>,
        cause: Missing,
    ) {
        let head = frame.head;
        let half = &mut self.halves[scene.direction];
        let fragment = frame::fragment(&head, &frame.payload);
        let block = if head.kind == Kind::Continuation {
            let (fields, _) = fragment.unwrap_or_default();
            let block = half
                .block
                .take()
                .filter(|block| block.stream == head.stream);
            block.map(|mut block| {
                block.add(fields, self.limits.field_block);
                block
            })
        } else {
            let (fields, promised) = fragment.unwrap_or_default();
            let mut block = Block::new(&head, promised, frame.first);
            block.add(fields, self.limits.field_block);
            // Without the promised stream there is nobody to give the fields to.
            (head.kind == Kind::Headers || promised != StreamId::CONNECTION).then_some(block)
        };
        half.orphans = !head.flags.contains(Flags::END_HEADERS);
        half.untouched = false;
        match block {
            Some(block) => self.block(scene, block, cause),
            None => half.decoder.desynchronise(),
        }
    }

    fn settings<S: EventSink>(&mut self, scene: &mut Scene<'_, S>, frame: &Frame<'_>) {
        let (direction, limit) = (scene.direction, self.limits.pending_settings);
        if frame.head.flags.contains(Flags::ACK) {
            return self.halves[!direction].settings.acknowledge();
        }
        let half = &mut self.halves[direction];
        if direction == Direction::ToClient && half.untouched && !half.preface {
            half.preface = true;
            self.messages.streams.seen_from_beginning(direction);
        }
        let cut = frame.payload.len() < frame.head.len as usize;
        let Ok(announced) = Announced::read(&frame.payload) else {
            return scene.anomaly(None, Anomaly::MalformedFrame);
        };
        if cut {
            half.settings.forget();
            scene.anomaly(None, Anomaly::MalformedFrame);
        } else if !half.settings.announce(announced, limit) {
            scene.anomaly(None, Anomaly::TooManySettings);
        }
        if let Some(len) = announced.max_frame {
            self.halves[!direction].framer.raise_max_frame(len);
        }
    }

    fn go_away<S: EventSink>(&mut self, scene: &mut Scene<'_, S>, frame: &Frame<'_>) {
        if let Some(last) = frame::number(&frame.payload) {
            self.messages
                .go_away(scene, StreamId(last & (u32::MAX >> 1)));
        }
    }

    fn block_begins<S: EventSink>(&mut self, scene: &mut Scene<'_, S>, frame: &Frame<'_>) {
        let head = frame.head;
        let Ok((fields, promised)) = frame::fragment(&head, &frame.payload) else {
            scene.anomaly(Some(head.stream), Anomaly::MalformedFrame);
            return self.torn_fields(scene, frame, Missing::MALFORMED);
        };
        let mut block = Block::new(&head, promised, frame.first);
        let cut = frame.payload.len() < head.len as usize;
        if head.flags.contains(Flags::END_HEADERS) && !cut {
            // The usual case: nothing to put together, nothing to copy.
            self.decode(scene, &block, fields, Missing::NONE);
            return;
        }
        block.add(fields, self.limits.field_block);
        if head.flags.contains(Flags::END_HEADERS) {
            self.block(scene, block, Missing::PARTIAL);
        } else {
            block.overflowed |= cut;
            self.halves[scene.direction].block = Some(block);
        }
    }

    fn block_goes_on<S: EventSink>(&mut self, scene: &mut Scene<'_, S>, frame: &Frame<'_>) {
        let head = frame.head;
        let half = &mut self.halves[scene.direction];
        let Some(mut block) = half.block.take_if(|block| block.stream == head.stream) else {
            if !half.orphans {
                scene.anomaly(Some(head.stream), Anomaly::UnexpectedFrame);
            }
            // Whatever it inserted into the table was not seen.
            self.halves[scene.direction].decoder.desynchronise();
            self.halves[scene.direction].untouched = false;
            return;
        };
        block.add(&frame.payload, self.limits.field_block);
        if head.flags.contains(Flags::END_HEADERS) {
            self.block(scene, block, Missing::NONE);
        } else {
            half.block = Some(block);
        }
    }

    /// A field block that was put together is complete, or will never be, for that cause.
    fn block<S: EventSink>(&mut self, scene: &mut Scene<'_, S>, mut block: Block, cause: Missing) {
        let mut missing = cause;
        if block.overflowed {
            missing.insert(Missing::PARTIAL);
        }
        let fields = std::mem::take(&mut block.fields);
        self.decode(scene, &block, &fields, missing);
    }

    /// Decodes a field block; with something missing, `fields` is its beginning.
    fn decode<S: EventSink>(
        &mut self,
        scene: &mut Scene<'_, S>,
        block: &Block,
        fields: &[u8],
        missing: Missing,
    ) {
        self.start_decoder(scene.direction);
        let half = &mut self.halves[scene.direction];
        let mut section = Section::new(self.limits.field_section, fields.len());
        let before = half.decoder.table_size();
        let outcome = if missing.is_empty() {
            half.decoder.decode(fields, &mut section)
        } else {
            half.decoder.decode_torn(fields, &mut section)
        };
        let after = half.decoder.table_size();
        let peer = &mut self.halves[!scene.direction].settings;
        let allowed = peer.allow(before, outcome.resized, after);
        let mut missing = missing;
        if outcome.broken && missing.is_empty() {
            missing.insert(Missing::MALFORMED);
        }
        if section.overflowed {
            missing.insert(Missing::PARTIAL);
        }
        for (seen, anomaly) in [
            (outcome.error || !allowed, Anomaly::HpackError),
            (outcome.unknown, Anomaly::HpackUnknownEntry),
            (
                missing.contains(Missing::PARTIAL),
                Anomaly::FieldSectionTooLarge,
            ),
        ] {
            if seen {
                scene.anomaly(Some(block.stream), anomaly);
            }
        }
        let fields = Fields {
            section,
            first_byte: block.first_byte,
            missing,
            end_stream: block.end_stream,
        };
        match block.purpose {
            Purpose::Message => self.messages.fields(scene, block.stream, fields),
            Purpose::Promise(promised) => self.messages.promise(scene, promised, fields),
        }
    }

    /// The first block of a connection that is seen from its beginning meets an empty table. For
    /// the server that is certain once the client's preface was seen, which comes before any response.
    fn start_decoder(&mut self, direction: Direction) {
        let from_beginning =
            self.halves[Direction::ToServer].preface && self.halves[direction].preface;
        let half = &mut self.halves[direction];
        if std::mem::replace(&mut half.untouched, false) && from_beginning {
            half.decoder = Decoder::fresh(self.limits.header_table);
        }
    }
}
