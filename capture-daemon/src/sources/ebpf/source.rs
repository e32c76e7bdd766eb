//! The eBPF source: loads the programs, attaches them, reads their ring buffer.

use std::fs::File;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::{Array, MapData, PerCpuArray, RingBuf};
use aya::programs::{CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, ProgramType};
use aya::sys::BpfHelper;
use aya::{EbpfLoader, maps::MapType};
use caps::Capability;
use tapedeck_ebpf_abi::{Counter, PacketHeader, names};
use tapedeck_packet::{LinkType, RawPacket};

use super::cgroup::Cgroup;
use super::clock::WallClock;
use super::object::OBJECT;
use crate::sources::error::require;
use crate::sources::{Drops, PacketSource, SourceError};
use crate::sys;

/// How the programs are set up.
#[derive(Clone, Debug)]
pub struct EbpfOptions {
    /// The cgroup whose sockets, and those of the cgroups below it, are seen; `None`: all.
    pub cgroup: Option<PathBuf>,
    /// The TCP ports to capture, as source or as destination; empty: all.
    pub ports: Vec<u16>,
    /// Bytes of memory for packets that wait to be read. Rounded up to a power of two.
    pub ring_bytes: usize,
    /// Leave out the sockets of this process's own cgroup, unless that is the root.
    pub ignore_own_cgroup: bool,
}

/// A live source of packets: the attached programs and their ring buffer.
pub struct Ebpf {
    programs: aya::Ebpf,
    ring: RingBuf<MapData>,
    counters: PerCpuArray<MapData, u64>,
    clock: WallClock,
    clock_read: Instant,
}

/// One packet, or part of a long one, and what the kernel knows about it.
#[derive(Debug)]
pub struct Event<'a> {
    /// Socket, cgroup, direction, losses before.
    pub header: PacketHeader,
    /// The packet.
    pub packet: RawPacket<'a>,
}

/// The smallest ring: one record of the largest size must fit, with room beside it.
const MIN_RING: usize = 256 << 10;

/// The largest ring that the kernel takes is a little below this.
const MAX_RING: usize = 1 << 30;

/// Events in one batch.
const BATCH: usize = 4_096;

/// How long to wait before an empty ring is looked at again. The programs wake nobody up (that
/// would cost the sender more than the copy), so this is how late a packet of a quiet connection
/// is read, and the ring must hold what a busy one sends in the meantime.
const PAUSE: Duration = Duration::from_millis(5);

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
        require(&[
            Capability::CAP_BPF,
            Capability::CAP_NET_ADMIN,
            // The programs copy to a place that is known only when they run, inside a record.
            Capability::CAP_PERFMON,
        ])?;
        let cgroup = Cgroup::find(options.cgroup.as_deref())?;
        sys::lift_memory_lock_limit();
        if !aya::sys::is_map_supported(MapType::RingBuf).map_err(SourceError::bpf)? {
            return Err(SourceError::Unsupported(
                "BPF ring buffers: they came with Linux 5.8",
            ));
        }
        let mut programs = load(options, &cgroup)?;
        // Programs first: once they are loaded they hold their maps, which are then ours to take.
        for name in [names::EGRESS, names::INGRESS] {
            program(&mut programs, name)?
                .load()
                .map_err(SourceError::bpf)?;
        }
        let ring =
            RingBuf::try_from(take_map(&mut programs, names::EVENTS)?).map_err(SourceError::bpf)?;
        let counters = PerCpuArray::try_from(take_map(&mut programs, names::COUNTERS)?)
            .map_err(SourceError::bpf)?;
        set_ports(&mut programs, &options.ports)?;
        attach(&mut programs, &cgroup)?;
        Ok(Self {
            programs,
            ring,
            counters,
            clock: WallClock::new(),
            clock_read: Instant::now(),
        })
    }

    /// Hands the events that are in the ring to `take`, at most a batch of them, and returns how
    /// many they were. Does not wait.
    ///
    /// # Errors
    ///
    /// When the programs are not those of this build.
    pub fn read(&mut self, take: &mut dyn FnMut(&Event<'_>)) -> Result<usize, SourceError> {
        let mut events = 0;
        while events < BATCH
            && let Some(record) = self.ring.next()
        {
            let (header, data) = PacketHeader::read(&record).ok_or(SourceError::UnknownRecord)?;
            let packet = RawPacket {
                at: self.clock.at(header.time),
                link: LinkType::RAW,
                data,
                // A part of a longer packet is a whole packet by itself.
                wire_len: header.len,
                scope: tapedeck_model::Scope(0),
            };
            take(&Event { header, packet });
            events += 1;
        }
        Ok(events)
    }
}

fn load(options: &EbpfOptions, cgroup: &Cgroup) -> Result<aya::Ebpf, SourceError> {
    let ring = options
        .ring_bytes
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
    EbpfLoader::new()
        .map_max_entries(
            names::EVENTS,
            u32::try_from(ring).unwrap_or(MAX_RING as u32),
        )
        .override_global(
            names::ONLY_PORTS,
            &u8::from(!options.ports.is_empty()),
            true,
        )
        .override_global(names::LOOPBACK_ONCE, &u8::from(cgroup.is_root), true)
        .override_global(names::WITH_NETNS, &u8::from(with_netns), true)
        .override_global(names::IGNORED_CGROUP, &ignored, true)
        .load(OBJECT)
        .map_err(SourceError::bpf)
}

fn take_map(programs: &mut aya::Ebpf, name: &'static str) -> Result<aya::maps::Map, SourceError> {
    programs
        .take_map(name)
        .ok_or(SourceError::Unsupported(name))
}

fn set_ports(programs: &mut aya::Ebpf, ports: &[u16]) -> Result<(), SourceError> {
    let mut bitmap: Array<_, u64> =
        Array::try_from(take_map(programs, names::PORTS)?).map_err(SourceError::bpf)?;
    for port in ports {
        let index = u32::from(port >> 6);
        let bits = bitmap.get(&index, 0).map_err(SourceError::bpf)?;
        bitmap
            .set(index, bits | 1 << (port & 63), 0)
            .map_err(SourceError::bpf)?;
    }
    Ok(())
}

fn attach(programs: &mut aya::Ebpf, cgroup: &Cgroup) -> Result<(), SourceError> {
    let folder = File::open(&cgroup.path).map_err(SourceError::system("open the cgroup"))?;
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

fn program<'a>(
    programs: &'a mut aya::Ebpf,
    name: &'static str,
) -> Result<&'a mut CgroupSkb, SourceError> {
    programs
        .program_mut(name)
        .ok_or(SourceError::Unsupported(name))?
        .try_into()
        .map_err(SourceError::bpf)
}

impl PacketSource for Ebpf {
    fn next_batch(
        &mut self,
        timeout: Duration,
        take: &mut dyn FnMut(&RawPacket<'_>),
    ) -> Result<usize, SourceError> {
        if self.clock_read.elapsed() >= CLOCK_INTERVAL {
            self.clock.refresh();
            self.clock_read = Instant::now();
        }
        let mut left = timeout;
        loop {
            let packets = self.read(&mut |event| take(&event.packet))?;
            if packets > 0 || left.is_zero() {
                return Ok(packets);
            }
            let pause = left.min(PAUSE);
            thread::sleep(pause);
            left -= pause;
        }
    }

    fn detach(&mut self) -> Result<(), SourceError> {
        for name in [names::EGRESS, names::INGRESS] {
            program(&mut self.programs, name)?
                .unload()
                .map_err(SourceError::bpf)?;
        }
        Ok(())
    }

    fn drops(&mut self) -> Result<Drops, SourceError> {
        let read = |counter: Counter| -> Result<u64, SourceError> {
            let per_cpu = self
                .counters
                .get(&(counter as u32), 0)
                .map_err(SourceError::bpf)?;
            Ok(per_cpu.iter().sum())
        };
        let mut drops = Drops::default();
        for counter in [
            Counter::RingFull,
            Counter::Unreadable,
            Counter::TooLong,
            Counter::Malformed,
        ] {
            drops.add(counter.name(), read(counter)?);
        }
        drops.payload_bytes = read(Counter::RingFullBytes)?
            + read(Counter::UnreadableBytes)?
            + read(Counter::TooLongBytes)?;
        Ok(drops)
    }
}
