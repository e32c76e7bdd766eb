//! From frames on streams to events of messages.

use tapedeck_model::{
    Anomaly, Direction, End, Event, EventSink, Gap, Missing, PerDirection, Role, Timestamp,
};

use crate::Limits;
use crate::frame::StreamId;
use crate::head::Facts;
use crate::hpack::Section;
use crate::stopped::Stopped;
use crate::stream::Phase;
use crate::table::{Closed, Fate, Slot, StreamTable};

/// The messages of one connection.
#[derive(Debug)]
pub(crate) struct Messages {
    pub(crate) streams: StreamTable,
    ways: PerDirection<Way>,
    limit: usize,
    /// How many open streams are without a request: the server answered first, as we saw it.
    unasked: usize,
    pub(crate) stopped: Stopped,
}

/// Where, when and to whom something is said.
pub(crate) struct Scene<'s, S> {
    pub(crate) direction: Direction,
    pub(crate) at: Timestamp,
    pub(crate) out: &'s mut S,
}

/// A field section and what is known of it.
#[derive(Debug)]
pub(crate) struct Fields {
    pub(crate) section: Section,
    /// When its first byte came.
    pub(crate) first_byte: Timestamp,
    /// Why fields behind those of `section` are missing.
    pub(crate) missing: Missing,
    pub(crate) end_stream: bool,
}

/// A part of a DATA frame.
#[derive(Clone, Copy, Debug)]
pub(crate) enum BodyPiece<'a> {
    Bytes(&'a [u8]),
    /// Bytes that are missing; a length of zero: an unknown number.
    Gap(Gap),
    /// The frame contradicts itself.
    Malformed,
}

/// What is known of a direction.
#[derive(Clone, Copy, Debug, Default)]
struct Way {
    /// Why frames of it may have been missed, since its beginning.
    doubt: Missing,
    /// Whether frames are being searched for, and so may be missed now.
    searching: bool,
    /// It is at its end: why nothing more will come.
    over: Option<Missing>,
}

impl Messages {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            streams: StreamTable::new(limits.closed_streams),
            ways: PerDirection::default(),
            limit: limits.streams,
            unasked: 0,
            stopped: Stopped::default(),
        }
    }

    /// Stream 1, whose request came over HTTP/1 (`Upgrade: h2c`): only the response is read here.
    pub(crate) fn open_upgraded(&mut self) {
        let slot = self.streams.insert(StreamId(1));
        self.streams.open(StreamId(1));
        if let Some(stream) = self.streams.get(slot) {
            stream.request.phase = Phase::Ended;
        }
    }

    /// A field section of a HEADERS frame.
    pub(crate) fn fields<S: EventSink>(
        &mut self,
        scene: &mut Scene<'_, S>,
        id: StreamId,
        fields: Fields,
    ) {
        let role = role_of(scene.direction);
        if role == Role::Request && id.opener() == Direction::ToClient {
            return scene.anomaly(Some(id), Anomaly::UnexpectedFrame);
        }
        let facts = Facts::of(&fields.section);
        let slot = match self.streams.fate(id) {
            Fate::Open(slot) => slot,
            Fate::Closed(closed) => return scene.late(id, closed),
            fate @ (Fate::New | Fate::Unseen) => self.open(scene, id, fate, facts.pseudo),
        };
        let Some(stream) = self.streams.get(slot) else {
            return;
        };
        let message = stream.message(role);
        let doubtful = message.phase == Phase::Awaited && !message.missing.is_empty();
        // Pseudo-header fields come first, and a response has but one.
        let says_nothing = facts.first_unknown || fields.section.fields.is_empty();
        match message.phase {
            Phase::Awaited if doubtful && !facts.pseudo && !says_nothing => {
                message.damage(Missing::NONE);
                self.trailers(scene, slot, facts, fields);
            }
            Phase::Awaited if doubtful && !facts.pseudo && fields.end_stream => {
                // A head without a body, or trailers whose head was missed: it cannot be told.
                message.damage(fields.missing);
                message.missing.insert(Missing::UNKNOWN_FIELDS);
                message.spoken = true;
                message.phase = Phase::Body;
                self.asked(role);
                self.end(scene, slot, role);
            }
            Phase::Awaited => self.head(scene, slot, facts, fields),
            Phase::Body if message.heads_again(&facts) => {
                // Either a peer in error, or what we took for the head, with its unknown status, was
                // an interim one.
                if message.unsure {
                    message.missing.insert(Missing::UNKNOWN_FIELDS);
                } else {
                    message.missing.insert(Missing::MALFORMED);
                    scene.anomaly(Some(id), Anomaly::UnexpectedFrame);
                }
                if fields.end_stream {
                    self.end(scene, slot, role);
                }
            }
            Phase::Body => self.trailers(scene, slot, facts, fields),
            Phase::Trailed | Phase::Ended => scene.anomaly(Some(id), Anomaly::UnexpectedFrame),
        }
    }

    /// The request of a stream that the server opens (RFC 9113 section 8.4).
    pub(crate) fn promise<S: EventSink>(
        &mut self,
        scene: &mut Scene<'_, S>,
        id: StreamId,
        fields: Fields,
    ) {
        let fate = self.streams.fate(id);
        let good = scene.direction == Direction::ToClient
            && id.opener() == Direction::ToClient
            && id != StreamId::CONNECTION
            && matches!(fate, Fate::New | Fate::Unseen);
        if !good {
            return scene.anomaly(Some(id), Anomaly::UnexpectedFrame);
        }
        self.make_room(scene);
        let slot = self.streams.insert(id);
        self.streams.open(id);
        self.unasked += 1;
        scene.say(Event::Pushed { stream: id.key() });
        let facts = Facts::of(&fields.section);
        let role = Role::Request;
        self.head_of(scene, slot, role, facts, fields);
        self.end(scene, slot, role);
    }

    /// A part of a DATA frame. `end_stream`: the last of the last.
    pub(crate) fn data<S: EventSink>(
        &mut self,
        scene: &mut Scene<'_, S>,
        id: StreamId,
        piece: BodyPiece<'_>,
        end_stream: bool,
    ) {
        let role = role_of(scene.direction);
        let slot = match self.streams.fate(id) {
            Fate::Open(slot) => slot,
            Fate::Closed(closed) => return scene.late(id, closed),
            fate @ (Fate::New | Fate::Unseen) => {
                let known = self.ways[scene.direction].doubt.is_empty();
                let of_server = id.opener() == Direction::ToClient;
                if known || (of_server && role == Role::Request) {
                    return scene.anomaly(Some(id), Anomaly::UnexpectedFrame);
                }
                self.open(scene, id, fate, false)
            }
        };
        let Some(stream) = self.streams.get(slot) else {
            return;
        };
        let message = stream.message(role);
        match message.phase {
            Phase::Body => {}
            Phase::Awaited => {
                if message.missing.is_empty() {
                    scene.anomaly(Some(id), Anomaly::UnexpectedFrame);
                    message.missing.insert(Missing::MALFORMED);
                }
                message.damage(Missing::NONE);
                message.phase = Phase::Body;
                if role == Role::Request {
                    self.unasked = self.unasked.saturating_sub(1);
                }
            }
            Phase::Trailed | Phase::Ended => {
                return scene.anomaly(Some(id), Anomaly::UnexpectedFrame);
            }
        }
        let stream = id.key();
        match piece {
            BodyPiece::Bytes([]) => {}
            BodyPiece::Bytes(data) => {
                message.add(data.len());
                message.spoken = true;
                let at = scene.at;
                scene.say(Event::Body {
                    stream,
                    role,
                    at,
                    data,
                });
            }
            BodyPiece::Gap(gap) => {
                message.damage(gap.cause.into());
                message.spoken = true;
                scene.say(Event::BodyGap { stream, role, gap });
            }
            BodyPiece::Malformed => message.damage(Missing::MALFORMED),
        }
        if end_stream {
            self.end(scene, slot, role);
        }
    }

    /// RST_STREAM; `code` is `None` where it is lost.
    pub(crate) fn reset<S: EventSink>(
        &mut self,
        scene: &mut Scene<'_, S>,
        id: StreamId,
        code: Option<u32>,
    ) {
        match self.streams.fate(id) {
            Fate::Open(slot) if self.stops(scene, id, slot, code) => {}
            Fate::Open(slot) => self.abort(scene, id, slot, code),
            Fate::New if self.ways[id.opener()].doubt.is_empty() => {
                scene.anomaly(Some(id), Anomaly::UnexpectedFrame);
            }
            Fate::New | Fate::Closed(_) | Fate::Unseen => {}
        }
    }

    /// GOAWAY: what the peer opened above `last` is not processed (RFC 9113 section 6.8).
    pub(crate) fn go_away<S: EventSink>(&mut self, scene: &mut Scene<'_, S>, last: StreamId) {
        let mut after = last;
        while let Some((id, slot)) = self.streams.next(Some(after)) {
            after = id;
            if id.opener() != scene.direction {
                self.abort(scene, id, slot, None);
            }
        }
    }

    /// Frames of this direction may have been missed, or will be until they are found again.
    pub(crate) fn lose<S: EventSink>(&mut self, scene: &mut Scene<'_, S>, cause: Loss) {
        let way = &mut self.ways[scene.direction];
        let missing = match cause {
            Loss::Predates => Missing::PREDATES_CAPTURE,
            Loss::Gap(gap) => gap.cause.into(),
            Loss::Malformed => Missing::MALFORMED,
        };
        way.doubt.insert(missing);
        way.searching = true;
        self.streams.doubt(scene.direction);
        let role = role_of(scene.direction);
        let mut after = None;
        while let Some((id, slot)) = self.streams.next(after) {
            after = Some(id);
            let Some(stream) = self.streams.get(slot) else {
                continue;
            };
            let message = stream.message(role);
            match message.phase {
                Phase::Ended => {}
                Phase::Awaited => message.missing.insert(missing),
                Phase::Body | Phase::Trailed => {
                    message.damage(missing);
                    if let Loss::Gap(gap) = cause {
                        scene.say(Event::BodyGap {
                            stream: id.key(),
                            role,
                            gap: Gap { len: 0, ..gap },
                        });
                    }
                }
            }
        }
    }

    /// Frames were found.
    pub(crate) fn found(&mut self, direction: Direction) {
        self.ways[direction].searching = false;
    }

    /// The direction is at its end, for that cause.
    pub(crate) fn close<S: EventSink>(&mut self, scene: &mut Scene<'_, S>, cause: Missing) {
        self.end_stopped(scene);
        self.ways[scene.direction].over = Some(cause);
        let role = role_of(scene.direction);
        let mut after = None;
        while let Some((id, slot)) = self.streams.next(after) {
            after = Some(id);
            self.give_up(scene, slot, role, cause, None);
        }
    }

    /// Bytes held.
    pub(crate) fn memory(&self) -> usize {
        self.streams.memory()
    }

    /// Opens a stream because of a frame on it, which may be the head that opens it.
    fn open<S: EventSink>(
        &mut self,
        scene: &mut Scene<'_, S>,
        id: StreamId,
        fate: Fate,
        head: bool,
    ) -> Slot {
        if scene.direction == Direction::ToServer {
            self.end_stopped(scene);
        }
        self.make_room(scene);
        let slot = self.streams.insert(id);
        self.unasked += 1;
        let role = role_of(scene.direction);
        let opens = scene.direction == id.opener();
        let Way { doubt, .. } = self.ways[scene.direction];
        let other = self.ways[!scene.direction];
        if let Some(stream) = self.streams.get(slot) {
            // Whatever this frame is: if it is no head, then the head was missed.
            stream.message(role).missing = doubt;
            if other.searching || fate == Fate::Unseen || !opens {
                stream.message(other_role(role)).missing = other.doubt;
            }
        }
        if opens && role == Role::Request {
            if head || doubt.is_empty() {
                self.streams.open(id);
            } else {
                self.streams.open_unseen(id);
            }
            self.end_unasked_below(scene, id);
        }
        if id.opener() == Direction::ToClient {
            // Its PUSH_PROMISE would have come before, in the same direction.
            if let Some(stream) = self.streams.get(slot) {
                stream.request.missing = doubt;
            }
            self.give_up(scene, slot, Role::Request, Missing::NONE, None);
        } else if let Some(cause) = other.over {
            self.give_up(scene, slot, other_role(role), cause, None);
        }
        slot
    }

    /// A stream is no longer without a request, if that is what came.
    fn asked(&mut self, role: Role) {
        if role == Role::Request {
            self.unasked = self.unasked.saturating_sub(1);
        }
    }

    /// Ids are used in order: requests of lower ones that were not seen will not come.
    fn end_unasked_below<S: EventSink>(&mut self, scene: &mut Scene<'_, S>, below: StreamId) {
        // One of them is the stream that is being opened.
        if self.unasked <= 1 {
            return;
        }
        let mut after = None;
        while let Some((id, slot)) = self.streams.next(after).filter(|(id, _)| *id < below) {
            after = Some(id);
            // Where only the head was missed, the rest may come until the response is over.
            let over = self.streams.get(slot).is_some_and(|stream| {
                let doubtful = !stream.request.missing.is_empty();
                stream.request.phase == Phase::Awaited
                    && (!doubtful || stream.response.phase == Phase::Ended)
            });
            if over {
                self.give_up(scene, slot, Role::Request, Missing::NONE, None);
            }
        }
    }

    /// Sees to it that there is room for a stream. The oldest goes: it is likeliest to be one whose
    /// end was missed.
    fn make_room<S: EventSink>(&mut self, scene: &mut Scene<'_, S>) {
        while self.streams.len() >= self.limit.max(1) {
            let Some((id, slot)) = self.streams.next(None) else {
                return;
            };
            scene.anomaly(Some(id), Anomaly::TooManyStreams);
            self.give_up(scene, slot, Role::Request, Missing::PARTIAL, None);
            self.give_up(scene, slot, Role::Response, Missing::PARTIAL, None);
            self.streams.remove(id, Closed::Evicted);
        }
    }

    fn head<S: EventSink>(
        &mut self,
        scene: &mut Scene<'_, S>,
        slot: Slot,
        facts: Facts,
        fields: Fields,
    ) {
        let role = role_of(scene.direction);
        let end_stream = fields.end_stream;
        let interim = self.head_of(scene, slot, role, facts, fields);
        if !end_stream {
            return;
        }
        if interim && let Some(stream) = self.streams.get(slot) {
            // Nothing can follow, yet a final head would have to (RFC 9113 section 8.1).
            let id = stream.id;
            stream.response.damage(Missing::MALFORMED);
            scene.anomaly(Some(id), Anomaly::UnexpectedFrame);
        }
        self.end(scene, slot, role);
    }

    /// Says a head; gives whether it is an interim one.
    fn head_of<S: EventSink>(
        &mut self,
        scene: &mut Scene<'_, S>,
        slot: Slot,
        role: Role,
        facts: Facts,
        fields: Fields,
    ) -> bool {
        let Some(stream) = self.streams.get(slot) else {
            return false;
        };
        let id = stream.id;
        let nothing = fields.section.fields.is_empty() && !fields.missing.is_empty();
        let whole = fields.missing.is_empty();
        let (head, summary, good) = facts.head(fields.section, role, whole);
        let interim = role == Role::Response && matches!(summary.status, Some(100..=199));
        if !interim {
            // The head is here, whatever was feared, if it is one.
            let message = stream.message(role);
            if !facts.first_unknown {
                message.missing = Missing::NONE;
            }
            message.missing.insert(fields.missing);
            if facts.unknown {
                stream.message(role).missing.insert(Missing::UNKNOWN_FIELDS);
            }
            stream.message(role).phase = Phase::Body;
            if !stream.announce(role, &summary) {
                scene.anomaly(Some(id), Anomaly::ContentLengthMismatch);
            }
        }
        stream.message(role).spoken = true;
        let tunnel = stream.opens_tunnel(role, &summary);
        if !interim {
            self.asked(role);
        }
        if nothing {
            return interim;
        }
        if !good {
            scene.anomaly(Some(id), Anomaly::MalformedPseudoHeader);
        }
        let (stream, at) = (id.key(), scene.at);
        scene.say(Event::Head {
            stream,
            role,
            first_byte: fields.first_byte,
            at,
            interim,
            head,
        });
        if tunnel {
            scene.say(Event::Tunnel { stream });
        }
        interim
    }

    fn trailers<S: EventSink>(
        &mut self,
        scene: &mut Scene<'_, S>,
        slot: Slot,
        facts: Facts,
        fields: Fields,
    ) {
        let role = role_of(scene.direction);
        let Some(stream) = self.streams.get(slot) else {
            return;
        };
        let id = stream.id;
        let message = stream.message(role);
        let awaited = std::mem::replace(&mut message.phase, Phase::Trailed) == Phase::Awaited;
        message.spoken = true;
        message.missing.insert(fields.missing);
        if facts.unknown {
            message.missing.insert(Missing::UNKNOWN_FIELDS);
        }
        if !fields.end_stream {
            scene.anomaly(Some(id), Anomaly::UnexpectedFrame);
        }
        if awaited {
            self.asked(role);
        }
        let nothing = fields.section.fields.is_empty() && !fields.missing.is_empty();
        let (trailers, good) = facts.trailers(fields.section);
        if !good {
            scene.anomaly(Some(id), Anomaly::MalformedPseudoHeader);
        }
        if !nothing {
            let at = scene.at;
            scene.say(Event::Trailers {
                stream: id.key(),
                role,
                at,
                trailers,
            });
        }
        if fields.end_stream {
            self.end(scene, slot, role);
        }
    }

    /// A message ended as its framing says.
    fn end<S: EventSink>(&mut self, scene: &mut Scene<'_, S>, slot: Slot, role: Role) {
        let Some(stream) = self.streams.get(slot) else {
            return;
        };
        if !stream.length_is_right(role) {
            scene.anomaly(Some(stream.id), Anomaly::ContentLengthMismatch);
        }
        let message = stream.message(role);
        message.phase = Phase::Ended;
        let end = End::missing(message.missing);
        let at = scene.at;
        scene.say(Event::End {
            stream: stream.id.key(),
            role,
            at,
            end,
        });
        if stream.ended() {
            let id = stream.id;
            self.streams.remove(id, Closed::Ended);
        }
    }

    /// A stream ended by RST_STREAM or GOAWAY in this direction.
    fn abort<S: EventSink>(
        &mut self,
        scene: &mut Scene<'_, S>,
        id: StreamId,
        slot: Slot,
        code: Option<u32>,
    ) {
        for role in [Role::Request, Role::Response] {
            let _last = self.stop(scene, slot, role, Missing::ABORTED, code);
        }
        self.streams.remove(id, Closed::Aborted(scene.direction));
    }

    /// Ends a message that is not at its end, and forgets the stream if that was the last.
    fn give_up<S: EventSink>(
        &mut self,
        scene: &mut Scene<'_, S>,
        slot: Slot,
        role: Role,
        cause: Missing,
        code: Option<u32>,
    ) {
        if let Some(id) = self.stop(scene, slot, role, cause, code) {
            self.streams.remove(id, Closed::Evicted);
        }
    }

    /// Ends a message that is not at its end; gives the stream if that was the last of it.
    pub(crate) fn stop<S: EventSink>(
        &mut self,
        scene: &mut Scene<'_, S>,
        slot: Slot,
        role: Role,
        cause: Missing,
        code: Option<u32>,
    ) -> Option<StreamId> {
        let stream = self.streams.get(slot)?;
        let key = stream.id.key();
        let message = stream.message(role);
        if message.phase == Phase::Ended {
            return None;
        }
        let unseen = message.phase == Phase::Awaited && !message.spoken;
        if message.phase == Phase::Awaited && role == Role::Request {
            self.unasked = self.unasked.saturating_sub(1);
        }
        message.phase = Phase::Ended;
        let mut missing = message.missing;
        // A request that was missed did not stop because its direction did.
        if !(unseen && role == Role::Request && !missing.is_empty()) {
            missing.insert(cause);
        }
        let at = scene.at;
        scene.say(if unseen {
            Event::Absent {
                stream: key,
                role,
                at,
                missing,
                reset_code: code,
            }
        } else {
            Event::End {
                stream: key,
                role,
                at,
                end: End {
                    missing,
                    reset_code: code,
                },
            }
        });
        stream.ended().then_some(stream.id)
    }
}

impl<S: EventSink> Scene<'_, S> {
    pub(crate) fn say(&mut self, event: Event<'_>) {
        self.out.event(event);
    }

    pub(crate) fn anomaly(&mut self, id: Option<StreamId>, anomaly: Anomaly) {
        let direction = self.direction;
        self.say(Event::Anomaly {
            stream: id.map(StreamId::key),
            direction,
            anomaly,
        });
    }

    /// A frame came on a closed stream.
    fn late(&mut self, id: StreamId, closed: Closed) {
        let under_way = match closed {
            Closed::Ended => false,
            Closed::Aborted(direction) => direction != self.direction,
            Closed::Evicted => true,
        };
        if !under_way {
            self.anomaly(Some(id), Anomaly::UnexpectedFrame);
        }
    }
}

/// Why frames of a direction may have been missed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Loss {
    /// They were before the capture.
    Predates,
    /// They were in a gap.
    Gap(Gap),
    /// What was there is no frame.
    Malformed,
}

const fn role_of(direction: Direction) -> Role {
    match direction {
        Direction::ToServer => Role::Request,
        Direction::ToClient => Role::Response,
    }
}

const fn other_role(role: Role) -> Role {
    match role {
        Role::Request => Role::Response,
        Role::Response => Role::Request,
    }
}
