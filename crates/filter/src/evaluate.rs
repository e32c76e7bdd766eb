//! Tests are put to the rows of a page, column by column.

use std::io::Write;

use tapedeck_archive::{
    Archive, NumberColumn, Page, ReadError, Record, Row, Scratch, TextColumn, WorkloadView,
};
use tapedeck_model::{Anomaly, Protocol, Role, TlsVersion, path_template};

use crate::expression::{
    Expression, Flag, NumberField, NumberTest, Order, TextField, TextTest, WorkloadField,
};

/// Rows of a page, a bit each.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Mask {
    words: Vec<u64>,
}

impl Mask {
    pub(crate) fn empty() -> Self {
        Self { words: Vec::new() }
    }

    /// All of `len` rows.
    fn full(len: usize) -> Self {
        let mut words = vec![u64::MAX; len.div_ceil(64)];
        if let Some(last) = words.last_mut() {
            *last >>= len.wrapping_neg() % 64;
        }
        Self { words }
    }

    fn none(len: usize) -> Self {
        Self {
            words: vec![0; len.div_ceil(64)],
        }
    }

    fn from_fn(len: usize, mut test: impl FnMut(usize) -> bool) -> Self {
        let word = |first: usize| {
            let rows = first..len.min(first + 64);
            rows.rev()
                .fold(0, |word, row| word << 1 | u64::from(test(row)))
        };
        Self {
            words: (0..len).step_by(64).map(word).collect(),
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.words
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum()
    }

    /// The first row of the set at or behind `from`.
    pub(crate) fn first_from(&self, from: usize) -> Option<usize> {
        let mut index = from / 64;
        let mut word = self.words.get(index)? & (u64::MAX << (from % 64));
        while word == 0 {
            index += 1;
            word = *self.words.get(index)?;
        }
        Some(index * 64 + word.trailing_zeros() as usize)
    }

    fn rows(&self) -> impl Iterator<Item = usize> {
        let mut next = 0;
        std::iter::from_fn(move || {
            let row = self.first_from(next)?;
            next = row + 1;
            Some(row)
        })
    }

    fn insert(&mut self, row: usize) {
        if let Some(word) = self.words.get_mut(row / 64) {
            *word |= 1 << (row % 64);
        }
    }

    fn remove(&mut self, row: usize) {
        if let Some(word) = self.words.get_mut(row / 64) {
            *word &= !(1 << (row % 64));
        }
    }

    fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    fn combine(mut self, other: &Self, with: impl Fn(u64, u64) -> u64) -> Self {
        for (word, other) in self.words.iter_mut().zip(&other.words) {
            *word = with(*word, *other);
        }
        self
    }

    fn and(self, other: &Self) -> Self {
        self.combine(other, |a, b| a & b)
    }

    fn or(self, other: &Self) -> Self {
        self.combine(other, |a, b| a | b)
    }

    fn without(self, other: &Self) -> Self {
        self.combine(other, |a, b| a & !b)
    }
}

/// A page, and what is needed to look beyond it.
pub(crate) struct Context<'a, 's> {
    archive: &'a Archive,
    page: Page<'a>,
    scratch: &'s mut Scratch,
    /// Rows whose record cannot be read, and why.
    unreadable: Vec<(usize, ReadError)>,
}

impl<'a, 's> Context<'a, 's> {
    pub(crate) fn new(archive: &'a Archive, page: Page<'a>, scratch: &'s mut Scratch) -> Self {
        Self {
            archive,
            page,
            scratch,
            unreadable: Vec::new(),
        }
    }

    /// The rows of the page for which the expression holds, and why some could not be tried, the
    /// last row first, each told once.
    pub(crate) fn select(mut self, expression: &Expression) -> (Mask, Vec<ReadError>) {
        let mut chosen = self.evaluate(expression, &Mask::full(self.page.len()));
        let mut unreadable = self.unreadable;
        unreadable.sort_by_key(|(row, _)| std::cmp::Reverse(*row));
        unreadable.dedup_by_key(|(row, _)| *row);
        for (row, _) in &unreadable {
            chosen.remove(*row);
        }
        (
            chosen,
            unreadable.into_iter().map(|(_, error)| error).collect(),
        )
    }

    /// Those of the candidates for which the expression holds.
    fn evaluate(&mut self, expression: &Expression, candidates: &Mask) -> Mask {
        let len = self.page.len();
        match expression {
            Expression::Constant(true) => candidates.clone(),
            Expression::Constant(false) => Mask::none(len),
            Expression::Not(inner) => {
                let holds = self.evaluate(inner, candidates);
                candidates.clone().without(&holds)
            }
            Expression::All(inner) => {
                let mut left = candidates.clone();
                for inner in inner {
                    if left.is_empty() {
                        break;
                    }
                    left = self.evaluate(inner, &left);
                }
                left
            }
            Expression::Any(inner) => {
                let mut left = candidates.clone();
                let mut holds = Mask::none(len);
                for inner in inner {
                    if left.is_empty() {
                        break;
                    }
                    let more = self.evaluate(inner, &left);
                    left = left.without(&more);
                    holds = holds.or(&more);
                }
                holds
            }
            Expression::If(inner) => {
                let [condition, then, otherwise] = &**inner;
                let condition = self.evaluate(condition, candidates);
                let rest = candidates.clone().without(&condition);
                let then = self.evaluate(then, &condition);
                let otherwise = self.evaluate(otherwise, &rest);
                then.or(&otherwise)
            }
            Expression::Text(TextField::Header(role, name), test) => self
                .records(candidates, |record| {
                    header(record, *role, name).is_some_and(|value| test.holds(value))
                }),
            Expression::Number(NumberField::GrpcStatus, test) => {
                let page = self.page;
                // What is not HTTP/2 need not be read for it.
                let http2 = |row: Row<'_>| row.protocol() == Protocol::Http2;
                let may =
                    Mask::from_fn(len, |row| page.row(row).is_some_and(http2)).and(candidates);
                self.records(&may, |record| {
                    grpc_status(record).is_some_and(|status| test.holds(status))
                })
            }
            Expression::Text(field, test) => self.text(field, test).and(candidates),
            Expression::Number(field, test) => self.number(*field, test).and(candidates),
            Expression::Flag(flag) => {
                let page = self.page;
                Mask::from_fn(len, |row| page.row(row).is_some_and(|row| flag.of(&row)))
                    .and(candidates)
            }
            Expression::Anomaly(anomaly) => {
                let page = self.page;
                Mask::from_fn(len, |row| {
                    page.row(row).is_some_and(|row| has(&row, *anomaly))
                })
                .and(candidates)
            }
        }
    }

    fn text(&self, field: &TextField, test: &TextTest) -> Mask {
        let page = &self.page;
        let (column, part): (_, Part) = match field {
            TextField::Method => (TextColumn::Method, whole),
            TextField::Scheme => (TextColumn::Scheme, whole),
            TextField::Authority => (TextColumn::Authority, whole),
            TextField::Target => (TextColumn::Target, whole),
            TextField::Path => (TextColumn::Target, path),
            TextField::Query => (TextColumn::Target, query),
            TextField::Endpoint => {
                let words = page.select_strings(TextColumn::Target, |target| {
                    test.holds(path_template(target).as_bytes())
                });
                return Mask { words };
            }
            _ => {
                return Mask::from_fn(page.len(), |row| {
                    page.row(row).is_some_and(|row| field.holds(&row, test))
                });
            }
        };
        let words = page.select_strings(column, |text| {
            part(text).is_some_and(|text| test.holds(text))
        });
        Mask { words }
    }

    fn number(&self, field: NumberField, test: &NumberTest) -> Mask {
        let page = &self.page;
        let (least, most) = test.range();
        let is_range = matches!(test, NumberTest::Present | NumberTest::Compare(..))
            && !matches!(test, NumberTest::Compare(Order::NotEqual, _));
        let column = match field {
            NumberField::Status => Some(NumberColumn::Status),
            NumberField::Duration => Some(NumberColumn::Duration),
            NumberField::Time => Some(NumberColumn::Time),
            NumberField::RequestSize => Some(NumberColumn::RequestLen),
            NumberField::ResponseSize => Some(NumberColumn::ResponseLen),
            NumberField::Stream => Some(NumberColumn::Stream),
            _ => None,
        };
        if let Some(column) = column.filter(|_| is_range) {
            let words = page.select(column, least, most);
            return Mask { words };
        }
        Mask::from_fn(page.len(), |row| {
            page.row(row)
                .and_then(|row| field.of(&row))
                .is_some_and(|number| test.holds(number))
        })
    }

    /// Those of the candidates for whose records a test holds.
    fn records(&mut self, candidates: &Mask, holds_for: impl Fn(&Record<'_>) -> bool) -> Mask {
        let mut holds = Mask::none(self.page.len());
        for number in candidates.rows() {
            let id = self.page.first_row() + number as u64;
            match self.archive.load(id, self.scratch) {
                Ok(record) => {
                    if holds_for(&record) {
                        holds.insert(number);
                    }
                }
                Err(error) => self.unreadable.push((number, error)),
            }
        }
        holds
    }
}

/// Whether an expression holds for one row.
pub(crate) fn matches(
    expression: &Expression,
    archive: &Archive,
    row: &Row<'_>,
    scratch: &mut Scratch,
) -> Result<bool, ReadError> {
    let mut ask = |expression: &Expression| matches(expression, archive, row, scratch);
    Ok(match expression {
        Expression::Constant(value) => *value,
        Expression::Not(inner) => !ask(inner)?,
        Expression::All(inner) => {
            for inner in inner {
                if !ask(inner)? {
                    return Ok(false);
                }
            }
            true
        }
        Expression::Any(inner) => {
            for inner in inner {
                if ask(inner)? {
                    return Ok(true);
                }
            }
            false
        }
        Expression::If(inner) => {
            let [condition, then, otherwise] = &**inner;
            if ask(condition)? {
                ask(then)?
            } else {
                ask(otherwise)?
            }
        }
        Expression::Text(TextField::Header(role, name), test) => {
            let record = archive.load(row.id(), scratch)?;
            header(&record, *role, name).is_some_and(|value| test.holds(value))
        }
        Expression::Text(field, test) => field.holds(row, test),
        Expression::Number(NumberField::GrpcStatus, test) => {
            let record = archive.load(row.id(), scratch)?;
            grpc_status(&record).is_some_and(|status| test.holds(status))
        }
        Expression::Number(field, test) => field.of(row).is_some_and(|number| test.holds(number)),
        Expression::Flag(flag) => flag.of(row),
        Expression::Anomaly(anomaly) => has(row, *anomaly),
    })
}

impl TextField {
    /// Whether the test holds for this field of a row. Header fields are not of the row.
    fn holds(&self, row: &Row<'_>, test: &TextTest) -> bool {
        let text = match self {
            Self::Method => row.method(),
            Self::Scheme => row.scheme(),
            Self::Authority => row.authority(),
            Self::Target | Self::Path | Self::Query => {
                let Some(target) = row.target() else {
                    return false;
                };
                let part = match self {
                    Self::Path => path(&target),
                    Self::Query => query(&target),
                    _ => Some(&*target),
                };
                return part.is_some_and(|text| test.holds(text));
            }
            Self::Endpoint => {
                let endpoint = row.endpoint();
                return endpoint.is_some_and(|endpoint| test.holds(endpoint.as_bytes()));
            }
            Self::Session => {
                let session = row.session();
                return session.is_some_and(|key| printed(format_args!("{key:012x}"), test));
            }
            Self::TlsServerName => row.tls().and_then(|tls| tls.server_name()),
            Self::TlsAlpn => row.tls().and_then(|tls| tls.alpn()),
            Self::TlsVersion => {
                let version = row.tls().and_then(|tls| tls.version());
                version.map(|version| TlsVersion::name(version).as_bytes())
            }
            Self::Workload(side, field) => {
                row.workload(*side).and_then(|workload| field.of(&workload))
            }
            Self::Header(..) => None,
            Self::Client => return printed(row.client(), test),
            Self::Server => return printed(row.server(), test),
            Self::ClientIp => return printed(row.client().ip, test),
            Self::ServerIp => return printed(row.server().ip, test),
            Self::Protocol => return printed(row.protocol(), test),
        };
        text.is_some_and(|text| test.holds(text))
    }
}

impl NumberField {
    fn of(self, row: &Row<'_>) -> Option<i128> {
        let nanos = |duration: std::time::Duration| i128::try_from(duration.as_nanos()).ok();
        match self {
            Self::Id => Some(row.id().into()),
            Self::Status => row.status().map(i128::from),
            // It is of the record.
            Self::GrpcStatus => None,
            Self::RequestSize => row.request_body_len().map(i128::from),
            Self::ResponseSize => row.response_body_len().map(i128::from),
            Self::Duration => row.duration().and_then(nanos),
            Self::FirstByte => row.first_byte().and_then(nanos),
            Self::Time => Some(row.time().as_nanos().into()),
            Self::Connection => Some(row.connection().0.into()),
            Self::Stream => Some(row.stream().into()),
            Self::ClientPort => Some(row.client().port.into()),
            Self::ServerPort => Some(row.server().port.into()),
            Self::WorkloadPid(side) => row
                .workload(side)
                .and_then(|workload| workload.pid())
                .map(i128::from),
        }
    }
}

impl WorkloadField {
    fn of<'a>(self, workload: &WorkloadView<'a>) -> Option<&'a [u8]> {
        match self {
            Self::Namespace => workload.namespace(),
            Self::Pod => workload.pod(),
            Self::Container => workload.container(),
            Self::Owner => workload.owner(),
            Self::Process => workload.process(),
            Self::Cgroup => workload.cgroup(),
        }
    }
}

impl Flag {
    fn of(self, row: &Row<'_>) -> bool {
        match self {
            Self::Complete => row.complete(),
            Self::Tls => row.tls().is_some(),
            Self::Tunnel => row.tunnel(),
            Self::Pushed => row.pushed(),
        }
    }
}

/// Takes the part of a string that a field stands for.
type Part = fn(&[u8]) -> Option<&[u8]>;

fn has(row: &Row<'_>, anomaly: Anomaly) -> bool {
    row.anomalies().bits() & (1 << (anomaly as u8)) != 0
}

fn header<'s>(record: &Record<'s>, role: Role, name: &str) -> Option<&'s [u8]> {
    let message = match role {
        Role::Request => record.request(),
        Role::Response => record.response(),
    };
    message?.head()?.field(name)
}

/// How a gRPC call ended: the trailers say it, or the head where it stands for them.
fn grpc_status(record: &Record<'_>) -> Option<i128> {
    let response = record.response()?;
    let name = "grpc-status";
    let trailers = response.trailers();
    let field = trailers.and_then(|trailers| trailers.field(name));
    let text = field.or_else(|| response.head()?.field(name))?;
    let status: u32 = std::str::from_utf8(text).ok()?.trim().parse().ok()?;
    Some(status.into())
}

fn whole(text: &[u8]) -> Option<&[u8]> {
    Some(text)
}

/// The target up to the first `?`.
fn path(target: &[u8]) -> Option<&[u8]> {
    target.split(|byte| *byte == b'?').next()
}

/// The target behind the first `?`; `None` where there is none.
fn query(target: &[u8]) -> Option<&[u8]> {
    let mark = target.iter().position(|byte| *byte == b'?')?;
    target.get(mark + 1..)
}

/// Whether the test holds for what is printed: no more than an IPv6 address with its port.
fn printed(value: impl std::fmt::Display, test: &TextTest) -> bool {
    let mut buffer = [0_u8; 80];
    let mut rest = &mut buffer[..];
    if write!(rest, "{value}").is_err() {
        return false;
    }
    let free = rest.len();
    let len = buffer.len() - free;
    buffer.get(..len).is_some_and(|text| test.holds(text))
}
