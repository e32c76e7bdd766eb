//! Writing objects, by the rules of the server: versions, generations, owners of fields, finalizers, and what
//! goes with what.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::fields::{Managers, Writer};
use crate::refusal::Refusal;
use crate::resources::{self, Resource};
use crate::schema;
use crate::store::{Key, Store};

/// What names an object, and who writes it how.
#[derive(Debug)]
pub(crate) struct Write<'a> {
    pub(crate) resource: &'a Resource,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    /// `status`, or nothing.
    pub(crate) subresource: &'a str,
    pub(crate) manager: &'a str,
    pub(crate) force: bool,
    pub(crate) dry_run: bool,
    /// Fields that the schema does not know are an error.
    pub(crate) strict: bool,
    pub(crate) now: &'a str,
}

/// What came of it: the object, whether it is new, and what the writer is warned of.
pub(crate) struct Written {
    pub(crate) object: Arc<Value>,
    pub(crate) created: bool,
    pub(crate) warnings: Vec<String>,
}

impl Write<'_> {
    fn key(&self) -> Key {
        Key::new(self.resource, self.namespace, self.name)
    }

    fn writer(&self) -> Writer<'_> {
        Writer {
            manager: self.manager,
            subresource: self.subresource,
            now: self.now,
            force: self.force,
        }
    }

    pub(crate) fn create(&self, store: &mut Store, mut object: Value) -> Result<Written, Refusal> {
        self.fits(&object)?;
        let name = self.named(store, &mut object)?;
        let write = Write {
            name: &name,
            ..*self
        };
        if store.get(&write.key()).is_some() {
            return Err(Refusal::exists(self.resource, &name));
        }
        write.namespace_is_there(store)?;
        if self.resource.status {
            remove_field(&mut object, "status");
        }
        let warnings = write.checked(&mut object, None)?;
        write.born(store, &mut object);
        let mut managers = Managers::default();
        managers.update(self.resource, &Value::Null, &object, self.writer());
        managers.write(&mut object);
        Ok(Written {
            object: write.store(store, object),
            created: true,
            warnings,
        })
    }

    fn store(&self, store: &mut Store, object: Value) -> Arc<Value> {
        if self.dry_run {
            return Arc::new(object);
        }
        let stored = store.put(self.key(), object);
        if &*self.resource.plural == "customresourcedefinitions" {
            return define(store, &self.key(), &stored);
        }
        stored
    }

    /// The name of a new object.
    fn named(&self, store: &mut Store, object: &mut Value) -> Result<String, Refusal> {
        let metadata = &mut object["metadata"];
        if metadata["name"].as_str().is_none_or(str::is_empty)
            && let Some(prefix) = metadata["generateName"].as_str()
        {
            let uid = store.next_uid();
            let suffix: String = uid.chars().rev().take(5).collect();
            metadata["name"] = format!("{prefix}{suffix}").into();
        }
        let name = metadata["name"].as_str().unwrap_or_default().to_owned();
        let ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        // Roles are named `system:...`.
        let rbac = self.resource.group.starts_with("rbac.");
        let fits = !name.is_empty()
            && name.len() <= 253
            && (rbac || name.chars().all(ok) && !name.starts_with(['-', '.']));
        if !fits {
            let why = if name.is_empty() {
                "Required value: name or generateName is required".to_owned()
            } else {
                format!(
                    "Invalid value: {name:?}: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character"
                )
            };
            return Err(Refusal::invalid(
                self.resource,
                &name,
                &[("metadata.name".to_owned(), why)],
            ));
        }
        Ok(name)
    }

    fn namespace_is_there(&self, store: &Store) -> Result<(), Refusal> {
        if !self.resource.namespaced {
            return Ok(());
        }
        let Some(namespaces) = store.resource("", "v1", "namespaces") else {
            return Ok(());
        };
        let Some(namespace) = store.get(&Key::new(namespaces, "", self.namespace)) else {
            return Err(Refusal::not_found(namespaces, self.namespace));
        };
        if namespace["metadata"]["deletionTimestamp"].is_string() {
            return Err(Refusal::new(
                403,
                "Forbidden",
                format!(
                    "{} {:?} is forbidden: unable to create new content in namespace {} because it is being terminated",
                    self.resource.qualified(),
                    self.name,
                    self.namespace
                ),
            ));
        }
        Ok(())
    }

    /// Whether the body is about what the path says.
    fn fits(&self, object: &Value) -> Result<(), Refusal> {
        if !object.is_object() {
            return Err(Refusal::bad_request("the body is no object"));
        }
        if !object["metadata"].is_object() {
            return Err(Refusal::bad_request("the body has no metadata"));
        }
        let said = (
            object["apiVersion"].as_str().unwrap_or_default(),
            object["kind"].as_str().unwrap_or_default(),
        );
        let wanted = self.resource.api_version();
        if said != (wanted.as_str(), &*self.resource.kind) {
            return Err(Refusal::bad_request(format!(
                "the API version in the data ({}) does not match the expected API version ({wanted}), or the kind {:?} is not {}",
                said.0, said.1, self.resource.kind
            )));
        }
        let metadata = &object["metadata"];
        let namespace = metadata["namespace"].as_str().unwrap_or_default();
        if !namespace.is_empty() && namespace != self.namespace {
            return Err(Refusal::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        let name = metadata["name"].as_str().unwrap_or_default();
        if !self.name.is_empty() && !name.is_empty() && name != self.name {
            return Err(Refusal::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                self.name
            )));
        }
        Ok(())
    }

    /// Prunes, fills in defaults, and validates.
    fn checked(&self, object: &mut Value, before: Option<&Value>) -> Result<Vec<String>, Refusal> {
        let Some(schema) = self.resource.custom.as_deref() else {
            return Ok(Vec::new());
        };
        let unknown = schema::prune(schema, object);
        if self.strict && !unknown.is_empty() {
            let listed: Vec<String> = unknown
                .iter()
                .map(|path| format!("unknown field {path:?}"))
                .collect();
            return Err(Refusal::bad_request(format!(
                "{} in version {:?} cannot be handled as a {}: strict decoding error: {}",
                self.resource.kind,
                self.resource.version,
                self.resource.kind,
                listed.join(", ")
            )));
        }
        schema::fill(schema, object);
        let causes = schema::validate(schema, object, before);
        if !causes.is_empty() {
            return Err(Refusal::invalid(self.resource, self.name, &causes));
        }
        Ok(unknown
            .iter()
            .map(|path| format!("unknown field {path:?}"))
            .collect())
    }

    /// What the server writes into a new object.
    fn born(&self, store: &mut Store, object: &mut Value) {
        let uid = store.next_uid();
        let metadata = &mut object["metadata"];
        if self.resource.namespaced {
            metadata["namespace"] = self.namespace.into();
        }
        metadata["uid"] = uid.into();
        metadata["creationTimestamp"] = self.now.into();
        metadata["generation"] = 1.into();
        for name in [
            "resourceVersion",
            "deletionTimestamp",
            "managedFields",
            "selfLink",
        ] {
            remove_field(metadata, name);
        }
        if &*self.resource.plural == "namespaces" {
            object["metadata"]["labels"]["kubernetes.io/metadata.name"] = self.name.into();
            object["spec"]["finalizers"] = json!(["kubernetes"]);
            object["status"]["phase"] = "Active".into();
        }
    }

    fn live(&self, store: &Store) -> Result<Arc<Value>, Refusal> {
        let live = store.get(&self.key());
        live.cloned()
            .ok_or_else(|| Refusal::not_found(self.resource, self.name))
    }

    pub(crate) fn update(&self, store: &mut Store, object: Value) -> Result<Written, Refusal> {
        self.fits(&object)?;
        let live = self.live(store)?;
        let version = object["metadata"]["resourceVersion"]
            .as_str()
            .unwrap_or_default();
        if version.is_empty() && self.resource.custom.is_some() {
            return Err(Refusal::invalid(
                self.resource,
                self.name,
                &[(
                    "metadata.resourceVersion".to_owned(),
                    "Invalid value: 0: must be specified for an update".to_owned(),
                )],
            ));
        }
        self.replace(store, &live, object, None)
    }

    /// Puts an object over the one that is there.
    fn replace(
        &self,
        store: &mut Store,
        live: &Arc<Value>,
        mut object: Value,
        applied: Option<Managers>,
    ) -> Result<Written, Refusal> {
        self.same_version(live, &object)?;
        self.keep(live, &mut object);
        let warnings = self.checked(&mut object, Some(live))?;
        let content = |object: &Value| {
            let mut content = object.clone();
            remove_field(&mut content, "metadata");
            remove_field(&mut content, "status");
            content
        };
        if content(live) != content(&object) {
            let generation = live["metadata"]["generation"].as_i64().unwrap_or_default();
            object["metadata"]["generation"] = generation.saturating_add(1).into();
        }
        let managers = match applied {
            Some(managers) => managers,
            None => {
                let mut managers = Managers::of(live);
                managers.update(self.resource, live, &object, self.writer());
                managers
            }
        };
        managers.write(&mut object);
        if same_but_for_times(live, &object) {
            return Ok(Written {
                object: Arc::clone(live),
                created: false,
                warnings,
            });
        }
        let object = self.store(store, object);
        let finished = object["metadata"]["deletionTimestamp"].is_string() && !is_held(&object);
        if finished && !self.dry_run {
            self.gone(store);
        }
        Ok(Written {
            object,
            created: false,
            warnings,
        })
    }

    fn same_version(&self, live: &Value, object: &Value) -> Result<(), Refusal> {
        let metadata = &object["metadata"];
        let version = metadata["resourceVersion"].as_str().unwrap_or_default();
        if !version.is_empty() && live["metadata"]["resourceVersion"] != version {
            return Err(Refusal::modified(
                self.resource,
                self.name,
                "the object has been modified; please apply your changes to the latest version and try again",
            ));
        }
        let uid = metadata["uid"].as_str().unwrap_or_default();
        if !uid.is_empty() && live["metadata"]["uid"] != uid {
            return Err(Refusal::modified(
                self.resource,
                self.name,
                &format!(
                    "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                    live["metadata"]["uid"].as_str().unwrap_or_default()
                ),
            ));
        }
        Ok(())
    }

    /// What a writer cannot change stays as it is.
    fn keep(&self, live: &Value, object: &mut Value) {
        if self.subresource == "status" {
            let status = object.get("status").cloned();
            let metadata = object["metadata"].clone();
            *object = live.clone();
            match status {
                Some(status) => object["status"] = status,
                None => remove_field(object, "status"),
            }
            // By the status only these of the metadata may be written.
            if let Some(version) = metadata.get("resourceVersion") {
                object["metadata"]["resourceVersion"] = version.clone();
            }
        } else if self.resource.status {
            match live.get("status") {
                Some(status) => object["status"] = status.clone(),
                None => remove_field(object, "status"),
            }
        }
        for name in [
            "uid",
            "creationTimestamp",
            "generation",
            "namespace",
            "name",
            "resourceVersion",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generateName",
        ] {
            match live["metadata"].get(name) {
                Some(value) => object["metadata"][name] = value.clone(),
                None => remove_field(&mut object["metadata"], name),
            }
        }
    }

    /// A patch that is no apply.
    pub(crate) fn patch(
        &self,
        store: &mut Store,
        change: impl FnOnce(&mut Value) -> Result<(), Refusal>,
    ) -> Result<Written, Refusal> {
        let live = self.live(store)?;
        let mut object = (*live).clone();
        change(&mut object)?;
        self.fits(&object)?;
        self.replace(store, &live, object, None)
    }

    pub(crate) fn apply(&self, store: &mut Store, mut applied: Value) -> Result<Written, Refusal> {
        self.fits(&applied)?;
        if self.manager.is_empty() {
            return Err(Refusal::bad_request(
                "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
            ));
        }
        if applied["metadata"]
            .get("managedFields")
            .is_some_and(|fields| !fields.is_null())
        {
            return Err(Refusal::bad_request("metadata.managedFields must be nil"));
        }
        if let Some(schema) = self.resource.custom.as_deref() {
            // The real one prunes nothing here, however it is asked to validate: what it has no type for it
            // cannot merge, and fails.
            let unknown = schema::prune(schema, &mut applied);
            if !unknown.is_empty() {
                return Err(Refusal::new(
                    500,
                    "InternalError",
                    format!(
                        "failed to create typed patch object ({}/{}; {}, Kind={}): .{}: field not declared in schema",
                        self.namespace,
                        self.name,
                        self.resource.api_version(),
                        self.resource.kind,
                        unknown.join(", ."),
                    ),
                ));
            }
        }
        if self.subresource == "status" {
            let status = applied.get("status").cloned();
            applied = json!({ "metadata": applied["metadata"] });
            if let Some(status) = status {
                applied["status"] = status;
            }
        } else if self.resource.status {
            remove_field(&mut applied, "status");
        }
        let live = store.get(&self.key()).cloned();
        let Some(live) = live else {
            if self.subresource == "status" {
                return Err(Refusal::not_found(self.resource, self.name));
            }
            return self.apply_new(store, applied);
        };
        self.same_version(&live, &applied)?;
        let mut managers = Managers::of(&live);
        let mut wanted = applied;
        if let Some(metadata) = wanted["metadata"].as_object_mut() {
            metadata.retain(|name, _| {
                ["labels", "annotations", "finalizers", "ownerReferences"].contains(&name.as_str())
            });
            if self.subresource == "status" {
                metadata.clear();
            }
        }
        for name in ["apiVersion", "kind"] {
            remove_field(&mut wanted, name);
        }
        let merged = managers.apply(self.resource, &live, &wanted, self.writer())?;
        self.replace(store, &live, merged, Some(managers))
    }

    fn apply_new(&self, store: &mut Store, mut object: Value) -> Result<Written, Refusal> {
        object["metadata"]["name"] = self.name.into();
        self.named(store, &mut object)?;
        self.namespace_is_there(store)?;
        let mut managers = Managers::default();
        managers.apply(self.resource, &json!({}), &object, self.writer())?;
        let warnings = self.checked(&mut object, None)?;
        self.born(store, &mut object);
        managers.write(&mut object);
        Ok(Written {
            object: self.store(store, object),
            created: true,
            warnings,
        })
    }

    /// Deletes: the object as it is then, and whether it is gone.
    pub(crate) fn delete(
        &self,
        store: &mut Store,
        options: &Value,
    ) -> Result<(Arc<Value>, bool), Refusal> {
        let live = self.live(store)?;
        let conditions = &options["preconditions"];
        self.same_version(
            &live,
            &json!({ "metadata": {
                "uid": conditions["uid"], "resourceVersion": conditions["resourceVersion"],
            }}),
        )?;
        if self.dry_run {
            return Ok((live, true));
        }
        let content = contained(store, self.resource, &live);
        let mut object = (*live).clone();
        if !content.is_empty() && &*self.resource.plural == "customresourcedefinitions" {
            hold(&mut object, "customresourcecleanup.apiextensions.k8s.io");
        }
        if options["propagationPolicy"] == "Orphan" {
            orphan(store, &live);
        }
        let marked = live["metadata"]["deletionTimestamp"].is_string();
        let held =
            is_held(&object) || &*self.resource.plural == "namespaces" && !content.is_empty();
        if held && !marked {
            object["metadata"]["deletionTimestamp"] = self.now.into();
            object["metadata"]["deletionGracePeriodSeconds"] = 0.into();
            if &*self.resource.plural == "namespaces" {
                object["status"]["phase"] = "Terminating".into();
            }
            store.put(self.key(), object);
        }
        for (resource, key) in content {
            let write = Write {
                resource: &resource,
                namespace: &key.namespace,
                name: &key.name,
                ..*self
            };
            write.delete(store, &Value::Null)?;
        }
        if !held {
            let gone = self.gone(store);
            return Ok((gone.unwrap_or(live), true));
        }
        let now = store.get(&self.key()).cloned();
        let gone = now.is_none();
        Ok((now.unwrap_or(live), gone))
    }

    /// Removes what nothing holds any more, what it owned, and what waited for it.
    fn gone(&self, store: &mut Store) -> Option<Arc<Value>> {
        let gone = store.remove(&self.key())?;
        if &*self.resource.plural == "customresourcedefinitions" {
            let group = gone["spec"]["group"].clone();
            let plural = gone["spec"]["names"]["plural"].clone();
            store
                .resources
                .retain(|resource| group != *resource.group || plural != *resource.plural);
        }
        let owned: Vec<(Resource, Key)> = dependents(store, &gone);
        for (resource, key) in owned {
            let write = Write {
                resource: &resource,
                namespace: &key.namespace,
                name: &key.name,
                ..*self
            };
            // It may be gone by now: by its namespace, or by another owner.
            drop(write.delete(store, &Value::Null));
        }
        self.release(store);
        Some(gone)
    }

    /// A namespace or a definition waits until the last of its objects is gone.
    fn release(&self, store: &mut Store) {
        let waiting: Vec<(Resource, Key, Arc<Value>)> = ["namespaces", "customresourcedefinitions"]
            .iter()
            .filter_map(|plural| {
                store
                    .resources
                    .iter()
                    .find(|found| *found.plural == **plural)
            })
            .flat_map(|resource| {
                store
                    .list(resource, None, None)
                    .map(|(key, object)| (resource.clone(), key.clone(), Arc::clone(object)))
            })
            .filter(|(_, _, object)| object["metadata"]["deletionTimestamp"].is_string())
            .collect();
        for (resource, key, object) in waiting {
            if contained(store, &resource, &object).is_empty() {
                let write = Write {
                    resource: &resource,
                    namespace: "",
                    name: &key.name,
                    ..*self
                };
                write.gone(store);
            }
        }
    }
}

fn remove_field(object: &mut Value, name: &str) {
    if let Some(object) = object.as_object_mut() {
        object.shift_remove(name);
    }
}

fn is_held(object: &Value) -> bool {
    object["metadata"]["finalizers"]
        .as_array()
        .is_some_and(|finalizers| !finalizers.is_empty())
}

fn hold(object: &mut Value, finalizer: &str) {
    let finalizers = &mut object["metadata"]["finalizers"];
    match finalizers.as_array_mut() {
        Some(finalizers) => finalizers.push(finalizer.into()),
        None => *finalizers = json!([finalizer]),
    }
}

/// What goes with a namespace or a definition.
fn contained(store: &Store, resource: &Resource, object: &Value) -> Vec<(Resource, Key)> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let with = |resource: &Resource, namespace: Option<&str>| -> Vec<(Resource, Key)> {
        store
            .list(resource, namespace, None)
            .map(|(key, _)| (resource.clone(), key.clone()))
            .collect()
    };
    match &*resource.plural {
        "namespaces" => {
            let mut seen = std::collections::BTreeSet::new();
            store
                .resources
                .iter()
                .filter(|resource| resource.namespaced)
                .filter(|resource| seen.insert((resource.group.clone(), resource.plural.clone())))
                .flat_map(|resource| with(resource, Some(name)))
                .collect()
        }
        "customresourcedefinitions" => resources::defined(object)
            .first()
            .map(|resource| with(resource, None))
            .unwrap_or_default(),
        _ => Vec::new(),
    }
}

/// Objects whose last owner is gone.
fn dependents(store: &Store, owner: &Value) -> Vec<(Resource, Key)> {
    let uid = &owner["metadata"]["uid"];
    store
        .all()
        .filter(|(_, object)| {
            let owners = object["metadata"]["ownerReferences"].as_array();
            owners.is_some_and(|owners| {
                owners.iter().any(|owner| owner["uid"] == *uid)
                    && owners.iter().all(|owner| {
                        owner["uid"] == *uid
                            || !store
                                .all()
                                .any(|(_, other)| other["metadata"]["uid"] == owner["uid"])
                    })
            })
        })
        .filter_map(|(key, _)| {
            let resource = store
                .resources
                .iter()
                .find(|found| found.group == key.group && found.plural == key.plural)?;
            Some((resource.clone(), key.clone()))
        })
        .collect()
}

/// Lets what an object owns live on without it.
fn orphan(store: &mut Store, owner: &Value) {
    let uid = owner["metadata"]["uid"].clone();
    for (_, key) in dependents(store, owner) {
        let Some(object) = store.get(&key).cloned() else {
            continue;
        };
        let mut object = (*object).clone();
        if let Some(owners) = object["metadata"]["ownerReferences"].as_array_mut() {
            owners.retain(|owner| owner["uid"] != uid);
        }
        store.put(key, object);
    }
}

/// A definition is there: its kind is served from now on.
fn define(store: &mut Store, key: &Key, crd: &Arc<Value>) -> Arc<Value> {
    let defined = resources::defined(crd);
    let group = crd["spec"]["group"].clone();
    let plural = crd["spec"]["names"]["plural"].clone();
    store
        .resources
        .retain(|resource| group != *resource.group || plural != *resource.plural);
    store.resources.extend(defined);
    if !crd["status"]["conditions"].is_null() {
        return Arc::clone(crd);
    }
    let condition = |kind: &str, reason: &str| {
        json!({
            "type": kind, "status": "True", "reason": reason, "message": "",
            "lastTransitionTime": crd["metadata"]["creationTimestamp"],
        })
    };
    let mut object = (**crd).clone();
    object["status"] = json!({
        "acceptedNames": crd["spec"]["names"],
        "storedVersions": crd["spec"]["versions"].as_array().into_iter().flatten()
            .filter(|version| version["storage"] == true)
            .map(|version| version["name"].clone()).collect::<Vec<_>>(),
        "conditions": [condition("NamesAccepted", "NoConflicts"), condition("Established", "InitialNamesAccepted")],
    });
    store.put(key.clone(), object)
}

/// Writing what is there already changes nothing, not even the version.
fn same_but_for_times(live: &Value, object: &Value) -> bool {
    let plain = |object: &Value| {
        let mut object = object.clone();
        if let Some(entries) = object["metadata"]["managedFields"].as_array_mut() {
            for entry in entries {
                entry["time"] = Value::Null;
            }
        }
        if object["metadata"].get("managedFields").is_none() {
            object["metadata"]["managedFields"] = Value::Object(Map::new());
        }
        remove_field(&mut object["metadata"], "resourceVersion");
        object
    };
    plain(live) == plain(object)
}
