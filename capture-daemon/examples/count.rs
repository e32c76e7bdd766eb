//! Counts the packets of a backend and does nothing else with them: what capture alone costs.
//!
//! ```text
//! cargo run --release -p tapedeckd --example count -- ebpf|af-packet PORT SECONDS
//! ```

#![expect(clippy::print_stdout, reason = "a tool for people")]

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tapedeckd::sources::PacketSource;
use tapedeckd::sources::af_packet::{AfPacket, AfPacketOptions};
use tapedeckd::sources::ebpf::{Ebpf, EbpfOptions};

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let backend = args.next().context("which backend?")?;
    let ports = vec![args.next().context("which port?")?.parse()?];
    let seconds = args.next().context("how many seconds?")?.parse()?;
    let ring_bytes = 32 << 20;
    let mut source: Box<dyn PacketSource> = match backend.as_str() {
        "ebpf" => Box::new(Ebpf::open(&EbpfOptions {
            cgroup: None,
            ports,
            ring_bytes,
            ignore_own_cgroup: false,
        })?),
        "af-packet" => Box::new(AfPacket::open(&AfPacketOptions {
            interface: Some("lo".to_owned()),
            network_namespace: None,
            ports,
            ring_bytes,
        })?),
        other => bail!("{other} is no backend"),
    };
    let start = Instant::now();
    let (mut packets, mut bytes) = (0_u64, 0_u64);
    while start.elapsed() < Duration::from_secs(seconds) {
        source.next_batch(Duration::from_millis(100), &mut |packet| {
            packets += 1;
            bytes += u64::from(packet.wire_len);
        })?;
    }
    println!(
        "{packets} packets, {bytes} bytes, dropped: {:?}",
        source.drops()?.packets
    );
    Ok(())
}
