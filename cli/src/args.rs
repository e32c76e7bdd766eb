//! The command line, as typed. Nothing here opens or checks anything outside of the text.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use tapedeck_filter::Filter;
use tapedeck_replayer::mock::{Latency, Upstream};

use crate::commands::cluster::args::Cluster;
use crate::commands::replay::Replay;
use crate::commands::summary::Summary;

/// Records HTTP traffic passively, keeps it in a compressed archive, and plays it back.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The command, where the program is called as the plugin of kubectl, `kubectl-tapedeck`.
pub(crate) fn of_kubectl() -> Option<Command> {
    let name = PathBuf::from(std::env::args_os().next()?);
    if name.file_stem()? != "kubectl-tapedeck" {
        return None;
    }
    let command = Cluster::command()
        .name("kubectl-tapedeck")
        .bin_name("kubectl tapedeck")
        .version(env!("CARGO_PKG_VERSION"))
        .max_term_width(100);
    let matches = command.get_matches();
    match Cluster::from_arg_matches(&matches) {
        Ok(cluster) => Some(Command::Cluster(Box::new(cluster))),
        Err(error) => error.exit(),
    }
}

const EXAMPLES: &str = "\
Examples:
  tapedeck import shop.pcap -o shop.tape
  tapedeck ls shop.tape --filter 'response.status >= 500'
  tapedeck replay shop.tape --target http://staging:8080 --speed 4x
  tapedeck mock shop.tape --listen 127.0.0.1:9000

Exit codes: 0 done, 1 failed, 2 wrong usage, 99 a threshold failed.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Record live traffic on this machine
    Record(Record),
    /// Read captures (pcap, pcapng) or HARs, plain, gzip or zstd, into an archive
    Import(Import),
    /// List the exchanges of an archive
    Ls(Ls),
    /// Show one exchange: heads, bodies, timing, completeness
    Show(Show),
    /// Sum an archive up: endpoints, latency, what was lost
    Stats(Stats),
    /// Check every byte of an archive: exit code 0 whole, 1 damaged
    Verify(Verify),
    /// Save what can be read of an interrupted or damaged archive into a new one
    Recover(Recover),
    /// Sign archives, so that others see that they are as they were: writes ARCHIVE.minisig
    Sign(Sign),
    /// Make keys: to encrypt archives, and to sign them
    Key(Key),
    /// Copy some of the exchanges of an archive into a new one
    Cut(Cut),
    /// Put several archives into one, by time
    Merge(Merge),
    /// Write the exchanges of an archive in another format
    Export(Export),
    /// Send the recorded requests to a target, at their recorded times
    Replay(Box<Replay>),
    /// What several replays say together
    Summary(Summary),
    /// Answer requests with the recorded responses
    Mock(Mock),
    /// Compare the requests of two archives: recorded ones, and what a mock received
    Diff(Diff),
    /// The certificate authority that a mock signs its certificates with
    Ca(Ca),
    /// Say what live capture needs, what is missing here, and what it would see
    Doctor(Doctor),
    /// Tapedeck on a Kubernetes cluster; also `kubectl tapedeck`
    Cluster(Box<Cluster>),
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(crate) enum Backend {
    /// The best that the kernel and the privileges allow
    #[default]
    Auto,
    /// Socket hooks (cgroup_skb): needs CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN
    Ebpf,
    /// Packet sockets: needs CAP_NET_RAW
    AfPacket,
    /// The system's libpcap, where this program was built with it: needs CAP_NET_RAW
    #[value(alias = "pcap")]
    Libpcap,
}

#[derive(Debug, Parser)]
pub(crate) struct Record {
    /// The archive to write; a folder (which exists, or `NAME/`) gets segments
    #[arg(short, long, value_name = "FILE|FOLDER")]
    pub(crate) output: PathBuf,
    /// How to capture
    #[arg(long, value_enum, default_value_t)]
    pub(crate) backend: Backend,
    /// The interface to listen on (af-packet, libpcap) [default: all]
    #[arg(short, long, value_name = "NAME")]
    pub(crate) interface: Option<String>,
    /// Which packets to take, in the language of libpcap: see pcap-filter(7) (libpcap) [default:
    /// those of TCP]
    #[arg(long, value_name = "EXPRESSION")]
    pub(crate) packet_filter: Option<String>,
    /// The cgroup2 folder whose sockets to record (ebpf) [default: the root, that is all]
    #[arg(long, value_name = "PATH")]
    pub(crate) cgroup: Option<PathBuf>,
    /// Record this TCP port only; may be given several times
    #[arg(long = "port", value_name = "PORT")]
    pub(crate) ports: Vec<u16>,
    /// A TLS key log that a program writes (`SSLKEYLOGFILE`), read as it grows; may be given several
    /// times
    #[arg(long = "keylog", value_name = "FILE")]
    pub(crate) keylogs: Vec<PathBuf>,
    /// Record the connection of this socket only, as `ss -te` prints it behind `sk:` (ebpf); may be
    /// given several times
    #[arg(long = "socket", value_name = "SK", value_parser = cookie, conflicts_with = "ports")]
    pub(crate) sockets: Vec<u64>,
    /// Stop after this time, e.g. 30s, 5m [default: until interrupted]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) duration: Option<Duration>,
    /// How far to step back when no processor is free, as nice(1) has it, 0 to 19: what is recorded is
    /// served first, and what is not managed then is counted as lost
    #[arg(long, value_name = "N", default_value_t = tapedeckd::capture::NICE, value_parser = clap::value_parser!(u8).range(..=19))]
    pub(crate) nice: u8,
    /// Replace the archive if it exists
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) segments: Segments,
    #[command(flatten)]
    pub(crate) encryption: Encryption,
}

/// Exit code 0: this machine can record; 1: it cannot.
#[derive(Debug, Parser)]
pub(crate) struct Doctor {
    /// Look at this backend only
    #[arg(long, value_enum, default_value_t)]
    pub(crate) backend: Backend,
    /// For a recording of this interface (af-packet, libpcap)
    #[arg(short, long, value_name = "NAME")]
    pub(crate) interface: Option<String>,
    /// For a recording of this cgroup2 folder (ebpf)
    #[arg(long, value_name = "PATH")]
    pub(crate) cgroup: Option<PathBuf>,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
}

/// How a recording into a folder rolls, and what is kept of it.
#[derive(Debug, Parser)]
pub(crate) struct Segments {
    /// Begin the next segment when one is so large
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "256MiB")]
    pub(crate) segment_size: u64,
    /// Begin the next segment when one is so old
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "5m")]
    pub(crate) segment_age: Duration,
    /// Delete the oldest segments beyond this size of all of them [default: keep all]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) retain_size: Option<u64>,
    /// Delete segments that were sealed longer ago than this [default: keep all]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) retain_age: Option<Duration>,
}

#[derive(Debug, Parser)]
pub(crate) struct Import {
    /// The captures or HARs to read, in this order; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    pub(crate) inputs: Vec<PathBuf>,
    /// The archive to write
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Read TLS connections with the secrets in this file, as SSLKEYLOGFILE writes it; may be given
    /// several times. Secrets within a pcapng file are used by themselves
    #[arg(long = "keylog", value_name = "FILE")]
    pub(crate) keylogs: Vec<PathBuf>,
    /// Keep only the exchanges that this CEL expression chooses
    #[arg(long, value_name = "CEL", value_parser = filter)]
    pub(crate) filter: Option<Filter>,
    /// Use that many threads; the archive is the same with any number [default: one for each core,
    /// at most 8]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<NonZeroUsize>,
    /// Replace the archive if it exists
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) encryption: Encryption,
}

/// What opens encrypted archives.
#[derive(Debug, Parser)]
pub(crate) struct Identity {
    /// Open encrypted archives with the age identities in this file; may be given several times
    /// [default: the file that TAPEDECK_IDENTITY names]
    #[arg(long = "identity", value_name = "FILE")]
    pub(crate) identities: Vec<PathBuf>,
}

/// To whom an archive is encrypted.
#[derive(Debug, Parser)]
pub(crate) struct Encryption {
    /// Encrypt the archive to this age recipient (age1...), its index too; may be given several times
    #[arg(long, value_name = "RECIPIENT")]
    pub(crate) encrypt_to: Vec<String>,
    /// Encrypt the archive to the age recipients in this file, one a line
    #[arg(long, value_name = "FILE")]
    pub(crate) recipients_file: Vec<PathBuf>,
}

/// To whom an archive is encrypted that is made of others.
#[derive(Debug, Parser)]
pub(crate) struct Reencryption {
    #[command(flatten)]
    pub(crate) encryption: Encryption,
    /// Write the archive without encryption [default: what comes from an encrypted archive is
    /// encrypted to the same recipients]
    #[arg(long, conflicts_with_all = ["encrypt_to", "recipients_file"])]
    pub(crate) decrypt: bool,
}

#[derive(Debug, Parser)]
pub(crate) struct Ls {
    /// The archive: a file, a folder of them, or several, which are read as one
    #[arg(required = true, value_name = "ARCHIVE")]
    pub(crate) archive: Vec<PathBuf>,
    /// List only the exchanges that this CEL expression chooses
    #[arg(long, value_name = "CEL", value_parser = filter)]
    pub(crate) filter: Option<Filter>,
    /// List the TLS connections that could not be read, and why, instead of exchanges
    #[arg(long, conflicts_with = "filter")]
    pub(crate) connections: bool,
    /// How to print: json is one object a line
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) identity: Identity,
}

#[derive(Debug, Parser)]
pub(crate) struct Show {
    /// The archive: a file, or a folder of them
    pub(crate) archive: PathBuf,
    /// The id of the exchange, as `ls` prints it: 17, or in a folder 3/17
    #[arg(value_parser = exchange_name)]
    pub(crate) id: String,
    /// Write only this body to standard output, exactly as it was transferred
    #[arg(long, value_enum, value_name = "SIDE")]
    pub(crate) body: Option<BodySide>,
    #[command(flatten)]
    pub(crate) identity: Identity,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum BodySide {
    Request,
    Response,
}

#[derive(Debug, Parser)]
pub(crate) struct Stats {
    /// The archive: a file, a folder of them, or several, which are read as one
    #[arg(required = true, value_name = "ARCHIVE")]
    pub(crate) archive: Vec<PathBuf>,
    /// Count only the exchanges that this CEL expression chooses
    #[arg(long, value_name = "CEL", value_parser = filter)]
    pub(crate) filter: Option<Filter>,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) identity: Identity,
}

#[derive(Debug, Parser)]
pub(crate) struct Verify {
    /// The archive: a file, a folder of them, or several, which are read as one
    #[arg(required = true, value_name = "ARCHIVE")]
    pub(crate) archive: Vec<PathBuf>,
    /// How to print: json is one object for each file, one a line
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) identity: Identity,
    /// Check the signature beside each file, too, with this minisign key: a file, or the key itself
    #[arg(short = 'P', long, value_name = "KEY")]
    pub(crate) public_key: Option<String>,
}

#[derive(Debug, Parser)]
pub(crate) struct Recover {
    /// The archive, or the hidden `.NAME.partial` that an interrupted recording left, or a folder of
    /// such
    pub(crate) archive: PathBuf,
    /// The archive to write [default for a hidden file: NAME; a folder is recovered where it is]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) identity: Identity,
    #[command(flatten)]
    pub(crate) reencryption: Reencryption,
}

#[derive(Debug, Parser)]
pub(crate) struct Sign {
    /// The archives: files, or folders of them. Each file gets a signature of its own
    #[arg(required = true, value_name = "ARCHIVE")]
    pub(crate) archive: Vec<PathBuf>,
    /// The secret key, as `tapedeck key signing` or `minisign -G` makes it
    #[arg(long, value_name = "FILE")]
    pub(crate) key: PathBuf,
    /// Replace signatures that are there
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Parser)]
pub(crate) struct Key {
    #[command(subcommand)]
    pub(crate) command: KeyCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// An age identity, which opens what is encrypted to its recipient; that is printed
    Encryption(KeyOutput),
    /// A minisign key pair: FILE, which is secret, and FILE.pub
    Signing(KeyOutput),
}

#[derive(Debug, Parser)]
pub(crate) struct KeyOutput {
    /// The file for the secret; nobody else can read it
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
}

#[derive(Debug, Parser)]
pub(crate) struct Cut {
    /// The archive: a file, a folder of them, or several, which are read as one
    #[arg(required = true, value_name = "ARCHIVE")]
    pub(crate) archive: Vec<PathBuf>,
    /// The exchanges to copy, as a CEL expression
    #[arg(long, value_name = "CEL", value_parser = filter)]
    pub(crate) filter: Filter,
    /// The archive to write
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Replace the archive if it exists
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) identity: Identity,
    #[command(flatten)]
    pub(crate) reencryption: Reencryption,
}

#[derive(Debug, Parser)]
pub(crate) struct Merge {
    /// The archives
    #[arg(required = true, value_name = "ARCHIVE")]
    pub(crate) archives: Vec<PathBuf>,
    /// The archive to write
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Replace the archive if it exists
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) identity: Identity,
    #[command(flatten)]
    pub(crate) reencryption: Reencryption,
}

#[derive(Debug, Parser)]
pub(crate) struct Export {
    #[command(subcommand)]
    pub(crate) format: ExportFormat,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ExportFormat {
    /// HAR 1.2, as browsers and their tools read it
    Har(ExportOne),
    /// One JSON object an exchange, a line each, with everything (docs/jsonl.md)
    Jsonl(ExportOne),
    /// A capture that Wireshark and its like read: pcapng, or pcap if the file's name ends in .pcap
    Pcap(ExportOne),
}

#[derive(Debug, Parser)]
pub(crate) struct ExportOne {
    /// The archive: a file, a folder of them, or several, which are read as one
    #[arg(required = true, value_name = "ARCHIVE")]
    pub(crate) archive: Vec<PathBuf>,
    /// The file to write; `-` is standard output [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Export only the exchanges that this CEL expression chooses
    #[arg(long, value_name = "CEL", value_parser = filter)]
    pub(crate) filter: Option<Filter>,
    #[command(flatten)]
    pub(crate) identity: Identity,
}

#[derive(Debug, Parser)]
pub(crate) struct Mock {
    /// The archive: a file, a folder of them, or several, which are read as one
    #[arg(required = true, value_name = "ARCHIVE")]
    pub(crate) archive: Vec<PathBuf>,
    /// Where to listen; port 0 takes a free one, which is printed
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9000")]
    pub(crate) listen: SocketAddr,
    /// Answer with the exchanges that this CEL expression chooses
    #[arg(long, value_name = "CEL", value_parser = filter)]
    pub(crate) filter: Option<Filter>,
    /// When to answer: none at once, recorded as recorded, a factor such as 2x, or drawn from what
    /// the same endpoint took
    #[arg(long, default_value = "none", value_parser = latency)]
    pub(crate) latency: Latency,
    /// What a request gets when its recorded answers are used up
    #[arg(long, value_enum, default_value_t)]
    pub(crate) repeat: Repeat,
    /// What a request gets that nothing recorded answers: fail 501, passthrough the answer of its real
    /// upstream, record the same, written to the archive of --record
    #[arg(long, value_enum, default_value_t)]
    pub(crate) on_miss: OnMiss,
    /// The real upstream of requests to an authority, or of all others [default: whom the request
    /// names, where the mock is used as a proxy]
    #[arg(long, value_name = "[AUTHORITY=]URL")]
    pub(crate) upstream: Vec<Upstream>,
    /// Believe upstreams whose certificate these authorities signed (PEM) [default: those of the system]
    #[arg(long, value_name = "FILE")]
    pub(crate) upstream_cacert: Option<PathBuf>,
    /// Write what upstreams answered to this new archive
    #[arg(long, value_name = "OUT.tape")]
    pub(crate) record: Option<PathBuf>,
    /// Write every request that came, and what was answered, to this new archive
    #[arg(long, value_name = "OUT.tape")]
    pub(crate) received: Option<PathBuf>,
    /// Exit code 1 if any request found no recorded answer
    #[arg(long)]
    pub(crate) strict: bool,
    /// What a request and the recorded one that answers it may differ in (YAML or JSON): docs/mock.md
    #[arg(long, value_name = "FILE")]
    pub(crate) rules: Option<PathBuf>,
    /// Print rules for what differs in every recorded request (ids, times, nonces), and end
    #[arg(long, conflicts_with_all = ["rules", "chaos", "control", "verify", "strict", "received", "record"])]
    pub(crate) suggest: bool,
    /// Exit code 1 if any recorded exchange was never asked for
    #[arg(long)]
    pub(crate) verify: bool,
    /// Open a control port there: status, hits, misses, reset, chaos, shutdown, metrics (docs/mock.md)
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) control: Option<SocketAddr>,
    /// Speak TLS, too, with the certificate authority in this folder [default: that of `tapedeck ca
    /// init`, if there is one]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) ca: Option<PathBuf>,
    /// Make things go wrong as this file (YAML or JSON) says: docs/chaos.md
    #[arg(long, value_name = "FILE")]
    pub(crate) chaos: Option<PathBuf>,
    /// Write each fault that strikes to this file, a JSON object a line
    #[arg(long, value_name = "FILE", requires = "chaos")]
    pub(crate) chaos_log: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) identity: Identity,
}

/// Exit code 0: both have the same requests; 1: they differ.
#[derive(Debug, Parser)]
pub(crate) struct Diff {
    /// The archive that says what is expected: a file, or a folder of them
    #[arg(value_name = "RECORDED")]
    pub(crate) recorded: PathBuf,
    /// The archive that is compared with it, such as that of `tapedeck mock --received`
    #[arg(value_name = "RECEIVED")]
    pub(crate) received: PathBuf,
    /// What requests may differ in (YAML or JSON), as for the mock: docs/mock.md
    #[arg(long, value_name = "FILE")]
    pub(crate) rules: Option<PathBuf>,
    /// Compare the exchanges that this CEL expression chooses, of both
    #[arg(long, value_name = "CEL", value_parser = filter)]
    pub(crate) filter: Option<Filter>,
    /// How to print
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) identity: Identity,
}

#[derive(Debug, Parser)]
pub(crate) struct Ca {
    #[command(subcommand)]
    pub(crate) command: CaCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CaCommand {
    /// Make one, and say how to have programs trust it
    Init(CaInit),
    /// Say how to have programs trust it
    Trust(CaTrust),
}

#[derive(Debug, Parser)]
pub(crate) struct CaInit {
    /// Where to put it [default: tapedeck/ca in the user's data folder]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) dir: Option<PathBuf>,
    /// Its name in the certificate
    #[arg(long, default_value = "Tapedeck test authority")]
    pub(crate) name: String,
    /// Replace the one that is there
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Parser)]
pub(crate) struct CaTrust {
    /// Where it is [default: tapedeck/ca in the user's data folder]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) dir: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum Repeat {
    /// The last one, again and again
    #[default]
    Last,
    /// The first one again, and so on
    Cycle,
    /// No answer: a miss
    Fail,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(crate) enum OnMiss {
    /// 501, with the nearest recorded requests
    #[default]
    Fail,
    /// The answer of its upstream
    Passthrough,
    /// The answer of its upstream, which is written to an archive, too
    Record,
}

pub(crate) fn filter(text: &str) -> Result<Filter, String> {
    Filter::parse(text).map_err(|error| format!("\n{error}"))
}

fn latency(text: &str) -> Result<Latency, String> {
    let factor = match text {
        "none" => return Ok(Latency::None),
        "drawn" => return Ok(Latency::Drawn),
        "recorded" => Some(1.0),
        _ => text
            .strip_suffix('x')
            .and_then(|number| number.parse::<f64>().ok()),
    };
    match factor {
        Some(factor) if factor > 0.0 && factor.is_finite() => Ok(Latency::Recorded { factor }),
        Some(_) | None => Err("none, recorded, drawn, or a factor such as 2x or 0.5x".to_owned()),
    }
}

/// The cookie of a socket, in hexadecimal as `ss -e` prints it.
fn cookie(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("sk:").unwrap_or(text);
    let digits = digits.strip_prefix("0x").unwrap_or(digits);
    u64::from_str_radix(digits, 16).map_err(|_| {
        "a hexadecimal number as `ss -te` prints it behind `sk:`, such as 1f".to_owned()
    })
}

/// An exchange by its id, or by its segment and the number there.
fn exchange_name(text: &str) -> Result<String, String> {
    let number = text.rsplit_once('/').map_or(text, |(_, number)| number);
    if number.parse::<u64>().is_ok() {
        return Ok(text.to_owned());
    }
    Err("an id as `tapedeck ls` prints it: 17, or in a folder 3/17".to_owned())
}

/// A number of bytes as people type it: `1000`, `256MiB`, `10GB`.
fn size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 9] = [
        ("", 1),
        ("B", 1),
        ("kB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
    ];
    let wrong = || format!("`{text}` is no size; examples: 1000, 256MiB, 10GB");
    let digits = text.find(|c: char| !c.is_ascii_digit());
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let unit = UNITS.iter().find(|(name, _)| *name == unit.trim_start());
    let (_, factor) = unit.ok_or_else(wrong)?;
    number
        .checked_mul(*factor)
        .filter(|size| *size > 0)
        .ok_or_else(wrong)
}

/// A duration as people type it: `500ms`, `30s`, `5m`, `1h`, `7d`, or several of them in a row (`1m30s`);
/// 100 years at most, which no clock overflows at.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, f64); 7] = [
        ("ms", 1e-3),
        ("us", 1e-6),
        ("ns", 1e-9),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3600.0),
        ("d", 86_400.0),
    ];
    const MAX: Duration = Duration::from_secs(100 * 365 * 86_400);
    let wrong = || format!("`{text}` is no duration; examples: 500ms, 30s, 1m30s");
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(wrong)?;
        let (number, behind) = rest.split_at(digits);
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let (unit, seconds) = UNITS
            .iter()
            .find(|(unit, _)| behind.starts_with(unit))
            .ok_or_else(wrong)?;
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())?;
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = behind.strip_prefix(unit).unwrap_or_default();
    }
    if total > MAX {
        return Err(format!("`{text}` is longer than a hundred years"));
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn latencies_are_read() {
        assert_eq!(latency("none"), Ok(Latency::None));
        assert_eq!(latency("0.5x"), Ok(Latency::Recorded { factor: 0.5 }));
        for wrong in ["", "x", "-1x", "0x", "infx", "NaNx", "2"] {
            assert!(latency(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sockets_are_named_as_ss_does() {
        for text in ["1f", "sk:1f", "0x1f"] {
            assert_eq!(cookie(text), Ok(31), "{text}");
        }
        assert!(cookie("lo").is_err());
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!(size("1000"), Ok(1000));
        assert_eq!(size("256MiB"), Ok(256 << 20));
        assert_eq!(size("10 GB"), Ok(10_000_000_000));
        for wrong in ["", "0", "MiB", "-1", "1.5GiB", "10mb", "99999999999TiB"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1.5h"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("7d"), Ok(Duration::from_secs(7 * 86_400)));
        for wrong in [
            "",
            "5",
            "s",
            "5 s",
            "-1s",
            "1x",
            "1e400s",
            "99999999999999999999h",
            "1s2",
            "36501d",
        ] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
