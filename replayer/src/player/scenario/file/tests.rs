use super::*;
use crate::player::scenario::executor::PerTime;

fn parse(text: &str) -> FileOptions {
    FileOptions::parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn only(text: &str) -> Executor {
    let mut scenarios = parse(text).scenarios;
    assert_eq!(scenarios.len(), 1);
    scenarios.remove(0).executor
}

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn every_executor_has_the_defaults_of_k6() {
    let options = parse(
        "
scenarios:
  a: {executor: constant-vus, duration: 10s}
  b: {executor: ramping-vus, stages: [{duration: 1m, target: 5}]}
  c: {executor: per-vu-iterations}
  d: {executor: shared-iterations}
  e: {executor: constant-arrival-rate, rate: 30, duration: 1500, preAllocatedVUs: 7}
  f: {executor: ramping-arrival-rate, preAllocatedVUs: 3, stages: [{duration: '5s', target: 9}]}
  g: {executor: recorded, speed: 4x}
",
    );
    let unit = seconds(1);
    let expect = [
        Executor::ConstantVus {
            vus: 1,
            duration: seconds(10),
        },
        Executor::RampingVus {
            start_vus: 1,
            stages: vec![Stage {
                duration: seconds(60),
                target: 5,
            }],
            graceful_ramp_down: seconds(30),
        },
        Executor::PerVuIterations {
            vus: 1,
            iterations: 1,
            max_duration: seconds(600),
        },
        Executor::SharedIterations {
            vus: 1,
            iterations: 1,
            max_duration: seconds(600),
        },
        Executor::ConstantArrivalRate {
            rate: PerTime { n: 30, unit },
            duration: Duration::from_millis(1500),
            pre_allocated_vus: 7,
            max_vus: 7,
        },
        Executor::RampingArrivalRate {
            start_rate: PerTime { n: 0, unit },
            stages: vec![Stage {
                duration: seconds(5),
                target: 9,
            }],
            pre_allocated_vus: 3,
            max_vus: 3,
        },
        Executor::Recorded {
            speed: "4x".parse().unwrap(),
            duration: None,
        },
    ];
    for (scenario, expect) in options.scenarios.iter().zip(expect) {
        assert_eq!(scenario.executor, expect);
        assert_eq!(scenario.graceful_stop, seconds(30));
        assert_eq!(scenario.start, Duration::ZERO);
    }
    assert_eq!(options.scenarios.len(), 7);
}

#[test]
fn short_forms_are_those_of_k6() {
    assert_eq!(
        only("{vus: 10, duration: 30s}"),
        Executor::ConstantVus {
            vus: 10,
            duration: seconds(30)
        }
    );
    assert_eq!(
        only("{vus: 2, iterations: 5}"),
        Executor::SharedIterations {
            vus: 2,
            iterations: 5,
            max_duration: seconds(600)
        }
    );
    assert_eq!(
        only("stages: [{duration: 10s, target: 3}]"),
        Executor::RampingVus {
            start_vus: 1,
            stages: vec![Stage {
                duration: seconds(10),
                target: 3
            }],
            graceful_ramp_down: seconds(30),
        }
    );
    assert!(parse("thresholds: {}").scenarios.is_empty());
}

/// As `k6 inspect` prints it: JSON, with tabs, with nulls, with options that need a script.
#[test]
fn the_options_of_a_k6_script_are_accepted_as_they_are() {
    let options = parse(
        r#"{
	"paused": null,
	"vus": null,
	"duration": null,
	"scenarios": {
		"peak": {
			"executor": "constant-arrival-rate",
			"startTime": "5s",
			"gracefulStop": null,
			"env": { "A": "b" },
			"exec": "main",
			"tags": { "kind": "peak", "zone": "b" },
			"duration": "1m30s",
			"rate": 30,
			"timeUnit": "1m",
			"preAllocatedVUs": 10,
			"maxVUs": 20
		}
	},
	"setupTimeout": "10s",
	"batch": 15,
	"insecureSkipTLSVerify": true,
	"noConnectionReuse": false,
	"userAgent": "me",
	"tags": { "zone": "a", "team": "x" },
	"thresholds": {
		"http_req_duration{scenario:peak}": [ "p(95)<500", { "threshold": "p(99)<900", "abortOnFail": true, "delayAbortEval": "10s" } ],
		"http_req_failed": [ { "threshold": "rate<0.01", "abortOnFail": false, "delayAbortEval": null, "over": "10s" } ],
		"checks": [ "rate>0.9" ],
		"group_duration{group:::pay}": [ { "threshold": "avg<900", "abortOnFail": true } ]
	},
	"summaryTrendStats": [ "avg", "p(95)" ]
}"#,
    );
    let peak = &options.scenarios[0];
    assert_eq!(peak.start, seconds(5));
    assert_eq!(peak.graceful_stop, seconds(30));
    let tags: Vec<_> = peak.tags.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(tags, ["kind=peak", "team=x", "zone=b"]);
    assert_eq!(peak.executor.most_vus(), 20);
    let texts: Vec<_> = options.thresholds.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "http_req_duration{scenario:peak}: p(95)<500",
            "http_req_duration{scenario:peak}: p(99)<900; abort; delay 10s",
            "http_req_failed: rate<0.01; over 10s",
        ]
    );
    assert!(options.insecure);
    assert_eq!(options.user_agent.as_deref(), Some("me"));
    assert_eq!(
        options.without_meaning,
        ["setupTimeout", "batch", "summaryTrendStats", "env", "exec"]
    );
    assert_eq!(options.without_values, ["checks", "group_duration"]);
}

#[test]
fn a_cap_of_requests_is_for_users() {
    let users = "scenarios: {a: {executor: constant-vus, duration: 5s}}\n";
    let rps = |text: &str| parse(&(users.to_owned() + text)).rps;
    assert_eq!(rps("rps: 100"), NonZeroU64::new(100));
    assert_eq!(rps("rps: 0"), None);
    assert_eq!(rps("rps: null"), None);
    for (scenarios, name) in [
        ("", "recorded"),
        ("scenarios: {b: {executor: recorded}}\n", "b"),
    ] {
        let line = scenarios.lines().count() as u64 + 1;
        let says = format!("rps: holds users back, and the scenario {name:?}");
        fails(&format!("{scenarios}rps: 5\n"), line, &says);
    }
    let flat_out = "scenarios: {b: {executor: recorded, speed: max}}\nrps: 5\n";
    assert_eq!(parse(flat_out).rps, NonZeroU64::new(5));
}

#[test]
fn tags_that_a_script_would_set_are_said_to_be_unknown_with_line_and_field() {
    let file = |series: &str| {
        format!("vus: 1\ntags: {{zone: a}}\nthresholds:\n  '{series}': ['p(95)<5']\n")
    };
    for (tag, says) in [
        ("group:::pay", "requests of one kind are an endpoint here"),
        ("name:login", "requests of one kind are an endpoint here"),
        (
            "type:api",
            "there are scenario, endpoint, method, status, expected_response, zone",
        ),
    ] {
        let series = format!("http_req_duration{{{tag}}}");
        let text = file(&series);
        fails(&text, 4, &format!("thresholds: {series} names the tag"));
        fails(&text, 4, says);
    }
    parse(&file("http_req_duration{zone:b,status:200}"));
    // Of a file without scenarios, too: its tags are those of what is sent as recorded.
    let options = parse("tags: {zone: a}\nthresholds: {'http_reqs{zone:a}': ['count>0']}\n");
    assert_eq!(options.scenarios[0].executor, Executor::RECORDED);
    assert_eq!(options.scenarios[0].name, "recorded");
}

#[test]
fn our_own_fields_choose_what_is_sent() {
    let options = parse(
        "
sessionBy: cookie:sid
scenarios:
  mix:
    executor: shared-iterations
    filter: response.status == 200
    weights:
      - {filter: 'request.method == \"GET\"', weight: 9}
      - {filter: 'request.method == \"POST\"', weight: 1}
    iteration: exchange
  quick: {executor: constant-vus, duration: 1s, thinkTime: 0}
  slow: {executor: constant-vus, duration: 1s, thinkTime: 0.5}
",
    );
    assert_eq!(options.session_by, Some(SessionKey::Cookie("sid".into())));
    let [mix, quick, slow] = options.scenarios.as_slice() else {
        panic!("three scenarios");
    };
    assert!(mix.filter.is_some());
    assert_eq!(mix.weights.len(), 2);
    assert_eq!(mix.iteration, Iteration::Exchange);
    assert_eq!((slow.think, quick.think), (Some(2.0), None));
}

#[track_caller]
fn fails(text: &str, line: u64, says: &str) {
    let error = FileOptions::parse(text).unwrap_err();
    assert!(error.to_string().contains(says), "{error}");
    assert_eq!(error.line, line, "{error}");
}

#[test]
fn files_without_any_options_are_said() {
    fails("", 1, "the file is empty");
    fails("[]", 1, "column 1: expected fields with values");
    fails("scenarios: {}\n", 1, "scenarios: at least one is needed");
    let twice = FileOptions::parse("vus: 1\nvus: 2\n").unwrap_err();
    assert_eq!(twice.message, "duplicate mapping key: vus");
}

#[test]
fn mistakes_are_said_with_line_and_field() {
    fails("vus: 1\nduratoin: 5s\n", 2, "duratoin");
    fails("vus: many\n", 1, "vus: ");
    fails(
        "vus: 5\nduration: 5 parsecs\n",
        2,
        "duration: \"5 parsecs\" is no duration",
    );
    fails("vus: -5\n", 1, "vus: expected a whole number of 0 or more");
    fails(
        "{\"scenarios\": {\"a\": {\"executor\": \"constant-vus\",\n \"vus\" : 1.5}}}",
        2,
        "vus: expected a whole number of 0 or more",
    );
    fails(
        "vus: 5\nduration: 5s\nscenarios: {}\n",
        1,
        "vus: excludes scenarios",
    );
    fails(
        "iterations: 5\nstages: []\n",
        1,
        "iterations: excludes stages",
    );
    fails("vus: 0\nduration: 5s\n", 1, "vus: must be at least 1");
    fails("{\"vus\": 5,\n \"duration\": [}", 2, "");
    let one = |fields: &str| format!("scenarios:\n  a:\n    {fields}\n");
    fails(&one("vus: 5"), 3, "scenarios.a.executor: is missing");
    fails(
        &one("executor: constant"),
        3,
        "no executor \"constant\"; there are constant-vus",
    );
    fails(
        &one("executor: constant-vus\n    rate: 5"),
        4,
        "scenarios.a.rate: constant-vus has no such field",
    );
    fails(
        &one("executor: constant-vus"),
        3,
        "scenarios.a.duration: is missing",
    );
    fails(
        &one("executor: constant-vus\n    duration: 100ms"),
        4,
        "scenarios.a.duration: 100ms is shorter than 1s",
    );
    fails(
        &one("executor: shared-iterations\n    vus: 5\n    iterations: 4"),
        5,
        "scenarios.a.iterations: 4 is less than the number of VUs, 5",
    );
    fails(
        &one(
            "executor: constant-arrival-rate\n    rate: 5\n    duration: 5s\n    preAllocatedVUs: 5\n    maxVUs: 4",
        ),
        7,
        "scenarios.a.maxVUs: 4 is less than preAllocatedVUs, 5",
    );
    fails(
        &one(
            "executor: constant-arrival-rate\n    rate: 0\n    duration: 5s\n    preAllocatedVUs: 5",
        ),
        4,
        "scenarios.a.rate: must be at least 1",
    );
    fails(
        &one(
            "executor: ramping-arrival-rate\n    preAllocatedVUs: 5\n    stages:\n    - {duration: 1s}",
        ),
        6,
        "target",
    );
    fails(&one("executor: recorded\n    speed: fast"), 4, "speed");
    fails(&one("executor: recorded\n    filter: 'a =='"), 4, "filter");
    fails(
        "scenarios:\n  'a b': {executor: recorded}\n",
        2,
        "letters, digits",
    );
    fails(
        "thresholds:\n  http_req_duration: ['p(95)<fast']\n",
        2,
        "\"fast\" is no number",
    );
    fails(
        "thresholds:\n  http_req_duration:\n  - {threshold: 'p(95)<5', abort: true}\n",
        3,
        "abort",
    );
    fails(
        "thresholds:\n  chekcs: ['rate>0.9']\n",
        2,
        "no metric \"chekcs\"",
    );
    fails("sessionBy: user\n", 1, "sessionBy");
}

#[test]
fn more_iterations_than_can_be_added_up_are_refused() {
    let one = |fields: &str| format!("scenarios:\n  a:\n    {fields}\n");
    fails(
        "vus: 2\niterations: 9223372036854775807\n",
        2,
        "iterations: at most 1000000000000 are supported, of all users",
    );
    fails(
        &one("executor: per-vu-iterations\n    vus: 1000\n    iterations: 1000000001"),
        5,
        "scenarios.a.iterations: at most 1000000000000 are supported",
    );
}

#[test]
fn what_would_have_no_effect_is_said_with_line_and_field() {
    for field in [
        "thinkTime: 0.5",
        "iteration: session",
        "weights: [{filter: 'true', weight: 1}]",
    ] {
        let text = format!("scenarios:\n  a:\n    executor: recorded\n    {field}\n");
        let name = field.split(':').next().unwrap();
        let says = format!(
            "scenarios.a.{name}: is for users; recorded sends every exchange at its instant"
        );
        fails(&text, 4, &says);
    }
    let users = "  a: {executor: constant-vus, duration: 1s, ";
    let text = format!("scenarios:\n{users}iteration: exchange, thinkTime: 0}}\n");
    fails(
        &text,
        2,
        "scenarios.a.thinkTime: an iteration of one exchange has none",
    );
    for scenarios in [
        "",
        "scenarios: {a: {executor: recorded}}\n",
        &format!("scenarios:\n{users}iteration: exchange}}\n"),
    ] {
        let line = scenarios.lines().count() as u64 + 1;
        let text = format!("{scenarios}sessionBy: cookie:sid\n");
        fails(
            &text,
            line,
            "sessionBy: tells users apart, and no scenario sends sessions",
        );
    }
    parse("vus: 1\nsessionBy: cookie:sid\n");
}
