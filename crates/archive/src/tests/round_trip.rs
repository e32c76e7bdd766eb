//! What was written is read back.

use proptest::prelude::*;
use tapedeck_model::{Missing, Role, Side, Timestamp};

use super::samples::{any_samples, expected, memory, provenance, read, shop, write};
use crate::page::builder::session_key;
use crate::page::values::RowValues;
use crate::{Archive, BodyBuffer, Limits, NumberColumn, Row, Scratch, WriterOptions};

fn options(limits: Limits) -> WriterOptions {
    let mut options = WriterOptions::new(provenance());
    options.limits = limits;
    options
}

fn tiny() -> Limits {
    Limits {
        block: 8 << 10,
        group: 16 << 10,
        inline_body: 2 << 10,
        min_shared_body: 500,
        remembered_bodies: 4,
        open_bodies: 64,
        ..Limits::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_exchange_survives(samples in any_samples(12), is_tiny in any::<bool>()) {
        let folder = memory();
        let path = folder.path().join("a.tape");
        let limits = if is_tiny { tiny() } else { Limits::default() };
        let summary = write(&path, &samples, options(limits));
        prop_assert_eq!(summary.exchanges, samples.len() as u64);

        let archive = Archive::open(&path).unwrap();
        let expected: Vec<_> = samples.iter().map(expected).collect();
        let found = read(&archive);
        for (found, expected) in found.iter().zip(&expected) {
            prop_assert_eq!(found, expected);
        }
        prop_assert_eq!(found.len(), expected.len());

        prop_assert_eq!(archive.rows().count(), expected.len());
        for (row, exchange) in archive.rows().zip(&expected) {
            let values = RowValues::of(exchange);
            prop_assert_eq!(row.time(), values.time);
            prop_assert_eq!(row.duration(), values.duration);
            prop_assert_eq!(row.first_byte(), values.first_byte);
            prop_assert_eq!(row.method(), values.method);
            prop_assert_eq!(row.scheme(), values.scheme);
            prop_assert_eq!(row.authority(), values.authority);
            let target = row.target();
            prop_assert_eq!(target.as_deref(), values.target);
            prop_assert_eq!(row.session(), values.session.map(session_key));
            prop_assert_eq!(row.tls().is_some(), exchange.connection.tls.is_some());
            if let (Some(found), Some(tls)) = (row.tls(), &exchange.connection.tls) {
                prop_assert_eq!(found.version(), tls.version);
                prop_assert_eq!(found.suite(), tls.suite);
                prop_assert_eq!(found.server_name(), tls.server_name.as_deref());
                prop_assert_eq!(found.alpn(), tls.alpn.as_deref());
            }
            let workloads = &exchange.connection.workloads;
            for (side, workload) in [(Side::Client, &workloads.client), (Side::Server, &workloads.server)] {
                let found = row.workload(side);
                prop_assert_eq!(found.is_some(), workload.is_some());
                if let (Some(found), Some(workload)) = (found, workload) {
                    let bytes = |text: &Option<String>| text.clone().map(String::into_bytes);
                    prop_assert_eq!(found.pod().map(<[u8]>::to_vec), bytes(&workload.pod));
                    prop_assert_eq!(found.owner().map(<[u8]>::to_vec), bytes(&workload.owner));
                    prop_assert_eq!(found.cgroup().map(<[u8]>::to_vec), bytes(&workload.cgroup));
                    prop_assert_eq!(found.pid(), workload.pid);
                }
            }
            prop_assert_eq!(row.status(), values.status);
            prop_assert_eq!(row.stream(), exchange.stream);
            prop_assert_eq!(row.protocol(), exchange.protocol);
            prop_assert_eq!(row.connection(), exchange.connection.id);
            prop_assert_eq!(row.client(), exchange.connection.client);
            prop_assert_eq!(row.server(), exchange.connection.server);
            prop_assert_eq!(row.request_missing(), exchange.missing(Role::Request));
            prop_assert_eq!(row.response_missing(), exchange.missing(Role::Response));
            prop_assert_eq!(row.complete(), exchange.complete());
            prop_assert_eq!(row.tunnel(), exchange.tunnel);
            prop_assert_eq!(row.pushed(), exchange.pushed);
            prop_assert_eq!(row.anomalies(), exchange.anomalies);
            let len = |message: &Option<tapedeck_model::Message>| {
                message.as_ref().map(|message| message.body.len)
            };
            prop_assert_eq!(row.request_body_len(), len(&exchange.request));
            prop_assert_eq!(row.response_body_len(), len(&exchange.response));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_range_of_a_body_is_that_of_the_whole(
        samples in any_samples(6),
        is_tiny in any::<bool>(),
        (start, len) in (0_u64..5000, 0_u64..5000),
    ) {
        let folder = memory();
        let path = folder.path().join("a.tape");
        let limits = if is_tiny { tiny() } else { Limits::default() };
        write(&path, &samples, options(limits));
        let archive = Archive::open(&path).unwrap();
        let mut scratch = Scratch::new();
        let (mut whole, mut part) = (BodyBuffer::new(), BodyBuffer::new());
        for id in 0..archive.len() {
            let record = archive.load(id, &mut scratch).unwrap();
            for message in [record.request(), record.response()].into_iter().flatten() {
                let body = message.body();
                let bytes = archive.body(&body, &mut whole).unwrap();
                let from = (start as usize).min(bytes.len());
                let to = (from + len as usize).min(bytes.len());
                let range = archive.body_range(&body, start, len, &mut part).unwrap();
                prop_assert_eq!(range, &bytes[from..to]);
                let all = archive.body_range(&body, 0, body.len(), &mut part).unwrap();
                prop_assert_eq!(all, bytes);
            }
        }
    }
}

#[test]
fn ids_count_over_blocks_and_pages() {
    let folder = memory();
    let path = folder.path().join("a.tape");
    let samples: Vec<_> = (0..500).map(shop).collect();
    write(&path, &samples, options(tiny()));
    let archive = Archive::open(&path).unwrap();
    assert!(archive.pages().count() > 3);
    assert_eq!(archive.len(), 500);
    assert_eq!(archive.damaged_rows(), 0);
    for (id, row) in archive.rows().enumerate() {
        assert_eq!(row.id(), id as u64);
        assert_eq!(archive.row(id as u64).unwrap().target(), row.target());
        let expected = format!("/reservations/{}?seat={}", id % 50, id % 97);
        assert_eq!(row.target().as_deref(), Some(expected.as_bytes()));
        assert_eq!(row.endpoint().unwrap(), "/reservations/{id}");
    }
    assert!(archive.row(500).is_none());
    assert_eq!(archive.ledger().exchanges, 500);
    assert_eq!(archive.provenance(), &provenance());
    assert_eq!(
        read(&archive),
        samples.iter().map(expected).collect::<Vec<_>>()
    );
}

#[test]
fn an_archive_without_exchanges_is_one() {
    let folder = memory();
    let path = folder.path().join("a.tape");
    write(&path, &[], options(Limits::default()));
    let archive = Archive::open(&path).unwrap();
    assert!(archive.is_empty());
    assert_eq!(archive.rows().count(), 0);
    assert!(archive.row(0).is_none());
}

#[test]
fn parts_over_the_limit_are_counted_and_told() {
    let folder = memory();
    let path = folder.path().join("a.tape");
    let mut samples: Vec<_> = (0..2).map(shop).collect();
    for sample in &mut samples {
        let body = &mut sample.exchange.response.as_mut().unwrap().body;
        body.parts = 1;
        body.len += 3;
    }
    let part = |key| tapedeck_model::BodyPart {
        key,
        role: Role::Response,
        data: b"abc".to_vec(),
    };
    let limits = Limits {
        open_bodies: 1,
        ..Limits::default()
    };
    let mut writer = crate::Writer::create(&path, options(limits)).unwrap();
    writer.body_part(&part(0)).unwrap();
    writer.body_part(&part(1)).unwrap();
    for sample in &samples {
        writer.exchange(&sample.exchange).unwrap();
    }
    let summary = writer.seal(&Default::default()).unwrap();
    assert_eq!(summary.body_parts_refused, 1);
    let archive = Archive::open(&path).unwrap();
    let found = read(&archive);
    let message = |n: usize| found[n].response.as_ref().unwrap();
    assert!(message(0).body.tail.starts_with(b"abc{") && message(0).missing.is_empty());
    assert!(message(1).body.tail.starts_with(b"{"));
    assert_eq!(message(1).missing, Missing::PARTIAL);
    assert!(!archive.row(1).unwrap().complete());
}

/// A few values that need more bytes than the others are in a table of their own, several columns'
/// together: a scan of one column finds its own there.
#[test]
fn a_scan_finds_the_few_values_that_are_set_apart() {
    let folder = memory();
    let path = folder.path().join("a.tape");
    let mut samples: Vec<_> = (0..1_000).map(shop).collect();
    for (n, far) in [(0, 70_000), (63, 9_000_000), (64, 70_000), (999, 1 << 40)] {
        samples[n].exchange.stream = far;
        let response = samples[n].exchange.response.as_mut().unwrap();
        let far = i64::try_from(far).unwrap();
        response.last_byte = Timestamp::from_nanos(response.last_byte.as_nanos() + (far << 12));
    }
    write(&path, &samples, options(Limits::default()));
    let archive = Archive::open(&path).unwrap();
    let page = archive.page(0).unwrap();
    assert_eq!(page.len(), 1_000);
    assert!(page.stored(NumberColumn::Stream).len() < 8_000);
    let nanos = |row: &Row<'_>| row.duration().map(|it| it.as_nanos() as i128);
    let stream = |row: &Row<'_>| Some(i128::from(row.stream()));
    type Value<'a> = &'a dyn Fn(&Row<'_>) -> Option<i128>;
    let columns: [(NumberColumn, Value<'_>); 2] = [
        (NumberColumn::Stream, &stream),
        (NumberColumn::Duration, &nanos),
    ];
    for (column, value) in columns {
        for least in [0, 1, 142, 70_000, 70_001, 1 << 40, 1 << 52] {
            for most in [141, 70_000, 9_000_000, 1 << 40, i128::MAX] {
                let words = page.select(column, least, most);
                for (number, row) in page.rows().enumerate() {
                    let is_set = words[number / 64] >> (number % 64) & 1 == 1;
                    let is_meant = value(&row).is_some_and(|it| (least..=most).contains(&it));
                    assert_eq!(is_set, is_meant, "{column:?} {least} {most} {number}");
                }
            }
        }
    }
}
