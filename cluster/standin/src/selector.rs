//! Selectors of labels and of fields, as lists and watches have them.

use serde_json::Value;

use crate::refusal::Refusal;
use crate::resources::Resource;

/// What is asked of labels and fields. Everything must hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selector {
    labels: Vec<Asked>,
    fields: Vec<(Vec<String>, bool, String)>,
}

#[derive(Clone, Debug)]
struct Asked {
    key: String,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
}

impl Selector {
    pub(crate) fn parse(labels: &str, fields: &str) -> Result<Self, Refusal> {
        Ok(Self {
            labels: split(labels)
                .into_iter()
                .map(label)
                .collect::<Result<_, _>>()?,
            fields: fields
                .split(',')
                .filter(|part| !part.trim().is_empty())
                .map(field)
                .collect::<Result<_, _>>()?,
        })
    }

    /// The server knows only some fields of each kind.
    pub(crate) fn supported(&self, resource: &Resource) -> Result<(), Refusal> {
        let more: &[&str] = match (&*resource.group, &*resource.plural) {
            ("", "pods") => &[
                "spec.nodeName",
                "spec.serviceAccountName",
                "status.phase",
                "status.podIP",
            ],
            ("", "nodes") => &["spec.unschedulable"],
            ("", "namespaces") => &["status.phase"],
            ("", "secrets") => &["type"],
            ("", "events") => &[
                "involvedObject.kind",
                "involvedObject.name",
                "involvedObject.namespace",
                "involvedObject.uid",
                "reason",
                "type",
            ],
            ("events.k8s.io", "events") => &[
                "regarding.kind",
                "regarding.name",
                "regarding.namespace",
                "regarding.uid",
                "reason",
                "type",
            ],
            _ => &[],
        };
        for (path, ..) in &self.fields {
            let path = path.join(".");
            if path != "metadata.name"
                && path != "metadata.namespace"
                && !more.contains(&path.as_str())
            {
                return Err(Refusal::bad_request(format!(
                    "field label not supported: {path}"
                )));
            }
        }
        Ok(())
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        let labels_match = self.labels.iter().all(|asked| {
            let value = labels[&asked.key].as_str();
            match &asked.what {
                What::In(values) => value.is_some_and(|v| values.iter().any(|one| one == v)),
                What::NotIn(values) => value.is_none_or(|v| values.iter().all(|one| one != v)),
                What::Exists => value.is_some(),
                What::Absent => value.is_none(),
            }
        });
        labels_match
            && self.fields.iter().all(|(path, equal, wanted)| {
                let found = path.iter().fold(object, |value, name| &value[name]);
                let found = match found {
                    Value::Null => String::new(),
                    Value::String(text) => text.clone(),
                    other => other.to_string(),
                };
                (found == *wanted) == *equal
            })
    }
}

/// At commas that are not within brackets.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0_u32;
    text.split(move |c| {
        match c {
            '(' => depth = depth.saturating_add(1),
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
    .map(str::trim)
    .filter(|part| !part.is_empty())
    .collect()
}

fn label(text: &str) -> Result<Asked, Refusal> {
    let asked = |key: &str, what| Asked {
        key: key.trim().to_owned(),
        what,
    };
    let values = |list: &str| -> Option<Vec<String>> {
        let inner = list.trim().strip_prefix('(')?.strip_suffix(')')?;
        Some(inner.split(',').map(|v| v.trim().to_owned()).collect())
    };
    let bad = || Refusal::bad_request(format!("unable to parse requirement: {text:?}"));
    if let Some((key, list)) = text.split_once(" notin ") {
        return Ok(asked(key, What::NotIn(values(list).ok_or_else(bad)?)));
    }
    if let Some((key, list)) = text.split_once(" in ") {
        return Ok(asked(key, What::In(values(list).ok_or_else(bad)?)));
    }
    if let Some((key, value)) = text.split_once("!=") {
        return Ok(asked(key, What::NotIn(vec![value.trim().to_owned()])));
    }
    if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return Ok(asked(key, What::In(vec![value.trim().to_owned()])));
    }
    match text.strip_prefix('!') {
        Some(key) => Ok(asked(key, What::Absent)),
        None if text.contains(' ') => Err(bad()),
        None => Ok(asked(text, What::Exists)),
    }
}

fn field(text: &str) -> Result<(Vec<String>, bool, String), Refusal> {
    let (path, equal, value) = if let Some((path, value)) = text.split_once("!=") {
        (path, false, value)
    } else {
        let (path, value) = text
            .split_once("==")
            .or_else(|| text.split_once('='))
            .ok_or_else(|| {
                Refusal::bad_request(format!(
                    "invalid field selector {text:?}: can't understand it"
                ))
            })?;
        (path, true, value)
    };
    let path = path.trim().split('.').map(str::to_owned).collect();
    Ok((path, equal, value.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn labels_and_fields_select_as_in_kubernetes() {
        let object = json!({
            "metadata": { "name": "a", "labels": { "app": "shop", "tier": "web" } },
            "spec": { "nodeName": "n1" },
        });
        for (labels, fields, matches) in [
            ("", "", true),
            ("app=shop", "", true),
            ("app==shop,tier!=db", "", true),
            ("app in (shop, bank),tier notin (db,cache)", "", true),
            ("app in (bank)", "", false),
            ("app", "", true),
            ("!app", "", false),
            ("!other", "", true),
            ("other!=x", "", true),
            ("other notin (x)", "", true),
            ("", "spec.nodeName=n1,metadata.name=a", true),
            ("", "spec.nodeName!=n1", false),
            ("", "status.phase!=Failed", true),
        ] {
            let selector = Selector::parse(labels, fields).unwrap();
            assert_eq!(selector.matches(&object), matches, "{labels} {fields}");
        }
        assert!(Selector::parse("a b", "").is_err());
        assert!(Selector::parse("", "spec.nodeName").is_err());
    }
}
