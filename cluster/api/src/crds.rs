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
