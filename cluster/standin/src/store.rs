//! The objects, and what became of them: what etcd is to the real server.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use serde_json::Value;

use crate::refusal::Refusal;
use crate::resources::{self, Resource};
use crate::selector::Selector;

/// Changes that are kept for watches: more than any test makes, so that only [`Store::compact`] loses some.
const MAX_HISTORY: usize = 1 << 18;

/// Where an object is: group, plural, namespace, name.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Key {
    pub(crate) group: Arc<str>,
    pub(crate) plural: Arc<str>,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn new(resource: &Resource, namespace: &str, name: &str) -> Self {
        Self {
            group: Arc::clone(&resource.group),
            plural: Arc::clone(&resource.plural),
            namespace: if resource.namespaced { namespace } else { "" }.to_owned(),
            name: name.to_owned(),
        }
    }

    fn is_of(&self, resource: &Resource) -> bool {
        self.group == resource.group && self.plural == resource.plural
    }
}

/// A change of an object.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) revision: u64,
    pub(crate) key: Key,
    pub(crate) before: Option<Arc<Value>>,
    /// Unset: it was removed.
    pub(crate) after: Option<Arc<Value>>,
}

#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) resources: Vec<Resource>,
    objects: BTreeMap<Key, Arc<Value>>,
    history: VecDeque<Change>,
    revision: u64,
    /// Changes up to here are forgotten.
    compacted: u64,
    uids: u64,
}

impl Store {
    pub(crate) fn new() -> Self {
        Self {
            resources: resources::built_in(),
            objects: BTreeMap::new(),
            history: VecDeque::new(),
            // Real clusters do not begin at 0, which has a meaning of its own.
            revision: 100,
            compacted: 0,
            uids: 0,
        }
    }

    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn resource(&self, group: &str, version: &str, plural: &str) -> Option<&Resource> {
        self.resources.iter().find(|resource| {
            *resource.group == *group
                && *resource.version == *version
                && *resource.plural == *plural
        })
    }

    pub(crate) fn of_kind(&self, api_version: &str, kind: &str) -> Option<&Resource> {
        self.resources
            .iter()
            .find(|resource| resource.api_version() == api_version && *resource.kind == *kind)
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Arc<Value>> {
        self.objects.get(key)
    }

    /// All objects of a kind, in the order of their keys, behind one.
    pub(crate) fn list<'a>(
        &'a self,
        resource: &'a Resource,
        namespace: Option<&'a str>,
        behind: Option<&Key>,
    ) -> impl Iterator<Item = (&'a Key, &'a Arc<Value>)> {
        let start = match behind {
            Some(key) => Bound::Excluded(key.clone()),
            None => Bound::Included(Key::new(resource, namespace.unwrap_or_default(), "")),
        };
        self.objects
            .range((start, Bound::Unbounded))
            .take_while(|(key, _)| key.is_of(resource))
            .filter(move |(key, _)| namespace.is_none_or(|namespace| key.namespace == namespace))
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (&Key, &Arc<Value>)> {
        self.objects.iter()
    }

    pub(crate) fn next_uid(&mut self) -> String {
        self.uids = self.uids.saturating_add(1);
        // The shape of a random one, so that whoever takes it apart can.
        format!("5ca1ab1e-0000-4000-8000-{:012x}", self.uids)
    }

    /// Puts an object, with its new version.
    pub(crate) fn put(&mut self, key: Key, mut object: Value) -> Arc<Value> {
        self.revision = self.revision.saturating_add(1);
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let object = Arc::new(object);
        let before = self.objects.insert(key.clone(), Arc::clone(&object));
        self.remember(Change {
            revision: self.revision,
            key,
            before,
            after: Some(Arc::clone(&object)),
        });
        object
    }

    /// Removes an object: it as it was, with the version of its removal.
    pub(crate) fn remove(&mut self, key: &Key) -> Option<Arc<Value>> {
        let before = self.objects.remove(key)?;
        self.revision = self.revision.saturating_add(1);
        let mut last = (*before).clone();
        last["metadata"]["resourceVersion"] = self.revision.to_string().into();
        self.remember(Change {
            revision: self.revision,
            key: key.clone(),
            before: Some(Arc::new(last.clone())),
            after: None,
        });
        Some(Arc::new(last))
    }

    fn remember(&mut self, change: Change) {
        self.history.push_back(change);
        if self.history.len() > MAX_HISTORY
            && let Some(forgotten) = self.history.pop_front()
        {
            self.compacted = forgotten.revision;
        }
    }

    /// Forgets all changes: older watches and lists are expired.
    pub(crate) fn compact(&mut self) {
        self.revision = self.revision.saturating_add(1);
        self.compacted = self.revision;
        self.history.clear();
    }

    /// Whether a version is too old to go on from.
    pub(crate) fn expired(&self, revision: u64) -> Result<(), Refusal> {
        if revision < self.compacted {
            return Err(Refusal::expired(format!(
                "too old resource version: {revision} ({})",
                self.compacted
            )));
        }
        Ok(())
    }

    /// The changes of a kind behind a version.
    pub(crate) fn changes<'a>(
        &'a self,
        resource: &'a Resource,
        namespace: Option<&'a str>,
        behind: u64,
    ) -> impl Iterator<Item = &'a Change> {
        let first = self
            .history
            .partition_point(|change| change.revision <= behind);
        self.history
            .range(first..)
            .filter(|change| change.key.is_of(resource))
            .filter(move |change| namespace.is_none_or(|name| change.key.namespace == name))
    }
}

/// What a watch that sees only some objects says of a change.
pub(crate) fn event<'a>(
    change: &'a Change,
    selector: &Selector,
) -> Option<(&'static str, &'a Value)> {
    let was = change
        .before
        .as_deref()
        .filter(|object| selector.matches(object));
    let is = change
        .after
        .as_deref()
        .filter(|object| selector.matches(object));
    match (was, is) {
        (None, None) => None,
        (None, Some(object)) => Some(("ADDED", object)),
        (Some(_), Some(object)) => Some(("MODIFIED", object)),
        // Who watches a selection gets it as it is now, that it left it or not.
        (Some(before), None) => Some(("DELETED", change.after.as_deref().unwrap_or(before))),
    }
}
