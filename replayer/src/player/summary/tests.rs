use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::player::endpoints::{Endpoints, Label};
use crate::player::guard::judged;
use crate::player::outcome::{Failure, GrpcStatus, NeverSent};
use crate::player::resources::share_of;
use crate::player::scenario::{Executor, Scenario};
use crate::player::schedule::{LeftOut, LeftOutCounts, Speed};
use crate::player::stop::Stop;
use crate::player::summary::{Evidence, MergeError, SummaryError};
use crate::player::tally::{Measures, Tally};
use crate::player::threshold::Threshold;
use crate::player::watch::{Sample, Watch, Watched};
use crate::player::windows::Windows;
use crate::player::{Report, ScenarioPlan, Vus};

const THRESHOLDS: [&str; 9] = [
    "http_req_duration: p(95)<500",
    "http_req_duration{scenario:pay}: avg<200",
    "http_req_duration{endpoint:/b/{id}}: p(99)<900",
    "http_reqs{status:500}: count<3",
    "http_req_failed: rate<0.2",
    "iterations: rate>1",
    "http_req_duration: max<700; over 2s",
    "http_reqs{method:GET}: rate>=2; over 1s",
    "grpc_req_failed{scenario:pay}: rate<0.5",
];

/// One request of a run.
#[derive(Clone, Debug)]
struct Request {
    second: usize,
    path: u8,
    scenario: u8,
    status: u16,
    nanos: u64,
}

fn request() -> impl Strategy<Value = Request> {
    let status = prop_oneof![Just(200_u16), Just(404), Just(500), Just(0)];
    (0..4_usize, 0..5_u8, 0..2_u8, status, 1..2_000_000_000_u64).prop_map(
        |(second, path, scenario, status, nanos)| Request {
            second,
            path,
            scenario,
            status,
            nanos,
        },
    )
}

fn scenarios(names: &[&str]) -> Vec<Scenario> {
    let executor = || Executor::Recorded {
        speed: Speed::Max,
        duration: None,
    };
    names
        .iter()
        .map(|name| Scenario::new(*name, executor()))
        .collect()
}

fn plan(name: &str) -> ScenarioPlan {
    ScenarioPlan {
        name: name.to_owned(),
        executor: "recorded".to_owned(),
        text: "as fast as it goes".to_owned(),
        is_open: false,
        speed: Some(Speed::Max),
        start: Duration::ZERO,
        graceful_stop: Duration::from_secs(30),
        sessions: 0,
        exchanges: 7,
        timetable: vec![(Duration::from_secs(1), "it goes on".to_owned())],
    }
}

/// What a run reports in which these requests were sent. `names` are the scenarios in their order,
/// `thresholds` and `first` are the orders in which the process met thresholds and endpoints.
fn report(requests: &[Request], names: &[&str], thresholds: &[&str], first: u8) -> Report {
    let thresholds: Vec<Threshold> = thresholds
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
    let mut endpoints = Endpoints::new(Vec::new(), Vec::new());
    let paths = [&b"/a"[..], b"/b/1", b"/c", b"/d", b"/e"];
    let ids: Vec<_> = (0..paths.len())
        .map(|n| (n + usize::from(first)) % paths.len())
        .map(|n| (n, endpoints.id(b"GET", paths[n])))
        .collect();
    let id = |path: u8| ids.iter().find(|(n, _)| *n == usize::from(path)).unwrap().1;
    let watch = Watch::new(&thresholds, endpoints.labels(), &scenarios(names));
    let watch = Arc::new(watch);
    let mut tally = Tally::new(&watch);
    let mut seconds = vec![Watched::coarse(&watch); 4];
    for request in requests {
        let name = ["browse", "pay"][usize::from(request.scenario)];
        let scenario = names.iter().position(|own| *own == name).unwrap();
        let scenario = u8::try_from(scenario).unwrap();
        let took = Duration::from_nanos(request.nanos);
        let sample = Sample {
            endpoint: id(request.path),
            scenario,
            status: request.status,
            grpc: (request.status == 404).then_some(GrpcStatus::UNKNOWN),
            sent: true,
            stopped: false,
            as_recorded: Some(request.status == 200),
            measures: Measures {
                http_req_duration: (request.status > 0).then_some(took),
                schedule_lag: Some(took / 100),
                ..Measures::default()
            },
        };
        match request.status {
            0 => tally.failures.add(Failure::Reset),
            status => {
                if let Some(grpc) = sample.grpc {
                    *tally.grpc.entry(grpc).or_default() += 1;
                }
                *tally.statuses.entry(status).or_default() += 1;
                tally.comparison.record(Some(200), status);
            }
        }
        tally.record(&sample);
        tally.iteration(scenario, took);
        seconds[request.second].record(&sample);
        seconds[request.second].record_iteration(scenario, took);
    }
    let n = requests.len() as u64;
    (tally.bytes_sent, tally.bytes_received) = (100 * n, 200 * n);
    tally.polled = Duration::from_millis(n);
    tally.never_sent.add_n(NeverSent::Refused, n);
    let mut left_out = LeftOutCounts::default();
    left_out.add_n(LeftOut::Tunnel, n);
    let (elapsed, cpu) = (Duration::from_secs(4), Duration::from_millis(3 * n));
    let mut windows = Windows::new(&watch);
    for second in seconds {
        windows.push(second, false);
    }
    let observed = tally.observed();
    let cpu_share = share_of(cpu - tally.polled, elapsed);
    let verdicts = judged(&watch, &observed, elapsed, cpu_share, &windows, None);
    Report {
        target: "http://a".to_owned(),
        scenarios: names.iter().map(|name| plan(name)).collect(),
        session_key: None,
        vus: Vus::default(),
        vus_max: 0,
        pooled: None,
        workers: 0,
        recorded: 3 * n,
        left_out,
        planned: Duration::from_secs(3),
        elapsed,
        cpu,
        stopped: Stop::Run,
        tally,
        endpoints: endpoints.labels().iter().map(Label::name).collect(),
        thresholds: verdicts,
        target_use: Vec::new(),
        target_queries: Vec::new(),
        evidence: Evidence {
            aborted: None,
            seconds: windows.into_history(),
        },
    }
}

/// The report as its summary gives it back.
fn through_a_file(report: &Report) -> Report {
    let text = serde_json::to_string_pretty(&report.to_json()).unwrap();
    Report::from_summary(&text).unwrap()
}

/// All that a summary says, but for the order in which scenarios and thresholds were met.
fn sorted(report: &Report) -> serde_json::Value {
    let mut json = report.to_json();
    let own = &mut json["tapedeck"];
    let names = ["scenarios", "endpoints"].map(|list| (list, own[list].take()));
    for (list, mut items) in names {
        let items = items.as_array_mut().unwrap();
        items.sort_by_key(ToString::to_string);
        own[list] = std::mem::take(items).into();
    }
    for list in ["scenarios", "thresholds"] {
        let mut items = own["state"][list].take();
        let items = items.as_array_mut().unwrap();
        items.sort_by_key(ToString::to_string);
        own["state"][list] = std::mem::take(items).into();
    }
    json
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// However the requests are spread over processes, and in whatever order each of these met its
    /// endpoints, scenarios and thresholds: the sum says what one process would have said.
    #[test]
    fn parts_add_up_to_the_whole(requests in vec((request(), 0..3_usize), 1..60), first in 0..5_u8) {
        let all: Vec<Request> = requests.iter().map(|(request, _)| request.clone()).collect();
        let whole = report(&all, &["browse", "pay"], &THRESHOLDS, 0);
        let mut turned = THRESHOLDS;
        turned.rotate_left(usize::from(first));
        let parts = (0..3).map(|part| {
            let mine = requests.iter().filter(|(_, of)| *of == part);
            let mine: Vec<Request> = mine.map(|(request, _)| request.clone()).collect();
            let names = if part == 1 { ["pay", "browse"] } else { ["browse", "pay"] };
            let thresholds = if part == 2 { &turned } else { &THRESHOLDS };
            through_a_file(&report(&mine, &names, thresholds, first))
        });
        let sum = Report::merge(parts.collect()).unwrap();
        prop_assert_eq!(sorted(&sum), sorted(&whole));
        prop_assert_eq!(sum.to_string(), whole.to_string());
        // And once more: a sum is a summary like any other.
        let again = Report::merge(vec![through_a_file(&sum)]).unwrap();
        prop_assert_eq!(again.to_json(), sum.to_json());
    }
}

fn a_request() -> Request {
    Request {
        second: 0,
        path: 0,
        scenario: 0,
        status: 200,
        nanos: 1000,
    }
}

#[test]
fn a_scenario_that_one_process_has_alone_stays_what_it_is() {
    let browse = report(&[a_request()], &["browse"], &[], 0);
    let pay = Request {
        scenario: 1,
        ..a_request()
    };
    let pay = report(&[pay.clone(), pay], &["pay"], &[], 1);
    let sum = Report::merge(vec![browse, pay]).unwrap();
    let of: Vec<_> = sum
        .scenarios
        .iter()
        .zip(&sum.tally.scenarios)
        .map(|(plan, signals)| (plan.name.as_str(), signals.requests.sent))
        .collect();
    assert_eq!(of, [("browse", 1), ("pay", 2)]);
    assert_eq!(sum.by_endpoint()[0].1.sent, 3);
}

#[test]
fn what_no_run_could_have_reported_is_refused() {
    let one = || report(&[a_request()], &["browse"], &THRESHOLDS[..1], 0);
    let mut other = one();
    other.scenarios[0].text = "100 iterations".to_owned();
    let differs = |report: Report| match Report::merge(vec![one(), report]) {
        Err(MergeError::Different { what, .. }) => what,
        result => panic!("{result:?}"),
    };
    assert_eq!(differs(other), "scenario browse");
    let other = report(&[a_request()], &["browse"], &[], 0);
    assert_eq!(differs(other), "the list of thresholds");
    let mut other = one();
    other.pooled = Some(64);
    assert_eq!(differs(other), "the use of connections");
    assert!(matches!(
        Report::merge(Vec::new()),
        Err(MergeError::Nothing)
    ));
    // Without its seconds a window cannot be judged.
    let mut long = report(&[a_request()], &["browse"], &THRESHOLDS[6..7], 0);
    long.evidence.seconds = None;
    assert!(matches!(
        Report::merge(vec![long]),
        Err(MergeError::NoSeconds(text)) if text.contains("over 2s")
    ));
}

#[test]
fn a_damaged_summary_is_refused_and_says_why() {
    let json = report(&[a_request()], &["browse"], &THRESHOLDS, 0).to_json();
    let with = |pointer: &str, value: serde_json::Value| {
        let mut json = json.clone();
        *json.pointer_mut(pointer).expect(pointer) = value;
        let read = Report::from_summary(&json.to_string());
        read.and_then(|report| match Report::merge(vec![report]) {
            Err(MergeError::Summary(error)) => Err(error),
            _ => Ok(()),
        })
    };
    let state = |field: &str| format!("/tapedeck/state/{field}");
    assert!(with("/tapedeck/target", 1.into()).is_ok());
    let said =
        |field: &str, value: serde_json::Value| with(&state(field), value).unwrap_err().to_string();
    assert!(said("version", 4.into()).contains("version 4"));
    assert!(said("recorded", u64::MAX.into()).contains("larger than any count"));
    assert!(said("recorded", (-1).into()).contains("not the summary"));
    let trend = "tally/trends/schedule_lag";
    for (field, value) in [
        ("histogram", "AAAA".into()),
        ("histogram", "HISTEwAA".into()),
        ("sum_ns", "340282366920938463463374607431768211455".into()),
        ("sum_ns", "x".into()),
        ("min_ns", 5000.into()),
    ] {
        let said = said(&format!("{trend}/{field}"), value);
        assert!(
            said.contains("the histogram of schedule_lag is damaged"),
            "{said}"
        );
    }
    assert!(said("thresholds/0/text", "x".into()).contains("unknown threshold"));
    assert!(said("left_out", serde_json::json!({ "x": 1 })).contains("unknown cause"));
    let watched = serde_json::json!({ THRESHOLDS[4].split(": ").next().unwrap(): { "count": 1 } });
    assert!(said("watched", watched.clone()).contains("contradicts itself"));
    let seconds = serde_json::json!([{ "is_cut": false, "watched": { "http_req_duration": { "count": 1 } } }]);
    assert!(said("seconds", seconds).contains("contradicts itself"));
    for text in [
        "",
        "[]",
        "{}",
        "{\"tapedeck\":{\"state\":{}}}",
        "{\"metrics\":{}}",
    ] {
        let read = Report::from_summary(text);
        assert!(
            matches!(read, Err(SummaryError::NoState | SummaryError::Form(_))),
            "{text}"
        );
    }
}

/// As k6 does: whole numbers look alike, whether they were counted or computed.
#[test]
fn whole_numbers_are_written_alike() {
    fn check(path: &str, value: &serde_json::Value) {
        match value {
            serde_json::Value::Number(number) => {
                let is_whole = number.as_f64().is_some_and(|n| n.fract() == 0.0);
                assert!(!(number.is_f64() && is_whole), "{path}: {number}");
            }
            serde_json::Value::Array(items) => items.iter().for_each(|item| check(path, item)),
            serde_json::Value::Object(fields) => {
                fields
                    .iter()
                    .for_each(|(name, value)| check(&format!("{path}/{name}"), value));
            }
            _ => {}
        }
    }
    let json = report(&[a_request(), a_request()], &["browse"], &THRESHOLDS, 0).to_json();
    check("", &json);
    let count = &json["metrics"]["http_reqs"]["values"]["count"];
    assert_eq!(count.to_string(), "2");
}
