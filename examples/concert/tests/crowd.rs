//! The crowd against the service, over a real socket.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, as the tests do"
)]

use std::net::SocketAddr;
use std::time::Duration;

use concert::api;
use concert::booking::Options;
use concert::crowd::{Crowd, Failure, Report, Target, Version};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

struct Service {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Service {
    async fn start(seats: u32, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let options = Options {
            seats,
            seed,
            ..Options::default()
        };
        let stopped = async move { drop(stopped.await) };
        let task = tokio::spawn(api::serve(listener, options, stopped));
        Self {
            address,
            stop,
            task,
        }
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap().unwrap();
    }
}

fn crowd(users: u64, version: Version) -> Crowd {
    Crowd {
        users,
        arrivals: Duration::from_millis(200),
        seed: 7,
        version,
        patience: Duration::from_secs(20),
    }
}

async fn visit(crowd: Crowd, seats: u32) -> Report {
    let service = Service::start(seats, 1).await;
    let target = Target::resolve(&format!("http://{}", service.address)).await;
    let report = crowd.visit(&target.unwrap()).await;
    service.stop().await;
    report
}

fn count(report: &Report, endpoint: &str, status: u16) -> u64 {
    let by_status = report.by_endpoint.get(endpoint);
    by_status
        .and_then(|counts| counts.get(&status))
        .copied()
        .unwrap_or(0)
}

#[tokio::test]
async fn every_endpoint_and_refusal_is_met_in_both_versions() {
    for version in [Version::Http1, Version::Http2] {
        let report = visit(crowd(120, version), 8).await;
        assert_eq!(report.failures.len(), 0, "{report}");
        assert_eq!(count(&report, "POST /auth/token", 200), 120);
        assert!(count(&report, "GET /reservations/available/dates", 200) > 50);
        assert!(count(&report, "GET /reservations/available/dates", 401) > 0);
        assert!(count(&report, "GET /reservations/available/seat", 200) > 20);
        assert!(count(&report, "POST /points/charge", 200) > 0);
        // The race for one seat has one winner.
        assert!(count(&report, "POST /reservations", 409) > 5, "{report}");
        let reserved = count(&report, "POST /reservations", 201);
        assert!(reserved <= 7 * 8, "{report}");
        assert_eq!(count(&report, "GET /points/balance", 200), reserved);
        assert_eq!(count(&report, "POST /reservations/pay", 200), reserved);
        assert!(count(&report, "POST /reservations/pay", 402) > 0);
        assert_eq!(report.by_status.values().sum::<u64>(), report.requests);
    }
}

#[tokio::test]
async fn a_user_alone_asks_the_same_every_time_in_both_versions() {
    let first = visit(crowd(1, Version::Http1), 20).await;
    let second = visit(crowd(1, Version::Http1), 20).await;
    let third = visit(crowd(1, Version::Http2), 20).await;
    assert!(first.requests >= 6, "{first}");
    assert_eq!(first.requests_hash, second.requests_hash);
    assert_eq!(first.requests_hash, third.requests_hash);
    assert_eq!(first.by_endpoint, third.by_endpoint);
}

#[tokio::test]
async fn a_service_that_is_not_there_is_counted() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let target = Target::resolve(&format!("http://{address}")).await.unwrap();
    let report = crowd(3, Version::Http1).visit(&target).await;
    assert_eq!(report.requests, 0);
    assert_eq!(report.failures[&Failure::Connect], 3);
}

#[tokio::test]
async fn a_service_that_hangs_is_given_up_on() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let target = Target::resolve(&format!("http://{address}")).await.unwrap();
    let crowd = Crowd {
        patience: Duration::from_millis(50),
        ..crowd(2, Version::Http1)
    };
    let report = crowd.visit(&target).await;
    assert_eq!(report.failures[&Failure::TimedOut], 2);
    drop(listener);
}

#[tokio::test]
async fn targets_that_are_none_are_refused() {
    for url in [
        "",
        "127.0.0.1:1",
        "https://127.0.0.1:1",
        "http://[::1]:1/x",
        "http:///",
    ] {
        assert!(Target::resolve(url).await.is_err(), "{url}");
    }
    Target::resolve("http://[::1]:1").await.unwrap();
}
