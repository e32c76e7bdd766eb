//! When requests arrive, and what latency says.

use std::time::{Duration, Instant};

use super::recording::{Recording, call, play, play_until, play_users};
use super::server::{OK, options, polite, serve};
use crate::player::{
    Executor, Failure, NeverSent, Options, Scenario, SecondRow, Speed, Stop, StopFlag,
};

/// The machine that runs the tests may be busy with other things, so that lateness is judged by its
/// median, and counted from the request that came soonest; no request may be early.
const TOLERANCE: Duration = Duration::from_millis(200);

#[track_caller]
fn check_arrivals(speed: &str, gap_millis: u64) {
    let (address, log) = polite();
    let speed: Speed = speed.parse().unwrap();
    let Speed::Times(factor) = speed else {
        panic!("a factor")
    };
    let calls: Vec<_> = (0..50)
        .map(|n| call(n * gap_millis, n % 5, &format!("GET /{n}")))
        .collect();
    let due: Vec<_> = calls.iter().map(|call| factor.due(call.at)).collect();
    let before = Instant::now();
    let report = play(
        calls,
        &Options {
            speed,
            ..options(address)
        },
    );
    let mut seen = log.seen();
    seen.sort_unstable_by_key(|seen| seen.path()[1..].parse::<u32>().unwrap());
    assert_eq!(seen.len(), 50);
    let mut late: Vec<Duration> = seen
        .iter()
        .zip(&due)
        .map(|(seen, due)| {
            let at = seen.at - before;
            assert!(at >= *due, "at {at:?} instead of {due:?}");
            at - *due
        })
        .collect();
    late.sort_unstable();
    assert!(late[25] - late[0] < TOLERANCE, "{late:?}");
    assert_eq!(report.planned, due[49]);
    assert!(report.elapsed >= report.planned);
    assert!(report.tally.trends.schedule_lag.percentile(50.0) < TOLERANCE);
}

#[test]
fn requests_arrive_when_they_are_due() {
    check_arrivals("1x", 6);
    check_arrivals("4x", 24);
    check_arrivals("0.5x", 3);
}

#[test]
fn a_stall_moves_no_arrival_and_shows_in_the_latency() {
    // The server answers nothing until two seconds after the first request came.
    let (address, log) = serve(|mut peer| {
        while let Some(seen) = peer.request() {
            let first = peer.first_arrival();
            let end = first + Duration::from_secs(2);
            std::thread::sleep(end.saturating_duration_since(seen.at));
            peer.answer(OK);
        }
    });
    let calls: Vec<_> = (0..30).map(|n| call(n * 5, 1, "GET /")).collect();
    let report = play(calls, &options(address));
    let seen = log.seen();
    let last = seen.iter().map(|seen| seen.at).max().unwrap();
    assert!(last - seen[0].at < Duration::from_millis(1800));
    assert_eq!(report.tally.answered(), 30);
    // They were due within 145 ms, and waited for what was left of the two seconds.
    let median = report.tally.trends.http_req_duration.percentile(50.0);
    assert!(median > Duration::from_millis(1800), "{median:?}");
}

#[test]
fn waiting_for_the_pool_counts_as_latency_not_as_service() {
    let (address, _log) = serve(|mut peer| {
        while peer.request().is_some() {
            std::thread::sleep(Duration::from_millis(20));
            peer.answer(OK);
        }
    });
    let calls: Vec<_> = (0..10).map(|n| call(0, n, "GET /")).collect();
    let report = play(
        calls,
        &Options {
            connections: std::num::NonZeroU32::new(1),
            ..options(address)
        },
    );
    let trends = &report.tally.trends;
    assert!(trends.http_req_duration.max() >= Duration::from_millis(200));
    assert!(trends.http_req_blocked.max() >= Duration::from_millis(180));
    let service = trends.service_time.percentile(50.0);
    assert!(service < Duration::from_millis(100), "{service:?}");
    assert!(trends.schedule_lag.percentile(50.0) < TOLERANCE);
}

#[test]
fn a_stop_sends_nothing_more_and_awaits_what_is_in_flight() {
    let stop = StopFlag::new();
    let stopping = stop.clone();
    let (address, log) = serve(move |mut peer| {
        while peer.request().is_some() {
            stopping.stop();
            peer.answer(OK);
        }
    });
    let mut calls = vec![call(0, 1, "GET /now")];
    calls.extend((0..5).map(|n| call(3_600_000 + n, 1, "GET /in-an-hour")));
    let report = play_until(calls, &options(address), &stop);
    assert_eq!(report.tally.answered(), 1);
    assert_eq!(report.tally.never_sent.of(NeverSent::Stopped), 5);
    assert_eq!(report.stopped, Stop::Finish);
    assert_eq!(log.seen().len(), 1);
    assert!(report.to_string().contains("Stopped early"));
}

#[test]
fn behind_the_grace_time_or_a_second_stop_nothing_is_awaited() {
    for (grace, stops) in [(Duration::ZERO, 1), (Duration::from_secs(3600), 2)] {
        for speed in [Speed::RECORDED, Speed::Max] {
            let stop = StopFlag::new();
            let stopping = stop.clone();
            let (address, _log) = serve(move |mut peer| {
                while peer.request().is_some() {
                    for _ in 0..stops {
                        stopping.stop();
                    }
                }
            });
            let calls: Vec<_> = (0..500).map(|n| call(n * 60_000, n, "GET /")).collect();
            let executor = Executor::Recorded {
                speed,
                duration: None,
            };
            let options = Options {
                scenarios: vec![Scenario {
                    graceful_stop: grace,
                    ..Scenario::new("a", executor)
                }],
                ..options(address)
            };
            let report = play_until(calls, &options, &stop);
            let unanswered = report.tally.failures.of(Failure::Unanswered);
            assert!(unanswered >= 1, "{report}");
            assert_eq!(
                report.tally.never_sent.of(NeverSent::Stopped),
                500 - unanswered
            );
        }
    }
}

/// tokio's timers tick once a millisecond, and what they are late would be the target's latency.
#[test]
fn think_time_ends_when_it_ends() {
    let (address, _log) = polite();
    let calls: Vec<_> = (0..200).map(|n| call(n * 4, 1, "GET /")).collect();
    let executor = Executor::PerVuIterations {
        vus: 1,
        iterations: 1,
        max_duration: Duration::from_secs(60),
    };
    let scenario = Scenario::new("a", executor);
    let options = Options {
        scenarios: vec![scenario],
        ..options(address)
    };
    // The machine that runs the tests may be busy with other things: once of several times will do, as a tick is
    // never shorter.
    let medians = (0..5).map(|_| {
        let trends = play_users(calls.clone(), &options).tally.trends;
        trends.schedule_lag.percentile(50.0)
    });
    let mut seen = Vec::new();
    let limit = Duration::from_micros(400);
    let in_time = medians
        .inspect(|median| seen.push(*median))
        .any(|median| median < limit);
    assert!(in_time, "{seen:?}");
}

#[test]
fn a_second_in_which_the_target_stalls_has_requests_sent_and_no_latency() {
    // Nothing is answered until two and a half seconds after the first request came.
    let (address, _log) = serve(|mut peer| {
        while let Some(seen) = peer.request() {
            let end = peer.first_arrival() + Duration::from_millis(2500);
            std::thread::sleep(end.saturating_duration_since(seen.at));
            peer.answer(OK);
        }
    });
    let calls: Vec<_> = (0..60).map(|n| call(n * 50, n, "GET /")).collect();
    let options = Options {
        every_second: true,
        ..options(address)
    };
    let rows = std::cell::RefCell::new(Vec::new());
    let collect = |progress: crate::player::Progress| rows.borrow_mut().extend(progress.seconds);
    let report = crate::player::run::play(Recording(calls), &options, &StopFlag::new(), collect);
    let rows = rows.into_inner();
    for second in &rows[..2] {
        // At 20 a second, however busy this machine is.
        assert!(second.sent >= 5, "{second:?}");
        assert_eq!((second.answered, second.latency), (0, None));
        assert_eq!(second.lag_p99, None);
    }
    let sum = |of: fn(&SecondRow) -> u64| rows.iter().map(of).sum::<u64>();
    let report = report.unwrap();
    assert_eq!(sum(|row| row.sent), report.tally.sent());
    assert_eq!((sum(|row| row.sent), sum(|row| row.answered)), (60, 60));
    let latest = rows
        .iter()
        .filter_map(|row| row.latency)
        .next_back()
        .unwrap();
    assert!(latest.p50 <= latest.max, "{latest:?}");
}
