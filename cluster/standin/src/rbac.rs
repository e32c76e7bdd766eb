//! Who may do what: roles and bindings, as the server reads them.

use serde_json::Value;

use crate::refusal::Refusal;
use crate::route::{Ask, User};
use crate::store::Store;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Whether the roles allow what is asked.
pub(crate) fn allows(store: &Store, ask: &Ask) -> Result<(), Refusal> {
    if may(store, ask) {
        Ok(())
    } else {
        Err(forbidden(ask))
    }
}

pub(crate) fn may(store: &Store, ask: &Ask) -> bool {
    if ask
        .user
        .groups
        .iter()
        .any(|group| group == "system:masters")
    {
        return true;
    }
    rules(store, &ask.user, ask.namespace.as_deref())
        .iter()
        .any(|rule| rule_allows(rule, ask))
}

/// The refusal in the server's words.
pub(crate) fn forbidden(ask: &Ask) -> Refusal {
    let resource = match ask.subresource.as_str() {
        "" => ask.plural.clone(),
        subresource => format!("{}/{subresource}", ask.plural),
    };
    let qualified = if ask.group.is_empty() {
        ask.plural.clone()
    } else {
        format!("{}.{}", ask.plural, ask.group)
    };
    let named = match ask.name.as_str() {
        "" => String::new(),
        name => format!(" {name:?}"),
    };
    let place = match &ask.namespace {
        Some(namespace) => format!(" in the namespace {namespace:?}"),
        None => " at the cluster scope".to_owned(),
    };
    let mut refusal = Refusal::new(
        403,
        "Forbidden",
        format!(
            "{qualified}{named} is forbidden: User {:?} cannot {} resource {resource:?} in API group {:?}{place}",
            ask.user.name, ask.verb, ask.group
        ),
    );
    refusal.details = Some(Box::new(serde_json::json!({
        "name": ask.name, "group": ask.group, "kind": ask.plural,
    })));
    refusal
}

/// All rules of a user: of the cluster, and of a namespace.
pub(crate) fn rules(store: &Store, user: &User, namespace: Option<&str>) -> Vec<Value> {
    let mut found = Vec::new();
    let bindings = |plural: &str, namespace: Option<&str>| -> Vec<Value> {
        let Some(resource) = store.resource(GROUP, "v1", plural) else {
            return Vec::new();
        };
        store
            .list(resource, namespace, None)
            .map(|(_, object)| (**object).clone())
            .collect()
    };
    let mut all = bindings("clusterrolebindings", None);
    if namespace.is_some() {
        all.extend(bindings("rolebindings", namespace));
    }
    for binding in all {
        let place = binding["metadata"]["namespace"].as_str();
        let subjects = binding["subjects"].as_array();
        let binds = subjects
            .into_iter()
            .flatten()
            .any(|subject| is_subject(subject, user, place));
        if binds {
            found.extend(rules_of(store, &binding["roleRef"], place));
        }
    }
    found
}

fn is_subject(subject: &Value, user: &User, place: Option<&str>) -> bool {
    let name = subject["name"].as_str().unwrap_or_default();
    match subject["kind"].as_str() {
        Some("User") => name == user.name,
        Some("Group") => user.groups.iter().any(|group| group == name),
        Some("ServiceAccount") => {
            let namespace = subject["namespace"].as_str().or(place).unwrap_or_default();
            user.name == format!("system:serviceaccount:{namespace}:{name}")
        }
        _ => false,
    }
}

fn rules_of(store: &Store, reference: &Value, place: Option<&str>) -> Vec<Value> {
    let plural = match reference["kind"].as_str() {
        Some("ClusterRole") => "clusterroles",
        _ => "roles",
    };
    let name = reference["name"].as_str().unwrap_or_default();
    let Some(resource) = store.resource(GROUP, "v1", plural) else {
        return Vec::new();
    };
    let key = crate::store::Key::new(resource, place.unwrap_or_default(), name);
    let Some(role) = store.get(&key) else {
        return Vec::new();
    };
    let mut rules = role["rules"].as_array().cloned().unwrap_or_default();
    // Roles that gather others.
    for selector in role["aggregationRule"]["clusterRoleSelectors"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let wanted = selector["matchLabels"].as_object();
        for (_, other) in store.list(resource, None, None) {
            let labels = &other["metadata"]["labels"];
            let all = wanted
                .is_some_and(|wanted| wanted.iter().all(|(name, value)| labels[name] == *value));
            if all {
                rules.extend(other["rules"].as_array().cloned().unwrap_or_default());
            }
        }
    }
    rules
}

fn rule_allows(rule: &Value, ask: &Ask) -> bool {
    let has = |list: &str, wanted: &str| {
        rule[list]
            .as_array()
            .is_some_and(|values| values.iter().any(|value| value == "*" || value == wanted))
    };
    let resource = match ask.subresource.as_str() {
        "" => has("resources", &ask.plural),
        subresource => {
            has("resources", &format!("{}/{subresource}", ask.plural))
                || has("resources", &format!("*/{subresource}"))
        }
    };
    // A list or watch has a name, too, when its field selector does.
    let selected = ask
        .value("fieldSelector")
        .and_then(|fields| fields.strip_prefix("metadata.name="));
    let name = if ask.name.is_empty() {
        selected.unwrap_or_default()
    } else {
        &ask.name
    };
    let names = rule["resourceNames"].as_array();
    let named = names.is_none_or(|names| names.is_empty() || names.iter().any(|one| one == name));
    has("verbs", ask.verb) && has("apiGroups", &ask.group) && resource && named
}
