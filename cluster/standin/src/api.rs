//! Requests about objects, but for watches.

use bytes::Bytes;
use http::HeaderMap;
use serde_json::{Value, json};

use crate::refusal::Refusal;
use crate::resources::Resource;
use crate::route::Ask;
use crate::selector::Selector;
use crate::store::{Key, Store};
use crate::write::{Write, Written};

type Answered = (u16, Value, Vec<String>);

pub(crate) fn answer(
    store: &mut Store,
    ask: &Ask,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Answered, Refusal> {
    let resource = store
        .resource(&ask.group, &ask.version, &ask.plural)
        .cloned()
        .ok_or_else(Refusal::no_such_path)?;
    let known = match ask.subresource.as_str() {
        "" => true,
        "status" => resource.status && ["get", "update", "patch"].contains(&ask.verb),
        "finalize" => &*resource.plural == "namespaces",
        _ => false,
    };
    if !known {
        return Err(Refusal::no_such_path());
    }
    if resource.namespaced && ask.namespace.is_none() && !["list", "watch"].contains(&ask.verb) {
        return Err(Refusal::no_such_path());
    }
    let now = now();
    let agent = headers
        .get("user-agent")
        .and_then(|agent| agent.to_str().ok())
        .and_then(|agent| agent.split('/').next())
        .unwrap_or("unknown");
    let write = Write {
        resource: &resource,
        namespace: ask.namespace.as_deref().unwrap_or_default(),
        name: &ask.name,
        subresource: &ask.subresource,
        manager: ask.value("fieldManager").unwrap_or(agent),
        force: ask.is_true("force"),
        dry_run: ask.value("dryRun") == Some("All"),
        strict: ask.value("fieldValidation") == Some("Strict"),
        now: &now,
    };
    match ask.verb {
        "list" => list(store, &resource, ask).map(|list| (200, list, Vec::new())),
        "get" => {
            let key = Key::new(&resource, write.namespace, &ask.name);
            let object = store
                .get(&key)
                .ok_or_else(|| Refusal::not_found(&resource, &ask.name))?;
            Ok((200, (**object).clone(), Vec::new()))
        }
        "create" => done(write.create(store, parse(headers, body)?)?),
        "update" => done(write.update(store, parse(headers, body)?)?),
        "patch" => done(patch(store, &write, ask, headers, body)?),
        "delete" => {
            let options = parse(headers, body).unwrap_or(Value::Null);
            delete(store, &write, ask, options)
        }
        _ => delete_all(store, &write, ask),
    }
}

fn done(written: Written) -> Result<Answered, Refusal> {
    let code = if written.created { 201 } else { 200 };
    Ok((code, (*written.object).clone(), written.warnings))
}

pub(crate) fn now() -> String {
    // Whole seconds, as the server writes them.
    jiff::Timestamp::now()
        .round(jiff::Unit::Second)
        .unwrap_or_default()
        .to_string()
}

fn parse(headers: &HeaderMap, body: &Bytes) -> Result<Value, Refusal> {
    let kind = headers
        .get("content-type")
        .and_then(|kind| kind.to_str().ok())
        .unwrap_or("application/json");
    if kind.contains("protobuf") {
        return Err(Refusal::new(
            415,
            "UnsupportedMediaType",
            "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml",
        ));
    }
    if body.first() == Some(&b'{') || body.first() == Some(&b'[') {
        return serde_json::from_slice(body).map_err(|error| {
            Refusal::bad_request(format!(
                "couldn't get version/kind; json parse error: {error}"
            ))
        });
    }
    let text = std::str::from_utf8(body).unwrap_or_default();
    serde_saphyr::from_str(text)
        .map_err(|error| Refusal::bad_request(format!("error parsing YAML: {error}")))
}

fn patch(
    store: &mut Store,
    write: &Write<'_>,
    ask: &Ask,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Written, Refusal> {
    let kind = headers
        .get("content-type")
        .and_then(|kind| kind.to_str().ok())
        .unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let change = parse(headers, body)?;
    match kind {
        "application/apply-patch+yaml" => write.apply(store, change),
        "application/merge-patch+json" => write.patch(store, |object| {
            json_patch::merge(object, &change);
            Ok(())
        }),
        // Right for what has no keyed lists.
        "application/strategic-merge-patch+json" if write.resource.custom.is_none() => {
            write.patch(store, |object| {
                json_patch::merge(object, &change);
                Ok(())
            })
        }
        "application/json-patch+json" => {
            let steps: json_patch::Patch = serde_json::from_value(change)
                .map_err(|error| Refusal::bad_request(error.to_string()))?;
            write.patch(store, |object| {
                json_patch::patch(object, &steps).map_err(|error| {
                    Refusal::invalid(
                        write.resource,
                        &ask.name,
                        &[("patch".to_owned(), error.to_string())],
                    )
                })
            })
        }
        other => Err(Refusal::new(
            415,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml: got {other}"
            ),
        )),
    }
}

fn delete(
    store: &mut Store,
    write: &Write<'_>,
    ask: &Ask,
    mut options: Value,
) -> Result<Answered, Refusal> {
    if let Some(policy) = ask.value("propagationPolicy") {
        options = json!({ "propagationPolicy": policy });
    }
    let (object, gone) = write.delete(store, &options)?;
    if !gone {
        return Ok((200, (*object).clone(), Vec::new()));
    }
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": {
            "name": ask.name, "group": ask.group, "kind": ask.plural,
            "uid": object["metadata"]["uid"],
        },
    });
    Ok((200, status, Vec::new()))
}

fn delete_all(store: &mut Store, write: &Write<'_>, ask: &Ask) -> Result<Answered, Refusal> {
    let found = list(store, write.resource, ask)?;
    for object in found["items"].as_array().into_iter().flatten() {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let one = Write { name, ..*write };
        match one.delete(store, &Value::Null) {
            Ok(_) => {}
            // With another one of them.
            Err(refusal) if refusal.code == 404 => {}
            Err(refusal) => return Err(refusal),
        }
    }
    Ok((200, found, Vec::new()))
}

fn list(store: &Store, resource: &Resource, ask: &Ask) -> Result<Value, Refusal> {
    let selector = Selector::parse(
        ask.value("labelSelector").unwrap_or_default(),
        ask.value("fieldSelector").unwrap_or_default(),
    )?;
    selector.supported(resource)?;
    let (revision, behind) = match ask.value("continue").filter(|token| !token.is_empty()) {
        Some(token) => {
            let (revision, key) = resume(resource, token)?;
            store.expired(revision).map_err(|_| {
                Refusal::expired("The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter.")
            })?;
            (revision, Some(key))
        }
        None => (store.revision(), None),
    };
    let limit = ask
        .value("limit")
        .and_then(|limit| limit.parse().ok())
        .filter(|limit| *limit > 0)
        .unwrap_or(usize::MAX);
    let mut found = store
        .list(resource, ask.namespace.as_deref(), behind.as_ref())
        .filter(|(_, object)| selector.matches(object));
    let mut items = Vec::new();
    let mut last = None;
    for (key, object) in found.by_ref().take(limit) {
        items.push((**object).clone());
        last = Some(key);
    }
    let mut metadata = json!({ "resourceVersion": revision.to_string() });
    if let (Some(last), true) = (last, found.next().is_some()) {
        metadata["continue"] = format!("{revision}/{}/{}", last.namespace, last.name).into();
    }
    Ok(json!({
        "kind": format!("{}List", resource.kind),
        "apiVersion": resource.api_version(),
        "metadata": metadata,
        "items": items,
    }))
}

fn resume(resource: &Resource, token: &str) -> Result<(u64, Key), Refusal> {
    let bad = || Refusal::bad_request(format!("continue key is not valid: {token:?}"));
    let mut parts = token.splitn(3, '/');
    let revision = parts.next().and_then(|text| text.parse().ok());
    let (namespace, name) = (parts.next(), parts.next());
    match (revision, namespace, name) {
        (Some(revision), Some(namespace), Some(name)) => {
            Ok((revision, Key::new(resource, namespace, name)))
        }
        _ => Err(bad()),
    }
}
