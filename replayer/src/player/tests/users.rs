//! k6's executors against a real server: who sends what, how often, and when not.

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::recording::{Call, call, play_users};
use super::server::{OK, Seen, options, polite, serve};
use crate::player::{
    Executor, Iteration, Limits, Options, PerTime, Report, Reuse, Scenario, SessionKey, Speed,
    Stage, Stop, StopFlag, Weight,
};

const SECOND: Duration = Duration::from_secs(1);

fn scenario(executor: Executor) -> Scenario {
    Scenario::new("a", executor)
}

fn with(options: Options, scenario: Scenario) -> Options {
    Options {
        scenarios: vec![scenario],
        ..options
    }
}

fn shared(vus: u32, iterations: u64) -> Executor {
    Executor::SharedIterations {
        vus,
        iterations,
        max_duration: 60 * SECOND,
    }
}

fn rate(n: u64, seconds: u32, max_vus: u32) -> Executor {
    Executor::ConstantArrivalRate {
        rate: PerTime { n, unit: SECOND },
        duration: SECOND * seconds,
        pre_allocated_vus: max_vus,
        max_vus,
    }
}

/// Two users of three requests each, 10 ms apart.
fn two_users() -> Vec<Call> {
    let call = |n: u64| call(n * 5, n % 2, &format!("GET /{}/{}", n % 2, n / 2));
    (0..6).map(call).collect()
}

#[track_caller]
fn counts(report: &Report) -> (u64, u64, u64) {
    let tally = &report.tally;
    (tally.iterations(), tally.interruptions(), tally.dropped())
}

/// However many threads send: what a user needs is dealt out as the users are, and no thread has more than its share.
#[test]
fn limits_are_those_of_the_whole_run() {
    for workers in [1, 2, 3, 8] {
        let (address, _) = polite();
        let run = |limit| {
            let limits = Limits {
                connections: limit,
                in_flight: limit,
                ..Limits::default()
            };
            let options = Options {
                limits,
                workers: NonZeroU32::new(workers),
                ..options(address)
            };
            play_users(two_users(), &with(options, scenario(shared(7, 70)))).tally
        };
        let tally = run(7);
        assert_eq!(tally.never_sent.total(), 0, "{workers} workers");
        assert_eq!(tally.answered(), 210);
        let tally = run(2);
        assert!(tally.answered() > 0, "{workers} workers");
        assert!(tally.peak_connections <= 2, "{}", tally.peak_connections);
        assert!(tally.peak_in_flight <= 2, "{}", tally.peak_in_flight);
    }
}

#[test]
fn an_iteration_is_a_session_in_order_and_sessions_are_cloned() {
    let (address, log) = polite();
    let options = with(options(address), scenario(shared(3, 7)));
    let report = play_users(two_users(), &options);
    assert_eq!(counts(&report), (7, 0, 0));
    assert_eq!(report.tally.answered(), 21);
    // In recorded order, beginning again: four times the first user, three times the second.
    let mut paths: BTreeMap<String, u32> = BTreeMap::new();
    let mut by_connection: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for seen in log.seen() {
        *paths.entry(seen.path()).or_default() += 1;
        by_connection
            .entry(seen.connection)
            .or_default()
            .push(seen.path());
    }
    let expect = (0..2).flat_map(|user| (0..3).map(move |n| (format!("/{user}/{n}"), 4 - user)));
    assert_eq!(paths, expect.collect());
    // Each user has a connection of its own, and the order of a session is kept on it.
    assert_eq!(by_connection.len(), 3);
    for paths in by_connection.values() {
        for session in paths.chunks(3) {
            let user = &session[0][..3];
            let expect: Vec<_> = (0..3).map(|n| format!("{user}{n}")).collect();
            assert_eq!(session, expect);
        }
    }
    let key = report.session_key.as_ref().map(ToString::to_string);
    assert_eq!(key.as_deref(), Some("connection"));
}

#[test]
fn think_time_is_kept_scaled_or_left_out() {
    let think = |think| {
        let (address, log) = polite();
        let calls = vec![
            call(0, 1, "GET /a"),
            Call {
                // Answered at 20 ms, so that there are 200 ms to think.
                took: Duration::from_millis(10),
                ..call(10, 1, "GET /b")
            },
            call(220, 1, "GET /c"),
        ];
        let scenario = Scenario {
            think,
            ..scenario(shared(1, 1))
        };
        play_users(calls, &with(options(address), scenario));
        let seen = log.seen();
        seen[2].at - seen[1].at
    };
    let (kept, halved, none) = (think(Some(1.0)), think(Some(2.0)), think(None));
    assert!(kept >= Duration::from_millis(200), "{kept:?}");
    assert!(halved >= Duration::from_millis(100), "{halved:?}");
    assert!(
        halved < kept && none < halved,
        "{kept:?} {halved:?} {none:?}"
    );
}

#[test]
fn users_are_told_apart_by_what_their_requests_say() {
    let login = |n: u64| call(n, n, "POST /login");
    let with_token = |at: u64, connection: u64, user: u64| {
        call(at, connection, "GET /").head(&format!(
            "GET /{user} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer t{user}\r\n\r\n"
        ))
    };
    let mut calls = vec![login(1), login(2)];
    for n in 0..8 {
        // Connections are shared by both users, crosswise, behind the login.
        let user = n % 2 + 1;
        let connection = if n < 2 { user } else { 3 - user };
        calls.push(with_token(10 + n, connection, user));
    }
    let (address, log) = polite();
    let options = with(options(address), scenario(shared(1, 1)));
    let report = play_users(calls.clone(), &options);
    assert_eq!(report.session_key, Some(SessionKey::Bearer));
    let paths: Vec<_> = log.seen().iter().map(Seen::path).collect();
    assert_eq!(paths, ["/login", "/1", "/1", "/1", "/1"]);

    let (address, log) = polite();
    let options = Options {
        session_by: Some(SessionKey::Connection),
        ..with(super::server::options(address), scenario(shared(1, 1)))
    };
    play_users(calls, &options);
    let paths: Vec<_> = log.seen().iter().map(Seen::path).collect();
    assert_eq!(paths, ["/login", "/1", "/2", "/2", "/2"]);
}

#[test]
fn what_was_sent_at_once_is_sent_at_once() {
    // A server that answers the second and the third request only when it has both.
    let both = Arc::new((Mutex::new(0), Condvar::new()));
    let (address, _) = serve(move |mut peer| {
        while let Some(seen) = peer.request() {
            if seen.path() != "/first" {
                let (count, changed) = &*both;
                let mut count = count.lock().unwrap();
                *count += 1;
                changed.notify_all();
                while *count < 2 {
                    count = changed.wait(count).unwrap();
                }
            }
            peer.answer(OK);
        }
    });
    let slow = |at, line: &str| Call {
        took: Duration::from_millis(50),
        ..call(at, 1, line)
    };
    let calls = vec![
        slow(0, "GET /first"),
        slow(60, "GET /a"),
        slow(70, "GET /b"),
    ];
    let report = play_users(calls, &with(options(address), scenario(shared(1, 1))));
    assert_eq!(report.tally.answered(), 3);
    assert_eq!(report.tally.peak_in_flight, 2);
}

#[test]
fn per_vu_iterations_are_each_users_own() {
    let (address, log) = polite();
    let executor = Executor::PerVuIterations {
        vus: 4,
        iterations: 5,
        max_duration: 60 * SECOND,
    };
    let scenario = Scenario {
        iteration: Iteration::Exchange,
        ..scenario(executor)
    };
    let report = play_users(two_users(), &with(options(address), scenario));
    assert_eq!(counts(&report), (20, 0, 0));
    let mut by_connection: BTreeMap<usize, u32> = BTreeMap::new();
    for seen in log.seen() {
        *by_connection.entry(seen.connection).or_default() += 1;
    }
    assert_eq!(by_connection.into_values().collect::<Vec<_>>(), [5; 4]);
    assert_eq!(report.vus_max, 4);
}

#[test]
fn arrivals_come_at_their_times_and_are_dropped_when_nobody_is_free() {
    let (address, log) = polite();
    let exchange = |executor| Scenario {
        iteration: Iteration::Exchange,
        ..scenario(executor)
    };
    let options = with(options(address), exchange(rate(50, 1, 20)));
    let report = play_users(two_users(), &options);
    assert_eq!(counts(&report), (50, 0, 0));
    let seen = log.seen();
    let span = seen[49].at - seen[0].at;
    // 49 intervals of 20 ms; the first may be late, the last never early.
    assert!(span > Duration::from_millis(900), "{span:?}");

    // A target that answers nothing while the run lasts: two users take two iterations.
    let (address, _) = serve(|mut peer| while peer.request().is_some() {});
    let scenario = Scenario {
        graceful_stop: Duration::ZERO,
        ..exchange(rate(50, 1, 2))
    };
    let report = play_users(
        two_users(),
        &with(super::server::options(address), scenario),
    );
    assert_eq!(counts(&report), (0, 2, 48));
    assert_eq!(report.tally.failures.total(), 2);
}

#[test]
fn ramping_users_follow_their_stages() {
    let (address, log) = polite();
    let stage = |millis, target| Stage {
        duration: Duration::from_millis(millis),
        target,
    };
    let executor = Executor::RampingVus {
        start_vus: 1,
        stages: vec![
            stage(500, 1),
            stage(0, 6),
            stage(500, 6),
            stage(0, 2),
            stage(300, 2),
        ],
        graceful_ramp_down: SECOND,
    };
    let scenario = Scenario {
        iteration: Iteration::Exchange,
        ..scenario(executor)
    };
    let options = Options {
        min_iteration: Duration::from_millis(5),
        ..with(options(address), scenario)
    };
    let begun = Instant::now();
    let report = play_users(two_users(), &options);
    assert!(begun.elapsed() >= Duration::from_millis(1300));
    let (iterations, interrupted, dropped) = counts(&report);
    assert!(iterations > 6);
    assert_eq!((interrupted, dropped), (0, 0));
    assert_eq!(report.vus_max, 6);
    let seen = log.seen();
    let start = seen[0].at;
    let connections = |from: u64, until: u64| {
        let within = |seen: &&Seen| {
            let at = seen.at.saturating_duration_since(start);
            (from..until).contains(&(u64::try_from(at.as_millis()).unwrap()))
        };
        let set: BTreeSet<_> = seen.iter().filter(within).map(|s| s.connection).collect();
        set.len()
    };
    assert_eq!(connections(0, 450), 1);
    assert_eq!(connections(0, u64::MAX), 6);
}

#[test]
fn several_scenarios_run_side_by_side_each_from_its_own_start() {
    let (address, log) = polite();
    let single = |name: &str, executor| Scenario {
        iteration: Iteration::Exchange,
        ..Scenario::new(name, executor)
    };
    let mut tagged = single("late", shared(1, 3));
    tagged.start = Duration::from_millis(300);
    tagged.tags.insert("zone".to_owned(), "b".to_owned());
    // Filters of tests choose even ids: user 0.
    tagged.filter = Some(tapedeck_filter::Filter::parse("true").unwrap());
    let recorded = Executor::Recorded {
        speed: "1x".parse().unwrap(),
        duration: None,
    };
    let options = Options {
        scenarios: vec![single("now", recorded), tagged],
        thresholds: [
            "iterations{scenario:late}: count==3",
            "iterations{scenario:now}: count==6",
            "http_reqs{zone:b}: count==3",
            "http_reqs{scenario:late,endpoint:/{id}/{id}}: count==3",
            "iterations: count==9",
            "dropped_iterations{scenario:late}: count==0",
            "iteration_duration{zone:b}: max<60000",
            "vus_max: value==1",
        ]
        .map(|text| text.parse().unwrap())
        .to_vec(),
        ..options(address)
    };
    let begun = Instant::now();
    let report = play_users(two_users(), &options);
    assert!(report.passed(), "{report}");
    let seen = log.seen();
    assert_eq!(seen.len(), 9);
    // The run begins after `begun`: however slow the machine is, nothing can come too early.
    let late = begun + Duration::from_millis(300);
    assert!(seen.iter().filter(|request| request.at >= late).count() >= 3);
    // The three of user 0, once for each scenario.
    let of_user_0 = seen
        .iter()
        .filter(|request| request.path().starts_with("/0/"));
    assert_eq!(of_user_0.count(), 6);
    assert_eq!(report.tally.scenarios[1].iterations, 3);
}

#[test]
fn connections_are_used_again_as_asked() {
    let connections = |reuse| {
        let (address, log) = polite();
        let options = Options {
            reuse,
            ..with(options(address), scenario(shared(1, 2)))
        };
        play_users(two_users(), &options);
        log.connections()
    };
    assert_eq!(connections(Reuse::Always), 1);
    assert_eq!(connections(Reuse::WithinIteration), 2);
    assert_eq!(connections(Reuse::Never), 6);
}

#[test]
fn a_stop_ends_users_and_counts_what_they_left() {
    let stop = StopFlag::new();
    let handle = stop.clone();
    let (address, _) = serve(move |mut peer| {
        while let Some(seen) = peer.request() {
            if seen.path() == "/0/1" {
                handle.stop();
            }
            peer.answer(OK);
        }
    });
    let executor = Executor::PerVuIterations {
        vus: 1,
        iterations: 5,
        max_duration: 60 * SECOND,
    };
    let options = with(options(address), scenario(executor));
    let report = super::recording::try_play(two_users(), &options, &stop).unwrap();
    assert_eq!(report.stopped, Stop::Finish);
    // The second request was answered; the third of the session was not begun.
    assert_eq!(report.tally.answered(), 2);
    assert_eq!(counts(&report), (0, 1, 4));
}

#[test]
fn a_first_stop_waits_no_longer_than_the_graceful_stop() {
    let stop = StopFlag::new();
    let handle = stop.clone();
    let (address, _) = serve(move |mut peer| {
        while peer.request().is_some() {
            handle.stop();
        }
    });
    let executor = Executor::ConstantVus {
        vus: 1,
        duration: 60 * SECOND,
    };
    let silent = Scenario {
        graceful_stop: Duration::ZERO,
        ..scenario(executor)
    };
    let options = with(options(address), silent);
    let report = super::recording::try_play(two_users(), &options, &stop).unwrap();
    assert_eq!(report.stopped, Stop::Finish);
    assert_eq!(counts(&report), (0, 1, 0));
    assert!(report.elapsed < 20 * SECOND, "{:?}", report.elapsed);
}

#[test]
fn think_time_without_end_ends_with_the_scenario() {
    let executor = Executor::ConstantVus {
        vus: 1,
        duration: SECOND,
    };
    for (think, calls) in [
        (1e-300, two_users()),
        (f64::MIN_POSITIVE, two_users()),
        // The second waits beside the third.
        (
            1e-300,
            vec![
                Call {
                    took: Duration::from_millis(50),
                    ..call(0, 1, "GET /a")
                },
                call(60, 1, "GET /b"),
                call(60, 1, "GET /c"),
            ],
        ),
    ] {
        let (address, _) = polite();
        let scenario = Scenario {
            graceful_stop: Duration::ZERO,
            think: Some(think),
            ..scenario(executor.clone())
        };
        let report = play_users(calls, &with(options(address), scenario));
        assert_eq!(counts(&report), (0, 1, 0));
        assert_eq!(report.tally.answered(), 1);
        assert!(report.elapsed >= SECOND, "{:?}", report.elapsed);
    }
}

#[test]
fn a_run_whose_parts_panic_fails() {
    let slow = |at, line: &str| Call {
        took: Duration::from_millis(50),
        ..call(at, 1, line)
    };
    let behind = vec![call(0, 1, "GET /a"), call(5, 1, "GET /panic")];
    let beside = vec![
        slow(0, "GET /a"),
        slow(60, "GET /b"),
        slow(70, "GET /panic"),
    ];
    for calls in [behind, beside] {
        let (address, _) = polite();
        let limits = Limits {
            // Each request is read when its turn comes.
            ahead_bytes: 0,
            ..Limits::default()
        };
        let options = Options {
            limits,
            ..with(options(address), scenario(shared(1, 1)))
        };
        let played = super::recording::try_play(calls, &options, &StopFlag::new());
        let error = played.err().map(|error| error.to_string());
        let says = "panicked; this is a bug";
        assert!(error.is_some_and(|error| error.contains(says)));
    }
}

#[test]
fn what_finds_nothing_to_send_is_named() {
    let refused = |calls: Vec<Call>, scenarios: Vec<Scenario>| {
        let (address, _) = polite();
        let options = Options {
            scenarios,
            ..options(address)
        };
        let error = super::recording::try_play(calls, &options, &StopFlag::new()).unwrap_err();
        error.to_string()
    };
    // Filters of tests choose even ids: the first is not one that can be sent.
    let tunnel = Call {
        tunnel: true,
        ..call(0, 1, "CONNECT a:1")
    };
    let odd = || vec![tunnel.clone(), call(5, 1, "GET /b")];
    let text = "request.path == '/x'";
    let filter = || tapedeck_filter::Filter::parse(text).unwrap();
    let weight = |weight| Weight {
        filter: filter(),
        text: text.to_owned(),
        weight,
    };
    let weighted = |weights| Scenario {
        weights,
        ..Scenario::new("w", shared(1, 1))
    };
    let chosen = || Scenario {
        filter: Some(filter()),
        ..Scenario::new("b", shared(1, 1))
    };
    let all = || Scenario::new("a", shared(1, 1));

    let error = refused(odd(), vec![all(), weighted(vec![weight(3)])]);
    assert!(
        error.contains("\"w\"") && error.contains("request.path == '/x'"),
        "{error}"
    );
    let error = refused(odd(), vec![all(), chosen()]);
    assert!(
        error.contains("\"b\"") && error.contains("1 not chosen"),
        "{error}"
    );
    let error = refused(odd(), vec![chosen()]);
    assert!(!error.contains("\"b\""), "{error}");
    let error = refused(two_users(), vec![weighted(vec![weight(0)])]);
    assert!(error.contains("weight"), "{error}");
    let error = refused(Vec::new(), vec![all()]);
    assert_eq!(error, "the archive holds no exchanges");
}

/// Users would be told apart by their connections, which nobody asked for.
#[test]
fn a_session_key_that_no_request_has_is_refused() {
    let (address, log) = polite();
    let run = |key: &str, iteration| {
        let scenario = Scenario {
            iteration,
            ..scenario(shared(1, 1))
        };
        let options = Options {
            session_by: Some(key.parse().unwrap()),
            ..with(options(address), scenario)
        };
        super::recording::try_play(two_users(), &options, &StopFlag::new())
    };
    for key in [
        "header:X-User",
        "cookie:sid",
        "query:user",
        "bearer",
        "credentials",
    ] {
        let error = run(key, Iteration::Session).unwrap_err().to_string();
        let says = format!("no request that users are to send has {key}, ");
        assert!(error.contains(&says), "{error}");
    }
    assert_eq!(log.seen().len(), 0);
    run("header:Host", Iteration::Session).unwrap();
    run("connection", Iteration::Session).unwrap();
}

#[test]
fn thresholds_on_tags_that_nobody_has_are_refused() {
    let (address, _) = polite();
    let options = Options {
        thresholds: vec!["http_reqs{zone:b}: count<1".parse().unwrap()],
        ..options(address)
    };
    let error = super::recording::try_play(two_users(), &options, &StopFlag::new()).unwrap_err();
    assert!(error.to_string().contains("the tag \"zone\""), "{error}");
}

#[test]
fn a_cap_holds_the_requests_of_all_users_back() {
    let sessions = scenario(shared(4, 12));
    let flat_out = scenario(Executor::Recorded {
        speed: Speed::Max,
        duration: None,
    });
    for (scenario, requests) in [(sessions, 36), (flat_out, 6)] {
        let (address, log) = polite();
        let options = Options {
            max_rate: NonZeroU64::new(100),
            workers: NonZeroU32::new(2),
            ..with(options(address), scenario)
        };
        let begun = Instant::now();
        let report = play_users(two_users(), &options);
        let last = log.seen().iter().map(|seen| seen.at).max().unwrap();
        assert_eq!(log.seen().len(), requests);
        let least = Duration::from_millis(10) * u32::try_from(requests - 1).unwrap();
        assert!(last - begun >= least, "{:?}", last - begun);
        // Who waits for its turn is not due.
        let latency = report.tally.trends.http_req_duration.percentile(50.0);
        assert!(latency < Duration::from_millis(10), "{latency:?}");
    }
}

#[test]
fn users_are_told_as_k6_does() {
    let (address, _) = polite();
    let users = |name: &str, start, vus| Scenario {
        start: Duration::from_millis(start),
        graceful_stop: Duration::ZERO,
        iteration: Iteration::Exchange,
        ..Scenario::new(
            name,
            Executor::ConstantVus {
                vus,
                duration: Duration::from_millis(1700),
            },
        )
    };
    let options = Options {
        min_iteration: Duration::from_millis(20),
        // One behind the other: at each whole second one of them is there, and the last one at the end.
        scenarios: vec![users("a", 0, 3), users("b", 1900, 3), users("c", 3900, 2)],
        thresholds: ["vus_max: value==3", "vus: value==2"]
            .map(|text| text.parse().unwrap())
            .to_vec(),
        ..options(address)
    };
    let report = play_users(two_users(), &options);
    assert_eq!(report.vus_max, 3);
    assert_eq!(
        (report.vus.last, report.vus.least, report.vus.most),
        (2, 2, 3)
    );
    assert!(report.passed(), "{report}");
    let vus = &report.to_json()["metrics"]["vus"]["values"];
    assert_eq!(
        (&vus["value"], &vus["min"], &vus["max"]),
        (&2.into(), &2.into(), &3.into())
    );
}
