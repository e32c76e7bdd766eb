//! The model is worth as much as what it notices: each lie about a conversation is found out.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tapedeck_model::{Anomaly, Interim, StartLine};
use tapedeck_testkit::Rng;

use super::*;

/// Conversations with and without faults, with bodies on both sides.
fn heard() -> Vec<Heard> {
    let mut rng = Rng::new(3);
    let programs = (0..40).map(|_| rng.bytes(300));
    programs.map(|bytes| Heard::new(&bytes)).collect()
}

/// The places in a tape of exchanges that are whole.
fn whole(heard: &Heard) -> Vec<usize> {
    let exchanges = heard.tape.exchanges.iter().enumerate();
    let whole = exchanges.filter(|(_, (exchange, _))| exchange.complete());
    whole.map(|(place, _)| place).collect()
}

/// Tells a lie about each conversation about which it can be told; every one must be found out.
#[track_caller]
fn found_out(lie: impl Fn(&mut Heard) -> Option<()>) {
    let mut told = 0;
    for mut heard in heard() {
        heard.check();
        if lie(&mut heard).is_none() {
            continue;
        }
        told += 1;
        let check = catch_unwind(AssertUnwindSafe(|| heard.check()));
        assert!(check.is_err(), "believed: {:?}", heard.tape);
    }
    assert!(told >= 3, "told of {told} conversations only");
}

fn whole_exchange(heard: &mut Heard) -> Option<&mut (Exchange, [Vec<u8>; 2])> {
    let place = *whole(heard).first()?;
    heard.tape.exchanges.get_mut(place)
}

#[test]
fn another_byte_in_a_body() {
    for side in [0, 1] {
        found_out(|heard| {
            let places = whole(heard);
            let has_body = |place: &&usize| !heard.tape.exchanges[**place].1[side].is_empty();
            let place = *places.iter().find(has_body)?;
            heard.tape.exchanges[place].1[side][0] ^= 1;
            Some(())
        });
    }
}

#[test]
fn an_exchange_that_is_not_there() {
    found_out(|heard| {
        let plan = heard.plans.first()?;
        let call = plan.calls.first()?;
        let seen = heard.seen.first()?;
        // Over before anything was lost.
        let is_over = call.request.end <= seen.first_lost(Direction::ToServer)
            && call.response.end <= seen.first_lost(Direction::ToClient);
        let target = is_over.then(|| call.id.clone())?;
        heard.tape.exchanges.retain(|(exchange, _)| {
            id(exchange.request.as_ref(), |head| head.target()).as_ref() != Some(&target)
        });
        Some(())
    });
}

#[test]
fn an_exchange_that_is_there_twice() {
    found_out(|heard| {
        let again = whole_exchange(heard)?.clone();
        heard.tape.exchanges.push(again);
        Some(())
    });
}

#[test]
fn a_response_to_another_request() {
    found_out(|heard| {
        let [first, second, ..] = whole(heard)[..] else {
            return None;
        };
        let response = |place: usize| heard.tape.exchanges[place].0.response.clone();
        let responses = (response(first), response(second));
        heard.tape.exchanges[first].0.response = responses.1;
        heard.tape.exchanges[second].0.response = responses.0;
        Some(())
    });
}

#[test]
fn a_request_that_nobody_said() {
    found_out(|heard| {
        let request = whole_exchange(heard)?.0.request.as_mut()?;
        let head = request.head.as_mut()?;
        let StartLine::Request { target, .. } = head.start else {
            return None;
        };
        head.raw[target?.start as usize] ^= 1;
        Some(())
    });
}

#[test]
fn an_interim_response_that_nobody_said() {
    found_out(|heard| {
        let (exchange, _) = whole_exchange(heard)?;
        let head = exchange.response.as_ref()?.head.clone()?;
        let at = exchange.time();
        exchange.interim.push(Interim { head, at });
        Some(())
    });
}

#[test]
fn a_loss_that_is_not_told() {
    found_out(|heard| {
        let mut damaged = heard.tape.exchanges.iter_mut();
        let (exchange, _) = damaged.find(|(exchange, bodies)| {
            exchange.request.is_some()
                && exchange
                    .response
                    .as_ref()
                    .is_some_and(|message| message.head.is_some() && !message.body.gaps.is_empty())
                && !bodies[1].is_empty()
        })?;
        for message in [&mut exchange.request, &mut exchange.response] {
            message.as_mut()?.missing = Missing::default();
        }
        Some(())
    });
}

#[test]
fn a_ledger_that_does_not_add_up() {
    found_out(|heard| {
        heard.ledger.payload_bytes_delivered += 1;
        heard.ledger.payload_bytes_seen += 1;
        heard.ledger.bytes_http += 1;
        Some(())
    });
    found_out(|heard| {
        heard.ledger.connections += 1;
        Some(())
    });
    found_out(|heard| {
        heard.ledger.packets_seen += 1;
        Some(())
    });
    found_out(|heard| {
        let is_whole = heard.seen.iter().all(Seen::is_whole);
        heard.ledger.anomalies.insert(Anomaly::ALL[0], 1);
        is_whole.then_some(())
    });
}
