//! What clients ask to find out what there is.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::store::Store;

pub(crate) fn answer(store: &Store, path: &str) -> Option<Value> {
    let steps: Vec<&str> = path.trim_matches('/').split('/').collect();
    match steps.as_slice() {
        ["version"] => Some(json!({
            "major": "1", "minor": "33", "gitVersion": "v1.33.0+standin", "gitCommit": "",
            "gitTreeState": "clean", "buildDate": "2026-01-01T00:00:00Z", "goVersion": "go1.24",
            "compiler": "gc", "platform": "linux/amd64",
        })),
        ["api"] => Some(json!({
            "kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{ "clientCIDR": "0.0.0.0/0", "serverAddress": "" }],
        })),
        ["apis"] => Some(json!({
            "kind": "APIGroupList", "apiVersion": "v1",
            "groups": groups(store).into_iter().map(|(name, versions)| group(&name, &versions)).collect::<Vec<_>>(),
        })),
        ["api", "v1"] => resources(store, "", "v1"),
        ["apis", name] => groups(store).get(*name).map(|versions| {
            let mut group = group(name, versions);
            group["kind"] = "APIGroup".into();
            group["apiVersion"] = "v1".into();
            group
        }),
        ["apis", group, version] => resources(store, group, version),
        _ => None,
    }
}

fn groups(store: &Store) -> BTreeMap<String, Vec<String>> {
    let mut groups = BTreeMap::<String, Vec<String>>::new();
    groups.insert("authorization.k8s.io".to_owned(), vec!["v1".to_owned()]);
    for resource in &store.resources {
        if !resource.group.is_empty() {
            let versions = groups.entry(resource.group.to_string()).or_default();
            if !versions
                .iter()
                .any(|version| **version == *resource.version)
            {
                versions.push(resource.version.to_string());
            }
        }
    }
    groups
}

fn group(name: &str, versions: &[String]) -> Value {
    let version = |version: &String| json!({ "groupVersion": format!("{name}/{version}"), "version": version });
    json!({
        "name": name,
        "versions": versions.iter().map(version).collect::<Vec<_>>(),
        "preferredVersion": versions.first().map(version),
    })
}

fn resources(store: &Store, group: &str, version: &str) -> Option<Value> {
    let mut found: Vec<Value> = store
        .resources
        .iter()
        .filter(|resource| *resource.group == *group && *resource.version == *version)
        .flat_map(|resource| resource.discovery())
        .collect();
    if (group, version) == ("authorization.k8s.io", "v1") {
        for (plural, kind) in [
            ("selfsubjectaccessreviews", "SelfSubjectAccessReview"),
            ("selfsubjectrulesreviews", "SelfSubjectRulesReview"),
        ] {
            found.push(json!({
                "name": plural, "singularName": kind.to_ascii_lowercase(), "namespaced": false,
                "kind": kind, "verbs": ["create"],
            }));
        }
    }
    if (group, version) == ("", "v1") {
        found.push(json!({
            "name": "pods/log", "singularName": "", "namespaced": true, "kind": "Pod", "verbs": ["get"],
        }));
        found.push(json!({
            "name": "services/proxy", "singularName": "", "namespaced": true,
            "kind": "ServiceProxyOptions", "verbs": ["create", "delete", "get", "patch", "update"],
        }));
    }
    if found.is_empty() {
        return None;
    }
    let name = match group {
        "" => version.to_owned(),
        group => format!("{group}/{version}"),
    };
    Some(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": found,
    }))
}
