//! The command line of `tapedeck replay`.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Parser;
use tapedeck_filter::Filter;
use tapedeck_replayer::player::{
    Observe, PerTime, Query, Resolve, Route, SessionKey, Speed, Stage, Target, Threshold,
};

use crate::args::{Identity, duration, filter};

const THRESHOLD_HELP: &str = "\
Exit code 99 if this does not hold at the end; k6's grammar; repeatable

  'http_req_duration: p(95)<500'            in milliseconds
  'http_req_failed: rate<0.01'
  'http_req_duration{endpoint:/users/{id}}: avg<200'
  'http_reqs{status:500}: count<1'
  'http_req_failed: rate<0.1; abort; delay 10s'
      ends the run as soon as it fails; looked at every 2 s,
      but not before 10 s

Counters have count and rate: http_reqs, iterations, dropped_iterations,
data_sent, data_received. Rates have rate: http_req_failed,
grpc_req_failed, status_as_recorded. Trends have avg, min, max, med and
p(N): http_req_duration (from the due time), grpc_req_duration,
service_time, schedule_lag, iteration_duration, http_req_blocked,
_connecting, _sending, _waiting, _receiving. Gauges have value: vus,
vus_max, connections_peak, in_flight_peak, cpu_share.

Tags: scenario, endpoint (a path as `tapedeck stats` shows it, with or
without the method before it), method, status (0: unanswered),
expected_response, and the tags of scenarios. A threshold without a
single sample fails; a counter of what might have happened and did not is 0,
and is compared.";

const SCENARIO_HELP: &str = "\
Load models from a YAML or JSON file: k6's `options` object as it is

An iteration is a recorded session: the exchanges of one user, in order, each
when those it waited for are answered, with the recorded think time between.

  scenarios:
    browse:
      executor: ramping-vus      # or constant-vus, per-vu-iterations,
      stages:                    # shared-iterations, constant-arrival-rate,
        - {duration: 30s, target: 100}    # ramping-arrival-rate
        - {duration: 1m, target: 100}
      thinkTime: 0.5             # ours: half of it; 0: none
    pay:
      executor: constant-arrival-rate
      rate: 30
      duration: 90s
      preAllocatedVUs: 50
      startTime: 10s
      tags: {kind: payment}
      filter: request.path.startsWith('/pay')   # ours: CEL
      iteration: exchange        # ours: one exchange, not a session
    replayed:
      executor: recorded         # ours: at the recorded instants
      speed: 2x
  thresholds:
    'http_req_duration{scenario:pay}': ['p(95)<500']
  sessionBy: cookie:sid          # ours: as --session-by";

#[derive(Debug, Parser)]
pub(crate) struct Replay {
    /// The archive: a file, a folder of them, or several, which are read as one
    #[arg(required = true, value_name = "ARCHIVE")]
    pub(crate) archive: Vec<PathBuf>,
    /// Where to send the requests: http://HOST:PORT, https://HOST:PORT, h2c://HOST:PORT,
    /// unix:///PATH
    #[arg(long, value_name = "URL")]
    pub(crate) target: Target,
    /// Send the requests that were recorded for this host elsewhere; may be given several times
    #[arg(long = "map", value_name = "HOST=URL")]
    pub(crate) routes: Vec<Route>,
    /// Send this field with every request, in place of those of its name; may be given several
    /// times
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = header)]
    pub(crate) headers: Vec<(String, String)>,
    /// Send no field of this name; may be given several times
    #[arg(long = "remove-header", value_name = "NAME", value_parser = field_name)]
    pub(crate) removed_headers: Vec<String>,
    /// Connect to these addresses, in turn, where a target has this name and port, as curl does; may be given several
    /// times
    #[arg(
        long,
        value_name = "HOST:PORT:ADDRESS[,ADDRESS...]",
        help_heading = "Connections"
    )]
    pub(crate) resolve: Vec<Resolve>,
    /// Look the names of targets up again for connections that are opened this much later
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "30s", help_heading = "Connections")]
    pub(crate) dns_ttl: Duration,
    /// Believe these certificate authorities (PEM), instead of those of the system
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    pub(crate) cacert: Option<PathBuf>,
    /// Show this certificate (PEM) to targets that ask for one
    #[arg(long, value_name = "FILE", help_heading = "TLS", requires = "key")]
    pub(crate) cert: Option<PathBuf>,
    /// The private key of the certificate (PEM)
    #[arg(long, value_name = "FILE", help_heading = "TLS", requires = "cert")]
    pub(crate) key: Option<PathBuf>,
    /// Believe any certificate: for tests only
    #[arg(long, help_heading = "TLS")]
    pub(crate) insecure: bool,
    /// Speak HTTP/1.1, also with targets that would speak HTTP/2
    #[arg(long, help_heading = "TLS")]
    pub(crate) http1: bool,
    /// How fast: 1x as recorded, 4x four times as fast, max as fast as the target answers
    #[arg(long, default_value = "1x", help_heading = "Load")]
    pub(crate) speed: Speed,
    /// Load models from a YAML or JSON file: k6's `options` object as it is
    #[arg(
        long,
        value_name = "FILE",
        long_help = SCENARIO_HELP,
        help_heading = "Load",
        conflicts_with_all = ["vus", "iterations", "stages", "rate", "duration", "max_vus", "speed", "single", "think"]
    )]
    pub(crate) scenario: Option<PathBuf>,
    /// So many users repeat the recorded sessions, each on connections of its own
    #[arg(
        long,
        value_name = "N",
        help_heading = "Load",
        conflicts_with = "speed"
    )]
    pub(crate) vus: Option<u32>,
    /// For how long; of a recording: what is due later is left out
    #[arg(long, value_name = "TIME", value_parser = duration, help_heading = "Load")]
    pub(crate) duration: Option<Duration>,
    /// Do so many sessions, shared among the users
    #[arg(
        long,
        value_name = "N",
        help_heading = "Load",
        conflicts_with = "speed"
    )]
    pub(crate) iterations: Option<u64>,
    /// Ramp the users (with --rate: the rate) to targets, TIME:TARGET each, e.g. 30s:10,1m:100,10s:0
    #[arg(
        long,
        value_name = "STAGES",
        help_heading = "Load",
        conflicts_with_all = ["speed", "duration", "iterations"]
    )]
    pub(crate) stages: Option<Stages>,
    /// Begin so many sessions in a time, whatever the target does, e.g. 300/s, 90/m
    #[arg(long, value_name = "N/TIME", help_heading = "Load", conflicts_with_all = ["speed", "iterations", "vus"])]
    pub(crate) rate: Option<Rate>,
    /// With --rate: the most users; a session that is due when all are busy is dropped and counted
    #[arg(
        long,
        value_name = "N",
        help_heading = "Load",
        requires = "rate",
        default_value = "10000"
    )]
    pub(crate) max_vus: u32,
    /// With users or a rate: an iteration is one exchange, not a session
    #[arg(long, help_heading = "Load", conflicts_with_all = ["think", "session_by"])]
    pub(crate) single: bool,
    /// With users or a rate: how fast recorded think time passes, e.g. 2x; none leaves it out [default: 1x]
    #[arg(long, value_name = "FACTOR", help_heading = "Load")]
    pub(crate) think: Option<Think>,
    /// With users or a rate: what tells users apart: connection, credentials, bearer, header:NAME, cookie:NAME, query:NAME
    /// [default: whatever the recording shows]
    #[arg(long, value_name = "KEY", help_heading = "Load")]
    pub(crate) session_by: Option<SessionKey>,
    /// Send only the exchanges that this CEL expression chooses
    #[arg(long, value_name = "CEL", value_parser = filter)]
    pub(crate) filter: Option<Filter>,
    /// Send also the requests that were not recorded whole, without what is missing of them
    #[arg(long)]
    pub(crate) include_incomplete: bool,
    /// Print the plan, and send nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// recorded: as recorded, or one for each user; pooled: shared by all, 64 or this many
    #[arg(
        long,
        value_name = "recorded|pooled|N",
        help_heading = "Connections",
        hide_default_value = true,
        default_value = "recorded"
    )]
    pub(crate) connections: Connections,
    /// Open at most this many connections at once
    #[arg(
        long,
        value_name = "N",
        default_value = "10000",
        value_parser = at_least_one,
        help_heading = "Connections"
    )]
    pub(crate) max_connections: NonZeroU32,
    /// Have at most this many requests in flight at once
    #[arg(
        long,
        value_name = "N",
        default_value = "100000",
        value_parser = at_least_one,
        help_heading = "Connections"
    )]
    pub(crate) max_in_flight: NonZeroU32,
    /// Send with so many threads, 256 at most [default: one for each processor, 16 at most]
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=256),
        help_heading = "Load"
    )]
    pub(crate) threads: Option<u32>,
    /// Give a request up after this time
    #[arg(long, value_name = "TIME", value_parser = some_time, default_value = "60s", help_heading = "Connections")]
    pub(crate) timeout: Duration,
    /// Keep the recorded authority (Host) instead of the target's
    #[arg(long)]
    pub(crate) preserve_host: bool,
    /// Exit code 99 if this does not hold at the end, in k6's grammar; may be given several times
    #[arg(
        long = "threshold",
        value_name = "METRIC: EXPR",
        long_help = THRESHOLD_HELP,
        help_heading = "Results"
    )]
    pub(crate) thresholds: Vec<Threshold>,
    /// Write the results as JSON, in the shape of k6's handleSummary; - writes them to standard output, and the report
    /// to standard error
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub(crate) summary: Option<PathBuf>,
    /// Write a line for every second of the run: CSV into *.csv, else a JSON object a line
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub(crate) series: Option<PathBuf>,
    /// Serve http://ADDR/metrics for Prometheus while the run lasts, with k6's names; port 0: any
    #[arg(long, value_name = "ADDR", help_heading = "Results")]
    pub(crate) metrics: Option<SocketAddr>,
    /// Tell how busy the target is, too: the number of its process, or the folder of its cgroup
    #[arg(long, value_name = "PID|CGROUP", help_heading = "Results")]
    pub(crate) observe: Option<Observe>,
    /// Ask Prometheus about the target, too, every second: http://HOST:PORT/api/v1/query?query=EXPRESSION
    #[arg(long, value_name = "URL", help_heading = "Results")]
    pub(crate) observe_query: Option<Query>,
    #[command(flatten)]
    pub(crate) identity: Identity,
}

/// `Name: value`.
fn header(text: &str) -> Result<(String, String), String> {
    let form = || "expected NAME: VALUE".to_owned();
    let (name, value) = text.split_once(':').ok_or_else(form)?;
    let (name, value) = (field_name(name)?, value.trim());
    if value.chars().any(|c| c.is_control() && c != '\t') {
        return Err("a value has no control characters".to_owned());
    }
    let framing = ["content-length", "transfer-encoding", "connection", "host"];
    if framing.iter().any(|own| name.eq_ignore_ascii_case(own)) {
        let why = "follows from the request and the target";
        return Err(format!(
            "{name} {why}; for Host see --target and --preserve-host"
        ));
    }
    Ok((name, value.to_owned()))
}

/// RFC 9110 section 5.1.
fn field_name(text: &str) -> Result<String, String> {
    let name = text.trim();
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if name.is_empty() || !name.chars().all(token) {
        return Err(format!("{name:?} is no name of a field"));
    }
    Ok(name.to_owned())
}

/// Within no time at all nothing is answered.
fn some_time(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    if time.is_zero() {
        return Err("must be more than 0".to_owned());
    }
    Ok(time)
}

/// `30s:10,1m:100`.
#[derive(Clone, Debug)]
pub(crate) struct Stages(pub(crate) Vec<Stage>);

impl FromStr for Stages {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let stage = |part: &str| {
            let wrong = || format!("`{part}` is no stage: write TIME:TARGET, such as 30s:100");
            let (time, target) = part.split_once(':').ok_or_else(wrong)?;
            Ok(Stage {
                duration: duration(time)?,
                target: target.trim().parse().map_err(|_| wrong())?,
            })
        };
        text.split(',')
            .map(|part| stage(part.trim()))
            .collect::<Result<_, String>>()
            .map(Self)
    }
}

/// `300/s`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate(pub(crate) PerTime);

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no rate; examples: 300/s, 90/m, 5/10s");
        let (n, unit) = text.split_once('/').unwrap_or((text, "s"));
        // `/s` is `/1s`.
        let one = unit.starts_with(|c: char| c.is_ascii_alphabetic());
        let unit = if one {
            format!("1{unit}")
        } else {
            unit.to_owned()
        };
        Ok(Self(PerTime {
            n: n.trim().parse().map_err(|_| wrong())?,
            unit: duration(&unit).map_err(|_| wrong())?,
        }))
    }
}

/// How fast recorded think time passes; `None`: there is none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Think(pub(crate) Option<f64>);

impl FromStr for Think {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self(None));
        }
        let number = text.strip_suffix('x').unwrap_or(text).parse::<f64>();
        match number {
            Ok(factor) if factor.is_finite() && factor > 0.0 => Ok(Self(Some(factor))),
            Ok(_) | Err(_) => Err("none, or a factor such as 2x or 0.5x".to_owned()),
        }
    }
}

fn at_least_one(text: &str) -> Result<NonZeroU32, String> {
    let wrong = |_| "expected a whole number of at least 1".to_owned();
    text.parse().map_err(wrong)
}

/// How many connections are shared; `None`: as recorded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connections(pub(crate) Option<NonZeroU32>);

impl FromStr for Connections {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "recorded" => Ok(Self(None)),
            "pooled" => Ok(Self(Some(
                tapedeck_replayer::player::Options::MAX_SPEED_CONNECTIONS,
            ))),
            number => number
                .parse()
                .map(|n| Self(Some(n)))
                .map_err(|_| "recorded, pooled, or a number of at least 1".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_read_as_the_manual_shows_them() {
        let Stages(stages) = "30s:1,5s:100, 1m:300,10s:0".parse().unwrap();
        let shown: Vec<_> = stages
            .iter()
            .map(|s| (s.duration.as_secs(), s.target))
            .collect();
        assert_eq!(shown, [(30, 1), (5, 100), (60, 300), (10, 0)]);
        for wrong in ["", "30s", "30:1", "30s:x", "30s:1,,"] {
            assert!(wrong.parse::<Stages>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn fields_are_read_and_none_breaks_out() {
        let read = header("X-A:  b: c ").unwrap();
        assert_eq!(read, ("X-A".to_owned(), "b: c".to_owned()));
        for wrong in [
            "",
            "a",
            ": b",
            "a b: c",
            "a: b\r\nc: d",
            "Content-Length: 5",
            "host: a",
        ] {
            assert!(header(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_removed_is_a_field_and_a_timeout_takes_some_time() {
        let parse = |flag, value| {
            Replay::try_parse_from(["replay", "a.tape", "--target", "http://a", flag, value])
        };
        let args = parse("--remove-header", "X-Trace").unwrap();
        assert_eq!(args.removed_headers, ["X-Trace"]);
        for wrong in ["", "a b", "X-A: b", "X-A:"] {
            assert!(parse("--remove-header", wrong).is_err(), "{wrong}");
        }
        assert_eq!(
            parse("--timeout", "1ms").unwrap().timeout,
            Duration::from_millis(1)
        );
        for wrong in ["0s", "0.0000000001s"] {
            assert!(parse("--timeout", wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn rates_are_read() {
        for (text, n, millis) in [
            ("300/s", 300, 1000),
            ("90/m", 90, 60_000),
            ("5/10s", 5, 10_000),
            ("7", 7, 1000),
        ] {
            let Rate(rate) = text.parse().unwrap();
            assert_eq!((rate.n, rate.unit.as_millis()), (n, millis), "{text}");
        }
        for wrong in ["", "/s", "x/s", "5/", "5/x"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }
}
