//! What Prometheus says of the target: one number, asked for about every second while a run lasts.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::str::FromStr;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::player::target::{ParseTargetError, Target, TargetAddress};

/// A query of Prometheus' HTTP API: `http://HOST:PORT/api/v1/query?query=EXPRESSION`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Query {
    host: String,
    port: u16,
    authority: String,
    /// Path and query, with everything in them that a request line may hold.
    path: String,
    /// As it was given.
    text: String,
}

/// Why a text is no [`Query`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ParseQueryError {
    /// It is none, or has no expression.
    #[error("expected http://HOST:PORT/api/v1/query?query=EXPRESSION, not {0:?}")]
    Form(String),
    /// What stands before the query.
    #[error(transparent)]
    Target(#[from] ParseTargetError),
}

impl FromStr for Query {
    type Err = ParseQueryError;

    fn from_str(text: &str) -> Result<Self, ParseQueryError> {
        let form = || ParseQueryError::Form(text.to_owned());
        let (url, query) = text.split_once('?').ok_or_else(form)?;
        let asks = |field: &str| {
            field
                .strip_prefix("query=")
                .is_some_and(|expression| !expression.is_empty())
        };
        if !url.starts_with("http://") || !query.split('&').any(asks) {
            return Err(form());
        }
        let target: Target = url.parse()?;
        let TargetAddress::Tcp { host, port } = target.address else {
            return Err(form());
        };
        Ok(Self {
            host,
            port,
            authority: target.authority,
            path: match target.path_prefix.as_str() {
                "" => format!("/?{}", escaped(query)),
                path => format!("{path}?{}", escaped(query)),
            },
            text: text.to_owned(),
        })
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Expressions may be written as they are: what a URL cannot hold is escaped, and what is escaped stays so.
fn escaped(query: &str) -> String {
    let mut out = String::new();
    for byte in query.bytes() {
        // A `+` would be a blank.
        let is_plain = byte.is_ascii_alphanumeric() || b"-._~!$&'()*,;=:@/?%[]".contains(&byte);
        if is_plain {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

impl Query {
    /// Longer than any answer with one number.
    const MAX_ANSWER: u64 = 1 << 20;
    /// Prometheus' own limit is two minutes; a number that comes so late is of no use.
    const TIMEOUT: Duration = Duration::from_secs(10);

    /// The number; `None`: there is none at that time.
    fn ask(&self) -> io::Result<Option<f64>> {
        let mut addresses = (self.host.as_str(), self.port).to_socket_addrs()?;
        let address = addresses.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let mut stream = TcpStream::connect_timeout(&address, Self::TIMEOUT)?;
        stream.set_read_timeout(Some(Self::TIMEOUT))?;
        stream.set_write_timeout(Some(Self::TIMEOUT))?;
        // In HTTP/1.0 the end of the connection is that of the answer, and there are no chunks.
        let request = format!(
            "GET {} HTTP/1.0\r\nHost: {}\r\nAccept: application/json\r\n\r\n",
            self.path, self.authority
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.take(Self::MAX_ANSWER).read_to_end(&mut answer)?;
        let head = answer.windows(4).position(|end| end == b"\r\n\r\n");
        let body = head.and_then(|end| answer.get(end + 4..));
        let body = body.ok_or_else(|| io::Error::other("the answer is not HTTP"))?;
        number(body).map_err(io::Error::other)
    }
}

/// The number in an answer of the API; an error is what is wrong with it.
fn number(body: &[u8]) -> Result<Option<f64>, String> {
    let json: Value = serde_json::from_slice(body)
        .map_err(|_| "the answer is not that of Prometheus' API".to_owned())?;
    if let Some(error) = json["error"].as_str() {
        return Err(error.to_owned());
    }
    let result = &json["data"]["result"];
    // `[TIME, "VALUE"]`
    let value = |sample: &Value| {
        let value = sample.get(1)?.as_str()?.parse::<f64>().ok()?;
        Some(value).filter(|value| value.is_finite())
    };
    match (json["data"]["resultType"].as_str(), result.as_array()) {
        (Some("scalar"), _) => Ok(value(result)),
        (Some("vector"), Some(series)) => match series.as_slice() {
            [] => Ok(None),
            [one] => Ok(value(&one["value"])),
            several => Err(format!(
                "the expression has {} series, and one is wanted: sum(...) makes one of them",
                several.len()
            )),
        },
        _ => Err("the expression gives neither a number nor one series".to_owned()),
    }
}

/// What a query gave while a run lasted.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct QueryUse {
    /// The query.
    pub query: String,
    /// How often it had a number.
    pub count: u64,
    /// How often it had none, or was not answered.
    pub without: u64,
    /// The mean of the numbers.
    pub mean: Option<f64>,
    /// The least of them.
    pub min: Option<f64>,
    /// The most.
    pub max: Option<f64>,
}

impl QueryUse {
    fn add(&mut self, value: Option<f64>) {
        let Some(value) = value else {
            self.without += 1;
            return;
        };
        self.count += 1;
        let mean = self.mean.unwrap_or(0.0);
        self.mean = Some(mean + (value - mean) / self.count as f64);
        self.min = Some(self.min.map_or(value, |min| min.min(value)));
        self.max = Some(self.max.map_or(value, |max| max.max(value)));
    }
}

/// Asks on a thread of its own: who answers slowly holds nobody up.
#[derive(Debug)]
pub(crate) struct Asker {
    state: Arc<Mutex<State>>,
    /// Dropped, it ends the thread.
    _go_on: Sender<()>,
    _thread: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    sum: QueryUse,
    latest: Option<f64>,
}

impl Asker {
    const EVERY: Duration = Duration::from_secs(1);

    /// Asks once, so that a query that is wrong is said before anything is sent.
    pub(crate) fn start(query: &Query) -> io::Result<Self> {
        let mut sum = QueryUse {
            query: query.to_string(),
            count: 0,
            without: 0,
            mean: None,
            min: None,
            max: None,
        };
        let latest = query.ask()?;
        sum.add(latest);
        let state = Arc::new(Mutex::new(State { sum, latest }));
        let (go_on, ended) = channel::<()>();
        let (query, shared) = (query.clone(), Arc::clone(&state));
        let thread = std::thread::Builder::new()
            .name("query".to_owned())
            .spawn(move || {
                while ended.recv_timeout(Self::EVERY) == Err(RecvTimeoutError::Timeout) {
                    let latest = query.ask().ok().flatten();
                    let mut state = shared.lock().unwrap_or_else(PoisonError::into_inner);
                    state.sum.add(latest);
                    state.latest = latest;
                }
            })?;
        Ok(Self {
            state,
            _go_on: go_on,
            _thread: thread,
        })
    }

    /// The latest number.
    pub(crate) fn latest(&self) -> Option<f64> {
        self.lock().latest
    }

    /// What it gave so far.
    pub(crate) fn sum(&self) -> QueryUse {
        self.lock().sum.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Nothing that holds the lock can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_written_as_they_are() {
        let text = "http://prom:9090/p/api/v1/query?query=sum(rate(cpu{job=\"a b\"}[30s])) + 1";
        let query: Query = text.parse().unwrap();
        assert_eq!((query.host.as_str(), query.port), ("prom", 9090));
        assert_eq!(
            query.path,
            "/p/api/v1/query?query=sum(rate(cpu%7Bjob=%22a%20b%22%7D[30s]))%20%2B%201"
        );
        assert_eq!(query.to_string(), text);
        let again: Query = "http://a/?time=1&query=a%20b".parse().unwrap();
        assert_eq!(again.path, "/?time=1&query=a%20b");
        for wrong in [
            "",
            "up",
            "http://a/api/v1/query",
            "http://a/api/v1/query?query=",
            "https://a/api/v1/query?query=up",
            "http://u:p@a/api/v1/query?query=up",
        ] {
            assert!(wrong.parse::<Query>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn answers_are_those_of_the_api() {
        let read = |json: &str| number(json.as_bytes());
        let of = |kind: &str, result: &str| {
            let data = format!("{{\"resultType\":\"{kind}\",\"result\":{result}}}");
            read(&format!("{{\"status\":\"success\",\"data\":{data}}}"))
        };
        assert_eq!(of("scalar", "[1435781451.781,\"1.5\"]"), Ok(Some(1.5)));
        let series = "{\"metric\":{\"a\":\"b\"},\"value\":[1435781451.781,\"-3e2\"]}";
        assert_eq!(of("vector", &format!("[{series}]")), Ok(Some(-300.0)));
        assert_eq!(of("vector", "[]"), Ok(None));
        assert_eq!(of("scalar", "[1435781451.781,\"NaN\"]"), Ok(None));
        let several = of("vector", &format!("[{series},{series}]")).unwrap_err();
        assert!(several.contains("2 series"), "{several}");
        assert!(of("matrix", "[]").is_err());
        let refused =
            read("{\"status\":\"error\",\"errorType\":\"bad_data\",\"error\":\"parse error\"}");
        assert_eq!(refused, Err("parse error".to_owned()));
        assert!(read("<html>").is_err() && read("{}").is_err() && read("").is_err());
    }

    #[test]
    fn the_mean_is_that_of_the_numbers_there_were() {
        let mut sum = QueryUse {
            query: String::new(),
            count: 0,
            without: 0,
            mean: None,
            min: None,
            max: None,
        };
        for value in [Some(1.0), None, Some(3.0), Some(8.0)] {
            sum.add(value);
        }
        assert_eq!((sum.count, sum.without), (3, 1));
        assert!((sum.mean.unwrap() - 4.0).abs() < 1e-12, "{sum:?}");
        assert_eq!((sum.min, sum.max), (Some(1.0), Some(8.0)));
    }
}
