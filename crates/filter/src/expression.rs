//! What a filter is compiled to.

use regex::bytes::Regex;
use tapedeck_archive::Zone;
use tapedeck_model::{Anomaly, Role, Side};

/// A tree of tests.
#[derive(Clone, Debug)]
pub(crate) enum Expression {
    /// Always so.
    Constant(bool),
    Not(Box<Self>),
    /// Cheap ones first; see [`Expression::sort_by_cost`].
    All(Vec<Self>),
    Any(Vec<Self>),
    /// `condition ? then : otherwise`.
    If(Box<[Self; 3]>),
    Text(TextField, TextTest),
    Number(NumberField, NumberTest),
    Flag(Flag),
    Anomaly(Anomaly),
}

/// Something that is a string.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum TextField {
    Method,
    Scheme,
    Authority,
    Target,
    Path,
    Query,
    Client,
    ClientIp,
    Server,
    ServerIp,
    Protocol,
    Endpoint,
    /// As twelve hexadecimal digits.
    Session,
    TlsServerName,
    TlsAlpn,
    TlsVersion,
    Workload(Side, WorkloadField),
    Header(Role, String),
}

/// A name of what runs at one side.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum WorkloadField {
    Namespace,
    Pod,
    Container,
    Owner,
    Process,
    Cgroup,
}

/// Something that is a number, a duration or a point in time; the latter two in nanoseconds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum NumberField {
    Id,
    Status,
    /// Of the trailers: it is not in the index.
    GrpcStatus,
    RequestSize,
    ResponseSize,
    Duration,
    FirstByte,
    Time,
    Connection,
    Stream,
    ClientPort,
    ServerPort,
    WorkloadPid(Side),
}

/// Something that is so or not.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Flag {
    Complete,
    Tls,
    Tunnel,
    Pushed,
}

/// What is asked of a string that is there.
#[derive(Clone, Debug)]
pub(crate) enum TextTest {
    Present,
    Compare(Order, Box<[u8]>),
    In(Vec<Box<[u8]>>),
    StartsWith(Box<[u8]>),
    EndsWith(Box<[u8]>),
    Contains(Box<[u8]>),
    Matches(Regex),
    Size(NumberTest),
}

/// What is asked of a number that is there.
#[derive(Clone, Debug)]
pub(crate) enum NumberTest {
    Present,
    Compare(Order, i128),
    In(Vec<i128>),
}

/// A comparison.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Order {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Order {
    /// The comparison with its sides exchanged.
    pub(crate) fn flipped(self) -> Self {
        match self {
            Self::Equal | Self::NotEqual => self,
            Self::Less => Self::Greater,
            Self::LessOrEqual => Self::GreaterOrEqual,
            Self::Greater => Self::Less,
            Self::GreaterOrEqual => Self::LessOrEqual,
        }
    }

    pub(crate) fn holds<T: Ord + ?Sized>(self, left: &T, right: &T) -> bool {
        match self {
            Self::Equal => left == right,
            Self::NotEqual => left != right,
            Self::Less => left < right,
            Self::LessOrEqual => left <= right,
            Self::Greater => left > right,
            Self::GreaterOrEqual => left >= right,
        }
    }
}

impl TextTest {
    pub(crate) fn holds(&self, text: &[u8]) -> bool {
        match self {
            Self::Present => true,
            Self::Compare(order, other) => order.holds(text, other),
            Self::In(set) => set.iter().any(|other| **other == *text),
            Self::StartsWith(start) => text.starts_with(start),
            Self::EndsWith(end) => text.ends_with(end),
            Self::Contains(part) => {
                part.is_empty() || text.windows(part.len()).any(|window| *window == **part)
            }
            Self::Matches(regex) => regex.is_match(text),
            // CEL counts characters; bytes that are no UTF-8 count as one each.
            Self::Size(test) => test.holds(String::from_utf8_lossy(text).chars().count() as i128),
        }
    }
}

impl NumberTest {
    pub(crate) fn holds(&self, number: i128) -> bool {
        match self {
            Self::Present => true,
            Self::Compare(order, other) => order.holds(&number, other),
            Self::In(set) => set.contains(&number),
        }
    }

    /// The smallest and the largest number that can pass.
    pub(crate) fn range(&self) -> (i128, i128) {
        const ALL: (i128, i128) = (i128::MIN, i128::MAX);
        match self {
            Self::Present => ALL,
            Self::In(set) => {
                let least = set.iter().min().copied().unwrap_or(i128::MAX);
                let most = set.iter().max().copied().unwrap_or(i128::MIN);
                (least, most)
            }
            Self::Compare(order, other) => match order {
                Order::Equal => (*other, *other),
                Order::NotEqual => ALL,
                Order::Less => (ALL.0, other.saturating_sub(1)),
                Order::LessOrEqual => (ALL.0, *other),
                Order::Greater => (other.saturating_add(1), ALL.1),
                Order::GreaterOrEqual => (*other, ALL.1),
            },
        }
    }

    fn may_pass(&self, (least, most): (i128, i128)) -> bool {
        let (low, high) = self.range();
        low <= most && least <= high
    }
}

impl Expression {
    /// Whether any of it asks for the record.
    pub(crate) fn needs_record(&self) -> bool {
        match self {
            Self::Text(TextField::Header(..), _) | Self::Number(NumberField::GrpcStatus, _) => true,
            Self::Constant(_)
            | Self::Text(..)
            | Self::Number(..)
            | Self::Flag(_)
            | Self::Anomaly(_) => false,
            Self::Not(inner) => inner.needs_record(),
            Self::All(inner) | Self::Any(inner) => inner.iter().any(Self::needs_record),
            Self::If(inner) => inner.iter().any(Self::needs_record),
        }
    }

    /// Puts what is cheap to ask before what is not: `&&` and `||` have no order here, since
    /// nothing that is asked can fail.
    pub(crate) fn sort_by_cost(operands: &mut [Self]) {
        operands.sort_by_key(Self::cost);
    }

    fn cost(&self) -> u32 {
        match self {
            Self::Constant(_) => 0,
            Self::Number(NumberField::GrpcStatus, _) => 10_000,
            Self::Number(..) | Self::Flag(_) => 1,
            Self::Text(field, _) => match field {
                TextField::Header(..) => 10_000,
                TextField::Client
                | TextField::ClientIp
                | TextField::Server
                | TextField::ServerIp
                | TextField::Endpoint
                | TextField::Session => 20,
                _ => 2,
            },
            Self::Anomaly(_) => 5,
            Self::Not(inner) => inner.cost(),
            Self::All(inner) | Self::Any(inner) => inner.iter().map(Self::cost).sum(),
            Self::If(inner) => inner.iter().map(Self::cost).sum(),
        }
    }

    /// Whether any row of a page may be chosen, by what the directory knows of it.
    pub(crate) fn may_match(&self, zone: &Zone<'_>) -> bool {
        let wide = |(least, most): (u64, u64)| (i128::from(least), i128::from(most));
        match self {
            Self::Constant(value) => *value,
            Self::All(inner) => inner.iter().all(|inner| inner.may_match(zone)),
            Self::Any(inner) => inner.iter().any(|inner| inner.may_match(zone)),
            Self::Number(NumberField::Time, test) => {
                let (least, most) = zone.times();
                test.may_pass((least.into(), most.into()))
            }
            Self::Number(NumberField::Duration, test) => zone
                .durations()
                .is_some_and(|range| test.may_pass(wide(range))),
            Self::Number(NumberField::Status, test) => zone
                .statuses()
                .is_some_and(|(least, most)| test.may_pass((least.into(), most.into()))),
            Self::Number(NumberField::Id, test) => {
                let last = zone.first_row() + zone.n_rows() as u64;
                test.may_pass(wide((zone.first_row(), last)))
            }
            // What is negated may hold wherever it may not be certain to hold.
            Self::Not(inner) => match &**inner {
                Self::Flag(Flag::Complete) => zone.has_incomplete(),
                _ => true,
            },
            Self::If(_) | Self::Text(..) | Self::Number(..) | Self::Flag(_) | Self::Anomaly(_) => {
                true
            }
        }
    }
}
