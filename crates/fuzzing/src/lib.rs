//! What the fuzzers run: every reader of foreign bytes, as a function of bytes.
//!
//! A target must return, whatever it is given, within time and memory that the limits of its
//! reader allow; it panics where a reader breaks its contract. `fuzz/` wraps each one for libFuzzer
//! (`cargo xtask fuzz`); the test beside this crate gives each one its corpus, damaged copies of it,
//! and every input that ever broke one. It is no fuzzer itself.
//!
//! Most targets know only what must never happen. [`conversation`] knows what must come out.

#![forbid(unsafe_code)]

pub mod captures;
mod conversation;
mod display;
mod encrypted;
mod exports;
mod har;
mod luck;
mod messages;
mod packets;
mod program;
mod scratch;
mod sets;
#[cfg(feature = "programs")]
mod settings;
mod stored;
mod texts;

use peak_alloc::PeakAlloc;

pub use conversation::{conversation, tell};
pub use display::{content, events, grpc, protobuf, websocket};
pub use encrypted::encrypted;
pub use exports::export;
pub use har::har;
pub use luck::luck;
pub use messages::{hpack, http1, http2, tls};
pub use packets::{assert_laws, capture, engine, fragments, packet, record, segments};
pub use sets::folder;
#[cfg(feature = "programs")]
pub use settings::{chaos, configuration, place, player_option, scenario};
pub use stored::{Blocks, archive, write_sample};
pub use texts::{filter, key_log};

/// A reader to be fed.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, which its folders have, too.
    pub name: &'static str,
    /// Feeds it.
    pub run: fn(&[u8]),
    /// How many bytes of memory it may take at most, whatever it is fed.
    pub memory: usize,
}

impl Target {
    /// The target of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        TARGETS.iter().find(|target| target.name == name)
    }

    /// Feeds it, in a process whose allocator is this one, and in which nothing else takes place
    /// meanwhile.
    ///
    /// # Panics
    /// Where the target does, and where it took more memory than it may.
    pub fn feed(&self, input: &[u8], allocator: &PeakAlloc) {
        let before = allocator.current_usage();
        allocator.reset_peak_usage();
        (self.run)(input);
        let took = allocator.peak_usage().saturating_sub(before);
        assert!(
            took <= self.memory,
            "{} took {took} bytes of memory, of {}",
            self.name,
            self.memory
        );
    }
}

macro_rules! targets {
    ($($(#[$only:meta])? $name:ident: $mib:literal),* $(,)?) => {
        /// Every target.
        pub const TARGETS: &[Target] = &[$($(#[$only])? Target {
            name: stringify!($name),
            run: $name,
            memory: $mib << 20,
        }),*];
    };
}

targets! {
    archive: 64,
    capture: 64,
    #[cfg(feature = "programs")]
    chaos: 64,
    #[cfg(feature = "programs")]
    configuration: 64,
    content: 64,
    conversation: 64,
    encrypted: 64,
    engine: 64,
    events: 64,
    export: 64,
    filter: 64,
    folder: 64,
    fragments: 64,
    grpc: 64,
    har: 64,
    hpack: 64,
    http1: 64,
    http2: 64,
    key_log: 64,
    luck: 128,
    packet: 64,
    #[cfg(feature = "programs")]
    place: 64,
    #[cfg(feature = "programs")]
    player_option: 64,
    protobuf: 64,
    record: 64,
    #[cfg(feature = "programs")]
    scenario: 64,
    segments: 64,
    tls: 64,
    websocket: 64,
}
