//! What the requests of one archive have that those of another do not: recorded ones and what a mock
//! received ([`Options::received`](super::Options::received)), or two recordings.
//!
//! Requests are compared as the mock compares them, by the same rules. Each recorded request answers for
//! one received one: equal ones first, then those that a rule lets through. What is left over on both
//! sides and is of one endpoint (method and path, ids left out) is taken for one request that changed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tapedeck_archive::{Archive, ReadError};
use tapedeck_filter::Filter;
use tapedeck_model::path_template;

use super::call::Call;
use super::index::{Builder, Index};
use super::miss::{self, Recordings, Remedy};
use super::options::Repeat;
use super::rules::Rules;
use super::source::{ArchiveSource, each_request};

/// What is compared, and how much of the outcome is listed.
#[derive(Clone, Debug)]
pub struct DiffOptions {
    /// In what requests may differ.
    pub rules: Rules,
    /// Which exchanges of both archives are compared; `None`: all.
    pub filter: Option<Filter>,
    /// Changed, missing and added requests that are listed, of each kind. Further ones are counted.
    pub listed: usize,
}

impl Default for DiffOptions {
    fn default() -> Self {
        Self {
            rules: Rules::default(),
            filter: None,
            listed: 10_000,
        }
    }
}

/// In what the requests of two archives differ.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Diff {
    /// Requests that both have.
    pub same: u64,
    /// Those of one endpoint that differ.
    pub changed: Listed<Changed>,
    /// Recorded, and never received.
    pub missing: Listed<DiffedRequest>,
    /// Received, and never recorded.
    pub added: Listed<Added>,
    /// The rules by which changed requests would be the same, the most telling first.
    pub remedies: Vec<Remedy>,
    /// Recorded and received requests that could not be compared: not whole, or not readable.
    pub left_out: [u64; 2],
}

/// The first ones of many.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listed<T> {
    /// How many there are.
    pub total: u64,
    /// The first of them, in the order of their archive.
    pub list: Vec<T>,
}

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Self {
            total: 0,
            list: Vec::new(),
        }
    }
}

impl<T> Listed<T> {
    fn push(&mut self, limit: usize, one: impl FnOnce() -> T) {
        self.total += 1;
        if self.list.len() < limit {
            self.list.push(one());
        }
    }
}

/// A request of one of the archives.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DiffedRequest {
    /// The id of its exchange, in its own archive.
    pub id: u64,
    /// Its method.
    pub method: String,
    /// Its target.
    pub target: String,
}

/// A request that came otherwise than it was recorded.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Changed {
    /// As it was recorded.
    pub recorded: DiffedRequest,
    /// As it came.
    pub received: DiffedRequest,
    /// In what they differ.
    pub differs: Vec<String>,
}

/// A request that was not recorded.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Added {
    /// As it came.
    pub received: DiffedRequest,
    /// How often the same was recorded, all of which were received before.
    pub recorded: u64,
}

impl Diff {
    /// Compares the requests of two archives.
    ///
    /// # Errors
    ///
    /// When the filter cannot read one of them.
    pub fn of(
        recorded: Arc<Archive>,
        received: Arc<Archive>,
        options: &DiffOptions,
    ) -> Result<Self, ReadError> {
        let (recorded, received) = (ArchiveSource::new(recorded), ArchiveSource::new(received));
        let rules = &options.rules;
        let filter = options.filter.as_ref();
        let with_fields = rules.compare_headers();
        let mut builder = Builder::new(rules.clone(), Repeat::Fail, recorded.authorities());
        let mut diff = Self::default();
        diff.left_out[0] = each_request(&recorded, filter, with_fields, |id, call| {
            builder.add(id, call);
        })?;
        // Who asked does not matter here.
        let index = builder.finish(|_| None);
        let mut matching = Matching {
            recorded,
            received,
            taken: vec![false; index.ids().last().map_or(0, |last| last as usize + 1)],
            index,
            limit: options.listed,
            diff,
        };
        let unequal = matching.equal_ones(filter, with_fields)?;
        let unknown = matching.allowed_ones(unequal);
        matching.changed_ones(unknown);
        Ok(matching.diff)
    }

    /// Whether both have the same requests.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.changed.total == 0 && self.missing.total == 0 && self.added.total == 0
    }
}

/// A comparison that is under way.
struct Matching {
    recorded: ArchiveSource,
    received: ArchiveSource,
    index: Index,
    /// By recorded exchange: it stands for a received one.
    taken: Vec<bool>,
    limit: usize,
    diff: Diff,
}

impl Matching {
    /// Matches what is equal, and gives what is left of the received.
    fn equal_ones(
        &mut self,
        filter: Option<&Filter>,
        with_fields: bool,
    ) -> Result<Vec<u32>, ReadError> {
        let mut left = Vec::new();
        let Self {
            received,
            index,
            taken,
            diff,
            ..
        } = self;
        diff.left_out[1] = each_request(received, filter, with_fields, |id, call| {
            if take(taken, |free| index.take_equal(call, free)) {
                diff.same += 1;
            } else {
                left.push(id);
            }
        })?;
        Ok(left)
    }

    /// Matches what the rules let through, and gives what is left.
    fn allowed_ones(&mut self, received: Vec<u32>) -> Vec<u32> {
        let Self {
            received: source,
            index,
            taken,
            diff,
            ..
        } = self;
        let mut left = Vec::new();
        for id in received {
            let mut found = false;
            source.with_call(id, &mut |call| {
                found = take(taken, |free| index.take_allowed(call, free));
            });
            if found {
                diff.same += 1;
            } else {
                left.push(id);
            }
        }
        left
    }

    /// Tells what is left on both sides.
    fn changed_ones(&mut self, received: Vec<u32>) {
        let mut open = self.open();
        let mut rules: BTreeMap<String, u64> = BTreeMap::new();
        for id in received {
            let mut told = None;
            self.received.with_call(id, &mut |call| {
                let nearest = self.nearest(call, &open);
                told = Some((request(id, call), nearest, self.index.recorded(call)));
            });
            let Some((received, nearest, recorded)) = told else {
                continue;
            };
            let Some((endpoint, near)) = nearest else {
                let added = || Added { received, recorded };
                self.diff.added.push(self.limit, added);
                continue;
            };
            if let Some(taken) = self.taken.get_mut(near.id as usize) {
                *taken = true;
            }
            if let Some(ids) = open.get_mut(&endpoint)
                && let Some(at) = ids.iter().position(|id| *id == near.id)
            {
                ids.remove(at);
            }
            if let Some(rule) = near.rule
                && (rules.len() < MAX_RULES || rules.contains_key(&rule))
            {
                *rules.entry(rule).or_default() += 1;
            }
            self.diff.changed.push(self.limit, || Changed {
                recorded: near.request,
                received,
                differs: near.differs,
            });
        }
        for id in self.index.ids() {
            if self.taken.get(id as usize) == Some(&false) {
                let (recorded, limit) = (&self.recorded, self.limit);
                recorded.with_line(id, &mut |line| {
                    self.diff.missing.push(limit, || request(id, line));
                });
            }
        }
        let rules = rules.iter().map(|(rule, count)| (rule.as_str(), *count));
        self.diff.remedies = miss::remedies(rules);
    }

    /// Recorded requests that nothing stands for, by endpoint, in recorded order.
    fn open(&self) -> BTreeMap<Endpoint, VecDeque<u32>> {
        let mut open: BTreeMap<Endpoint, VecDeque<u32>> = BTreeMap::new();
        for id in self.index.ids() {
            if self.taken.get(id as usize) == Some(&false) {
                self.recorded.with_line(id, &mut |line| {
                    open.entry(endpoint(line)).or_default().push_back(id);
                });
            }
        }
        open
    }

    /// The open recorded request of the same endpoint that differs least.
    fn nearest(
        &self,
        call: &Call<'_>,
        open: &BTreeMap<Endpoint, VecDeque<u32>>,
    ) -> Option<(Endpoint, Near)> {
        let endpoint = endpoint(call);
        let mut nearest: Option<Near> = None;
        for id in open.get(&endpoint)?.iter().take(MAX_LOOKED_AT) {
            self.recorded.with_call(*id, &mut |recorded| {
                let (differs, rule) = miss::explain(recorded, call, &self.index);
                let fewest = nearest
                    .as_ref()
                    .map_or(usize::MAX, |near| near.differs.len());
                if differs.len() < fewest {
                    nearest = Some(Near {
                        id: *id,
                        request: request(*id, recorded),
                        differs,
                        rule,
                    });
                }
            });
        }
        Some((endpoint, nearest?))
    }
}

/// Method, and path without ids.
type Endpoint = (Vec<u8>, String);

/// A recorded request that is like a received one.
struct Near {
    id: u32,
    request: DiffedRequest,
    differs: Vec<String>,
    rule: Option<String>,
}

/// Takes the recorded request that was found; `false`: none was.
fn take(taken: &mut [bool], find: impl FnOnce(&dyn Fn(u32) -> bool) -> Option<u32>) -> bool {
    let found = find(&|id| taken.get(id as usize) == Some(&false));
    let taken = found.and_then(|id| taken.get_mut(id as usize));
    taken.is_some_and(|taken| !std::mem::replace(taken, true))
}

fn endpoint(call: &Call<'_>) -> Endpoint {
    (call.method.to_vec(), path_template(call.split().path))
}

fn request(id: u32, call: &Call<'_>) -> DiffedRequest {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    DiffedRequest {
        id: id.into(),
        method: text(call.method),
        target: text(call.target),
    }
}

/// Open requests of an endpoint that a received one is compared with: their bodies are read.
const MAX_LOOKED_AT: usize = 16;
/// Distinct rules that are counted: a person reads the first few.
const MAX_RULES: usize = 1000;
