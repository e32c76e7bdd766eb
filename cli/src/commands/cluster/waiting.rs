//! Waiting for what others do to an object.

use std::fmt::Debug;
use std::pin::pin;

use futures_util::StreamExt as _;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::wait::Condition;
use kube::runtime::watcher::{self, watch_object};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

/// Waits until the object of that name, or its absence, is as asked for. Unlike kube's `await_condition`, what may
/// pass is tried again: an API server that restarts, or that is short of something, costs a wait no more than time. Whoever
/// waits sets how long.
pub(super) async fn until<K>(
    api: Api<K>,
    name: &str,
    condition: impl Condition<K>,
) -> Result<Option<K>, watcher::Error>
where
    K: Clone + Debug + Send + DeserializeOwned + Resource + 'static,
{
    let mut seen = pin!(watch_object(api, name).default_backoff());
    loop {
        match seen.next().await {
            Some(Ok(object)) if condition.matches_object(object.as_ref()) => return Ok(object),
            Some(Err(error)) if !may_pass(&error) => return Err(error),
            // The stream of a watch has no end. If it had one, nothing more would come.
            None => return std::future::pending().await,
            Some(_) => {}
        }
    }
}

/// Whether it is worth asking again: not where the server has understood and refused.
fn may_pass(error: &watcher::Error) -> bool {
    use watcher::Error;
    let status = match error {
        Error::InitialListFailed(error)
        | Error::WatchStartFailed(error)
        | Error::WatchFailed(error) => match error {
            kube::Error::Api(status) => status,
            kube::Error::Service(_) | kube::Error::HyperError(_) | kube::Error::ReadEvents(_) => {
                return true;
            }
            _ => return false,
        },
        Error::WatchError(status) => status,
        _ => return false,
    };
    // 410: what was seen last is forgotten there, and the watch begins anew.
    matches!(status.code, 408 | 410 | 429) || status.code >= 500
}
