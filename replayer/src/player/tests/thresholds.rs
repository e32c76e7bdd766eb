//! What must hold of a run, and what is said of its endpoints.

use std::time::{Duration, Instant};

use super::recording::{call, play, play_users};
use super::server::{OK, options, polite, serve};
use crate::player::{
    Executor, Failure, Iteration, Options, Scenario, Stop, Threshold, VerdictReason,
};

fn thresholds(texts: &[&str]) -> Vec<Threshold> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

const ERROR: &[u8] = b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n";

#[test]
fn thresholds_are_of_the_requests_that_their_tags_name() {
    let (address, _log) = serve(|mut peer| {
        while let Some(seen) = peer.request() {
            let paid = seen.path() == "/pay/7";
            if !peer.answer(if paid { ERROR } else { OK }) {
                return;
            }
        }
    });
    let mut calls: Vec<_> = (0..8)
        .map(|n| call(n, 1, &format!("GET /users/{n}")))
        .collect();
    calls.extend((0..2).map(|_| call(9, 2, "POST /pay/7")));
    let all = [
        ("http_reqs: count==10", true),
        ("http_reqs{endpoint:/users/{id}}: count==8", true),
        ("http_reqs{endpoint:POST /pay/{id}}: count==2", true),
        ("http_reqs{endpoint:GET /pay/{id}}: count==0", false),
        ("http_reqs{status:404}: count<1", true),
        ("http_reqs{method:PUT}: count<1", false),
        ("http_req_failed: rate<0.1", false),
        ("http_req_failed: rate==0.2", true),
        ("http_req_failed{method:GET}: rate==0", true),
        ("http_req_duration{status:500}: max>0", true),
        (
            "http_req_duration{expected_response:true}: p(99)<60000",
            true,
        ),
        ("http_req_duration{status:404}: p(95)<500", false),
        ("status_as_recorded: rate>0.7", true),
        ("dropped_iterations: count<1", true),
        ("data_sent: count>100", true),
        ("in_flight_peak: value>=1", true),
        ("http_req_connecting: p(95)<60000", true),
    ];
    for workers in [1, 2] {
        let report = play(
            calls.clone(),
            &Options {
                thresholds: all.iter().map(|(text, _)| text.parse().unwrap()).collect(),
                workers: std::num::NonZeroU32::new(workers),
                ..options(address)
            },
        );
        for ((text, ok), verdict) in all.iter().zip(&report.thresholds) {
            assert_eq!(verdict.ok, *ok, "{text}: {verdict}\n{report}");
        }
        assert!(!report.passed());
        let json = report.to_json();
        let metrics = &json["metrics"];
        assert_eq!(
            metrics["http_req_failed"]["thresholds"]["rate<0.1"]["ok"],
            false
        );
        let tagged = &metrics["http_reqs{endpoint:/users/{id}}"];
        assert_eq!(tagged["type"], "counter");
        assert_eq!(tagged["values"]["count"], 8.0);
        assert_eq!(tagged["thresholds"]["count==8"]["ok"], true);
        let text = report.to_string();
        assert!(text.contains("✗ 'rate<0.1' rate=0.2"), "{text}");
        assert!(text.contains("✓ 'count==8' count=8"), "{text}");
        assert!(text.contains("✗ 'p(95)<500' no samples"), "{text}");
    }
}

/// What nothing of the run could be in says nothing; what might have been there and was not is 0.
#[test]
fn a_threshold_without_samples_fails_where_there_could_be_none() {
    let (address, _log) = polite();
    let users = |name: &str, even: bool| Scenario {
        filter: even.then(|| tapedeck_filter::Filter::parse("true").unwrap()),
        iteration: Iteration::Exchange,
        ..Scenario::new(
            name,
            Executor::SharedIterations {
                vus: 1,
                iterations: 2,
                max_duration: Duration::from_secs(60),
            },
        )
    };
    // Filters of tests choose even ids: "even" never sends /odd, and nobody comes to /late.
    let calls = ["/even", "/odd", "/late"].map(|path| call(0, 1, &format!("GET {path}")));
    let all = [
        ("http_reqs{endpoint:/typo}: count<100", false),
        ("http_reqs{endpoint:/late,scenario:all}: count<100", false),
        ("http_reqs{endpoint:/odd,scenario:even}: count<100", false),
        ("http_reqs{endpoint:/odd,scenario:all}: count<100", true),
        ("http_reqs{scenario:typo}: count<100", false),
        ("http_reqs{zone:typo}: count<100", false),
        ("http_reqs{zone:a}: count<100", true),
        ("http_reqs{status:500}: count<1", true),
        (
            "http_reqs{status:500,expected_response:true}: count<1",
            false,
        ),
        ("dropped_iterations: count<10", true),
        ("dropped_iterations{scenario:even}: count<10", true),
        ("dropped_iterations{scenario:typo}: count<10", false),
        ("iterations{zone:typo}: count<10", false),
        ("http_req_duration{status:500}: p(95)<500", false),
        ("data_received: count>0", true),
    ];
    let mut tagged = users("all", false);
    tagged.tags.insert("zone".to_owned(), "a".to_owned());
    let options = Options {
        scenarios: vec![tagged, users("even", true)],
        thresholds: all.iter().map(|(text, _)| text.parse().unwrap()).collect(),
        ..options(address)
    };
    let report = play_users(calls.to_vec(), &options);
    for ((text, ok), verdict) in all.iter().zip(&report.thresholds) {
        assert_eq!(verdict.ok, *ok, "{text}: {verdict}\n{report}");
        let reason = if *ok {
            VerdictReason::Compared
        } else {
            VerdictReason::NoSamples
        };
        assert_eq!(verdict.reason, reason, "{text}");
    }
}

#[test]
fn endpoints_have_golden_signals() {
    let (address, _log) = serve(|mut peer| {
        while let Some(seen) = peer.request() {
            let bad = seen.path() == "/users/3";
            if !peer.answer(if bad { ERROR } else { OK }) {
                return;
            }
        }
    });
    let mut calls: Vec<_> = (0..5)
        .map(|n| call(n, n, &format!("GET /users/{n}")))
        .collect();
    calls.push(call(6, 9, "DELETE /users/1"));
    let report = play(calls, &options(address));
    let seen: Vec<_> = report
        .by_endpoint()
        .into_iter()
        .map(|(name, signals)| (name, signals.sent, signals.failed, signals.duration.count()))
        .collect();
    assert_eq!(
        seen,
        [
            ("GET /users/{id}", 5, 1, 5),
            ("DELETE /users/{id}", 1, 0, 1)
        ]
    );
    let json = report.to_json();
    assert_eq!(
        json["tapedeck"]["endpoints"][0]["endpoint"],
        "GET /users/{id}"
    );
    assert_eq!(json["tapedeck"]["endpoints"][0]["failed"], 1);
    assert!(report.to_string().contains("GET /users/{id}"));
}

#[test]
fn a_failed_threshold_ends_the_run_where_it_says_so() {
    let (address, _log) = polite();
    // The last request would be due in ten minutes.
    let mut calls: Vec<_> = (0..20).map(|n| call(n, 1, "GET /")).collect();
    calls.push(call(600_000, 1, "GET /"));
    let before = Instant::now();
    let report = play(
        calls,
        &Options {
            thresholds: thresholds(&[
                "http_reqs: count<5; abort",
                "http_req_failed: rate<0.5; abort",
                "http_reqs: count<15; abort; delay 1h",
            ]),
            ..options(address)
        },
    );
    assert!(before.elapsed() < Duration::from_secs(60));
    assert_ne!(report.stopped, Stop::Run);
    let [count, failed, late] = report.thresholds.as_slice() else {
        panic!("three")
    };
    assert!(matches!(count.reason, VerdictReason::Aborted(_)), "{count}");
    assert!(!count.ok);
    assert!(failed.ok, "{failed}");
    assert_eq!(late.reason, VerdictReason::Compared);
}

#[test]
fn what_times_out_fails_the_rate_and_shows_in_the_latency() {
    let (address, _log) = serve(|mut peer| while peer.request().is_some() {});
    let report = play(
        vec![call(0, 1, "GET /")],
        &Options {
            timeout: Duration::from_millis(50),
            thresholds: thresholds(&[
                "http_req_failed{status:0}: rate==1",
                "http_req_duration: min>=50",
                "service_time: p(95)<1000",
            ]),
            ..options(address)
        },
    );
    assert_eq!(report.tally.failures.of(Failure::TimedOut), 1);
    let ok: Vec<_> = report.thresholds.iter().map(|verdict| verdict.ok).collect();
    assert_eq!(ok, [true, true, false], "{report}");
}

#[test]
fn a_bad_second_fails_a_threshold_over_windows_and_not_one_over_the_run() {
    // Of three seconds the second one fails.
    let (address, _) = serve(|mut peer| {
        while let Some(seen) = peer.request() {
            let answer: &[u8] = if seen.path() == "/bad" {
                b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"
            } else {
                OK
            };
            peer.answer(answer);
        }
    });
    let calls = (0..60).map(|n| {
        let line = if (20..40).contains(&n) {
            "GET /bad"
        } else {
            "GET /good"
        };
        call(n * 50 + 20, 1, line)
    });
    let options = Options {
        thresholds: [
            "http_req_failed: rate<0.5",
            "http_req_failed: rate<0.5; over 1s",
            "http_req_failed: rate<0.9; over 2s",
            "http_req_failed: rate<0.01; over 10m",
        ]
        .map(|text| text.parse().unwrap())
        .to_vec(),
        ..options(address)
    };
    let report = play(calls.collect(), &options);
    let ok: Vec<_> = report.thresholds.iter().map(|verdict| verdict.ok).collect();
    // A run that is shorter than a window is one.
    assert_eq!(ok, [true, false, true, false], "{report}");
    assert_eq!(
        report.thresholds[1].reason,
        VerdictReason::Window(Duration::from_secs(1))
    );
}
