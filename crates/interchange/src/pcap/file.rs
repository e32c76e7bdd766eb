//! Capture files: pcap with nanoseconds, and pcapng.

use std::io::{self, Write};

use tapedeck_model::Timestamp;

/// The kind of a capture file.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Format {
    /// `.pcap`, with nanoseconds; times from 1970 to 2106.
    Pcap,
    /// `.pcapng`: a comment says which exchange each packet belongs to.
    #[default]
    Pcapng,
}

/// A frame on its way into a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub(super) at: Timestamp,
    /// What was captured of it.
    pub(super) bytes: &'a [u8],
    /// How many bytes behind these were on the wire.
    pub(super) cut: u32,
    /// What is said about it, where there is something to say.
    pub(super) comment: Option<&'a str>,
}

/// Writes a capture file, little endian, Ethernet.
#[derive(Debug)]
pub(super) struct CaptureFile<W> {
    out: W,
    format: Format,
    block: Vec<u8>,
    pub(super) packets: u64,
    /// Times that the format cannot say; its first or last one stands for them.
    pub(super) times_moved: u64,
}

const ETHERNET: u16 = 1;
const OPT_END: u16 = 0;
const OPT_COMMENT: u16 = 1;
const SHB_USERAPPL: u16 = 4;
const IF_TSRESOL: u16 = 9;

impl<W: Write> CaptureFile<W> {
    pub(super) fn begin(mut out: W, format: Format, program: &str) -> io::Result<Self> {
        match format {
            Format::Pcap => {
                out.write_all(&0xa1b2_3c4d_u32.to_le_bytes())?;
                out.write_all(&[2, 0, 4, 0])?;
                out.write_all(&[0; 8])?;
                out.write_all(&SNAPLEN.to_le_bytes())?;
                out.write_all(&u32::from(ETHERNET).to_le_bytes())?;
            }
            Format::Pcapng => {
                let mut section = 0x1a2b_3c4d_u32.to_le_bytes().to_vec();
                section.extend([1, 0, 0, 0]);
                section.extend([0xff; 8]);
                option(&mut section, SHB_USERAPPL, program.as_bytes());
                option(&mut section, OPT_END, b"");
                block(&mut out, 0x0a0d_0d0a, &section)?;
                let mut interface = ETHERNET.to_le_bytes().to_vec();
                interface.extend([0; 2]);
                interface.extend(SNAPLEN.to_le_bytes());
                // Ten to the power of minus nine seconds.
                option(&mut interface, IF_TSRESOL, &[9]);
                option(&mut interface, OPT_END, b"");
                block(&mut out, 1, &interface)?;
            }
        }
        Ok(Self {
            out,
            format,
            block: Vec::new(),
            packets: 0,
            times_moved: 0,
        })
    }

    pub(super) fn frame(&mut self, frame: Frame<'_>) -> io::Result<()> {
        let Frame {
            at,
            bytes,
            cut,
            comment,
        } = frame;
        self.packets += 1;
        let captured = bytes.len() as u32;
        let wire = captured.saturating_add(cut);
        match self.format {
            Format::Pcap => {
                const SECOND: i64 = 1_000_000_000;
                let seconds = u32::try_from(at.as_nanos().div_euclid(SECOND));
                let nanos = at.as_nanos().rem_euclid(SECOND) as u32;
                self.times_moved += u64::from(seconds.is_err());
                let (seconds, nanos) = match seconds {
                    Ok(seconds) => (seconds, nanos),
                    Err(_) if at < Timestamp::EPOCH => (0, 0),
                    Err(_) => (u32::MAX, 999_999_999),
                };
                for field in [seconds, nanos, captured, wire] {
                    self.out.write_all(&field.to_le_bytes())?;
                }
                self.out.write_all(bytes)
            }
            Format::Pcapng => {
                let ticks = u64::try_from(at.as_nanos());
                self.times_moved += u64::from(ticks.is_err());
                let ticks = ticks.unwrap_or(0);
                self.block.clear();
                for field in [0, (ticks >> 32) as u32, ticks as u32, captured, wire] {
                    self.block.extend(field.to_le_bytes());
                }
                self.block.extend(bytes);
                pad(&mut self.block);
                if let Some(comment) = comment {
                    option(&mut self.block, OPT_COMMENT, comment.as_bytes());
                    option(&mut self.block, OPT_END, b"");
                }
                block(&mut self.out, 6, &self.block)
            }
        }
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The longest frame that is said to be possible.
const SNAPLEN: u32 = 262_144;

fn block(out: &mut impl Write, kind: u32, body: &[u8]) -> io::Result<()> {
    let len = (body.len() as u32).saturating_add(12).to_le_bytes();
    out.write_all(&kind.to_le_bytes())?;
    out.write_all(&len)?;
    out.write_all(body)?;
    out.write_all(&len)
}

/// Options are no longer than 64 KiB: ours are lines.
fn option(block: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = value.get(..usize::from(u16::MAX)).unwrap_or(value);
    block.extend(code.to_le_bytes());
    block.extend((value.len() as u16).to_le_bytes());
    block.extend(value);
    pad(block);
}

fn pad(block: &mut Vec<u8>) {
    block.resize(block.len().next_multiple_of(4), 0);
}
