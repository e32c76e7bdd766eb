//! `--metrics`: how a run stands, for Prometheus.

use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tapedeck_replayer::player::{Progress, SoFar};

use crate::output;

/// A page that is served until the program ends.
pub(super) struct Metrics(Arc<Mutex<Progress>>);

/// A scraper that says or takes nothing may not keep the others waiting for long.
const WAIT: Duration = Duration::from_secs(2);
/// The request of a scraper is shorter.
const MAX_REQUEST: usize = 8 << 10;

impl Metrics {
    pub(super) fn serve(address: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(address)
            .with_context(|| format!("failed to serve metrics on {address}"))?;
        let address = listener.local_addr()?;
        let progress: Arc<Mutex<Progress>> = Arc::default();
        let shown = Arc::clone(&progress);
        std::thread::Builder::new()
            .name("metrics".to_owned())
            .spawn(move || {
                for stream in listener.incoming().flatten() {
                    let page = || page(&shown.lock().unwrap_or_else(PoisonError::into_inner));
                    // A scraper that has gone comes again.
                    drop(answer(&stream, page));
                }
            })?;
        output::say(format_args!("metrics on http://{address}/metrics"));
        Ok(Self(progress))
    }

    pub(super) fn show(&self, progress: &Progress) {
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *shown = progress.clone();
    }
}

fn answer(mut stream: &TcpStream, page: impl FnOnce() -> String) -> io::Result<()> {
    stream.set_read_timeout(Some(WAIT))?;
    stream.set_write_timeout(Some(WAIT))?;
    let mut request = Vec::new();
    let mut buffer = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let read = stream.read(&mut buffer)?;
        request.extend_from_slice(buffer.get(..read).unwrap_or_default());
        if read == 0 || request.len() > MAX_REQUEST {
            return Ok(());
        }
    }
    let mut words = request.split(|byte| byte.is_ascii_whitespace());
    let (method, path) = (words.next(), words.next());
    let (status, body) = match (method, path) {
        (Some(b"GET"), Some(b"/metrics")) => ("200 OK", page()),
        (Some(b"GET"), _) => ("404 Not Found", "there is /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", String::new()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}

/// The names are those of k6's output to Prometheus: `_total` behind counters, `_rate` behind rates,
/// times in seconds. Ours begin with `tapedeck_`.
fn page(progress: &Progress) -> String {
    let mut page = Page(String::new());
    if let Some(so_far) = &progress.so_far {
        requests(&mut page, so_far);
    }
    let Progress {
        bytes_sent,
        bytes_received,
        vus,
        answered,
        failed,
        never_sent,
        in_flight,
        connections,
        ..
    } = progress;
    for (name, help, value) in [
        (
            "k6_data_sent_total",
            "Bytes written to connections.",
            bytes_sent,
        ),
        (
            "k6_data_received_total",
            "Bytes read from connections.",
            bytes_received,
        ),
        ("k6_vus", "Active users.", vus),
        (
            "tapedeck_answered_total",
            "Requests that were answered.",
            answered,
        ),
        (
            "tapedeck_failed_total",
            "Sent requests without an answer.",
            failed,
        ),
        (
            "tapedeck_never_sent_total",
            "Requests that could not be sent.",
            never_sent,
        ),
        (
            "tapedeck_in_flight",
            "Requests that wait for an answer.",
            in_flight,
        ),
        ("tapedeck_connections", "Open connections.", connections),
    ] {
        page.one(name, help, *value as f64);
    }
    let (elapsed, planned) = (
        progress.elapsed.as_secs_f64(),
        progress.planned.as_secs_f64(),
    );
    page.one("tapedeck_elapsed_seconds", "Since the start.", elapsed);
    page.one(
        "tapedeck_planned_seconds",
        "When the last request is due.",
        planned,
    );
    if let Some(target) = &progress.target {
        let memory = target.memory as f64;
        page.one(
            "tapedeck_target_cpu",
            "Processors that the target takes.",
            target.cpu,
        );
        page.one(
            "tapedeck_target_memory_bytes",
            "Memory of the target.",
            memory,
        );
        if let Some(waiting) = target.waiting {
            let help = "How much of the time the target waits for a processor.";
            page.one("tapedeck_target_waiting", help, waiting);
        }
    }
    if let Some(number) = progress.target_query {
        let help = "What Prometheus said of the target last.";
        page.one("tapedeck_target_query", help, number);
    }
    page.0
}

/// What is known of the requests of all seconds that are over.
fn requests(page: &mut Page, so_far: &SoFar) {
    let failed = so_far.failed as f64 / so_far.attempted.max(1) as f64;
    for (name, help, value) in [
        (
            "k6_http_reqs_total",
            "Requests that were sent.",
            so_far.sent as f64,
        ),
        (
            "k6_iterations_total",
            "Iterations that came to their end.",
            so_far.iterations as f64,
        ),
        (
            "k6_dropped_iterations_total",
            "Iterations that did not begin.",
            so_far.dropped as f64,
        ),
        (
            "k6_http_req_failed_rate",
            "Of those attempted: unanswered, or answered outside of 200 to 399.",
            failed,
        ),
    ] {
        page.one(name, help, value);
    }
    for (name, help, trend) in [
        (
            "k6_http_req_duration",
            "From the due time to the last byte, since the start, in seconds.",
            &so_far.duration,
        ),
        (
            "tapedeck_schedule_lag",
            "The player's own lateness, since the start, in seconds.",
            &so_far.lag,
        ),
    ] {
        // What nobody has measured is absent, as with k6: 0 would be a very good one.
        if trend.count() == 0 {
            continue;
        }
        for (suffix, value) in [
            ("avg", trend.mean()),
            ("min", trend.min()),
            ("med", trend.percentile(50.0)),
            ("max", trend.max()),
            ("p90", trend.percentile(90.0)),
            ("p95", trend.percentile(95.0)),
            ("p99", trend.percentile(99.0)),
        ] {
            page.one(&format!("{name}_{suffix}"), help, value.as_secs_f64());
        }
    }
}

struct Page(String);

impl Page {
    fn one(&mut self, name: &str, help: &str, value: f64) {
        let kind = match name.ends_with("_total") {
            true => "counter",
            false => "gauge",
        };
        // Writing to a string does not fail.
        let line = write!(
            self.0,
            "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n"
        );
        line.unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(request: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.write_all(request.as_bytes()).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let (server, _) = listener.accept().unwrap();
        answer(&server, || page(&Progress::default())).unwrap();
        drop(server);
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn only_scrapers_get_the_page() {
        assert!(ask("GET /metrics HTTP/1.1\r\n\r\n").contains("\nk6_data_sent_total 0\n"));
        assert!(ask("GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
        assert!(ask("POST /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
        assert_eq!(ask("GET /metr"), "");
        // The client may still write when the answer is due: that is no answer either.
        let endless = "GET /metrics HTTP/1.1\r\nA: ".to_owned() + &"a".repeat(MAX_REQUEST + 1024);
        assert_eq!(ask(&endless[..MAX_REQUEST + 1024]), "");
    }
}
