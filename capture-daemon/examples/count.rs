//! Counts the packets of a backend and does nothing else with them: what capture alone costs.
//!
//! ```text
//! cargo run --release -p tapedeckd --example count -- ebpf|af-packet PORT SECONDS
//! ```

#![expect(clippy::print_stdout, reason = "a tool for people")]

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tapedeckd::sources::af_packet::{AfPacket, AfPacketOptions};
use tapedeckd::sources::ebpf::{Ebpf, EbpfOptions};
use tapedeckd::sources::{Policy, Source};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let backend = args.next().context("which backend?")?;
    let ports = vec![args.next().context("which port?")?.parse()?];
    let seconds = args.next().context("how many seconds?")?.parse()?;
    let ring_bytes = 32 << 20;
    let Source {
        mut streams,
        mut tap,
    } = match backend.as_str() {
        "ebpf" => Ebpf::open(&EbpfOptions {
            cgroup: None,
            policy: Policy::only_ports(&ports),
            ring_bytes,
            streams: NonZeroUsize::MIN,
            ignore_own_cgroup: false,
            pause: EbpfOptions::PAUSE,
            burst: EbpfOptions::BURST,
        })?
        .into(),
        "af-packet" => AfPacket::open(&AfPacketOptions {
            interface: Some("lo".to_owned()),
            network_namespace: None,
            ports,
            ring_bytes,
            streams: NonZeroUsize::MIN,
        })?
        .into(),
        other => bail!("{other} is no backend"),
    };
    let start = Instant::now();
    let (mut packets, mut bytes) = (0_u64, 0_u64);
    while start.elapsed() < Duration::from_secs(seconds) {
        for stream in &mut streams {
            stream.next_batch(Duration::from_millis(100), &mut |captured| {
                packets += 1;
                bytes += u64::from(captured.packet.wire_len);
            })?;
        }
    }
    println!(
        "{packets} packets, {bytes} bytes, dropped: {:?}",
        tap.drops()?.packets
    );
    Ok(())
}
