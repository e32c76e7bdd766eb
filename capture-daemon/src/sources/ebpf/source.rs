//! The eBPF source: loads the programs, attaches them, reads their ring buffers.

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use aya::EbpfLoader;
use aya::maps::{Map, MapType};
use aya::programs::{CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSock, ProgramType};
use aya::sys::BpfHelper;
use caps::Capability;
use tapedeck_ebpf_abi::{LARGEST, MAX_SHARDS, PacketHeader, names};
use tapedeck_model::Scope;
use tapedeck_packet::{LinkType, RawPacket};

use super::cgroup::Cgroup;
use super::clock::WallClock;
use super::object::OBJECT;
use super::tap::EbpfTap;
use crate::sources::error::{Needed, explain};
use crate::sources::{Captured, Drops, PacketSource, Policy, Socket, Source, SourceError, Tap};
use crate::sys::{self, EventRing};

/// How the programs are set up.
#[derive(Clone, Debug)]
pub struct EbpfOptions {
    /// The cgroup whose sockets, and those of the cgroups below it, are seen; `None`: all.
    pub cgroup: Option<PathBuf>,
    /// What is captured of them.
    pub policy: Policy,
    /// Bytes of memory for packets that wait to be read, over all streams. Rounded up to a power of
    /// two for each.
    pub ring_bytes: usize,
    /// The streams, at most four; rounded down to a power of two.
    pub streams: NonZeroUsize,
    /// Leave out the sockets of this process's own cgroup, unless that is the root.
    pub ignore_own_cgroup: bool,
    /// How long a ring is left alone at most, unless the programs wake us: [`PAUSE`](Self::PAUSE).
    pub pause: Duration,
    /// Records that one look at a ring is to find, of 2 KiB each: [`BURST`](Self::BURST). Where they come within a
    /// quarter of [`pause`](Self::pause) the ring is looked at sooner, once for so many of them.
    pub burst: u32,
}

impl EbpfOptions {
    /// The programs wake us once for each quarter of a ring that they fill. A wake-up for each event would
    /// cost the sender more than the event, and each look at the ring wakes a processor that may have slept:
    /// so this is how late a packet of a quiet connection is read.
    pub const PAUSE: Duration = Duration::from_millis(100);

    /// Reading that many takes a few hundred microseconds. On a processor that what is recorded wants, too, the
    /// scheduler gives us our share in one piece, in which nobody interrupts us: of what 100 ms bring at 20,000
    /// requests a second, which takes 14 ms, that is milliseconds of somebody else's latency.
    pub const BURST: u32 = 64;
}

/// A live source of packets: the attached programs and their ring buffers.
pub struct Ebpf {
    tap: EbpfTap,
    rings: Vec<EbpfRing>,
}

/// The packets of one ring buffer.
struct EbpfRing {
    ring: EventRing,
    clock: WallClock,
    clock_read: Instant,
    /// The cookie of the network namespace that needs no scope: this process's own.
    own_netns: u64,
    pace: Pace,
}

/// When a ring is looked at again.
#[derive(Debug)]
struct Pace {
    most: Duration,
    burst: u32,
    looked: Instant,
    pause: Duration,
}

/// One packet, and what the kernel knows about it.
#[derive(Debug)]
pub struct Event<'a> {
    /// Socket, cgroup, direction, losses before.
    pub header: PacketHeader,
    /// The packet.
    pub packet: RawPacket<'a>,
}

/// What this source needs to be allowed.
pub const NEEDS: &[Needed] = &[
    Needed {
        capability: Capability::CAP_BPF,
        what_for: "making maps and loading the programs",
    },
    Needed {
        capability: Capability::CAP_NET_ADMIN,
        what_for: "attaching the programs to a cgroup",
    },
    // The programs copy to a place that is known only when they run, inside a record.
    Needed {
        capability: Capability::CAP_PERFMON,
        what_for: "computing the place of a packet within a record",
    },
];

/// The smallest ring: one record of the largest size must fit, with room beside it.
const MIN_RING: usize = 1 << 20;

/// The largest ring that the kernel takes is a little below this.
const MAX_RING: usize = 1 << 30;

/// A ring that is not in use: the smallest that the kernel makes, a page of any architecture.
const UNUSED_RING: u32 = 64 << 10;

/// Events in one batch.
const BATCH: usize = 4_096;

/// How often the clocks are compared.
const CLOCK_INTERVAL: Duration = Duration::from_secs(1);

impl Ebpf {
    /// Loads the programs and attaches them.
    ///
    /// # Errors
    ///
    /// When CAP_BPF, CAP_PERFMON or CAP_NET_ADMIN is missing, when there is no cgroup2 file
    /// system or no such cgroup, or when the kernel lacks ring buffers (before 5.8) or refuses
    /// the programs.
    pub fn open(options: &EbpfOptions) -> Result<Self, SourceError> {
        Self::try_open(options).map_err(explain(NEEDS))
    }

    fn try_open(options: &EbpfOptions) -> Result<Self, SourceError> {
        let cgroup = Cgroup::find(options.cgroup.as_deref())?;
        sys::lift_memory_lock_limit();
        if !aya::sys::is_map_supported(MapType::RingBuf).map_err(SourceError::bpf)? {
            return Err(SourceError::Unsupported(
                "BPF ring buffers: they came with Linux 5.8",
            ));
        }
        let streams = streams(options.streams);
        let mut programs = load(options, streams)?;
        // Programs first: once they are loaded they hold their maps, which are then ours to take.
        for name in [names::EGRESS, names::INGRESS] {
            program(&mut programs, name)?
                .load()
                .map_err(SourceError::bpf)?;
        }
        let mut tap = EbpfTap::new(&mut programs, cgroup.is_root)?;
        let mut rings = Vec::new();
        for name in names::RINGS.iter().take(streams) {
            let map = take_map(&mut programs, name)?;
            tap.watch(&map)?;
            rings.push(EbpfRing::new(&map, options)?);
        }
        tap.set_policy(&options.policy)?;
        attach(&mut programs, &cgroup)?;
        tap.keep(programs);
        Ok(Self { tap, rings })
    }

    /// Hands the events that are in the rings to `take`, and returns how many they were. Does not
    /// wait.
    ///
    /// # Errors
    ///
    /// When the programs are not those of this build.
    pub fn read(&mut self, take: &mut dyn FnMut(&Event<'_>)) -> Result<usize, SourceError> {
        let mut events = 0;
        for ring in &mut self.rings {
            events += ring.read(take)?;
        }
        Ok(events)
    }

    /// What controls it.
    pub fn tap(&mut self) -> &mut dyn Tap {
        &mut self.tap
    }

    /// What the kernel dropped so far.
    ///
    /// # Errors
    ///
    /// When the kernel does not tell.
    pub fn drops(&mut self) -> Result<Drops, SourceError> {
        self.tap.drops()
    }
}

impl From<Ebpf> for Source {
    fn from(source: Ebpf) -> Self {
        let streams = source.rings.into_iter();
        Self {
            streams: streams.map(|ring| Box::new(ring) as Box<_>).collect(),
            tap: Box::new(source.tap),
        }
    }
}

impl EbpfRing {
    fn new(map: &Map, options: &EbpfOptions) -> Result<Self, SourceError> {
        let Map::RingBuf(data) = map else {
            return Err(SourceError::Unsupported("a ring buffer of that name"));
        };
        let size = data.info().map_err(SourceError::bpf)?.max_entries();
        Ok(Self {
            ring: EventRing::new(data.fd().as_fd(), size, LARGEST)
                .map_err(SourceError::system("map the ring buffer"))?,
            clock: WallClock::new(),
            clock_read: Instant::now(),
            own_netns: sys::own_netns_cookie().unwrap_or(0),
            pace: Pace::new(options),
        })
    }

    fn read(&mut self, take: &mut dyn FnMut(&Event<'_>)) -> Result<usize, SourceError> {
        let Self {
            ring,
            clock,
            own_netns,
            ..
        } = self;
        ring.read(BATCH, |record| {
            let (header, data) = PacketHeader::read(record).ok_or(SourceError::UnknownRecord)?;
            let packet = RawPacket {
                at: clock.at(header.time),
                link: LinkType::RAW,
                data,
                wire_len: header.len.saturating_add(header.cut),
                scope: scope(&header, *own_netns),
            };
            take(&Event { header, packet });
            Ok(())
        })
    }
}

/// Every network namespace has loopback addresses of its own. All others are those of the node's
/// network, in which both ends of a connection between two namespaces are to meet.
fn scope(header: &PacketHeader, own_netns: u64) -> Scope {
    if header.flags & PacketHeader::LOOPBACK == 0 || header.netns == own_netns {
        Scope(0)
    } else {
        Scope(header.netns)
    }
}

impl PacketSource for EbpfRing {
    fn next_batch(
        &mut self,
        timeout: Duration,
        take: &mut dyn FnMut(&Captured<'_>),
    ) -> Result<usize, SourceError> {
        if self.clock_read.elapsed() >= CLOCK_INTERVAL {
            self.clock.refresh();
            self.clock_read = Instant::now();
        }
        let mut left = timeout;
        loop {
            let pause = left.min(self.pace.pause);
            if !pause.is_zero() {
                self.ring
                    .wait(pause)
                    .map_err(SourceError::system("wait for the ring buffer"))?;
                left -= pause;
            }
            let now = Instant::now();
            let mut bytes = 0;
            let packets = self.read(&mut |event| {
                bytes += event.packet.data.len();
                let header = &event.header;
                take(&Captured {
                    packet: event.packet,
                    socket: Some(Socket {
                        cookie: header.cookie,
                        cgroup: header.cgroup,
                        is_sender: header.flags & PacketHeader::EGRESS != 0,
                        is_first: header.event <= 1 || header.flags & PacketHeader::HANDSHAKE != 0,
                    }),
                });
            })?;
            self.pace.found(now, packets, bytes);
            if packets > 0 || left.is_zero() {
                return Ok(packets);
            }
        }
    }
}

impl Pace {
    /// To look more often would cost more than it finds.
    const LEAST: Duration = Duration::from_millis(1);
    /// A record that takes longer to read than most counts for several.
    const RECORD: usize = 2 << 10;

    fn new(options: &EbpfOptions) -> Self {
        Self {
            most: options.pause,
            burst: options.burst,
            looked: Instant::now(),
            pause: Duration::ZERO,
        }
    }

    /// A look at `now` found so much.
    fn found(&mut self, now: Instant, packets: usize, bytes: usize) {
        let passed = now.saturating_duration_since(std::mem::replace(&mut self.looked, now));
        self.pause = match packets {
            // There is more.
            BATCH.. => Duration::ZERO,
            0 => self.most,
            _ => {
                let found = packets.max(bytes / Self::RECORD) as u128;
                let pause = passed.as_nanos() * u128::from(self.burst) / found;
                let pause = Duration::from_nanos(pause.try_into().unwrap_or(u64::MAX));
                // All of the longest pause brings four times that at most: at so little traffic a look costs more
                // than it finds.
                if pause > self.most / 4 {
                    self.most
                } else {
                    pause.max(Self::LEAST)
                }
            }
        };
    }
}

fn streams(wanted: NonZeroUsize) -> usize {
    let most = wanted.get().min(MAX_SHARDS);
    1 << most.ilog2()
}

fn load(options: &EbpfOptions, streams: usize) -> Result<aya::Ebpf, SourceError> {
    let ring = (options.ring_bytes / streams)
        .clamp(MIN_RING, MAX_RING)
        .next_power_of_two();
    // Since Linux 6.15. Without it the network namespace of a packet stays unknown.
    let with_netns =
        aya::sys::is_helper_supported(ProgramType::CgroupSkb, BpfHelper::BPF_FUNC_get_netns_cookie)
            .unwrap_or(false);
    let ignored = if options.ignore_own_cgroup {
        super::own_cgroup().unwrap_or(0)
    } else {
        0
    };
    let shard_mask = (streams - 1) as u32;
    let nearly_full = (ring / 4 * 3) as u64;
    let quarter_bits = (ring / 4).ilog2();
    let mut loader = EbpfLoader::new();
    for (index, name) in names::RINGS.iter().enumerate() {
        let bytes = if index < streams {
            u32::try_from(ring).unwrap_or(MAX_RING as u32)
        } else {
            UNUSED_RING
        };
        loader.map_max_entries(name, bytes);
    }
    loader
        .override_global(names::SHARD_MASK, &shard_mask, true)
        .override_global(names::RING_NEARLY_FULL, &nearly_full, true)
        .override_global(names::RING_QUARTER_BITS, &quarter_bits, true)
        .override_global(names::WITH_NETNS, &u8::from(with_netns), true)
        .override_global(names::IGNORED_CGROUP, &ignored, true)
        .load(OBJECT)
        .map_err(SourceError::bpf)
}

pub(super) fn take_map(programs: &mut aya::Ebpf, name: &'static str) -> Result<Map, SourceError> {
    programs
        .take_map(name)
        .ok_or(SourceError::Unsupported(name))
}

fn attach(programs: &mut aya::Ebpf, cgroup: &Cgroup) -> Result<(), SourceError> {
    let folder = File::open(&cgroup.path).map_err(SourceError::system("open the cgroup"))?;
    // Before the others, so that it misses no socket whose packets they see.
    attach_owner(programs, &folder);
    let both = [
        (names::EGRESS, CgroupSkbAttachType::Egress),
        (names::INGRESS, CgroupSkbAttachType::Ingress),
    ];
    for (name, kind) in both {
        // A link on a cgroup always allows others beside it, whatever the mode; `Single` is the one
        // that every kernel accepts.
        program(programs, name)?
            .attach(&folder, kind, CgroupAttachMode::Single)
            .map_err(SourceError::bpf)?;
    }
    Ok(())
}

/// Attaches the program that notes who opens sockets. Without it (some kernels lack a helper) the
/// owners stay unknown, and nothing else.
fn attach_owner(programs: &mut aya::Ebpf, folder: &File) {
    let Some(Ok(program)) = programs
        .program_mut(names::SOCKET)
        .map(<&mut CgroupSock>::try_from)
    else {
        return;
    };
    if program.load().is_ok() {
        drop(program.attach(folder, CgroupAttachMode::Single));
    }
}

pub(super) fn program<'a>(
    programs: &'a mut aya::Ebpf,
    name: &'static str,
) -> Result<&'a mut CgroupSkb, SourceError> {
    programs
        .program_mut(name)
        .ok_or(SourceError::Unsupported(name))?
        .try_into()
        .map_err(SourceError::bpf)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_is_looked_at_before_too_much_is_in_it() {
        let (pause, burst) = (Duration::from_millis(100), 64);
        let mut looked = Instant::now();
        let mut pace = Pace {
            most: pause,
            burst,
            looked,
            pause: Duration::ZERO,
        };
        let mut check = |passed: u64, packets, bytes, expect: u64| {
            looked += Duration::from_millis(passed);
            pace.found(looked, packets, bytes);
            assert_eq!(pace.pause, Duration::from_millis(expect), "{packets}");
        };
        check(100, 0, 0, 100);
        check(100, 1, 100, 100);
        check(100, 64, 64 << 10, 100);
        // 1,000 requests a second: 200 records in all of the pause; and where looking more often begins.
        check(100, 200, 200_000, 100);
        check(100, 255, 255_000, 100);
        check(100, 256, 256_000, 25);
        // 2,000 requests a second, then 20,000, then more than can be looked at in time.
        check(100, 400, 400_000, 16);
        check(16, 1_024, 1_024_000, 1);
        check(2, 128, 128_000, 1);
        check(1, 1_000, 1_000_000, 1);
        // A few long ones.
        check(10, 4, 256 << 10, 5);
        check(10, BATCH, 100, 0);
        check(10, 0, 0, 100);
    }

    #[test]
    fn streams_are_a_power_of_two() {
        let check =
            |wanted, expect| assert_eq!(streams(NonZeroUsize::new(wanted).unwrap()), expect);
        check(1, 1);
        check(2, 2);
        check(3, 2);
        check(64, MAX_SHARDS);
    }

    #[test]
    fn only_loopback_of_another_namespace_is_a_network_of_its_own() {
        let mut header = PacketHeader {
            netns: 7,
            ..PacketHeader::default()
        };
        assert_eq!(scope(&header, 1), Scope(0));
        header.flags = PacketHeader::LOOPBACK;
        assert_eq!(scope(&header, 1), Scope(7));
        assert_eq!(scope(&header, 7), Scope(0));
    }
}
