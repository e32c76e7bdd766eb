//! Lists of Tapedeck's resources.
//!
//! Objects are read one by one: one that a newer version wrote, and this program does not understand,
//! must not hide the others.

use anyhow::Result;
use k8s_openapi::NamespaceResourceScope;
use kube::api::{DynamicObject, ListParams};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tapedeck_cluster::{NodeReport, Recording, Snapshot};

use super::session::Session;

/// How many objects a request asks for: a report is some KiB, so that an answer stays below a MiB or two.
const PAGE: u32 = 500;

/// What a list has, and what of it is not understood.
#[derive(Debug)]
pub(super) struct Listed<K> {
    pub(super) items: Vec<K>,
    /// Names, with what is wrong.
    pub(super) odd: Vec<String>,
}

/// The reports of all nodes, by name.
pub(super) async fn node_reports(session: &Session) -> Result<Listed<NodeReport>> {
    let kind = kube::api::ApiResource::erase::<NodeReport>(&());
    list(session, Api::all_with(session.client.clone(), &kind)).await
}

/// Recordings: those of a namespace, or all.
pub(super) async fn recordings(
    session: &Session,
    namespace: Option<&str>,
) -> Result<Listed<Recording>> {
    list(session, api::<Recording>(session, namespace)).await
}

/// Snapshots: those of a namespace, or all.
pub(super) async fn snapshots(
    session: &Session,
    namespace: Option<&str>,
) -> Result<Listed<Snapshot>> {
    list(session, api::<Snapshot>(session, namespace)).await
}

fn api<K>(session: &Session, namespace: Option<&str>) -> Api<DynamicObject>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let kind = kube::api::ApiResource::erase::<K>(&());
    let client = session.client.clone();
    match namespace {
        Some(namespace) => Api::namespaced_with(client, namespace, &kind),
        None => Api::all_with(client, &kind),
    }
}

/// All objects of a kind in all namespaces, understood or not.
pub(super) async fn all<K>(session: &Session) -> Result<Vec<DynamicObject>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let api = api::<K>(session, None);
    let mut all = Vec::new();
    pages(session, &api, |object| all.push(object)).await?;
    Ok(all)
}

async fn list<K>(session: &Session, api: Api<DynamicObject>) -> Result<Listed<K>>
where
    K: DeserializeOwned + Resource,
{
    let mut listed = Listed {
        items: Vec::new(),
        odd: Vec::new(),
    };
    pages(session, &api, |object| {
        let name = object.name_any();
        match object.try_parse() {
            Ok(item) => listed.items.push(item),
            Err(error) => listed.odd.push(format!("{name}: {error}")),
        }
    })
    .await?;
    Ok(listed)
}

async fn pages(
    session: &Session,
    api: &Api<DynamicObject>,
    mut take: impl FnMut(DynamicObject),
) -> Result<()> {
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = api.list(&params).await;
        let page = page.map_err(|error| session.explain(error))?;
        let next = page.metadata.continue_.filter(|token| !token.is_empty());
        page.items.into_iter().for_each(&mut take);
        let Some(next) = next else {
            return Ok(());
        };
        params = params.continue_token(&next);
    }
}
