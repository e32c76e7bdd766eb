//! What the fuzzers run: every reader of foreign bytes, as a function of bytes.
//!
//! A target must return, whatever it is given, within time and memory that the limits of its
//! reader allow; it panics where a reader breaks its contract. `fuzz/` wraps each one for libFuzzer
//! (`cargo xtask fuzz`); the test beside this crate gives each one its corpus, damaged copies of it,
//! and every input that ever broke one. It is no fuzzer itself.
//!
//! Most targets know only what must never happen. [`conversation`] knows what must come out.

#![forbid(unsafe_code)]

mod conversation;
mod messages;
mod packets;
mod program;
mod stored;
mod texts;

pub use conversation::conversation;
pub use messages::{hpack, http1, http2, tls};
pub use packets::{capture, engine, fragments, packet, record, segments};
pub use stored::{archive, content, grpc, write_sample};
pub use texts::{filter, key_log, player_option};

/// A reader to be fed.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, which its folders have, too.
    pub name: &'static str,
    /// Feeds it.
    pub run: fn(&[u8]),
}

macro_rules! targets {
    ($($name:ident),* $(,)?) => {
        /// Every target.
        pub const TARGETS: &[Target] = &[$(Target { name: stringify!($name), run: $name }),*];
    };
}

targets! {
    archive,
    capture,
    content,
    conversation,
    engine,
    filter,
    fragments,
    grpc,
    hpack,
    http1,
    http2,
    key_log,
    packet,
    player_option,
    record,
    segments,
    tls,
}
