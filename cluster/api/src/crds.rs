//! The definitions of the resources, as they are installed.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use crate::{NodeReport, Recording, Snapshot};

/// The definitions, ready to be applied.
///
/// # Errors
///
/// None, but for a mistake in the types.
pub fn crds() -> Result<Vec<CustomResourceDefinition>, serde_json::Error> {
    [Recording::crd(), Snapshot::crd(), NodeReport::crd()]
        .into_iter()
        .map(|crd| {
            let mut value = serde_json::to_value(crd)?;
            mend(&mut value);
            serde_json::from_value(value)
        })
        .collect()
}

/// Kubernetes knows no unsigned formats, and warns of each: they become the signed ones of the
/// same width, whose least value stays 0.
fn mend(value: &mut Value) {
    match value {
        Value::Object(object) => {
            let signed = match object.get("format").and_then(Value::as_str) {
                Some("uint8" | "uint16" | "uint32") => Some("int32"),
                Some("uint64" | "uint") => Some("int64"),
                _ => None,
            };
            if let Some(signed) = signed {
                object.insert("format".to_owned(), signed.into());
            }
            object.values_mut().for_each(mend);
        }
        Value::Array(values) => values.iter_mut().for_each(mend),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn walk(value: &Value, see: &mut impl FnMut(&str, &Value)) {
        match value {
            Value::Object(object) => {
                for (key, value) in object {
                    see(key, value);
                    walk(value, see);
                }
            }
            Value::Array(values) => values.iter().for_each(|value| walk(value, see)),
            _ => {}
        }
    }

    #[test]
    fn each_has_a_status_of_its_own_columns_and_only_formats_that_kubernetes_knows() {
        let crds = crds().unwrap();
        let names: Vec<&str> = crds
            .iter()
            .filter_map(|crd| crd.metadata.name.as_deref())
            .collect();
        assert_eq!(
            names,
            [
                "recordings.tapedeck.dev",
                "snapshots.tapedeck.dev",
                "nodereports.tapedeck.dev"
            ]
        );
        for crd in &crds {
            let version = &crd.spec.versions[0];
            assert!(version.subresources.as_ref().unwrap().status.is_some());
            assert!(
                !version
                    .additional_printer_columns
                    .as_ref()
                    .unwrap()
                    .is_empty()
            );
            walk(&serde_json::to_value(crd).unwrap(), &mut |key, value| {
                let known = ["int32", "int64", "date-time"];
                assert!(
                    key != "format" || known.contains(&value.as_str().unwrap()),
                    "{value}"
                );
            });
        }
    }

    #[test]
    fn the_rules_of_validation_are_in_them() {
        let text = serde_json::to_string(&crds().unwrap()).unwrap();
        for rule in [
            "self.spec.node == self.metadata.name",
            "In and NotIn have values",
            "'*' stands for all namespaces",
            "a snapshot is taken once",
            "'from' lies before 'to'",
        ] {
            assert!(text.contains(rule), "{rule}");
        }
    }

    fn schema(crd: &CustomResourceDefinition) -> Value {
        let crd = serde_json::to_value(crd).unwrap();
        crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
    }

    /// What the API server asks of a definition before it takes it: apiextensions-apiserver,
    /// `pkg/apiserver/schema/validation.go` and `pkg/apis/apiextensions/validation`.
    #[test]
    fn they_are_structural_as_the_api_server_asks() {
        fn check(schema: &Value, path: &str) {
            let object = schema.as_object().unwrap();
            for forbidden in [
                "$ref",
                "allOf",
                "anyOf",
                "const",
                "definitions",
                "not",
                "oneOf",
                "patternProperties",
                "uniqueItems",
            ] {
                assert!(!object.contains_key(forbidden), "{path}: {forbidden}");
            }
            let kind = object.get("type").and_then(Value::as_str);
            let kind = kind.unwrap_or_else(|| panic!("{path} has no type"));
            let properties = object.get("properties").and_then(Value::as_object);
            let additional = object.get("additionalProperties");
            assert_eq!(object.contains_key("items"), kind == "array", "{path}");
            if kind == "object" {
                assert!(properties.is_some() != additional.is_some(), "{path}");
            }
            let required: Vec<&str> = schema["required"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|name| name.as_str().unwrap())
                .collect();
            for name in &required {
                assert!(properties.unwrap().contains_key(*name), "{path}: {name}");
            }
            let items = &schema["items"];
            match schema["x-kubernetes-list-type"].as_str() {
                Some("map") => {
                    for key in schema["x-kubernetes-list-map-keys"].as_array().unwrap() {
                        let required = items["required"].as_array().unwrap();
                        let has_default =
                            items["properties"][key.as_str().unwrap()]["default"].is_string();
                        assert!(required.contains(key) || has_default, "{path}: {key}");
                    }
                }
                Some("set") => assert_eq!(items["type"], "string", "{path}"),
                _ => {}
            }
            // A default is of its type, and has nothing that would be pruned.
            if let Some(default) = object.get("default") {
                let is_of_type = match kind {
                    "object" => default.is_object(),
                    "array" => default.is_array(),
                    "string" => default.is_string(),
                    "boolean" => default.is_boolean(),
                    _ => default.is_i64() || default.is_u64(),
                };
                assert!(is_of_type, "{path}: {default}");
                if let (Some(default), Some(properties)) = (default.as_object(), properties) {
                    assert!(
                        default.keys().all(|key| properties.contains_key(key)),
                        "{path}"
                    );
                }
                if let Some(values) = schema["enum"].as_array() {
                    assert!(values.contains(default), "{path}");
                }
            }
            for (name, below) in properties.into_iter().flatten() {
                check(below, &format!("{path}.{name}"));
            }
            for below in [additional, object.get("items")].into_iter().flatten() {
                check(below, &format!("{path}[]"));
            }
        }
        for crd in crds().unwrap() {
            let schema = schema(&crd);
            check(&schema, &crd.spec.names.kind);
            assert_eq!(schema["type"], "object");
        }
    }

    /// The most characters or elements that something may have; of an object, those of all below it.
    fn most(schema: &Value, path: &str) -> u64 {
        let number = |name: &str| schema[name].as_u64();
        match schema["type"].as_str().unwrap() {
            "string" => match (number("maxLength"), schema["format"].as_str()) {
                (Some(most), _) => most,
                // A time: compared as one.
                (None, Some("date-time")) => 64,
                (None, _) => {
                    let values = schema["enum"].as_array();
                    let values = values.unwrap_or_else(|| panic!("{path} has no longest value"));
                    values
                        .iter()
                        .map(|value| value.as_str().unwrap().len() as u64)
                        .max()
                        .unwrap()
                }
            },
            "array" => {
                let most_items = number("maxItems").unwrap_or_else(|| panic!("{path}: maxItems"));
                most_items * most(&schema["items"], path)
            }
            "object" => schema["properties"]
                .as_object()
                .unwrap_or_else(|| panic!("{path} has any properties"))
                .iter()
                .map(|(name, below)| most(below, &format!("{path}.{name}")))
                .sum(),
            _ => 1,
        }
    }

    /// The API server estimates what a rule may cost, and refuses definitions with one above ten millions, or a
    /// hundred in all. Ours use no macro that loops, so that each step costs no more than it looks at: this bound is
    /// above the estimate, which counts a tenth for each character, and 1 for each step.
    #[test]
    fn the_rules_cost_less_than_the_api_server_takes() {
        /// Rules with how often each may be run, and what it looks at.
        fn rules(
            schema: &Value,
            times: Option<u64>,
            path: &str,
            found: &mut Vec<(String, u64, u64)>,
        ) {
            for rule in schema["x-kubernetes-validations"]
                .as_array()
                .into_iter()
                .flatten()
            {
                let rule = rule["rule"].as_str().unwrap();
                for loops in [
                    ".all(",
                    ".exists",
                    ".map(",
                    ".filter(",
                    ".matches(",
                    ".find",
                ] {
                    assert!(!rule.contains(loops), "{rule}: not estimated here");
                }
                let paths = rule
                    .split(|c: char| !(c.is_ascii_alphanumeric() || c == '.'))
                    .filter_map(|word| {
                        let (first, rest) = word.split_once('.').unwrap_or((word, ""));
                        ["self", "oldSelf"].contains(&first).then_some(rest)
                    });
                let looked_at: u64 = paths
                    .map(|of| {
                        if of == "metadata.name" {
                            return 253;
                        }
                        let steps = of.split('.').filter(|step| !step.is_empty());
                        let at = steps.fold(schema, |at, step| &at["properties"][step]);
                        most(at, &format!("{path}.{of}"))
                    })
                    .sum();
                let times = times.unwrap_or_else(|| panic!("{path}: run any number of times"));
                found.push((rule.to_owned(), times, looked_at + rule.len() as u64));
            }
            for (name, below) in schema["properties"].as_object().into_iter().flatten() {
                rules(below, times, &format!("{path}.{name}"), found);
            }
            let more = |most: &Value| Some(times? * most.as_u64()?);
            if schema["items"].is_object() {
                rules(&schema["items"], more(&schema["maxItems"]), path, found);
            }
            if schema["additionalProperties"].is_object() {
                let times = more(&schema["maxProperties"]);
                rules(&schema["additionalProperties"], times, path, found);
            }
        }
        for crd in crds().unwrap() {
            let mut found = Vec::new();
            rules(&schema(&crd), Some(1), &crd.spec.names.kind, &mut found);
            assert!(!found.is_empty());
            for (rule, times, cost) in &found {
                assert!(times * cost < 10_000_000, "{rule}: {times} times {cost}");
            }
            let all: u64 = found.iter().map(|(_, times, cost)| times * cost).sum();
            assert!(all < 100_000_000, "{all}");
        }
    }

    #[test]
    fn the_shortest_recording_has_the_defaults() {
        let recording: Recording = serde_json::from_value(serde_json::json!({
            "apiVersion": "tapedeck.dev/v1alpha1",
            "kind": "Recording",
            "metadata": { "name": "a" },
            "spec": { "selector": {} },
        }))
        .unwrap();
        assert_eq!(recording.spec.sample_per_mille, 1000);
        assert!(!recording.spec.paused);
        assert_eq!(recording.spec, crate::RecordingSpec::default());
        assert_eq!(recording.status, None);
    }

    /// The chart has no types: it has these files.
    #[test]
    fn the_files_of_the_chart_are_those_of_the_types() {
        let folder =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/helm/tapedeck/files/crds");
        for crd in crds().unwrap() {
            let path = folder.join(format!("{}.yaml", crd.spec.names.plural));
            // JSON is YAML, too.
            let text = format!("{:#}\n", serde_json::to_value(&crd).unwrap());
            if std::env::var_os("TAPEDECK_BLESS").is_some() {
                fs::write(&path, &text).unwrap();
                continue;
            }
            let kept = fs::read_to_string(&path).unwrap();
            assert!(
                kept == text,
                "{} is stale: `cargo xtask manifests`",
                path.display()
            );
        }
    }
}
