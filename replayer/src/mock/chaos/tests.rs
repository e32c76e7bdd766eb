use std::time::Instant;

use super::dice::Dice;
use super::*;

fn parse(fault: &str) -> Result<Chaos, ChaosError> {
    Chaos::parse(&format!("faults:\n  - {{name: x, {fault}}}\n"))
}

#[track_caller]
fn wrong(fault: &str, says: &str) {
    let error = parse(fault).unwrap_err();
    assert!(error.message.contains(says), "{fault}: {error}");
    assert_eq!(error.line, 2, "{fault}: {error}");
}

#[test]
fn files_are_read_as_yaml_and_as_json() {
    let yaml = Chaos::parse(
        "seed: 7
faults:
  - name: slow payments
    when: request.path.startsWith('/pay')
    probability: 0.25
    from: 30s
    until: 1m30s
    latency: {normal: {mean: 300ms, deviation: 50ms}}
  - name: gone
    reset: {at: body, bytes: 100, code: 2}
",
    )
    .unwrap();
    assert_eq!((yaml.seed, yaml.rules.len()), (7, 2));
    let slow = &yaml.rules[0];
    assert!(slow.when.is_some());
    assert_eq!(slow.from, Duration::from_secs(30));
    assert_eq!(slow.until, Some(Duration::from_secs(90)));
    assert_eq!(
        slow.action,
        Action::Latency(Spread::Normal {
            mean: Duration::from_millis(300),
            deviation: Duration::from_millis(50)
        })
    );
    let json = Chaos::parse(
        r#"{"faults": [{"name": "gone", "reset": {"at": "body", "bytes": 100, "code": 2}}]}"#,
    )
    .unwrap();
    assert_eq!(json.rules[0].action, yaml.rules[1].action);
}

#[test]
fn mistakes_are_said_with_their_place() {
    wrong("resett: {}", "resett");
    wrong("probability: 1.5, reset: {}", "between 0 and 1");
    wrong("from: 2s, until: 1s, reset: {}", "not behind");
    wrong("from: soon, reset: {}", "no duration");
    wrong("when: 'response.status =', reset: {}", "in `when`");
    wrong("probability: 0.5", "does nothing");
    wrong("reset: {}, refuse: true", "several things");
    wrong(
        "when: 'response.status == 200', refuse: true",
        "leave `when` out",
    );
    wrong("latency: {}", "one of fixed");
    wrong(
        "latency: {fixed: 1s, pareto: {minimum: 1s, shape: 1}}",
        "one of fixed",
    );
    wrong("latency: {pareto: {minimum: 1s, shape: 0}}", "positive");
    wrong(
        "latency: {lognormal: {median: 1s, sigma: .nan}}",
        "positive",
    );
    wrong("bandwidth: 0", "at least 1");
    wrong("drip: {bytes: 0, every: 1s}", "at least one byte");
    wrong("answer: {status: 100}", "200 to 999");
    wrong("reset: {at: in-head, bytes: 3}", "at: body");
    wrong("length: 0", "no wrong length");
    wrong("malformedChunk: false", "leave the field out");
    wrong("tlsAlert: rude", "no TLS alert");
    wrong("settingsStorm: 0", "at least one");
    let twice = "faults: [{name: a, reset: {}}, {name: a, refuse: true}]";
    assert!(
        Chaos::parse(twice)
            .unwrap_err()
            .message
            .contains("two faults")
    );
    assert!(Chaos::parse("faults: 3").is_err());
    assert!(Chaos::parse("").is_err());
    assert_eq!(Alert::of("handshake_failure"), Some(Alert(40)));
}

/// The exchanges that a plan strikes among the first thousand, with their delays.
fn struck(chaos: &Chaos) -> Vec<(u32, Duration)> {
    let plan = Plan::new(chaos.clone(), Instant::now(), |_| Ok::<_, ()>(vec![0b1010])).unwrap();
    let now = Instant::now();
    (0..1000)
        .filter_map(|id| Some((id, plan.strike(id, 0, now, |_| {})?.delay)))
        .collect()
}

#[test]
fn as_many_are_struck_as_the_probability_says() {
    for (probability, least, most) in [
        (0.0, 0, 0),
        (0.1, 70, 130),
        (0.5, 440, 560),
        (1.0, 1000, 1000),
    ] {
        let chaos = parse(&format!(
            "probability: {probability}, latency: {{fixed: 1s}}"
        ))
        .unwrap();
        let count = struck(&chaos).len();
        assert!((least..=most).contains(&count), "{probability}: {count}");
        assert_eq!(struck(&chaos), struck(&chaos));
    }
}

#[test]
fn a_filter_chooses_who_is_struck() {
    let chaos = parse("when: 'response.status == 200', latency: {fixed: 1s}").unwrap();
    let ids: Vec<_> = struck(&chaos).into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, [1, 3]);
}

#[test]
fn a_schedule_begins_and_ends() {
    let chaos = parse("from: 30s, until: 90s, latency: {fixed: 1s}").unwrap();
    let began = Instant::now();
    let plan = Plan::new(chaos, began, |_| Ok::<_, ()>(Vec::new())).unwrap();
    let strikes = |seconds| {
        let now = began + Duration::from_secs_f64(seconds);
        plan.strike(0, 0, now, |_| {}).is_some()
    };
    let on = [0.0, 29.9, 30.0, 89.9, 90.0].map(strikes);
    assert_eq!(on, [false, false, true, true, false]);
}

#[test]
fn several_faults_add_up_and_the_first_harm_counts() {
    let chaos = Chaos::parse(
        "faults:
- {name: a, latency: {fixed: 1s}}
- {name: b, latency: {fixed: 2s}}
- {name: c, bandwidth: 1000}
- {name: d, bandwidth: 100}
- {name: e, truncate: {bytes: 1}}
- {name: f, reset: {}}
",
    )
    .unwrap();
    let plan = Plan::new(chaos, Instant::now(), |_| Ok::<_, ()>(Vec::new())).unwrap();
    let mut log = Vec::new();
    let effect = plan.strike(0, 0, Instant::now(), |injected| log.push(injected.rule));
    let effect = effect.unwrap();
    assert_eq!(effect.delay, Duration::from_secs(3));
    assert_eq!(effect.pace, Some(Pace::rate(100)));
    assert_eq!(effect.harm, Some(Harm::Cut { at: Place::Body(1) }));
    assert_eq!(
        log,
        ["a", "b", "c", "d", "e"],
        "what did not happen is not logged"
    );
}

/// Mean and median of many draws, in seconds.
fn shape(spread: Spread) -> (f64, f64) {
    const DRAWS: usize = 20_000;
    let mut draws: Vec<f64> = (0..DRAWS as u64)
        .map(|nth| Dice::new(3, "x", 0, nth).delay(spread).as_secs_f64())
        .collect();
    draws.sort_by(f64::total_cmp);
    (draws.iter().sum::<f64>() / DRAWS as f64, draws[DRAWS / 2])
}

#[test]
fn distributions_hold_their_shape() {
    let second = Duration::from_secs(1);
    let near = |a: f64, b: f64| (a - b).abs() < 0.03 * b;
    assert_eq!(shape(Spread::Fixed(second)), (1.0, 1.0));
    let (mean, median) = shape(Spread::Normal {
        mean: second,
        deviation: second / 5,
    });
    assert!(near(mean, 1.0) && near(median, 1.0), "{mean} {median}");
    let (mean, median) = shape(Spread::LogNormal {
        median: second,
        sigma: 0.5,
    });
    // The mean of a lognormal distribution is exp(sigma² / 2) times its median.
    assert!(
        near(mean, 0.125_f64.exp()) && near(median, 1.0),
        "{mean} {median}"
    );
    let (mean, median) = shape(Spread::Pareto {
        minimum: second,
        shape: 3.0,
    });
    assert!(
        near(mean, 1.5) && near(median, 2_f64.powf(1.0 / 3.0)),
        "{mean} {median}"
    );
    // However heavy the tail, a delay ends.
    let longest = (0..1000)
        .map(|nth| {
            Dice::new(3, "x", 0, nth).delay(Spread::Pareto {
                minimum: second,
                shape: 0.01,
            })
        })
        .max();
    assert_eq!(longest, Some(Duration::from_secs(3600)));
}

#[test]
fn bandwidth_is_a_rate() {
    for rate in [1, 19, 20, 1000, 1 << 40] {
        let Pace { bytes, every } = Pace::rate(rate);
        let measured = bytes as f64 / every.as_secs_f64();
        assert!(
            (measured - rate as f64).abs() <= 0.06 * rate as f64,
            "{rate}: {measured}"
        );
    }
}
