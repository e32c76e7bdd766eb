//! The source by way of libpcap.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pcap::{Active, Capture, Linktype, Precision};
use tapedeck_model::{Scope, Timestamp};
use tapedeck_packet::{LinkType, RawPacket};

use super::{LibpcapOptions, NEEDS, expression};
use crate::sources::af_packet::{NEEDS_ELSEWHERE, nothing};
use crate::sources::error::explain;
use crate::sources::{Captured, Drops, PacketSource, Policy, Source, SourceError, Tap};
use crate::sys::{
    PacketSocket, in_network_namespace, interface_index, interface_names, wait_readable,
};

/// All interfaces.
const ANY: &str = "any";

/// The most that libpcap takes of a packet (`MAXIMUM_SNAPLEN`).
const SNAPLEN: i32 = 256 << 10;

/// A quiet connection's packets wait this long in a block that is not full, in milliseconds: each block
/// wakes a processor that may have slept.
const BLOCK_TIMEOUT: i32 = 60;

/// Packets in one batch.
const BATCH: usize = 4_096;

/// One handle for both: libpcap's are for one thread at a time.
type Handle = Arc<Mutex<Capture<Active>>>;

struct Stream {
    handle: Handle,
    /// The handle's, to be waited for without holding it.
    readable: OwnedFd,
    link: LinkType,
}

struct LibpcapTap {
    handle: Handle,
    /// The handle's socket.
    socket: PacketSocket,
    filter: Option<String>,
}

pub(super) fn open(options: &LibpcapOptions) -> Result<Source, SourceError> {
    let Some(namespace) = &options.network_namespace else {
        return open_here(options).map_err(explain(NEEDS));
    };
    in_network_namespace(namespace, || Ok(open_here(options)))
        .map_err(SourceError::system("enter the network namespace"))
        .flatten()
        .map_err(explain(NEEDS_ELSEWHERE))
}

/// What may be said in a filter depends on the kind of the interface, which nobody is asked for here: one that some
/// kind has is good. `any` has its own (LINUX_SLL); others are Ethernet, raw IP, or radio mostly.
pub(super) fn check(options: &LibpcapOptions) -> Result<(), SourceError> {
    let kinds: &[_] = match options.interface.as_deref() {
        None | Some(ANY) => &[Linktype(113)],
        Some(_) => &[Linktype(1), Linktype(12), Linktype(113), Linktype(127)],
    };
    let filter = expression(options.filter.as_deref(), &options.ports);
    let compile = |kind: &Linktype| -> Result<(), pcap::Error> {
        Capture::dead(*kind)?.compile(&filter, true).map(drop)
    };
    let mut refused = Ok(());
    for kind in kinds {
        match compile(kind) {
            Ok(()) => return Ok(()),
            Err(error) => refused = refused.and(Err(error)),
        }
    }
    refused.map_err(|error| SourceError::Filter {
        message: words(&error),
        filter,
    })
}

fn open_here(options: &LibpcapOptions) -> Result<Source, SourceError> {
    let name = options.interface.as_deref().unwrap_or(ANY);
    if name != ANY && interface_index(name).is_none() {
        return Err(SourceError::UnknownInterface {
            name: name.to_owned(),
            existing: interface_names(),
        });
    }
    let handle = Capture::from_device(name)
        .and_then(|handle| {
            handle
                .snaplen(SNAPLEN)
                .buffer_size(i32::try_from(options.ring_bytes).unwrap_or(i32::MAX))
                .timeout(BLOCK_TIMEOUT)
                .promisc(false)
                .precision(Precision::Nano)
                .open()?
                .setnonblock()
        })
        .map_err(|error| failed(&error))?;
    let link = link_type(&handle);
    let readable = duplicate(&handle)?;
    let socket = PacketSocket::from(duplicate(&handle)?);
    if socket
        .bound_hardware_type()
        .is_ok_and(|kind| kind == libc::ARPHRD_LOOPBACK)
    {
        // A loopback device shows every packet twice. libpcap passes over the sender's copy, but only once it
        // has filled half of the ring. Where the kernel is too old, it does so still.
        drop(socket.ignore_outgoing());
    }
    let handle = Arc::new(Mutex::new(handle));
    let tap = LibpcapTap {
        handle: Arc::clone(&handle),
        socket,
        filter: options.filter.clone(),
    };
    tap.filter(&options.ports)?;
    let stream = Stream {
        handle,
        readable,
        link,
    };
    Ok(Source {
        streams: vec![Box::new(stream)],
        tap: Box::new(tap),
    })
}

/// libpcap numbers link types by the system's own list, which differs from that of files for raw IP.
fn link_type(handle: &Capture<Active>) -> LinkType {
    match handle.get_datalink() {
        Linktype(12) => LinkType::RAW,
        Linktype(number) => LinkType(number.try_into().unwrap_or(u16::MAX)),
    }
}

fn duplicate(handle: &Capture<Active>) -> Result<OwnedFd, SourceError> {
    handle
        .as_fd()
        .try_clone_to_owned()
        .map_err(SourceError::system("duplicate libpcap's socket"))
}

impl PacketSource for Stream {
    fn next_batch(
        &mut self,
        timeout: Duration,
        take: &mut dyn FnMut(&Captured<'_>),
    ) -> Result<usize, SourceError> {
        wait_readable(&self.readable, timeout)
            .map_err(SourceError::system("wait for libpcap's socket"))?;
        let mut handle = lock(&self.handle);
        for packets in 0..BATCH {
            let packet = match handle.next_packet() {
                Ok(packet) => packet,
                Err(pcap::Error::TimeoutExpired) => return Ok(packets),
                Err(error) => return Err(failed(&error)),
            };
            let time = packet.header.ts;
            // With `Precision::Nano` the lower part is nanoseconds, whatever its name.
            let nanos = time
                .tv_sec
                .saturating_mul(1_000_000_000)
                .saturating_add(time.tv_usec);
            take(&Captured {
                packet: RawPacket {
                    at: Timestamp::from_nanos(nanos),
                    link: self.link,
                    data: packet.data,
                    wire_len: packet.header.len,
                    scope: Scope(0),
                },
                socket: None,
            });
        }
        Ok(BATCH)
    }
}

impl LibpcapTap {
    fn filter(&self, ports: &[u16]) -> Result<(), SourceError> {
        let filter = expression(self.filter.as_deref(), ports);
        lock(&self.handle)
            .filter(&filter, true)
            .map_err(|error| SourceError::Filter {
                filter,
                message: words(&error),
            })
    }
}

impl Tap for LibpcapTap {
    fn detach(&mut self) -> Result<(), SourceError> {
        // Straight to the kernel: the language has no word for nothing.
        self.socket
            .attach_filter(&nothing())
            .map_err(SourceError::system("stop libpcap's socket"))
    }

    fn drops(&mut self) -> Result<Drops, SourceError> {
        let stats = lock(&self.handle).stats().map_err(|error| failed(&error))?;
        let mut drops = Drops::default();
        drops.add("ring-full", stats.dropped.into());
        drops.add("interface", stats.if_dropped.into());
        Ok(drops)
    }

    fn set_policy(&mut self, policy: &Policy) -> Result<Vec<String>, SourceError> {
        let ports = policy
            .as_ports()
            .ok_or(SourceError::NeedsSockets("libpcap"))?;
        self.filter(&ports)?;
        Ok(Vec::new())
    }
}

fn failed(error: &pcap::Error) -> SourceError {
    SourceError::Libpcap(words(error))
}

/// Without the crate's own words around libpcap's.
fn words(error: &pcap::Error) -> String {
    match error {
        pcap::Error::PcapError(message) => message.clone(),
        other => other.to_string(),
    }
}

/// A thread that panicked left libpcap between two calls.
fn lock(handle: &Handle) -> MutexGuard<'_, Capture<Active>> {
    handle.lock().unwrap_or_else(PoisonError::into_inner)
}
