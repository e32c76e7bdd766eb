//! Who owns which field: the sets of `managedFields`, and what they say about an apply.
//!
//! After `structured-merge-diff`: a set of paths, whose steps are fields (`f:spec`), items of keyed
//! lists (`k:{"type":"Ready"}`) and values of sets (`v:"a"`). Lists that are neither are one value.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::refusal::Refusal;
use crate::resources::Resource;

/// From the object to a field.
pub(crate) type Path = Vec<String>;

/// How the items of a list are told apart.
pub(crate) enum List {
    /// They are not: the list is one value.
    Atomic,
    /// By what they are.
    Set,
    /// By these of their fields.
    Map(Vec<String>),
}

/// Keys of lists of the kinds of Kubernetes, by the name of the list.
const KEYED: &[(&str, &[&str])] = &[
    ("conditions", &["type"]),
    ("containers", &["name"]),
    ("env", &["name"]),
    ("ephemeralContainers", &["name"]),
    ("hostAliases", &["ip"]),
    ("imagePullSecrets", &["name"]),
    ("initContainers", &["name"]),
    ("ownerReferences", &["uid"]),
    ("secrets", &["name"]),
    (
        "topologySpreadConstraints",
        &["topologyKey", "whenUnsatisfiable"],
    ),
    ("validations", &["expression"]),
    ("variables", &["name"]),
    ("volumeMounts", &["mountPath"]),
    ("volumes", &["name"]),
];

/// What kind of list lies at a path of an object of this kind.
pub(crate) fn list_at(resource: &Resource, path: &[String]) -> List {
    let names: Vec<&str> = path
        .iter()
        .filter_map(|step| step.strip_prefix("f:"))
        .collect();
    let last = names.last().copied().unwrap_or_default();
    if names.first() == Some(&"metadata") {
        return match last {
            "finalizers" => List::Set,
            "ownerReferences" => List::Map(vec!["uid".to_owned()]),
            _ => List::Atomic,
        };
    }
    if let Some(schema) = &resource.custom {
        return in_schema(schema, path);
    }
    if last == "ports" {
        let keys: &[&str] = match &*resource.kind {
            "Service" => &["port", "protocol"],
            "NetworkPolicy" | "EndpointSlice" => return List::Atomic,
            _ => &["containerPort", "protocol"],
        };
        return List::Map(keys.iter().map(|&key| key.to_owned()).collect());
    }
    // Rules of roles and lists of policies are one value each, whatever their names.
    if !resource.group.is_empty() && resource.group.starts_with("rbac.") {
        return List::Atomic;
    }
    KEYED
        .iter()
        .find(|(name, _)| *name == last)
        .map_or(List::Atomic, |(_, keys)| {
            List::Map(keys.iter().map(|&key| key.to_owned()).collect())
        })
}

fn in_schema(schema: &Value, path: &[String]) -> List {
    let mut at = schema;
    for step in path {
        at = match step.strip_prefix("f:") {
            Some(name) => match at["properties"].get(name) {
                Some(property) => property,
                None => &at["additionalProperties"],
            },
            None => &at["items"],
        };
    }
    match at["x-kubernetes-list-type"].as_str() {
        Some("set") => List::Set,
        Some("map") => {
            let keys = at["x-kubernetes-list-map-keys"].as_array();
            let keys = keys.map(Vec::as_slice).unwrap_or_default();
            let keys = keys.iter().filter_map(Value::as_str);
            List::Map(keys.map(str::to_owned).collect())
        }
        _ => List::Atomic,
    }
}

/// The step to an item of a keyed list.
pub(crate) fn item_step(item: &Value, keys: &[String]) -> String {
    let mut key = Map::new();
    for name in keys {
        let value = match (&item[name], name.as_str()) {
            // The only key of a built-in list that has a default.
            (Value::Null, "protocol") => Value::from("TCP"),
            (value, _) => value.clone(),
        };
        key.insert(name.clone(), value);
    }
    format!("k:{}", Value::Object(key))
}

/// All fields of a value that somebody owns who wrote it.
pub(crate) fn of(resource: &Resource, value: &Value) -> BTreeSet<Path> {
    let mut found = BTreeSet::new();
    collect(resource, value, &mut Vec::new(), &mut found);
    found.retain(|path| !is_of_the_server(path));
    found
}

/// Nobody owns what the server writes, or what names the object.
fn is_of_the_server(path: &[String]) -> bool {
    let mut steps = path.iter().map(String::as_str);
    match steps.next() {
        Some("f:apiVersion" | "f:kind") | None => true,
        Some("f:metadata") => !matches!(
            steps.next(),
            Some("f:labels" | "f:annotations" | "f:finalizers" | "f:ownerReferences")
        ),
        Some(_) => false,
    }
}

fn collect(resource: &Resource, value: &Value, path: &mut Path, found: &mut BTreeSet<Path>) {
    match value {
        Value::Object(object) if !object.is_empty() => {
            for (name, value) in object {
                path.push(format!("f:{name}"));
                collect(resource, value, path, found);
                path.pop();
            }
        }
        Value::Array(items) if !items.is_empty() => match list_at(resource, path) {
            List::Atomic => {
                found.insert(path.clone());
            }
            List::Set => {
                for item in items {
                    path.push(format!("v:{item}"));
                    found.insert(path.clone());
                    path.pop();
                }
            }
            List::Map(keys) => {
                for item in items {
                    path.push(item_step(item, &keys));
                    path.push(".".to_owned());
                    found.insert(path.clone());
                    path.pop();
                    collect(resource, item, path, found);
                    path.pop();
                }
            }
        },
        _ => {
            found.insert(path.clone());
        }
    }
}

/// What lies at a path.
pub(crate) fn get<'a>(resource: &Resource, value: &'a Value, path: &[String]) -> Option<&'a Value> {
    let mut at = value;
    for (depth, step) in path.iter().enumerate() {
        if step == "." {
            return Some(at);
        }
        at = match step.strip_prefix("f:") {
            Some(name) => at.get(name)?,
            None => {
                let number = position(resource, at, path.get(..depth)?, step)?;
                at.get(number)?
            }
        };
    }
    Some(at)
}

fn position(resource: &Resource, list: &Value, path: &[String], step: &str) -> Option<usize> {
    let items = list.as_array()?;
    match list_at(resource, path) {
        List::Map(keys) => items.iter().position(|item| item_step(item, &keys) == step),
        _ => items.iter().position(|item| format!("v:{item}") == step),
    }
}

/// Removes what lies at a path, and what becomes empty by it.
pub(crate) fn remove(resource: &Resource, value: &mut Value, path: &[String]) {
    remove_below(resource, value, path, 0);
}

fn remove_below(resource: &Resource, value: &mut Value, path: &[String], depth: usize) {
    let Some(step) = path.get(depth) else { return };
    let next = depth.saturating_add(1);
    let last = next == path.len() || path.get(next).is_some_and(|step| step == ".");
    if let Some(name) = step.strip_prefix("f:") {
        let Some(object) = value.as_object_mut() else {
            return;
        };
        if last {
            object.shift_remove(name);
        } else if let Some(inner) = object.get_mut(name) {
            remove_below(resource, inner, path, next);
            let empty = match inner {
                Value::Object(object) => object.is_empty(),
                Value::Array(items) => items.is_empty(),
                _ => false,
            };
            if empty {
                object.shift_remove(name);
            }
        }
        return;
    }
    let found = position(resource, value, path.get(..depth).unwrap_or_default(), step);
    let (Some(number), Some(items)) = (found, value.as_array_mut()) else {
        return;
    };
    if last {
        items.remove(number);
    } else if let Some(item) = items.get_mut(number) {
        remove_below(resource, item, path, next);
    }
}

/// What is applied, on top of what is there.
pub(crate) fn merge(resource: &Resource, live: &mut Value, applied: &Value, path: &mut Path) {
    match (live, applied) {
        (Value::Object(live), Value::Object(applied)) => {
            for (name, value) in applied {
                path.push(format!("f:{name}"));
                match live.get_mut(name) {
                    Some(there) => merge(resource, there, value, path),
                    None => {
                        live.insert(name.clone(), value.clone());
                    }
                }
                path.pop();
            }
        }
        (Value::Array(live), Value::Array(applied)) => match list_at(resource, path) {
            List::Atomic => live.clone_from(applied),
            List::Set => {
                for item in applied {
                    if !live.contains(item) {
                        live.push(item.clone());
                    }
                }
            }
            // What is applied comes in its order, in the places that it had; what others have there stays
            // where it is.
            List::Map(keys) => {
                let steps: Vec<String> =
                    applied.iter().map(|item| item_step(item, &keys)).collect();
                let (mut mine, mut places) = (Vec::new(), Vec::new());
                for (number, item) in live.iter().enumerate() {
                    let step = item_step(item, &keys);
                    if steps.contains(&step) {
                        places.push(number);
                        mine.push((step, item.clone()));
                    }
                }
                let mut places = places.into_iter();
                for (item, step) in applied.iter().zip(steps) {
                    let there = mine.iter().find(|(of, _)| *of == step);
                    let mut whole = there.map_or(Value::Null, |(_, live)| live.clone());
                    path.push(step);
                    merge(resource, &mut whole, item, path);
                    path.pop();
                    match places.next().and_then(|number| live.get_mut(number)) {
                        Some(place) => *place = whole,
                        None => live.push(whole),
                    }
                }
            }
        },
        (live, applied) => live.clone_from(applied),
    }
}

/// One manager's entry.
#[derive(Clone, Debug)]
struct Entry {
    manager: String,
    operation: String,
    subresource: String,
    api_version: String,
    time: String,
    fields: BTreeSet<Path>,
}

/// All entries of an object.
#[derive(Clone, Debug, Default)]
pub(crate) struct Managers(Vec<Entry>);

/// Who writes, how, and where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writer<'a> {
    pub(crate) manager: &'a str,
    pub(crate) subresource: &'a str,
    pub(crate) now: &'a str,
    pub(crate) force: bool,
}

impl Managers {
    pub(crate) fn of(object: &Value) -> Self {
        let entries = object["metadata"]["managedFields"].as_array();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let entries = entries.map(Vec::as_slice).unwrap_or_default().iter();
        Self(
            entries
                .map(|entry| {
                    let mut fields = BTreeSet::new();
                    unfold(&entry["fieldsV1"], &mut Vec::new(), &mut fields);
                    Entry {
                        manager: text(&entry["manager"]),
                        operation: text(&entry["operation"]),
                        subresource: text(&entry["subresource"]),
                        api_version: text(&entry["apiVersion"]),
                        time: text(&entry["time"]),
                        fields,
                    }
                })
                .collect(),
        )
    }

    /// Writes them into the object.
    pub(crate) fn write(&self, object: &mut Value) {
        let entries: Vec<Value> = self
            .0
            .iter()
            .filter(|entry| !entry.fields.is_empty())
            .map(|entry| {
                let mut fields = Value::Object(Map::new());
                for path in &entry.fields {
                    let mut at = &mut fields;
                    for step in path {
                        at = &mut at[step];
                        if at.is_null() {
                            *at = Value::Object(Map::new());
                        }
                    }
                }
                let mut written = serde_json::json!({
                    "manager": entry.manager, "operation": entry.operation,
                    "apiVersion": entry.api_version, "time": entry.time,
                    "fieldsType": "FieldsV1", "fieldsV1": fields,
                });
                if !entry.subresource.is_empty() {
                    written["subresource"] = entry.subresource.clone().into();
                }
                written
            })
            .collect();
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.shift_remove("managedFields");
            if !entries.is_empty() {
                metadata.insert("managedFields".to_owned(), entries.into());
            }
        }
    }

    fn entry(&mut self, resource: &Resource, writer: Writer<'_>, operation: &str) -> &mut Entry {
        let found = self.0.iter().position(|entry| {
            entry.manager == writer.manager
                && entry.operation == operation
                && entry.subresource == writer.subresource
        });
        let number = found.unwrap_or_else(|| {
            self.0.push(Entry {
                manager: writer.manager.to_owned(),
                operation: operation.to_owned(),
                subresource: writer.subresource.to_owned(),
                api_version: resource.api_version(),
                time: writer.now.to_owned(),
                fields: BTreeSet::new(),
            });
            self.0.len().saturating_sub(1)
        });
        &mut self.0[number]
    }

    /// Applies: the result, with these managers as they are then.
    pub(crate) fn apply(
        &mut self,
        resource: &Resource,
        live: &Value,
        applied: &Value,
        writer: Writer<'_>,
    ) -> Result<Value, Refusal> {
        let wanted = of(resource, applied);
        self.conflicts(resource, live, applied, &wanted, writer)?;
        let before = self.entry(resource, writer, "Apply").fields.clone();
        let mut merged = live.clone();
        let given_up: Vec<Path> = before
            .difference(&wanted)
            .filter(|path| {
                !self
                    .0
                    .iter()
                    .any(|entry| !is(entry, writer) && entry.fields.contains(*path))
            })
            .cloned()
            .collect();
        // Items of lists first: without the fields that are their keys they would not be found.
        let (items, fields): (Vec<&Path>, Vec<&Path>) = given_up
            .iter()
            .partition(|path| path.last().is_some_and(|step| step == "."));
        for path in items.into_iter().chain(fields) {
            remove(resource, &mut merged, path);
        }
        merge(resource, &mut merged, applied, &mut Vec::new());
        for entry in &mut self.0 {
            if !is(entry, writer) {
                // Who else wrote another value has lost the field by force.
                entry.fields.retain(|path| {
                    !wanted.contains(path)
                        || get(resource, live, path) == get(resource, applied, path)
                        || path.last().is_some_and(|step| step == ".")
                });
            }
        }
        let entry = self.entry(resource, writer, "Apply");
        if entry.fields != wanted {
            entry.fields = wanted;
            writer.now.clone_into(&mut entry.time);
        }
        Ok(merged)
    }

    fn conflicts(
        &self,
        resource: &Resource,
        live: &Value,
        applied: &Value,
        wanted: &BTreeSet<Path>,
        writer: Writer<'_>,
    ) -> Result<(), Refusal> {
        if writer.force {
            return Ok(());
        }
        let mut causes = Vec::new();
        for entry in self.0.iter().filter(|entry| !is(entry, writer)) {
            for path in entry.fields.intersection(wanted) {
                let item = path.last().is_some_and(|step| step == ".");
                if !item && get(resource, live, path) != get(resource, applied, path) {
                    causes.push((entry, dotted(path)));
                }
            }
        }
        if causes.is_empty() {
            return Ok(());
        }
        let listed: Vec<String> = causes
            .iter()
            .map(|(entry, path)| {
                format!(
                    "conflict with {:?} using {}: {path}",
                    entry.manager, entry.api_version
                )
            })
            .collect();
        let plural = if causes.len() == 1 { "" } else { "s" };
        let mut refusal = Refusal::new(
            409,
            "Conflict",
            format!(
                "Apply failed with {} conflict{plural}: {}",
                causes.len(),
                listed.join("\n- ")
            ),
        );
        refusal.details = Some(Box::new(serde_json::json!({
            "causes": causes.iter().zip(&listed).map(|((_, path), message)| serde_json::json!({
                "reason": "FieldManagerConflict", "message": message, "field": path,
            })).collect::<Vec<_>>(),
        })));
        Err(refusal)
    }

    /// Somebody wrote an object without applying it: what differs is theirs.
    pub(crate) fn update(
        &mut self,
        resource: &Resource,
        before: &Value,
        after: &Value,
        writer: Writer<'_>,
    ) {
        let there = of(resource, after);
        let changed: BTreeSet<Path> = there
            .iter()
            .filter(|path| get(resource, before, path) != get(resource, after, path))
            .cloned()
            .collect();
        for entry in &mut self.0 {
            let writers_own = entry.manager == writer.manager
                && entry.operation == "Update"
                && entry.subresource == writer.subresource;
            entry.fields.retain(|path| {
                get(resource, after, path).is_some() && (writers_own || !changed.contains(path))
            });
        }
        if !changed.is_empty() {
            let entry = self.entry(resource, writer, "Update");
            entry.fields.extend(changed);
            writer.now.clone_into(&mut entry.time);
        }
    }
}

fn is(entry: &Entry, writer: Writer<'_>) -> bool {
    entry.manager == writer.manager
        && entry.operation == "Apply"
        && entry.subresource == writer.subresource
}

fn unfold(fields: &Value, path: &mut Path, found: &mut BTreeSet<Path>) {
    match fields.as_object() {
        Some(inner) if !inner.is_empty() => {
            for (step, inner) in inner {
                path.push(step.clone());
                unfold(inner, path, found);
                path.pop();
            }
        }
        _ if path.is_empty() => {}
        _ => {
            found.insert(path.clone());
        }
    }
}

/// `.spec.containers[name="a"].image`
fn dotted(path: &[String]) -> String {
    let mut text = String::new();
    for step in path {
        if let Some(name) = step.strip_prefix("f:") {
            text.push('.');
            text.push_str(name);
        } else if let Some(key) = step.strip_prefix("k:") {
            let key: Map<String, Value> = serde_json::from_str(key).unwrap_or_default();
            let key: Vec<String> = key.iter().map(|(k, v)| format!("{k}={v}")).collect();
            text.push_str(&format!("[{}]", key.join(",")));
        } else if let Some(value) = step.strip_prefix("v:") {
            text.push_str(&format!("[={value}]"));
        }
    }
    text
}
