//! Watches: what changes, as it changes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::refusal::Refusal;
use crate::resources::Resource;
use crate::route::Ask;
use crate::selector::Selector;
use crate::server::{Answer, News, Shared};
use crate::store::event;

/// Events that wait for a client that does not read; behind them the watch waits, too.
const MAX_WAITING: usize = 256;

/// The server's own minimum, where a client names none.
const DEFAULT_SECONDS: u64 = 1800;

struct Watch {
    resource: Resource,
    namespace: Option<String>,
    selector: Selector,
    at: u64,
    bookmarks: bool,
    to: mpsc::Sender<Bytes>,
}

pub(crate) fn start(shared: &Arc<Shared>, ask: &Ask) -> Result<Response<Answer>, Refusal> {
    let (to, answer) = mpsc::channel(MAX_WAITING);
    // Before the state is looked at, so that nothing falls between.
    let mut news = shared.news.subscribe();
    let state = shared.state();
    let resource = state
        .store
        .resource(&ask.group, &ask.version, &ask.plural)
        .cloned()
        .ok_or_else(Refusal::no_such_path)?;
    let selector = Selector::parse(
        ask.value("labelSelector").unwrap_or_default(),
        ask.value("fieldSelector").unwrap_or_default(),
    )?;
    selector.supported(&resource)?;
    let from = ask.value("resourceVersion").unwrap_or_default();
    let initial = ask.is_true("sendInitialEvents");
    if initial && ask.value("resourceVersionMatch") != Some("NotOlderThan") {
        return Err(Refusal::new(
            422,
            "Invalid",
            "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ));
    }
    let asked: Option<u64> = match from {
        "" => None,
        version => Some(version.parse().map_err(|_| {
            Refusal::bad_request(format!(
                "Invalid value: {version:?}: strconv.ParseUint: invalid syntax"
            ))
        })?),
    };
    let fresh = initial || asked.is_none_or(|revision| revision == 0);
    let mut first = Vec::new();
    let at = if fresh {
        for (_, object) in state.store.list(&resource, ask.namespace.as_deref(), None) {
            if selector.matches(object) {
                first.push(line("ADDED", object));
            }
        }
        if initial {
            first.push(bookmark(&resource, state.store.revision(), true));
        }
        state.store.revision()
    } else {
        let revision = asked.unwrap_or_default();
        if let Err(refusal) = state.store.expired(revision) {
            // The stream begins, and says it then: so does the real one.
            first.push(line("ERROR", &refusal.status()));
        }
        revision
    };
    drop(state);
    let expired = first.len() == 1 && !fresh;
    let watch = Watch {
        resource,
        namespace: ask.namespace.clone(),
        selector,
        at,
        bookmarks: ask.is_true("allowWatchBookmarks"),
        to,
    };
    let seconds = ask
        .value("timeoutSeconds")
        .and_then(|seconds| seconds.parse().ok())
        .unwrap_or(DEFAULT_SECONDS);
    let until = Instant::now() + Duration::from_secs(seconds);
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        for event in first {
            if watch.to.send(event).await.is_err() {
                return;
            }
        }
        if !expired {
            // It ends with its client, its time, or the server.
            let _ended = tokio::time::timeout_at(until, watch.follow(&shared, &mut news)).await;
        }
    });
    let mut response = Response::new(Answer::Stream(answer));
    if let Ok(kind) = "application/json".parse() {
        response.headers_mut().insert("content-type", kind);
    }
    Ok(response)
}

impl Watch {
    async fn follow(mut self, shared: &Shared, news: &mut tokio::sync::watch::Receiver<News>) {
        let mut bookmarks = news.borrow().bookmarks;
        loop {
            let (events, revision) = {
                let state = shared.state();
                let refusal = state.store.expired(self.at).err();
                let mut events: Vec<Bytes> = state
                    .store
                    .changes(&self.resource, self.namespace.as_deref(), self.at)
                    .filter_map(|change| {
                        let (kind, object) = event(change, &self.selector)?;
                        Some(line(kind, object))
                    })
                    .collect();
                if let Some(refusal) = &refusal {
                    events.push(line("ERROR", &refusal.status()));
                }
                (events, refusal.is_none().then(|| state.store.revision()))
            };
            for event in events {
                if self.to.send(event).await.is_err() {
                    return;
                }
            }
            let Some(revision) = revision else { return };
            self.at = revision;
            let asked = news.borrow_and_update().bookmarks;
            if asked != bookmarks && self.bookmarks {
                bookmarks = asked;
                let event = bookmark(&self.resource, self.at, false);
                if self.to.send(event).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                changed = news.changed() => if changed.is_err() { return },
                () = self.to.closed() => return,
            }
        }
    }
}

fn line(kind: &str, object: &Value) -> Bytes {
    let mut text = json!({ "type": kind, "object": object }).to_string();
    text.push('\n');
    text.into()
}

fn bookmark(resource: &Resource, revision: u64, initial: bool) -> Bytes {
    let mut metadata =
        json!({ "resourceVersion": revision.to_string(), "creationTimestamp": null });
    if initial {
        metadata["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
    }
    line(
        "BOOKMARK",
        &json!({
            "apiVersion": resource.api_version(), "kind": *resource.kind, "metadata": metadata,
        }),
    )
}
